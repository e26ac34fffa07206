//! What an operator reads in Envoy's log about failed deliveries: enough to act, never a flood.

use core::time::Duration;

use super::Outcome;
use crate::model::{Metric, MonoNanos};

/// At most one line in this time.
const QUIET: Duration = Duration::from_secs(60);

/// When the last line was written.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    last: Option<MonoNanos>,
}

impl Complaints {
    /// The line about a failed attempt, unless one was written within a minute.
    pub(super) fn about(
        &mut self,
        cluster: &str,
        outcome: &Outcome<'_>,
        failure: Option<Metric>,
        now: MonoNanos,
    ) -> Option<String> {
        let what = match (outcome, failure) {
            (Outcome::Answered { status: 200..=299, .. }, _) => return None,
            (Outcome::NotSent, _) => {
                "could not be sent: is there a cluster of this name?".to_owned()
            }
            (_, Some(Metric::ExportFailuresUnreachable)) => {
                "found no host to connect to".to_owned()
            }
            (_, Some(Metric::ExportFailuresTimeout)) => "was not answered in time".to_owned(),
            (_, Some(Metric::ExportFailuresReset)) => "lost its connection".to_owned(),
            (Outcome::Answered { status, .. }, _) => format!("was answered with status {status}"),
            (Outcome::NoAnswer, _) => "got no answer".to_owned(),
        };
        if self.last.is_some_and(|last| now.since(last) < QUIET) {
            return None;
        }
        self.last = Some(now);
        Some(format!("export to cluster \"{cluster}\" {what} (further failures are counted only)"))
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn answered(status: u16) -> Outcome<'static> {
        Outcome::Answered { status, retry_after: None, body: b"" }
    }

    #[track_caller]
    fn check(outcome: &Outcome<'_>, failure: Option<Metric>, expected: Option<&str>) {
        let line = Complaints::default().about("c", outcome, failure, MonoNanos(1));
        let expected = expected.map(|what| {
            format!("export to cluster \"c\" {what} (further failures are counted only)")
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn every_failure_in_words() {
        let unreachable = Some(Metric::ExportFailuresUnreachable);
        check(&answered(200), None, None);
        let no_cluster = "could not be sent: is there a cluster of this name?";
        check(&Outcome::NotSent, unreachable, Some(no_cluster));
        check(&answered(503), unreachable, Some("found no host to connect to"));
        let late = Some(Metric::ExportFailuresTimeout);
        check(&answered(504), late, Some("was not answered in time"));
        check(&Outcome::NoAnswer, late, Some("was not answered in time"));
        let broken = Some(Metric::ExportFailuresReset);
        check(&Outcome::NoAnswer, broken, Some("lost its connection"));
        let refused = Some(Metric::ExportFailuresStatus4xx);
        check(&answered(401), refused, Some("was answered with status 401"));
        check(&answered(302), None, Some("was answered with status 302"));
    }

    #[test]
    fn one_line_a_minute() {
        let mut complaints = Complaints::default();
        let mut at = |seconds| {
            let now = MonoNanos(1).after(Duration::from_secs(seconds));
            complaints.about("c", &answered(500), None, now).is_some()
        };
        assert_eq!(
            [0, 1, 59, 60, 61, 119, 120].map(&mut at),
            [true, false, false, true, false, false, true]
        );
    }
}
