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
    /// Of a rate, with four significant digits, which leaves it within a ten-thousandth of the
    /// rate; `None` for rates below 2^-56, which keep nothing.
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

    /// The randomness of the trace `id`.
    #[must_use]
    pub fn randomness_of(&self, id: TraceId) -> Randomness {
        self.randomness.unwrap_or_else(|| Randomness::of(id))
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
