//! The only file that talks to the host: every status becomes a value here.
//!
//! The wrappers of the Rust SDK panic on statuses and bytes that they do not expect, and a panic in
//! the VM is a 503 for live traffic. So the imports are declared here, with plain integers.

use std::time::Duration;

use meshweft_core::Exchange;
use meshweft_core::config::CelError;
use meshweft_core::model::{
    HeaderEdit, Headers, MetricKind, MonoNanos, Shared, SharedError, UnixNanos,
};

/// How loud a line of the log is; numbers are the ABI's.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LogLevel {
    Warn = 3,
    Error = 4,
}

/// Where headers stand; numbers are the ABI's.
#[derive(Clone, Copy, Debug)]
enum MapType {
    RequestHeaders = 0,
    ResponseHeaders = 2,
    ResponseTrailers = 3,
    CallResponseHeaders = 6,
    CallResponseTrailers = 7,
}

/// The host as it shows the current request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Current;

impl Exchange for Current {
    fn request_headers(&self) -> Headers {
        read(|data, size| {
            // SAFETY: both point to locals of `read`.
            unsafe { proxy_get_header_map_pairs(MapType::RequestHeaders as u32, data, size) }
        })
        .and_then(Headers::decode)
        .unwrap_or_default()
    }

    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        property(path)
    }

    fn response_header(&self, name: &str) -> Option<Vec<u8>> {
        [MapType::ResponseHeaders, MapType::ResponseTrailers]
            .into_iter()
            .find_map(|map| header(map, name))
    }

    fn evaluate(&self, expression: u32) -> Option<bool> {
        // A boolean is one byte; an expression may give something else.
        match *foreign("expr_evaluate", &expression.to_le_bytes()).ok()? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }
}

/// Compiles an expression of CEL for the root context that is current, and gives its name.
pub(crate) fn compile(expression: &str) -> Result<u32, CelError> {
    const BAD_ARGUMENT: u32 = 2;
    match foreign("expr_create", expression.as_bytes()) {
        Ok(token) => token.try_into().map(u32::from_le_bytes).map_err(|_| CelError::Unsupported),
        Err(BAD_ARGUMENT) => Err(CelError::NotCompiled),
        Err(_) => Err(CelError::Unsupported),
    }
}

/// Forgets an expression.
pub(crate) fn forget(expression: u32) {
    let _ = foreign("expr_delete", &expression.to_le_bytes());
}

/// Calls a function that the host has beside the ABI; gives its answer or its status.
fn foreign(name: &str, argument: &[u8]) -> Result<Vec<u8>, u32> {
    answer_of(|data, size| {
        let (name, argument) = (name.as_bytes(), argument);
        // SAFETY: the slices outlive the call; the others point to locals of `answer_of`.
        unsafe {
            proxy_call_foreign_function(
                name.as_ptr(),
                name.len(),
                argument.as_ptr(),
                argument.len(),
                data,
                size,
            )
        }
    })
}

/// What all workers of the process have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proxy;

impl Shared for Proxy {
    fn get(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        let mut cas = 0;
        let value = read(|data, size| {
            // SAFETY: `key` outlives the call; the others point to locals, here and of `read`.
            unsafe { proxy_get_shared_data(key.as_ptr(), key.len(), data, size, &raw mut cas) }
        })?;
        Some((value, cas))
    }

    fn set(&self, key: &str, value: &[u8], cas: u32) -> Result<(), SharedError> {
        const CAS_MISMATCH: u32 = 8;
        // SAFETY: the slices outlive the call.
        match unsafe {
            proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), cas)
        } {
            OK => Ok(()),
            CAS_MISMATCH => Err(SharedError::CasMismatch),
            _ => Err(SharedError::Unavailable),
        }
    }

    fn now(&self) -> MonoNanos {
        now()
    }
}

/// A property by its path; see [`Exchange::property`].
pub(crate) fn property(path: &[&str]) -> Option<Vec<u8>> {
    let joined;
    let path = match path {
        [one] => *one,
        several => {
            joined = several.join("\0");
            &joined
        }
    };
    // SAFETY: `path` outlives the call; the others point to locals of `read`.
    read(|data, size| unsafe { proxy_get_property(path.as_ptr(), path.len(), data, size) })
}

