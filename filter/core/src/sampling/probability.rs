//! Consistent probability sampling: OpenTelemetry's "TraceState: Probability Sampling" and
//! "`TraceState` Handling".
//!
//! All who see a trace compare the same 56 random bits with their own threshold, and who keeps a
//! share keeps all traces that a smaller share would keep. The threshold travels in the member
//! `ot` of `tracestate` and with the exported span, so that a backend knows how many requests a
//! span stands for.

use core::fmt;

use crate::config::Rate;
use crate::model::TraceId;
use crate::propagation::TraceState;

/// 2^56: one more than the largest randomness and the largest threshold.
const RANGE: u64 = 1 << 56;

/// Hexadecimal digits of 56 bits.
const DIGITS: u32 = 14;

/// Digits of a threshold of ours that count, as the specification recommends.
const PRECISION: u32 = 4;

/// The key of OpenTelemetry's member of `tracestate`.
const KEY: &str = "ot";

/// How many of 2^56 traces are rejected (`th`): 56 bits, 0 keeps all.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Threshold(u64);

impl Threshold {
    /// Of a rate, with four significant digits, which keeps a share within 1/8,000 of the rate;
    /// `None` for rates below 2^-56, which keep nothing.
    #[must_use]
    pub fn of(rate: Rate) -> Option<Self> {
        Self::exact(rate).map(|threshold| threshold.rounded(PRECISION))
    }

    /// Of a rate, with all digits.
    ///
    /// Taken from the top, because `1 - rate` has no room for rates below 2^-53.
    #[must_use]
    pub fn exact(rate: Rate) -> Option<Self> {
        #[expect(clippy::cast_precision_loss, reason = "2^56 is a power of two")]
        let kept = rate.get() * RANGE as f64;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the cast of a float saturates, and the rate lies in 0..=1"
        )]
        (kept >= 1.0).then(|| Self(RANGE.saturating_sub(kept.round() as u64)))
    }

    /// With so many digits, at least one, behind the leading `f`s: those tell small rates apart.
    #[must_use]
    pub fn rounded(self, precision: u32) -> Self {
        let kept = RANGE.saturating_sub(self.0);
        // Of the 64 bits, 8 lie above the 56.
        let leading = kept.leading_zeros().saturating_sub(8) / 4;
        let dropped = DIGITS.saturating_sub(precision.max(1).saturating_add(leading));
        let unit = 16_u64.saturating_pow(dropped);
        // Behind the leading `f`s there is room, so the sum stays below 2^56.
        Self(self.0.saturating_add(unit / 2) & unit.wrapping_neg())
    }

    /// Parses 1 to 14 digits; those that are missing at the end are zeros.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let missing = DIGITS.checked_sub(u32::try_from(text.len()).ok()?)?;
        Some(Self(hex(text)? << missing.saturating_mul(4)))
    }

    /// Whether a trace is kept. Nothing else compares the two.
    #[must_use]
    pub fn keeps(self, randomness: Randomness) -> bool {
        randomness.0 >= self.0
    }
}

/// The shortest text that means the same.
impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One digit stays.
        let zeros = (self.0.trailing_zeros() / 4).min(DIGITS.saturating_sub(1));
        let width = DIGITS.saturating_sub(zeros) as usize;
        write!(f, "{:0width$x}", self.0 >> zeros.saturating_mul(4))
    }
}

/// 56 random bits that all who see a trace have in common.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Randomness(u64);

impl Randomness {
    /// The low 7 bytes of a trace id.
    ///
    /// They are taken as random also where no one vouches for them with the random flag: that is
    /// what samplers shall presume as long as there is no `rv` (Tracing SDK, "Presumption of
    /// `TraceID` randomness").
    #[must_use]
    pub fn of(trace_id: TraceId) -> Self {
        Self(trace_id.low() & RANGE.saturating_sub(1))
    }

    /// Parses exactly 14 digits (`rv`).
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        if text.len() == 14 { hex(text).map(Self) } else { None }
    }
}

impl fmt::Display for Randomness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:014x}", self.0)
    }
}

/// What the member `ot` of a `tracestate` says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct OtMember<'a> {
    /// `th`: the threshold by which a sampled trace was kept, if its probability is known.
    pub threshold: Option<Threshold>,
    /// `rv`: counts in place of the trace id.
    pub randomness: Option<Randomness>,
    /// Whether there is anything that says nothing: parts out of the grammar, and `th` and `rv`
    /// that are none.
    flawed: bool,
    /// The other parts, in order.
    others: Vec<&'a str>,
}

impl<'a> OtMember<'a> {
    /// Reads the member of `state`; `None` without one.
    #[must_use]
    pub fn of(state: &'a TraceState) -> Option<Self> {
        state.get(KEY).map(Self::parse)
    }

