//! Every hostcall that the module imports, with every status: no answer traps the VM.
#![expect(clippy::unwrap_used, reason = "test code")]

mod common;

use std::time::Duration;

use meshweft_host_tests::{Answer, HostEmulator, STATUSES, Trap, answer, ok_answer, request};

/// All that makes the adapter call the host; no regex, see the last test but one.
const CONFIGURATION: &str = r#"{"export": {
    "cluster": ["otel-collector", {"service": "otel.far", "port": 4317}],
    "protocol": "otlp/grpc", "compression": "gzip"}, "propagation": {
    "trust": [{"match": {"source": {"prefix": "127."}}, "trust": "continue"}],
    "response": ["traceresponse", "server-timing", {"header": "x-trace-id"}],
    "access_log": ["trace_id", "span_id", "sampled"]},
    "sampling": {"keep": {"errors": true, "propagate": true, "slower_than": "1ms",
        "response_flags": ["UO"]}, "limit_per_second": 100, "remote": {"cluster": "otel-collector"}, "rules": [
        {"name": "cel", "match": {"cel": "request.size > 10"}, "rate": 1},
        {"name": "a", "match": {"headers": {"traceparent": {"present": false}}},
            "adaptive": {"target_per_second": 10, "floor_per_minute": 1}}]},
    "spans": {"open_after": "1s", "facts": ["sizes", "timing", "tls"], "attributes": [
        {"name": "a", "response_header": "x-a"}, {"name": "b", "property": "xds.node.id"}]}}"#;

/// The same module as an upstream filter.
const UPSTREAM: &str = r#"{"mode": "upstream", "export": {"cluster": "otel-collector"}}"#;

/// A life from the first callback to the last. With `late`, the fault comes after the module is
/// configured: else a module that could not read its configuration would call nothing more.
fn live(hostcall: &str, status: u32, late: bool) -> Result<HostEmulator, Trap> {
    let mut host = HostEmulator::new(common::module())?;
    if !late {
        host.fault(hostcall, status);
    }
    let root = host.create_root()?;
    host.vm_start(root)?;
    host.configure(root, CONFIGURATION)?;
    if late {
        host.fault(hostcall, status);
    }
    let upstream = host.create_root()?;
    host.configure(upstream, UPSTREAM)?;
    // With parent, without; seen from the beginning, seen only at the end.
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    host.serve(root, request().with_header("traceparent", parent).with_header("b3", "0"))?;
    host.serve(root, request())?;
    let grpc = request().with_header("content-type", "application/grpc");
    host.serve(upstream, grpc.with_header("traceparent", parent))?;
    // A tracestate that tells of a threshold alone, and wrongly, does not go on.
    let wrong = ("tracestate", "ot=th:ffffffffffffff");
    host.serve(root, request().with_header("traceparent", parent).with_header(wrong.0, wrong.1))?;
    // A native tracer is logged.
    host.serve(root, common::natively_traced())?;
    let id = host.exchange(request());
    let stream = host.create_stream(root, id)?;
    // One that is open when ticks come.
    let id = host.exchange(request());
    let open = host.create_stream(root, id)?;
    host.request_headers(open)?;
    host.log(stream)?;
    host.done(stream)?;
    host.delete(stream)?;
    // The first answer says come again, the second the same in trailers, the third that all is
    // well, and one never comes.
    let refusal = answer(&[(":status", "503"), ("retry-after", "1")], b"busy");
    let pair = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
    let trailers = Some(vec![pair("grpc-status", "14"), pair("grpc-message", "busy")]);
    let in_trailers = Answer { trailers, ..ok_answer() };
    let taken = answer(&[(":status", "200"), ("grpc-status", "0")], b"");
    for reply in [Some(refusal), Some(in_trailers), Some(taken), None] {
        host.advance(Duration::from_secs(60));
        host.tick(root)?;
        let tokens: Vec<u32> = host.state().pending().iter().map(|callout| callout.token).collect();
        for token in tokens {
            host.answer(token, reply.clone().unwrap_or_default())?;
        }
        host.serve(root, request())?;
    }
    host.finish(open)?;
    host.configure(root, "{\"no such\": 1}")?;
    host.done(root)?;
    host.advance(Duration::from_secs(600));
    host.tick(root)?;
    host.tick(root)?;
    host.delete(root)?;
    Ok(host)
}

/// The hostcalls that a life without faults makes.
fn hostcalls() -> Vec<String> {
    let host = live("none", 0, false).unwrap();
    let names = host.state().hostcalls.keys();
    names.filter(|name| name.starts_with("proxy_")).cloned().collect()
}

#[test]
fn no_status_of_a_hostcall_traps() {
    let mut wrong = Vec::new();
    for hostcall in hostcalls() {
        for status in STATUSES {
            for late in [false, true] {
                if let Err(trap) = live(&hostcall, status, late) {
                    wrong.push((hostcall.clone(), status, trap.to_string()));
                }
            }
        }
    }
    assert_eq!(wrong, []);
}

#[test]
fn failing_system_calls_do_not_trap() {
    for call in ["clock_time_get", "fd_write", "random_get", "sched_yield"] {
        for errno in [8, 21, 28, 52] {
            live(call, errno, false).unwrap_or_else(|trap| panic!("{call} {errno}: {trap}"));
        }
    }
}

/// The libc in the module exits when it cannot read the environment. Envoy's only reason to
/// refuse are pointers out of bounds, and these are the libc's own.
#[test]
fn without_an_environment_the_libc_exits() {
    let configuration = r#"{"export": {"cluster": "c", "headers": {"a": "${A}"}}}"#;
    for call in ["environ_get", "environ_sizes_get"] {
        let mut host = HostEmulator::new(common::module()).unwrap();
        host.state_mut().environment = vec![("A".to_owned(), "b".to_owned())];
        host.fault(call, 21);
        let root = host.create_root().unwrap();
        let trap = host.configure(root, configuration).unwrap_err();
        assert!(trap.message.contains("proc_exit"), "{call}: {trap}");
    }
}

/// Hash maps of the standard library panic without entropy; nothing that compiles or runs a
/// pattern may keep one.
#[test]
fn patterns_need_no_entropy() {
    let configuration = r#"{"export": {"cluster": "c"},
        "propagation": {"egress": {"strip": ["*.example"]}},
        "sampling": {"rules": [{"name": "a", "rate": 1, "match": {"path": {"regex": "/(a|\\w+).*"}}}]},
        "spans": {"redact": [{"pattern": "(?<n>[0-9]+)"}]}}"#;
    let mut host = HostEmulator::new(common::module()).unwrap();
    host.fault("random_get", 28);
    let root = host.create_root().unwrap();
    assert!(host.configure(root, configuration).unwrap());
    host.serve(root, request()).unwrap();
}

#[test]
fn the_life_reaches_every_hostcall_of_the_adapter() {
    assert_eq!(
        hostcalls(),
        [
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
        ]
    );
}
