//! From an exchange to its span (OpenTelemetry semantic conventions for HTTP and RPC).

use super::attributes::Attributes;
use super::authority::Authority;
use super::custom;
use super::outcome::Outcome;
use super::routes::Routes;
use super::texts::{Texts, cut};
use super::urls::Urls;
use super::{Link, Span, SpanKind};
use crate::config::{SpanAttribute, Spans};
use crate::correlation::How;
use crate::model::{Exchange, Headers, ResponseFlags, SpanId, UnixNanos, grpc_method, is_grpc};
use crate::propagation::SpanContext;

/// Methods that the conventions know; any other is `_OTHER` (RFC 9110 and PATCH of RFC 5789).
const METHODS: [&str; 9] =
    ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];

/// Envoy's response code details where the upstream answered, and not Envoy itself.
const FROM_UPSTREAM: &str = "via_upstream";

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
    routes: Routes,
    urls: Urls,
    texts: Texts,
    attributes: Vec<SpanAttribute>,
    max_value_length: usize,
}

impl Describer {
    /// One for all spans of an instance.
    #[must_use]
    pub fn new(config: &Spans) -> Self {
        Self {
            routes: Routes::new(&config.routes),
            urls: Urls::new(config),
            texts: Texts::new(config.redact.clone(), config.max_value_length),
            attributes: config.attributes.clone(),
            max_value_length: config.max_value_length,
        }
    }

