//! What the module asks of the host, and what it offers.
//!
//! A module that imports one name too many does not load, so the lists are as short as they can
//! be: what stands in them is used, and what is used stands in them.

mod common;

use std::collections::BTreeSet;

/// Hostcalls of ABI 0.2.1 that the module makes. Envoy 1.36 to 1.40 have all of them.
const HOSTCALLS: &[&str] = &[
    "proxy_call_foreign_function",
    "proxy_close_stream",
    "proxy_continue_stream",
    "proxy_define_metric",
    "proxy_done",
    "proxy_get_buffer_bytes",
    "proxy_get_header_map_pairs",
    "proxy_get_header_map_value",
    "proxy_get_property",
    "proxy_http_call",
    "proxy_increment_metric",
    "proxy_log",
    "proxy_record_metric",
    "proxy_remove_header_map_value",
    "proxy_replace_header_map_value",
    "proxy_set_effective_context",
    "proxy_set_property",
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