    /// Reads the value of a member: parts `key:value` that are joined by `;`.
    ///
    /// A list that is not in the grammar throughout, or that has `th` or `rv` twice, tells of
    /// neither. Other parts are kept as they are, whatever they look like: they are not ours.
    #[must_use]
    pub fn parse(text: &'a str) -> Self {
        let mut others = Vec::new();
        let (mut th, mut rv) = (None, None);
        let mut in_grammar = true;
        for part in text.split(';') {
            in_grammar &= is_part(part);
            match part.split_once(':') {
                Some(("th", value)) => in_grammar &= th.replace(value).is_none(),
                Some(("rv", value)) => in_grammar &= rv.replace(value).is_none(),
                _ if part.is_empty() => {}
                _ => others.push(part),
            }
        }
        let threshold = th.filter(|_| in_grammar).and_then(Threshold::from_hex);
        let randomness = rv.filter(|_| in_grammar).and_then(Randomness::from_hex);
        let flawed = !in_grammar
            || threshold.is_some() != th.is_some()
            || randomness.is_some() != rv.is_some();
        Self { threshold, randomness, flawed, others }
    }

    /// `state` with this member saying `threshold`.
    ///
    /// What says so already goes on as it came. A member that would be longer than 256
    /// characters goes on without the threshold: too little is told rather than something wrong.
    #[must_use]
    pub fn write(&self, state: &TraceState, threshold: Option<Threshold>) -> TraceState {
        if self.threshold == threshold && !self.flawed {
            return state.clone();
        }
        let with = |threshold| {
            let member = Self { threshold, ..self.clone() };
            state.with(KEY, &member.to_string())
        };
        // A member that says nothing is no member.
        with(threshold).or_else(|_| with(None)).unwrap_or_else(|_| state.without(KEY))
    }
}

impl fmt::Display for OtMember<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if let Some(threshold) = self.threshold {
            write!(f, "th:{threshold}")?;
            separator = ";";
        }
        if let Some(randomness) = self.randomness {
            write!(f, "{separator}rv:{randomness}")?;
            separator = ";";
        }
        for part in &self.others {
            write!(f, "{separator}{part}")?;
            separator = ";";
        }
        Ok(())
    }
}