    /// The finished span of an exchange that has ended.
    #[must_use]
    pub fn describe(&self, subject: Subject<'_>, exchange: &impl Exchange) -> Span {
        let header = |name| subject.headers.get(name).and_then(|value| str::from_utf8(value).ok());
        let method = header(":method").unwrap_or_default();
        let known = METHODS.contains(&method);
        let target = header(":path").map(Urls::split);
        let path = target.map(|(path, _)| path);
        let query = target.and_then(|(_, query)| self.urls.query(query?));
        let authority = header(":authority").filter(|text| !text.is_empty()).map(Authority::split);
        let scheme = header(":scheme");
        let is_grpc = subject.headers.get("content-type").is_some_and(is_grpc);
        let outcome = Outcome {
            code: exchange.integer(&["response", "code"]).filter(|code| *code != 0),
            grpc: is_grpc.then(|| exchange.integer(&["response", "grpc_status"])).flatten(),
            flags: exchange
                .integer(&["response", "flags"])
                .map_or_else(ResponseFlags::default, |bits| {
                    ResponseFlags::from_bits(bits.cast_unsigned())
                }),
            details: exchange.text(&["response", "code_details"]),
        };
        let (status, error) = outcome.status(subject.kind);
        let route_name = exchange.text(&["xds", "route_name"]);
        // A route that is named like a path is a template; other names are Envoy's affair, and so is
        // one beside a template of the configuration.
        let like_path = route_name.as_deref().filter(|name| name.starts_with('/'));
        let configured = path.and_then(|path| self.routes.find(path));
        let template = configured.or(like_path);
        let route_name = route_name.as_deref().filter(|name| template != Some(name));
        let rpc = is_grpc.then(|| path.and_then(rpc_method)).flatten();

        let mut out = Attributes::new(&self.texts);
        out.text("http.request.method", Some(if known { method } else { "_OTHER" }));
        if !known {
            out.text(
                "http.request.method_original",
                Some(method).filter(|method| !method.is_empty()),
            );
        }
        out.int("http.response.status_code", outcome.code);
        out.text("error.type", error.as_deref());
        out.text("server.address", authority.map(|authority| authority.host));
        let port = authority.and_then(|authority| match subject.kind {
            SpanKind::Server => authority.port,
            // Of a client's span it is required.
            SpanKind::Client => authority.port.or_else(|| default_port(scheme?)),
        });
        out.int("server.port", port.map(i64::from));
        let protocol = exchange.text(&["request", "protocol"]);
        out.text("network.protocol.version", protocol.as_deref().and_then(protocol_version));
        let upstream = exchange.text(&["upstream", "address"]);
        match subject.kind {
            SpanKind::Server => {
                out.text("url.scheme", scheme);
                out.text("url.path", path);
                out.text("url.query", query.as_deref());
                out.text("http.route", template);
                let client = exchange.text(&["source", "address"]);
                out.text(
                    "client.address",
                    client.as_deref().map(|text| Authority::split(text).host),
                );
                out.text("user_agent.original", header("user-agent"));
            }
            SpanKind::Client => {
                if let (Some(scheme), Some(authority), Some(path)) = (scheme, authority, path) {
                    let mut url = format!("{scheme}://{}{path}", authority.text);
                    if let Some(query) = query {
                        url.push('?');
                        url.push_str(&query);
                    }
                    out.text("url.full", Some(&url));
                }
                out.text("url.template", template);
                let peer = upstream.as_deref().map(Authority::split);
                out.text("network.peer.address", peer.map(|peer| peer.host));
                out.int("network.peer.port", peer.and_then(|peer| peer.port).map(i64::from));
            }
        }
        if is_grpc {
            out.text("rpc.system", Some("grpc"));
            out.text("rpc.service", rpc.map(|(service, _)| service));
            out.text("rpc.method", rpc.map(|(_, method)| method));
            out.int("rpc.grpc.status_code", outcome.grpc);
        }
        out.text("envoy.cluster", exchange.text(&["xds", "cluster_name"]).as_deref());
        out.text("envoy.route", route_name);
        out.text("envoy.response_flags", Some(&*outcome.flags.letters()).filter(|s| !s.is_empty()));
        out.text("envoy.response_code_details", outcome.details.as_deref());
        out.text("envoy.upstream_address", upstream.as_deref());
        let attempts = exchange.integer(&["upstream", "request_attempt_count"]);
        // Zero where Envoy answered by itself: there was no upstream to count for.
        out.int("envoy.attempt_count", attempts.filter(|count| *count > 0));
        out.text("meshweft.sampling.reason", Some(subject.reason));
        out.text("meshweft.keep", subject.keep);
        if let Some(Correlated { how, confidence, candidates }) = subject.correlation {
            out.text("meshweft.correlation", Some(how.name()));
            out.double("meshweft.correlation.confidence", confidence);
            let several = i64::try_from(candidates).ok().filter(|count| *count > 1);
            out.int("meshweft.correlation.candidates", several);
        }
        custom::add(&mut out, &self.attributes, subject.headers, exchange, &self.urls);
        for (key, value) in subject.baggage {
            out.foreign(key, value);
        }

        let method = if known { method } else { "HTTP" };
        let name = match (rpc, outcome.grpc, template) {
            // Clients choose paths, so only a method that a server knew may name a span.
            (Some((service, method)), Some(grpc), _)
                if grpc != UNIMPLEMENTED && outcome.details.as_deref() == Some(FROM_UPSTREAM) =>
            {
                cut(&format!("{service}/{method}"), self.max_value_length).to_owned()
            }
            (_, _, Some(template)) => format!("{method} {template}"),
            (_, _, None) => method.to_owned(),
        };
        let name = out.name(name);
        let start = exchange.integer(&["request", "time"]).map_or(0, i64::cast_unsigned);
        let duration =
            exchange.integer(&["request", "duration"]).unwrap_or(0).max(0).cast_unsigned();
        Span {
            trace_id: subject.context.trace_id,
            span_id: subject.context.span_id,
            parent_id: subject.parent_id,
            trace_state: subject.context.state.as_str().to_owned(),
            flags: subject.context.flags,
            name,
            kind: subject.kind,
            start: UnixNanos(start),
            end: UnixNanos(start.saturating_add(duration)),
            status,
            attributes: out.into_list(),
            links: subject.links.to_vec(),
        }
    }
}

/// Service and method of a gRPC path.
fn rpc_method(path: &str) -> Option<(&str, &str)> {
    let (service, method) = grpc_method(path.as_bytes())?;
    Some((str::from_utf8(service).ok()?, str::from_utf8(method).ok()?))
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
    use crate::span::{KeyValue, Status, Value};

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
        Describer::new(&config.spans).describe(subject, told)
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
                "envoy.upstream_address=[::1]:9000",
                "envoy.attempt_count=3",
                "meshweft.sampling.reason=parent",
            ]
        );
        assert_eq!((span.name.as_str(), span.status), ("GET", Status::Error(String::new())));
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
