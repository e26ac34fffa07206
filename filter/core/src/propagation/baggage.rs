//! Baggage: W3C `baggage`, Jaeger's `uberctx-*`, OpenTracing's `ot-baggage-*`.

use super::Standing;
use crate::config::{Baggage, Propagation};
use crate::model::HeaderEdit;

/// The edits that leave on the request what `propagation.baggage` lets go on, in the forms of
/// `propagation.inject` and in those that stand and are extracted.
#[must_use]
pub fn carry(_config: &Propagation, _standing: &Standing<'_>) -> Vec<HeaderEdit> {
    Vec::new()
}

/// Names and values of the span attributes that `config.attributes` asks for.
#[must_use]
pub fn attributes(_config: &Baggage, _standing: &Standing<'_>) -> Vec<(String, String)> {
    Vec::new()
}
