//! The collectors, in the order of preference, and which of them is asked next.

use core::time::Duration;

use super::CallId;
use super::complaint::Complaints;
use super::queue::Turn;
use super::retry;
use crate::config::{Export, Retry};
use crate::model::MonoNanos;

/// All collectors of a configuration; never none.
#[derive(Debug)]
pub(super) struct Collectors {
    all: Vec<Collector>,
    retry: Retry,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Collector {
    /// Envoy's name of its cluster.
    pub(super) cluster: String,
    /// Of its requests.
    pub(super) authority: String,
    pub(super) complaints: Complaints,
    outage: Option<Outage>,
}

/// A collector could not take the last batch: one batch at a time finds out when it can.
#[derive(Debug)]
struct Outage {
    /// Failures in a row; those of attempts from before the outage do not count.
    failures: u32,
    next_probe: MonoNanos,
    probe: Option<CallId>,
}

impl Collectors {
    pub(super) fn new(config: &Export) -> Self {
        let all = config.collectors.iter().map(|collector| Collector {
            cluster: collector.cluster.clone(),
            authority: collector.authority.clone(),
            complaints: Complaints::default(),
            outage: None,
        });
        Self { all: all.collect(), retry: config.retry }
    }

    /// The first collector that may be asked now, with its place, and which batch it shall have:
    /// one that is away gets a batch once its pause is over, and no second one before it answers.
    pub(super) fn next(&self, now: MonoNanos) -> Option<(usize, &Collector, Turn)> {
        self.all.iter().enumerate().find_map(|(place, collector)| match &collector.outage {
            None => Some((place, collector, Turn::Oldest)),
            Some(outage) if outage.probe.is_some() || now < outage.next_probe => None,
            Some(_) => Some((place, collector, Turn::LeastFailed)),
        })
    }

    pub(super) fn get_mut(&mut self, place: usize) -> Option<&mut Collector> {
        self.all.get_mut(place)
    }

    /// An attempt goes to the collector at `place`.
    pub(super) fn asked(&mut self, place: usize, id: CallId) {
        if let Some(Collector { outage: Some(outage), .. }) = self.all.get_mut(place) {
            outage.probe = Some(id);
        }
    }

    /// It has answered, for better or worse: one that refuses is there.
    pub(super) fn is_there(&mut self, place: usize) {
        if let Some(collector) = self.all.get_mut(place) {
            collector.outage = None;
        }
    }

    /// Begins an outage, or prolongs it where the probe failed. An attempt from before it says
    /// nothing new, unless the collector asks for a pause.
    pub(super) fn is_away(
        &mut self,
        place: usize,
        id: CallId,
        asked: Option<Duration>,
        now: MonoNanos,
        draw: u64,
    ) {
        let Some(collector) = self.all.get_mut(place) else { return };
        let outage = collector.outage.get_or_insert(Outage {
            failures: 0,
            next_probe: now,
            probe: Some(id),
        });
        if outage.probe == Some(id) {
            outage.probe = None;
            outage.failures = outage.failures.saturating_add(1);
        } else if asked.is_none() {
            return;
        }
        let pause = retry::pause(&self.retry, outage.failures, asked, draw);
        outage.next_probe = outage.next_probe.max(now.after(pause));
    }

    /// Forgets all outages.
    pub(super) fn forget(&mut self) {
        self.all.iter_mut().for_each(|collector| collector.outage = None);
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn collectors(names: &[&str]) -> Collectors {
        let all = names.iter().map(|name| Collector {
            cluster: (*name).to_owned(),
            authority: (*name).to_owned(),
            complaints: Complaints::default(),
            outage: None,
        });
        let seconds = Duration::from_secs;
        let retry = Retry { initial: seconds(2), max: seconds(60), max_elapsed: seconds(600) };
        Collectors { all: all.collect(), retry }
    }

    fn at(seconds: u64) -> MonoNanos {
        MonoNanos(1).after(Duration::from_secs(seconds))
    }

    fn next(collectors: &Collectors, seconds: u64) -> Option<(&str, Turn)> {
        let (_, collector, turn) = collectors.next(at(seconds))?;
        Some((collector.cluster.as_str(), turn))
    }

    #[test]
    fn the_first_that_is_there() {
        let mut all = collectors(&["a", "b"]);
        assert_eq!(next(&all, 0), Some(("a", Turn::Oldest)));
        all.is_away(0, CallId(0), None, at(0), u64::MAX);
        assert_eq!(next(&all, 1), Some(("b", Turn::Oldest)));
        // Its pause over, the first gets one batch; the others go on as before.
        assert_eq!(next(&all, 2), Some(("a", Turn::LeastFailed)));
        all.asked(0, CallId(1));
        assert_eq!(next(&all, 2), Some(("b", Turn::Oldest)));
        all.is_away(0, CallId(1), None, at(3), u64::MAX);
        assert_eq!(next(&all, 6), Some(("b", Turn::Oldest)));
        assert_eq!(next(&all, 7), Some(("a", Turn::LeastFailed)));
        all.asked(0, CallId(2));
        all.is_there(0);
        assert_eq!(next(&all, 7), Some(("a", Turn::Oldest)));
    }

    #[test]
    fn all_away() {
        let mut all = collectors(&["a", "b"]);
        all.is_away(0, CallId(0), None, at(0), u64::MAX);
        all.is_away(1, CallId(1), None, at(1), u64::MAX);
        assert_eq!(next(&all, 1), None);
        assert_eq!(next(&all, 2), Some(("a", Turn::LeastFailed)));
        all.asked(0, CallId(2));
        assert_eq!(next(&all, 2), None);
        assert_eq!(next(&all, 3), Some(("b", Turn::LeastFailed)));
        all.forget();
        assert_eq!(next(&all, 3), Some(("a", Turn::Oldest)));
    }

    #[test]
    fn older_attempts_change_nothing_but_what_they_are_told() {
        let mut all = collectors(&["a"]);
        all.is_away(0, CallId(7), None, at(0), u64::MAX);
        all.is_away(0, CallId(6), None, at(1), u64::MAX);
        assert_eq!(next(&all, 2), Some(("a", Turn::LeastFailed)));
        all.is_away(0, CallId(5), Some(Duration::from_secs(9)), at(1), 0);
        assert_eq!(next(&all, 9), None);
        assert_eq!(next(&all, 10), Some(("a", Turn::LeastFailed)));
        // A place that is none.
        all.is_away(1, CallId(8), None, at(1), 0);
        all.asked(1, CallId(8));
        all.is_there(1);
    }
}
