//! What is recorded, why, and how much of it, by all workers of a proxy together.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::cast_precision_loss,
    reason = "a test says where it broke; counts are far below 2^52"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use meshweft_lab::client::{Client, Version, raw};
use meshweft_lab::collector::Span;
use meshweft_lab::config::{
    COLLECTOR, Direction, bootstrap, cluster, listener, meshweft, node, route,
};
use meshweft_lab::envoy::Envoy;
use meshweft_lab::load::{flood, paced};
use meshweft_lab::mesh::{Options, Workload, exporting};
use meshweft_lab::strategies::Strategies;
use serde_json::{Value, json};
use tokio::time::sleep;

const SECOND: u64 = 1_000_000_000;

/// How many requests a span stands for, as its `ot=th:…` says: 1 / (1 - 0.th).
fn adjusted_count(span: &Span) -> f64 {
    let digits = span.trace_state.strip_prefix("ot=th:");
    let digits = digits.unwrap_or_else(|| panic!("no threshold alone in {:?}", span.trace_state));
    let digit = |(place, digit): (i32, char)| {
        f64::from(digit.to_digit(16).expect("a hexadecimal digit")) / 16_f64.powi(place)
    };
    1.0 / (1.0 - (1..).zip(digits.chars()).map(digit).sum::<f64>())
}

/// Four standard deviations of how many of `total` a rate keeps.
fn by_chance(total: usize, rate: f64) -> f64 {
    4.0 * (total as f64 * rate * (1.0 - rate)).sqrt()
}

#[track_caller]
fn assert_share(kept: usize, total: usize, rate: f64) {
    let off = kept as f64 - total as f64 * rate;
    assert!(off.abs() <= by_chance(total, rate), "{kept} of {total}, not {rate}");
}

/// The 56 bits of a trace id that count.
fn randomness(trace_id: &str) -> u64 {
    let digits = trace_id.get(18..).expect("32 digits");
    u64::from_str_radix(digits, 16).expect("hexadecimal digits")
}

fn reason(span: &Span) -> &str {
    span.attribute("meshweft.sampling.reason")
}

// === Rates ===

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_keeps_its_share_and_the_next_hops_keep_the_same_traces() {
    const CONNECTIONS: usize = 10;
    const EACH: usize = 200;
    const TOTAL: usize = CONNECTIONS * EACH;
    // 1 - 0.25 is 0.c in hexadecimal, and 1 - 0.5 is 0.8.
    let at =
        |rate: f64, parent: &str| exporting(json!({"sampling": {"rate": rate, "parent": parent}}));
    let same = Workload::start(&at(0.25, "ignore")).await;
    let wider = Workload::start(&at(0.5, "ignore")).await;
    let options = Options {
        routes: vec![route("/same", "same"), route("/wider", "wider")],
        clusters: vec![
            cluster("same", same.envoy.listener("inbound")),
            cluster("wider", wider.envoy.listener("inbound")),
        ],
        ..Options::default()
    };
    let first = Workload::with(&at(0.25, "respect"), options).await;
    for path in ["/same", "/wider"] {
        let to = first.envoy.listener("outbound");
        assert_eq!(flood(Version::H1, to, path, CONNECTIONS, EACH).await, Vec::<String>::new());
    }

    let kept = first.settled(2 * TOTAL as i64).await;
    assert_share(kept.len(), 2 * TOTAL, 0.25);
    for span in &kept {
        assert_eq!(
            (&*span.parent_id, &*span.trace_state, reason(span)),
            ("", "ot=th:c", "default")
        );
    }
    let stands_for: f64 = kept.iter().map(adjusted_count).sum();
    let off = stands_for - 2.0 * TOTAL as f64;
    assert!(off.abs() <= by_chance(2 * TOTAL, 0.25) / 0.25, "they stand for {stands_for}");

    // By the trace of each span that the first proxy kept: the span that is the next one's parent.
    let kept: BTreeMap<_, _> = kept.iter().map(|span| (&*span.trace_id, &*span.span_id)).collect();
    for (next, rate, limit, state) in [
        (&same, 0.25, 0xc0_0000_0000_0000, "ot=th:c"),
        (&wider, 0.5, 0x80_0000_0000_0000, "ot=th:8"),
    ] {
        let spans = next.settled(TOTAL as i64).await;
        assert_share(spans.len(), TOTAL, rate);
        let by_trace: BTreeMap<_, _> = spans.iter().map(|span| (&*span.trace_id, span)).collect();
        let seen = next.app.seen();
        assert_eq!(seen.len(), TOTAL);
        for seen in seen {
            let traceparent = seen.one("traceparent");
            let fields: Vec<_> = traceparent.split('-').collect();
            let ["00", trace_id, span_id, flags] = *fields else { panic!("{traceparent}") };
            // The bits decide, here as at the first proxy.
            let bits = randomness(trace_id);
            assert_eq!(kept.contains_key(trace_id), bits >= 0xc0_0000_0000_0000, "{traceparent}");
            let Some(span) = by_trace.get(trace_id) else {
                assert!(bits < limit, "{traceparent}");
                assert_eq!((flags, &*seen.one("tracestate")), ("02", ""), "{traceparent}");
                continue;
            };
            assert!(bits >= limit, "{traceparent}");
            assert_eq!((flags, span_id), ("03", &*span.span_id));
            // Of a trace that came without the member nothing is told: it is not ours to add.
            let parent = kept.get(trace_id);
            let state = if parent.is_some() { state } else { "" };
            assert_eq!((&*seen.one("tracestate"), &*span.trace_state), (state, state));
            assert_eq!(reason(span), "default");
            if let Some(parent) = parent {
                assert_eq!(span.parent_id, *parent);
            }
        }
    }
    for lab in [first, same, wider] {
        lab.envoy.stop().await;
    }
}