/// Sets filter state `wasm.<name>`, where access logs and other instances find it.
pub(crate) fn set_state(name: &str, value: &str) {
    // SAFETY: the slices outlive the call.
    let _ = unsafe { proxy_set_property(name.as_ptr(), name.len(), value.as_ptr(), value.len()) };
}

/// Changes the headers of the current request.
pub(crate) fn edit_request(edits: &[HeaderEdit]) {
    edits.iter().for_each(|edit| change(MapType::RequestHeaders, edit));
}

/// Changes the headers of the current response.
pub(crate) fn edit_response(edits: &[HeaderEdit]) {
    edits.iter().for_each(|edit| change(MapType::ResponseHeaders, edit));
}

/// Changes the trailers of the current response.
pub(crate) fn edit_trailers(edits: &[HeaderEdit]) {
    edits.iter().for_each(|edit| change(MapType::ResponseTrailers, edit));
}

fn change(map: MapType, edit: &HeaderEdit) {
    let map = map as u32;
    // SAFETY: the slices outlive the calls.
    let _ = unsafe {
        match edit {
            HeaderEdit::Add(name, value) => proxy_add_header_map_value(
                map,
                name.as_ptr(),
                name.len(),
                value.as_ptr(),
                value.len(),
            ),
            HeaderEdit::Remove(name) => {
                proxy_remove_header_map_value(map, name.as_ptr(), name.len())
            }
            HeaderEdit::Set(name, value) => proxy_replace_header_map_value(
                map,
                name.as_ptr(),
                name.len(),
                value.as_ptr(),
                value.len(),
            ),
        }
    };
}

/// The plugin configuration; empty when there is none.
pub(crate) fn configuration() -> Vec<u8> {
    const PLUGIN_CONFIGURATION: u32 = 7;
    buffer(PLUGIN_CONFIGURATION, usize::MAX)
}

/// The body of the callout answer that is being delivered, up to `max` bytes.
pub(crate) fn answer_body(max: usize) -> Vec<u8> {
    const HTTP_CALL_RESPONSE_BODY: u32 = 4;
    buffer(HTTP_CALL_RESPONSE_BODY, max)
}

/// A header of the callout answer that is being delivered.
pub(crate) fn answer_header(name: &str) -> Option<Vec<u8>> {
    header(MapType::CallResponseHeaders, name)
}

/// A trailer of the callout answer that is being delivered.
pub(crate) fn answer_trailer(name: &str) -> Option<Vec<u8>> {
    header(MapType::CallResponseTrailers, name)
}

fn header(map: MapType, name: &str) -> Option<Vec<u8>> {
    let map = map as u32;
    read(|data, size| {
        // SAFETY: `name` outlives the call; the others point to locals of `read`.
        unsafe { proxy_get_header_map_value(map, name.as_ptr(), name.len(), data, size) }
    })
}

/// Sends a request; the answer comes to the root context that is current. `None`: not sent.
pub(crate) fn dispatch(
    cluster: &str,
    headers: &[(String, String)],
    body: &[u8],
    timeout: Duration,
) -> Option<u32> {
    let headers = Headers::encode(headers)?;
    let timeout = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    let mut token = 0;
    // SAFETY: the slices outlive the call; `token` is a local.
    let status = unsafe {
        proxy_http_call(
            cluster.as_ptr(),
            cluster.len(),
            headers.as_ptr(),
            headers.len(),
            body.as_ptr(),
            body.len(),
            core::ptr::null(),
            0,
            timeout,
            &raw mut token,
        )
    };
    (status == OK).then_some(token)
}

/// Asks for ticks of the current root context.
pub(crate) fn set_tick_period(period: Duration) {
    let millis = u32::try_from(period.as_millis()).unwrap_or(u32::MAX).max(1);
    // SAFETY: no pointers.
    let _ = unsafe { proxy_set_tick_period_milliseconds(millis) };
}

/// Tells the host that the current root context, which had asked for time, has finished.
pub(crate) fn done() {
    // SAFETY: no pointers.
    let _ = unsafe { proxy_done() };
}

/// The handle of a metric, shared by all workers.
pub(crate) fn define_metric(kind: MetricKind, name: &str) -> Option<u32> {
    let kind = match kind {
        MetricKind::Counter => 0,
        MetricKind::Gauge => 1,
        MetricKind::Histogram => 2,
    };
    let mut handle = 0;
    // SAFETY: `name` outlives the call; `handle` is a local.
    let status = unsafe { proxy_define_metric(kind, name.as_ptr(), name.len(), &raw mut handle) };
    (status == OK).then_some(handle)
}

