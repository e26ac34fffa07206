//! The proxy-wasm adapter: it reads from the host, calls the core and applies what comes back.
//! Decisions live in `meshweft-core`.
#![expect(
    missing_docs,
    reason = "the function that `proxy_wasm::main!` makes; there is no other public item"
)]

#[expect(unsafe_code, reason = "the imports of the proxy-wasm ABI; nothing else is unsafe")]
mod host;
mod request;
mod root;

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::new(root::Root::default()));
}}
