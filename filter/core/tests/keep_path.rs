//! `sampling.keep.propagate` in virtual time: chains of services behind their proxies, and whoever
//! forges what hops tell one another.
#![cfg(not(target_family = "wasm"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says where it broke")]

use std::collections::BTreeMap;
use std::time::Duration;

use meshweft_core::Exchange;
use meshweft_core::config::Config;
use meshweft_core::model::{HeaderEdit, Headers, Local, MonoNanos, UnixNanos};
use meshweft_core::plugin::Plugin;
use meshweft_core::stream::Stream;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message;
use rand::SeedableRng;
use rand::rngs::SmallRng;

const QUESTION: &str = "x-meshweft";
const ANSWER: &str = "x-meshweft-keep";

type Pairs = Vec<(String, String)>;

fn pairs(pairs: &[(&str, &str)]) -> Pairs {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn value<'a>(pairs: &'a Pairs, name: &str) -> Option<&'a str> {
    pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

fn edit(pairs: &mut Pairs, edits: impl IntoIterator<Item = HeaderEdit>) {
    for edit in edits {
        match edit {
            HeaderEdit::Add(name, value) => pairs.push((name.into_owned(), value)),
            HeaderEdit::Remove(gone) => pairs.retain(|(name, _)| *name != gone),
            HeaderEdit::Set(name, value) => {
                pairs.retain(|(other, _)| *other != name);
                pairs.push((name.into_owned(), value));
            }
        }
    }
}

/// A request and its response as the emulated host shows them.
#[derive(Clone, Default)]
struct Told {
    request: Pairs,
    response: Pairs,
    properties: BTreeMap<&'static str, i64>,
}

impl Exchange for Told {
    fn request_headers(&self) -> Headers {
        self.request.iter().map(|(name, value)| (name, value)).collect()
    }
    fn response_header(&self, name: &str) -> Option<Vec<u8>> {
        value(&self.response, name).map(|value| value.as_bytes().to_vec())
    }
    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        let property = self.properties.get(&*path.join("."));
        property.map(|value| value.to_le_bytes().to_vec())
    }
}

/// One listener of a proxy.
struct Listener {
    plugin: Plugin,
    rng: SmallRng,
}

impl Listener {
    fn new(mode: &str, service: &str, keep: &str) -> Self {
        Self::trusting("continue", mode, service, keep)
    }

    fn trusting(trust: &str, mode: &str, service: &str, keep: &str) -> Self {
        let config = format!(
            r#"{{"mode": "{mode}", "service": {{"name": "{service}"}},
                "propagation": {{"trust": "{trust}"}},
                "export": {{"cluster": "c"}}, "sampling": {{"rate": 0, "keep": {keep}}}}}"#
        );
        let config = Config::parse(config.as_bytes(), &|_| None).unwrap();
        let seed = service.bytes().chain(mode.bytes()).map(u64::from).sum();
        Self { plugin: Plugin::new(config, None, &|_| None), rng: SmallRng::seed_from_u64(seed) }
    }

    /// Serves a request that `next` answers; gives what the caller gets.
    fn serve(
        &mut self,
        shared: &Local,
        request: Pairs,
        next: impl FnOnce(&Pairs) -> Pairs,
    ) -> Pairs {
        let mut told = Told { request, ..Told::default() };
        let mut stream = Stream::default();
        let began = shared.clock.get();
        let effects = stream.on_request_headers(&mut self.plugin, &told, shared, &mut self.rng);
        edit(&mut told.request, effects.edits);
        told.response = next(&told.request);
        let edits = stream.on_response_headers(&self.plugin, &told, shared, UnixNanos::default);
        edit(&mut told.response, edits);
        stream.on_response_end();
        let code = value(&told.response, ":status").map_or(0, |code| code.parse().unwrap());
        let took = shared.clock.get().since(began).as_nanos();
        told.properties.insert("response.code", code);
        told.properties.insert("request.duration", i64::try_from(took).unwrap());
        stream.on_log(&mut self.plugin, &told, shared, &mut self.rng);
        told.response
    }
}

/// What an application forwards to the calls that it makes.
#[derive(Clone, Copy, PartialEq)]
enum App {
    /// `traceparent` as it came.
    TraceContext,
    /// `x-request-id` alone.
    RequestId,
    /// A `traceparent` of a span of its own, which it does not record.
    Instrumented,
}

