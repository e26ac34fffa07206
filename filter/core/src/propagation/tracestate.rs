//! `tracestate` (Trace Context Level 2, section 3.3).

use core::fmt;

use super::text::trim_ows;

/// A valid list of members, kept as the text that goes on; may be empty.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TraceState(String);

/// Why headers are not a [`TraceState`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum TraceStateError {
    /// A member whose key is missing, too long, or has a character that no key has.
    Key,
    /// More than 32 members.
    TooManyMembers,
    /// A member whose value is missing, too long, or has a character that no value has.
    Value,
}

impl TraceState {
    /// Combines the values of all `tracestate` headers of a request, in order.
    ///
    /// Empty members go, and so does the whitespace around members. Of members with one key the
    /// first stays, which is the most recent. They do not spoil the list: a key must be unique by
    /// the care of who adds it, not of who passes it on (section 3.5).
    ///
    /// # Errors
    /// Says what keeps the headers from being a list; the whole of it must then be dropped.
    pub fn parse<'a>(headers: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, TraceStateError> {
        // No key is empty, so an empty slot equals none.
        let mut keys: [&str; MAX_MEMBERS] = [""; MAX_MEMBERS];
        let mut members: usize = 0;
        let mut list = String::new();
        for header in headers {
            list.reserve(header.len().saturating_add(1));
            for member in header.split(|byte| *byte == b',').map(trim_ows) {
                if member.is_empty() {
                    continue;
                }
                let (key, member) = parse_member(member)?;
                let again = keys.contains(&key);
                *keys.get_mut(members).ok_or(TraceStateError::TooManyMembers)? = key;
                members = members.saturating_add(1);
                if again {
                    continue;
                }
                if !list.is_empty() {
                    list.push(',');
                }
                list.push_str(member);
            }
        }
        Ok(Self(list))
    }

    /// The header value; empty when there is none.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value of the member `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.members().find(|(found, _)| *found == key).map(|(_, value)| value)
    }

    /// This list with the member `key` saying `value`: added or changed, it stands in front
    /// (section 3.5). Of more than 32 members the last goes.
    ///
    /// # Errors
    /// Says which of the two no member can have.
    pub fn with(&self, key: &str, value: &str) -> Result<Self, TraceStateError> {
        if !is_key(key.as_bytes()) {
            return Err(TraceStateError::Key);
        }
        if !is_value(value.as_bytes()) || value.ends_with(' ') {
            return Err(TraceStateError::Value);
        }
        Ok(self.put(key, value))
    }

    /// This list without the member `key`.
    #[must_use]
    pub fn without(&self, key: &str) -> Self {
        let rest: Vec<&str> = self
            .0
            .split(',')
            .filter(|member| member.split_once('=').is_none_or(|(other, _)| other != key))
            .collect();
        Self(rest.join(","))
    }

    /// A list that was parsed before, from where others may have written to it: it is taken as it
    /// is, as long as it can stand in a header.
    pub(crate) fn remembered(list: &[u8]) -> Option<Self> {
        let printable = list.iter().all(|byte| matches!(byte, b' '..=b'~'));
        let list = str::from_utf8(list).ok().filter(|_| printable)?;
        Some(Self(list.to_owned()))
    }

    /// This list in at most `max` bytes: of one that is longer, members of more than 128 bytes go
    /// first, then the last ones (section 3.3.1.5).
    #[must_use]
    pub(crate) fn within(&self, max: usize) -> Self {
        if self.0.len() <= max {
            return self.clone();
        }
        let mut members: Vec<&str> = self.0.split(',').collect();
        let mut length = self.0.len();
        while length > max {
            let large = members.iter().rposition(|member| member.len() > MAX_CALM);
            let Some(place) = large.or_else(|| members.len().checked_sub(1)) else { break };
            length = length.saturating_sub(members.remove(place).len().saturating_add(1));
        }
        Self(members.join(","))
    }

    /// The members of both lists, those of this one in front.
    #[must_use]
    pub(super) fn over(&self, older: Self) -> Self {
        self.members().rev().fold(older, |state, (key, value)| state.put(key, value))
    }

    /// See [`Self::with`]; the member is valid.
    fn put(&self, key: &str, value: &str) -> Self {
        let mut list = format!("{key}={value}");
        let others = self.members().filter(|(other, _)| *other != key);
        for (key, value) in others.take(MAX_MEMBERS.saturating_sub(1)) {
            for part in [",", key, "=", value] {
                list.push_str(part);
            }
        }
        Self(list)
    }

    /// Keys and values, in order.
    fn members(&self) -> impl DoubleEndedIterator<Item = (&str, &str)> {
        self.0.split(',').filter_map(|member| member.split_once('='))
    }

    /// Whether there is no member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for TraceStateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "member of tracestate without a valid key",
            Self::TooManyMembers => "tracestate of more than 32 members",
            Self::Value => "member of tracestate without a valid value",
        })
    }
}

