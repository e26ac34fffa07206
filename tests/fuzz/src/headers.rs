//! Any bytes in any header.

use meshweft_core::config::{Baggage, KeepBaggage, Propagation};
use meshweft_core::model::{Format, FormatSet, HeaderEdit, Headers, SpanId, TraceFlags, TraceId};
use meshweft_core::propagation::{
    self, Extracted, Incoming, Outgoing, ParentDecision, RemoteContext, SpanContext, Standing,
    TraceState,
};

/// What a format carries of a context, and where.
#[derive(Debug)]
pub struct Carries {
    /// The format.
    pub format: Format,
    /// The headers whose presence makes it stand on a request.
    pub names: &'static [&'static str],
    /// Bits of the trace id.
    pub trace_bits: u8,
    /// Whether it tells debug from sampled.
    pub debug: bool,
    /// Whether it tells that the trace id is random.
    pub random: bool,
    /// Whether it has no form for an id whose low half is zero.
    pub low_half: bool,
    /// Which part of vendors' state it carries.
    pub state: State,
}

/// How much of vendors' state a format carries.
#[derive(Debug)]
pub enum State {
    /// All of it.
    Every,
    /// None.
    None,
    /// No more than the member of this key, in words of its own.
    Own(&'static str),
}

const NOTHING_MORE: Carries = Carries {
    format: Format::Baggage,
    names: &[],
    trace_bits: 128,
    debug: false,
    random: false,
    low_half: false,
    state: State::None,
};

/// All of them. Every format carries our span id as the next hop's parent, and whether we sample.
const CARRIES: &[Carries] = &[
    Carries {
        format: Format::TraceContext,
        names: &["traceparent"],
        random: true,
        state: State::Every,
        ..NOTHING_MORE
    },
    Carries { format: Format::B3, names: &["b3"], debug: true, ..NOTHING_MORE },
    Carries {
        format: Format::B3Multi,
        names: &["x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags"],
        debug: true,
        ..NOTHING_MORE
    },
    Carries {
        format: Format::Jaeger,
        names: &["uber-trace-id", "jaeger-debug-id"],
        debug: true,
        ..NOTHING_MORE
    },
    Carries {
        format: Format::Datadog,
        names: &[
            "x-datadog-trace-id",
            "x-datadog-parent-id",
            "x-datadog-sampling-priority",
            "x-datadog-origin",
            "x-datadog-tags",
        ],
        low_half: true,
        state: State::Own("dd"),
        ..NOTHING_MORE
    },
    Carries { format: Format::XRay, names: &["x-amzn-trace-id"], ..NOTHING_MORE },
    Carries {
        format: Format::OtTrace,
        names: &["ot-tracer-traceid", "ot-tracer-spanid", "ot-tracer-sampled"],
        trace_bits: 64,
        low_half: true,
        ..NOTHING_MORE
    },
    Carries { format: Format::Gcp, names: &["x-cloud-trace-context"], ..NOTHING_MORE },
    Carries { format: Format::GrpcTraceBin, names: &["grpc-trace-bin"], ..NOTHING_MORE },
    Carries { format: Format::SkyWalking, names: &["sw8"], ..NOTHING_MORE },
];

/// Headers that carry baggage and more of the same, which go when a context is stripped.
const COMPANIONS: &[&str] =
    &["tracestate", "baggage", "jaeger-baggage", "sw8-correlation", "sw8-x"];
const KEYED: &[&str] = &["uberctx-", "ot-baggage-"];

/// Limits of W3C Baggage, section 3.3.2.
const MAX_MEMBERS: usize = 64;
const MAX_BYTES: usize = 8192;

/// Headers that one request gains at most.
const MAX_GAINED: usize = 16;

/// Keys that a policy may name.
const KEYS: [&str; 4] = ["a", "userId", "tenant", "k*"];

/// What `format` carries; nothing for [`Format::Baggage`].
pub fn carries(format: Format) -> Option<&'static Carries> {
    CARRIES.iter().find(|carries| carries.format == format)
}

impl Carries {
    /// Checks what is read from this format alone, after it was written from `context`.
    pub fn check(&self, found: &Extracted, context: &SpanContext) {
        let mut found = found.clone();
        if let (State::Own(key), Incoming::Context(found)) = (&self.state, &mut found.incoming) {
            let own = format!("{key}=");
            let state = core::mem::take(&mut found.state);
            let members = state.as_str().split(',').filter(|member| !member.is_empty());
            assert!(
                members.clone().count() <= 1 && members.into_iter().all(|m| m.starts_with(&own))
            );
        }
        let expected = Extracted { incoming: self.told(context), invalid: FormatSet::default() };
        assert_eq!(found, expected, "{:?}", self.format);
    }

