//! What an operator reads in Envoy's log about failed deliveries: enough to act, never a flood.

use core::time::Duration;

use crate::model::MonoNanos;

/// At most one line in this time.
const QUIET: Duration = Duration::from_secs(60);

/// When the last line was written, and what was not.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    last: Option<MonoNanos>,
    silent: u64,
}

impl Complaints {
    /// The line about a `trouble`, unless one was written within a minute: then it is counted for
    /// the next.
    pub(super) fn about(&mut self, cluster: &str, trouble: &str, now: MonoNanos) -> Option<String> {
        if self.last.is_some_and(|last| now.since(last) < QUIET) {
            self.silent = self.silent.saturating_add(1);
            return None;
        }
        self.last = Some(now);
        let others = match core::mem::take(&mut self.silent) {
            0 => "further troubles are told at most once a minute".to_owned(),
            1 => "1 more trouble since the last such line".to_owned(),
            many => format!("{many} more troubles since the last such line"),
        };
        Some(format!("export to cluster \"{cluster}\" {trouble} ({others})"))
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn one_line_a_minute_with_a_count() {
        let mut complaints = Complaints::default();
        let mut at = |seconds| {
            let now = MonoNanos(1).after(Duration::from_secs(seconds));
            complaints.about("c", "was answered with status 500", now)
        };
        let line = |others: &str| {
            Some(format!("export to cluster \"c\" was answered with status 500 ({others})"))
        };
        assert_eq!(at(0), line("further troubles are told at most once a minute"));
        assert_eq!([at(1), at(59)], [None, None]);
        assert_eq!(at(60), line("2 more troubles since the last such line"));
        assert_eq!([at(61)], [None]);
        assert_eq!(at(120), line("1 more trouble since the last such line"));
        assert_eq!(at(180), line("further troubles are told at most once a minute"));
    }
}
