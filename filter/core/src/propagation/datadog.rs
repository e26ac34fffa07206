//! Datadog's `x-datadog-*`, and what says the same in `tracestate`: the member `dd`.
//!
//! The headers carry the low half of the trace id, in decimal; the high half is the tag `tid`.
//! The rest of them (priority, origin, tags) is written into `dd` by Datadog's rules, so that a
//! trace may change its format on the way and come back.

use super::edits::Edits;
use super::ids;
use super::standing::{Name, Standing};
use super::text::{hex, trim_ows};
use super::{
    Incoming, Malformed, Outgoing, ParentDecision, RemoteContext, SpanContext, TraceState,
};
use crate::model::{IdError, SpanId, TraceFlags, TraceId};

pub(super) const HEADERS: &[Name] = &[
    Name::XDatadogTraceId,
    Name::XDatadogParentId,
    Name::XDatadogSamplingPriority,
    Name::XDatadogOrigin,
    Name::XDatadogTags,
];

/// The key of Datadog's member of `tracestate`. Its value is a list of `key:value`, with `;`
/// between them: `s` is the priority, `o` the origin, `p` Datadog's last span, `t.*` the tags.
const MEMBER: &str = "dd";

/// What the headers say.
#[derive(Clone, Copy, Debug)]
struct Theirs<'a> {
    trace_id: TraceId,
    parent_id: Option<SpanId>,
    priority: Option<i32>,
    origin: Option<&'a [u8]>,
    /// A valid list as it came, or nothing.
    tags: &'a str,
}

pub(super) fn extract(standing: &Standing<'_>) -> Result<Incoming, Malformed> {
    let Some(theirs) = read(standing)? else { return Ok(Incoming::Absent) };
    Ok(Incoming::Context(RemoteContext {
        trace_id: theirs.trace_id,
        parent_id: theirs.parent_id,
        decision: match theirs.priority {
            None => ParentDecision::Deferred,
            Some(1..) => ParentDecision::Sample,
            Some(_) => ParentDecision::Drop,
        },
        // Datadog's ids are random in their low half, but nothing on the wire vouches for it.
        random: false,
        state: state(&theirs),
    }))
}

/// Leaves the headers saying what `outgoing` says. What they say beyond that is kept, or made of
/// the member, if it belongs to this trace.
pub(super) fn inject(edits: &mut Edits<'_>, outgoing: &Outgoing<'_>) {
    let context = outgoing.context;
    if context.trace_id.low() == 0 {
        // Datadog has no such id, and another one would be another trace.
        HEADERS.iter().for_each(|name| edits.remove(*name));
        return;
    }
    let theirs = read(edits.standing)
        .ok()
        .flatten()
        .filter(|theirs| ids::may_be(theirs.trace_id, context.trace_id));
    let member = context.state.get(MEMBER).unwrap_or_default();
    let said = theirs.and_then(|theirs| theirs.priority);
    edits.set(Name::XDatadogTraceId, context.trace_id.low().to_string());
    edits.set(Name::XDatadogParentId, u64::from_be_bytes(context.span_id.to_bytes()).to_string());
    edits.set(
        Name::XDatadogSamplingPriority,
        priority(context, [said, priority_of(member)]).to_string(),
    );
    if theirs.and_then(|theirs| theirs.origin).is_none() {
        match field(member, "o") {
            Some(origin) => edits.set(Name::XDatadogOrigin, decode(origin)),
            None => edits.remove(Name::XDatadogOrigin),
        }
    }
    let tags = theirs
        .map(|theirs| write_tags(context.trace_id, theirs.tags, overruled(context, said)))
        // A list of which nothing goes on says no more than none.
        .filter(|tags| !tags.is_empty())
        .unwrap_or_else(|| write_tags(context.trace_id, &tags_of(member), false));
    if tags.is_empty() {
        edits.remove(Name::XDatadogTags);
    } else {
        edits.set(Name::XDatadogTags, tags);
    }
}