/// Moves a counter or gauge, or adds a sample to a histogram.
pub(crate) fn move_metric(kind: MetricKind, handle: u32, value: i64) {
    // SAFETY: no pointers.
    let _ = unsafe {
        match kind {
            MetricKind::Counter | MetricKind::Gauge => proxy_increment_metric(handle, value),
            MetricKind::Histogram => proxy_record_metric(handle, value.max(0).cast_unsigned()),
        }
    };
}

/// Writes a line to Envoy's log.
pub(crate) fn log(level: LogLevel, message: &str) {
    // SAFETY: `message` outlives the call.
    let _ = unsafe { proxy_log(level as u32, message.as_ptr(), message.len()) };
}

/// A clock that never goes back; 0 if the host has none.
pub(crate) fn now() -> MonoNanos {
    const MONOTONIC: u32 = 1;
    MonoNanos(clock(MONOTONIC))
}

/// The time of day; 1970 if the host has none.
pub(crate) fn wall() -> UnixNanos {
    const REALTIME: u32 = 0;
    UnixNanos(clock(REALTIME))
}

fn clock(id: u32) -> u64 {
    let mut nanos = 0;
    // SAFETY: `nanos` is a local.
    let errno = unsafe { clock_time_get(id, 1, &raw mut nanos) };
    if errno == 0 { nanos } else { 0 }
}

/// Entropy for a generator; `None` if the host has none.
pub(crate) fn entropy() -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    // SAFETY: `bytes` is a local of that length.
    let errno = unsafe { random_get(bytes.as_mut_ptr(), bytes.len()) };
    (errno == 0).then_some(bytes)
}

/// An environment variable of the VM.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn buffer(kind: u32, max: usize) -> Vec<u8> {
    read(|data, size| {
        // SAFETY: both point to locals of `read`.
        unsafe { proxy_get_buffer_bytes(kind, 0, max, data, size) }
    })
    .unwrap_or_default()
}

const OK: u32 = 0;

/// What a call leaves in memory that it had `proxy_on_memory_allocate` allocate.
fn read(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Option<Vec<u8>> {
    answer_of(call).ok()
}

/// The same, or the status of a call that gave nothing.
fn answer_of(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Result<Vec<u8>, u32> {
    let mut data = core::ptr::null_mut();
    let mut size = 0;
    let status = call(&raw mut data, &raw mut size);
    if status != OK {
        return Err(status);
    }
    if data.is_null() || size == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: the ABI hands over a block of `size` bytes that our allocation function has made with
    // this capacity, by which the allocator knows its size again, and which nobody else will free.
    Ok(unsafe { Vec::from_raw_parts(data, size, size) })
}

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_add_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_call_foreign_function(
        name: *const u8,
        name_size: usize,
        argument: *const u8,
        argument_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, size: usize, handle: *mut u32) -> u32;
    fn proxy_done() -> u32;
    fn proxy_get_buffer_bytes(
        kind: u32,
        start: usize,
        max: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_get_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_get_property(
        path: *const u8,
        path_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_get_shared_data(
        key: *const u8,
        key_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
        cas: *mut u32,
    ) -> u32;
    fn proxy_http_call(
        upstream: *const u8,
        upstream_size: usize,
        headers: *const u8,
        headers_size: usize,
        body: *const u8,
        body_size: usize,
        trailers: *const u8,
        trailers_size: usize,
        timeout: u32,
        token: *mut u32,
    ) -> u32;
    fn proxy_increment_metric(handle: u32, offset: i64) -> u32;
    fn proxy_log(level: u32, message: *const u8, size: usize) -> u32;
    fn proxy_record_metric(handle: u32, value: u64) -> u32;
    fn proxy_remove_header_map_value(map: u32, name: *const u8, size: usize) -> u32;
    fn proxy_replace_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_set_property(
        path: *const u8,
        path_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_set_shared_data(
        key: *const u8,
        key_size: usize,
        value: *const u8,
        value_size: usize,
        cas: u32,
    ) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
}

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn clock_time_get(clock: u32, precision: u64, nanos: *mut u64) -> u32;
    fn random_get(data: *mut u8, size: usize) -> u32;
}
