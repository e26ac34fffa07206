//! Every file of `config-examples/`, asked about requests.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says where it broke")]

use core::time::Duration;
use std::rc::Rc;

use meshweft_core::config::{
    AccessLogField, Compression, Config, Infer, KeepBaggage, Propagate, Protocol, ResponseHeader,
    Scalar, Trust,
};
use meshweft_core::matching::{Facts, Side};
use meshweft_core::model::{
    Exchange, Format, HeaderEdit, Headers, Local, MonoNanos, SpanId, TraceFlags, TraceId, UnixNanos,
};
use meshweft_core::propagation::{
    Incoming, ParentDecision, RemoteContext, SpanContext, Standing, TraceState, baggage_attributes,
    carry_baggage, extract,
};
use meshweft_core::sampling::{
    Decision, Ending, KeepReason, Moment, Origin, Reason, Sampler, Verdict, keep_reason,
};
use meshweft_core::span::{Describer, Part, SpanKind, Subject, Value};
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
use wasm_bindgen_test::wasm_bindgen_test as test;

const ADAPTIVE: &str = include_str!("../../../config-examples/adaptive.json");
const B3_MESH: &str = include_str!("../../../config-examples/b3-mesh.json");
const CEL: &str = include_str!("../../../config-examples/cel.json");
const COLLECTORS: &str = include_str!("../../../config-examples/collectors.json");
const DEBUG: &str = include_str!("../../../config-examples/debug.json");
const EDGE_GATEWAY: &str = include_str!("../../../config-examples/edge-gateway.json");
const FAILURE_PATHS: &str = include_str!("../../../config-examples/failure-paths.json");
const FAILURES: &str = include_str!("../../../config-examples/failures.json");
const GRPC: &str = include_str!("../../../config-examples/grpc.json");
const HEALTH_CHECKS: &str = include_str!("../../../config-examples/health-checks.json");
const INCIDENT: &str = include_str!("../../../config-examples/incident.json");
const LIMITS: &str = include_str!("../../../config-examples/limits.json");
const MINIMAL: &str = include_str!("../../../config-examples/minimal.json");
const MIXED_FORMATS: &str = include_str!("../../../config-examples/mixed-formats.json");
const READABLE_SPANS: &str = include_str!("../../../config-examples/readable-spans.json");
const PRODUCTION: &str = include_str!("../../../config-examples/production.json");
const RATE: &str = include_str!("../../../config-examples/rate.json");
const REMOTE: &str = include_str!("../../../config-examples/remote.json");
const UNINSTRUMENTED: &str = include_str!("../../../config-examples/uninstrumented.json");

const SAMPLED: Option<ParentDecision> = Some(ParentDecision::Sample);
const DROPPED: Option<ParentDecision> = Some(ParentDecision::Drop);

fn config(text: &str) -> Config {
    let env = |name: &str| match name {
        "MESHWEFT_SECRET" => Some("0123456789abcdef".to_owned()),
        "OTLP_TOKEN" => Some("t0ken".to_owned()),
        _ => None,
    };
    Config::parse(text.as_bytes(), &env).unwrap()
}

/// The cluster of the only collector.
fn cluster(config: &Config) -> String {
    let [collector] = &*config.export.as_ref().unwrap().collectors else { panic!("{config:?}") };
    collector.cluster.clone()
}

/// The properties of the host that say who calls.
struct Peer<'a>(&'a [(&'a str, &'a str)]);

impl Exchange for Peer<'_> {
    fn request_headers(&self) -> Headers {
        Headers::default()
    }
    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        let name = path.join(".");
        let value = self.0.iter().find(|(known, _)| *known == name);
        value.map(|(_, value)| value.as_bytes().to_vec())
    }
}

