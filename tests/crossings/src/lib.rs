//! The crossings between the host and the VM that the filter makes for a request, and nothing else:
//! the same exports, and in each callback the same calls with texts of the same sizes, but nothing
//! is parsed, decided, described or sent. What this costs, no filter of the kind can save.
//!
//! The plugin configuration is `sampled` or `not sampled`. That the crossings are the filter's own
//! is held by `tests/lab/tests/crossings.rs`.
#![expect(unsafe_code, reason = "the exports and imports of the proxy-wasm ABI")]

use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// Whether requests are sampled, for the one configuration of the VM.
static SAMPLED: AtomicBool = AtomicBool::new(false);

/// Where the host puts what it gives, each time anew: nobody reads it but the configuration.
static BLOCK: [AtomicU8; 64 << 10] = [const { AtomicU8::new(0) }; 64 << 10];

const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// The filter state that tells other instances and access logs of a request's trace.
const STATE: &str = "meshweft.trace_id";

/// What a span needs of the host at its end, in the filter's order.
const PROPERTIES: [&str; 12] = [
    "xds\0listener_direction",
    "request\0time",
    "request\0duration",
    "response\0flags",
    "response\0code",
    "response\0code_details",
    "source\0address",
    "upstream\0request_attempt_count",
    "xds\0route_name",
    "xds\0cluster_name",
    "request\0protocol",
    "upstream\0address",
];

#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    // SAFETY: the linker makes it, and the host calls this once, before anything else.
    unsafe { __wasm_call_ctors() };
}

#[unsafe(no_mangle)]
extern "C" fn proxy_abi_version_0_2_1() {}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    if size > BLOCK.len() {
        return core::ptr::null_mut();
    }
    BLOCK.as_ptr().cast_mut().cast()
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_context_create(_: u32, _: u32) {}

/// Refuses what is neither of the two words.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_configure(_: u32, _: usize) -> bool {
    const PLUGIN_CONFIGURATION: u32 = 7;
    let size = given(|data, size| {
        // SAFETY: both point to locals of `given`.
        unsafe { proxy_get_buffer_bytes(PLUGIN_CONFIGURATION, 0, usize::MAX, data, size) }
    });
    let is = |word: &str| {
        let bytes = BLOCK.iter().take(size).map(|byte| byte.load(Ordering::Relaxed));
        bytes.eq(word.bytes())
    };
    SAMPLED.store(is("sampled"), Ordering::Relaxed);
    is("sampled") || is("not sampled")
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_tick(_: u32) {}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_http_call_response(_: u32, _: u32, _: usize, _: usize, _: usize) {}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(_: u32, _: usize, _: bool) -> u32 {
    const REQUEST_HEADERS: u32 = 0;
    property(STATE);
    given(|data, size| {
        // SAFETY: both point to locals of `given`.
        unsafe { proxy_get_header_map_pairs(REQUEST_HEADERS, data, size) }
    });
    let replace = |name: &str, value: &str| {
        // SAFETY: the texts outlive the call.
        let _ = unsafe {
            proxy_replace_header_map_value(
                REQUEST_HEADERS,
                name.as_ptr(),
                name.len(),
                value.as_ptr(),
                value.len(),
            )
        };
    };
    replace("traceparent", PARENT);
    if SAMPLED.load(Ordering::Relaxed) {
        replace("tracestate", "ot=th:0");
    }
    // SAFETY: the texts outlive the call.
    let _ = unsafe {
        proxy_set_property(STATE.as_ptr(), STATE.len(), TRACE_ID.as_ptr(), TRACE_ID.len())
    };
    CONTINUE
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_headers(_: u32, _: usize, _: bool) -> u32 {
    CONTINUE
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_trailers(_: u32, _: usize) -> u32 {
    CONTINUE
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_log(_: u32) {
    const MONOTONIC: u32 = 1;
    if SAMPLED.load(Ordering::Relaxed) {
        PROPERTIES.iter().for_each(|path| property(path));
        let mut nanos = 0;
        // SAFETY: `nanos` is a local.
        let _ = unsafe { clock_time_get(MONOTONIC, 1, &raw mut nanos) };
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_done(_: u32) -> bool {
    true
}

/// A request goes on.
const CONTINUE: u32 = 0;

fn property(path: &str) {
    given(|data, size| {
        // SAFETY: `path` outlives the call; the others point to locals of `given`.
        unsafe { proxy_get_property(path.as_ptr(), path.len(), data, size) }
    });
}

/// How many bytes a call has put into the block.
fn given(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> usize {
    const OK: u32 = 0;
    let mut data = core::ptr::null_mut();
    let mut size = 0;
    if call(&raw mut data, &raw mut size) == OK { size } else { 0 }
}

unsafe extern "C" {
    fn __wasm_call_ctors();
}

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_get_buffer_bytes(
        kind: u32,
        start: usize,
        max: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_get_property(
        path: *const u8,
        path_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
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
}

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn clock_time_get(clock: u32, precision: u64, nanos: *mut u64) -> u32;
}
