//! What an operator reads in Envoy's log about failed deliveries: enough to act, never a flood.

use core::time::Duration;

use super::Outcome;
use crate::model::MonoNanos;

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
        now: MonoNanos,
    ) -> Option<String> {
        let what = match outcome {
            Outcome::Answered { status: 200..=299, .. } => return None,
            Outcome::Answered { status, .. } => format!("was answered with status {status}"),
            Outcome::NoAnswer => "got no answer".to_owned(),
            Outcome::NotSent => "could not be sent: is there a cluster of this name?".to_owned(),
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

    #[test]
    fn one_line_a_minute() {
        let mut complaints = Complaints::default();
        let answered = |status| Outcome::Answered { status, retry_after: None, body: b"" };
        let start = MonoNanos(1);
        let mut at = |seconds, outcome: &Outcome<'_>| {
            complaints.about("c", outcome, start.after(Duration::from_secs(seconds)))
        };
        assert_eq!(at(0, &answered(200)), None);
        assert_eq!(
            at(1, &Outcome::NotSent).as_deref(),
            Some(
                "export to cluster \"c\" could not be sent: is there a cluster of this name? \
                 (further failures are counted only)"
            )
        );
        assert_eq!(at(60, &answered(503)), None);
        assert_eq!(
            at(61, &answered(401)).as_deref(),
            Some(
                "export to cluster \"c\" was answered with status 401 \
                 (further failures are counted only)"
            )
        );
        assert_eq!(
            at(200, &Outcome::NoAnswer).as_deref(),
            Some("export to cluster \"c\" got no answer (further failures are counted only)")
        );
    }
}