/// A trace id that is recorded by rates above `1 - share`.
fn id(share: f64) -> TraceId {
    let hex = match share {
        0.03 => b"0af7651916cd43dd8407ae147ae147ae",
        0.4 => b"0af7651916cd43dd8466666666666666",
        0.92 => b"0af7651916cd43dd84eb851eb851eb85",
        0.96 => b"0af7651916cd43dd84f5c28f5c28f5c2",
        0.995 => b"0af7651916cd43dd84feb851eb851eb8",
        _ => panic!("{share}"),
    };
    TraceId::from_hex(hex).unwrap()
}

/// What the example decides for `METHOD authority/path` with one more header.
fn decided(
    config: &Config,
    request: &str,
    header: (&str, &str),
    parent: Option<ParentDecision>,
    share: f64,
) -> (bool, String) {
    let (method, target) = request.split_once(' ').unwrap();
    let (authority, path) = target.split_at(target.find('/').unwrap());
    let pairs = [(":method", method), (":path", path), (":authority", authority), header];
    let headers: Headers = pairs.into_iter().collect();
    let facts = Facts::new(&headers, &Peer(&[]), Side::new(config.mode, false));
    let mut sampler = Sampler::new(&config.sampling, "shop", Rc::default());
    let Decision { verdict, reason, .. } =
        sampler.decide(&facts, Origin::new(id(share), parent, None), &Local::default());
    let reason = match reason {
        Reason::Default => "default".to_owned(),
        Reason::Parent => "parent".to_owned(),
        Reason::Rule(index) => config.sampling.rules.get(index).unwrap().name.clone(),
        other => other.describe(&config.sampling).into_owned(),
    };
    (verdict == Verdict::RecordAndSample, reason)
}

/// A request, a header, the parent, the trace's share; whether it is recorded, and why.
type Case<'a> = (&'a str, (&'a str, &'a str), Option<ParentDecision>, f64, bool, &'a str);

#[track_caller]
fn check(text: &str, cases: &[Case<'_>]) {
    let config = config(text);
    for &(request, header, parent, share, recorded, reason) in cases {
        assert_eq!(
            decided(&config, request, header, parent, share),
            (recorded, reason.to_owned()),
            "{request} {header:?} {parent:?} {share}"
        );
    }
}

const NONE: (&str, &str) = ("accept", "*/*");

#[test]
fn minimal() {
    check(
        MINIMAL,
        &[
            ("GET shop/", NONE, None, 0.03, true, "default"),
            ("GET shop/", NONE, SAMPLED, 0.03, true, "parent"),
            ("GET shop/", NONE, DROPPED, 0.03, false, "parent"),
        ],
    );
    assert_eq!(cluster(&config(MINIMAL)), "otel-collector");
}

#[test]
fn collectors() {
    check(COLLECTORS, &[("GET shop/", NONE, None, 0.03, true, "default")]);
    let export = config(COLLECTORS).export.unwrap();
    assert_eq!(export.protocol, Protocol::OtlpGrpc);
    assert_eq!(export.compression, Compression::Gzip);
    let far = "otel-collector.observability.svc.cluster.local";
    let clusters: Vec<_> = export.collectors.iter().map(|to| to.cluster.as_str()).collect();
    assert_eq!(clusters, ["otel-collector-zone", &format!("outbound|4317||{far}")]);
    let authorities: Vec<_> = export.collectors.iter().map(|to| to.authority.as_str()).collect();
    assert_eq!(authorities, ["otel-collector-zone", &format!("{far}:4317")]);
}

#[test]
fn rate() {
    check(
        RATE,
        &[
            ("GET shop/", NONE, None, 0.92, true, "default"),
            ("GET shop/", NONE, None, 0.4, false, "default"),
            ("GET shop/", NONE, SAMPLED, 0.03, true, "parent"),
            ("GET shop/", NONE, DROPPED, 0.96, false, "parent"),
        ],
    );
}

/// How many of 100 requests at once are recorded, and why the last one of each kind was or was not.
fn of_a_hundred(config: &Config, sampler: &mut Sampler, request: &str, shared: &Local) -> usize {
    let (method, target) = request.split_once(' ').unwrap();
    let (authority, path) = target.split_at(target.find('/').unwrap());
    let pairs = [(":method", method), (":path", path), (":authority", authority)];
    let headers: Headers = pairs.into_iter().collect();
    let facts = Facts::new(&headers, &Peer(&[]), Side::new(config.mode, false));
    let decisions = (0..100).map(|_| {
        let origin = Origin::new(id(0.995), None, None);
        sampler.decide(&facts, origin, shared).verdict == Verdict::RecordAndSample
    });
    decisions.filter(|recorded| *recorded).count()
}

/// A host to which all expressions hold.
struct Agrees;

impl Exchange for Agrees {
    fn request_headers(&self) -> Headers {
        Headers::default()
    }
    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        panic!("{path:?}")
    }
    fn evaluate(&self, _: u32) -> Option<bool> {
        Some(true)
    }
}

