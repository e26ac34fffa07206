//! The configuration: parsed once into types that cannot be wrong.
//! The names and values are public and stable; see the table in the README.

use core::ops::RangeInclusive;
use core::time::Duration;

mod error;
mod expression;
mod fields;
mod json;
mod matcher;
mod network;
mod node;
mod pattern;
mod program;
mod rate;
mod read;
mod schema;
mod spans;
mod template;
mod text;

pub use error::{ConfigError, Problem};
pub use expression::{CelError, Compiler, Expression};
pub(crate) use json::Json;
pub use matcher::{Anchor, End, StringMatcher};
pub use network::Network;
pub use pattern::Pattern;
pub use program::{Case, RegexError};
pub use rate::Rate;
pub use schema::schema;
pub use spans::{
    AttributeSource, AttributeType, Fact, Query, Redaction, SpanAttribute, Spans, is_credential,
};
pub use template::{Segment, Template};
pub use text::{period, time};

use crate::model::{Format, ResponseFlags, UnixNanos};

/// A whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which side of the workload the filter stands on.
    pub mode: Mode,
    /// Who the spans are from.
    pub service: Service,
    /// Which headers are read and written.
    pub propagation: Propagation,
    /// How calls of applications that forward no context are joined to what came in.
    pub correlation: Correlation,
    /// What is recorded.
    pub sampling: Sampling,
    /// What spans look like.
    pub spans: Spans,
    /// Where spans go; without it context passes through untouched and nothing is recorded.
    pub export: Option<Export>,
}

/// Which side of the workload the filter stands on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// By the listener's traffic direction and the node id.
    #[default]
    Auto,
    /// Requests to the workload: SERVER spans.
    Inbound,
    /// Requests from the workload: CLIENT spans.
    Outbound,
    /// Requests through a proxy of its own: SERVER spans.
    Gateway,
    /// Tries at an upstream, as an upstream filter: CLIENT spans below the request's.
    Upstream,
}

/// Who the spans are from; what is absent is derived from the node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Service {
    /// `service.name`.
    pub name: Option<String>,
    /// `service.namespace`.
    pub namespace: Option<String>,
    /// `service.version`.
    pub version: Option<String>,
    /// `deployment.environment.name`.
    pub environment: Option<String>,
    /// Further resource attributes, in order of their names.
    pub attributes: Vec<(String, Scalar)>,
}

/// A literal value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// `true` or `false`.
    Bool(bool),
    /// A number with a fraction.
    Double(f64),
    /// A whole number.
    Int(i64),
    /// Text.
    String(String),
}

impl Scalar {
    /// `double` as an integer, if it is one that a double can count to.
    #[must_use]
    pub fn whole(double: f64) -> Option<i64> {
        const COUNTABLE: f64 = 9_007_199_254_740_992.0;
        #[expect(clippy::cast_possible_truncation, reason = "whole, and within ±2^53")]
        (double.fract() == 0.0 && double.abs() <= COUNTABLE).then_some(double as i64)
    }
}

/// Which headers are read and written.
#[derive(Clone, Debug, Default)]
pub struct Propagation {
    /// Formats to read; the first valid one wins.
    pub extract: Vec<Format>,
    /// Formats to write always.
    pub inject: Vec<Format>,
    /// What a caller's context is worth: the first match says; none: continue.
    pub trust: Vec<TrustRule>,
    /// Hosts to which no context goes.
    pub strip: Option<StringMatcher>,
    /// What the caller is told with the response.
    pub response: Vec<ResponseHeader>,
    /// What access logs are told.
    pub access_log: Vec<AccessLogField>,
    /// What becomes of the caller's baggage.
    pub baggage: Baggage,
}

/// Whose context is worth what.
#[derive(Clone, Debug)]
pub struct TrustRule {
    /// Which requests it is for.
    pub matches: Match,
    /// What their context is worth.
    pub trust: Trust,
}

/// What a caller's context is worth.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Trust {
    /// Its trace goes on.
    #[default]
    Continue,
    /// A new trace begins, and the span links to what came in.
    Link,
    /// A new trace begins as if nothing had come in.
    Restart,
}

