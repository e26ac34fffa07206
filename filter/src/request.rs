//! One HTTP request as the host sees it.

use meshweft_core::attempt::Attempt;
use meshweft_core::config::Mode;
use meshweft_core::stream::{RequestEffects, Stream};

use crate::host::{self, LogLevel};
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

    /// Whether there is nothing more to come of it once the host is done with it.
    pub(crate) const fn has_ended(&self) -> bool {
        match &self.work {
            Work::Attempt(_) => true,
            Work::Stream(stream) => self.instance.is_none() || stream.has_ended(),
        }
    }

    pub(crate) fn on_request_headers(&mut self) {
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
    }

    pub(crate) fn on_response_headers(&mut self, is_last: bool) {
        self.response(is_last);
        self.shared(|work, Shared { plugin, .. }| match work {
            Work::Attempt(attempt) => attempt.on_response_headers(&host::Current),
            Work::Stream(stream) => {
                stream.on_answer(plugin, &host::Proxy);
                let (current, proxy) = (&host::Current, &host::Proxy);
                let edits = stream.on_response_headers(plugin, current, proxy, host::wall);
                host::edit_response(&edits);
            }
        });
    }

    pub(crate) fn on_response_trailers(&mut self) {
        self.response(true);
        self.shared(|work, Shared { plugin, .. }| match work {
            Work::Attempt(attempt) => attempt.on_response_trailers(&host::Current),
            Work::Stream(stream) => {
                let edit = stream.on_response_trailers(plugin, &host::Current, &host::Proxy);
                host::edit_trailers(edit.as_slice());
            }
        });
    }

    pub(crate) fn on_log(&mut self) {
        self.shared(|work, Shared { plugin, rng }| {
            if let Work::Stream(stream) = work {
                apply(&stream.on_log(plugin, &host::Current, &host::Proxy, rng));
            }
        });
    }

    /// A try ends here, since `on_log` never runs for it.
    pub(crate) fn on_done(&mut self) {
        self.shared(|work, Shared { plugin, .. }| {
            if let Work::Attempt(attempt) = work {
                attempt.on_done(plugin, &host::Current, host::now(), host::wall());
            }
        });
    }

    /// A part of the response came by. That its last came is not known where that is a body: a
    /// callback for bodies would cost every request more than what it spares some.
    const fn response(&mut self, is_last: bool) {
        if is_last && let Work::Stream(stream) = &mut self.work {
            stream.on_response_end();
        }
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
