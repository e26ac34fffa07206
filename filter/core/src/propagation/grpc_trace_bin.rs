//! OpenCensus' `grpc-trace-bin`.

use super::edits::Edits;
use super::standing::{Name, Standing};
use super::{Incoming, Malformed, Outgoing};

pub(super) const HEADERS: &[Name] = &[Name::GrpcTraceBin];

pub(super) fn extract(_standing: &Standing<'_>) -> Result<Incoming, Malformed> {
    Ok(Incoming::Absent)
}

pub(super) fn inject(_edits: &mut Edits<'_>, _outgoing: &Outgoing<'_>) {}
