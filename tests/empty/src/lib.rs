//! A filter that does nothing, written as the SDK's documentation has it: its callbacks are those
//! that the SDK exports, and each of them answers that the request goes on.
#![expect(
    missing_docs,
    reason = "the function that `proxy_wasm::main!` makes; there is no other public item"
)]

use proxy_wasm::traits::{Context, HttpContext};

struct Nothing;

impl Context for Nothing {}
impl HttpContext for Nothing {}

proxy_wasm::main! {{
    proxy_wasm::set_http_context(|_, _| Box::new(Nothing));
}}
