//! What a configuration asks of a request: the facts that rules compare, each read when the first
//! rule asks for it and at most once a request, since a property costs a hostcall.

mod routes;

use core::cell::{Cell, OnceCell};
use core::fmt;
use core::net::IpAddr;
use std::borrow::Cow;

use crate::config::{
    Direction, Expression, Match, Mode, SourceMatcher, StringMatcher, Trust, TrustRule,
};
use crate::model::{Exchange, Headers, grpc_method, is_grpc, known_method};
pub use routes::Routes;

/// On which side of the workload the requests of an instance are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// On this one, all of them.
    Always(Direction),
    /// There is no workload: the proxy stands alone.
    Gateway,
    /// As the listener of each says: listeners of both directions share one instance where their
    /// configuration is the same.
    OfListener,
}

impl Side {
    /// The side of an instance; `gateway` if its proxy stands alone, without a workload.
    #[must_use]
    pub const fn new(mode: Mode, gateway: bool) -> Self {
        match mode {
            Mode::Inbound => Self::Always(Direction::Inbound),
            Mode::Outbound | Mode::Upstream => Self::Always(Direction::Outbound),
            Mode::Gateway => Self::Gateway,
            Mode::Auto if gateway => Self::Gateway,
            Mode::Auto => Self::OfListener,
        }
    }

    /// The side of one request; a gateway's come in.
    #[must_use]
    pub fn of(self, exchange: &dyn Exchange) -> Direction {
        self.of_workload(exchange).unwrap_or(Direction::Inbound)
    }

    /// On which side of a workload one request is; `None` without one: a listener without a
    /// direction is a gateway's.
    #[must_use]
    pub fn of_workload(self, exchange: &dyn Exchange) -> Option<Direction> {
        match self {
            Self::Always(direction) => Some(direction),
            Self::Gateway => None,
            Self::OfListener => match exchange.integer(&["xds", "listener_direction"]) {
                Some(INBOUND) => Some(Direction::Inbound),
                Some(OUTBOUND) => Some(Direction::Outbound),
                _ => None,
            },
        }
    }
}

/// `envoy.config.core.v3.TrafficDirection.INBOUND`.
const INBOUND: i64 = 1;
/// `envoy.config.core.v3.TrafficDirection.OUTBOUND`.
const OUTBOUND: i64 = 2;

