//! Baggage: W3C `baggage`, Jaeger's `uberctx-*`, OpenTracing's `ot-baggage-*`.
//!
//! Keys are compared without regard to case: those in the names of headers have none. A key may
//! also be percent-encoded, as Datadog writes it; W3C gives the encoding no meaning there.

use super::edits::Edits;
use super::standing::{Name, OT_BAGGAGE, Standing, UBERCTX};
use super::text::{is_token, percent_decode, push_percent_encoded, trim_ows};
use crate::config::{Baggage, KeepBaggage, Propagation};
use crate::model::{Format, HeaderEdit};

/// The edits that leave on the request what `propagation.baggage` lets go on, in the forms of
/// `propagation.inject` and in those that stand and are extracted.
///
/// The policy is about privacy: it holds for every form that stands, whatever formats are listed.
/// What goes on keeps its text. A list beyond the limits of W3C loses members from its end.
#[must_use]
pub fn carry(config: &Propagation, standing: &Standing<'_>) -> Vec<HeaderEdit> {
    let mut edits = Edits::new(standing);
    let others = [Name::JaegerBaggage, Name::Sw8Correlation];
    if !Form::ALL.iter().any(|form| form.stands(standing))
        && !others.iter().any(|name| standing.has(*name))
    {
        return edits.into_list();
    }
    let keep = &config.baggage.keep;
    let mut headers = MAX_GAINED_HEADERS;
    for form in Form::ALL {
        let gained = gained(config, form, standing);
        match form.prefix() {
            None => carry_list(Name::Baggage, &|text| goes_on(keep, text), &gained, &mut edits),
            Some(prefix) => {
                let gained = gained.get(..headers.min(gained.len())).unwrap_or_default();
                headers = headers.saturating_sub(gained.len());
                carry_keyed(prefix, keep, gained, &mut edits);
            }
        }
    }
    let jaeger = |text: &[u8]| goes_on(keep, text) && (is_all(keep) || !hides_members(text));
    carry_list(Name::JaegerBaggage, &jaeger, &[], &mut edits);
    if !is_all(keep) {
        // Its keys are encoded in a way of its own.
        edits.remove(Name::Sw8Correlation);
    }
    edits.into_list()
}

/// The keys of `config.attributes` that stand on the request, with their values decoded.
///
/// The first form in the order W3C, Jaeger, OpenTracing counts, and in it the last value, as in
/// OpenTelemetry. What is not UTF-8 becomes U+FFFD, as W3C Baggage says of its values.
#[must_use]
pub fn attributes(config: &Baggage, standing: &Standing<'_>) -> Vec<(String, String)> {
    if config.attributes.is_empty() {
        return Vec::new();
    }
    let wanted = |key: &[u8]| is_among(&config.attributes, key);
    let forms = Form::ALL.map(|form| (form, form.members(standing, &wanted)));
    let value = |wanted: &String| {
        forms.iter().find_map(|(form, members)| {
            let is_it = |(key, _): &&Member<'_>| is_among(core::slice::from_ref(wanted), key);
            let (_, value) = members.iter().rev().find(is_it)?;
            Some(form.decode(value))
        })
    };
    config.attributes.iter().filter_map(|key| Some((key.clone(), value(key)?))).collect()
}

/// A way to write baggage that others read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Form {
    /// One list.
    W3c,
    /// A header for each key.
    Jaeger,
    /// A header for each key.
    OpenTracing,
}

/// A key and its value, as they stand.
type Member<'a> = (&'a [u8], &'a [u8]);

/// What a form gains from another: a key in lower case, and its value as the form writes it.
struct Gained {
    key: String,
    value: String,
}

/// What the limits of W3C Baggage leave room for. A member that finds none closes it.
struct Room {
    members: usize,
    bytes: usize,
}

impl Form {
    const ALL: [Self; 3] = [Self::W3c, Self::Jaeger, Self::OpenTracing];