impl core::error::Error for TraceStateError {}

/// The key of a member without outer whitespace, and the member as text.
fn parse_member(member: &[u8]) -> Result<(&str, &str), TraceStateError> {
    // All that the two grammars allow is ASCII, so what is not UTF-8 is in neither.
    let text = core::str::from_utf8(member).map_err(|_| TraceStateError::Value)?;
    let (key, value) = text.split_once('=').ok_or(TraceStateError::Value)?;
    if !is_key(key.as_bytes()) {
        return Err(TraceStateError::Key);
    }
    if !is_value(value.as_bytes()) {
        return Err(TraceStateError::Value);
    }
    Ok((key, text))
}

/// Level 2 gives `@` no meaning of its own: a key of a multi-tenant system is a key like others.
fn is_key(key: &[u8]) -> bool {
    let [b'a'..=b'z' | b'0'..=b'9', rest @ ..] = key else { return false };
    key.len() <= MAX_LENGTH
        && rest.iter().all(
            |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@'),
        )
}

/// Blanks may lead, as they belong to the value; those at the end were trimmed with the member.
fn is_value(value: &[u8]) -> bool {
    !value.is_empty()
        && value.len() <= MAX_LENGTH
        && value.iter().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'='))
}

/// Members in a list at most.
const MAX_MEMBERS: usize = 32;

/// Bytes of a member that is dropped only where larger ones have been.
const MAX_CALM: usize = 128;

