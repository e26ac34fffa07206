//! From an exchange to its span (OpenTelemetry semantic conventions for HTTP and RPC).

use std::rc::Rc;

use super::attempt::AttemptEnding;
use super::attributes::Attributes;
use super::authority::Authority;
use super::custom;
use super::ending::{Ending, Facts, Part};
use super::texts::{Texts, cut};
use super::urls::Urls;
use super::{Link, Span, SpanKind, Status};
use crate::config::{Fact, SpanAttribute, Spans};
use crate::correlation::How;
use crate::matching::Routes;
use crate::model::{Exchange, Headers, SpanId, UnixNanos, grpc_method, is_grpc, known_method};
use crate::propagation::SpanContext;

/// gRPC's status for a method that the server does not have.
const UNIMPLEMENTED: i64 = 12;

/// What a span is about, apart from what the host tells at the end.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Our span, as it was sent on.
    pub context: &'a SpanContext,
    /// The caller's span.
    pub parent_id: Option<SpanId>,
    /// Which side of the call.
    pub kind: SpanKind,
    /// The request headers as the filter got them.
    pub headers: &'a Headers,
    /// What the head decision was for.
    pub reason: &'a str,
    /// How the request was joined to another one, if it came without a context.
    pub correlation: Option<Correlated>,
    /// Why it was kept, where the head decision had dropped it.
    pub keep: Option<&'a str>,
    /// Values of the caller's baggage, by the keys under which the span shall have them.
    pub baggage: &'a [(String, String)],
    /// What it has to do with beside its parent.
    pub links: &'a [Link],
}

/// How a request without a context was joined to the one that has caused it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Correlated {
    /// By what.
    pub how: How,
    /// How likely its parent is the right one; of one without a parent, how likely each link is.
    pub confidence: f64,
    /// Of how many, as far as they are known.
    pub candidates: usize,
}

/// What makes a span of an exchange, as the configuration says.
#[derive(Clone, Debug)]
pub struct Describer {
    routes: Rc<Routes>,
    urls: Urls,
    texts: Texts,
    attributes: Vec<SpanAttribute>,
    facts: Vec<Fact>,
    max_value_length: usize,
}

/// What the headers of a request say.
#[derive(Clone, Copy, Debug)]
struct Request<'a> {
    method: &'a str,
    /// Without its query.
    path: Option<&'a str>,
    query: Option<&'a str>,
    authority: Option<Authority<'a>>,
    scheme: Option<&'a str>,
    user_agent: Option<&'a str>,
    is_grpc: bool,
}

impl<'a> Request<'a> {
    fn of(headers: &'a Headers) -> Self {
        let header = |name| headers.get(name).and_then(|value| str::from_utf8(value).ok());
        let target = header(":path").map(Urls::split);
        Self {
            method: header(":method").unwrap_or_default(),
            path: target.map(|(path, _)| path),
            query: target.and_then(|(_, query)| query),
            authority: header(":authority").filter(|text| !text.is_empty()).map(Authority::split),
            scheme: header(":scheme"),
            user_agent: header("user-agent"),
            is_grpc: headers.get("content-type").is_some_and(is_grpc),
        }
    }

    fn method_is_known(&self) -> bool {
        known_method(self.method.as_bytes()).is_some()
    }

    /// Service and method of a gRPC request.
    fn rpc(&self) -> Option<(&'a str, &'a str)> {
        let (service, method) = grpc_method(self.path.filter(|_| self.is_grpc)?.as_bytes())?;
        Some((str::from_utf8(service).ok()?, str::from_utf8(method).ok()?))
    }
}

impl Describer {
    /// One for all spans of an instance.
    #[must_use]
    pub fn new(config: &Spans) -> Self {
        Self {
            routes: Rc::new(Routes::new(&config.routes)),
            urls: Urls::new(config),
            texts: Texts::new(config.redact.clone(), config.max_value_length),
            attributes: config.attributes.clone(),
            facts: config.facts.clone(),
            max_value_length: config.max_value_length,
        }
    }