    fn told(&self, context: &SpanContext) -> Incoming {
        let low = context.trace_id.low();
        if self.low_half && low == 0 {
            return Incoming::Absent;
        }
        Incoming::Context(RemoteContext {
            trace_id: match self.trace_bits {
                64 => TraceId::from_halves(0, low).expect("a low half"),
                _ => context.trace_id,
            },
            parent_id: Some(context.span_id),
            decision: if self.debug && context.debug {
                ParentDecision::Debug
            } else if context.flags.has(TraceFlags::SAMPLED) {
                ParentDecision::Sample
            } else {
                ParentDecision::Drop
            },
            random: self.random && context.flags.has(TraceFlags::RANDOM),
            state: match self.state {
                State::Every => context.state.clone(),
                State::None | State::Own(_) => TraceState::default(),
            },
        })
    }
}

/// A request, and what is to be done with it.
pub struct Case {
    /// Its headers: names in lower case, any bytes as values.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Which formats and which baggage.
    pub config: Propagation,
    /// What goes on.
    pub context: SpanContext,
    /// The caller's span.
    pub parent_id: Option<SpanId>,
}

/// A [`Case`] from bytes: two for the formats to read, two for those to write, one for the
/// policy of baggage, one for the context; then the headers, a line each.
pub fn headers(input: &[u8]) {
    let (head, lines) = input.split_at(input.len().min(6));
    let mut bytes = [0; 6];
    bytes[..head.len()].copy_from_slice(head);
    let [read_low, read_high, write_low, write_high, baggage, context] = bytes;
    let headers = lines
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let name = core::str::from_utf8(&line[..colon]).ok()?.to_owned();
            // As the host gives them: no other name gets past its codec.
            (!name.is_empty() && name.bytes().all(is_lower_token))
                .then(|| (name, line[colon + 1..].trim_ascii_start().to_vec()))
        })
        .collect();
    let mut case = Case {
        headers,
        config: Propagation {
            extract: formats(read_low, read_high),
            inject: formats(write_low, write_high),
            baggage: policy(baggage),
            ..Propagation::default()
        },
        context: some_context(context),
        parent_id: (context & 8 != 0).then(|| span_id(0x0102_0304_0506_0708)),
    };
    if context & 64 != 0 {
        case.go_on();
    }
    case.check();
}

/// The formats of which a bit is set; the upper bits turn the list.
fn formats(low: u8, high: u8) -> Vec<Format> {
    let mut formats: Vec<Format> = Format::ALL
        .iter()
        .enumerate()
        .filter(|(at, _)| u16::from_le_bytes([low, high]) >> at & 1 != 0)
        .map(|(_, format)| *format)
        .collect();
    let turn = usize::from(high >> 4) % formats.len().max(1);
    formats.rotate_left(turn);
    formats
}

fn policy(bits: u8) -> Baggage {
    let keys = |bits: u8| {
        KEYS.iter()
            .enumerate()
            .filter(|(at, _)| bits >> at & 1 != 0)
            .map(|(_, key)| (*key).to_owned())
            .collect::<Vec<_>>()
    };
    Baggage {
        keep: if bits & 8 == 0 { KeepBaggage::All } else { KeepBaggage::Only(keys(bits & 7)) },
        attributes: keys(bits >> 4),
    }
}

fn some_context(bits: u8) -> SpanContext {
    let high = if bits & 16 == 0 { 0x0af7_6519_16cd_43dd } else { 0 };
    let state: &[u8] = if bits & 32 == 0 { b"" } else { b"a=1,dd=s:2;o:rum;t.dm:-4" };
    SpanContext {
        trace_id: TraceId::from_halves(high, 0x8448_eb21_1c80_319c).expect("an id"),
        span_id: span_id(0xb7ad_6b71_6920_3331),
        // Debug asks for a sample.
        flags: TraceFlags::from_bits(bits | bits >> 2 & 1),
        debug: bits & 4 != 0,
        state: TraceState::parse([state]).expect("a list"),
    }
}

fn span_id(id: u64) -> SpanId {
    SpanId::from_bytes(id.to_be_bytes()).expect("an id")
}

/// What `headers` say in one of `formats`.
pub fn extract(formats: &[Format], headers: &[(String, Vec<u8>)]) -> Extracted {
    propagation::extract(formats, &Standing::of(&map(headers)))
}

impl Case {
    /// Goes on with the trace that the headers tell of, as a filter does that trusts them.
    pub fn go_on(&mut self) {
        if let Incoming::Context(found) = self.extracted().incoming {
            self.context.trace_id = found.trace_id;
            self.context.state = found.state;
            self.parent_id = found.parent_id;
        }
    }