/// Makes the member say what `context` says, if there is one: its decision and its span.
pub(super) fn update_state(context: &mut SpanContext) {
    let Some(member) = context.state.get(MEMBER) else { return };
    let said = priority_of(member);
    let overruled = overruled(context, said);
    let mut updated = String::with_capacity(MAX_MEMBER);
    push_field(&mut updated, "s:", priority(context, [said, None]).to_string().as_bytes());
    push_field(&mut updated, "p:", hex(&context.span_id.to_bytes()).as_bytes());
    for field in member.split(';') {
        match field.split_once(':').map_or(field, |(key, _)| key) {
            // The trace id of the traceparent is whole.
            "" | "p" | "s" | "t.tid" => {}
            "t.dm" if overruled => {}
            _ => push_raw_field(&mut updated, field),
        }
    }
    if let Ok(state) = context.state.with(MEMBER, updated.trim_end_matches(' ')) {
        context.state = state;
    }
}

fn read<'a>(standing: &Standing<'a>) -> Result<Option<Theirs<'a>>, Malformed> {
    let value = |name| standing.field(name).once().map(|value| value.map(trim_ows));
    let (trace_id, parent_id) = (value(Name::XDatadogTraceId)?, value(Name::XDatadogParentId)?);
    let Some(trace_id) = trace_id else {
        return match parent_id {
            Some(_) => Err(Malformed::Field("x-datadog-parent-id without x-datadog-trace-id")),
            None => Ok(None),
        };
    };
    let low = ids::decimal(trace_id)
        .ok_or(Malformed::Field("x-datadog-trace-id that is no decimal of 64 bits"))?;
    if low == 0 {
        return Err(Malformed::Id(IdError::AllZero, "x-datadog-trace-id"));
    }
    // Who begins a trace without a span of its own (synthetic tests, for one) writes 0 or nothing.
    let parent_id = ids::decimal(parent_id.unwrap_or(b"0"))
        .ok_or(Malformed::Field("x-datadog-parent-id that is no decimal of 64 bits"))?;
    let priority = value(Name::XDatadogSamplingPriority)?
        .map(|text| integer(text).ok_or(Malformed::Field("unknown x-datadog-sampling-priority")))
        .transpose()?;
    // These two are extras: what is wrong with them spoils no trace.
    let extra = |name| value(name).ok().flatten().filter(|value| !value.is_empty());
    let tags = extra(Name::XDatadogTags).and_then(valid_tags).unwrap_or_default();
    let high = tags_in(tags).filter(|(key, _)| *key == "tid").last();
    let high = high.and_then(|(_, value)| SpanId::from_hex(value.as_bytes()).ok());
    let high = high.map_or(0, |high| u64::from_be_bytes(high.to_bytes()));
    Ok(TraceId::from_halves(high, low).map(|trace_id| Theirs {
        trace_id,
        parent_id: SpanId::from_bytes(parent_id.to_be_bytes()),
        priority,
        origin: extra(Name::XDatadogOrigin),
        tags,
    }))
}

/// The member that says what the headers say beside the ids.
fn state(theirs: &Theirs<'_>) -> TraceState {
    let mut member = String::new();
    if let Some(priority) = theirs.priority {
        push_field(&mut member, "s:", priority.to_string().as_bytes());
    }
    if let Some(origin) = theirs.origin {
        push_field(&mut member, "o:", origin);
    }
    for (key, value) in tags_in(theirs.tags).filter(|(key, _)| *key != "tid") {
        push_field(&mut member, &format!("t.{}:", encode(key.as_bytes())), value.as_bytes());
    }
    // No blank ends the value of a member. An empty one is no member.
    TraceState::default().with(MEMBER, member.trim_end_matches(' ')).unwrap_or_default()
}

/// The first of what was `said` that means what was decided; else our own word for it.
fn priority(context: &SpanContext, said: [Option<i32>; 2]) -> i32 {
    if context.debug {
        return USER_KEEP;
    }
    let agreed = said.into_iter().flatten().find(|priority| !overruled(context, Some(*priority)));
    agreed.unwrap_or_else(|| i32::from(sampled(context)))
}

/// Whether we decided otherwise than was `said`. The tag `dm`, which says who decided, is then
/// not true any more.
fn overruled(context: &SpanContext, said: Option<i32>) -> bool {
    said.is_some_and(|priority| (priority > 0) != sampled(context))
}

const fn sampled(context: &SpanContext) -> bool {
    context.flags.has(TraceFlags::SAMPLED)
}

