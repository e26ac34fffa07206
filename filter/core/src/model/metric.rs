//! Metrics as values: counted here, shipped to the host by the adapter once a tick.
//!
//! Counting costs no hostcall while a request is served, and all figures of one tick move
//! together, so that the identity of delivered, dropped and waiting spans holds between ticks.

use super::{Format, FormatSet};

/// What a metric is to the host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Moves both ways; workers share it, so it is moved by difference.
    Gauge,
    /// One sample at a time.
    Histogram,
}

macro_rules! metrics {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $kind:ident;)*) => {
        /// A metric of the fixed set.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        #[repr(usize)]
        pub enum Metric {
            $($(#[$doc])* $variant,)*
        }

        impl Metric {
            /// All metrics, in order of declaration.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name under Envoy's `wasmcustom.` prefix.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What the host makes of it.
            #[must_use]
            pub const fn kind(self) -> MetricKind {
                match self { $(Self::$variant => MetricKind::$kind,)* }
            }
        }
    };
}

metrics! {
    /// Requests that ended.
    Requests = "meshweft_requests", Counter;
    /// Spans that the head decision recorded.
    Sampled = "meshweft_sampled", Counter;
    /// Requests that the head decision dropped.
    NotSampled = "meshweft_not_sampled", Counter;
    /// Those of them whose outcome kept them.
    Kept = "meshweft_kept", Counter;
    /// Requests that a rate or a floor would have recorded, and that a limit dropped.
    Limited = "meshweft_limited", Counter;
    /// Requests on which another instance of the filter was there first.
    Passive = "meshweft_passive", Counter;
    /// Spans that the collector accepted.
    Exported = "meshweft_exported", Counter;
    /// Spans lost because the queue was full.
    DroppedQueueFull = "meshweft_dropped_queue_full", Counter;
    /// Spans that the collector refused for good.
    DroppedRejected = "meshweft_dropped_rejected", Counter;
    /// Spans lost because the collector stayed away longer than `retry.max_elapsed`.
    DroppedRetriesExhausted = "meshweft_dropped_retries_exhausted", Counter;
    /// Spans lost because one span alone is larger than a batch may be.
    DroppedEncode = "meshweft_dropped_encode", Counter;
    /// Spans lost because the old configuration's time to drain was over, or because nobody has
    /// taken over what it left.
    DroppedShutdown = "meshweft_dropped_shutdown", Counter;
    /// Spans taken over from an instance that the host ended.
    TakenOver = "meshweft_taken_over", Counter;
    /// Spans that wait for their first attempt or for the next one.
    QueueSpans = "meshweft_queue_spans", Gauge;
    /// Bytes of the spans that wait.
    QueueBytes = "meshweft_queue_bytes", Gauge;
    /// Spans under way to the collector.
    InFlightSpans = "meshweft_in_flight_spans", Gauge;
    /// Export requests sent, retries included.
    ExportRequests = "meshweft_export_requests", Counter;
    /// Export requests that went to another collector than the first of the list.
    ExportFailovers = "meshweft_export_failovers", Counter;
    /// Export requests that ended in a time-out.
    ExportFailuresTimeout = "meshweft_export_failures_timeout", Counter;
    /// Export requests whose connection broke.
    ExportFailuresReset = "meshweft_export_failures_reset", Counter;
    /// Export requests answered with a status of 400 to 499.
    ExportFailuresStatus4xx = "meshweft_export_failures_status_4xx", Counter;
    /// Export requests answered with a status of 500 to 599.
    ExportFailuresStatus5xx = "meshweft_export_failures_status_5xx", Counter;
    /// Export requests answered with a status of gRPC that is a failure, or with none.
    ExportFailuresGrpcStatus = "meshweft_export_failures_grpc_status", Counter;
    /// Export requests that found nobody: no such cluster, no healthy host, no connection.
    ExportFailuresUnreachable = "meshweft_export_failures_unreachable", Counter;
    /// Milliseconds from sending an export request to its answer.
    ExportMs = "meshweft_export_ms", Histogram;
    /// Requests whose valid context was continued.
    ContextContinued = "meshweft_context_continued", Counter;
    /// Requests without any context.
    ContextMissing = "meshweft_context_missing", Counter;
    /// Requests with a context that was not valid, in whichever format.
    ContextInvalid = "meshweft_context_invalid", Counter;
    /// Traces begun anew because the incoming context was not valid, or is not trusted.
    ContextRestarted = "meshweft_context_restarted", Counter;
    /// Requests that were joined to what came in.
    ContextCorrelated = "meshweft_context_correlated", Counter;
    /// Requests that were joined to the only one that was open.
    ContextSingle = "meshweft_context_single", Counter;
    /// Requests that were joined to the most likely one that was open.
    ContextBest = "meshweft_context_best", Counter;
    /// Requests that several traces may have caused, so that a new one began.
    ContextAmbiguous = "meshweft_context_ambiguous", Counter;
    /// Requests from outside that were remembered.
    CorrelationRemembered = "meshweft_correlation_remembered", Counter;
    /// Requests of the workload without a context and without a key that is remembered.
    CorrelationUnmatched = "meshweft_correlation_unmatched", Counter;
    /// What was remembered and had to go before its time.
    CorrelationEvicted = "meshweft_correlation_evicted", Counter;
    /// Workers of which many requests were unmatched, and none ever joined.
    CorrelationNeverForwarded = "meshweft_correlation_never_forwarded", Gauge;
    /// Calls that were ambiguous and that the request which most likely made them told of at its
    /// end.
    CorrelationLate = "meshweft_correlation_late", Counter;
    /// Requests whose `x-request-id` says that a native tracer decides about them.
    NativeTracerSeen = "meshweft_native_tracer_seen", Counter;
    /// Expressions of CEL that failed, or gave something else than true or false.
    CelFailed = "meshweft_cel_failed", Counter;
    /// Questions to the server of remote sampling.
    RemoteRequests = "meshweft_remote_requests", Counter;
    /// Those that brought no answer of use.
    RemoteFailures = "meshweft_remote_failures", Counter;
    /// Configurations refused.
    ConfigRejected = "meshweft_config_rejected", Counter;
}

/// One change for the host to make.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MetricUpdate {
    /// Which metric.
    pub metric: MetricId,
    /// By how much a counter or gauge moves; the sample of a histogram.
    pub value: i64,
}