impl App {
    /// The headers of a call that it makes for `request`.
    fn forwards(self, request: &Pairs) -> Pairs {
        let mut on = pairs(&[(":method", "GET"), (":path", "/"), (":authority", "next")]);
        let id = value(request, "x-request-id").map(str::to_owned);
        on.extend(id.map(|id| ("x-request-id".to_owned(), id)));
        let traceparent = value(request, "traceparent").unwrap();
        match self {
            Self::RequestId => {}
            Self::TraceContext => on.push(("traceparent".to_owned(), traceparent.to_owned())),
            Self::Instrumented => {
                let own = format!("{}00000000000000aa-00", traceparent.get(..36).unwrap());
                on.push(("traceparent".to_owned(), own));
            }
        }
        on
    }
}

/// An application behind its proxy, and what it does.
struct Service {
    inbound: Listener,
    outbound: Listener,
    shared: Local,
    app: App,
    /// What it answers, whatever those behind it have answered.
    answers: Pairs,
    /// How long it takes.
    takes: Duration,
}

impl Service {
    fn new(name: &str, app: App, keep: &str) -> Self {
        Self {
            inbound: Listener::new("inbound", name, keep),
            outbound: Listener::new("outbound", name, keep),
            shared: Local::default(),
            app,
            answers: pairs(&[(":status", "200")]),
            takes: Duration::ZERO,
        }
    }
}

/// A request to the first of `services`, which calls the next, and so on; all in one time.
fn through(services: &mut [Service], request: Pairs, mut now: MonoNanos) -> (Pairs, MonoNanos) {
    let Some((first, rest)) = services.split_first_mut() else {
        return (pairs(&[(":status", "200")]), now);
    };
    let Service { inbound, outbound, shared, app, answers, takes } = first;
    let (app, answers, takes) = (*app, answers.clone(), *takes);
    shared.clock.set(now);
    let response = inbound.serve(shared, request, |request| {
        assert_eq!(value(request, QUESTION), None, "the application sees no question");
        if !rest.is_empty() {
            let call = app.forwards(request);
            let got = outbound.serve(shared, call, |request| {
                let (response, then) = through(rest, request.clone(), now);
                now = then;
                shared.clock.set(now);
                response
            });
            assert_eq!(value(&got, ANSWER), None, "the application sees no verdict");
        }
        now = now.after(takes);
        shared.clock.set(now);
        answers
    });
    (response, now)
}

/// A span as the collector gets it.
#[derive(Clone, Debug)]
struct Span {
    service: String,
    kind: i32,
    trace_id: String,
    id: String,
    parent: String,
    keep: String,
    links: Vec<String>,
}

fn exported(listener: &mut Listener, shared: &Local) -> Vec<Span> {
    let now = shared.clock.get().after(Duration::from_secs(10));
    let calls = listener.plugin.on_tick(now, UnixNanos(now.0), shared).calls;
    let mut spans = Vec::new();
    for call in calls {
        let request = ExportTraceServiceRequest::decode(&*call.body).unwrap();
        for resource in request.resource_spans {
            let text = |attributes: &[opentelemetry_proto::tonic::common::v1::KeyValue],
                        name: &str| {
                let found = attributes.iter().find(|pair| pair.key == name);
                match found.and_then(|pair| pair.value.as_ref()?.value.as_ref()) {
                    Some(Value::StringValue(text)) => text.clone(),
                    _ => String::new(),
                }
            };
            let service = text(&resource.resource.unwrap().attributes, "service.name");
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                spans.push(Span {
                    service: service.clone(),
                    kind: span.kind,
                    trace_id: hex::encode(&span.trace_id),
                    id: hex::encode(&span.span_id),
                    parent: hex::encode(&span.parent_span_id),
                    keep: text(&span.attributes, "meshweft.keep"),
                    links: span.links.iter().map(|link| hex::encode(&link.span_id)).collect(),
                });
            }
        }
    }
    spans
}

fn all(services: &mut [Service]) -> Vec<Span> {
    let mut spans = Vec::new();
    for Service { inbound, outbound, shared, .. } in services {
        spans.extend(exported(inbound, shared));
        spans.extend(exported(outbound, shared));
    }
    spans
}

/// Each span by its service and side, and why it was kept.
fn reasons(spans: &[Span]) -> Vec<String> {
    let side = |span: &Span| if span.kind == 2 { "in" } else { "out" };
    spans.iter().map(|span| format!("{} {} {}", span.service, side(span), span.keep)).collect()
}

fn chain(app: App, keep: &str) -> Vec<Service> {
    ["a", "b", "c"].map(|name| Service::new(name, app, keep)).into()
}