#[test]
fn cel() {
    // Without a host that compiles them expressions do not hold.
    check(
        CEL,
        &[
            ("POST shop/upload", NONE, None, 0.995, true, "default"),
            ("GET shop/api/a", NONE, None, 0.92, false, "default"),
        ],
    );
    let mut config = config(CEL);
    let mut compiled = Vec::new();
    let mut compiler = |text: &str| {
        compiled.push(text.to_owned());
        Ok(7)
    };
    config.compile(&mut compiler).unwrap();
    assert_eq!(compiled.len(), 2);
    let mut sampler = Sampler::new(&config.sampling, "shop", Rc::default());
    for (method, path, rule) in
        [("POST", "/api/a", Some(0)), ("GET", "/api/a", Some(1)), ("GET", "/a", None)]
    {
        let pairs = [(":method", method), (":path", path), (":authority", "shop")];
        let headers: Headers = pairs.into_iter().collect();
        let facts = Facts::new(&headers, &Agrees, Side::new(config.mode, false));
        let origin = Origin::new(id(0.92), None, None);
        assert_eq!(sampler.decide(&facts, origin, &Local::default()).rule, rule, "{method} {path}");
    }
}

#[test]
fn limits() {
    let config = config(LIMITS);
    let shared = Local::default();
    let mut sampler = Sampler::new(&config.sampling, "shop", Rc::default());
    let mut of = |request| of_a_hundred(&config, &mut sampler, request, &shared);
    assert_eq!(of("GET shop/search"), 5);
    // The limit over all is what the searches left of 50: a burst is a little less than a second's.
    assert_eq!(of("GET shop/"), 44);
    assert_eq!(of("POST shop/orders/7/pay"), 0);
    shared.clock.set(MonoNanos(2_000_000_000));
    assert_eq!(of("POST shop/orders/7/pay"), 49);
    check(LIMITS, &[("GET shop/", NONE, SAMPLED, 0.03, true, "parent")]);
}

#[test]
fn adaptive() {
    let config = config(ADAPTIVE);
    let shared = Local::default();
    let mut sampler = Sampler::new(&config.sampling, "shop", Rc::default());
    // A hundred a second, on one worker: a fifth of it is the target, and the first of each
    // operation is there besides.
    for second in 1..=30 {
        shared.clock.set(MonoNanos(second * 1_000_000_000));
        sampler.on_tick(shared.clock.get(), UnixNanos::default(), &shared);
        of_a_hundred(&config, &mut sampler, "GET shop/", &shared);
    }
    let one = |sampler: &mut Sampler, request: &str, share: f64| {
        let (method, target) = request.split_once(' ').unwrap();
        let (authority, path) = target.split_at(target.find('/').unwrap());
        let pairs = [(":method", method), (":path", path), (":authority", authority)];
        let headers: Headers = pairs.into_iter().collect();
        let facts = Facts::new(&headers, &Peer(&[]), Side::new(config.mode, false));
        let decision = sampler.decide(&facts, Origin::new(id(share), None, None), &shared);
        let reason = decision.reason.describe(&config.sampling).into_owned();
        (decision.verdict == Verdict::RecordAndSample, reason)
    };
    assert_eq!(one(&mut sampler, "GET shop/", 0.92), (true, "adaptive".to_owned()));
    assert_eq!(one(&mut sampler, "GET shop/", 0.4), (false, "adaptive".to_owned()));
    assert_eq!(one(&mut sampler, "DELETE shop/", 0.03), (true, "floor".to_owned()));
    assert_eq!(one(&mut sampler, "DELETE shop/", 0.03), (false, "adaptive".to_owned()));
    // Payments have a target of their own, and few of them.
    assert_eq!(one(&mut sampler, "POST shop/orders/7/pay", 0.03), (true, "rule:pay".to_owned()));
}