    const fn format(self) -> Format {
        match self {
            Self::W3c => Format::Baggage,
            Self::Jaeger => Format::Jaeger,
            Self::OpenTracing => Format::OtTrace,
        }
    }

    /// What the name of a header begins with that carries one key.
    const fn prefix(self) -> Option<&'static str> {
        match self {
            Self::W3c => None,
            Self::Jaeger => Some(UBERCTX),
            Self::OpenTracing => Some(OT_BAGGAGE),
        }
    }

    fn stands(self, standing: &Standing<'_>) -> bool {
        match self.prefix() {
            None => standing.has(Name::Baggage),
            Some(prefix) => standing.keyed(prefix).next().is_some(),
        }
    }

    /// The members with a key that is `wanted`, as many as the limits allow.
    fn members<'a>(
        self,
        standing: &Standing<'a>,
        wanted: &dyn Fn(&[u8]) -> bool,
    ) -> Vec<Member<'a>> {
        let wanted = |(key, _): &Member<'a>| wanted(key);
        match self.prefix() {
            None => texts(Name::Baggage, standing)
                .filter_map(member)
                .filter(wanted)
                .take(MAX_MEMBERS)
                .collect(),
            Some(prefix) => keyed(prefix, standing).filter(wanted).take(MAX_MEMBERS).collect(),
        }
    }

    fn decode(self, value: &[u8]) -> String {
        let bytes = match self {
            Self::W3c => percent_decode(value).into_owned(),
            Self::Jaeger => {
                // Some clients write a blank as a plus sign, and all of them encode a plus sign.
                let blanks = |byte: &u8| if *byte == b'+' { b' ' } else { *byte };
                let value: Vec<u8> = value.iter().map(blanks).collect();
                percent_decode(&value).into_owned()
            }
            Self::OpenTracing => value.to_vec(),
        };
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// `value` as it is written; `None` if this form cannot write it.
    fn encode(self, value: &str) -> Option<String> {
        match self {
            Self::W3c | Self::Jaeger => {
                let mut out = String::with_capacity(value.len());
                push_percent_encoded(&mut out, value);
                Some(out)
            }
            Self::OpenTracing => {
                let printable = value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
                (printable && value.trim() == value).then(|| value.to_owned())
            }
        }
    }
}

impl Room {
    /// The first member has no comma.
    const ALL: Self = Self { members: MAX_MEMBERS, bytes: MAX_BYTES.saturating_add(1) };

    /// Whether one more member of this length fits; if so it is in.
    const fn take(&mut self, length: usize) -> bool {
        let members = self.members.checked_sub(1);
        let bytes = self.bytes.checked_sub(length.saturating_add(1));
        let (Some(members), Some(bytes)) = (members, bytes) else {
            self.members = 0;
            return false;
        };
        *self = Self { members, bytes };
        true
    }
}

/// What `form` is to say beside what it says itself: members of the other forms that are read.
fn gained(config: &Propagation, form: Form, standing: &Standing<'_>) -> Vec<Gained> {
    let is_read = |form: Form| config.extract.contains(&form.format()) && form.stands(standing);
    let mut gained: Vec<Gained> = Vec::new();
    if !config.inject.contains(&form.format()) && !is_read(form) {
        return gained;
    }
    let wanted = |key: &[u8]| keeps(&config.baggage.keep, key);
    for source in Form::ALL.into_iter().filter(|source| *source != form && is_read(*source)) {
        let own = form.members(standing, &wanted);
        for (key, value) in last_of_each(&source.members(standing, &wanted)) {
            let key = String::from_utf8_lossy(key).to_ascii_lowercase();
            let is_there = own.iter().any(|(own, _)| own.eq_ignore_ascii_case(key.as_bytes()))
                || gained.iter().any(|member| member.key == key);
            if is_token(key.as_bytes())
                && !is_there
                && let Some(value) = form.encode(&source.decode(value))
            {
                gained.push(Gained { key, value });
            }
        }
    }
    gained
}

