//! The floor of the benchmark: the module that calls the host as the filter does, and does nothing
//! else, really calls it as the filter does.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says where it broke")]

use std::fs;
use std::path::PathBuf;

use meshweft_host_tests::{HostEmulator, Hostcall, Module, request};
use meshweft_lab::bench::load::Connections;
use meshweft_lab::bench::mode::{LISTENER, Mode, Modules, Tracer, modes, names};
use meshweft_lab::bench::serve::Server;
use meshweft_lab::envoy::Envoy;
use meshweft_lab::paths;

/// A mode of the benchmark and the one that is its floor.
const PAIRS: [[&str; 2]; 2] =
    [[names::OFF, names::CROSSINGS_OFF], [names::ALL, names::CROSSINGS_ALL]];

fn mode(name: &str) -> Mode {
    modes(true).into_iter().find(|mode| mode.name == name).expect("a mode of the benchmark")
}

fn floor() -> Module {
    Module::compile(&fs::read(paths::crossings_module()).expect("the module is read"))
}

/// Serves one request in the emulated host, when others went before it; gives its calls and its
/// fuel.
fn emulated(name: &str) -> (Vec<Hostcall>, u64) {
    let (module, configuration) = match mode(name).tracer {
        Tracer::Crossings { sampled: true } => (floor(), "sampled".to_owned()),
        Tracer::Crossings { sampled: false } => (floor(), "not sampled".to_owned()),
        Tracer::Meshweft(config) => (Module::load(), config.to_string()),
        other => panic!("{name} is {other:?}"),
    };
    let (mut host, root) = HostEmulator::boot(&module, &configuration).expect("a worker");
    for _ in 0..3 {
        host.serve(root, request()).expect("served");
    }
    let before = host.usage();
    host.state_mut().recorded = Some(Vec::new());
    host.serve(root, request()).expect("served");
    let fuel = host.usage().since(&before).fuel;
    (host.state_mut().recorded.take().unwrap_or_default(), fuel)
}

/// A call without what may differ: the text of a value, not its size.
fn shape(call: Hostcall) -> (String, String, String, Vec<usize>, Vec<usize>, u32) {
    let Hostcall { callback, name, read, given, answer } = call;
    let what = String::from_utf8(read.first().cloned().unwrap_or_default()).expect("a name");
    (callback, name, what, read.iter().map(Vec::len).collect(), given, answer)
}

#[test]
fn each_call_is_the_filters_own_and_nothing_else_is_done() {
    for ([ours, crossings], calls) in PAIRS.into_iter().zip([4, 18]) {
        let (filter, whole) = emulated(ours);
        let (floor, fuel) = emulated(crossings);
        assert_eq!(filter.len(), calls, "{ours}");
        let [filter, floor] =
            [filter, floor].map(|calls| calls.into_iter().map(shape).collect::<Vec<_>>());
        assert_eq!(floor, filter, "{crossings}");
        // Nothing but the calls: an instruction for each argument and a few more.
        assert!(fuel * 20 < whole, "{crossings}: {fuel} of {whole}");
    }
}

/// Envoy calls what is exported.
#[test]
fn callbacks_are_those_of_the_filter() {
    let [filter, floor] = [Module::load(), floor()].map(|module| {
        let mut exports = module.exports();
        exports.sort_unstable();
        exports
    });
    assert_eq!(floor, filter);
}

#[test]
fn any_other_word_is_refused() {
    for word in ["", "sample", "sampled ", "not sampled\n", "{}"] {
        let mut host = HostEmulator::new(&floor()).expect("a worker");
        let root = host.create_root().expect("a root context");
        assert_eq!(host.configure(root, word), Ok(false), "{word:?}");
    }
}

/// In Envoy, by its own log of what crosses into the VM and out of it, memory for what it gives
/// included.
#[tokio::test(flavor = "multi_thread")]
async fn envoy_crosses_as_often() {
    for [ours, crossings] in PAIRS {
        let (filter, floor) = (crossed(ours).await, crossed(crossings).await);
        assert!(filter.iter().any(|line| line.contains("proxy_set_property")), "{filter:#?}");
        assert_eq!(floor, filter, "{crossings}");
    }
}

/// What crosses for one request of the benchmark.
async fn crossed(name: &str) -> Vec<String> {
    let mode = mode(name);
    let (upstream, collector) = (Server::start().await, Server::start().await);
    // No mode here has the empty filter, so it need not be built.
    let modules = Modules { empty: PathBuf::new(), crossings: paths::crossings_module() };
    let bootstrap = mode.bootstrap(&modules, upstream.address(), collector.address());
    let envoy = Envoy::start(&bootstrap, mode.workers).await;
    envoy.log_at("wasm", "trace").await;
    let mut connections = Connections::open(envoy.listener(LISTENER), 1).await;
    connections.flood(&mode.request(), 1).await;
    envoy.logged("[host<-vm] proxy_on_done return").await;
    let log = envoy.log();
    envoy.stop().await;
    crossings(&log)
}

/// The crossings of the request in a log of Envoy: from the callback that makes its context to the
/// one after which it goes, without the ticks between, and without addresses in memory.
fn crossings(log: &str) -> Vec<String> {
    let thread = |line: &str| line.split(['[', ']']).nth(3).unwrap_or_default().to_owned();
    let first = |text: &str| log.lines().find(|line| line.contains(text)).map(thread);
    let worker = first("[host->vm] proxy_on_request_headers(").expect("a request");
    let lines = log.lines().filter(|line| thread(line) == worker).filter_map(|line| {
        ["[host->vm]", "[host<-vm]", "[vm->host]", "[vm<-host]"]
            .iter()
            .find_map(|arrow| line.find(arrow))
            .and_then(|at| line.get(at..))
    });
    let mut kept = Vec::new();
    let mut in_tick = false;
    for line in lines {
        in_tick |= line.starts_with("[host->vm] proxy_on_tick(");
        if !in_tick {
            kept.push(without_addresses(line));
        }
        in_tick &= !line.starts_with("[host<-vm] proxy_on_tick ");
    }
    let at = |text: &str| kept.iter().position(|line| line.contains(text)).expect("a line");
    // What came before the level of the log was changed is not there; the request is.
    let (begin, end) = (at("proxy_on_context_create"), at("[host<-vm] proxy_on_done return"));
    kept.drain(begin..=end).collect()
}

/// The words of a line, with a star for each number that is an address: a module's stack and data
/// are above the size of anything that is handed over here.
fn without_addresses(line: &str) -> String {
    const LOWEST: u32 = 64 << 10;
    let is_address = |word: &str| word.parse().is_ok_and(|number: u32| number >= LOWEST);
    let words = line.split(['(', ',', ' ', ')']).filter(|word| !word.is_empty());
    words.map(|word| if is_address(word) { "*" } else { word }).collect::<Vec<_>>().join(" ")
}