fn client() -> Pairs {
    pairs(&[
        (":method", "GET"),
        (":path", "/"),
        (":authority", "a"),
        ("x-request-id", "6f9d2c1e-0c33-4f7a-9a53-2f4f8f1c7d10"),
    ])
}

const NOW: MonoNanos = MonoNanos(1_000_000_000);
const KEEP: &str = r#"{"errors": true, "slower_than": "1s", "propagate": true}"#;
const SECRET: &str =
    r#"{"errors": true, "slower_than": "1s", "propagate": true, "secret": "0123456789abcdef"}"#;

#[track_caller]
fn assert_one_tree(spans: &[Span]) {
    for (span, caller) in spans.iter().skip(1).zip(spans) {
        assert_eq!((&span.trace_id, &span.parent), (&caller.trace_id, &caller.id), "{spans:?}");
    }
}

#[test]
fn a_failure_keeps_the_whole_path_to_it() {
    for keep in [KEEP, SECRET] {
        for app in [App::TraceContext, App::RequestId] {
            let mut services = chain(app, keep);
            let (response, now) = through(&mut services, client(), NOW);
            assert_eq!(response, pairs(&[(":status", "200")]));
            assert_eq!(reasons(&all(&mut services)), [""; 0]);
            services[2].answers = pairs(&[(":status", "503")]);
            let (response, _) = through(&mut services, client(), now.after(Duration::from_secs(9)));
            // The client did not ask, and is told nothing.
            assert_eq!(response, pairs(&[(":status", "200")]));
            let spans = all(&mut services);
            assert_eq!(
                reasons(&spans),
                [
                    "a in propagated:errors",
                    "a out propagated:errors",
                    "b in propagated:errors",
                    "b out errors",
                    "c in errors",
                ]
            );
            assert_one_tree(&spans);
        }
    }
}

#[test]
fn slowness_in_the_middle_keeps_the_path_to_it_and_nothing_behind() {
    let mut services = chain(App::RequestId, KEEP);
    services[1].takes = Duration::from_millis(1001);
    through(&mut services, client(), NOW);
    let spans = all(&mut services);
    assert_eq!(reasons(&spans), ["a in slower_than", "a out slower_than", "b in slower_than"]);
    assert_one_tree(&spans);
}