fn integer(text: &[u8]) -> Option<i32> {
    core::str::from_utf8(text).ok().filter(|text| !text.starts_with('+'))?.parse().ok()
}

/// The list, if it is one and not too long: `key=value` in printable ASCII, with `,` between
/// them, no blank in a key and nothing empty.
fn valid_tags(list: &[u8]) -> Option<&str> {
    let list = core::str::from_utf8(list).ok().filter(|list| list.len() <= MAX_TAGS)?;
    let valid = |tag: &str| {
        tag.split_once('=')
            .is_some_and(|(key, value)| !key.is_empty() && !key.contains(' ') && !value.is_empty())
            && tag.bytes().all(|byte| matches!(byte, b' '..=b'~'))
    };
    list.split(',').all(valid).then_some(list)
}

/// Names without their prefix, and values, of the tags that travel.
fn tags_in(list: &str) -> impl Iterator<Item = (&str, &str)> {
    list.split(',').filter_map(|tag| tag.strip_prefix(TAG_PREFIX)?.split_once('='))
}

/// The tags in a member, in the form of the header.
fn tags_of(member: &str) -> String {
    let mut list = String::new();
    for (key, value) in fields(member) {
        let Some(key) = key.strip_prefix("t.") else { continue };
        if !key.is_empty() && !key.contains(' ') && !value.is_empty() {
            push_tag(&mut list, key, &decode(value));
        }
    }
    list
}

/// The list with the high half of `trace_id`.
///
/// No limit is looked after: what came in a header was within it and held the same `tid`, and a
/// member of 256 characters cannot become a list of more than 512.
fn write_tags(trace_id: TraceId, list: &str, overruled: bool) -> String {
    let mut out = String::with_capacity(list.len().saturating_add(32));
    if trace_id.high() != 0 {
        push_tag(&mut out, "tid", &hex(&trace_id.high().to_be_bytes()));
    }
    for (key, value) in tags_in(list) {
        match key {
            "tid" => {}
            "dm" if overruled => {}
            _ => push_tag(&mut out, key, value),
        }
    }
    out
}

fn push_tag(list: &mut String, key: &str, value: &str) {
    if !list.is_empty() {
        list.push(',');
    }
    for part in [TAG_PREFIX, key, "=", value] {
        list.push_str(part);
    }
}

fn fields(member: &str) -> impl Iterator<Item = (&str, &str)> {
    member.split(';').filter_map(|field| field.split_once(':'))
}

fn field<'a>(member: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = fields(member).filter(|(key, value)| *key == name && !value.is_empty());
    fields.next().map(|(_, value)| value)
}

fn priority_of(member: &str) -> Option<i32> {
    integer(field(member, "s")?.as_bytes())
}

/// `key` is with its colon.
fn push_field(member: &mut String, key: &str, value: &[u8]) {
    push_raw_field(member, &format!("{key}{}", encode(value)));
}

/// What no member holds any more is left out.
fn push_raw_field(member: &mut String, field: &str) {
    let separator = if member.is_empty() { "" } else { ";" };
    let length = [member.len(), separator.len(), field.len()].into_iter().sum::<usize>();
    if length <= MAX_MEMBER {
        member.push_str(separator);
        member.push_str(field);
    }
}

/// What has a meaning in `tracestate`, and `~`, becomes `_`; then `=` becomes `~`.
fn encode(value: &[u8]) -> String {
    let encode = |byte: &u8| match byte {
        b'=' => '~',
        b',' | b';' | b'~' => '_',
        b' '..=b'~' => char::from(*byte),
        _ => '_',
    };
    value.iter().map(encode).collect()
}

fn decode(value: &str) -> String {
    value.replace('~', "=")
}

/// Of every tag that travels.
const TAG_PREFIX: &str = "_dd.p.";

/// The priority of a trace that a user asks for.
const USER_KEEP: i32 = 2;

/// Bytes of tags at most; Datadog's libraries discard a longer list.
const MAX_TAGS: usize = 512;