/// A response header that tells the caller of the trace.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ResponseHeader {
    /// The trace id alone, in a header of this name.
    Id(String),
    /// `Server-Timing`, which browsers show and instrumented pages read.
    ServerTiming,
    /// W3C `traceresponse`.
    TraceResponse,
}

/// A fact that access logs find as filter state `wasm.meshweft.<name>`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AccessLogField {
    /// `true` or `false`.
    Sampled,
    /// Our span, in hex.
    SpanId,
    /// The trace, in hex.
    TraceId,
}

/// What becomes of the caller's baggage.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Baggage {
    /// What goes on.
    pub keep: KeepBaggage,
    /// Keys whose values become attributes of the span, under the key itself.
    pub attributes: Vec<String>,
}

/// Which members of the baggage go on.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum KeepBaggage {
    /// Each.
    #[default]
    All,
    /// Those of these keys.
    Only(Vec<String>),
}

/// How calls of applications that forward no context are joined to what came in.
#[derive(Clone, Debug)]
pub struct Correlation {
    /// Headers of which the application forwards any, the best first; none: nothing is joined.
    pub headers: Vec<String>,
    /// How long a request is remembered, at least, after its end.
    pub linger: Duration,
    /// How many keys are remembered at once, about.
    pub capacity: usize,
    /// How calls are joined of which no header tells.
    pub infer: Infer,
    /// The share of calls joined by delays that are to be joined rightly, at least.
    pub confidence: f64,
    /// Which kinds of requests make which calls, where that is declared.
    pub calls: Vec<CallRule>,
}

/// How calls are joined of which no header tells.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Infer {
    /// To the request that is most likely by what was learned of delays.
    Best,
    /// Not at all.
    #[default]
    Off,
    /// To the only request that is open.
    Single,
}

/// Some requests, and the calls that only they make.
#[derive(Clone, Debug)]
pub struct CallRule {
    /// The requests.
    pub from: Match,
    /// The calls.
    pub to: Match,
}

/// What is recorded.
#[derive(Clone, Debug)]
pub struct Sampling {
    /// What a valid parent decides.
    pub parent: ParentPolicy,
    /// The share of new traces without a matching rule.
    pub rate: Rate,
    /// So many new traces per second at most, of the whole proxy.
    pub limit_per_second: Option<f64>,
    /// A rate that follows the load, in place of `rate`, which it does not exceed.
    pub adaptive: Option<Adaptive>,
    /// A server that says what is recorded, in place of `rate`, which holds until it has.
    pub remote: Option<Remote>,
    /// The first match decides.
    pub rules: Vec<Rule>,
    /// What is kept for its outcome.
    pub keep: Option<Keep>,
}

/// What is kept of that which the head decision dropped: what any of these holds of.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Keep {
    /// That its span is an error.
    pub errors: bool,
    /// That its status is one of these.
    pub status: Vec<RangeInclusive<i64>>,
    /// That it is a gRPC request and its gRPC status is one of these.
    pub grpc_status: Vec<i64>,
    /// That Envoy gave it one of these flags.
    pub response_flags: ResponseFlags,
    /// That it took longer.
    pub slower_than: Option<Duration>,
    /// That a hop further down kept it; and those further up are told.
    pub propagate: Option<Propagate>,
}

/// How hops tell one another what they kept.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Propagate {
    /// What all hops know and nobody else.
    pub secret: Option<String>,
}

/// A server of Jaeger's remote sampling.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Remote {
    /// Envoy's name of its cluster.
    pub cluster: String,
    /// The path of the request; the service is put into its query.
    pub path: String,
    /// The authority of the request.
    pub authority: String,
    /// How often it is asked.
    pub interval: Duration,
}

/// What a rate that follows the load aims at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adaptive {
    /// New traces per second of the whole proxy.
    pub target_per_second: f64,
    /// So many traces per minute at least of every operation.
    pub floor_per_minute: Option<f64>,
}