#[test]
fn remote() {
    let config = config(REMOTE);
    check(
        REMOTE,
        &[
            // Until the server has answered.
            ("GET shop/", NONE, None, 0.92, false, "default"),
            ("GET shop/", NONE, None, 0.96, true, "default"),
            ("GET shop/healthz", NONE, None, 0.96, false, "health"),
        ],
    );
    let shared = Local::default();
    let mut sampler = Sampler::new(&config.sampling, "shop", Rc::default());
    let poll = sampler.poll(MonoNanos(1), &shared).unwrap();
    assert_eq!(poll.cluster, "jaeger-collector");
    let path = (":path".to_owned(), "/sampling?service=shop".to_owned());
    assert!(poll.headers.contains(&path), "{:?}", poll.headers);
    let all = br#"{"probabilisticSampling": {"samplingRate": 1}}"#;
    assert_eq!(sampler.on_answer(Ok(all), MonoNanos(1), &shared), Ok(()));
    assert_eq!(of_a_hundred(&config, &mut sampler, "GET shop/", &shared), 100);
    assert_eq!(of_a_hundred(&config, &mut sampler, "GET shop/healthz", &shared), 0);
}

#[test]
fn incident() {
    let probe = ("user-agent", "kube-probe/1.30");
    let orders = "GET cart.payments.svc.cluster.local:80/orders/7";
    check(
        INCIDENT,
        &[
            (orders, NONE, None, 0.03, true, "incident"),
            (orders, NONE, DROPPED, 0.03, true, "incident"),
            (orders, probe, DROPPED, 0.03, false, "parent"),
            ("GET cart.payments.svc.cluster.local/", NONE, None, 0.03, false, "default"),
            ("GET cart.shop.svc.cluster.local/orders/7", NONE, None, 0.96, true, "default"),
        ],
    );
    // 18:00 UTC on 2030-07-01.
    let end = 1_909_159_200_000_000_000;
    let config = config(INCIDENT);
    for (wall, expired) in [(end - 1, &[][..]), (end, &["incident"])] {
        let mut sampler = Sampler::new(&config.sampling, "shop", Rc::default());
        sampler.on_tick(MonoNanos::default(), UnixNanos(wall), &Local::default());
        assert_eq!(sampler.expired().collect::<Vec<_>>(), expired, "{wall}");
    }
}

/// How a request ended, by the properties of the host.
struct Ended<'a>(&'a [(&'a str, i64)]);

impl Exchange for Ended<'_> {
    fn request_headers(&self) -> Headers {
        Headers::default()
    }
    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        let name = path.join(".");
        let value = self.0.iter().find(|(known, _)| *known == name);
        value.map(|(_, value)| value.to_le_bytes().to_vec())
    }
}

/// Why the example keeps a request of this path that ended so.
fn kept(config: &Config, path: &str, grpc: bool, ended: &[(&str, i64)]) -> Option<&'static str> {
    let content_type = if grpc { "application/grpc" } else { "text/html" };
    let pairs = [(":method", "GET"), (":path", path), ("content-type", content_type)];
    let headers: Headers = pairs.into_iter().collect();
    let (side, ended) = (Side::new(config.mode, false), Ended(ended));
    let facts = Facts::new(&headers, &ended, side);
    let mut sampler = Sampler::new(&config.sampling, "shop", Rc::default());
    let origin = Origin::new(id(0.03), None, None);
    let decision = sampler.decide(&facts, origin, &Local::default());
    assert_eq!(decision.verdict, Verdict::Drop);
    let keep = sampler.keep(&decision)?;
    keep_reason(keep, &Ending::new(&ended, side, &headers, Moment::End { is_whole: true }))
        .map(KeepReason::name)
}