// === Rules ===

#[tokio::test(flavor = "multi_thread")]
async fn rules_by_route_cluster_grpc_and_not() {
    const GRPC: (&str, &str) = ("content-type", "application/grpc+proto");
    let config = exporting(json!({"sampling": {"rate": 0, "rules": [
        {"name": "no-probe", "rate": 1, "match": {"path": {"prefix": "/inner"},
            "not": {"headers": {"x-probe": {"present": true}}}}},
        {"name": "route", "rate": 1, "match": {"route": ["pay", "refund"]}},
        {"name": "cluster", "rate": 1, "match": {"cluster": {"prefix": "slow-"}}},
        {"name": "method", "rate": 1, "match": {"grpc": {"service": "shop.Orders", "method": {"prefix": "Get"}}}},
        {"name": "service", "rate": 1, "match": {"grpc": {"service": {"suffix": ".Carts"}}}},
        {"name": "no-grpc", "rate": 1, "match": {"not": {"grpc": {}}, "path": {"prefix": "/shop."}}},
    ]}}));
    let named = |name: &str, prefix: &str, cluster: &str| {
        let mut route = route(prefix, cluster);
        route["name"] = json!(name);
        route
    };
    // Where a route leads is known before the filter runs; the application is behind all of them.
    let mut slow = cluster("slow-reports", "127.0.0.1:1".parse().expect("an address"));
    slow["connect_timeout"] = json!("0.5s");
    let options = Options {
        routes: vec![
            named("pay", "/pay", "app"),
            named("payment", "/statement", "app"),
            json!({"name": "refund", "match": {"prefix": "/refund"}, "direct_response": {"status": 202}}),
            route("/reports", "slow-reports"),
        ],
        clusters: vec![slow],
        ..Options::default()
    };
    let lab = Workload::with(&config, options).await;
    /// Path and headers; the status, and why it is recorded.
    type Case = (&'static str, &'static [(&'static str, &'static str)], u16, Option<&'static str>);
    let cases: [Case; 15] = [
        ("/inner/a", &[], 200, Some("rule:no-probe")),
        ("/inner/b", &[("x-probe", "1")], 200, None),
        ("/inner/c", &[("x-probe", "")], 200, None),
        ("/pay/a", &[], 200, Some("rule:route")),
        ("/refund/a", &[], 202, Some("rule:route")),
        // Another name of a route, and a path that only looks like it.
        ("/statement/a", &[], 200, None),
        ("/x/pay", &[], 200, None),
        ("/reports/a", &[], 503, Some("rule:cluster")),
        ("/shop.Orders/GetOne", &[GRPC], 200, Some("rule:method")),
        ("/shop.Orders/Forget", &[GRPC], 200, None),
        ("/old.shop.Orders/GetOne", &[GRPC], 200, None),
        ("/shop.Carts/Add", &[GRPC], 200, Some("rule:service")),
        // The same paths without gRPC.
        ("/shop.Orders/GetOne", &[], 200, Some("rule:no-grpc")),
        ("/shop.Carts/Add", &[("content-type", "application/json")], 200, Some("rule:no-grpc")),
        ("/shop.Carts/Add", &[("content-type", "application/grpc-web")], 200, Some("rule:no-grpc")),
    ];
    let client = Client::new(Version::H2);
    let mut sent = 0;
    for listener in ["inbound", "outbound"] {
        for (path, headers, status, expected) in cases {
            let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_bytes())).collect();
            let to = lab.envoy.listener(listener);
            let before = lab.collector.spans().len();
            let answer = client.send("POST", to, path, &headers, Bytes::new()).await;
            assert_eq!(answer.expect("an answer").status, status, "{listener} {path}");
            sent += 1;
            let spans = lab.settled(sent).await;
            let found: Vec<_> =
                spans.iter().skip(before).map(|s| (reason(s), &*s.trace_state)).collect();
            let expected: Vec<_> = expected.map(|reason| (reason, "ot=th:0")).into_iter().collect();
            assert_eq!(found, expected, "{listener} {path} {headers:?}");
        }
    }
    let names = ["no-probe", "route", "cluster", "method", "service", "no-grpc"];
    let metrics = lab.envoy.metrics_until(|m| m.get("requests") == Some(&sent)).await;
    let of = |name: &str| metrics.get(&format!("rule_{name}")).copied().unwrap_or(0);
    assert_eq!(names.map(of), [2, 4, 2, 2, 2, 6]);
    lab.envoy.stop().await;
}

