//! What the module asks of the host, and what it offers.
//!
//! A module that imports one name that the host lacks does not load at all. So the lists hold
//! what Envoy 1.36 to 1.40 provide and the module is known to link, and nothing more.

mod common;

use std::collections::BTreeSet;

/// Hostcalls of ABI 0.2.1.
const HOSTCALLS: &[&str] = &[
    "proxy_add_header_map_value",
    "proxy_call_foreign_function",
    "proxy_define_metric",
    "proxy_done",
    "proxy_get_buffer_bytes",
    "proxy_get_header_map_pairs",
    "proxy_get_header_map_value",
    "proxy_get_property",
    "proxy_get_shared_data",
    "proxy_http_call",
    "proxy_increment_metric",
    "proxy_log",
    "proxy_record_metric",
    "proxy_remove_header_map_value",
    "proxy_replace_header_map_value",
    "proxy_set_property",
    "proxy_set_shared_data",
    "proxy_set_tick_period_milliseconds",
];

/// WASI preview 1 as Envoy has it since 1.32.
const WASI: &[&str] = &[
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_write",
    "proc_exit",
    "random_get",
    "sched_yield",
];

#[test]
fn imports_are_on_the_list() {
    let mut spaces = BTreeSet::new();
    for (space, name) in common::module().imports() {
        let list = match space.as_str() {
            "env" => HOSTCALLS,
            "wasi_snapshot_preview1" => WASI,
            _ => panic!("import {space}.{name}: Envoy has no such module"),
        };
        assert!(list.contains(&name.as_str()), "import {space}.{name} is not on the list");
        spaces.insert(space);
    }
    assert_eq!(Vec::from_iter(spaces), ["env", "wasi_snapshot_preview1"]);
}

/// Envoy calls what is exported: one more callback is one more crossing for every request.
#[test]
fn exports_are_what_the_filter_needs() {
    let mut exports = common::module().exports();
    exports.sort_unstable();
    assert_eq!(
        exports,
        [
            "_initialize",
            "memory",
            "proxy_abi_version_0_2_1",
            "proxy_on_configure",
            "proxy_on_context_create",
            "proxy_on_done",
            "proxy_on_http_call_response",
            "proxy_on_log",
            "proxy_on_memory_allocate",
            "proxy_on_request_headers",
            "proxy_on_response_headers",
            "proxy_on_response_trailers",
            "proxy_on_tick",
        ]
    );
}
