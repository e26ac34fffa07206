//! One HTTP request as the SDK sees it.

use meshweft_core::stream::{RequestEffects, Stream};
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, LogLevel};

use crate::host;
use crate::root::{Instance, Shared};

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

    fn shared(&mut self, with: impl FnOnce(&mut Stream, &mut Shared)) {
        let Some(instance) = &self.instance else { return };
        let Ok(mut shared) = instance.try_borrow_mut() else { return };
        with(&mut self.stream, &mut shared);
    }

    /// A part of the response came by.
    const fn response(&mut self, is_last: bool) {
        if is_last {
            self.stream.on_response_end();
        }
    }
}

impl Context for Request {}

impl HttpContext for Request {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        self.shared(|stream, Shared { plugin, rng }| {
            apply(&stream.on_request_headers(plugin, &host::Current, &host::Proxy, rng));
        });
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _: usize, is_last: bool) -> Action {
        self.response(is_last);
        self.shared(|stream, Shared { plugin, .. }| {
            host::edit_response(&stream.on_response_headers(plugin));
        });
        Action::Continue
    }

    fn on_http_response_body(&mut self, _: usize, is_last: bool) -> Action {
        self.response(is_last);
        Action::Continue
    }

    fn on_http_response_trailers(&mut self, _: usize) -> Action {
        self.response(true);
        Action::Continue
    }

    fn on_log(&mut self) {
        self.shared(|stream, Shared { plugin, rng }| {
            apply(&stream.on_log(plugin, &host::Current, &host::Proxy, rng));
        });
    }
}

fn apply(effects: &RequestEffects) {
    host::edit_request(&effects.edits);
    for (name, value) in &effects.filter_state {
        host::set_state(name, value);
    }
    if let Some(warning) = effects.warning {
        host::log(LogLevel::Warn, &format!("meshweft: {warning}"));
    }
}
