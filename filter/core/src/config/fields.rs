//! Every field of the configuration with its values and default: the one table that the parser
//! reads by and the schema is made of.

use super::template::TEMPLATE_PATTERN;
use super::text::{KEY_PATTERN, MAX_NAME, NAME_PATTERN, is_header_name, is_key};
use super::{
    AccessLogField, AttributeType, Compression, Direction, Fact, Infer, Mode, ParentPolicy,
    Protocol, Scheme, Template, Trust,
};
use crate::model::{Format, GRPC_STATUSES, RESPONSE_FLAGS};

/// A named value of an object.
#[derive(Debug)]
pub(super) struct Field {
    pub name: &'static str,
    pub about: &'static str,
    pub kind: Kind,
}

/// What a field may hold.
#[derive(Debug)]
pub(super) enum Kind {
    /// A number.
    AboveZero,
    /// Names of attributes and scalars.
    Attributes,
    /// `true` or `false`.
    Bool {
        default: bool,
    },
    /// One of some words.
    Choice {
        of: &'static [&'static str],
        default: Option<&'static str>,
    },
    /// Words of a list, each at most once.
    Choices {
        of: &'static [&'static str],
        default: &'static [&'static str],
    },
    /// A cluster's name, or a service and its port.
    Cluster,
    /// The same, or a list of these.
    Clusters,
    /// One of some words, or something else.
    Either {
        words: &'static [&'static str],
        default: Option<&'static str>,
        or: &'static Self,
    },
    /// Names of headers and their values.
    Headers,
    Integer(&'static Integer),
    /// A number from 0.5 to 1.
    Confidence,
    /// A list of things, each at most once where they are `unique`.
    List {
        of: &'static Self,
        max: usize,
        unique: bool,
        empty_by_default: bool,
    },
    /// Which requests something is for.
    Match,
    /// A matcher.
    Matcher,
    /// Names of headers and a matcher each.
    Matchers,
    /// A list of names, each at most once.
    Names {
        of: &'static Text,
        max: usize,
        default: &'static [&'static str],
    },
    /// An object, with the fields that it needs.
    Object {
        fields: &'static [Field],
        required: &'static [&'static str],
    },
    /// A duration that need not be given and has no default.
    OptionalPeriod,
    Period(&'static Period),
    /// The same, without a default.
    PeriodIfAny,
    /// A number from 0 to 1.
    Rate {
        default: Option<f64>,
    },
    /// A text, a number, true or false.
    Scalar,
    /// The name of a header that a response may gain.
    ResponseHeader,
    /// A text that only those concerned know.
    Secret,
    /// A matcher of the peer.
    Source,
    /// An HTTP status, or a class of them.
    Status,
    Text(&'static Text),
    /// A time of RFC 3339.
    Time,
}

/// A whole number with its bounds.
#[derive(Debug)]
pub(super) struct Integer {
    pub min: u32,
    pub max: u32,
    pub default: Option<u32>,
}

/// A duration with its bounds, each as it is written.
#[derive(Debug)]
pub(super) struct Period {
    pub min: &'static str,
    pub max: &'static str,
    /// Or an example, where none is taken.
    pub default: &'static str,
}

/// A text with its bounds.
#[derive(Debug)]
pub(super) struct Text {
    /// Characters at most; one at least.
    pub max: usize,
    /// What the whole text must match; for the schema.
    pub pattern: Option<&'static str>,
    /// The same for the parser.
    pub valid: fn(&str) -> bool,
    /// The same in words.
    pub allowed: &'static str,
    pub default: Option<&'static str>,
}

// === Limits ===

/// Rules of one list at most.
pub(super) const MAX_RULES: usize = 1000;
/// Templates of paths at most.
pub(super) const MAX_ROUTES: usize = 1000;
/// Attributes of spans at most.
pub(super) const MAX_SPAN_ATTRIBUTES: usize = 64;
/// Patterns at most that texts are rid of.
pub(super) const MAX_REDACTIONS: usize = 16;
/// Steps into metadata at most.
pub(super) const MAX_STEPS: usize = 16;
/// Service attributes at most.
pub(super) const MAX_ATTRIBUTES: usize = 128;
/// Headers of one map at most.
pub(super) const MAX_HEADERS: usize = 64;
/// Response headers at most.
pub(super) const MAX_RESPONSE: usize = 8;
/// Headers by which calls are joined at most: each costs a look.
pub(super) const MAX_KEY_HEADERS: usize = 4;
/// Declared calls: their positions are bits of a set.
pub(super) const MAX_CALL_RULES: usize = 64;
/// What `correlation.confidence` is, if nothing is said.
pub(super) const CONFIDENCE: f64 = 0.99;
/// Those that count where the configuration does not say.
pub(super) const KEY_HEADERS: &[&str] = &["x-request-id"];
/// Collectors in one list at most.
pub(super) const MAX_COLLECTORS: usize = 8;
/// Keys of baggage in one list at most.
pub(super) const MAX_KEYS: usize = 64;
/// Characters of a secret at least, when its variables are filled in.
pub(super) const MIN_SECRET: usize = 16;
/// Statuses of one list at most.
pub(super) const MAX_STATUSES: usize = 64;
/// Expressions at most: each is evaluated by the host, one after the other.
pub(super) const MAX_EXPRESSIONS: usize = 64;
/// Items of an any-of matcher at most.
pub(super) const MAX_ANY_OF: usize = 1000;
/// Bytes at most to which all patterns together compile: neither the VM's memory nor the time
/// that a configuration takes may be the configuration's to choose.
pub(super) const MAX_COMPILED: usize = 32 << 20;
/// Numbers and units of a duration.
pub(super) const PERIOD_PATTERN: &str = "^(0|[1-9][0-9]{0,8})(ms|s|m|h)$";
/// Classes of HTTP statuses.
pub(super) const STATUS_PATTERN: &str = "^[1-5]xx$";
/// Times of RFC 3339, but for the length of each month.
pub(super) const TIME_PATTERN: &str = "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])\
    T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$";
/// Header values with variables in them.
pub(super) const VALUE_PATTERN: &str =
    r"^([\t\u0020-\u0023\u0025-\u007e]|\$\$|\$\{[A-Za-z_][A-Za-z0-9_]*\})*$";
/// Characters of a header value at most, before and after its variables are filled in.
pub(super) const MAX_VALUE: usize = 8192;

pub(super) const BATCH_SPANS: Integer = Integer { min: 1, max: 65_536, default: Some(512) };
pub(super) const BATCH_BYTES: Integer =
    Integer { min: 1024, max: 64 << 20, default: Some(1 << 20) };
pub(super) const QUEUE_SPANS: Integer = Integer { min: 1, max: 1_000_000, default: Some(8192) };
pub(super) const QUEUE_BYTES: Integer =
    Integer { min: 1024, max: 256 << 20, default: Some(16 << 20) };
pub(super) const PORT: Integer = Integer { min: 1, max: 65_535, default: None };
pub(super) const STATUS: Integer = Integer { min: 100, max: 599, default: None };
pub(super) const VALUE_LENGTH: Integer = Integer { min: 1, max: 65_536, default: Some(256) };

pub(super) const CAPACITY: Integer = Integer { min: 64, max: 65_536, default: Some(8192) };

pub(super) const LINGER: Period = Period { min: "0ms", max: "1m", default: "1s" };
pub(super) const INTERVAL: Period = Period { min: "10ms", max: "1m", default: "1s" };
pub(super) const OPEN_AFTER: Period = Period { min: "1s", max: "24h", default: "1m" };
pub(super) const POLL: Period = Period { min: "1s", max: "1h", default: "1m" };
pub(super) const RETRY_ELAPSED: Period = Period { min: "10ms", max: "24h", default: "5m" };
pub(super) const RETRY_INITIAL: Period = Period { min: "10ms", max: "5m", default: "500ms" };
pub(super) const RETRY_MAX: Period = Period { min: "10ms", max: "1h", default: "30s" };
/// Its default is an example.
pub(super) const SLOWER_THAN: Period = Period { min: "1ms", max: "24h", default: "500ms" };
pub(super) const TIMEOUT: Period = Period { min: "10ms", max: "5m", default: "5s" };

pub(super) const AUTHORITY: Text = Text {
    max: 255,
    pattern: Some(r"^[A-Za-z0-9._~!$&'()*+,;=:%\[\]-]+$"),
    valid: |text| {
        text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._~!$&'()*+,;=:%[]-".contains(&b))
    },
    allowed: "is a host with or without a port, at most 255 characters",
    default: None,
};
pub(super) const CLUSTER: Text = Text {
    max: 512,
    pattern: Some(r"^[\u0020-\u007e]+$"),
    valid: |text| text.bytes().all(|b| matches!(b, b' '..=b'~')),
    allowed: "is the name of an Envoy cluster, 1 to 512 printable ASCII characters",
    default: None,
};
pub(super) const HOST_GLOB: Text = Text {
    max: 255,
    pattern: Some(r"^([A-Za-z0-9._*?-]+|\[[0-9A-Fa-f:.*?]+\])$"),
    valid: |text| match text.strip_prefix('[') {
        Some(address) => address.strip_suffix(']').is_some_and(|address| {
            !address.is_empty()
                && address.bytes().all(|b| b.is_ascii_hexdigit() || b":.*?".contains(&b))
        }),
        None => text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._*?-".contains(&b)),
    },
    allowed: "is a host without its port, or a pattern of hosts such as \"*.example.com\", at \
        most 255 characters",
    default: None,
};
pub(super) const KEY: Text = Text {
    max: 256,
    pattern: Some(KEY_PATTERN),
    valid: is_key,
    allowed: "is a key of W3C baggage: 1 to 256 letters, digits and !#$%&'*+.^_`|~-",
    default: None,
};
pub(super) const KEY_HEADER: Text = Text {
    max: MAX_NAME,
    pattern: Some(NAME_PATTERN),
    valid: is_header_name,
    allowed: "is the name of a header in lower case, such as \"x-request-id\"",
    default: None,
};
pub(super) const LABEL: Text = Text {
    max: 1024,
    pattern: None,
    valid: |_| true,
    allowed: "is a text of 1 to 1024 characters",
    default: None,
};
pub(super) const PATH: Text = Text {
    max: 2048,
    pattern: Some(r"^/[!-\u0022\u0024-~]*$"),
    valid: |text| {
        text.starts_with('/') && text.bytes().all(|b| matches!(b, b'!'..=b'~') && b != b'#')
    },
    allowed: "is a path from /, of printable ASCII without blanks and #, at most 2048 characters",
    default: None,
};
/// Where Jaeger and the Collector's extension serve their strategies.
pub(super) const REMOTE_PATH: Text = Text { default: Some("/sampling"), ..PATH };
pub(super) const RULE_NAME: Text = Text {
    max: 40,
    pattern: Some("^[a-z0-9_-]+$"),
    valid: |text| text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-')),
    allowed: "are 1 to 40 of a-z, 0-9, _ and -",
    default: None,
};
pub(super) const SERVICE: Text = Text {
    max: 253,
    pattern: Some("^[A-Za-z0-9.-]+$"),
    valid: |text| text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-')),
    allowed: "is a host name, at most 253 characters",
    default: None,
};
pub(super) const HEADER_NAME: Text = Text {
    max: 256,
    pattern: Some(HEADER_PATTERN),
    valid: |text| is_header_name(text) || PSEUDO_HEADERS.contains(&text),
    allowed: "is the name of a header in lower case, 1 to 256 characters, or one of :authority, \
        :method, :path, :scheme, :status",
    default: None,
};
const HEADER_PATTERN: &str =
    "^(:(authority|method|path|scheme|status)|[a-z0-9!#$%&'*+.^_`|~-]{1,256})$";
const PSEUDO_HEADERS: [&str; 5] = [":authority", ":method", ":path", ":scheme", ":status"];
pub(super) const METADATA_STEP: Text = Text {
    max: 256,
    pattern: Some(r"^[^\u0000]+$"),
    valid: |text| !text.contains('\0'),
    allowed: "is a text of 1 to 256 characters without NUL",
    default: None,
};
pub(super) const PARAMETER: Text = Text {
    max: 256,
    pattern: None,
    valid: |_| true,
    allowed: "is the name of a query parameter, decoded, 1 to 256 characters",
    default: None,
};
pub(super) const PROPERTY: Text = Text {
    max: 512,
    pattern: Some(r"^[!--/-~]+(\.[!--/-~]+)*$"),
    valid: |text| {
        text.split('.').all(|step| !step.is_empty() && step.bytes().all(|b| b.is_ascii_graphic()))
    },
    allowed: "is one of Envoy's attributes such as upstream.locality: printable ASCII, \
        steps between dots, at most 512 characters",
    default: None,
};
pub(super) const REPLACEMENT: Text = Text {
    max: 256,
    pattern: None,
    valid: |_| true,
    allowed: "is a text of 1 to 256 characters",
    default: Some("REDACTED"),
};
pub(super) const UNSAFE_NAME: Text = Text {
    max: 256,
    pattern: Some("^[^A-Z]+$"),
    valid: |text| !text.bytes().any(|b| b.is_ascii_uppercase()),
    allowed: "is a name in lower case, 1 to 256 characters",
    default: None,
};
pub(super) const VARIABLE: Text = Text {
    max: 256,
    pattern: Some("^[A-Za-z_][A-Za-z0-9_]*$"),
    valid: |text| {
        !text.starts_with(|c: char| c.is_ascii_digit())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    },
    allowed: "is the name of an environment variable: letters, digits and _, at most 256",
    default: None,
};
pub(super) const TEMPLATE: Text = Text {
    max: 512,
    pattern: Some(TEMPLATE_PATTERN),
    valid: |text| Template::parse(text).is_some(),
    allowed: "is a template such as /orders/{id} or /files/{path...}: from / on, segments of \
        printable ASCII without ?, # and *, or a parameter, whose name has letters, digits, _ \
        and -; ... at the end only; at most 32 segments, 512 characters",
    default: None,
};
/// The text in a matcher, of whatever form.
pub(super) const PATTERN: Text = Text {
    max: 4096,
    pattern: None,
    valid: |_| true,
    allowed: "is a text of 1 to 4096 characters",
    default: None,
};
pub(super) const CEL: Text = Text {
    max: 4096,
    pattern: None,
    valid: |_| true,
    allowed: "is an expression of CEL, 1 to 4096 characters",
    default: None,
};
/// Networks of IP addresses, roughly: the parser knows better.
pub(super) const CIDR_PATTERN: &str = r"^([0-9]+(\.[0-9]+){3}/([0-9]|[12][0-9]|3[0-2])|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*/([0-9]|[1-9][0-9]|1[01][0-9]|12[0-8]))$";
/// The same in words.
pub(super) const CIDR_ALLOWED: &str = "is a network such as \"10.0.0.0/8\" or \"fd00::/8\": an \
    address whose bits behind the prefix are zero, and the length of the prefix";

// === The table ===

pub(super) const CONFIG: &[Field] = &[
    Field {
        name: "mode",
        about: "Which side of the workload the filter stands on.",
        kind: Kind::Choice { of: Mode::NAMES, default: Some(Mode::Auto.name()) },
    },
    object("service", "Who the spans are from; what is absent is derived from the node.", SERVICES),
    object("propagation", "Which headers are read and written.", PROPAGATION),
    object(
        "correlation",
        "How calls of applications that forward no context are joined to what came in.",
        CORRELATION,
    ),
    object("sampling", "What is recorded.", SAMPLING),
    object("spans", "What spans look like.", SPANS),
    Field {
        name: "export",
        about: "Where spans go. Without it context is passed on and nothing is recorded.",
        kind: Kind::Object { fields: EXPORT, required: &["cluster"] },
    },
];

pub(super) const SERVICES: &[Field] = &[
    Field { name: "name", about: "service.name", kind: Kind::Text(&LABEL) },
    Field { name: "namespace", about: "service.namespace", kind: Kind::Text(&LABEL) },
    Field { name: "version", about: "service.version", kind: Kind::Text(&LABEL) },
    Field { name: "environment", about: "deployment.environment.name", kind: Kind::Text(&LABEL) },
    Field {
        name: "attributes",
        about: "Further resource attributes: strings, numbers, booleans.",
        kind: Kind::Attributes,
    },
];

pub(super) const PROPAGATION: &[Field] = &[
    Field {
        name: "extract",
        about: "Formats to read; the first valid one wins.",
        kind: Kind::Choices { of: Format::NAMES, default: &["tracecontext", "b3", "b3multi"] },
    },
    Field {
        name: "inject",
        about: "Formats to write always.",
        kind: Kind::Choices { of: Format::NAMES, default: &["tracecontext"] },
    },
    Field {
        name: "trust",
        about: "What a caller's context is worth: its trace goes on, a new one begins, or a new \
            one begins with a link to it. The first item that matches says; none: continue.",
        kind: Kind::Either {
            words: Trust::NAMES,
            default: Some("continue"),
            or: &Kind::List {
                of: &Kind::Object { fields: TRUST_RULE, required: &["trust"] },
                max: MAX_RULES,
                unique: false,
                empty_by_default: false,
            },
        },
    },
    object("egress", "What goes out.", EGRESS),
    Field {
        name: "response",
        about: "What the caller is told with the response.",
        kind: Kind::List {
            of: &Kind::Either {
                words: RESPONSE_WORDS,
                default: None,
                or: &Kind::Object { fields: RESPONSE, required: &["header"] },
            },
            max: MAX_RESPONSE,
            unique: true,
            empty_by_default: true,
        },
    },
    Field {
        name: "access_log",
        about: "What access logs find as filter state wasm.meshweft.<name>.",
        kind: Kind::Choices { of: AccessLogField::NAMES, default: &["trace_id"] },
    },
    Field {
        name: "baggage",
        about: "What becomes of the caller's W3C baggage.",
        kind: Kind::Either {
            words: BAGGAGE_WORDS,
            default: Some("pass"),
            or: &Kind::Object { fields: BAGGAGE, required: &[] },
        },
    },
];

pub(super) const CORRELATION: &[Field] = &[
    Field {
        name: "headers",
        about: "Headers of which the application forwards any to the calls that it makes; the \
            first by which a call can be joined counts. None: nothing is joined.",
        kind: Kind::Names { of: &KEY_HEADER, max: MAX_KEY_HEADERS, default: KEY_HEADERS },
    },
    Field {
        name: "linger",
        about: "How long a request is remembered, at least, after its end.",
        kind: Kind::Period(&LINGER),
    },
    Field {
        name: "capacity",
        about: "How many requests are remembered at once, about, by all workers together.",
        kind: Kind::Integer(&CAPACITY),
    },
    Field {
        name: "infer",
        about: "How calls are joined of which no header tells: not at all, to the only request \
            that is open, or to the one that is most likely by what was learned of delays.",
        kind: Kind::Choice { of: Infer::NAMES, default: Some("off") },
    },
    Field {
        name: "confidence",
        about: "Of the calls that `best` joins, the share that is to be joined rightly, at least.",
        kind: Kind::Confidence,
    },
    Field {
        name: "calls",
        about: "Which requests make which calls: a call that an item is for is made by a request \
            that an item with that call is for, and by no other. The same on all listeners.",
        kind: Kind::List {
            of: &Kind::Object { fields: CALL_RULE, required: &["from", "to"] },
            max: MAX_CALL_RULES,
            unique: false,
            empty_by_default: true,
        },
    },
];

pub(super) const CALL_RULE: &[Field] = &[
    Field { name: "from", about: "Requests that come in.", kind: Kind::Match },
    Field { name: "to", about: "Calls that go out.", kind: Kind::Match },
];

pub(super) const TRUST_RULE: &[Field] = &[
    Field {
        name: "match",
        about: "Which requests it is for; only the last item may do without.",
        kind: Kind::Match,
    },
    Field {
        name: "trust",
        about: "What their context is worth.",
        kind: Kind::Choice { of: Trust::NAMES, default: None },
    },
];

pub(super) const EGRESS: &[Field] = &[Field {
    name: "strip",
    about: "Hosts to which no context goes: * is any run of characters, dots among them, so that \
        *.example.com is every subdomain but not example.com itself.",
    kind: Kind::List {
        of: &Kind::Text(&HOST_GLOB),
        max: MAX_ANY_OF,
        unique: false,
        empty_by_default: true,
    },
}];

/// Response headers with a format of their own.
pub(super) const RESPONSE_WORDS: &[&str] = &["traceresponse", "server-timing"];

pub(super) const RESPONSE: &[Field] = &[Field {
    name: "header",
    about: "A header, in lower case, with the trace id alone.",
    kind: Kind::ResponseHeader,
}];

pub(super) const BAGGAGE_WORDS: &[&str] = &["pass", "drop"];

pub(super) const BAGGAGE: &[Field] = &[
    Field {
        name: "allow",
        about: "Keys that go on; absent: all.",
        kind: Kind::List {
            of: &Kind::Text(&KEY),
            max: MAX_KEYS,
            unique: true,
            empty_by_default: false,
        },
    },
    Field {
        name: "attributes",
        about: "Keys whose values become attributes of the span, under the key itself.",
        kind: Kind::List {
            of: &Kind::Text(&KEY),
            max: MAX_KEYS,
            unique: true,
            empty_by_default: true,
        },
    },
];

pub(super) const SAMPLING: &[Field] = &[
    Field {
        name: "parent",
        about: "What a valid parent decides: everything, or nothing.",
        kind: Kind::Choice { of: ParentPolicy::NAMES, default: Some(ParentPolicy::Respect.name()) },
    },
    Field {
        name: "rate",
        about: "The share of new traces that are recorded when no rule matches.",
        kind: Kind::Rate { default: Some(1.0) },
    },
    Field {
        name: "limit_per_second",
        about: "New traces that are recorded at most, by whatever rule or rate, by all workers \
            of the proxy together.",
        kind: Kind::AboveZero,
    },
    Field {
        name: "adaptive",
        about: "A rate that follows the load, at most sampling.rate, where no rule has a rate.",
        kind: Kind::Object { fields: ADAPTIVE, required: &["target_per_second"] },
    },
    Field {
        name: "remote",
        about: "A server of Jaeger's remote sampling, which decides where no rule has a rate; \
            sampling.rate holds until its first answer.",
        kind: Kind::Object { fields: REMOTE, required: &["cluster"] },
    },
    Field {
        name: "rules",
        about: "The first rule that matches decides.",
        kind: Kind::List {
            of: &Kind::Object { fields: RULE, required: &["name"] },
            max: MAX_RULES,
            unique: false,
            empty_by_default: true,
        },
    },
    object("keep", "What is kept of that which was not sampled: any of these.", KEEP),
];

pub(super) const KEEP: &[Field] = &[
    Field {
        name: "errors",
        about: "What fails: an error by OpenTelemetry's conventions for its side of the call.",
        kind: Kind::Bool { default: false },
    },
    Field {
        name: "status",
        about: "HTTP statuses, each a number or a class such as 5xx.",
        kind: Kind::List {
            of: &Kind::Status,
            max: MAX_STATUSES,
            unique: true,
            empty_by_default: true,
        },
    },
    Field {
        name: "grpc_status",
        about: "gRPC statuses, of gRPC requests.",
        kind: Kind::Choices { of: &GRPC_STATUSES, default: &[] },
    },
    Field {
        name: "response_flags",
        about: "Envoy's response flags, as in access logs.",
        kind: Kind::Choices { of: &RESPONSE_FLAGS, default: &[] },
    },
    Field {
        name: "slower_than",
        about: "What takes longer, from the first byte of the request to the end of the response.",
        kind: Kind::PeriodIfAny,
    },
    Field {
        name: "propagate",
        about: "What a hop further down keeps, and telling those further up.",
        kind: Kind::Bool { default: false },
    },
    Field {
        name: "secret",
        about: "What all hops know and nobody else, so that nobody else can ask or answer; \
            ${NAME} is an environment variable, $$ a dollar sign.",
        kind: Kind::Secret,
    },
];

pub(super) const ADAPTIVE: &[Field] = &[
    Field {
        name: "target_per_second",
        about: "New traces that all workers of the proxy together shall record.",
        kind: Kind::AboveZero,
    },
    Field {
        name: "floor_per_minute",
        about: "Traces of every operation that are recorded at least, even if the target is \
            exceeded; for the 256 operations seen last.",
        kind: Kind::AboveZero,
    },
];

pub(super) const REMOTE: &[Field] = &[
    Field {
        name: "cluster",
        about: "Envoy's name of the server's cluster, or {service, port} for Istio's \
            outbound|port||service.",
        kind: Kind::Cluster,
    },
    Field {
        name: "path",
        about: "The path of the request; ?service= and the name of the service are put behind it.",
        kind: Kind::Text(&REMOTE_PATH),
    },
    Field {
        name: "authority",
        about: "The authority of the request; default: the cluster's name or service:port.",
        kind: Kind::Text(&AUTHORITY),
    },
    Field {
        name: "interval",
        about: "How often the server is asked, by one worker of the proxy.",
        kind: Kind::Period(&POLL),
    },
];

pub(super) const RULE: &[Field] = &[
    Field {
        name: "name",
        about: "Unique; appears in metrics and in the reason of a decision.",
        kind: Kind::Text(&RULE_NAME),
    },
    Field { name: "match", about: "Which requests it is for.", kind: Kind::Match },
    Field {
        name: "rate",
        about: "The share of requests it records; absent: sampling.rate.",
        kind: Kind::Rate { default: None },
    },
    Field {
        name: "adaptive",
        about: "A rate that follows the load of this rule; at most its rate, if it has one.",
        kind: Kind::Object { fields: ADAPTIVE, required: &["target_per_second"] },
    },
    Field {
        name: "limit_per_second",
        about: "New traces it records at most, by all workers of the proxy together.",
        kind: Kind::AboveZero,
    },
    Field {
        name: "parent",
        about: "Overrides sampling.parent.",
        kind: Kind::Choice { of: ParentPolicy::NAMES, default: None },
    },
    Field {
        name: "keep",
        about: "Whether sampling.keep is for its requests.",
        kind: Kind::Bool { default: true },
    },
    Field { name: "until", about: "From this time on the rule is void.", kind: Kind::Time },
];

pub(super) const MATCH: &[Field] = &[
    Field {
        name: "host",
        about: "The authority without its port; case does not matter.",
        kind: Kind::Matcher,
    },
    Field { name: "path", about: "The path without its query.", kind: Kind::Matcher },
    Field { name: "method", about: "The method; case matters.", kind: Kind::Matcher },
    Field {
        name: "headers",
        about: "Lower-case names and a matcher each; several values are joined by a comma.",
        kind: Kind::Matchers,
    },
    Field { name: "route", about: "Envoy's name of the route.", kind: Kind::Matcher },
    Field { name: "cluster", about: "Envoy's name of the upstream cluster.", kind: Kind::Matcher },
    Field {
        name: "source",
        about: "The peer: a URI of its certificate, or its address without the port; either may \
            match, but for cidr, which compares the address alone.",
        kind: Kind::Source,
    },
    Field {
        name: "direction",
        about: "To the workload or through a gateway, or from the workload.",
        kind: Kind::Choice { of: Direction::NAMES, default: None },
    },
    object("grpc", "That it is a gRPC request; of a service, of a method.", GRPC),
    Field { name: "not", about: "What must not hold; not an empty one.", kind: Kind::Match },
    Field {
        name: "cel",
        about: "An expression of CEL over Envoy's attributes, evaluated by Envoy; at most 64 in all.",
        kind: Kind::Text(&CEL),
    },
];

pub(super) const GRPC: &[Field] = &[
    Field { name: "service", about: "The service with its package.", kind: Kind::Matcher },
    Field { name: "method", about: "The method alone.", kind: Kind::Matcher },
];

pub(super) const SPANS: &[Field] = &[
    Field {
        name: "routes",
        about: "Templates of paths, such as /orders/{id}: they name spans. The most specific one \
            counts: from the left, a literal segment before a parameter, that before {path...}.",
        kind: Kind::List {
            of: &Kind::Text(&TEMPLATE),
            max: MAX_ROUTES,
            unique: true,
            empty_by_default: true,
        },
    },
    Field {
        name: "attributes",
        about: "Attributes beside those that every span has.",
        kind: Kind::List {
            of: &Kind::Object { fields: SPAN_ATTRIBUTE, required: &["name"] },
            max: MAX_SPAN_ATTRIBUTES,
            unique: false,
            empty_by_default: true,
        },
    },
    Field {
        name: "query",
        about: "What is recorded of a query; of credential-like names REDACTED at the most.",
        kind: Kind::Either {
            words: QUERY_WORDS,
            default: Some("drop"),
            or: &Kind::Object { fields: QUERY, required: &["allow"] },
        },
    },
    Field {
        name: "redact",
        about: "What every text of a span is rid of, in this order.",
        kind: Kind::List {
            of: &Kind::Object { fields: REDACTION, required: &["pattern"] },
            max: MAX_REDACTIONS,
            unique: false,
            empty_by_default: true,
        },
    },
    Field {
        name: "unsafe_names",
        about: "Credential-like names, in lower case, whose values may be recorded where \
            something asks for them.",
        kind: Kind::List {
            of: &Kind::Text(&UNSAFE_NAME),
            max: MAX_KEYS,
            unique: true,
            empty_by_default: true,
        },
    },
    Field {
        name: "facts",
        about: "Facts that cost a sampled request calls to the host: sizes of bodies, timing, \
            tls with the peer's identity.",
        kind: Kind::Choices { of: Fact::NAMES, default: &[] },
    },
    Field {
        name: "open_after",
        about: "A stream that is open for so long is told of by a span, and again by a linked one \
            when it has ended; absent: only then.",
        kind: Kind::OptionalPeriod,
    },
    Field {
        name: "max_value_length",
        about: "Longer string values are cut to this many bytes.",
        kind: Kind::Integer(&VALUE_LENGTH),
    },
];

pub(super) const SPAN_ATTRIBUTE: &[Field] = &[
    Field { name: "name", about: "Its name.", kind: Kind::Text(&LABEL) },
    Field { name: "value", about: "The value itself.", kind: Kind::Scalar },
    Field {
        name: "request_header",
        about: "A header of the request, as it came.",
        kind: Kind::Text(&HEADER_NAME),
    },
    Field {
        name: "response_header",
        about: "A header of the response, or else a trailer.",
        kind: Kind::Text(&HEADER_NAME),
    },
    Field {
        name: "property",
        about: "One of Envoy's attributes, such as upstream.locality.",
        kind: Kind::Text(&PROPERTY),
    },
    Field {
        name: "metadata",
        about: "A value in Envoy's metadata.",
        kind: Kind::Object { fields: METADATA, required: &["kind", "key", "path"] },
    },
    Field {
        name: "environment",
        about: "An environment variable of the VM; without it there is no attribute.",
        kind: Kind::Text(&VARIABLE),
    },
    Field {
        name: "pattern",
        about: "A regular expression: its first group, or else what it matches, is the value; \
            without a match there is no attribute.",
        kind: Kind::Text(&PATTERN),
    },
    Field {
        name: "as",
        about: "What the value becomes; what it cannot become is no attribute.",
        kind: Kind::Choice { of: AttributeType::NAMES, default: None },
    },
];

/// The fields of an attribute of which it has one.
pub(super) const ATTRIBUTE_SOURCES: [&str; 6] =
    ["value", "request_header", "response_header", "property", "metadata", "environment"];

/// Properties with more than one value: maps of headers, metadata, the node.
pub(super) const WHOLE_PROPERTIES: [&str; 9] = [
    "metadata",
    "request.headers",
    "response.headers",
    "response.trailers",
    "xds.cluster_metadata",
    "xds.listener_metadata",
    "xds.node",
    "xds.route_metadata",
    "xds.upstream_host_metadata",
];

pub(super) const METADATA: &[Field] = &[
    Field {
        name: "kind",
        about: "Whose: of the request (dynamic metadata), the route, the upstream cluster, the \
            upstream host.",
        kind: Kind::Choice { of: METADATA_KINDS, default: None },
    },
    Field {
        name: "key",
        about: "The name under which it stands, such as envoy.lb.",
        kind: Kind::Text(&METADATA_STEP),
    },
    Field {
        name: "path",
        about: "The steps to the value.",
        kind: Kind::List {
            of: &Kind::Text(&METADATA_STEP),
            max: MAX_STEPS,
            unique: false,
            empty_by_default: false,
        },
    },
];

pub(super) const METADATA_KINDS: &[&str] = &["request", "route", "cluster", "host"];

pub(super) const QUERY_WORDS: &[&str] = &["drop", "keep"];

pub(super) const QUERY: &[Field] = &[Field {
    name: "allow",
    about: "Names of the parameters that are recorded; case matters.",
    kind: Kind::List {
        of: &Kind::Text(&PARAMETER),
        max: MAX_KEYS,
        unique: true,
        empty_by_default: false,
    },
}];

pub(super) const REDACTION: &[Field] = &[
    Field {
        name: "pattern",
        about: "A regular expression, looked for anywhere; it must not match an empty text.",
        kind: Kind::Text(&PATTERN),
    },
    Field { name: "with", about: "What takes its place.", kind: Kind::Text(&REPLACEMENT) },
];

pub(super) const EXPORT: &[Field] = &[
    Field {
        name: "protocol",
        about: "What the collector speaks; otlp/grpc and a cluster of HTTP/2 go together.",
        kind: Kind::Choice { of: Protocol::NAMES, default: Some(Protocol::OtlpHttp.name()) },
    },
    Field {
        name: "cluster",
        about: "Envoy's name of the collector's cluster, or {service, port} for Istio's \
            outbound|port||service; or a list of these: the first that is there is taken.",
        kind: Kind::Clusters,
    },
    Field {
        name: "path",
        about: "The path of the request; default: /v1/traces, for zipkin /api/v2/spans; not for \
            otlp/grpc, whose method has one.",
        kind: Kind::Text(&PATH),
    },
    Field {
        name: "authority",
        about: "The authority of the request; default: the cluster's name or service:port.",
        kind: Kind::Text(&AUTHORITY),
    },
    Field {
        name: "scheme",
        about: "The scheme that the request names; whether there is TLS is the cluster's affair.",
        kind: Kind::Choice { of: Scheme::NAMES, default: Some(Scheme::Http.name()) },
    },
    Field {
        name: "headers",
        about: "Further headers; ${NAME} is an environment variable, $$ a dollar sign.",
        kind: Kind::Headers,
    },
    Field { name: "timeout", about: "How long an answer may take.", kind: Kind::Period(&TIMEOUT) },
    Field {
        name: "compression",
        about: "How the bodies of requests are packed.",
        kind: Kind::Choice { of: Compression::NAMES, default: Some(Compression::None.name()) },
    },
    object("batch", "When a batch goes: whichever comes first.", BATCH),
    object("queue", "What may wait, for each worker.", QUEUE),
    object("retry", "What happens after a failure: exponential back-off with jitter.", RETRY),
];

pub(super) const TARGET: &[Field] = &[
    Field { name: "service", about: "The collector's host.", kind: Kind::Text(&SERVICE) },
    Field { name: "port", about: "Its port.", kind: Kind::Integer(&PORT) },
];

pub(super) const BATCH: &[Field] = &[
    Field {
        name: "max_spans",
        about: "Spans in one request at most.",
        kind: Kind::Integer(&BATCH_SPANS),
    },
    Field {
        name: "max_bytes",
        about: "Bytes of one request's spans at most.",
        kind: Kind::Integer(&BATCH_BYTES),
    },
    Field {
        name: "interval",
        about: "The longest that a span waits for company.",
        kind: Kind::Period(&INTERVAL),
    },
];

pub(super) const QUEUE: &[Field] = &[
    Field { name: "max_spans", about: "Spans at most.", kind: Kind::Integer(&QUEUE_SPANS) },
    Field { name: "max_bytes", about: "Bytes at most.", kind: Kind::Integer(&QUEUE_BYTES) },
];

pub(super) const RETRY: &[Field] = &[
    Field { name: "initial", about: "The first pause.", kind: Kind::Period(&RETRY_INITIAL) },
    Field {
        name: "max",
        about: "The longest pause, also the bound of a Retry-After.",
        kind: Kind::Period(&RETRY_MAX),
    },
    Field {
        name: "max_elapsed",
        about: "A batch that has failed for this long is dropped.",
        kind: Kind::Period(&RETRY_ELAPSED),
    },
];

/// The forms of a matcher that is an object.
pub(super) const FORMS: &[&str] =
    &["exact", "prefix", "suffix", "contains", "glob", "regex", "present"];

/// The same where the peer is matched.
pub(super) const SOURCE_FORMS: &[&str] =
    &["exact", "prefix", "suffix", "contains", "glob", "regex", "present", "cidr"];

/// Attributes that have fields of their own.
pub(super) const OWN_ATTRIBUTES: [&str; 4] =
    ["service.name", "service.namespace", "service.version", "deployment.environment.name"];

/// Headers that HTTP, the connection or the export writes itself.
pub(super) const OWN_HEADERS: [&str; 14] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "grpc-encoding",
    "grpc-timeout",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

/// How no header begins that tells a trace id alone: others have written these, or read them.
pub(super) const TAKEN_HEADERS: [&str; 22] = [
    "grpc-trace-bin",
    "ot-tracer-",
    "traceparent",
    "traceresponse",
    "tracestate",
    "uber-trace-id",
    "x-accel-",
    "x-amzn-trace-id",
    "x-b3-",
    "x-client-trace-id",
    "x-cloud-trace-context",
    "x-content-type-options",
    "x-datadog-",
    "x-dns-prefetch-control",
    "x-envoy-",
    "x-forwarded-",
    "x-frame-options",
    "x-meshweft",
    "x-request-id",
    "x-robots-tag",
    "x-sendfile",
    "x-xss-protection",
];

/// Whether a header of this name may tell a trace id alone. What HTTP, gRPC, CORS or browsers read
/// begins otherwise, or is in the list.
pub(super) fn may_tell_id(name: &str) -> bool {
    (name.starts_with("x-") || name.contains("trace"))
        && !TAKEN_HEADERS.iter().any(|taken| name.starts_with(taken))
}

const fn object(name: &'static str, about: &'static str, fields: &'static [Field]) -> Field {
    Field { name, about, kind: Kind::Object { fields, required: &[] } }
}
