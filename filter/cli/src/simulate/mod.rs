//! `simulate`: how many traces of a log a configuration would keep.

mod log;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};

use meshweft_core::config::{Config, Mode};
use meshweft_core::model::{Exchange, Local, MonoNanos, UnixNanos};
use meshweft_core::plugin::Plugin;
use meshweft_core::sampling::{Ending, KeepReason, Moment, Reason, Verdict, keep_reason};
use meshweft_core::stream::Stream;

use crate::args::{Args, Known};
use crate::input::read_config;
use crate::request::Draws;
use crate::{INVALID, TROUBLE, usage};
use log::Entry;

const KNOWN: Known<'_> = Known { once: &["--config"], often: &[], flags: &[], words: 1 };

/// The longest line that is read, in bytes: a batch of spans is one.
const MAX_LINE: u64 = 64 << 20;

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

/// Says how many traces of a log would be kept.
pub(crate) fn simulate(
    arguments: &[OsString],
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<u8> {
    let args = match Args::parse(arguments, KNOWN) {
        Ok(args) => args,
        Err(why) => return usage("simulate", &why, err),
    };
    let Some(file) = args.value("--config") else {
        return usage("simulate", "--config FILE is missing", err);
    };
    let config = match read_config(file, err)? {
        Ok((config, _)) => config,
        Err(code) => return Ok(code),
    };
    if config.export.is_none() {
        writeln!(err, "{}: without export nothing is recorded", file.display())?;
        return Ok(INVALID);
    }
    if config.mode == Mode::Upstream {
        let name = file.display();
        writeln!(
            err,
            "{name}: with the mode upstream nothing is decided, so nothing is simulated"
        )?;
        return Ok(INVALID);
    }
    let log = args.words.first().copied().unwrap_or_else(|| OsStr::new("-"));
    let mut simulation = Simulation::new(config);
    let read = if log == "-" {
        simulation.read(&mut io::stdin().lock())
    } else {
        File::open(log).and_then(|file| simulation.read(&mut BufReader::new(file)))
    };
    if let Err(error) = read {
        writeln!(err, "{}: cannot be read: {error}", log.display())?;
        return Ok(TROUBLE);
    }
    simulation.write(out)?;
    Ok(0)
}

/// The filter in the time of a log, and what it has decided there.
#[derive(Debug)]
struct Simulation {
    plugin: Plugin,
    shared: Local,
    /// The first time and the last; times never go back.
    span: Option<(UnixNanos, UnixNanos)>,
    tick: UnixNanos,
    untimed: u64,
    lines: u64,
    unread: u64,
    first_unread: Option<String>,
    limited: u64,
    /// How many are kept for each reason.
    by_end: [(KeepReason, u64); KeepReason::ALL.len()],
    /// Those of which an end might have kept some, but the log tells none.
    without_end: u64,
    all: Tally,
    /// By the first rule that matched.
    rules: Vec<Tally>,
    no_rule: Tally,
}

/// What was kept of some requests.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    requests: u64,
    kept: u64,
    /// The last second in which one was kept, and how many.
    second: u64,
    in_second: u64,
    /// The most in one second.
    most: u64,
}

impl Tally {
    fn add(&mut self, kept: bool, second: u64) {
        self.requests = self.requests.saturating_add(1);
        if kept {
            self.kept = self.kept.saturating_add(1);
            self.in_second = if self.second == second { self.in_second } else { 0 };
            self.in_second = self.in_second.saturating_add(1);
            self.second = second;
            self.most = self.most.max(self.in_second);
        }
    }
}

impl Simulation {
    fn new(config: Config) -> Self {
        let rules = vec![Tally::default(); config.sampling.rules.len()];
        Self {
            plugin: Plugin::new(config, None, &|_| None),
            shared: Local::default(),
            span: None,
            tick: UnixNanos::default(),
            untimed: 0,
            lines: 0,
            unread: 0,
            first_unread: None,
            limited: 0,
            by_end: KeepReason::ALL.map(|reason| (reason, 0)),
            without_end: 0,
            all: Tally::default(),
            rules,
            no_rule: Tally::default(),
        }
    }