    /// The templates of paths that name spans.
    #[must_use]
    pub const fn routes(&self) -> &Rc<Routes> {
        &self.routes
    }

    /// The span of an exchange that has ended; `first_byte` is when the headers of its response
    /// came, where that is to be told.
    #[must_use]
    pub fn describe(
        &self,
        subject: Subject<'_>,
        part: Part,
        first_byte: Option<UnixNanos>,
        exchange: &impl Exchange,
    ) -> Span {
        let is_grpc = subject.headers.get("content-type").is_some_and(is_grpc);
        let ending = Ending::read(subject.kind, is_grpc, &self.facts, first_byte, exchange);
        self.span(subject, &Ending { part, ..ending }, Some(exchange))
    }

    /// The span of an exchange that goes on, as far as its request says.
    #[must_use]
    pub fn describe_open(&self, subject: Subject<'_>, start: UnixNanos, now: UnixNanos) -> Span {
        self.span(subject, &Ending::open(start, now.max(start)), None::<&NotAsked>)
    }

    /// The span of a try at the upstream that ended at `wall`.
    #[must_use]
    pub fn describe_attempt(
        &self,
        subject: Subject<'_>,
        attempt: AttemptEnding,
        wall: UnixNanos,
        exchange: &impl Exchange,
    ) -> Span {
        self.span(subject, &attempt.ended(wall, exchange), Some(exchange))
    }

    fn span(
        &self,
        subject: Subject<'_>,
        ending: &Ending,
        exchange: Option<&impl Exchange>,
    ) -> Span {
        let request = Request::of(subject.headers);
        let (status, error) = ending.status(subject.kind);
        // A route that is named like a path is a template; other names are Envoy's affair, and so
        // is one beside a template of the configuration.
        let route = ending.route.as_deref();
        let configured = request.path.and_then(|path| self.routes.find(path.as_bytes()));
        let template = configured.or_else(|| route.filter(|name| name.starts_with('/')));

        let mut out = Attributes::new(&self.texts);
        self.http(&mut out, subject.kind, &request, ending, error.as_deref(), template);
        if request.is_grpc {
            out.text("rpc.system", Some("grpc"));
            out.text("rpc.service", request.rpc().map(|(service, _)| service));
            out.text("rpc.method", request.rpc().map(|(_, method)| method));
            out.int("rpc.grpc.status_code", ending.outcome.grpc);
        }
        envoy(&mut out, ending, route.filter(|name| template != Some(name)));
        facts(&mut out, subject.kind, &ending.facts);
        out.text("meshweft.sampling.reason", Some(subject.reason));
        out.text("meshweft.keep", subject.keep);
        if let Some(Correlated { how, confidence, candidates }) = subject.correlation {
            out.text("meshweft.correlation", Some(how.name()));
            out.double("meshweft.correlation.confidence", confidence);
            let several = i64::try_from(candidates).ok().filter(|count| *count > 1);
            out.int("meshweft.correlation.candidates", several);
        }
        out.text(
            "meshweft.stream",
            match ending.part {
                Part::Whole => None,
                Part::Open => Some("open"),
                Part::Finished => Some("finished"),
            },
        );
        if let Some(exchange) = exchange {
            custom::add(&mut out, &self.attributes, subject.headers, exchange, &self.urls);
        }
        for (key, value) in subject.baggage {
            out.foreign(key, value);
        }
        let name = out.redacted(&self.name(&request, ending, template));
        let status = match status {
            Status::Error(text) => Status::Error(out.redacted(&text)),
            Status::Unset => Status::Unset,
        };
        Span {
            trace_id: subject.context.trace_id,
            span_id: subject.context.span_id,
            parent_id: subject.parent_id,
            trace_state: subject.context.state.as_str().to_owned(),
            flags: subject.context.flags,
            name,
            kind: subject.kind,
            start: ending.start,
            end: ending.end,
            status,
            attributes: out.into_list(),
            links: subject.links.to_vec(),
        }
    }

