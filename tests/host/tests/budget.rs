//! What a request costs: hostcalls, which are the same with every compiler, and fuel, which is
//! shown, and compared only with itself.
#![expect(clippy::unwrap_used, reason = "test code")]

mod common;

use std::collections::BTreeMap;
use std::ops::Range;

use common::{boot, boot_with, collect};
use meshweft_host_tests::{Exchange, HostEmulator, Usage, request};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const DROPPED_PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

/// A configuration that joins no calls.
const ALONE: &str = r#"{"export": {"cluster": "otel-collector"}, "correlation": {"headers": []}}"#;

/// What one request spends when the instance has seen others.
fn spent(host: &mut HostEmulator, root: u32, kind: &str, exchange: &Exchange) -> Usage {
    for _ in 0..3 {
        host.serve(root, exchange.clone()).unwrap();
    }
    let before = host.usage();
    host.serve(root, exchange.clone()).unwrap();
    let spent = host.usage().since(&before);
    eprintln!("{kind}: fuel {}, hostcalls {} {:?}", spent.fuel, spent.total(), spent.hostcalls);
    spent
}

fn calls(usage: &Usage) -> Vec<(&str, u64)> {
    usage.hostcalls.iter().map(|(name, count)| (name.as_str(), *count)).collect()
}

/// What every request pays: is another instance on it, what are its headers, what goes on, leave
/// the trace id. What is recorded also pays for a span's properties and the clock.
#[test]
fn hostcalls_of_a_request() {
    let (mut host, root) = boot_with(ALONE);
    let kinds = [
        ("sampled", request()),
        ("continued", request().with_header("traceparent", PARENT)),
        ("unsampled", request().with_header("traceparent", DROPPED_PARENT)),
    ];
    let [sampled, continued, unsampled] =
        kinds.map(|(kind, exchange)| spent(&mut host, root, kind, &exchange));
    let (mut silent, silent_root) = boot_with("");
    let passed = spent(&mut silent, silent_root, "passed through", &request());
    let recorded = |headers| {
        [
            ("clock_time_get", 1),
            ("proxy_get_header_map_pairs", 1),
            ("proxy_get_property", 13),
            ("proxy_replace_header_map_value", headers),
            ("proxy_set_property", 1),
        ]
    };
    // A new trace has a tracestate, which says how likely it was to be sampled.
    assert_eq!(calls(&sampled), recorded(2));
    assert_eq!(calls(&continued), recorded(1));
    let dropped = [
        ("proxy_get_header_map_pairs", 1),
        ("proxy_get_property", 1),
        ("proxy_replace_header_map_value", 1),
        ("proxy_set_property", 1),
    ];
    assert_eq!(calls(&unsampled), dropped);
    let untouched = [("proxy_get_header_map_pairs", 1), ("proxy_get_property", 1)];
    assert_eq!(calls(&passed), untouched);
}

/// All formats are looked for in one pass over the headers: what does not stand costs no call.
#[test]
fn formats_that_do_not_stand_cost_nothing() {
    let all = r#"["tracecontext", "baggage", "b3", "b3multi", "jaeger", "datadog", "xray",
        "ottrace", "gcp", "grpc-trace-bin", "skywalking"]"#;
    let spent_by = |extract: &str, exchange: &Exchange| {
        let (mut host, root) = boot_with(&format!(
            r#"{{"export": {{"cluster": "otel-collector"}},
                "propagation": {{"extract": {extract}}}}}"#
        ));
        spent(&mut host, root, extract, exchange).hostcalls
    };
    for exchange in [request(), request().with_header("traceparent", PARENT)] {
        assert_eq!(spent_by(all, &exchange), spent_by(r#"["tracecontext"]"#, &exchange));
    }
}

/// Each thing that is told costs one call, and nothing else is read for it.
#[test]
fn what_is_told_costs_one_call_each() {
    let (mut host, root) = boot_with(
        r#"{"export": {"cluster": "otel-collector"}, "correlation": {"headers": []}, "propagation": {
            "response": ["traceresponse", "server-timing", {"header": "x-trace-id"}],
            "access_log": ["trace_id", "span_id", "sampled"]}}"#,
    );
    let exchange = request().with_header("traceparent", DROPPED_PARENT);
    let told = [
        ("proxy_add_header_map_value", 1),
        ("proxy_get_header_map_pairs", 1),
        ("proxy_get_property", 1),
        // traceparent, traceresponse, x-trace-id
        ("proxy_replace_header_map_value", 3),
        ("proxy_set_property", 3),
    ];
    assert_eq!(calls(&spent(&mut host, root, "told", &exchange)), told);
}

