//! The proxy-wasm adapter: it reads from the host, calls the core and applies what comes back.
//! Decisions live in `meshweft-core`.

#[expect(unsafe_code, reason = "the exports of the proxy-wasm ABI have names of its own")]
mod exports;
#[expect(unsafe_code, reason = "the imports of the proxy-wasm ABI")]
mod host;
#[expect(unsafe_code, reason = "an allocator")]
mod memory;
mod request;
mod root;

#[global_allocator]
static MEMORY: memory::Blocks = memory::Blocks::new();
