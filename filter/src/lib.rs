//! The proxy-wasm adapter: it reads from the host, calls the core and applies what comes back.
//! Decisions live in `meshweft-core`.

#[expect(unsafe_code, reason = "the imports of the proxy-wasm ABI; nothing else is unsafe")]
mod host;
mod request;
mod root;

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::new(root::Root::default()));
}}