/// To remember a request costs the clock, a look and a write; to look one up the clock and a look.
/// Which of the two it is costs a property, unless it is read for a span anyway.
#[test]
fn what_joins_calls_costs_shared_data_once() {
    let more = |exchange: &Exchange| {
        let [with, without] = [boot(), boot_with(ALONE)]
            .map(|(mut host, root)| signed(spent(&mut host, root, "joined", exchange)));
        let mut more = with;
        for (name, count) in without {
            *more.entry(name).or_insert(0) -= count;
        }
        more.retain(|_, count| *count != 0);
        more.into_iter().collect::<Vec<_>>()
    };
    let named = |calls: &[(&str, i64)]| -> Vec<_> {
        calls.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    };
    let outbound = || request().with_property(&["xds", "listener_direction"], 2_i64.to_le_bytes());
    let (clock, look) = (("clock_time_get", 1), ("proxy_get_shared_data", 1));
    let (side, write) = (("proxy_get_property", 1), ("proxy_set_shared_data", 1));
    assert_eq!(more(&request()), named(&[clock, look, write]));
    let unsampled = request().with_header("traceparent", DROPPED_PARENT);
    assert_eq!(more(&unsampled), named(&[clock, side, look, write]));
    assert_eq!(more(&outbound()), named(&[clock, look]));
    assert_eq!(more(&outbound().with_header("traceparent", PARENT)), named(&[]));
}

fn signed(usage: Usage) -> BTreeMap<String, i64> {
    let signed = |(name, count)| (name, i64::try_from(count).unwrap());
    usage.hostcalls.into_iter().map(signed).collect()
}

/// Limits and floors have a say only where a rate kept or dropped a new trace.
#[test]
fn limits_cost_only_what_they_decide() {
    let limits = r#"{"export": {"cluster": "otel-collector"}, "sampling": {"rate": 1,
        "limit_per_second": 1000, "rules": [{"name": "pay", "limit_per_second": 500}]}}"#;
    let adaptive = r#"{"export": {"cluster": "otel-collector"}, "sampling": {"rate": 0,
        "adaptive": {"target_per_second": 10, "floor_per_minute": 1}}}"#;
    let more = |configuration: &str, exchange: &Exchange, base: Usage| {
        let (mut host, root) = boot_with(configuration);
        let mut more = signed(spent(&mut host, root, configuration, exchange));
        for (name, count) in signed(base) {
            *more.entry(name).or_insert(0) -= count;
        }
        more.retain(|_, count| *count != 0);
        more
    };
    let base = |rate: &str, exchange: &Exchange| {
        let (mut host, root) = boot_with(&format!(
            r#"{{"export": {{"cluster": "otel-collector"}}, "sampling": {{"rate": {rate}}}}}"#
        ));
        spent(&mut host, root, rate, exchange)
    };
    let named = |calls: &[(&str, i64)]| -> BTreeMap<String, i64> {
        calls.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    };
    // A parent decides: nothing.
    for configuration in [limits, adaptive] {
        let exchange = request().with_header("traceparent", PARENT);
        assert_eq!(more(configuration, &exchange, base("1", &exchange)), named(&[]));
    }
    // Two limits, at their dearest: no lease is left, as at a low rate. The clock once; and there
    // is no threshold to tell of in tracestate.
    let two = named(&[
        ("clock_time_get", 1),
        ("proxy_get_shared_data", 2),
        ("proxy_replace_header_map_value", -1),
        ("proxy_set_shared_data", 2),
    ]);
    assert_eq!(more(limits, &request(), base("1", &request())), two);
    // The rate drops it, and this minute's trace of the operation is there: the route's name.
    let route = named(&[("proxy_get_property", 1)]);
    assert_eq!(more(adaptive, &request(), base("0", &request())), route);
}