/// One thing that a [`Match`] asks for.
#[derive(Clone, Copy, Debug)]
pub enum Condition<'m> {
    /// An expression that the host evaluates.
    Cel(&'m Expression),
    /// Of the upstream cluster's name.
    Cluster(&'m StringMatcher),
    /// Of the side of the workload.
    Direction(Direction),
    /// That it is a gRPC request.
    Grpc,
    /// Of the gRPC method alone.
    GrpcMethod(&'m StringMatcher),
    /// Of the gRPC service with its package.
    GrpcService(&'m StringMatcher),
    /// Of the header of this name.
    Header(&'m str, &'m StringMatcher),
    /// Of the host.
    Host(&'m StringMatcher),
    /// Of the method.
    Method(&'m StringMatcher),
    /// What must not hold.
    Not(&'m Match),
    /// Of the path.
    Path(&'m StringMatcher),
    /// Of the route's name.
    Route(&'m StringMatcher),
    /// Of the peer.
    Source(&'m SourceMatcher),
}

/// All that `matches` asks for; what costs a hostcall comes last.
pub fn conditions(matches: &Match) -> impl Iterator<Item = Condition<'_>> {
    let grpc = matches.grpc.as_ref();
    let service = grpc.and_then(|grpc| grpc.service.as_ref());
    let method = grpc.and_then(|grpc| grpc.method.as_ref());
    let not = matches.not.as_deref();
    let dear = not.filter(|not| asks_the_host(not));
    let spared = not.filter(|_| dear.is_none());
    let free = [
        matches.method.as_ref().map(Condition::Method),
        matches.path.as_ref().map(Condition::Path),
        matches.host.as_ref().map(Condition::Host),
    ];
    let headers = matches.headers.iter().map(|(name, matcher)| Condition::Header(name, matcher));
    let others = [
        grpc.map(|_| Condition::Grpc),
        service.map(Condition::GrpcService),
        method.map(Condition::GrpcMethod),
        spared.map(Condition::Not),
        matches.direction.map(Condition::Direction),
        matches.route.as_ref().map(Condition::Route),
        matches.cluster.as_ref().map(Condition::Cluster),
        matches.source.as_ref().map(Condition::Source),
        dear.map(Condition::Not),
        matches.cel.as_ref().map(Condition::Cel),
    ];
    free.into_iter().flatten().chain(headers).chain(others.into_iter().flatten())
}

/// The facts of one request.
pub struct Facts<'a> {
    headers: &'a Headers,
    exchange: &'a dyn Exchange,
    side: Side,
    host: OnceCell<Option<Cow<'a, [u8]>>>,
    method: OnceCell<Option<&'a [u8]>>,
    path: OnceCell<Option<&'a [u8]>>,
    route: OnceCell<Option<Vec<u8>>>,
    cluster: OnceCell<Option<Vec<u8>>>,
    identity: OnceCell<Option<Vec<u8>>>,
    address: OnceCell<Option<Vec<u8>>>,
    workload: OnceCell<Option<Direction>>,
    /// How many expressions could not be evaluated.
    failed: Cell<u32>,
}

impl<'a> Facts<'a> {
    /// The facts of the request with these `headers`, pseudo headers among them.
    #[must_use]
    pub const fn new(headers: &'a Headers, exchange: &'a dyn Exchange, side: Side) -> Self {
        Self {
            headers,
            exchange,
            side,
            host: OnceCell::new(),
            method: OnceCell::new(),
            path: OnceCell::new(),
            route: OnceCell::new(),
            cluster: OnceCell::new(),
            identity: OnceCell::new(),
            address: OnceCell::new(),
            workload: OnceCell::new(),
            failed: Cell::new(0),
        }
    }

    /// Whether all that `matches` asks for holds; not if that cannot be said.
    #[must_use]
    pub fn fit(&self, matches: &Match) -> bool {
        self.truth(matches) == Some(true)
    }

    /// The same; `None` where it depends on an expression that cannot be evaluated.
    fn truth(&self, matches: &Match) -> Option<bool> {
        let mut truth = Some(true);
        for condition in conditions(matches) {
            match self.holds(condition) {
                Some(true) => {}
                Some(false) => return Some(false),
                None => truth = None,
            }
        }
        truth
    }

    /// How many expressions could not be evaluated so far.
    #[must_use]
    pub const fn failed(&self) -> u32 {
        self.failed.get()
    }

    /// Whether one thing that a match asks for holds; `None` where an expression cannot be
    /// evaluated: so that a rule is for no request about which it cannot say, with `not` or
    /// without.
    #[must_use]
    pub fn holds(&self, condition: Condition<'_>) -> Option<bool> {
        Some(match condition {
            Condition::Cel(expression) => return self.evaluate(expression),
            Condition::Not(matches) => return self.truth(matches).map(|truth| !truth),
            Condition::Cluster(matcher) => matcher.matches(self.cluster()),
            Condition::Direction(direction) => self.direction() == direction,
            Condition::Grpc => self.is_grpc(),
            Condition::GrpcMethod(matcher) => matcher.matches(self.grpc_method()),
            Condition::GrpcService(matcher) => matcher.matches(self.grpc_service()),
            Condition::Header(name, matcher) => matcher.matches(self.header(name).as_deref()),
            Condition::Host(matcher) => self.host_fits(matcher),
            Condition::Method(matcher) => matcher.matches(self.method()),
            Condition::Path(matcher) => matcher.matches(self.path()),
            Condition::Route(matcher) => matcher.matches(self.route()),
            Condition::Source(matcher) => self.source_fits(matcher),
        })
    }

    fn evaluate(&self, expression: &Expression) -> Option<bool> {
        let holds = expression.token.and_then(|token| self.exchange.evaluate(token));
        if holds.is_none() {
            self.failed.set(self.failed.get().saturating_add(1));
        }
        holds
    }

    /// What `condition` is compared with, for people to read: none where the request has nothing
    /// of the kind, two for a source with an identity and an address.
    #[must_use]
    pub fn seen(&self, condition: Condition<'_>) -> Vec<Cow<'_, [u8]>> {
        let fact = match condition {
            Condition::Cluster(_) => self.cluster(),
            Condition::Direction(_) => Some(self.direction().name().as_bytes()),
            Condition::Grpc => self.headers.get("content-type"),
            Condition::GrpcMethod(_) => self.grpc_method(),
            Condition::GrpcService(_) => self.grpc_service(),
            Condition::Header(name, _) => return Vec::from_iter(self.header(name)),
            Condition::Host(_) => self.host(),
            Condition::Method(_) => self.method(),
            Condition::Cel(_) | Condition::Not(_) => None,
            Condition::Path(_) => self.path(),
            Condition::Route(_) => self.route(),
            Condition::Source(_) => {
                let both = [self.identity(), self.address()];
                return both.into_iter().flatten().map(Cow::Borrowed).collect();
            }
        };
        fact.into_iter().map(Cow::Borrowed).collect()
    }

    /// Whether the request goes to a host that `matcher` matches.
    #[must_use]
    pub fn host_fits(&self, matcher: &StringMatcher) -> bool {
        matcher.matches(self.host())
    }

    /// What the caller's context is worth: as the first rule that matches says.
    #[must_use]
    pub fn trust(&self, rules: &[TrustRule]) -> Trust {
        let matched = rules.iter().find(|rule| self.fit(&rule.matches));
        matched.map(|rule| rule.trust).unwrap_or_default()
    }

    /// What is called: the method, and of what: a gRPC method, the template of the path, or else
    /// the host. Few values, however many paths there are.
    pub fn operation<'s>(&'s self, routes: &'s Routes) -> [&'s [u8]; 2] {
        let named = || self.template(routes).or_else(|| self.host());
        let what = if self.is_grpc() { self.path() } else { named() };
        [self.named_method().as_bytes(), what.unwrap_or_default()]
    }

    /// The name that a span of the request has, as far as it is known when the request comes: the
    /// gRPC method, the method with the template of the path, or the method alone.
    pub fn span_name(&self, routes: &Routes) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let rpc = self.path().filter(|_| self.is_grpc()).and_then(grpc_method);
        if let Some((service, method)) = rpc {
            return format!("{}/{}", text(service), text(method));
        }
        let method = self.named_method();
        match self.template(routes) {
            Some(template) => format!("{method} {}", text(template)),
            None => method.to_owned(),
        }
    }

    /// The method as it stands in a span's name.
    fn named_method(&self) -> &'static str {
        self.method().and_then(known_method).unwrap_or("HTTP")
    }

    /// The method; empty without one.
    pub fn operation_method(&self) -> &[u8] {
        self.method().unwrap_or_default()
    }

    /// The headers of the request.
    #[must_use]
    pub const fn headers(&self) -> &'a Headers {
        self.headers
    }

    fn method(&self) -> Option<&[u8]> {
        *self.method.get_or_init(|| self.headers.get(":method"))
    }

    /// The path without its query.
    pub fn path(&self) -> Option<&[u8]> {
        let read = || self.headers.get(":path").map(without_query);
        *self.path.get_or_init(read)
    }

    /// The host without its port, in lower case.
    pub fn host(&self) -> Option<&[u8]> {
        let read = || {
            let host = without_port(without_user(self.headers.get(":authority")?));
            // `shop.` and `shop` are one host (RFC 1034, section 3.1).
            let host = host.strip_suffix(b".").unwrap_or(host);
            // Allocates for the rare client that writes capitals only.
            Some(if host.iter().any(u8::is_ascii_uppercase) {
                Cow::Owned(host.to_ascii_lowercase())
            } else {
                Cow::Borrowed(host)
            })
        };
        self.host.get_or_init(read).as_deref()
    }

    fn is_grpc(&self) -> bool {
        self.headers.get("content-type").is_some_and(is_grpc)
    }

    /// The template of the path: of `routes`, or else the route if it is named like one.
    fn template<'s>(&'s self, routes: &'s Routes) -> Option<&'s [u8]> {
        let configured = self.path().and_then(|path| routes.find(path)).map(str::as_bytes);
        configured.or_else(|| self.route().filter(|route| route.starts_with(b"/")))
    }

    /// Which side of the workload the request is on; a gateway's come in.
    fn direction(&self) -> Direction {
        self.of_workload().unwrap_or(Direction::Inbound)
    }

    /// The same, `None` without a workload.
    #[must_use]
    pub fn of_workload(&self) -> Option<Direction> {
        *self.workload.get_or_init(|| self.side.of_workload(self.exchange))
    }

    /// [`Self::of_workload`], if something has asked for it.
    #[must_use]
    pub fn known_direction(&self) -> Option<Direction> {
        self.workload.get().map(|side| side.unwrap_or(Direction::Inbound))
    }

    fn route(&self) -> Option<&[u8]> {
        let read = || self.property(&["xds", "route_name"]);
        self.route.get_or_init(read).as_deref()
    }

    fn cluster(&self) -> Option<&[u8]> {
        let read = || self.property(&["xds", "cluster_name"]);
        self.cluster.get_or_init(read).as_deref()
    }

    /// The first URI in the peer's certificate: in a mesh, its SPIFFE id.
    fn identity(&self) -> Option<&[u8]> {
        let read = || self.property(&["connection", "uri_san_peer_certificate"]);
        self.identity.get_or_init(read).as_deref()
    }

    /// The peer's address; an IPv6 address has no brackets.
    fn address(&self) -> Option<&[u8]> {
        let read = || self.property(&["source", "address"]);
        let address = self.address.get_or_init(read).as_deref().map(without_port)?;
        let bare = address.strip_prefix(b"[").and_then(|bare| bare.strip_suffix(b"]"));
        Some(bare.unwrap_or(address))
    }

    /// A property; the host gives an empty text for what there is not.
    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        self.exchange.property(path).filter(|value| !value.is_empty())
    }

    /// The address, if it is one of the internet.
    fn ip(&self) -> Option<IpAddr> {
        let address = str::from_utf8(self.address()?).ok()?;
        // Envoy names the interface of a link-local address.
        address.split('%').next()?.parse().ok()
    }

    fn source_fits(&self, source: &SourceMatcher) -> bool {
        source.text.as_ref().is_some_and(|matcher| self.source_text_fits(matcher))
            || !source.networks.is_empty()
                && self.ip().is_some_and(|ip| source.networks.iter().any(|net| net.contains(ip)))
    }

    /// Either may match; that there is no source holds only without both.
    fn source_text_fits(&self, matcher: &StringMatcher) -> bool {
        let identity = self.identity();
        if identity.is_some() && matcher.matches(identity) {
            return true;
        }
        let address = self.address();
        (address.is_some() || identity.is_none()) && matcher.matches(address)
    }

    fn grpc_service(&self) -> Option<&[u8]> {
        self.path().and_then(grpc_method).map(|(service, _)| service)
    }

    fn grpc_method(&self) -> Option<&[u8]> {
        self.path().and_then(grpc_method).map(|(_, method)| method)
    }

    /// All values of a header: several lines are one list (RFC 9110, section 5.3).
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let mut values = self.headers.get_all(name);
        let first = values.next()?;
        let Some(second) = values.next() else { return Some(first.into()) };
        let mut joined = first.to_vec();
        for value in core::iter::once(second).chain(values) {
            joined.push(b',');
            joined.extend_from_slice(value);
        }
        Some(joined.into())
    }
}

/// Without the exchange, which is the host's.
impl fmt::Debug for Facts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Facts")
            .field("headers", &self.headers)
            .field("side", &self.side)
            .finish_non_exhaustive()
    }
}