#[test]
fn failures() {
    check(
        FAILURES,
        &[
            ("GET shop/", NONE, None, 0.92, false, "default"),
            ("GET shop/", NONE, None, 0.995, true, "default"),
            ("GET shop/healthz", NONE, None, 0.995, false, "probes"),
        ],
    );
    let config = config(FAILURES);
    let (code, flags, took) = ("response.code", "response.flags", "request.duration");
    for (path, grpc, ended, why) in [
        ("/", false, &[(code, 200), (took, 1_000_000_000)][..], None),
        ("/", false, &[(code, 200), (took, 1_000_000_001)], Some("slower_than")),
        ("/", false, &[(code, 502)], Some("errors")),
        ("/", false, &[(code, 404)], None),
        ("/", false, &[(code, 429), (flags, 1 << 7)], Some("response_flags")),
        ("/", true, &[(code, 200), ("response.grpc_status", 8)], Some("grpc_status")),
        ("/healthz", false, &[(code, 502)], None),
    ] {
        assert_eq!(kept(&config, path, grpc, ended), why, "{path} {ended:?}");
    }
}

#[test]
fn failure_paths() {
    check(
        FAILURE_PATHS,
        &[
            ("GET shop/", NONE, None, 0.995, false, "default"),
            ("GET shop/healthz", NONE, None, 0.995, false, "probes"),
        ],
    );
    let config = config(FAILURE_PATHS);
    let secret = Some("0123456789abcdef".to_owned());
    let keep = config.sampling.keep.as_ref().unwrap();
    assert_eq!(keep.propagate, Some(Propagate { secret }));
    for (path, code, why) in [("/", 500, Some("errors")), ("/", 200, None), ("/healthz", 500, None)]
    {
        assert_eq!(kept(&config, path, false, &[("response.code", code)]), why, "{path} {code}");
    }
}

#[test]
fn grpc() {
    let grpc = ("content-type", "application/grpc+proto");
    let json = ("content-type", "application/json");
    check(
        GRPC,
        &[
            ("POST shop/grpc.health.v1.Health/Check", grpc, SAMPLED, 0.995, false, "health"),
            ("POST shop/shop.v1.Cart/AddItem", grpc, None, 0.03, true, "writes"),
            ("POST shop/shop.v1.Cart/DeleteAll", grpc, None, 0.03, true, "writes"),
            ("POST shop/shop.v1.Cart/List", grpc, None, 0.03, false, "default"),
            ("POST shop/shop.v1.Cart/List", grpc, None, 0.92, true, "default"),
            ("POST shop/shop.v1.Cart/AddItem", json, None, 0.96, false, "plain-http"),
            ("POST shop/shop.v1.Cart/AddItem", json, None, 0.995, true, "plain-http"),
        ],
    );
}

#[test]
fn production() {
    let canary = ("x-canary", "");
    check(
        PRODUCTION,
        &[
            ("GET shop/", NONE, None, 0.92, false, "default"),
            ("GET shop/", NONE, None, 0.96, true, "default"),
            ("GET shop/", NONE, SAMPLED, 0.03, true, "parent"),
            ("GET shop/healthz?full", NONE, None, 0.995, false, "probes"),
            ("POST shop/orders/7/pay", NONE, None, 0.03, true, "pay"),
            ("GET shop/orders/7/pay", NONE, None, 0.03, false, "default"),
            ("POST shop/orders/7/8/pay", NONE, None, 0.03, false, "default"),
            ("GET shop/", canary, None, 0.4, false, "canary"),
            ("GET shop/", canary, None, 0.92, true, "canary"),
        ],
    );
    let export = config(PRODUCTION).export.unwrap();
    let collector = "otel-collector.observability.svc.cluster.local";
    let [only] = &*export.collectors else { panic!("{export:?}") };
    assert_eq!(only.cluster, format!("outbound|4318||{collector}"));
    assert_eq!(only.authority, format!("{collector}:4318"));
    assert_eq!(export.headers, [("authorization".to_owned(), "Bearer t0ken".to_owned())]);
    let without = Config::parse(PRODUCTION.as_bytes(), &|_| None).unwrap_err();
    assert_eq!(without.path, "$.export.headers.authorization");
}