    fn http(
        &self,
        out: &mut Attributes<'_>,
        kind: SpanKind,
        request: &Request<'_>,
        ending: &Ending,
        error: Option<&str>,
        template: Option<&str>,
    ) {
        let known = request.method_is_known();
        out.text("http.request.method", Some(if known { request.method } else { "_OTHER" }));
        let original = Some(request.method).filter(|method| !known && !method.is_empty());
        out.text("http.request.method_original", original);
        out.int("http.response.status_code", ending.outcome.code);
        out.text("error.type", error);
        out.text("server.address", request.authority.map(|authority| authority.host));
        let port = request.authority.and_then(|authority| match kind {
            SpanKind::Server => authority.port,
            // Of a client's span it is required.
            SpanKind::Client => authority.port.or_else(|| default_port(request.scheme?)),
        });
        out.int("server.port", port.map(i64::from));
        let protocol = ending.protocol.as_deref();
        out.text("network.protocol.version", protocol.and_then(protocol_version));
        let query = request.query.and_then(|query| self.urls.query(query));
        match kind {
            SpanKind::Server => {
                out.text("url.scheme", request.scheme);
                out.text("url.path", request.path);
                out.text("url.query", query.as_deref());
                out.text("http.route", template);
                let client = ending.client.as_deref().map(Authority::split);
                out.text("client.address", client.map(|client| client.host));
                out.text("user_agent.original", request.user_agent);
            }
            SpanKind::Client => {
                if let (Some(scheme), Some(authority), Some(path)) =
                    (request.scheme, request.authority, request.path)
                {
                    let mut url = format!("{scheme}://{}{path}", authority.text);
                    if let Some(query) = query {
                        url.push('?');
                        url.push_str(&query);
                    }
                    out.text("url.full", Some(&url));
                }
                out.text("url.template", template);
                let peer = ending.upstream.as_deref().map(Authority::split);
                out.text("network.peer.address", peer.map(|peer| peer.host));
                out.int("network.peer.port", peer.and_then(|peer| peer.port).map(i64::from));
            }
        }
        let again = ending.attempt.map(|attempt| attempt.number.saturating_sub(1));
        out.int("http.request.resend_count", again.filter(|again| *again > 0));
    }

    /// A name of low cardinality: clients choose paths, so only a template may name a span, or a
    /// gRPC method that a server knew.
    fn name(&self, request: &Request<'_>, ending: &Ending, template: Option<&str>) -> String {
        let method = if request.method_is_known() { request.method } else { "HTTP" };
        let outcome = &ending.outcome;
        let answered = outcome.grpc.is_some_and(|grpc| grpc != UNIMPLEMENTED);
        // Clients choose paths: only what a server of gRPC has answered names a span.
        let known = outcome.was_left() || (answered && ending.is_from_upstream());
        match (request.rpc().filter(|_| known && ending.spoke_grpc), template) {
            (Some((service, method)), _) => {
                cut(&format!("{service}/{method}"), self.max_value_length).to_owned()
            }
            (None, Some(template)) => format!("{method} {template}"),
            (None, None) => method.to_owned(),
        }
    }
}

/// What only the proxy knows.
fn envoy(out: &mut Attributes<'_>, ending: &Ending, route: Option<&str>) {
    let outcome = &ending.outcome;
    out.text("envoy.cluster", ending.cluster.as_deref());
    out.text("envoy.route", route);
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    out.text("envoy.response_flags", some(outcome.flags.letters()).as_deref());
    out.text("envoy.response_flags_text", some(outcome.flags.sentence()).as_deref());
    out.text("envoy.response_code_details", outcome.details.as_deref());
    out.text("envoy.upstream_address", ending.upstream.as_deref());
    out.int("envoy.attempt_count", ending.attempts);
    out.text("envoy.attempt.kind", ending.attempt.and_then(|attempt| attempt.kind()));
    out.text("envoy.attempt.outcome", ending.attempt.and_then(|attempt| attempt.outcome()));
}