/// What Envoy knows of a request when it comes, in its own language.
#[tokio::test(flavor = "multi_thread")]
async fn rules_by_expressions_of_cel() {
    let rule = |name: &str, matches: Value| json!({"name": name, "match": matches, "rate": 1});
    let cel = |text: &str| json!({"cel": text});
    let config = exporting(json!({"sampling": {"rate": 0, "rules": [
        rule("gold", cel("'x-tenant' in request.headers && request.headers['x-tenant'] == 'gold'")),
        rule("large", cel("request.size > 1000")),
        rule("search", cel("request.url_path.startsWith('/search') && request.query != ''")),
        rule("cluster", cel("xds.cluster_name == 'app-h2' && request.method != 'GET'")),
        rule("local", json!({"path": "/peer", "cel": "source.address.startsWith('127.0.0.1:') && !connection.mtls"})),
        // The host says no more than that they failed, and `not` makes no yes of that.
        rule("absent", json!({"path": "/absent", "cel": "request.headers['x-none'] == 'a'"})),
        rule("not-absent", json!({"path": "/absent", "not": {"cel": "request.headers['x-none'] == 'a'"}})),
        rule("early", json!({"path": "/early", "cel": "response.code == 200"})),
        rule("text", json!({"path": "/text", "cel": "request.method"})),
        rule("not", json!({"path": "/not", "not": {"cel": "request.method == 'POST'"}})),
    ]}}));
    let lab = Workload::start(&config).await;
    /// Method, path, headers, length of the body; why it is recorded; expressions that failed.
    type Case = (
        &'static str,
        &'static str,
        &'static [(&'static str, &'static str)],
        usize,
        Option<&'static str>,
        i64,
    );
    let cases: [Case; 12] = [
        ("GET", "/a", &[("x-tenant", "gold")], 0, Some("gold"), 0),
        ("GET", "/a", &[("x-tenant", "silver")], 0, None, 0),
        ("POST", "/a", &[], 2_000, Some("large"), 0),
        ("GET", "/search?q=a", &[], 0, Some("search"), 0),
        ("GET", "/search", &[], 0, None, 0),
        ("GET", "/peer", &[], 0, Some("local"), 0),
        ("GET", "/absent", &[], 0, None, 2),
        ("GET", "/absent", &[("x-none", "a")], 0, Some("absent"), 0),
        ("GET", "/early", &[], 0, None, 1),
        ("GET", "/text", &[], 0, None, 1),
        ("GET", "/not", &[], 0, Some("not"), 0),
        ("POST", "/not", &[], 0, None, 0),
    ];
    let client = Client::new(Version::H1);
    let (mut sent, mut failed) = (0, 0);
    for (method, path, headers, size, expected, failures) in cases {
        let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_bytes())).collect();
        let before = lab.collector.spans().len();
        let to = lab.envoy.listener("inbound");
        let body = Bytes::from(vec![b'a'; size]);
        let answer = client.send(method, to, path, &headers, body).await;
        assert_eq!(answer.expect("an answer").status, 200, "{path}");
        sent += 1;
        failed += failures;
        let spans = lab.settled(sent).await;
        let found: Vec<_> = spans.iter().skip(before).map(reason).collect();
        let expected: Vec<_> = expected.iter().map(|name| format!("rule:{name}")).collect();
        assert_eq!(found, expected, "{method} {path} {headers:?}");
        assert_eq!(lab.envoy.metric("cel_failed").await, failed, "{method} {path} {headers:?}");
    }
    let h2 = Client::new(Version::H2);
    let to = lab.envoy.listener("inbound-h2");
    h2.send("PUT", to, "/h2", &[], Bytes::new()).await.expect("an answer");
    let spans = lab.settled(sent + 1).await;
    assert_eq!(spans.last().map(reason), Some("rule:cluster"));
    lab.envoy.stop().await;
}