    /// Checks all that holds for every case.
    pub fn check(&self) {
        self.reading_tells_why();
        let after = apply(&self.headers, self.inject(&self.headers));
        self.no_format_tells_of_another_context(&after);
        let again = apply(&after, self.inject(&after));
        assert_eq!(shown(&again), shown(&after), "a second injection");
        self.alone_no_format_tells_of_another_context();
        self.stripping_leaves_nothing();
        self.baggage_keeps_its_limits();
    }

    /// The context in the words of our span.
    fn outgoing(&self) -> SpanContext {
        let mut context = self.context.clone();
        let Propagation { inject, extract, .. } = &self.config;
        propagation::update_state(&mut context, inject, extract);
        context
    }

    fn extracted(&self) -> Extracted {
        extract(&self.config.extract, &self.headers)
    }

    /// The edits that write its context beside `headers`.
    pub fn inject(&self, headers: &[(String, Vec<u8>)]) -> Vec<HeaderEdit> {
        self.write(headers, false)
    }

    fn write(&self, headers: &[(String, Vec<u8>)], alone: bool) -> Vec<HeaderEdit> {
        let context = self.outgoing();
        let outgoing =
            Outgoing { context: &context, parent_id: self.parent_id, service: "shop", alone };
        let Propagation { inject, extract, .. } = &self.config;
        propagation::inject(inject, extract, &Standing::of(&map(headers)), &outgoing)
    }

    fn carry(&self, headers: &[(String, Vec<u8>)]) -> Vec<HeaderEdit> {
        propagation::carry_baggage(&self.config, &Standing::of(&map(headers)))
    }

    fn reading_tells_why(&self) {
        let Extracted { incoming, invalid } = self.extracted();
        assert!(invalid.iter().all(|format| self.config.extract.contains(&format)));
        match incoming {
            Incoming::Context(context) => {
                let state = context.state.as_str().as_bytes();
                assert_eq!(TraceState::parse([state]).as_ref(), Ok(&context.state));
            }
            Incoming::Invalid => assert!(!invalid.is_empty()),
            Incoming::Absent => assert!(invalid.is_empty()),
            Incoming::Decision(_) => {}
        }
    }

    /// Whatever stood there: what is written, or read and stood, tells of our context, and the
    /// rest is left alone.
    fn no_format_tells_of_another_context(&self, after: &[(String, Vec<u8>)]) {
        for carries in CARRIES {
            let format = carries.format;
            let stood = self.headers.iter().any(|(name, _)| carries.names.contains(&name.as_str()));
            let written = self.config.inject.contains(&format)
                || (self.config.extract.contains(&format) && stood);
            let found = extract(&[format], after);
            if written {
                carries.check(&found, &self.outgoing());
            } else {
                assert_eq!(found, extract(&[format], &self.headers), "{format:?} was not asked");
            }
        }
    }

    /// At an edge that trusts nobody: what is written tells of our context, and nothing else of
    /// any, whatever formats are listed.
    fn alone_no_format_tells_of_another_context(&self) {
        let edits = self.write(&self.headers, true);
        let after = apply(&self.headers, edits);
        for carries in CARRIES {
            let format = carries.format;
            let stood = self.headers.iter().any(|(name, _)| carries.names.contains(&name.as_str()));
            let written = self.config.inject.contains(&format)
                || (self.config.extract.contains(&format) && stood);
            let found = extract(&[format], &after);
            if written {
                carries.check(&found, &self.outgoing());
            } else {
                let nothing =
                    Extracted { incoming: Incoming::Absent, invalid: FormatSet::default() };
                assert_eq!(found, nothing, "{format:?} was left");
            }
        }
        let state: Vec<&[u8]> = values(&after, "tracestate").collect();
        let own = self.outgoing().state;
        assert!(state.iter().all(|value| *value == own.as_str().as_bytes()), "{state:?}");
        assert_eq!(values(&after, "sw8-x").count(), 0);
    }

    fn stripping_leaves_nothing(&self) {
        let after = apply(&self.headers, propagation::strip(&Standing::of(&map(&self.headers))));
        for (name, _) in &after {
            let name = name.as_str();
            assert!(CARRIES.iter().all(|carries| !carries.names.contains(&name)), "{name}");
            assert!(!COMPANIONS.contains(&name), "{name}");
            assert!(!KEYED.iter().any(|prefix| name.starts_with(prefix)), "{name}");
        }
        let nothing = Extracted { incoming: Incoming::Absent, invalid: FormatSet::default() };
        assert_eq!(extract(Format::ALL, &after), nothing);
    }