#[test]
fn debug() {
    check(
        DEBUG,
        &[
            ("GET shop/", NONE, None, 0.03, true, "default"),
            ("GET shop/", NONE, DROPPED, 0.03, true, "default"),
            ("GET shop/", NONE, SAMPLED, 0.03, true, "default"),
        ],
    );
}

#[test]
fn health_checks() {
    let kubernetes = ("user-agent", "kube-probe/1.31");
    let google = ("user-agent", "GoogleHC/1.0");
    let browser = ("user-agent", "Mozilla/5.0");
    check(
        HEALTH_CHECKS,
        &[
            ("GET shop/", kubernetes, None, 0.995, false, "kubernetes"),
            ("GET shop/", google, SAMPLED, 0.995, false, "load-balancer"),
            ("GET shop/health", browser, None, 0.995, false, "paths"),
            ("GET shop/healthz", browser, None, 0.995, false, "paths"),
            ("HEAD shop/readyz/db?verbose", browser, SAMPLED, 0.995, false, "paths"),
            ("POST shop/readyz", browser, None, 0.03, true, "default"),
            ("GET shop/healthy-food", browser, None, 0.03, true, "default"),
            ("POST shop/grpc.health.v1.Health/Check", browser, None, 0.995, false, "grpc"),
            ("GET shop/", browser, DROPPED, 0.03, false, "parent"),
        ],
    );
}

#[test]
fn b3_mesh() {
    check(
        B3_MESH,
        &[
            ("GET shop.example/", NONE, None, 0.92, true, "default"),
            ("GET shop.example/", NONE, None, 0.4, false, "default"),
            ("GET Cart.shop.svc.cluster.local:8080/", NONE, None, 0.96, false, "internal"),
            ("GET cart.shop.svc.cluster.local/", NONE, None, 0.995, true, "internal"),
            (
                "GET cart.shop.svc.cluster.local/",
                NONE,
                Some(ParentDecision::Deferred),
                0.96,
                false,
                "internal",
            ),
            (
                "GET cart.shop.svc.cluster.local/",
                NONE,
                Some(ParentDecision::Debug),
                0.03,
                true,
                "parent",
            ),
        ],
    );
    let propagation = config(B3_MESH).propagation;
    assert_eq!(propagation.extract, [Format::B3, Format::B3Multi, Format::TraceContext]);
    assert_eq!(propagation.inject, [Format::B3Multi, Format::TraceContext]);
}

#[test]
fn mixed_formats() {
    check(MIXED_FORMATS, &[("GET shop/", NONE, None, 0.03, true, "default")]);
    let propagation = config(MIXED_FORMATS).propagation;
    let headers: Headers =
        [("uber-trace-id", "af7651916cd43dd8448eb211c80319c:b7ad6b7169203331:0:1")]
            .into_iter()
            .chain([("uberctx-tenant", "a%20b")])
            .collect();
    let standing = Standing::of(&headers);
    assert_eq!(
        extract(&propagation.extract, &standing).incoming,
        Incoming::Context(RemoteContext {
            trace_id: TraceId::from_hex(b"0af7651916cd43dd8448eb211c80319c").unwrap(),
            parent_id: SpanId::from_hex(b"b7ad6b7169203331").ok(),
            decision: ParentDecision::Sample,
            random: false,
            state: TraceState::default(),
        })
    );
    assert_eq!(
        carry_baggage(&propagation, &standing),
        [HeaderEdit::Set("baggage".into(), "tenant=a%20b".to_owned())]
    );
    assert_eq!(
        baggage_attributes(&propagation.baggage, &standing),
        [("tenant".to_owned(), "a b".to_owned())]
    );
    let all = [AccessLogField::TraceId, AccessLogField::SpanId, AccessLogField::Sampled];
    assert_eq!(propagation.access_log, all);
}

