//! `make bench`: what tracing costs, side by side.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for the terminal that stops with words when a piece is missing"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs};

use meshweft_host_tests::Module;
use meshweft_lab::bench::mode::{Modules, modes, others};
use meshweft_lab::bench::report::{About, Report};
use meshweft_lab::bench::scale::SERIES;
use meshweft_lab::bench::workers::{self, Scaling};
use meshweft_lab::bench::{Plan, chart, encode, run};
use meshweft_lab::paths;
use serde_json::{Value, json};

const USAGE: &str =
    "usage: bench [--quick | --scale | --workers | --encode] [--only TEXT[,TEXT]…] [--other FILE]… [--rounds N]
              [--out FOLDER]

  --quick       the modes of the main goals, about a minute
  --scale       how the cost grows with rules, headers and so on, in the emulated host
  --workers     what a request costs with 1, 2 and 4 workers, under three minutes
  --encode      what it costs to encode a span, beside the native tracer's
  --only TEXT   beside the plain Envoy, only modes whose name contains one of these texts
  --other FILE  beside it, three modes with another build of the filter: 0 %, 100 %, correlation
  --rounds N    so many rounds
  --out FOLDER  where the figures and charts go (target/bench)";

#[derive(Debug)]
struct Arguments {
    quick: bool,
    scale: bool,
    workers: bool,
    encode: bool,
    only: Option<String>,
    others: Vec<PathBuf>,
    rounds: Option<usize>,
    out: PathBuf,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let Some(arguments) = arguments() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if arguments.scale {
        scale(&arguments.out);
        return ExitCode::SUCCESS;
    }
    if arguments.encode {
        print!("{}", encode::run(arguments.rounds.unwrap_or(40)).await.text());
        return ExitCode::SUCCESS;
    }
    if arguments.workers {
        workers(&arguments).await;
        return ExitCode::SUCCESS;
    }
    let quick = arguments.quick;
    let plan = Plan {
        warm_up: 6,
        rounds: arguments.rounds.unwrap_or(if quick { 32 } else { 120 }),
        requests: 1_024,
        connections: 8,
        paced_rounds: if quick { 0 } else { 4 },
        modules: Modules::built(),
    };
    let mut modes = modes(quick);
    modes.extend(arguments.others.iter().flat_map(|module| others(module)));
    if let Some(only) = &arguments.only {
        let wanted = |name: &str| only.split(',').any(|text| name.contains(text));
        modes.retain(|mode| mode.name == "plain" || wanted(&mode.name));
    }
    let measured = run(&plan, modes, tell).await;
    let report = Report::of(about(), plan, &measured);
    print!("{}", report.text());
    write(&arguments.out, "bench.json", &format!("{:#}\n", report.json()));
    write(&arguments.out, "bench.svg", &chart::bars(&report));
    ExitCode::SUCCESS
}

/// The same method, for each number of workers.
async fn workers(arguments: &Arguments) {
    let plan = Plan {
        // Each worker's machine code shall be warm.
        warm_up: 12,
        rounds: arguments.rounds.unwrap_or(60),
        requests: 1_024,
        connections: 16,
        paced_rounds: 0,
        modules: Modules::built(),
    };
    let measured = run(&plan, workers::modes(), tell).await;
    let scaling = Scaling::of(&about(), &plan, &measured);
    print!("{}", scaling.text());
    write(&arguments.out, "workers.json", &format!("{:#}\n", scaling.json()));
    write(&arguments.out, "workers.svg", &scaling.chart());
}

fn tell(progress: &str) {
    eprintln!("bench: {progress}");
}

/// Draws every series, and prints its points.
fn scale(out: &Path) {
    let module = Module::load();
    let mut all = serde_json::Map::new();
    for series in SERIES {
        let lines = series.lines(&module);
        for line in &lines {
            println!("{:<24} {:<12} {:?}", series.name, line.name, line.points);
        }
        let title = format!("Fuel of a request (thousands) by number of {}", series.name);
        let file = format!("scale-{}.svg", series.name.replace(' ', "-"));
        write(out, &file, &chart::lines(&title, series.name, "thousands", &lines));
        let points = lines.iter().map(|line| (line.name.clone(), json!(line.points)));
        all.insert(series.name.to_owned(), points.collect());
    }
    write(out, "scale.json", &format!("{:#}\n", Value::Object(all)));
}

fn arguments() -> Option<Arguments> {
    let mut arguments = Arguments {
        quick: false,
        scale: false,
        workers: false,
        encode: false,
        only: None,
        others: Vec::new(),
        rounds: None,
        out: paths::workspace().join("target/bench"),
    };
    let mut given = env::args().skip(1);
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--quick" => arguments.quick = true,
            "--scale" => arguments.scale = true,
            "--workers" => arguments.workers = true,
            "--encode" => arguments.encode = true,
            "--only" => arguments.only = Some(given.next()?),
            "--other" => arguments.others.push(given.next()?.into()),
            "--rounds" => arguments.rounds = Some(given.next()?.parse().ok().filter(|n| *n > 0)?),
            "--out" => arguments.out = given.next()?.into(),
            _ => return None,
        }
    }
    Some(arguments)
}

fn about() -> About {
    let said = |program: &Path, argument: &str| {
        let output = Command::new(program).arg(argument).output();
        let output = output.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let version = said(&paths::envoy(), "--version");
    let version = version.rsplit("version: ").next().unwrap_or_default();
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models = || processors.lines().filter_map(|line| line.strip_prefix("model name"));
    let model = models().next().unwrap_or_default().trim_start_matches(['\t', ' ', ':']);
    About {
        date: said(Path::new("date"), "+%F"),
        machine: format!("{} processors {model}", models().count()),
        envoy: version.split('/').nth(1).unwrap_or(version).to_owned(),
        module: fs::metadata(paths::module()).expect("the module").len(),
    }
}

fn write(folder: &Path, name: &str, text: &str) {
    fs::create_dir_all(folder).expect("the folder is made");
    let path = folder.join(name);
    fs::write(&path, text).expect("the file is written");
    eprintln!("bench: {}", path.display());
}
