//! By what a request is remembered for its calls, or looked up as one.

use core::time::Duration;

use meshweft_core::config::{Direction, Infer, Trust};
use meshweft_core::correlation::{NoKey, key_value};
use meshweft_core::model::{Exchange, Metric, MetricId, MetricUpdate};
use meshweft_core::plugin::Plugin;

use crate::request::Request;

/// What correlation makes of a request.
#[derive(Debug)]
pub(super) struct Joins {
    /// Each of `correlation.headers`, with what it says or why that is no key.
    pub(super) headers: Vec<(String, Result<String, NoKey>)>,
    pub(super) action: Action,
    pub(super) linger: Duration,
    pub(super) infer: Infer,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Action {
    Remembered,
    LookedUp,
    Nothing(Why),
}

/// Why a request is neither remembered nor looked up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Why {
    /// It is a call that brings a context.
    Context,
    /// There is no workload.
    Gateway,
    NoKey,
    /// It is a call that brings a context which counts for nothing.
    NotTrusted,
}

impl Why {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Context => "context",
            Self::Gateway => "gateway",
            Self::NoKey => "no_key",
            Self::NotTrusted => "not_trusted",
        }
    }
}

impl Joins {
    /// What `plugin` did with `request`, by what it has counted since that came alone or with a
    /// context.
    pub(super) fn new(
        plugin: &Plugin,
        request: &Request,
        came_alone: bool,
        trust: Trust,
        counted: &[MetricUpdate],
    ) -> Option<Self> {
        if plugin.correlation.is_none() && plugin.inference.is_none() {
            return None;
        }
        let headers = request.request_headers();
        let counted = |metric| counted.iter().any(|u| u.metric == MetricId::Fixed(metric));
        let config = &plugin.config().correlation;
        let value = |name: &String| {
            let value = key_value(name, &headers);
            (name.clone(), value.map(|value| String::from_utf8_lossy(value).into_owned()))
        };
        let found: Vec<_> = config.headers.iter().map(value).collect();
        let has_key = found.iter().any(|(_, value)| value.is_ok());
        let why = match plugin.side().of_workload(request) {
            None => Why::Gateway,
            Some(Direction::Outbound) if trust != Trust::Continue => Why::NotTrusted,
            Some(Direction::Outbound) if !came_alone => Why::Context,
            Some(Direction::Inbound | Direction::Outbound) => Why::NoKey,
        };
        let action = match why {
            _ if counted(Metric::CorrelationRemembered) => Action::Remembered,
            Why::NoKey if has_key && counted(Metric::CorrelationUnmatched) => Action::LookedUp,
            why => Action::Nothing(why),
        };
        Some(Self { headers: found, action, linger: config.linger, infer: config.infer })
    }
}