/// Characters of a member's value at most (Trace Context, section 3.3.1.3.2).
const MAX_MEMBER: usize = 256;

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::model::{HeaderEdit, Headers};

    fn headers(tags: &str) -> Headers {
        [("x-datadog-trace-id", "77"), ("x-datadog-parent-id", "8"), ("x-datadog-tags", tags)]
            .into_iter()
            .collect()
    }

    fn context(state: &str) -> SpanContext {
        SpanContext {
            trace_id: TraceId::from_halves(1, 77).unwrap(),
            span_id: SpanId::from_hex(b"00000000000000cd").unwrap(),
            flags: TraceFlags::SAMPLED,
            debug: false,
            state: TraceState::parse([state.as_bytes()]).unwrap(),
        }
    }

    fn tags_sent(headers: &Headers, context: &SpanContext) -> Option<String> {
        let standing = Standing::of(headers);
        let mut edits = Edits::new(&standing);
        inject(&mut edits, &Outgoing { context, parent_id: None, service: "", alone: false });
        edits.into_list().into_iter().find_map(|edit| match edit {
            HeaderEdit::Set(name, value) if name == "x-datadog-tags" => Some(value),
            _ => None,
        })
    }

    #[test]
    fn errors_say_what_and_where() {
        for (trace, parent, priority, message) in [
            ("", "8", "1", "x-datadog-trace-id that is no decimal of 64 bits"),
            ("0", "8", "1", "all-zero id as x-datadog-trace-id"),
            ("77", "-8", "1", "x-datadog-parent-id that is no decimal of 64 bits"),
            ("77", "8", "1.5", "unknown x-datadog-sampling-priority"),
            ("77", "8", "", "unknown x-datadog-sampling-priority"),
        ] {
            let headers: Headers = [
                ("x-datadog-trace-id", trace),
                ("x-datadog-parent-id", parent),
                ("x-datadog-sampling-priority", priority),
            ]
            .into_iter()
            .collect();
            assert_eq!(extract(&Standing::of(&headers)).unwrap_err().to_string(), message);
        }
        let alone: Headers = [("x-datadog-parent-id", "8")].into_iter().collect();
        assert_eq!(
            extract(&Standing::of(&alone)).unwrap_err().to_string(),
            "x-datadog-parent-id without x-datadog-trace-id"
        );
    }

    #[test]
    fn tags_at_their_limit() {
        let tid = "_dd.p.tid=0000000000000001,_dd.p.a=";
        let longest = format!("{tid}{}", "x".repeat(MAX_TAGS - tid.len()));
        assert_eq!(tags_sent(&headers(&longest), &context("")), Some(longest.clone()));
        // Longer ones are discarded, so that this is another trace, whose high half is zero.
        assert_eq!(
            tags_sent(&headers(&format!("{longest}x")), &context("")),
            Some("_dd.p.tid=0000000000000001".to_owned())
        );
    }

    #[test]
    fn the_fullest_member_becomes_a_list_within_the_limit() {
        // 42 tags in 251 characters; each grows from 5 to 9 in the header.
        let member = vec!["t.a:~"; 42].join(";");
        let list = format!("_dd.p.tid=0000000000000001{}", ",_dd.p.a==".repeat(42));
        assert_eq!(tags_sent(&Headers::default(), &context(&format!("dd={member}"))), Some(list));
    }

    #[test]
    fn the_member_that_is_full_loses_its_last_fields() {
        let long = format!("dd=o:{};t.b:1;z:2", "x".repeat(223));
        let mut context = context(&long);
        update_state(&mut context);
        let updated = format!("s:1;p:00000000000000cd;o:{};t.b:1", "x".repeat(223));
        assert_eq!(updated.len(), 254);
        assert_eq!(context.state.get(MEMBER), Some(&*updated));
    }

    #[test]
    fn whatever_the_member_is_it_is_signed() {
        for (member, kept) in
            [("x", ";x"), (";;", ""), (":", ""), ("t.tid:1", ""), ("p:", ""), ("s:", "")]
        {
            let mut context = context(&format!("a=1,dd={member}"));
            update_state(&mut context);
            assert_eq!(context.state.as_str(), format!("dd=s:1;p:00000000000000cd{kept},a=1"));
        }
    }

    #[test]
    fn debug_is_a_users_wish_in_the_member_too() {
        let mut context = context("dd=s:1;t.dm:-1");
        context.debug = true;
        update_state(&mut context);
        assert_eq!(context.state.as_str(), "dd=s:2;p:00000000000000cd;t.dm:-1");
    }
}