/// Characters in a key at most, and in a value.
const MAX_LENGTH: usize = 256;

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn a_list_is_cut_between_members_the_large_ones_first() {
        let large = format!("l={}", "x".repeat(127));
        let calm = format!("c={}", "x".repeat(126));
        let list = format!("a=1,{large},{calm},b=2,{large}x,d=3");
        let state = TraceState(list.clone());
        let without_one = format!("a=1,{large},{calm},b=2,d=3");
        for (max, expected) in [
            (list.len(), &*list),
            (list.len() - 1, &without_one),
            (without_one.len() - 1, &format!("a=1,{calm},b=2,d=3")),
            (calm.len() + 11, &format!("a=1,{calm},b=2")),
            (calm.len() + 4, &format!("a=1,{calm}")),
            (calm.len() + 3, "a=1"),
            (2, ""),
        ] {
            assert_eq!(state.within(max).as_str(), expected, "{max}");
        }
    }

    #[track_caller]
    fn check(headers: &[&str], list: &str) {
        let state = TraceState::parse(headers.iter().map(|h| h.as_bytes())).unwrap();
        assert_eq!(state.as_str(), list);
        assert_eq!(state.is_empty(), list.is_empty());
    }

    #[track_caller]
    fn check_err(header: &[u8], message: &str) {
        assert_eq!(TraceState::parse([header]).unwrap_err().to_string(), message);
    }

    #[test]
    fn headers_are_combined_in_order() {
        check(&[], "");
        check(&["", " \t,, "], "");
        check(&["a=1,b=2", "", "c=3"], "a=1,b=2,c=3");
        check(&["a=1 \t,\t b=2,", ",c= 3 "], "a=1,b=2,c= 3");
    }

    #[test]
    fn of_one_key_the_first_member_stays() {
        check(&["a=1,b=2,a=3", "b=4"], "a=1,b=2");
        check(&["a=1,a@t=2,aa=3"], "a=1,a@t=2,aa=3");
    }

    fn list(text: &str) -> TraceState {
        TraceState::parse([text.as_bytes()]).unwrap()
    }

    #[test]
    fn members_are_found_by_their_whole_key() {
        let state = list("dda=1,d=2,dd= s:1;t.k:v~,dd@x=3");
        for (key, value) in [
            ("dd", Some(" s:1;t.k:v~")),
            ("d", Some("2")),
            ("dda", Some("1")),
            ("dd@x", Some("3")),
            ("x", None),
            ("", None),
            ("dda=1", None),
        ] {
            assert_eq!(state.get(key), value, "{key:?}");
        }
        assert_eq!(TraceState::default().get("dd"), None);
    }

    #[test]
    fn a_member_that_is_set_stands_in_front() {
        for (before, after) in [
            ("", "dd=s:1"),
            ("dd=s:0", "dd=s:1"),
            ("a=1,b=2", "dd=s:1,a=1,b=2"),
            ("a=1,dd=s:0,b=2", "dd=s:1,a=1,b=2"),
            ("dda=1,dd@a=2", "dd=s:1,dda=1,dd@a=2"),
        ] {
            assert_eq!(list(before).with("dd", "s:1"), Ok(list(after)), "{before:?}");
        }
    }

    #[test]
    fn a_member_that_is_taken_out_leaves_the_others() {
        let state = list("a=1,b=2,ab=3");
        assert_eq!(state.without("a"), list("b=2,ab=3"));
        assert_eq!(state.without("b"), list("a=1,ab=3"));
        assert_eq!(state.without("c"), state);
        assert_eq!(list("a=1").without("a"), TraceState::default());
        assert_eq!(TraceState::default().without("a"), TraceState::default());
    }

    #[test]
    fn one_list_over_another() {
        for (newer, older, both) in [
            ("", "a=1,b=2", "a=1,b=2"),
            ("a=1,b=2", "", "a=1,b=2"),
            ("dd=s:1,e=1", "a=1,dd=s:0,b=2", "dd=s:1,e=1,a=1,b=2"),
        ] {
            assert_eq!(list(newer).over(list(older)), list(both), "{newer:?} {older:?}");
        }
    }

    #[test]
    fn of_33_members_the_last_goes() {
        let members =
            |count: usize| (0..count).map(|i| format!("k{i}=v")).collect::<Vec<_>>().join(",");
        let (full, kept) = (members(32), members(31));
        assert_eq!(list(&full).with("dd", "s:1"), Ok(list(&format!("dd=s:1,{kept}"))));
        assert_eq!(list(&full).with("k31", "w"), Ok(list(&format!("k31=w,{kept}"))));
        assert_eq!(list(&kept).with("dd", "s:1"), Ok(list(&format!("dd=s:1,{kept}"))));
    }

    #[test]
    fn nothing_invalid_is_set() {
        let longest = "v".repeat(256);
        let one = list("a=1").with("dd", &longest).unwrap();
        assert_eq!(one, list(&format!("dd={longest},a=1")));
        for (key, value, error) in [
            ("", "1", TraceStateError::Key),
            ("DD", "1", TraceStateError::Key),
            ("a=b", "1", TraceStateError::Key),
            ("dd", "", TraceStateError::Value),
            ("dd", "1 ", TraceStateError::Value),
            ("dd", "a=b", TraceStateError::Value),
            ("dd", "a,b=1", TraceStateError::Value),
            ("dd", "\u{e9}", TraceStateError::Value),
            ("dd", &format!("{longest}v"), TraceStateError::Value),
        ] {
            assert_eq!(list("a=1").with(key, value), Err(error), "{key:?} {value:?}");
        }
    }

    #[test]
    fn lengths_at_their_limits() {
        let (key, value) = ("k".repeat(256), "v".repeat(256));
        let member = format!("{key}={value}");
        check(&[&member], &member);
        check_err(format!("k{member}").as_bytes(), "member of tracestate without a valid key");
        check_err(format!("{member}v").as_bytes(), "member of tracestate without a valid value");
        let full: Vec<String> = (0..32).map(|i| format!("k{i}={value}")).collect();
        check(&[&full.join(",")], &full.join(","));
        check_err(
            format!("{},x=1", full.join(",")).as_bytes(),
            "tracestate of more than 32 members",
        );
        check_err(
            format!("{},k1=1", full.join(",")).as_bytes(),
            "tracestate of more than 32 members",
        );
    }

    #[test]
    fn the_grammar_byte_by_byte() {
        for byte in (0..=u8::MAX).filter(|b| !matches!(b, b',' | b'=')) {
            let key = [b'a', byte, b'=', b'1'];
            let in_key =
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(&byte);
            assert_eq!(TraceState::parse([&key[..]]).is_ok(), in_key, "{byte:#x} in a key");
            let first = [byte, b'=', b'1'];
            let leads = byte.is_ascii_lowercase() || byte.is_ascii_digit();
            assert_eq!(TraceState::parse([&first[..]]).is_ok(), leads, "{byte:#x} first");
            let value = [b'a', b'=', byte, b'1'];
            let in_value = (0x20..=0x7e).contains(&byte);
            assert_eq!(TraceState::parse([&value[..]]).is_ok(), in_value, "{byte:#x} in a value");
        }
        for bad in ["a", "a=", "a= \t", "=1", "=", "a=1=2", "a =1"] {
            assert!(TraceState::parse([bad.as_bytes()]).is_err(), "{bad:?}");
        }
    }
}