    /// Whether all of the baggage fits into each of its forms, however it is encoded there.
    fn baggage_is_small(&self) -> bool {
        let (mut members, mut bytes) = (0, 0);
        for (name, value) in &self.headers {
            if name == "baggage" || KEYED.iter().any(|prefix| name.starts_with(prefix)) {
                members += 1 + value.iter().filter(|byte| **byte == b',').count();
                // A byte that is no UTF-8 once decoded becomes U+FFFD, of nine characters encoded.
                bytes += 9 * (name.len() + value.len());
            }
        }
        // Each member may be gained by both of the keyed forms.
        members <= MAX_GAINED / 2 && bytes <= MAX_BYTES
    }

    fn baggage_keeps_its_limits(&self) {
        let after = apply(&self.headers, self.carry(&self.headers));
        // Where a limit cuts one form short, the next hop may fill it up from another.
        if self.baggage_is_small() {
            let again = apply(&after, self.carry(&after));
            assert_eq!(shown(&again), shown(&after), "baggage carried a second time");
        }
        let policy = &self.config.baggage;
        for name in ["baggage", "jaeger-baggage"] {
            let list = values(&after, name).collect::<Vec<_>>().join(&b',');
            assert!(list.len() <= MAX_BYTES, "{name} of {} bytes", list.len());
            let members: Vec<&[u8]> = list
                .split(|byte| *byte == b',')
                .filter(|member| !member.trim_ascii().is_empty())
                .collect();
            assert!(members.len() <= MAX_MEMBERS, "{name} of {} members", members.len());
            for member in members {
                let key = member.split(|byte| *byte == b'=').next().expect("a key");
                check_allowed(&policy.keep, key);
            }
        }
        for (name, _) in &after {
            if let Some(key) = KEYED.iter().find_map(|prefix| name.strip_prefix(prefix)) {
                check_allowed(&policy.keep, key.as_bytes());
            }
        }
        let standing = map(&self.headers);
        let attributes = propagation::baggage_attributes(policy, &Standing::of(&standing));
        let keys: Vec<&String> = attributes.iter().map(|(key, _)| key).collect();
        assert!(keys.iter().all(|key| policy.attributes.contains(key)), "{keys:?}");
        assert!(keys.is_sorted_by_key(|key| policy.attributes.iter().position(|k| k == *key)));
    }
}

/// The headers as text, for people.
fn shown(headers: &[(String, Vec<u8>)]) -> Vec<String> {
    headers.iter().map(|(name, value)| format!("{name}: {}", value.escape_ascii())).collect()
}

/// Checks that a key which goes on is allowed: in any case, and percent-encoded or not.
fn check_allowed(keep: &KeepBaggage, key: &[u8]) {
    if let KeepBaggage::Only(keys) = keep {
        let key = percent_decoded(key.trim_ascii());
        assert!(keys.iter().any(|kept| key.eq_ignore_ascii_case(kept.as_bytes())), "{key:?}");
    }
}

fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let [byte, after @ ..] = rest {
        let digits = after.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        if let (b'%', Some(digits)) = (byte, digits) {
            let digits = core::str::from_utf8(digits).expect("digits");
            out.push(u8::from_str_radix(digits, 16).expect("a byte"));
            rest = &after[2..];
        } else {
            out.push(*byte);
            rest = after;
        }
    }
    out
}

fn values<'a>(headers: &'a [(String, Vec<u8>)], name: &str) -> impl Iterator<Item = &'a [u8]> {
    headers.iter().filter(move |(other, _)| other == name).map(|(_, value)| value.as_slice())
}

fn map(headers: &[(String, Vec<u8>)]) -> Headers {
    headers.iter().map(|(name, value)| (name, value)).collect()
}

/// The headers as the host has them after `edits`, sorted by name.
pub fn apply(before: &[(String, Vec<u8>)], edits: Vec<HeaderEdit>) -> Vec<(String, Vec<u8>)> {
    // The host gives no control characters; where they came in all the same, they may go on.
    let clean = before.iter().all(|(_, value)| value.iter().copied().all(is_value));
    let mut headers = before.to_vec();
    for edit in edits {
        let (name, value) = match edit {
            HeaderEdit::Add(..) => panic!("{edit:?}"),
            HeaderEdit::Remove(name) => (name, None),
            HeaderEdit::Set(name, value) => (name, Some(value)),
        };
        assert!(!name.is_empty() && name.bytes().all(is_lower_token), "the name {name:?}");
        headers.retain(|(other, _)| *other != name);
        headers.extend(value.map(|value| {
            assert!(!clean || value.bytes().all(is_value), "{name}: {value:?}");
            (name.into_owned(), value.into_bytes())
        }));
    }
    headers.sort_by(|a, b| a.0.cmp(&b.0));
    headers
}

/// A character of a header's name (RFC 9110, section 5.6.2), lower case as in HTTP/2.
fn is_lower_token(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9') || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A character that may stand in a header's value: no line ends there.
fn is_value(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}