/// Envoy does not start with an expression that it cannot compile, and its log says where it is.
#[tokio::test(flavor = "multi_thread")]
async fn an_expression_that_does_not_compile_is_refused() {
    let rule = json!({"name": "a", "match": {"cel": "request.size >"}});
    let config = exporting(json!({"sampling": {"rules": [rule]}}));
    let filters = vec![meshweft(&config)];
    let listener = listener("inbound", Direction::Inbound, filters, vec![route("/", "app")], None);
    let address = "127.0.0.1:1".parse().expect("an address");
    let clusters = vec![cluster("app", address), cluster(COLLECTOR, address)];
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("envoy.json");
    let bootstrap = bootstrap(node("lab"), vec![listener], clusters);
    std::fs::write(&file, bootstrap.to_string()).expect("a file");
    let log = Envoy::validate(&file).await.expect_err("refused");
    assert!(
        log.contains(
            "meshweft: configuration: $.sampling.rules[0].match.cel: the expression does not compile"
        ),
        "{log}"
    );
}

/// The time of RFC 3339, in UTC.
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let (mut days, of_day) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!(
        "{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
        days + 1,
        since.subsec_millis()
    )
}

#[expect(clippy::disallowed_methods, reason = "the time of day, which rules expire by")]
fn wall() -> SystemTime {
    SystemTime::now()
}

#[test]
fn times_are_written_as_rfc_3339_has_them() {
    for (seconds, text) in [
        (0, "1970-01-01T00:00:00.250Z"),
        (951_782_400, "2000-02-29T00:00:00.250Z"),
        (1_772_323_199, "2026-02-28T23:59:59.250Z"),
        (1_767_225_599, "2025-12-31T23:59:59.250Z"),
    ] {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1_000 + 250);
        assert_eq!(rfc3339(time), text);
    }
}

