//! What the module asks of the host, and what it offers.
//!
//! A module that imports one name that the host lacks does not load at all. So the lists hold
//! what Envoy 1.36 to 1.40 provide and the module is known to link, and nothing more.

mod common;

use std::collections::BTreeSet;

/// Hostcalls of ABI 0.2.1. Most of them come from default methods of the SDK's traits, which stay
/// in the module although nobody calls them.
const HOSTCALLS: &[&str] = &[
    "proxy_add_header_map_value",
    "proxy_call_foreign_function",
    "proxy_close_stream",
    "proxy_continue_stream",
    "proxy_define_metric",
    "proxy_dequeue_shared_queue",
    "proxy_done",
    "proxy_enqueue_shared_queue",
    "proxy_get_buffer_bytes",
    "proxy_get_current_time_nanoseconds",
    "proxy_get_header_map_pairs",
    "proxy_get_header_map_value",
    "proxy_get_property",
    "proxy_get_shared_data",
    "proxy_get_status",
    "proxy_grpc_call",
    "proxy_grpc_cancel",
    "proxy_grpc_close",
    "proxy_grpc_send",
    "proxy_grpc_stream",
    "proxy_http_call",
    "proxy_increment_metric",
    "proxy_log",
    "proxy_record_metric",
    "proxy_register_shared_queue",
    "proxy_remove_header_map_value",
    "proxy_replace_header_map_value",
    "proxy_resolve_shared_queue",
    "proxy_send_local_response",
    "proxy_set_buffer_bytes",
    "proxy_set_effective_context",
    "proxy_set_header_map_pairs",
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

#[test]
fn exports_are_what_the_abi_asks_for() {
    let exports = common::module().exports();
    for name in [
        "_initialize",
        "memory",
        "proxy_abi_version_0_2_1",
        "proxy_on_configure",
        "proxy_on_context_create",
        "proxy_on_delete",
        "proxy_on_done",
        "proxy_on_http_call_response",
        "proxy_on_log",
        "proxy_on_memory_allocate",
        "proxy_on_request_headers",
        "proxy_on_tick",
        "proxy_on_vm_start",
    ] {
        assert!(exports.iter().any(|export| export == name), "no export {name}");
    }
    let versions = exports.iter().filter(|export| export.starts_with("proxy_abi_version_"));
    assert_eq!(versions.count(), 1, "a host would have to choose between ABI versions");
}
