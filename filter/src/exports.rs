//! The exports of the proxy-wasm ABI 0.2.1: the callbacks that the filter needs, and no others.
//!
//! Envoy calls what is exported, so that a callback that does nothing costs a crossing with every
//! request. The contexts are kept here, because the callbacks bring nothing but their ids.
//!
//! A context goes when the host is done with it and there is nothing more to come: that is known
//! without `proxy_on_delete`. Envoy says that a request is done after it has logged it; the ABI's
//! text has it the other way round, so that both are waited for, whichever comes first.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::request::Request;
use crate::root::Root;

/// The host enters one callback at a time, and none while one of them calls the host, except
/// [`proxy_on_memory_allocate`].
#[derive(Debug)]
struct Contexts {
    /// A handful: one for each configuration.
    roots: Vec<(u32, Root)>,
    requests: HashMap<u32, Request, BuildHasherDefault<IdHasher>>,
    /// Requests that are done and not logged, and how many ticks have passed since: where the host
    /// logs none (Envoy, for filters of the upstream) they must not pile up, whatever the mode.
    unlogged: Vec<(u32, u32)>,
}

/// Ticks that a request waits to be logged once it is done. The host does both at once.
const PATIENCE: u32 = 2;

thread_local! {
    static CONTEXTS: RefCell<Contexts> = const {
        RefCell::new(Contexts {
            roots: Vec::new(),
            requests: HashMap::with_hasher(BuildHasherDefault::new()),
            unlogged: Vec::new(),
        })
    };
}

/// A hash of ids that the host chooses, and no client: they count up.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, id: u32) {
        // 2^64 over the golden ratio: neighbours part in the bits that the map looks at.
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

fn contexts<T: Default>(act: impl FnOnce(&mut Contexts) -> T) -> T {
    CONTEXTS
        .with(|contexts| contexts.try_borrow_mut().map(|mut all| act(&mut all)))
        .unwrap_or_default()
}

fn root<T: Default>(id: u32, act: impl FnOnce(&mut Root) -> T) -> T {
    contexts(|all| {
        let root = all.roots.iter_mut().find(|(known, _)| *known == id);
        root.map(|(_, root)| act(root)).unwrap_or_default()
    })
}

fn request(id: u32, act: impl FnOnce(&mut Request)) {
    contexts(|all| all.requests.get_mut(&id).map(act).unwrap_or_default());
}

#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    // SAFETY: the linker makes it, and the host calls this once, before anything else.
    unsafe { __wasm_call_ctors() };
}

#[unsafe(no_mangle)]
extern "C" fn proxy_abi_version_0_2_1() {}

/// A block for what the host gives; see `host::read`, which takes it over. Null where there is no
/// room for it: the host's call then has a status of failure.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    let mut block = core::mem::ManuallyDrop::new(Vec::new());
    match block.try_reserve_exact(size) {
        Ok(()) => block.as_mut_ptr(),
        Err(_) => core::ptr::null_mut(),
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_context_create(id: u32, root_id: u32) {
    contexts(|all| {
        if root_id == 0 {
            all.roots.push((id, Root::default()));
        } else {
            let root = all.roots.iter().find(|(known, _)| *known == root_id);
            let instance = root.and_then(|(_, root)| root.instance());
            all.requests.insert(id, Request::new(instance));
        }
    });
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_configure(id: u32, _: usize) -> bool {
    root(id, Root::on_configure)
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_tick(id: u32) {
    contexts(|Contexts { roots, requests, unlogged }| {
        roots.retain_mut(|(known, root)| *known != id || !root.on_tick());
        unlogged.retain_mut(|(request, ticks)| {
            *ticks = ticks.saturating_add(1);
            let waits = *ticks <= PATIENCE && requests.contains_key(request);
            if !waits {
                requests.remove(request);
            }
            waits
        });
    });
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_http_call_response(
    id: u32,
    token: u32,
    headers: usize,
    _: usize,
    trailers: usize,
) {
    root(id, |root| root.on_http_call_response(token, headers, trailers));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(id: u32, _: usize, _: bool) -> u32 {
    request(id, Request::on_request_headers);
    CONTINUE
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_headers(id: u32, _: usize, is_last: bool) -> u32 {
    request(id, |request| request.on_response_headers(is_last));
    CONTINUE
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_trailers(id: u32, _: usize) -> u32 {
    request(id, Request::on_response_trailers);
    CONTINUE
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_log(id: u32) {
    contexts(|all| {
        let Some(request) = all.requests.get_mut(&id) else { return };
        request.on_log();
        if all.unlogged.iter().any(|(done, _)| *done == id) {
            all.requests.remove(&id);
        }
    });
}

/// Whether the host may forget a context; a root may ask for time.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_done(id: u32) -> bool {
    contexts(|all| {
        if let Some(request) = all.requests.get_mut(&id) {
            request.on_done();
            if request.has_ended() {
                all.requests.remove(&id);
            } else {
                all.unlogged.push((id, 0));
            }
            return Done(true);
        }
        let mut done = true;
        all.roots.retain_mut(|(known, root)| {
            *known != id || {
                done = root.on_done();
                !done
            }
        });
        Done(done)
    })
    .0
}

/// A request goes on; the filter holds none up.
const CONTINUE: u32 = 0;

/// What nobody is asked about is done.
struct Done(bool);

impl Default for Done {
    fn default() -> Self {
        Self(true)
    }
}

unsafe extern "C" {
    fn __wasm_call_ctors();
}