/// What a hop keeps for another reason than those above it would.
#[test]
fn each_hop_has_its_own_conditions() {
    let mut services = chain(App::TraceContext, r#"{"propagate": true}"#);
    services[2] = Service::new("c", App::TraceContext, r#"{"status": [404], "propagate": true}"#);
    services[2].answers = pairs(&[(":status", "404")]);
    through(&mut services, client(), NOW);
    assert_eq!(
        reasons(&all(&mut services)),
        [
            "a in propagated:status",
            "a out propagated:status",
            "b in propagated:status",
            "b out propagated:status",
            "c in status",
        ]
    );
}

#[test]
fn an_application_with_spans_of_its_own_is_bridged_by_a_link() {
    let mut services = chain(App::TraceContext, KEEP);
    services[1].app = App::Instrumented;
    services[2].answers = pairs(&[(":status", "500")]);
    through(&mut services, client(), NOW);
    let spans = all(&mut services);
    let [_, a_out, b_in, b_out, c_in] = &*spans else { panic!("{spans:?}") };
    assert_eq!(b_out.parent, "00000000000000aa", "a span that nobody has");
    assert_eq!(b_out.links, std::slice::from_ref(&b_in.id));
    assert_eq!((&b_in.parent, &c_in.parent), (&a_out.id, &b_out.id));
    assert!(spans.iter().filter(|span| span.id != b_out.id).all(|span| span.links.is_empty()));
}

// === Boundaries, gateways and forgeries ===

/// At a boundary a new trace begins: what is kept behind it is whole up to there, and those before
/// it, whose trace it is not, are told nothing, with a secret or without.
#[test]
fn nothing_is_told_over_a_boundary_of_trust() {
    for keep in [KEEP, SECRET] {
        for trust in ["restart", "link"] {
            for app in [App::TraceContext, App::RequestId] {
                let mut services = chain(app, keep);
                services[1].inbound = Listener::trusting(trust, "inbound", "b", keep);
                services[2].answers = pairs(&[(":status", "503")]);
                through(&mut services, client(), NOW);
                let spans = all(&mut services);
                assert_eq!(
                    reasons(&spans),
                    ["b in propagated:errors", "b out errors", "c in errors"],
                    "{trust}"
                );
                assert_eq!(
                    (&*spans[0].parent, spans[0].links.len()),
                    ("", usize::from(trust == "link"))
                );
                assert_one_tree(&spans);
                // What fails before the boundary is kept before it alone.
                services[2].answers = pairs(&[(":status", "200")]);
                services[0].answers = pairs(&[(":status", "503")]);
                through(&mut services, client(), NOW.after(Duration::from_secs(100)));
                assert_eq!(reasons(&all(&mut services)), ["a in errors"], "{trust}");
            }
        }
    }
}

/// A gateway that begins its own traces still asks, and keeps the path from itself on.
#[test]
fn a_gateway_that_trusts_nobody_keeps_its_own_path() {
    for trust in ["restart", "link"] {
        let mut gateway = Listener::trusting(trust, "gateway", "edge", SECRET);
        let mut services = chain(App::RequestId, SECRET);
        services[2].answers = pairs(&[(":status", "503")]);
        let shared = Local::default();
        shared.clock.set(NOW);
        let mut request = client();
        request.extend(pairs(&[
            (QUESTION, "1"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"),
        ]));
        let response = gateway
            .serve(&shared, request, |request| through(&mut services, request.clone(), NOW).0);
        assert_eq!(response, pairs(&[(":status", "200")]));
        let mut spans = exported(&mut gateway, &shared);
        let linked: &[&str] = if trust == "link" { &["b7ad6b7169203331"] } else { &[] };
        assert_eq!((&*spans[0].parent, &*spans[0].links.join(" ")), ("", &*linked.join(" ")));
        spans.extend(all(&mut services));
        assert_eq!(spans.len(), 6);
        assert_one_tree(&spans);
    }
}

#[test]
fn a_gateway_asks_and_hears_but_does_not_answer() {
    let mut gateway = Listener::new("gateway", "edge", KEEP);
    let mut services = chain(App::RequestId, KEEP);
    services[2].answers = pairs(&[(":status", "503")]);
    let shared = Local::default();
    shared.clock.set(NOW);
    let mut request = client();
    request.push((QUESTION.to_owned(), "1".to_owned()));
    let response = gateway.serve(&shared, request, |request| {
        assert_eq!(value(request, QUESTION), Some("1"));
        let (response, _) = through(&mut services, request.clone(), NOW);
        assert_eq!(value(&response, ANSWER), Some("errors"));
        response
    });
    assert_eq!(response, pairs(&[(":status", "200")]));
    let mut spans = exported(&mut gateway, &shared);
    assert_eq!(reasons(&spans), ["edge in propagated:errors"]);
    spans.extend(all(&mut services));
    assert_eq!(spans.len(), 6);
    assert_one_tree(&spans);
}

/// What `request` gets from a service that fails; all that it is told.
fn told_by_a_failing_service(keep: &str, request: Pairs) -> Option<String> {
    let mut services = [Service::new("a", App::RequestId, keep)];
    services[0].answers = pairs(&[(":status", "503")]);
    let (response, _) = through(&mut services, request, NOW);
    assert_eq!(reasons(&all(&mut services)), ["a in errors"]);
    value(&response, ANSWER).map(str::to_owned)
}

#[test]
fn forged_questions_get_no_answer() {
    let traceparent = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00");
    let asking = |more: &[(&str, &str)]| {
        let mut request = client();
        request.extend(pairs(more));
        request
    };
    let told = told_by_a_failing_service;
    assert_eq!(told(KEEP, asking(&[(QUESTION, "1"), traceparent])), Some("errors".to_owned()));
    // Without a context, twice, in other words.
    assert_eq!(told(KEEP, asking(&[(QUESTION, "1")])), None);
    assert_eq!(told(KEEP, asking(&[(QUESTION, "1"), (QUESTION, "1"), traceparent])), None);
    assert_eq!(told(KEEP, asking(&[(QUESTION, "yes"), traceparent])), None);
    // Without the secret, or with it in plain.
    for forged in ["1", "1;0123456789abcdef", "0123456789abcdef", "1;0000000000000000", ""] {
        assert_eq!(told(SECRET, asking(&[(QUESTION, forged), traceparent])), None, "{forged}");
    }
    // Nothing is told where nothing is to be told.
    let quiet = r#"{"errors": true}"#;
    assert_eq!(told(quiet, asking(&[(QUESTION, "1"), traceparent])), None);
}

#[test]
fn applications_and_upstreams_cannot_give_verdicts_to_those_with_a_secret() {
    let forged = pairs(&[(":status", "200"), (ANSWER, "errors")]);
    for keep in [KEEP, SECRET] {
        let mut services = chain(App::RequestId, keep);
        services[1].answers = forged.clone();
        let (response, _) = through(&mut services, client(), NOW);
        assert_eq!(value(&response, ANSWER), None);
        assert_eq!(reasons(&all(&mut services)), [""; 0], "what an application says is removed");
    }
    // An upstream that is no hop of ours: only a secret tells the two apart.
    for (keep, kept) in [(KEEP, &["a out propagated:errors"][..]), (SECRET, &[])] {
        let mut outbound = Listener::new("outbound", "a", keep);
        let shared = Local::default();
        let response = outbound.serve(&shared, client(), |_| forged.clone());
        assert_eq!(response, pairs(&[(":status", "200")]));
        assert_eq!(reasons(&exported(&mut outbound, &shared)), kept);
    }
}

#[test]
fn nothing_is_asked_of_hosts_that_get_nothing() {
    let config = r#"{"mode": "outbound", "export": {"cluster": "c"},
        "propagation": {"egress": {"strip": ["*.outside.test"]}},
        "sampling": {"rate": 0, "keep": {"errors": true, "propagate": true}}}"#;
    let config = Config::parse(config.as_bytes(), &|_| None).unwrap();
    let plugin = Plugin::new(config, None, &|_| None);
    let mut outbound = Listener { plugin, rng: SmallRng::seed_from_u64(1) };
    let shared = Local::default();
    let request = pairs(&[(":authority", "api.outside.test"), (QUESTION, "1")]);
    let response = outbound.serve(&shared, request, |request| {
        assert_eq!(value(request, QUESTION), None);
        pairs(&[(":status", "200"), (ANSWER, "errors")])
    });
    assert_eq!(response, pairs(&[(":status", "200")]));
    assert_eq!(reasons(&exported(&mut outbound, &shared)), [""; 0]);
}

#[test]
fn a_rule_may_keep_out_of_it() {
    let config = r#"{"mode": "inbound", "export": {"cluster": "c"}, "sampling": {"rate": 0,
        "keep": {"errors": true, "propagate": true}, "rules": [{"name": "all", "keep": false}]}}"#;
    let config = Config::parse(config.as_bytes(), &|_| None).unwrap();
    let plugin = Plugin::new(config, None, &|_| None);
    let mut inbound = Listener { plugin, rng: SmallRng::seed_from_u64(1) };
    let shared = Local::default();
    let mut request = client();
    request.extend(pairs(&[
        (QUESTION, "1"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"),
    ]));
    let response = inbound.serve(&shared, request, |request| {
        assert_eq!(value(request, QUESTION), None);
        pairs(&[(":status", "503"), (ANSWER, "errors")])
    });
    assert_eq!(response, pairs(&[(":status", "503")]));
    assert_eq!(reasons(&exported(&mut inbound, &shared)), [""; 0]);
}

/// A hop that is configured for something else.
#[test]
fn who_takes_no_part_takes_off_what_others_ask_and_answer() {
    let keeps =
        r#"{"export": {"cluster": "c"}, "sampling": {"rate": 0, "keep": {"errors": true}}}"#;
    let samples = r#"{"export": {"cluster": "c"}, "sampling": {"rate": 1}}"#;
    let modes = [r#"{"mode": "inbound"}"#, r#"{"mode": "outbound"}"#, r#"{"mode": "gateway"}"#];
    for config in ["{}", keeps, samples].into_iter().chain(modes) {
        let config = Config::parse(config.as_bytes(), &|_| None).unwrap();
        let plugin = Plugin::new(config.clone(), None, &|_| None);
        let mut listener = Listener { plugin, rng: SmallRng::seed_from_u64(1) };
        let shared = Local::default();
        let says = pairs(&[(":status", "503"), (ANSWER, "errors")]);
        let mut request = client();
        let told = listener.serve(&shared, request.clone(), |_| says.clone());
        assert_eq!(told, says, "nobody has asked: {config:?}");
        request.extend(pairs(&[(QUESTION, "1")]));
        let told = listener.serve(&shared, request.clone(), |request| {
            assert_eq!(value(request, QUESTION), None, "{config:?}");
            says.clone()
        });
        assert_eq!(told, pairs(&[(":status", "503")]), "{config:?}");
        // What came too late for the headers.
        let mut stream = Stream::default();
        let asking = Told { request, ..Told::default() };
        stream.on_request_headers(&mut listener.plugin, &asking, &shared, &mut listener.rng);
        let edit = stream.on_response_trailers(&listener.plugin, &asking, &shared);
        assert_eq!(edit, Some(HeaderEdit::Remove(ANSWER.into())), "{config:?}");
    }
}