/// `key:value` in the grammar of "`TraceState` Handling"; the value may be empty.
fn is_part(part: &str) -> bool {
    let Some((key, value)) = part.split_once(':') else { return false };
    let [b'a'..=b'z', rest @ ..] = key.as_bytes() else { return false };
    rest.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9'))
        && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Digits of either case, at least one, and no sign.
fn hex(digits: &str) -> Option<u64> {
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn rate(share: f64) -> Rate {
        Rate::new(share).unwrap()
    }

    fn threshold(bits: u64) -> Option<Threshold> {
        Some(Threshold(bits))
    }

    #[test]
    fn thresholds_of_rates() {
        for (share, exact, rounded) in [
            (1.0, threshold(0), "0"),
            (0.5, threshold(0x80_0000_0000_0000), "8"),
            (0.25, threshold(0xc0_0000_0000_0000), "c"),
            (0.1, threshold(0xe6_6666_6666_6666), "e666"),
            (0.05, threshold(0xf3_3333_3333_3333), "f3333"),
            (1.0 / 3.0, threshold(0xaa_aaaa_aaaa_aaac), "aaab"),
            (0.999, threshold(0x00_4189_374b_c6a8), "0042"),
            (2.0_f64.powi(-55), threshold(RANGE - 2), "fffffffffffffe"),
            (2.0_f64.powi(-56), threshold(RANGE - 1), "ffffffffffffff"),
        ] {
            assert_eq!(Threshold::exact(rate(share)), exact, "{share}");
            let text = Threshold::of(rate(share)).map(|threshold| threshold.to_string());
            assert_eq!(text.as_deref(), Some(rounded), "{share}");
        }
        for never in [0.0, 2.0_f64.powi(-57), f64::MIN_POSITIVE] {
            assert_eq!(Threshold::of(rate(never)), None, "{never}");
        }
    }

    #[test]
    fn a_rounded_threshold_stays_close() {
        let mut share = 1.0;
        while share > 2.0_f64.powi(-40) {
            let Threshold(rounded) = Threshold::of(rate(share)).unwrap();
            #[expect(clippy::cast_precision_loss, reason = "few digits are set")]
            let again = (RANGE - rounded) as f64 / RANGE as f64;
            assert!((again / share - 1.0).abs() < 1.0 / 8_000.0, "{share}: {again}");
            share *= 0.99;
        }
    }

    #[test]
    fn a_threshold_and_its_text() {
        for (text, bits, again) in [
            ("0", 0, "0"),
            ("00000000000000", 0, "0"),
            ("8", 0x80_0000_0000_0000, "8"),
            ("1000", 0x10_0000_0000_0000, "1"),
            ("04", 0x04_0000_0000_0000, "04"),
            ("FfBe77", 0xff_be77_0000_0000, "ffbe77"),
            ("00000000000001", 1, "00000000000001"),
            ("10000000000010", 0x10_0000_0000_0010, "1000000000001"),
            ("ffffffffffffff", RANGE - 1, "ffffffffffffff"),
        ] {
            let parsed = Threshold::from_hex(text);
            assert_eq!(parsed, threshold(bits), "{text}");
            assert_eq!(parsed.unwrap().to_string(), again);
        }
        for bad in ["", "g", "+8", "-8", " 8", "0x8", "\u{e9}", "000000000000000"] {
            assert_eq!(Threshold::from_hex(bad), None, "{bad}");
        }
    }

    #[test]
    fn randomness_and_its_text() {
        for text in ["00000000000000", "01020304050607", "ffffffffffffff"] {
            let text_again = Randomness::from_hex(text).map(|randomness| randomness.to_string());
            assert_eq!(text_again.as_deref(), Some(text));
        }
        for bad in ["", "1020304050607", "001020304050607", "+1020304050607", "0102030405060g"] {
            assert_eq!(Randomness::from_hex(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_the_low_56_bits_of_an_id_decide() {
        let id = |low| TraceId::from_halves(u64::MAX, low).unwrap();
        let half = Threshold::of(rate(0.5)).unwrap();
        assert!(half.keeps(Randomness::of(id(0x0080_0000_0000_0000))));
        assert!(!half.keeps(Randomness::of(id(0xff7f_ffff_ffff_ffff))));
        assert!(Threshold::of(Rate::ALL).unwrap().keeps(Randomness::of(id(0))));
    }

    fn state(list: &str) -> TraceState {
        TraceState::parse([list.as_bytes()]).unwrap()
    }

    #[track_caller]
    fn check(before: &str, threshold: Option<&str>, after: &str) {
        let threshold = threshold.map(|text| Threshold::from_hex(text).unwrap());
        let before = state(before);
        let member = OtMember::of(&before).unwrap_or_default();
        assert_eq!(member.write(&before, threshold).as_str(), after, "{before:?}");
    }

    #[test]
    fn what_says_so_already_goes_on_as_it_came() {
        let said = "a=1,ot=p:8;rv:D29d6a7215ced0;th:8000;r:62,b=2";
        check(said, Some("8"), said);
        check("a=1,ot=p:8", None, "a=1,ot=p:8");
        check("a=1", None, "a=1");
    }

    #[test]
    fn a_threshold_is_written_in_front_and_the_rest_is_kept() {
        check("", Some("0"), "ot=th:0");
        check("a=1", Some("8"), "ot=th:8,a=1");
        check("a=1,ot=th:8,b=2", Some("c"), "ot=th:c,a=1,b=2");
        let long = "a=1,ot=p:8;rv:d29d6a7215ced0;th:8;r:62";
        check(long, Some("ffbe77"), "ot=th:ffbe77;rv:d29d6a7215ced0;p:8;r:62,a=1");
    }

    #[test]
    fn a_threshold_is_erased_and_an_empty_member_with_it() {
        check("a=1,ot=th:8,b=2", None, "a=1,b=2");
        check("ot=th:8", None, "");
        check("a=1,ot=p:8;th:8", None, "ot=p:8,a=1");
    }

    #[test]
    fn what_says_nothing_goes() {
        check("ot=th:x;rv:d29d6a7215ced0", None, "ot=rv:d29d6a7215ced0");
        check("ot=rv:x", None, "");
        check("ot=a;b;", None, "ot=a;b");
        // Of a list out of the grammar neither is believed.
        for list in ["th:8;", "th:8;A:1", "th:8;a", "th:8;th:8", "th:8;a:\u{7e}", " th:8", ":;th:8"]
        {
            assert_eq!(OtMember::parse(list).threshold, None, "{list}");
        }
        check("ot=rv:d29d6a7215ced0;x;th:8", Some("c"), "ot=th:c;x");
    }

    #[test]
    fn a_member_at_its_limit_loses_the_threshold_rather_than_the_rest() {
        let full = format!("x:{}", "_".repeat(251));
        let long = format!("ot={full};");
        assert_eq!(long.len(), "ot=".len() + 254);
        check(&format!("ot={full}"), Some("0"), &format!("ot={full}"));
        let other = format!("x:{}", "_".repeat(249));
        check(&format!("ot=th:8;{other}"), Some("c"), &format!("ot=th:c;{other}"));
        check(&format!("ot=th:8;{other}"), Some("ce"), &format!("ot={other}"));
    }

    #[test]
    fn of_33_members_the_last_goes() {
        let members: Vec<String> = (0..32).map(|i| format!("k{i}=v")).collect();
        let after = format!("ot=th:8,{}", members.get(..31).unwrap().join(","));
        check(&members.join(","), Some("8"), &after);
    }
}