/// Those of `members` whose key does not come again: of one key the last value counts.
fn last_of_each<'a>(members: &[Member<'a>]) -> impl Iterator<Item = Member<'a>> {
    members.iter().enumerate().filter_map(|(index, (key, value))| {
        let mut later = members.iter().skip(index.saturating_add(1));
        (!later.any(|(other, _)| other.eq_ignore_ascii_case(key))).then_some((*key, *value))
    })
}

/// Carries the list in the headers `name`: the members that go on, then what it gains.
fn carry_list(
    name: Name,
    goes_on: &dyn Fn(&[u8]) -> bool,
    gained: &[Gained],
    edits: &mut Edits<'_>,
) {
    let standing = edits.standing;
    if gained.is_empty() && is_good(name, goes_on, standing) {
        return;
    }
    let mut room = Room::ALL;
    let mut list = String::new();
    let mut push = |text: &str| {
        if room.take(text.len()) {
            if !list.is_empty() {
                list.push(',');
            }
            list.push_str(text);
        }
    };
    texts(name, standing)
        .filter(|text| goes_on(text))
        // What is written anew can be text alone; no valid member is anything else.
        .filter_map(|text| core::str::from_utf8(text).ok())
        .for_each(&mut push);
    gained.iter().for_each(|member| push(&format!("{}={}", member.key, member.value)));
    if list.is_empty() {
        edits.remove(name);
    } else {
        edits.set(name, list);
    }
}

/// Carries the headers whose names begin with `prefix`.
fn carry_keyed(prefix: &'static str, keep: &KeepBaggage, gained: &[Gained], edits: &mut Edits<'_>) {
    edits.remove_keyed_if(prefix, |key| !keeps(keep, key));
    let mut room = Room::ALL;
    let length = |key: usize, value: usize| key.saturating_add(value).saturating_add(1);
    for (key, value) in keyed(prefix, edits.standing).filter(|(key, _)| keeps(keep, key)) {
        room.take(length(key.len(), value.len()));
    }
    for Gained { key, value } in gained {
        if room.take(length(key.len(), value.len())) {
            edits.set_keyed(format!("{prefix}{key}"), value.clone());
        }
    }
}

/// Whether the headers `name` can stay as they are: all members go on, within the limits.
fn is_good(name: Name, goes_on: &dyn Fn(&[u8]) -> bool, standing: &Standing<'_>) -> bool {
    // Several headers are one list, with a comma between them.
    let bytes = |sum: usize, value: &[u8]| sum.saturating_add(value.len()).saturating_add(1);
    !standing.has(name)
        || standing.values(name).fold(0, bytes) <= MAX_BYTES.saturating_add(1)
            && texts(name, standing).count() <= MAX_MEMBERS
            && texts(name, standing).all(goes_on)
}

/// The members of the list in the headers `name`, as text without outer whitespace.
fn texts<'a>(name: Name, standing: &Standing<'a>) -> impl Iterator<Item = &'a [u8]> {
    standing
        .values(name)
        .flat_map(|value| value.split(|byte| *byte == b','))
        .map(trim_ows)
        .filter(|text| !text.is_empty())
        .take(MAX_JUDGED)
}

/// Key and value of a member of W3C's list, which is text; the properties behind them are opaque.
fn member(text: &[u8]) -> Option<Member<'_>> {
    core::str::from_utf8(text).ok()?;
    let pair = text.split(|byte| *byte == b';').next()?;
    let equals = pair.iter().position(|byte| *byte == b'=')?;
    let (key, value) = pair.split_at_checked(equals)?;
    let (key, value) = (trim_ows(key), value.strip_prefix(b"=")?);
    is_token(key).then(|| (key, trim_ows(value)))
}

/// Keys and values of the headers whose names begin with `prefix`.
fn keyed<'a>(prefix: &'static str, standing: &Standing<'a>) -> impl Iterator<Item = Member<'a>> {
    standing.keyed(prefix).map(|(name, value)| {
        (name.strip_prefix(prefix.as_bytes()).unwrap_or_default(), trim_ows(value))
    })
}

