//! What becomes of a try at an upstream (`mode: upstream`): nothing is decided about it.

use meshweft_core::attempt::{self, Attempt};
use meshweft_core::config::{Config, ParentPolicy, Trust};
use meshweft_core::model::Exchange;
use meshweft_core::plugin::Plugin;
use meshweft_core::propagation::{self, Incoming, Standing};
use meshweft_core::sampling::{Origin, Reason};

use super::end::{End, Fate};
use super::options::Options;
use super::{Course, Decided, Explanation, Place, changed, clock, taken};
use crate::request::Draws;

impl<'a> Explanation<'a> {
    /// Runs the upstream filter on a try with this request.
    pub(super) fn of_attempt(config: Config, options: &'a Options) -> Self {
        let request = &options.request;
        let mut plugin = Plugin::new(config, None, &|_| None);
        let mut attempt = Attempt::default();
        let mut draws = Draws::new(options.trace_id);
        let now = options.now.unwrap_or_else(clock);
        let effects = attempt.on_request_headers(&mut plugin, request, now, &mut draws);

        let headers = request.request_headers();
        let standing = Standing::of(&headers);
        let known = attempt::known(&plugin.config().propagation);
        let mut formats: Vec<_> = propagation::extract_each(&known, &standing).collect();
        let mut seen = Vec::new();
        formats.retain(|(format, _)| {
            let first = !seen.contains(format);
            seen.push(*format);
            first
        });
        let incoming = propagation::extract(&known, &standing).incoming;
        let course = course(&attempt, &plugin, &incoming);
        let end = options.ended && matches!(course, Course::Decided(_));
        Self {
            request,
            place: Place::Upstream,
            taken: taken(&formats),
            formats,
            trust: Trust::Continue,
            trust_rules: Vec::new(),
            stripped: false,
            joins: None,
            course,
            rules: Vec::new(),
            headers: changed(&headers, effects.edits),
            response: Vec::new(),
            end: end.then(|| End { fate: Fate::Sampled, checks: Vec::new() }),
            filter_state: effects.filter_state,
            warning: effects.warning,
        }
    }
}

fn course(attempt: &Attempt, plugin: &Plugin, incoming: &Incoming) -> Course {
    let (Some((context, _)), Incoming::Context(remote)) = (attempt.course(), incoming) else {
        let exports = plugin.config().export.is_some();
        return if exports { Course::Unparented } else { Course::PassedThrough };
    };
    let parent = Some(remote.decision);
    Course::Decided(Box::new(Decided {
        sampled: true,
        reason: Reason::Parent.describe(&plugin.config().sampling).into_owned(),
        rule: None,
        parent,
        policy: ParentPolicy::Respect,
        rate: None,
        threshold: None,
        randomness: Origin::new(context.trace_id, parent, None).randomness,
        limits: Vec::new(),
        trace_id: context.trace_id,
        continued: true,
        span_id: context.span_id,
    }))
}