/// What a valid parent decides.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ParentPolicy {
    /// Nothing: rules and rate decide as if there were no parent.
    Ignore,
    /// Everything.
    #[default]
    Respect,
}

/// One sampling rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Appears in the metric `meshweft_rule_<name>` and in the reason of a decision.
    pub name: String,
    /// Which requests it is for.
    pub matches: Match,
    /// The share of requests it records; absent: the default rate.
    pub rate: Option<Rate>,
    /// A rate that follows the load of this rule, in place of `rate`, which it does not exceed.
    pub adaptive: Option<Adaptive>,
    /// So many new traces per second at most, of the whole proxy.
    pub limit_per_second: Option<f64>,
    /// Overrides the configuration's policy.
    pub parent: Option<ParentPolicy>,
    /// Whether the configuration's `keep` is for its requests.
    pub keep: bool,
    /// From this time on the rule is void.
    pub until: Option<UnixNanos>,
}

impl Rule {
    /// Whether it is void at `wall`.
    #[must_use]
    pub fn has_expired(&self, wall: UnixNanos) -> bool {
        self.until.is_some_and(|until| until <= wall)
    }
}

/// Which requests a rule is for: all given fields must hold; none given matches all.
#[derive(Clone, Debug, Default)]
pub struct Match {
    /// The authority without its port, in lower case.
    pub host: Option<StringMatcher>,
    /// The path without its query.
    pub path: Option<StringMatcher>,
    /// The method, case-sensitive.
    pub method: Option<StringMatcher>,
    /// Each named header; several values of one name are joined by a comma.
    pub headers: Vec<(String, StringMatcher)>,
    /// Envoy's name of the route.
    pub route: Option<StringMatcher>,
    /// Envoy's name of the upstream cluster.
    pub cluster: Option<StringMatcher>,
    /// The peer.
    pub source: Option<SourceMatcher>,
    /// The side of the workload on which the request is.
    pub direction: Option<Direction>,
    /// That it is a gRPC request, and of which method.
    pub grpc: Option<GrpcMatch>,
    /// What must not hold.
    pub not: Option<Box<Self>>,
    /// What the host evaluates.
    pub cel: Option<Expression>,
}

/// Which gRPC requests a rule is for; none given matches all gRPC requests.
#[derive(Clone, Debug, Default)]
pub struct GrpcMatch {
    /// The service with its package.
    pub service: Option<StringMatcher>,
    /// The method alone.
    pub method: Option<StringMatcher>,
}

/// Which peers a rule is for: one of the two must hold.
#[derive(Clone, Debug, Default)]
pub struct SourceMatcher {
    /// Compared to the peer's identity (a URI of its certificate), and to its address without the
    /// port; either may match.
    pub text: Option<StringMatcher>,
    /// Compared to the address alone: an identity is no address, whatever it looks like.
    pub networks: Vec<Network>,
}

/// On which side of the workload a request is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// It goes to the workload, or through a gateway.
    Inbound,
    /// It comes from the workload.
    Outbound,
}

/// Where spans go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Export {
    /// What the collector speaks.
    pub protocol: Protocol,
    /// The collectors in the order of preference: never none.
    pub collectors: Vec<Collector>,
    /// The path of the request.
    pub path: String,
    /// The scheme that the request names.
    pub scheme: Scheme,
    /// Further headers, with environment variables filled in.
    pub headers: Vec<(String, String)>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How bodies are packed.
    pub compression: Compression,
    /// When a batch goes.
    pub batch: Batch,
    /// What may wait, for each worker.
    pub queue: Queue,
    /// What happens after a failure.
    pub retry: Retry,
}

/// One collector.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Collector {
    /// Envoy's name of its cluster.
    pub cluster: String,
    /// The authority of requests to it.
    pub authority: String,
}

/// The scheme that requests to a collector name. It decides nothing: the cluster has TLS or not.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Scheme {
    /// `http`.
    #[default]
    Http,
    /// `https`.
    Https,
}

/// How the bodies of requests are packed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Compression {
    /// With gzip.
    Gzip,
    /// Not at all.
    #[default]
    None,
}

