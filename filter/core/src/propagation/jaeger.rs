//! Jaeger's `uber-trace-id`.

use super::edits::Edits;
use super::standing::{Name, Standing};
use super::{Incoming, Malformed, Outgoing};

pub(super) const HEADERS: &[Name] = &[Name::UberTraceId, Name::JaegerDebugId];

pub(super) fn extract(_standing: &Standing<'_>) -> Result<Incoming, Malformed> {
    Ok(Incoming::Absent)
}

pub(super) fn inject(_edits: &mut Edits<'_>, _outgoing: &Outgoing<'_>) {}
