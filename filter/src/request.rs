//! One HTTP request as the SDK sees it.

use meshweft_core::attempt::Attempt;
use meshweft_core::config::Mode;
use meshweft_core::stream::{RequestEffects, Stream};
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, LogLevel};

use crate::host;
use crate::root::{Instance, Shared};

/// One HTTP request.
#[derive(Debug)]
pub(crate) struct Request {
    instance: Option<Instance>,
    work: Work,
}

/// What an instance makes of a request.
#[derive(Debug)]
enum Work {
    /// A span of one try at an upstream.
    Attempt(Attempt),
    /// A span of the whole.
    Stream(Stream),
}

impl Request {
    /// A request of `instance`; without one it passes through.
    pub(crate) fn new(instance: Option<Instance>) -> Self {
        let mode = instance.as_ref().and_then(|instance| {
            instance.try_borrow().ok().map(|shared| shared.plugin.config().mode)
        });
        let work = match mode {
            Some(Mode::Upstream) => Work::Attempt(Attempt::default()),
            _ => Work::Stream(Stream::default()),
        };
        Self { instance, work }
    }

    fn shared(&mut self, with: impl FnOnce(&mut Work, &mut Shared)) {
        let Some(instance) = &self.instance else { return };
        let Ok(mut shared) = instance.try_borrow_mut() else { return };
        with(&mut self.work, &mut shared);
    }

    /// A part of the response came by.
    const fn response(&mut self, is_last: bool) {
        if is_last && let Work::Stream(stream) = &mut self.work {
            stream.on_response_end();
        }
    }
}

impl Context for Request {
    fn on_done(&mut self) -> bool {
        // A try ends here, since `on_log` never runs for it.
        if matches!(self.work, Work::Attempt(_)) {
            self.shared(|work, Shared { plugin, .. }| {
                if let Work::Attempt(attempt) = work {
                    attempt.on_done(plugin, &host::Current, host::now(), host::wall());
                }
            });
        }
        true
    }
}

impl HttpContext for Request {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        self.shared(|work, Shared { plugin, rng }| {
            apply(&match work {
                Work::Attempt(attempt) => {
                    attempt.on_request_headers(plugin, &host::Current, host::wall(), rng)
                }
                Work::Stream(stream) => {
                    stream.on_request_headers(plugin, &host::Current, &host::Proxy, rng)
                }
            });
        });
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _: usize, is_last: bool) -> Action {
        self.response(is_last);
        self.shared(|work, Shared { plugin, .. }| match work {
            Work::Attempt(attempt) => attempt.on_response_headers(&host::Current),
            Work::Stream(stream) => {
                host::edit_response(&stream.on_response_headers(plugin, host::wall));
            }
        });
        Action::Continue
    }

    fn on_http_response_body(&mut self, _: usize, is_last: bool) -> Action {
        self.response(is_last);
        Action::Continue
    }

    fn on_http_response_trailers(&mut self, _: usize) -> Action {
        self.response(true);
        if let Work::Attempt(attempt) = &mut self.work {
            attempt.on_response_trailers(&host::Current);
        }
        Action::Continue
    }

    fn on_log(&mut self) {
        self.shared(|work, Shared { plugin, rng }| {
            if let Work::Stream(stream) = work {
                apply(&stream.on_log(plugin, &host::Current, &host::Proxy, rng));
            }
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