/// What is not kept costs two calls more than without `keep`, whatever is asked of its end; three
/// where a broken response is to be told from a whole one by Envoy's flags, besides a time.
#[test]
fn what_is_not_kept_costs_two_calls_more() {
    let grpc = || {
        request()
            .with_header("content-type", "application/grpc")
            .with_final_property(&["response", "grpc_status"], 0_i64.to_le_bytes())
    };
    for exchange in [request(), grpc()] {
        for (keep, more) in [
            (r#"{"errors": true}"#, 1),
            (r#"{"slower_than": "1s"}"#, 1),
            (r#"{"response_flags": ["UO"]}"#, 1),
            (r#"{"errors": true, "response_flags": ["UO"]}"#, 2),
            (
                r#"{"errors": true, "status": [429], "grpc_status": ["ABORTED"], "slower_than": "1s"}"#,
                2,
            ),
        ] {
            let spent_with = |sampling: &str| {
                let (mut host, root) = boot_with(&format!(
                    r#"{{"export": {{"cluster": "otel-collector"}}, "sampling": {sampling}}}"#
                ));
                spent(&mut host, root, sampling, &exchange)
            };
            let without = spent_with(r#"{"rate": 0}"#);
            let with = spent_with(&format!(r#"{{"rate": 0, "keep": {keep}}}"#));
            assert_eq!(with.total(), without.total() + more, "{keep}");
        }
    }
    for (keep, more) in [
        (r#"{"errors": true}"#, 2),
        (r#"{"slower_than": "1s"}"#, 1),
        (r#"{"errors": true, "status": [429], "slower_than": "1s"}"#, 3),
    ] {
        let [with, without] = [format!(r#", "keep": {keep}"#), String::new()].map(|keep| {
            let (mut host, root) = boot_with(&format!(
                r#"{{"export": {{"cluster": "otel-collector"}}, "sampling": {{"rate": 0{keep}}}}}"#
            ));
            spent(&mut host, root, &keep, &request().with_body()).total()
        });
        assert_eq!(with, without + more, "{keep}, with a body");
    }
}

/// What hops tell one another costs a request that nobody keeps a few calls at each: to shared data
/// four at most, all of them on the way to the workload.
#[test]
fn what_hops_tell_one_another_costs_a_few_calls() {
    let config = |propagate: &str| {
        format!(
            r#"{{"export": {{"cluster": "otel-collector"}}, "correlation": {{"headers": []}},
                "sampling": {{"rate": 0, "keep": {{"errors": true{propagate}}}}}}}"#
        )
    };
    let asked = || request().with_header("traceparent", DROPPED_PARENT);
    let outbound = || asked().with_property(&["xds", "listener_direction"], 2_i64.to_le_bytes());
    let gateway = || asked().with_property(&["xds", "listener_direction"], 0_i64.to_le_bytes());
    let question = |exchange: Exchange| exchange.with_header("x-meshweft", "1");
    // Its span is left for the calls that it causes; a verdict is looked for at the headers of the
    // response, if somebody asks, and at the end; no verdict of an application goes on.
    let (clock, look, write) = ("clock_time_get", "proxy_get_shared_data", "proxy_set_shared_data");
    let (side, strip) = ("proxy_get_property", "proxy_remove_header_map_value");
    // The question goes on; the answer and the status are read.
    let (read, ask) = ("proxy_get_header_map_value", "proxy_replace_header_map_value");
    for (kind, exchange, expected) in [
        (
            "inbound, asked",
            question(asked()),
            // Whoever takes no part takes question and answer off as well.
            &[(clock, 3), (read, 1), (side, 1), (look, 3), (write, 1)][..],
        ),
        ("inbound", asked(), &[(clock, 2), (side, 1), (look, 2), (strip, 1), (write, 1)]),
        ("outbound", outbound(), &[(read, 3), (side, 1), (ask, 1)]),
        ("gateway", gateway(), &[(read, 2), (side, 1), (ask, 1)]),
    ] {
        let [with, without] = [r#", "propagate": true"#, ""].map(|propagate| {
            let (mut host, root) = boot_with(&config(propagate));
            signed(spent(&mut host, root, kind, &exchange))
        });
        let mut more = with;
        for (name, count) in without {
            *more.entry(name).or_insert(0) -= count;
        }
        more.retain(|_, count| *count != 0);
        let expected = expected.iter().map(|(name, count)| ((*name).to_owned(), *count));
        assert_eq!(more, expected.collect(), "{kind}");
    }
}

/// At a limit that is reached, most requests do not ask for more than the clock.
#[test]
fn a_limit_that_is_reached_costs_the_clock() {
    let (mut host, root) = boot_with(
        r#"{"export": {"cluster": "otel-collector"}, "correlation": {"headers": []},
            "sampling": {"limit_per_second": 2}}"#,
    );
    let spent = spent(&mut host, root, "limited", &request());
    let limited = [
        ("clock_time_get", 1),
        ("proxy_get_header_map_pairs", 1),
        ("proxy_get_property", 1),
        ("proxy_replace_header_map_value", 1),
        ("proxy_set_property", 1),
    ];
    assert_eq!(calls(&spent), limited);
}

/// What unsampled requests to `targets` (host and path) cost with the rules of these `numbers`,
/// each for the `field` with the matcher of its number.
fn fuel_of_rules(
    numbers: Range<usize>,
    field: &str,
    matcher: fn(usize) -> String,
    targets: [(&str, &str); 2],
) -> [u64; 2] {
    let count = numbers.len();
    let rule = |number| {
        let matcher = matcher(number);
        format!(r#"{{"name": "r{number}", "rate": 0, "match": {{"{field}": {matcher}}}}}"#)
    };
    let rules: Vec<_> = numbers.map(rule).collect();
    let (mut host, root) = boot_with(&format!(
        r#"{{"export": {{"cluster": "otel-collector"}},
            "sampling": {{"rate": 0, "rules": [{}]}}}}"#,
        rules.join(",")
    ));
    targets.map(|(authority, path)| {
        let mut exchange = request();
        let headers = exchange.request_headers.as_mut().unwrap();
        headers.retain(|(name, _)| !matches!(name.as_slice(), b":authority" | b":path"));
        let exchange = exchange.with_header(":authority", authority).with_header(":path", path);
        spent(&mut host, root, &format!("{count} by {field}, {authority}{path}"), &exchange).fuel
    })
}

/// A thousand rules cost hardly more than one, whether the last one matches or none does.
#[test]
fn rules_cost_the_same_whatever_their_number() {
    type Case = (&'static str, fn(usize) -> String, [(&'static str, &'static str); 2]);
    let cases: [Case; 5] = [
        (
            "path",
            |number| format!(r#""/api/v1/resource-{number:04}""#),
            [("shop", "/api/v1/resource-0999"), ("shop", "/api/v1/resource-none")],
        ),
        (
            "path",
            |number| format!(r#"{{"prefix": "/api/v1/resource-{number:04}/"}}"#),
            [("shop", "/api/v1/resource-0999/x"), ("shop", "/api/v1/resource-none/x")],
        ),
        (
            "host",
            |number| format!(r#""s{number:04}.shop.test""#),
            [("s0999.shop.test", "/"), ("none.shop.test", "/")],
        ),
        (
            "host",
            |number| format!(r#"{{"glob": "*.s{number:04}.shop.test"}}"#),
            [("a.s0999.shop.test", "/"), ("a.none.shop.test", "/")],
        ),
        (
            "headers",
            |number| format!(r#"{{"x-{number:04}": "1"}}"#),
            [("shop", "/"), ("shop", "/a")],
        ),
    ];
    for (field, matcher, targets) in cases {
        let one = fuel_of_rules(999..1000, field, matcher, targets);
        let thousand = fuel_of_rules(0..1000, field, matcher, targets);
        for (one, thousand) in one.into_iter().zip(thousand) {
            assert!(thousand * 5 <= one * 6, "{field}: {one} and {thousand}");
        }
    }
}

/// A thousand templates cost hardly more than one.
#[test]
fn templates_cost_the_same_whatever_their_number() {
    let fuel = |count: usize| {
        let templates: Vec<_> =
            (0..count).rev().map(|n| format!(r#""/api/v1/resource-{n:04}/{{id}}""#)).collect();
        let (mut host, root) = boot_with(&format!(
            r#"{{"export": {{"cluster": "otel-collector"}}, "spans": {{"routes": [{}]}}}}"#,
            templates.join(",")
        ));
        let mut exchange = request();
        exchange.request_headers.as_mut().unwrap().retain(|(name, _)| name != b":path");
        let exchange = exchange.with_header(":path", "/api/v1/resource-0000/7");
        spent(&mut host, root, &format!("{count} templates"), &exchange).fuel
    };
    let (one, thousand) = (fuel(1), fuel(1000));
    assert!(thousand * 20 <= one * 21, "{one} and {thousand}");
}

/// Of so many attributes the last costs what the first does: none is compared with all before it.
#[test]
fn each_attribute_costs_the_same_whatever_their_number() {
    const REQUESTS: u64 = 64;
    let fuel = |count: usize| {
        let attribute = |n| format!(r#"{{"name": "shop.order.{n:02}", "value": "v"}}"#);
        let attributes: Vec<_> = (0..count).map(attribute).collect();
        let (mut host, root) = boot_with(&format!(
            r#"{{"export": {{"cluster": "otel-collector"}},
                "spans": {{"attributes": [{}]}}}}"#,
            attributes.join(",")
        ));
        host.serve(root, request()).unwrap();
        let before = host.usage();
        for _ in 0..REQUESTS {
            host.serve(root, request()).unwrap();
        }
        host.usage().since(&before).fuel / REQUESTS
    };
    let [few, more, most] = [4, 34, 64].map(fuel);
    let (first, last) = (more - few, most - more);
    eprintln!("30 attributes: fuel {first}, 30 more: {last}");
    assert!(last * 50 <= first * 51, "{first} and {last}");
}

/// Rules without anything to look them up by are asked one after the other. What one more of them
/// costs an unsampled request stays a small part of what the request costs; the README has the
/// figures.
#[test]
fn a_rule_that_is_not_looked_up_costs_little() {
    type Form = (&'static str, &'static str, fn(usize) -> String);
    let forms: [Form; 8] = [
        ("method", "method", |number| format!(r#""M{number}""#)),
        ("path suffix", "path", |number| format!(r#"{{"suffix": "/resource-{number:04}"}}"#)),
        ("path contains", "path", |number| format!(r#"{{"contains": "/r{number:04}/"}}"#)),
        ("path glob", "path", |number| format!(r#"{{"glob": "**/r{number:04}"}}"#)),
        ("path regex", "path", |number| format!(r#"{{"regex": "/api/v[0-9]+/r{number:04}"}}"#)),
        ("header absent", "not", |number| {
            format!(r#"{{"headers": {{"x-{number:04}": {{"present": false}}}}}}"#)
        }),
        ("direction", "direction", |_| r#""outbound""#.to_owned()),
        ("route regex", "route", |number| format!(r#"{{"regex": "r{number}.+"}}"#)),
    ];
    let targets = [("shop", "/api/v1/resource-none"), ("shop", "/api/v1/resource-none/a/b/c")];
    for (form, field, matcher) in forms {
        let few = fuel_of_rules(0..1, field, matcher, targets);
        let many = fuel_of_rules(0..101, field, matcher, targets);
        for (few, many) in few.into_iter().zip(many) {
            let each = many.saturating_sub(few) / 100;
            eprintln!("{form}: {each} fuel for a rule, {few} for the request");
            assert!(each * 20 <= few, "{form}: {each} of {few}");
        }
    }
}

/// Each expression is one call to the host, and only where all else of its rule holds.
#[test]
fn an_expression_costs_one_call() {
    let rule = |number: usize, more: &str| {
        format!(r#"{{"name": "r{number}", "rate": 1, "match": {{{more}"cel": "a == {number}"}}}}"#)
    };
    let config = |more: &str| {
        let rules: Vec<_> = (0..10).map(|number| rule(number, more)).collect();
        format!(
            r#"{{"export": {{"cluster": "otel-collector"}},
                "sampling": {{"rate": 0, "rules": [{}]}}}}"#,
            rules.join(",")
        )
    };
    let mut exchange = request();
    for number in 0..10 {
        exchange = exchange.with_expression(&format!("a == {number}"), [0]);
    }
    for (more, expected) in [("", 10), (r#""method": "POST", "#, 0)] {
        let (mut host, root) = boot_with(&config(more));
        let spent = spent(&mut host, root, more, &exchange);
        let calls = spent.hostcalls.get("proxy_call_foreign_function").copied().unwrap_or(0);
        assert_eq!(calls, expected, "{more}");
    }
}

/// What requests, exports and answers take is given back.
#[test]
fn memory_stays_flat() {
    let (mut host, root) = boot();
    let exchange = request()
        .with_header("traceparent", PARENT)
        .with_header("tracestate", "a=b,c=d")
        .with_header("x-long", "v".repeat(4_000));
    let mut round = || {
        for _ in 0..100 {
            host.serve(root, exchange.clone()).unwrap();
        }
        assert_eq!(collect(&mut host, root).len(), 100);
        host.memory()
    };
    let warm = (0..3).map(|_| round()).max();
    assert_eq!((0..10).map(|_| round()).max(), warm);
}

/// What clients send has sizes of their choice: memory that was of one size serves the others.
#[test]
fn memory_stays_flat_whatever_sizes_there_are() {
    let (mut host, root) = boot();
    let mut round = |length: usize| {
        let exchange = request().with_header("x-long", "v".repeat(length));
        let streams: Vec<_> = (0..200)
            .map(|_| {
                let id = host.exchange(exchange.clone());
                let stream = host.create_stream(root, id).unwrap();
                host.request_headers(stream).unwrap();
                stream
            })
            .collect();
        streams.into_iter().for_each(|stream| host.finish(stream).unwrap());
        assert_eq!(collect(&mut host, root).len(), 200);
        host.memory()
    };
    let first = (0..2).map(|_| round(0)).max().unwrap();
    let later = (0..50).map(|step| round(step * 16)).max().unwrap();
    // So much may wait for requests of the same sizes.
    assert!(later <= first + (2 << 20), "{first} -> {later}");
}

/// Envoy logs a request and is then done with it; the ABI's text has it the other way round; and
/// of an upstream filter Envoy logs nothing. No request stays in memory, and each that is logged
/// brings one span.
#[test]
fn requests_go_in_whichever_order_they_end() {
    type End = fn(&mut HostEmulator, u32);
    let ends: [(End, usize); 3] = [
        (|host, stream| host.finish(stream).unwrap(), 50),
        (
            |host, stream| {
                assert!(host.done(stream).unwrap());
                host.log(stream).unwrap();
            },
            50,
        ),
        (|host, stream| assert!(host.done(stream).unwrap()), 0),
    ];
    let exchange = request().with_header("x-long", "v".repeat(4_000));
    for (end, spans) in ends {
        let (mut host, root) = boot();
        let mut round = || {
            for _ in 0..50 {
                let id = host.exchange(exchange.clone());
                let stream = host.create_stream(root, id).unwrap();
                host.request_headers(stream).unwrap();
                end(&mut host, stream);
            }
            assert_eq!(collect(&mut host, root).len(), spans);
            host.memory()
        };
        let warm = (0..2).map(|_| round()).max().unwrap();
        let later = (0..6).map(|_| round()).max().unwrap();
        // What 300 requests hold is far more; the allocator may need a page to part and join.
        assert!(later <= warm + (128 << 10), "{warm} -> {later}");
    }
}
