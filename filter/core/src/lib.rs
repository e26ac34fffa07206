//! The logic of Meshweft, deterministic and without effects.
//!
//! Nothing here reads a clock, draws entropy, does I/O or knows proxy-wasm.
//! Reads are pulled through [`Exchange`]; writes come back as values
//! ([`HeaderEdit`](model::HeaderEdit), [`ExportCall`](export::ExportCall),
//! [`MetricUpdate`](model::MetricUpdate)); `now` and `rng` are arguments.
//!
//! Modules import from left to right only:
//! `model <- config <- matching <- propagation <- {sampling, correlation} <- span <- export <-
//! {stream, attempt, plugin}`.
#![forbid(unsafe_code)]

pub mod attempt;
pub mod config;
pub mod correlation;
pub mod export;
pub mod matching;
pub mod model;
pub mod plugin;
pub mod propagation;
pub mod sampling;
pub mod span;
pub mod stream;

pub use model::Exchange;