#[test]
fn uninstrumented() {
    check(UNINSTRUMENTED, &[("GET shop/", NONE, None, 0.03, true, "default")]);
    let correlation = config(UNINSTRUMENTED).correlation;
    assert_eq!(correlation.headers, ["x-request-id", "x-correlation-id"]);
    assert_eq!((correlation.linger, correlation.capacity), (Duration::from_secs(5), 16_384));
    assert_eq!(correlation.infer, Infer::Off);
}

#[test]
fn edge_gateway() {
    let config = config(EDGE_GATEWAY);
    let side = Side::new(config.mode, false);
    assert_eq!(side, Side::Gateway);
    let headers = Headers::default();
    let identity = |id| ("connection.uri_san_peer_certificate", id);
    let address = |address| ("source.address", address);
    for (peer, trust) in [
        (&[address("203.0.113.9:4711")][..], Trust::Restart),
        (&[address("[2001:db8::9]:4711")], Trust::Restart),
        (&[address("172.32.0.1:4711")], Trust::Restart),
        (&[address("100.64.0.1:4711")], Trust::Restart),
        (&[], Trust::Restart),
        (&[identity("spiffe://elsewhere/ns/shop/sa/cart")], Trust::Restart),
        (&[identity("spiffe://cluster.local/ns/shop/sa/cart/more")], Trust::Restart),
        (
            &[identity("spiffe://cluster.local/ns/shop/sa/cart"), address("203.0.113.9:4711")],
            Trust::Continue,
        ),
        (&[address("10.1.2.3:4711")], Trust::Continue),
        (&[address("172.16.0.1:4711")], Trust::Continue),
        (&[address("172.31.0.1:4711")], Trust::Continue),
        (&[address("192.168.7.7:4711")], Trust::Continue),
        (&[address("[fd00::7]:4711")], Trust::Continue),
        (&[address("[fe00::7]:4711")], Trust::Restart),
        (&[identity("fd00::7"), address("203.0.113.9:4711")], Trust::Restart),
    ] {
        let peer = Peer(peer);
        let facts = Facts::new(&headers, &peer, side);
        assert_eq!(facts.trust(&config.propagation.trust), trust, "{:?}", peer.0);
    }
    let strip = config.propagation.strip.as_ref().unwrap();
    for (authority, stripped) in [
        ("partner.example", true),
        ("API.Partner.Example:443", true),
        ("eu.api.partner.example", true),
        ("notpartner.example", false),
        ("shop.svc.cluster.local", false),
    ] {
        let headers: Headers = [(":authority", authority)].into_iter().collect();
        let facts = Facts::new(&headers, &Peer(&[]), side);
        assert_eq!(facts.host_fits(strip), stripped, "{authority}");
    }
    assert_eq!(config.propagation.response, [ResponseHeader::TraceResponse]);
    assert_eq!(config.propagation.baggage.keep, KeepBaggage::Only(Vec::new()));
    check(
        EDGE_GATEWAY,
        &[
            ("GET shop/", NONE, None, 0.92, true, "default"),
            ("GET shop/", NONE, None, 0.4, false, "default"),
            ("GET shop/", NONE, SAMPLED, 0.03, true, "parent"),
        ],
    );
}

/// Answers with one header, after a token was checked.
struct Ordered;