/// What a collector speaks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Protocol {
    /// OTLP in gRPC.
    OtlpGrpc,
    /// OTLP over HTTP, in protobuf.
    #[default]
    OtlpHttp,
    /// OTLP over HTTP, in JSON.
    OtlpHttpJson,
    /// Zipkin's second format, in JSON over HTTP.
    Zipkin,
}

/// When a batch goes: whichever comes first, at the next tick.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Batch {
    /// Spans in one request at most.
    pub max_spans: usize,
    /// Bytes of one request's spans at most.
    pub max_bytes: usize,
    /// The longest that a span waits for company.
    pub interval: Duration,
}

/// Bounds on everything that is not yet delivered: waiting, under way, and to be sent again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Queue {
    /// Spans at most.
    pub max_spans: usize,
    /// Bytes at most.
    pub max_bytes: usize,
}

/// Exponential back-off with jitter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Retry {
    /// The first pause.
    pub initial: Duration,
    /// The longest pause, also the bound of a `Retry-After`.
    pub max: Duration,
    /// A batch that has failed for this long is dropped.
    pub max_elapsed: Duration,
}

impl Config {
    /// Reads a configuration; a blank text is an empty one. `env` gives environment variables.
    ///
    /// # Errors
    /// Says what is wrong first, and how much else; see [`check`](Self::check) for all of it.
    pub fn parse(json: &[u8], env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        Self::check(json, env).map_err(|errors| {
            let refused =
                || Problem::WrongType { found: "this", allowed: "is an object".to_owned() };
            let others = errors.len().saturating_sub(1);
            let first = errors.into_iter().next();
            let first = first.unwrap_or_else(|| ConfigError::new("$", refused()));
            ConfigError { others, ..first }
        })
    }

    /// Reads a configuration as [`parse`](Self::parse) does, and goes on after an error.
    ///
    /// # Errors
    /// Says all that is wrong, up to a hundred things; never empty.
    pub fn check(
        json: &[u8],
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Vec<ConfigError>> {
        read::config(json, env)
    }

    /// Has the host compile all expressions; without that none of them holds, nor does its `not`.
    ///
    /// # Errors
    /// Says which expression the host has not compiled, and why.
    pub fn compile(&mut self, compiler: &mut Compiler<'_>) -> Result<(), ConfigError> {
        self.propagation.trust.iter_mut().try_for_each(|rule| rule.matches.compile(compiler))?;
        self.sampling.rules.iter_mut().try_for_each(|rule| rule.matches.compile(compiler))
    }

    /// All expressions.
    pub fn expressions(&self) -> impl Iterator<Item = &Expression> {
        let trust = self.propagation.trust.iter().flat_map(|rule| rule.matches.expressions());
        trust.chain(self.sampling.rules.iter().flat_map(|rule| rule.matches.expressions()))
    }
}

/// The words of the configuration for the variants of an enum.
macro_rules! words {
    ($type:ident: $($variant:ident = $name:literal),+) => {
        impl $type {
            const NAMES: &[&'static str] = &[$($name),+];

            /// The name in the configuration.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

words!(AccessLogField: TraceId = "trace_id", SpanId = "span_id", Sampled = "sampled");
words!(AttributeType: String = "string", Int = "int", Double = "double", Bool = "bool");
words!(Compression: None = "none", Gzip = "gzip");
words!(Infer: Off = "off", Single = "single", Best = "best");
words!(Direction: Inbound = "inbound", Outbound = "outbound");
words!(Fact: Sizes = "sizes", Timing = "timing", Tls = "tls");
words!(Mode: Auto = "auto", Inbound = "inbound", Outbound = "outbound", Gateway = "gateway",
    Upstream = "upstream");
words!(ParentPolicy: Respect = "respect", Ignore = "ignore");
words!(
    Protocol: OtlpHttp = "otlp/http",
    OtlpHttpJson = "otlp/http+json",
    OtlpGrpc = "otlp/grpc",
    Zipkin = "zipkin"
);
words!(Scheme: Http = "http", Https = "https");
words!(Trust: Continue = "continue", Restart = "restart", Link = "link");