/// Whether a property must be read to say that `matches` holds.
fn asks_the_host(matches: &Match) -> bool {
    matches.direction.is_some()
        || matches.route.is_some()
        || matches.cluster.is_some()
        || matches.source.is_some()
        || matches.cel.is_some()
        || matches.not.as_ref().is_some_and(|not| asks_the_host(not))
}

fn without_query(path: &[u8]) -> &[u8] {
    path.split(|&b| matches!(b, b'?' | b'#')).next().unwrap_or(path)
}

/// `authority` without user information.
fn without_user(authority: &[u8]) -> &[u8] {
    authority.rsplit(|&b| b == b'@').next().unwrap_or(authority)
}

/// `authority` without a port; an IPv6 address keeps its brackets.
fn without_port(authority: &[u8]) -> &[u8] {
    let Some(colon) = authority.iter().rposition(|&b| b == b':') else { return authority };
    let Some((host, port)) = authority.split_at_checked(colon) else { return authority };
    let digits = port.iter().skip(1).all(u8::is_ascii_digit);
    let whole = !host.contains(&b':') || (host.starts_with(b"[") && host.ends_with(b"]"));
    if digits && whole { host } else { authority }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use core::cell::RefCell;

    use super::*;
    use crate::config::{Config, Template};

    /// Properties by their names, and which were asked for.
    #[derive(Default)]
    struct Host<'a> {
        properties: &'a [(&'a str, &'a [u8])],
        asked: RefCell<Vec<String>>,
    }

    impl Exchange for Host<'_> {
        fn request_headers(&self) -> Headers {
            Headers::default()
        }
        fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
            let name = path.join(".");
            let value = self.properties.iter().find(|(known, _)| *known == name);
            self.asked.borrow_mut().push(name);
            value.map(|(_, value)| value.to_vec())
        }
    }

    const IDENTITY: &str = "connection.uri_san_peer_certificate";
    const ADDRESS: &str = "source.address";
    const ROUTE: &str = "xds.route_name";
    const CLUSTER: &str = "xds.cluster_name";
    const LISTENER: &str = "xds.listener_direction";

    fn matching(matches: &str) -> Match {
        let json = format!(r#"{{"sampling": {{"rules": [{{"name": "r", "match": {matches}}}]}}}}"#);
        let config = Config::parse(json.as_bytes(), &|_| None).unwrap();
        config.sampling.rules.into_iter().next().unwrap().matches
    }

    #[track_caller]
    fn check(matches: &str, headers: &[(&str, &[u8])], expected: bool) {
        let headers: Headers = headers.iter().copied().collect();
        let host = Host::default();
        let facts = Facts::new(&headers, &host, Side::OfListener);
        assert_eq!(facts.fit(&matching(matches)), expected, "{matches}");
        assert_eq!(host.asked.take(), [""; 0], "{matches}");
    }

    #[test]
    fn ports_and_queries_go() {
        for (authority, host) in [
            ("shop", "shop"),
            ("shop:80", "shop"),
            ("shop:", "shop"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
            ("shop:http", "shop:http"),
            ("", ""),
            (":80", ""),
        ] {
            assert_eq!(without_port(authority.as_bytes()), host.as_bytes(), "{authority}");
        }
        assert_eq!(without_query(b"/a?b?c"), b"/a");
        assert_eq!(without_query(b"/a#b?c"), b"/a");
        assert_eq!(without_query(b"?"), b"");
        assert_eq!(without_query(b""), b"");
    }

    #[test]
    fn all_given_fields_must_hold() {
        let request: &[(&str, &[u8])] = &[
            (":method", b"POST"),
            (":path", b"/orders/7/pay?now"),
            (":authority", b"Shop.Example:8080"),
            ("x-team", b"a"),
            ("x-team", b"b"),
            ("x-raw", b"\xff"),
        ];
        for (matches, expected) in [
            ("{}", true),
            (r#"{"method": "POST"}"#, true),
            (r#"{"method": "post"}"#, false),
            (r#"{"path": "/orders/7/pay"}"#, true),
            (r#"{"path": {"suffix": "now"}}"#, false),
            (r#"{"path": {"glob": "/orders/*/pay"}, "method": ["GET", "POST"]}"#, true),
            (r#"{"path": {"glob": "/orders/*/pay"}, "method": "GET"}"#, false),
            (r#"{"host": "SHOP.example"}"#, true),
            (r#"{"host": "shop.example."}"#, false),
            (r#"{"host": {"regex": "[A-Z]+\\.example"}}"#, true),
            (r#"{"host": {"suffix": "8080"}}"#, false),
            (r#"{"headers": {"x-team": "a,b"}}"#, true),
            (r#"{"headers": {"x-team": "a"}}"#, false),
            (r#"{"headers": {"x-raw": {"present": true}, "x-none": {"present": false}}}"#, true),
            (r#"{"headers": {"x-raw": {"present": false}}}"#, false),
            (r#"{"headers": {"x-none": {"prefix": "a"}}}"#, false),
        ] {
            check(matches, request, expected);
        }
    }

    #[test]
    fn requests_without_facts_match_nothing_but_absence() {
        check(r#"{"host": {"glob": "**"}}"#, &[], false);
        check(r#"{"path": {"present": false}}"#, &[], true);
        check("{}", &[], true);
    }

    #[test]
    fn a_source_is_an_identity_or_an_address() {
        let spiffe: (&str, &[u8]) = (IDENTITY, b"spiffe://cluster.local/ns/shop/sa/cart");
        let v4: (&str, &[u8]) = (ADDRESS, b"10.1.2.3:40312");
        let v6: (&str, &[u8]) = (ADDRESS, b"[fd00::7]:40312");
        let shop = r#"{"source": {"glob": "spiffe://cluster.local/ns/shop/**"}}"#;
        let either = r#"{"source": [{"prefix": "spiffe://cluster.local/"}, {"prefix": "10."}]}"#;
        let absent = r#"{"source": {"present": false}}"#;
        let v4_inside = r#"{"source": {"cidr": "10.0.0.0/8"}}"#;
        let v6_inside = r#"{"source": [{"cidr": "192.168.0.0/16"}, {"cidr": "fd00::/8"}]}"#;
        let mixed =
            r#"{"source": [{"cidr": "10.0.0.0/8"}, {"prefix": "spiffe://cluster.local/"}]}"#;
        for (matches, properties, expected) in [
            (shop, &[spiffe, v4][..], true),
            (shop, &[v4], false),
            (either, &[spiffe, v6], true),
            (either, &[v4], true),
            (either, &[v6], false),
            (either, &[], false),
            (r#"{"source": "10.1.2.3"}"#, &[spiffe, v4], true),
            (r#"{"source": "10.1.2.3"}"#, &[(ADDRESS, b"10.1.2.3")], true),
            (r#"{"source": "10.1.2.3"}"#, &[(IDENTITY, b"10.1.2.3")], false),
            (r#"{"source": "fd00::7"}"#, &[v6], true),
            (r#"{"source": "FD00:0::7"}"#, &[v6], true),
            (r#"{"source": "fd00::7"}"#, &[(ADDRESS, b"fd00::7")], true),
            (r#"{"source": "/run/envoy.sock"}"#, &[(ADDRESS, b"/run/envoy.sock")], true),
            (v4_inside, &[spiffe, v4], true),
            (v4_inside, &[(ADDRESS, b"10.1.2.3")], true),
            (v4_inside, &[(ADDRESS, b"[::ffff:10.1.2.3]:1")], true),
            (v4_inside, &[(ADDRESS, b"11.1.2.3:1")], false),
            (v4_inside, &[v6], false),
            (v4_inside, &[spiffe], false),
            (v4_inside, &[], false),
            (v4_inside, &[(ADDRESS, b"\xff")], false),
            (v4_inside, &[(ADDRESS, b"/10.1.2.3")], false),
            (v6_inside, &[v6], true),
            (v6_inside, &[(ADDRESS, b"[fd00::7%2]:1")], true),
            (v6_inside, &[(ADDRESS, b"fd00::7")], true),
            // A certificate may hold any URI, also one that looks like an address.
            (v6_inside, &[(IDENTITY, b"fd00::7")], false),
            (v6_inside, &[(IDENTITY, b"fd00::7"), v4], false),
            (mixed, &[spiffe, (ADDRESS, b"203.0.113.9:1")], true),
            (mixed, &[v4], true),
            (mixed, &[v6], false),
            (r#"{"source": {"present": true}}"#, &[v4], true),
            (r#"{"source": {"present": true}}"#, &[spiffe], true),
            (r#"{"source": {"present": true}}"#, &[(IDENTITY, b""), (ADDRESS, b"")], false),
            (absent, &[(IDENTITY, b""), (ADDRESS, b"")], true),
            (absent, &[], true),
            (absent, &[v4], false),
            (absent, &[spiffe], false),
            (r#"{"source": [{"present": false}, "10.9.9.9"]}"#, &[v4], false),
            (r#"{"source": {"regex": "(?s-u:.)+"}}"#, &[(IDENTITY, b"\xff")], true),
        ] {
            let host = Host { properties, ..Host::default() };
            let headers = Headers::default();
            let facts = Facts::new(&headers, &host, Side::OfListener);
            assert_eq!(facts.fit(&matching(matches)), expected, "{matches} {properties:?}");
        }
    }

    #[test]
    fn routes_and_clusters_are_envoys_names() {
        let route: (&str, &[u8]) = (ROUTE, b"pay-v2");
        let cluster: (&str, &[u8]) = (CLUSTER, b"outbound|80||pay");
        let both = r#"{"route": {"prefix": "pay"}, "cluster": {"suffix": "|pay"}}"#;
        for (matches, properties, expected) in [
            (r#"{"route": "pay-v2"}"#, &[route][..], true),
            (r#"{"route": "pay-v2"}"#, &[cluster], false),
            (r#"{"cluster": "outbound|80||pay"}"#, &[cluster], true),
            (both, &[route, cluster], true),
            (both, &[route], false),
            (both, &[cluster], false),
            // The host gives an empty text for what there is not.
            (r#"{"route": {"present": true}}"#, &[(ROUTE, b"")], false),
            (r#"{"cluster": {"present": false}}"#, &[], true),
            (r#"{"route": {"regex": "(?s-u:.)"}}"#, &[(ROUTE, b"\xff")], true),
        ] {
            let host = Host { properties, ..Host::default() };
            let headers = Headers::default();
            let facts = Facts::new(&headers, &host, Side::OfListener);
            assert_eq!(facts.fit(&matching(matches)), expected, "{matches} {properties:?}");
        }
    }

    #[test]
    fn grpc_requests_are_of_a_service_and_a_method() {
        let add: &[(&str, &[u8])] =
            &[("content-type", b"application/grpc"), (":path", b"/shop.v1.Cart/Add?x")];
        let nameless: &[(&str, &[u8])] =
            &[("content-type", b"application/grpc+json"), (":path", b"/shop.v1.Cart")];
        let plain: &[(&str, &[u8])] =
            &[("content-type", b"application/json"), (":path", b"/shop.v1.Cart/Add")];
        for (matches, request, expected) in [
            (r#"{"grpc": {}}"#, add, true),
            (r#"{"grpc": {}}"#, nameless, true),
            (r#"{"grpc": {}}"#, plain, false),
            (r#"{"grpc": {}}"#, &[], false),
            (r#"{"grpc": {"service": "shop.v1.Cart"}}"#, add, true),
            (r#"{"grpc": {"service": "shop.v1.Cart"}}"#, nameless, false),
            (r#"{"grpc": {"service": "shop.v1.Cart"}}"#, plain, false),
            (r#"{"grpc": {"service": "shop.v1"}}"#, add, false),
            (r#"{"grpc": {"method": ["Get", "Add"]}}"#, add, true),
            (r#"{"grpc": {"service": "shop.v1.Cart", "method": "Get"}}"#, add, false),
            (r#"{"grpc": {"service": {"prefix": "shop."}, "method": {"glob": "A*"}}}"#, add, true),
            (r#"{"grpc": {"service": {"present": false}}}"#, nameless, true),
            (r#"{"grpc": {"service": {"present": false}}}"#, plain, false),
        ] {
            check(matches, request, expected);
        }
    }

    #[test]
    fn what_is_not_matched_is_left() {
        let request: &[(&str, &[u8])] =
            &[(":method", b"GET"), (":path", b"/a"), (":authority", b"shop")];
        for (matches, expected) in [
            (r#"{"not": {"path": "/a"}}"#, false),
            (r#"{"not": {"path": "/b"}}"#, true),
            (r#"{"path": "/a", "not": {"method": "GET"}}"#, false),
            (r#"{"path": "/b", "not": {"method": "PUT"}}"#, false),
            (r#"{"not": {"path": "/a", "method": "PUT"}}"#, true),
            (r#"{"not": {"headers": {"x-a": {"present": true}}}}"#, true),
            (r#"{"not": {"not": {"path": "/a"}}}"#, true),
            (r#"{"not": {"path": "/a", "not": {"method": "GET"}}}"#, true),
            (r#"{"not": {"path": "/a", "not": {"method": "PUT"}}}"#, false),
        ] {
            check(matches, request, expected);
        }
    }

    #[test]
    fn the_side_is_the_modes_or_the_nodes_or_the_listeners() {
        use Direction::{Inbound, Outbound};
        let inbound: Option<&[u8]> = Some(&[1, 0, 0, 0, 0, 0, 0, 0]);
        let outbound: Option<&[u8]> = Some(&[2, 0, 0, 0, 0, 0, 0, 0]);
        for (mode, gateway, listener, direction, asks) in [
            (Mode::Auto, false, inbound, Inbound, true),
            (Mode::Auto, false, outbound, Outbound, true),
            (Mode::Auto, false, None, Inbound, true),
            (Mode::Auto, true, outbound, Inbound, false),
            (Mode::Inbound, false, outbound, Inbound, false),
            (Mode::Outbound, true, inbound, Outbound, false),
            (Mode::Gateway, false, outbound, Inbound, false),
        ] {
            let properties = listener.map(|value| [(LISTENER, value)]);
            let properties = properties.as_ref().map(|list| &list[..]).unwrap_or_default();
            let host = Host { properties, ..Host::default() };
            let headers = Headers::default();
            let facts = Facts::new(&headers, &host, Side::new(mode, gateway));
            let given = (mode, gateway, listener);
            for word in [Inbound, Outbound] {
                let matches = matching(&format!(r#"{{"direction": "{}"}}"#, word.name()));
                assert_eq!(facts.fit(&matches), word == direction, "{given:?}");
            }
            assert_eq!(host.asked.take().len(), usize::from(asks), "{given:?}");
        }
    }

    #[test]
    fn operations_are_few() {
        let grpc = ("content-type", "application/grpc");
        let none = Routes::default();
        let carts = Routes::new(&[Template::parse("/shop.Cart/{call}").unwrap()]);
        let (call, orders) = ("/shop.Cart/{call}", "/orders/{id}");
        for (routes, route, header, what, name, asks) in [
            (&none, "", ("x-a", "1"), "shop", "POST", true),
            (&none, "default", ("x-a", "1"), "shop", "POST", true),
            (&none, orders, ("x-a", "1"), orders, "POST /orders/{id}", true),
            (&none, orders, grpc, "/shop.Cart/Add", "shop.Cart/Add", false),
            // Templates of the configuration come before Envoy's route, as they do in spans.
            (&carts, orders, ("x-a", "1"), call, "POST /shop.Cart/{call}", false),
            (&carts, orders, grpc, "/shop.Cart/Add", "shop.Cart/Add", false),
        ] {
            let route = [(ROUTE, route.as_bytes())];
            let host = Host { properties: &route, ..Host::default() };
            let pairs =
                [(":method", "POST"), (":path", "/shop.Cart/Add?x"), (":authority", "Shop:80")];
            let headers: Headers = pairs.into_iter().chain([header]).collect();
            let facts = Facts::new(&headers, &host, Side::OfListener);
            assert_eq!(facts.operation(routes), [b"POST", what.as_bytes()]);
            assert_eq!(facts.span_name(routes), name);
            assert_eq!(host.asked.take().len(), usize::from(asks), "{name}");
        }
        // What clients make up is one method, as in spans; so is none at all.
        let made_up: Headers = [(":method", "BREW"), (":path", "/")].into_iter().collect();
        for headers in [Headers::default(), made_up] {
            let host = Host::default();
            let facts = Facts::new(&headers, &host, Side::OfListener);
            assert_eq!(facts.operation(&none), [&b"HTTP"[..], b""]);
            assert_eq!(facts.span_name(&none), "HTTP");
        }
    }

    #[test]
    fn properties_are_read_once_and_only_where_a_rule_asks() {
        let host = Host { properties: &[(ADDRESS, b"10.0.0.1:1")], ..Host::default() };
        let headers: Headers = [(":method", "GET")].into_iter().collect();
        let facts = Facts::new(&headers, &host, Side::OfListener);
        let source = r#""source": {"prefix": "10.0.0.2"}, "direction": "inbound""#;
        for (matches, asked) in [
            ("{}".to_owned(), &[][..]),
            // What costs nothing has said no already.
            (format!(r#"{{{source}, "method": "POST"}}"#), &[]),
            (format!("{{{source}}}"), &[LISTENER, IDENTITY, ADDRESS]),
            (format!("{{{source}}}"), &[]),
            // Each says no, so that the next is never asked.
            (r#"{"route": "a", "not": {"method": "GET"}}"#.to_owned(), &[]),
            (r#"{"method": "POST", "not": {"route": "a"}}"#.to_owned(), &[]),
            (r#"{"route": "a", "not": {"cluster": "a"}}"#.to_owned(), &[ROUTE]),
            (
                r#"{"route": {"present": false}, "not": {"not": {"cluster": "a"}}}"#.to_owned(),
                &[CLUSTER],
            ),
            (r#"{"route": "a"}"#.to_owned(), &[]),
            (r#"{"cluster": "a"}"#.to_owned(), &[]),
        ] {
            let _ = facts.fit(&matching(&matches));
            assert_eq!(host.asked.take(), asked, "{matches}");
        }
    }

    /// An expression of this name holds, or does not, or cannot be evaluated.
    struct Evaluator(Cell<u32>);

    impl Exchange for Evaluator {
        fn request_headers(&self) -> Headers {
            Headers::default()
        }
        fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
            panic!("{path:?}")
        }
        fn evaluate(&self, expression: u32) -> Option<bool> {
            self.0.set(self.0.get().saturating_add(1));
            [Some(false), Some(true), None].into_iter().nth(usize::try_from(expression).unwrap())?
        }
    }

    #[test]
    fn a_rule_is_for_no_request_of_which_it_cannot_say() {
        let headers: Headers = [(":method", "GET")].into_iter().collect();
        for (matches, expected, evaluated, failed) in [
            (r#"{"cel": "true"}"#, true, 1, 0),
            (r#"{"cel": "false"}"#, false, 1, 0),
            (r#"{"cel": "bad"}"#, false, 1, 1),
            (r#"{"not": {"cel": "true"}}"#, false, 1, 0),
            (r#"{"not": {"cel": "false"}}"#, true, 1, 0),
            (r#"{"not": {"cel": "bad"}}"#, false, 1, 1),
            (r#"{"not": {"not": {"cel": "bad"}}}"#, false, 1, 1),
            // What costs nothing is asked before, and settles it.
            (r#"{"cel": "true", "method": "PUT"}"#, false, 0, 0),
            (r#"{"not": {"cel": "bad", "method": "PUT"}}"#, true, 0, 0),
            (r#"{"cel": "true", "not": {"cel": "false"}}"#, true, 2, 0),
            (r#"{"cel": "false", "not": {"cel": "bad"}}"#, false, 2, 1),
        ] {
            let json =
                format!(r#"{{"sampling": {{"rules": [{{"name": "r", "match": {matches}}}]}}}}"#);
            let mut config = Config::parse(json.as_bytes(), &|_| None).unwrap();
            let mut compiler = |text: &str| {
                Ok(match text {
                    "false" => 0,
                    "true" => 1,
                    _ => 2,
                })
            };
            config.compile(&mut compiler).unwrap();
            let host = Evaluator(Cell::new(0));
            let facts = Facts::new(&headers, &host, Side::Always(Direction::Inbound));
            assert_eq!(facts.fit(&config.sampling.rules[0].matches), expected, "{matches}");
            assert_eq!((host.0.take(), facts.failed()), (evaluated, failed), "{matches}");
            // Nobody has compiled it.
            let facts = Facts::new(&headers, &host, Side::Always(Direction::Inbound));
            let settled = matches.contains("PUT") && expected;
            assert_eq!(facts.fit(&matching(matches)), settled, "{matches}");
            assert_eq!(host.0.take(), 0);
        }
    }

    #[test]
    fn networks_ask_for_the_address_alone() {
        let host = Host { properties: &[(ADDRESS, b"10.0.0.1:1")], ..Host::default() };
        let headers = Headers::default();
        for source in [r#"{"cidr": "10.0.0.0/8"}"#, r#""10.0.0.1""#] {
            let facts = Facts::new(&headers, &host, Side::OfListener);
            assert!(facts.fit(&matching(&format!(r#"{{"source": {source}}}"#))), "{source}");
            assert_eq!(host.asked.take(), [ADDRESS], "{source}");
        }
    }

    #[test]
    fn each_condition_is_told_with_what_it_was_compared_with() {
        let headers: Headers = [
            (":method", "POST"),
            (":path", "/a.A/X?q"),
            (":authority", "Shop:80"),
            ("content-type", "application/grpc"),
            ("x-team", "a"),
            ("x-team", "b"),
        ]
        .into_iter()
        .collect();
        let properties: &[(&str, &[u8])] =
            &[(IDENTITY, b"spiffe://a"), (ADDRESS, b"10.0.0.1:1"), (ROUTE, b"r"), (CLUSTER, b"")];
        let host = Host { properties, ..Host::default() };
        let facts = Facts::new(&headers, &host, Side::Always(Direction::Inbound));
        let told = |matches: &Match| -> Vec<_> {
            let text = |value: &Cow<'_, [u8]>| String::from_utf8(value.to_vec()).unwrap();
            conditions(matches)
                .map(|condition| {
                    let seen: Vec<_> = facts.seen(condition).iter().map(text).collect();
                    (facts.holds(condition) == Some(true), seen.join(" "))
                })
                .collect()
        };
        let all = r#"{"method": "GET", "path": "/a.A/X", "host": "shop", "route": "r",
            "headers": {"x-none": "", "x-team": "a,b"}, "cluster": {"present": true},
            "grpc": {"service": "a.A", "method": "Y"}, "direction": "outbound",
            "source": "10.0.0.1", "not": {"path": "/"}}"#;
        let expected = [
            (false, "POST"),
            (true, "/a.A/X"),
            (true, "shop"),
            (false, ""),
            (true, "a,b"),
            (true, "application/grpc"),
            (true, "a.A"),
            (false, "X"),
            (true, ""),
            (false, "inbound"),
            (true, "r"),
            (false, ""),
            (true, "spiffe://a 10.0.0.1"),
        ];
        assert_eq!(told(&matching(all)), expected.map(|(holds, seen)| (holds, seen.to_owned())));
        assert_eq!(told(&Match::default()), []);
    }

    #[test]
    fn the_first_rule_that_matches_says_what_a_context_is_worth() {
        let rule = |matches, trust| TrustRule { matches: matching(matches), trust };
        let rules = [
            rule(r#"{"headers": {"x-inner": {"present": true}}}"#, Trust::Continue),
            rule(r#"{"host": {"glob": "*.example"}}"#, Trust::Link),
            rule(r#"{"path": {"prefix": "/"}}"#, Trust::Restart),
        ];
        for (headers, trust) in [
            (&[(":authority", "shop.example"), ("x-inner", "")][..], Trust::Continue),
            (&[(":authority", "Shop.Example:80"), (":path", "/")], Trust::Link),
            (&[(":authority", "example"), (":path", "/")], Trust::Restart),
            (&[(":authority", "example")], Trust::Continue),
        ] {
            let headers: Headers = headers.iter().copied().collect();
            let host = Host::default();
            let facts = Facts::new(&headers, &host, Side::OfListener);
            assert_eq!(facts.trust(&rules), trust, "{headers:?}");
        }
    }

    #[test]
    fn trust_compares_all_that_rules_compare() {
        let properties: [(&str, &[u8]); 1] = [(ROUTE, b"partner")];
        let host = Host { properties: &properties, ..Host::default() };
        let headers: Headers = [(":path", "/a")].into_iter().collect();
        let facts = Facts::new(&headers, &host, Side::OfListener);
        let rule = |matches, trust| TrustRule { matches: matching(matches), trust };
        let rules = [
            rule(r#"{"grpc": {}}"#, Trust::Continue),
            rule(r#"{"not": {"path": "/a"}}"#, Trust::Continue),
            rule(r#"{"route": "partner", "not": {"cluster": "inner"}}"#, Trust::Link),
            rule("{}", Trust::Restart),
        ];
        assert_eq!(facts.trust(&rules), Trust::Link);
    }

    #[test]
    fn hosts_are_compared_without_port_and_case() {
        let matcher = StringMatcher::glob("*.example", crate::config::Case::Lower).unwrap();
        for (headers, fits) in [
            (&[(":authority", "Shop.Example:8080")][..], true),
            (&[(":authority", "shop.example.:8080")], true),
            (&[(":authority", "user:pass@shop.example:8080")], true),
            (&[(":authority", "example")], false),
            (&[], false),
        ] {
            let headers: Headers = headers.iter().copied().collect();
            let host = Host::default();
            assert_eq!(
                Facts::new(&headers, &host, Side::OfListener).host_fits(&matcher),
                fits,
                "{headers:?}"
            );
        }
    }
}