impl Exchange for Ordered {
    fn request_headers(&self) -> Headers {
        Headers::default()
    }
    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        let name = path.join(".");
        (name == "metadata.filter_metadata.envoy.filters.http.jwt_authn.payload.sub")
            .then(|| b"u17, ann@example.test".to_vec())
    }
    fn response_header(&self, name: &str) -> Option<Vec<u8>> {
        (name == "x-order-items").then(|| b"3".to_vec())
    }
}

#[test]
fn readable_spans() {
    let env = |name: &str| (name == "REGION").then(|| "eu-1".to_owned());
    let config = Config::parse(READABLE_SPANS.as_bytes(), &env).unwrap();
    let headers: Headers = [
        (":method", "POST"),
        (":path", "/orders/7/pay?page=2&card=4111111111111111&to=ann@example.test"),
        ("user-agent", "ann@example.test with 4111 1111 1111 1111"),
        ("x-tenant-id", "acme"),
    ]
    .into_iter()
    .collect();
    let context = SpanContext {
        trace_id: id(0.4),
        span_id: SpanId::from_bytes([1; 8]).unwrap(),
        flags: TraceFlags::SAMPLED,
        debug: false,
        state: TraceState::default(),
    };
    let subject = Subject {
        context: &context,
        parent_id: None,
        kind: SpanKind::Server,
        headers: &headers,
        correlation: None,
        reason: "default",
        keep: None,
        baggage: &[],
        links: &[],
    };
    let span = Describer::new(&config.spans).describe(subject, Part::Whole, None, &Ordered);
    assert_eq!(span.name, "POST /orders/{id}/pay");
    let lines = span.attributes.iter().map(|attribute| {
        let value = match &attribute.value {
            Value::Scalar(Scalar::String(text)) => text.clone(),
            Value::Scalar(Scalar::Int(number)) => number.to_string(),
            other => format!("{other:?}"),
        };
        format!("{}={value}", attribute.key)
    });
    assert_eq!(
        lines.collect::<Vec<_>>(),
        [
            "http.request.method=POST",
            "error.type=_OTHER",
            "url.path=/orders/7/pay",
            "url.query=page=2",
            "http.route=/orders/{id}/pay",
            "user_agent.original=<mail> with <card>",
            "meshweft.sampling.reason=default",
            "tenant.id=acme",
            "order.items=3",
            "user.id=u17, <mail>",
            "cloud.region=eu-1",
        ]
    );
}

/// A file without a test above must not lie there.
#[cfg(not(target_family = "wasm"))]
#[test]
fn every_file_is_asked() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config-examples");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "README.md")
        .collect();
    files.sort();
    assert_eq!(
        files,
        [
            "adaptive.json",
            "b3-mesh.json",
            "cel.json",
            "collectors.json",
            "debug.json",
            "edge-gateway.json",
            "failure-paths.json",
            "failures.json",
            "grpc.json",
            "health-checks.json",
            "incident.json",
            "limits.json",
            "minimal.json",
            "mixed-formats.json",
            "production.json",
            "rate.json",
            "readable-spans.json",
            "remote.json",
            "uninstrumented.json"
        ]
    );
    let readme = std::fs::read_to_string(format!("{folder}/README.md")).unwrap();
    for file in files {
        assert!(readme.contains(&format!("[{file}]({file})")), "{file} is not in the README");
    }
}

/// What a page shows as a configuration is one.
#[cfg(not(target_family = "wasm"))]
#[test]
fn configurations_of_the_pages() {
    let mut found = Vec::new();
    for page in ["README.md", "PROPAGATION.md", "CORRELATION.md", "MESHES.md"] {
        let path = format!("{}/../../{page}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        for block in text.split("\n```json\n").skip(1) {
            let (json, _) = block.split_once("\n```").unwrap();
            let read = Config::parse(json.as_bytes(), &|_| Some("a value".to_owned()));
            assert!(read.is_ok(), "{page}: {json}: {}", read.unwrap_err());
            found.push(page);
        }
    }
    assert!(found.contains(&"README.md") && found.contains(&"CORRELATION.md"), "{found:?}");
}
