//! One HTTP request as the SDK sees it.

use meshweft_core::model::HeaderEdit;
use meshweft_core::stream::{Stream, TRACE_ID_STATE};
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use crate::host;
use crate::root::Instance;

/// One HTTP request.
#[derive(Debug)]
pub(crate) struct Request {
    instance: Option<Instance>,
    stream: Stream,
}

impl Request {
    /// A request of `instance`; without one it passes through.
    pub(crate) fn new(instance: Option<Instance>) -> Self {
        Self { instance, stream: Stream::default() }
    }
}

impl Context for Request {}

impl HttpContext for Request {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let Some(instance) = &self.instance else { return Action::Continue };
        let Ok(mut shared) = instance.try_borrow_mut() else { return Action::Continue };
        let shared = &mut *shared;
        let effects =
            self.stream.on_request_headers(&mut shared.plugin, &host::Current, &mut shared.rng);
        for edit in &effects.edits {
            match edit {
                HeaderEdit::Add(..) => {}
                HeaderEdit::Remove(name) => host::remove_request_header(name),
                HeaderEdit::Set(name, value) => host::set_request_header(name, value),
            }
        }
        if let Some(trace_id) = effects.trace_id {
            host::set_state(TRACE_ID_STATE, &trace_id.to_string());
        }
        Action::Continue
    }

    fn on_log(&mut self) {
        let Some(instance) = &self.instance else { return };
        let Ok(mut shared) = instance.try_borrow_mut() else { return };
        let shared = &mut *shared;
        let trace_id =
            self.stream.on_log(&mut shared.plugin, &host::Current, host::now, &mut shared.rng);
        if let Some(trace_id) = trace_id {
            host::set_state(TRACE_ID_STATE, &trace_id.to_string());
        }
    }
}