/// Sends a request over a connection of its own, so that both workers get some; whether it is
/// recorded.
async fn is_recorded(lab: &Workload) -> bool {
    let request = b"GET /a HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let answer = raw(lab.envoy.listener("inbound"), request).await;
    assert_eq!(answer.map(|answer| answer.status), Some(200));
    let traceparent = lab.app.last().one("traceparent");
    assert!(traceparent.ends_with("-03") || traceparent.ends_with("-02"), "{traceparent}");
    traceparent.ends_with("-03")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_ends_by_itself_and_one_that_has_ended_is_named() {
    /// How long the rule lasts: the first time that is left once Envoy is up.
    const LASTS: [Duration; 3] =
        [Duration::from_secs(6), Duration::from_secs(20), Duration::from_secs(90)];
    /// What must be left of it, for requests before its end.
    const LEFT: Duration = Duration::from_secs(3);
    /// How late a worker may notice.
    const TICK: Duration = Duration::from_secs(1);
    const PAUSE: Duration = Duration::from_millis(20);
    let with = |until| {
        exporting(json!({"sampling": {"rate": 0, "rules": [
            {"name": "spent", "match": {"path": "/a"}, "rate": 1, "until": "2020-02-29T13:00:00+01:00"},
            {"name": "incident", "match": {"path": "/a"}, "rate": 1, "until": rfc3339(until)},
            {"name": "ended", "match": {"path": "/a"}, "rate": 1, "until": "2020-02-29T12:00:00Z"},
        ]}}))
    };
    let mut up = None;
    for lasts in LASTS {
        let until = wall() + lasts;
        let lab = Workload::start(&with(until)).await;
        if wall() + LEFT < until {
            up = Some((until, lab));
            break;
        }
        lab.envoy.stop().await;
    }
    let (until, lab) = up.expect("Envoy comes up within 87 seconds");
    let (mut recorded, mut before, mut after) = (0, 0, 0);
    while after < 10 {
        let sent = wall();
        let is_recorded = is_recorded(&lab).await;
        let answered = wall();
        recorded += i64::from(is_recorded);
        if answered < until {
            assert!(is_recorded, "{:?} before its end", until.duration_since(answered));
            before += 1;
        } else if sent > until + TICK {
            assert!(!is_recorded, "{:?} after its end", sent.duration_since(until));
            after += 1;
        }
        sleep(PAUSE).await;
    }
    assert!(before >= 10, "only {before}");
    let spans = lab.settled(i64::try_from(lab.app.seen().len()).expect("few")).await;
    assert_eq!(i64::try_from(spans.len()), Ok(recorded));
    for span in &spans {
        assert_eq!((reason(span), &*span.trace_state), ("rule:incident", "ot=th:0"));
    }
    assert_eq!(lab.envoy.metric("rule_incident").await, recorded);
    // Each worker says so, and the main thread, which tries the configuration first. How many
    // root contexts a thread makes of equal listeners differs from version to version.
    let log = lab.envoy.log();
    let mut threads = BTreeSet::new();
    for line in log.lines().filter(|line| line.contains("expired")) {
        assert!(line.ends_with("sampling rules that have expired are ignored: spent, ended"));
        threads.insert(line.split(['[', ']']).nth(3));
    }
    assert_eq!(threads.len(), 3, "{log}");
    lab.envoy.stop().await;
}

// === Limits ===

/// 200 requests a second, evenly, for so long, over connections to both workers; all spans by
/// their start, in seconds since the load began.
async fn under_load(sampling: Value, seconds: usize) -> (Workload, Vec<(f64, Span)>) {
    const PER_SECOND: u32 = 200;
    let lab = Workload::start(&exporting(json!({"sampling": sampling}))).await;
    let begin = wall().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let begin = u64::try_from(begin.as_nanos()).expect("before 2554");
    let total = PER_SECOND as usize * seconds;
    // Answers take a while, so that there are many connections.
    let to = lab.envoy.listener("inbound");
    let client = Client::new(Version::H1);
    let failures = paced(&client, to, "/delay/100", PER_SECOND, total).await;
    assert_eq!(failures, Vec::<String>::new());
    let stats = lab.envoy.stats().await;
    for worker in ["worker_0", "worker_1"] {
        let of_worker = format!("{worker}.downstream_cx_total");
        let own = stats.iter().filter(|(name, _)| name.ends_with(&of_worker));
        let connections: i64 = own.map(|(_, count)| count).sum();
        assert!(connections > 1, "{worker} had {connections}");
    }
    let spans = lab.settled(i64::try_from(total).expect("few")).await;
    let at = |span: &Span| (span.start - begin) as f64 / SECOND as f64;
    let mut spans: Vec<_> = spans.into_iter().map(|span| (at(&span), span)).collect();
    spans.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    (lab, spans)
}

/// How many spans began in these seconds.
fn between(spans: &[(f64, Span)], from: f64, to: f64) -> usize {
    spans.iter().filter(|(at, _)| (from..to).contains(at)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_holds_for_both_workers_together_and_is_used() {
    let (lab, spans) = under_load(json!({"limit_per_second": 20}), 12).await;
    for (at, span) in &spans {
        // In any ten seconds 5 % more, at most.
        let window = between(&spans, *at, at + 10.0);
        // A span begins up to the 10 ms of a lease away from its token: two at 200 a second.
        assert!(window <= 212, "{window} from {at} on");
        // What a limit might have dropped has no probability.
        assert_eq!((reason(span), &*span.trace_state), ("default", ""));
    }
    let used = between(&spans, 1.0, 11.0);
    assert!(used >= 190, "only {used}");
    let limited = 2_400 - i64::try_from(spans.len()).expect("few");
    lab.envoy.metrics_until(|metrics| metrics.get("limited") == Some(&limited)).await;
    lab.envoy.stop().await;
}

/// Ten times the load and back again, at a rule of its own, beside an operation that is rare.
#[tokio::test(flavor = "multi_thread")]
async fn a_rate_follows_the_load_to_its_target_and_rare_operations_have_their_floor() {
    const TARGET: f64 = 20.0;
    /// Requests per second, and for how long: time to settle and time to look at.
    const PHASES: [(u32, usize); 3] = [(40, 13), (400, 14), (40, 14)];
    /// A new load has its rate after so many seconds.
    const SETTLED: f64 = 10.0;
    let target = json!({"target_per_second": TARGET, "floor_per_minute": 2});
    let rule = json!({"name": "busy", "match": {"path": {"prefix": "/delay"}}, "adaptive": target});
    // Nothing is left of the default's rate but its floor.
    let sampling = json!({"rate": 0, "rules": [rule],
        "adaptive": {"target_per_second": 1, "floor_per_minute": 1}});
    let lab = Workload::start(&exporting(json!({"sampling": sampling}))).await;
    let to = lab.envoy.listener("inbound");
    let client = Client::new(Version::H1);
    let (mut sent, mut phases) = (0, Vec::new());
    for (per_second, seconds) in PHASES {
        phases.push(wall().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970"));
        let total = per_second as usize * seconds;
        sent += total;
        let failures = paced(&client, to, "/delay/100", per_second, total).await;
        assert_eq!(failures, Vec::<String>::new());
        // Of each phase two requests by an operation of its own.
        for _ in 0..2 {
            let path = format!("/rare/{per_second}");
            let answer = client.send("DELETE", to, &path, &[], Bytes::new()).await;
            assert_eq!(answer.expect("an answer").status, 200);
            sent += 1;
        }
    }
    let spans = lab.settled(i64::try_from(sent).expect("few")).await;
    let (busy, rare): (Vec<_>, Vec<_>) =
        spans.iter().partition(|span| span.attribute("url.path") == "/delay/100");
    // One a minute of `DELETE app`, of whichever path and worker, and none by a rate.
    let rare: Vec<_> = rare.iter().map(|span| (reason(span), &*span.trace_state)).collect();
    assert_eq!(rare, [("floor", "")]);
    for (span, (begin, (per_second, seconds))) in busy.iter().flat_map(|span| {
        let begun = |begin: &Duration| u128::from(span.start) >= begin.as_nanos();
        let phase = phases.iter().zip(PHASES).rfind(|(begin, _)| begun(begin));
        phase.map(|phase| (span, phase))
    }) {
        let at = (u128::from(span.start) - begin.as_nanos()) as f64 / SECOND as f64;
        assert!(at < seconds as f64 + 2.0, "{at} of {seconds}");
        if at < SETTLED {
            continue;
        }
        let wanted = f64::from(per_second) / TARGET;
        let stands_for = adjusted_count(span);
        assert!(
            (wanted * 0.9..wanted * 1.1).contains(&stands_for),
            "{stands_for} in place of {wanted}, {at} s after the load was {per_second}"
        );
        assert_eq!(reason(span), "rule:busy");
    }
    for (begin, (per_second, seconds)) in phases.iter().zip(PHASES) {
        let at = |span: &Span| (u128::from(span.start).saturating_sub(begin.as_nanos())) as f64;
        let end = seconds as f64;
        let of_phase = busy.iter().map(|span| at(span) / SECOND as f64);
        let kept = of_phase.filter(|at| (SETTLED..end).contains(at)).count();
        let total = (end - SETTLED) * f64::from(per_second);
        assert_share(kept, total as usize, TARGET / f64::from(per_second));
    }
    lab.envoy.stop().await;
}

// === Remote ===

/// Requests one after the other, of both workers, until the last twenty are all `recorded` or
/// none is.
async fn until_recorded(lab: &Workload, recorded: bool) {
    const PATIENCE: Duration = Duration::from_secs(30);
    let begin = wall();
    let mut in_a_row = 0;
    while in_a_row < 20 {
        let waited = wall().duration_since(begin).unwrap_or_default();
        assert!(waited < PATIENCE, "not {recorded} after {waited:?}");
        in_a_row = if is_recorded(lab).await == recorded { in_a_row + 1 } else { 0 };
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_strategies_is_asked_by_one_worker_and_followed_by_all() {
    let share = |rate: f64| {
        json!({"strategyType": "PROBABILISTIC",
        "probabilisticSampling": {"samplingRate": rate}})
        .to_string()
    };
    let server = Strategies::start(503, "").await;
    let config = exporting(json!({"sampling": {"rate": 0,
        "remote": {"cluster": "strategies", "interval": "1s"}}}));
    let clusters = vec![cluster("strategies", server.address())];
    let lab = Workload::with(&config, Options { clusters, ..Options::default() }).await;
    lab.envoy.metrics_until(|metrics| metrics.get("remote_failures") >= Some(&2)).await;
    assert!(!is_recorded(&lab).await, "without an answer sampling.rate decides");
    let begin = wall();
    let before = server.asked().len();
    server.answer(200, &share(1.0));
    until_recorded(&lab, true).await;
    // What is bad, or does not come, changes nothing.
    for (status, body) in [(200, "<html>"), (404, ""), (200, &*share(2.0))] {
        let failures = lab.envoy.metric("remote_failures").await;
        server.answer(status, body);
        let more = failures + 2;
        lab.envoy.metrics_until(|metrics| metrics.get("remote_failures") >= Some(&more)).await;
        assert!(is_recorded(&lab).await, "{status} {body}");
    }
    server.answer(
        200,
        r#"{"operationSampling": {"defaultSamplingProbability": 1,
        "perOperationStrategies": [{"operation": "GET",
            "probabilisticSampling": {"samplingRate": 0}}]}}"#,
    );
    until_recorded(&lab, false).await;
    let to = lab.envoy.listener("inbound");
    let client = Client::new(Version::H1);
    client.send("PUT", to, "/other", &[], Bytes::new()).await.expect("an answer");
    server.answer(
        200,
        r#"{"strategyType": "RATE_LIMITING",
        "rateLimitingSampling": {"maxTracesPerSecond": 1000}}"#,
    );
    until_recorded(&lab, true).await;

    // One a second, and not one of each worker and listener.
    let asked = server.asked();
    let seconds = wall().duration_since(begin).expect("later").as_secs_f64();
    let questions = (asked.len() - before) as f64;
    assert!(
        (seconds * 0.5 - 2.0..seconds + 2.0).contains(&questions),
        "{questions} in {seconds} s"
    );
    assert!(asked.iter().all(|path| path == "/sampling?service=lab"), "{asked:?}");
    let requests = i64::try_from(lab.app.seen().len()).expect("few");
    let spans = lab.settled(requests).await;
    let told: BTreeSet<_> = spans
        .iter()
        .map(|span| (reason(span), span.attribute("http.request.method"), &*span.trace_state))
        .collect();
    let expected =
        [("remote", "GET", ""), ("remote", "GET", "ot=th:0"), ("remote", "PUT", "ot=th:0")];
    assert_eq!(told.into_iter().collect::<Vec<_>>(), expected);
    // One line a minute, whichever worker it was.
    let log = lab.envoy.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("remote sampling")).collect();
    assert!(
        matches!(*lines, [line] if line.ends_with("remote sampling: cluster \"strategies\" answered \
            with status 503; sampling.rate decides until there is an answer (further failures are \
            counted only)")),
        "{lines:#?}"
    );
    lab.envoy.stop().await;
}