    /// Takes in a log; one line of it is in memory at a time.
    fn read(&mut self, log: &mut impl BufRead) -> io::Result<()> {
        let mut line = Vec::new();
        loop {
            line.clear();
            if log.take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            self.lines = self.lines.saturating_add(1);
            let whole = line.ends_with(b"\n") || u64::try_from(line.len()) != Ok(MAX_LINE);
            if !whole {
                log.skip_until(b'\n')?;
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            match if whole { log::entries(&line) } else { Err("too long") } {
                Ok(entries) => entries.into_iter().for_each(|entry| self.request(entry)),
                Err(why) => {
                    self.unread = self.unread.saturating_add(1);
                    let name = || format!("line {}: {why}", self.lines);
                    self.first_unread.get_or_insert_with(name);
                }
            }
        }
    }

    /// Decides about a request as the filter does, at its time.
    fn request(&mut self, entry: Entry) {
        if entry.time.is_none() {
            self.untimed = self.untimed.saturating_add(1);
        }
        if let Some(time) = entry.time {
            let (first, last) = self.span.unwrap_or((time, time));
            self.span = Some((first, last.max(time)));
        }
        let now = self.span.map(|(_, last)| last).unwrap_or_default();
        self.shared.clock.set(MonoNanos(now.0));
        if now.0.saturating_sub(self.tick.0) >= SECOND {
            self.tick = now;
            self.plugin.on_tick(MonoNanos(now.0), now, &self.shared);
        }
        let mut stream = Stream::default();
        let mut draws = Draws::new(entry.trace_id);
        stream.on_request_headers(&mut self.plugin, &entry.request, &self.shared, &mut draws);
        // Only a request that says that another instance was there first has no course.
        let Some((_, decision)) = stream.course() else { return };
        let mut kept = decision.verdict == Verdict::RecordAndSample;
        match self.plugin.sampler.keep(decision) {
            Some(keep) if entry.ended => {
                let (headers, moment) =
                    (entry.request.request_headers(), Moment::End { is_whole: false });
                let side = self.plugin.side();
                let ending = Ending::new(&entry.request, side, &headers, moment);
                if let Some(reason) = keep_reason(keep, &ending) {
                    kept = true;
                    let of = self.by_end.iter_mut().find(|(known, _)| *known == reason);
                    of.into_iter().for_each(|(_, count)| *count = count.saturating_add(1));
                }
            }
            Some(_) => self.without_end = self.without_end.saturating_add(1),
            None => {}
        }
        if matches!(decision.reason, Reason::Limit(_)) {
            self.limited = self.limited.saturating_add(1);
        }
        let second = now.0 / SECOND;
        let rule = decision.rule.and_then(|rule| self.rules.get_mut(rule));
        rule.unwrap_or(&mut self.no_rule).add(kept, second);
        self.all.add(kept, second);
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let seconds = self.span.map(|(first, last)| {
            (last.0 / SECOND).saturating_sub(first.0 / SECOND).saturating_add(1)
        });
        let rules = self.plugin.config().sampling.rules.iter().map(|rule| rule.name.as_str());
        let rows: Vec<_> = rules
            .zip(&self.rules)
            .chain([("(no rule)", &self.no_rule), ("(all)", &self.all)])
            .collect();
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        let head = ["requests", "kept", "share", "per second", "at most"];
        let [requests, kept, share, mean, most] = head;
        writeln!(
            out,
            "{:width$}  {requests:>10}  {kept:>10}  {share:>7}  {mean:>10}  {most:>8}",
            "rule"
        )?;
        for (name, tally) in rows {
            let Tally { requests, kept, most, .. } = tally;
            let share = ratio(*kept, *requests)
                .map_or_else(dash, |share| format!("{:.1} %", share * 100.0));
            let mean = seconds.and_then(|seconds| ratio(*kept, seconds));
            let mean = mean.map_or_else(dash, |mean| format!("{mean:.2}"));
            let most = seconds.map_or_else(dash, |_| most.to_string());
            writeln!(
                out,
                "{name:width$}  {requests:>10}  {kept:>10}  {share:>7}  {mean:>10}  {most:>8}"
            )?;
        }
        writeln!(out)?;
        if let Some(seconds) = seconds {
            writeln!(out, "Seconds in the log: {seconds}.")?;
        }
        if self.limited > 0 {
            writeln!(
                out,
                "Dropped by limits, though a rate would have kept them: {}.",
                self.limited
            )?;
        }
        let by_end: Vec<_> = self.by_end.iter().filter(|(_, count)| *count > 0).collect();
        if !by_end.is_empty() {
            let all: u64 = by_end.iter().map(|(_, count)| count).sum();
            let each: Vec<_> =
                by_end.iter().map(|(reason, count)| format!("{} {count}", reason.name())).collect();
            writeln!(out, "Kept for their outcome: {all} ({}).", each.join(", "))?;
        }
        if self.without_end > 0 {
            writeln!(
                out,
                "Not sampled and without a status, so that sampling.keep has no say: {}.",
                self.without_end
            )?;
        }
        if self.untimed > 0 {
            writeln!(
                out,
                "Requests without a time, taken at that of the one before: {}.",
                self.untimed
            )?;
        }
        if let Some(first) = &self.first_unread {
            writeln!(
                out,
                "Of {} lines {} could not be read; the first is {first}.",
                self.lines, self.unread
            )?;
        }
        Ok(())
    }
}

fn dash() -> String {
    "-".to_owned()
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "it is shown with few digits")]
    (whole > 0).then(|| part as f64 / whole as f64)
}