/// Whether a member of a list goes on. A malformed one is not ours to judge where all of them go
/// on; elsewhere it has no key that could be allowed.
fn goes_on(keep: &KeepBaggage, text: &[u8]) -> bool {
    is_all(keep) || member(text).is_some_and(|(key, _)| keeps(keep, key))
}

/// Whether a member of `jaeger-baggage`, which some clients decode before they split it, is
/// several to them.
fn hides_members(text: &[u8]) -> bool {
    percent_decode(text).contains(&b',')
}

fn is_all(keep: &KeepBaggage) -> bool {
    *keep == KeepBaggage::All
}

fn keeps(keep: &KeepBaggage, key: &[u8]) -> bool {
    match keep {
        KeepBaggage::All => true,
        KeepBaggage::Only(keys) => is_among(keys, key),
    }
}

/// Whether one of `keys` means `key`.
fn is_among(keys: &[String], key: &[u8]) -> bool {
    let decoded = percent_decode(key);
    keys.iter().any(|wanted| {
        key.eq_ignore_ascii_case(wanted.as_bytes())
            || decoded.eq_ignore_ascii_case(wanted.as_bytes())
    })
}

/// Headers that one request gains at most, of both keyed forms together: a list of 64 members must
/// not become so many headers that the next hop refuses the request.
const MAX_GAINED_HEADERS: usize = 16;

/// Members of a list that are looked at; those behind them go, as they would by the limits.
const MAX_JUDGED: usize = 1024;

/// Members of a list at most (W3C Baggage, "Limits").
const MAX_MEMBERS: usize = 64;