/// A metric of the fixed set, or a counter of what the configuration lists.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MetricId {
    /// One of the fixed set.
    Fixed(Metric),
    /// `meshweft_context_invalid_<format>`: requests with a context of that format that was not
    /// valid.
    Invalid(Format),
    /// `meshweft_rule_<name>` of the rule at this index.
    Rule(usize),
}

impl MetricId {
    /// What the host makes of it.
    #[must_use]
    pub const fn kind(self) -> MetricKind {
        match self {
            Self::Fixed(metric) => metric.kind(),
            Self::Invalid(_) | Self::Rule(_) => MetricKind::Counter,
        }
    }
}

/// Counts until the next tick takes them.
#[derive(Clone, Debug)]
pub struct Metrics {
    fixed: [i64; Metric::ALL.len()],
    invalid: [i64; Format::ALL.len()],
    rules: Vec<i64>,
    samples: Vec<MetricUpdate>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Metrics {
    /// Counts for the fixed set and `rules` rule counters.
    #[must_use]
    pub fn new(rules: usize) -> Self {
        Self {
            fixed: [0; Metric::ALL.len()],
            invalid: [0; Format::ALL.len()],
            rules: vec![0; rules],
            samples: Vec::new(),
        }
    }

    /// Moves a counter or gauge; adds a sample to a histogram.
    pub fn add(&mut self, metric: Metric, value: i64) {
        match metric.kind() {
            MetricKind::Histogram => {
                self.samples.push(MetricUpdate { metric: MetricId::Fixed(metric), value });
            }
            MetricKind::Counter | MetricKind::Gauge => {
                if let Some(sum) = self.fixed.get_mut(metric as usize) {
                    *sum = sum.saturating_add(value);
                }
            }
        }
    }

    /// Counts one request with an invalid context in each of `formats`.
    pub fn add_invalid(&mut self, formats: FormatSet) {
        for format in formats.iter() {
            if let Some(sum) = self.invalid.get_mut(format as usize) {
                *sum = sum.saturating_add(1);
            }
        }
    }

    /// Counts one decision of the rule at `index`; rules beyond the bound are not counted.
    pub fn add_rule(&mut self, index: usize) {
        if let Some(sum) = self.rules.get_mut(index) {
            *sum = sum.saturating_add(1);
        }
    }

    /// All that has moved since the last call.
    pub fn take(&mut self) -> Vec<MetricUpdate> {
        let mut updates = core::mem::take(&mut self.samples);
        let fixed = Metric::ALL.iter().copied().map(MetricId::Fixed).zip(&mut self.fixed);
        let invalid = Format::ALL.iter().copied().map(MetricId::Invalid).zip(&mut self.invalid);
        let rules = (0..).map(MetricId::Rule).zip(&mut self.rules);
        for (metric, sum) in fixed.chain(invalid).chain(rules) {
            if *sum != 0 {
                updates.push(MetricUpdate { metric, value: core::mem::take(sum) });
            }
        }
        updates
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn take_gives_each_change_once() {
        let mut metrics = Metrics::new(2);
        metrics.add(Metric::Requests, 1);
        metrics.add(Metric::Requests, 1);
        metrics.add(Metric::QueueSpans, 3);
        metrics.add(Metric::QueueSpans, -3);
        metrics.add(Metric::ExportMs, 7);
        metrics.add_invalid([Format::SkyWalking, Format::B3].into_iter().collect());
        metrics.add_invalid([Format::B3].into_iter().collect());
        metrics.add_rule(1);
        metrics.add_rule(2);
        assert_eq!(
            metrics.take(),
            [
                MetricUpdate { metric: MetricId::Fixed(Metric::ExportMs), value: 7 },
                MetricUpdate { metric: MetricId::Fixed(Metric::Requests), value: 2 },
                MetricUpdate { metric: MetricId::Invalid(Format::B3), value: 2 },
                MetricUpdate { metric: MetricId::Invalid(Format::SkyWalking), value: 1 },
                MetricUpdate { metric: MetricId::Rule(1), value: 1 },
            ]
        );
        assert_eq!(metrics.take(), []);
    }

    #[test]
    fn names_are_unique_and_prefixed() {
        let mut names: Vec<_> = Metric::ALL.iter().map(|metric| metric.name()).collect();
        assert!(names.iter().all(|name| name.starts_with("meshweft_")));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Metric::ALL.len());
    }
}