/// Facts that the configuration asks for.
fn facts(out: &mut Attributes<'_>, kind: SpanKind, facts: &Facts) {
    out.int("http.request.body.size", facts.request_size);
    out.int("http.response.body.size", facts.response_size);
    out.millis("envoy.connect_ms", facts.connect);
    out.millis("envoy.backend_latency_ms", facts.backend_latency);
    out.millis("envoy.time_to_first_byte_ms", facts.first_byte);
    let Some(tls) = &facts.tls else { return };
    out.text("tls.protocol.name", Some("tls"));
    out.text(
        "tls.protocol.version",
        Some(tls.version.strip_prefix("TLSv").unwrap_or(&tls.version)),
    );
    out.text("tls.client.server_name", tls.server_name.as_deref());
    let subject = match kind {
        SpanKind::Server => "tls.client.subject",
        SpanKind::Client => "tls.server.subject",
    };
    out.text("envoy.peer_identity", tls.identity.as_deref());
    out.text(subject, tls.subject.as_deref());
}

/// A host that has nothing to tell yet.
#[derive(Debug)]
struct NotAsked;

impl Exchange for NotAsked {
    fn request_headers(&self) -> Headers {
        Headers::default()
    }
    fn property(&self, _: &[&str]) -> Option<Vec<u8>> {
        None
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

fn protocol_version(protocol: &str) -> Option<&str> {
    match protocol.strip_prefix("HTTP/")? {
        "2.0" => Some("2"),
        "3.0" => Some("3"),
        version => Some(version),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::config::{Config, Scalar};
    use crate::model::{TraceFlags, TraceId};
    use crate::propagation::TraceState;
    use crate::span::{KeyValue, Value};

    #[derive(Default)]
    struct Told(BTreeMap<String, Vec<u8>>);

    impl Told {
        fn text(mut self, path: &str, value: &str) -> Self {
            self.0.insert(path.to_owned(), value.as_bytes().to_vec());
            self
        }
        fn int(mut self, path: &str, value: i64) -> Self {
            self.0.insert(path.to_owned(), value.to_le_bytes().to_vec());
            self
        }
    }

    impl Exchange for Told {
        fn request_headers(&self) -> Headers {
            Headers::default()
        }
        fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
            self.0.get(&path.join(".")).cloned()
        }
        fn response_header(&self, name: &str) -> Option<Vec<u8>> {
            self.0.get(&format!("response {name}")).cloned()
        }
    }

    fn span(kind: SpanKind, headers: &[(&str, &str)], told: &Told) -> Span {
        span_with(r#"{"max_value_length": 40}"#, kind, headers, told, &[])
    }

    fn span_with(
        spans: &str,
        kind: SpanKind,
        headers: &[(&str, &str)],
        told: &Told,
        baggage: &[(&str, &str)],
    ) -> Span {
        let config = format!(r#"{{"spans": {spans}}}"#);
        let config = Config::parse(config.as_bytes(), &|_| None).unwrap();
        let baggage: Vec<_> =
            baggage.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let context = SpanContext {
            trace_id: TraceId::from_bytes([1; 16]).unwrap(),
            span_id: SpanId::from_bytes([2; 8]).unwrap(),
            flags: TraceFlags::SAMPLED,
            debug: false,
            state: TraceState::default(),
        };
        let headers: Headers = headers.iter().copied().collect();
        let subject = Subject {
            context: &context,
            parent_id: SpanId::from_bytes([3; 8]),
            kind,
            headers: &headers,
            reason: "parent",
            correlation: None,
            keep: None,
            baggage: &baggage,
            links: &[],
        };
        Describer::new(&config.spans).describe(subject, Part::Whole, None, told)
    }

    fn lines(span: &Span) -> Vec<String> {
        span.attributes
            .iter()
            .map(|KeyValue { key, value }| match value {
                Value::Scalar(Scalar::String(text)) => format!("{key}={text}"),
                Value::Scalar(Scalar::Int(int)) => format!("{key}={int}"),
                other => format!("{key}={other:?}"),
            })
            .collect()
    }

    const GET: [(&str, &str); 4] = [
        (":method", "GET"),
        (":path", "/orders/7?token=secret#x"),
        (":authority", "user:pw@shop.example:8080"),
        (":scheme", "http"),
    ];

    #[test]
    fn server() {
        let told = Told::default()
            .int("request.time", 1_000)
            .int("request.duration", 234)
            .int("response.code", 200)
            .text("response.code_details", "via_upstream")
            .text("request.protocol", "HTTP/1.1")
            .text("source.address", "10.0.0.9:41000")
            .text("upstream.address", "127.0.0.1:9000")
            .text("xds.route_name", "/orders/{id}")
            .text("xds.cluster_name", "app");
        let span = span(SpanKind::Server, &GET, &told);
        assert_eq!(
            lines(&span),
            [
                "http.request.method=GET",
                "http.response.status_code=200",
                "server.address=shop.example",
                "server.port=8080",
                "network.protocol.version=1.1",
                "url.scheme=http",
                "url.path=/orders/7",
                "http.route=/orders/{id}",
                "client.address=10.0.0.9",
                "envoy.cluster=app",
                "envoy.response_code_details=via_upstream",
                "envoy.upstream_address=127.0.0.1:9000",
                "meshweft.sampling.reason=parent",
            ]
        );
        assert_eq!(
            (span.name.as_str(), span.start, span.end, span.flags, span.status),
            (
                "GET /orders/{id}",
                UnixNanos(1_000),
                UnixNanos(1_234),
                TraceFlags::SAMPLED,
                Status::Unset
            )
        );
    }

    #[test]
    fn client() {
        let told = Told::default()
            .int("response.code", 503)
            .int("response.flags", 1 << 5 | 1 << 15)
            .int("upstream.request_attempt_count", 3)
            .text("request.protocol", "HTTP/2")
            .text("upstream.address", "[::1]:9000")
            .text("xds.route_name", "default");
        let span = span(SpanKind::Client, &GET, &told);
        assert_eq!(
            lines(&span),
            [
                "http.request.method=GET",
                "http.response.status_code=503",
                "error.type=503",
                "server.address=shop.example",
                "server.port=8080",
                "network.protocol.version=2",
                "url.full=http://shop.example:8080/orders/7",
                "network.peer.address=::1",
                "network.peer.port=9000",
                "envoy.route=default",
                "envoy.response_flags=UF,URX",
                "envoy.response_flags_text=no connection to the upstream; no retry ",
                "envoy.upstream_address=[::1]:9000",
                "envoy.attempt_count=3",
                "meshweft.sampling.reason=parent",
            ]
        );
        assert_eq!(
            (span.name.as_str(), span.status),
            (
                "GET",
                Status::Error(
                    "no connection to the upstream; no retry left, after 3 attempts".to_owned()
                )
            )
        );
    }

    #[test]
    fn templates_name_spans_and_other_names_of_routes_are_envoys() {
        let spans = r#"{"routes": ["/orders/{id}"]}"#;
        let envoys = |route: &str| format!("envoy.route={route}");
        let server = |route: &str, template| [format!("http.route={template}"), envoys(route)];
        let client = |route: &str, template| [format!("url.template={template}"), envoys(route)];
        for (path, route_name, name, named) in [
            ("/orders/7", "default", "GET /orders/{id}", Some(("default", "/orders/{id}"))),
            ("/orders/7", "/orders/", "GET /orders/{id}", Some(("/orders/", "/orders/{id}"))),
            ("/cart/7?a=/orders/7", "/cart/{id}", "GET /cart/{id}", Some(("", "/cart/{id}"))),
            ("/orders/7", "/orders/{id}", "GET /orders/{id}", Some(("", "/orders/{id}"))),
            ("/cart/7", "", "GET", None),
        ] {
            let told = Told::default().text("xds.route_name", route_name);
            let headers = [(":method", "GET"), (":path", path)];
            for kind in [SpanKind::Server, SpanKind::Client] {
                let span = span_with(spans, kind, &headers, &told, &[]);
                let found: Vec<_> = lines(&span)
                    .into_iter()
                    .filter(|line| {
                        ["http.route", "url.template", "envoy.route="]
                            .iter()
                            .any(|name| line.starts_with(name))
                    })
                    .collect();
                let expected = named.map(|(route, template)| match kind {
                    SpanKind::Server => server(route, template),
                    SpanKind::Client => client(route, template),
                });
                let expected: Vec<_> =
                    expected.into_iter().flatten().filter(|line| line != "envoy.route=").collect();
                assert_eq!((&*span.name, found), (name, expected), "{path} {route_name}");
            }
        }
        for generated in
            ["default", "allow_any", "block_all", "inbound|80||", "outbound|80||a.b", "a.b:80"]
        {
            let told = Told::default().text("xds.route_name", generated);
            let span = span(SpanKind::Server, &[(":method", "GET"), (":path", "/7")], &told);
            assert_eq!(span.name, "GET");
            assert!(lines(&span).contains(&envoys(generated)), "{generated}");
        }
    }

    #[test]
    fn facts_are_told_where_they_are_asked_for() {
        let spans = r#"{"facts": ["sizes", "timing", "tls"]}"#;
        let told = Told::default()
            .int("request.size", 12)
            .int("response.size", 0)
            .int("upstream.cx_pool_ready_duration", 1_500_000)
            .int("response.backend_latency", 20_000_000)
            .text("connection.tls_version", "TLSv1.3")
            .text("connection.requested_server_name", "shop.example")
            .text("connection.uri_san_peer_certificate", "spiffe://a/ns/b/sa/c")
            .text("connection.subject_peer_certificate", "CN=a")
            .text("upstream.tls_version", "TLSv1.2")
            .text("upstream.subject_peer_certificate", "CN=b");
        let found = |kind, told: &Told, spans| {
            let span = span_with(spans, kind, &[(":method", "GET")], told, &[]);
            lines(&span)
                .into_iter()
                .filter(|line| {
                    ["body", "_ms", "tls", "identity"].iter().any(|part| line.contains(part))
                })
                .collect::<Vec<_>>()
        };
        let common = [
            "http.request.body.size=12",
            "http.response.body.size=0",
            "envoy.connect_ms=Scalar(Double(1.5))",
            "envoy.backend_latency_ms=Scalar(Double(20.0))",
            "tls.protocol.name=tls",
        ];
        assert_eq!(
            found(SpanKind::Server, &told, spans),
            [
                &common[..],
                &[
                    "tls.protocol.version=1.3",
                    "tls.client.server_name=shop.example",
                    "envoy.peer_identity=spiffe://a/ns/b/sa/c",
                ]
            ]
            .concat()
        );
        assert_eq!(
            found(SpanKind::Client, &told, spans),
            [&common[..], &["tls.protocol.version=1.2", "tls.server.subject=CN=b"]].concat()
        );
        assert_eq!(found(SpanKind::Server, &told, "{}"), [""; 0]);
        assert_eq!(found(SpanKind::Server, &Told::default(), spans), [""; 0]);
    }

    #[test]
    fn a_client_names_the_port_that_the_scheme_implies() {
        for (kind, scheme, port) in [
            (SpanKind::Client, "http", Some("server.port=80")),
            (SpanKind::Client, "https", Some("server.port=443")),
            (SpanKind::Client, "ws", None),
            (SpanKind::Server, "http", None),
        ] {
            let headers = [(":authority", "shop.example"), (":scheme", scheme)];
            let lines = lines(&span(kind, &headers, &Told::default()));
            let found = lines.iter().find(|line| line.starts_with("server.port"));
            assert_eq!(found.map(String::as_str), port, "{kind:?} {scheme}");
        }
    }

    #[test]
    fn grpc_is_named_by_its_method_once_a_server_knew_it() {
        let headers = [
            (":method", "POST"),
            (":path", "/shop.Orders/Get"),
            ("content-type", "application/grpc+proto"),
        ];
        let answered = |status| {
            Told::default()
                .int("response.code", 200)
                .int("response.grpc_status", status)
                .text("response.code_details", "via_upstream")
        };
        let known = span(SpanKind::Server, &headers, &answered(14));
        assert_eq!(known.name, "shop.Orders/Get");
        assert_eq!(known.status, Status::Error(String::new()));
        assert_eq!(
            lines(&known).get(2..),
            Some(
                &[
                    "error.type=14".to_owned(),
                    "url.path=/shop.Orders/Get".to_owned(),
                    "rpc.system=grpc".to_owned(),
                    "rpc.service=shop.Orders".to_owned(),
                    "rpc.method=Get".to_owned(),
                    "rpc.grpc.status_code=14".to_owned(),
                    "envoy.response_code_details=via_upstream".to_owned(),
                    "meshweft.sampling.reason=parent".to_owned(),
                ][..]
            )
        );
        assert_eq!(span(SpanKind::Server, &headers, &answered(12)).name, "POST");
        // What Envoy makes of an answer of plain HTTP, and of a stream that its client has left.
        let left = |told: Told| {
            told.int("response.flags", 1 << 28).text("response.code_details", "downstream_reset")
        };
        for told in [answered(2), left(answered(2))] {
            assert_eq!(span(SpanKind::Server, &headers, &told).name, "POST");
            let grpc = told.text("response content-type", "application/grpc");
            assert_eq!(span(SpanKind::Server, &headers, &grpc).name, "shop.Orders/Get");
        }
        let by_envoy = answered(14).text("response.code_details", "no_healthy_upstream");
        assert_eq!(span(SpanKind::Server, &headers, &by_envoy).name, "POST");
        assert_eq!(span(SpanKind::Server, &headers, &Told::default()).name, "POST");
    }

    #[test]
    fn paths_and_odd_methods_never_name_a_span_and_values_are_cut() {
        let long = format!("/{}", "é".repeat(40));
        let headers = [(":method", "PROPFIND"), (":path", &*long)];
        let span = span(SpanKind::Server, &headers, &Told::default().int("response.code", 200));
        assert_eq!(span.name, "HTTP");
        assert_eq!(
            lines(&span).get(..2),
            Some(
                &[
                    "http.request.method=_OTHER".to_owned(),
                    "http.request.method_original=PROPFIND".to_owned(),
                ][..]
            )
        );
        let path = format!("url.path=/{}", "é".repeat(19));
        assert!(lines(&span).contains(&path), "{:?}", lines(&span));
    }

    #[test]
    fn baggage_is_cut_and_never_takes_the_place_of_what_is_known() {
        let long = "é".repeat(40);
        let baggage = [
            ("tenant", "acme"),
            ("http.request.method", "DELETE"),
            ("tenant", "other"),
            ("meshweft.sampling.reason", "mine"),
            ("long", &*long),
        ];
        let span = span_with(
            r#"{"max_value_length": 40}"#,
            SpanKind::Server,
            &[(":method", "GET")],
            &Told::default(),
            &baggage,
        );
        assert_eq!(
            lines(&span),
            [
                "http.request.method=GET",
                "error.type=_OTHER",
                "meshweft.sampling.reason=parent",
                "tenant=acme",
                &format!("long={}", "é".repeat(20)),
            ]
        );
    }

    #[test]
    fn nothing_known_is_still_a_span() {
        let span = span(SpanKind::Server, &[], &Told::default().int("request.duration", -5));
        assert_eq!(
            (span.name.as_str(), span.start, span.end),
            ("HTTP", UnixNanos(0), UnixNanos(0))
        );
        assert_eq!(
            lines(&span),
            ["http.request.method=_OTHER", "error.type=_OTHER", "meshweft.sampling.reason=parent",]
        );
    }
}