/// Bytes of a list at most (the same).
const MAX_BYTES: usize = 8192;

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::model::Headers;

    const FORMATS: [Format; 3] = [Format::Baggage, Format::Jaeger, Format::OtTrace];

    fn config(extract: &[Format], inject: &[Format], keep: KeepBaggage) -> Propagation {
        Propagation {
            extract: extract.to_vec(),
            inject: inject.to_vec(),
            baggage: Baggage { keep, attributes: Vec::new() },
            ..Propagation::default()
        }
    }

    fn list(members: impl IntoIterator<Item = usize>) -> String {
        members.into_iter().map(|i| format!("k{i}=v")).collect::<Vec<_>>().join(",")
    }

    #[track_caller]
    fn check(config: &Propagation, headers: &[(&str, &str)], edits: &[HeaderEdit]) {
        let headers: Headers = headers.iter().copied().collect();
        assert_eq!(carry(config, &Standing::of(&headers)), edits);
    }

    fn set(name: &str, value: &str) -> HeaderEdit {
        HeaderEdit::Set(name.to_owned().into(), value.to_owned())
    }

    #[test]
    fn what_goes_on_as_it_is_costs_nothing() {
        let headers: Headers = [
            ("baggage", " a = 1;p , ,=x,\u{e9}"),
            ("baggage", "b"),
            ("uberctx-a", "2"),
            ("ot-baggage-b", "3"),
            ("jaeger-baggage", "c"),
            ("sw8-correlation", "x"),
        ]
        .into_iter()
        .collect();
        for extract in FORMATS {
            let config = config(&[extract], &[], KeepBaggage::All);
            let edits = carry(&config, &Standing::of(&headers));
            assert_eq!((edits.len(), edits.capacity()), (0, 0), "{extract:?}");
        }
    }

    #[test]
    fn members_at_their_limit() {
        let all = config(&[Format::Baggage], &[], KeepBaggage::All);
        check(&all, &[("baggage", &list(0..64))], &[]);
        check(&all, &[("baggage", &list(0..65))], &[set("baggage", &list(0..64))]);
        let (first, second) = (list(0..40), list(40..80));
        check(&all, &[("baggage", &first), ("baggage", &second)], &[set("baggage", &list(0..64))]);
        // Commas without a member between them count as bytes alone.
        check(&all, &[("baggage", &format!(",,{},", list(0..64)))], &[]);
    }

    #[test]
    fn bytes_at_their_limit() {
        let all = config(&[Format::Baggage], &[], KeepBaggage::All);
        let most = format!("a=1,b={}", "v".repeat(8192 - 6));
        check(&all, &[("baggage", &most)], &[]);
        check(&all, &[("baggage", &format!("{most}v"))], &[set("baggage", "a=1")]);
        // Blanks go before any member does.
        check(&all, &[("baggage", &format!("{most} "))], &[set("baggage", &most)]);
        // No member behind one that is too long goes on in its place, and none is cut.
        let long = format!("a=1,b={},c=3", "v".repeat(8192));
        check(&all, &[("baggage", &long)], &[set("baggage", "a=1")]);
        let only = format!("b={}", "v".repeat(8192));
        check(&all, &[("baggage", &only)], &[HeaderEdit::Remove("baggage".into())]);
        check(&all, &[("baggage", &most[4..]), ("baggage", "a=1")], &[]);
        let joined = [("baggage", &most[4..]), ("baggage", "a=12")];
        check(&all, &joined, &[set("baggage", &most[4..])]);
    }

    #[test]
    fn what_is_gained_keeps_the_limits() {
        let into_list = config(&[Format::Baggage, Format::Jaeger], &[], KeepBaggage::All);
        check(&into_list, &[("baggage", &list(0..64)), ("uberctx-x", "1")], &{
            // The other way there is room for some: a header for each key.
            let keyed = (0..16).map(|i| set(&format!("uberctx-k{i}"), "v"));
            let mut edits = vec![set("baggage", &list(0..64))];
            edits.extend(keyed);
            edits
        });
        // Both keyed forms share it.
        let both = config(&[Format::Baggage], &[Format::Jaeger, Format::OtTrace], KeepBaggage::All);
        check(&both, &[("baggage", &list(0..10))], &{
            let keyed = (0..10).map(|i| set(&format!("uberctx-k{i}"), "v"));
            let more = (0..6).map(|i| set(&format!("ot-baggage-k{i}"), "v"));
            keyed.chain(more).collect::<Vec<_>>()
        });
        let long = "v".repeat(8192 - 6);
        let from_keyed = config(&[Format::Jaeger], &[Format::Baggage], KeepBaggage::All);
        check(
            &from_keyed,
            &[("uberctx-a", &long), ("uberctx-b", "1"), ("uberctx-c", "2")],
            &[set("baggage", &format!("a={long},b=1"))],
        );
        // Encoded it is longer than it was.
        let blanks = "+".repeat(2731);
        check(&from_keyed, &[("uberctx-a", &blanks), ("uberctx-b", "1")], &[]);
    }

    #[test]
    fn any_byte_anywhere() {
        let keep = || KeepBaggage::Only(vec!["a".to_owned(), "b".to_owned()]);
        for byte in 0..=u8::MAX {
            let value = [b'a', byte, b'=', byte, b',', byte, b'b', b'=', b'%', byte];
            let headers: Headers = [
                (&b"baggage"[..], &value[..]),
                (b"jaeger-baggage", &value),
                (&[b"uberctx-".as_slice(), &[byte]].concat(), &value),
                (&[b"ot-baggage-".as_slice(), &[byte]].concat(), &value),
            ]
            .into_iter()
            .collect();
            let standing = Standing::of(&headers);
            for keep in [KeepBaggage::All, keep()] {
                for edit in carry(&config(&FORMATS, &FORMATS, keep), &standing) {
                    if let HeaderEdit::Set(name, value) = edit {
                        assert!(is_token(name.as_bytes()), "{byte:#x}: {name}");
                        assert!(value.bytes().all(|b| b == byte || (b' '..=b'~').contains(&b)));
                    }
                }
            }
            let config = Baggage { keep: keep(), attributes: vec!["a".to_owned()] };
            let found = attributes(&config, &standing);
            assert!(found.len() <= 1, "{byte:#x}: {found:?}");
        }
    }
}
