//! What must hold for any input: one function for each fuzz target, which panics where it does
//! not. The core's tests (`filter/core/tests/properties.rs`) call the same functions, with the
//! committed inputs and with random ones.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "to panic is how a finding is told"
)]
#![allow(unreachable_pub, reason = "public for the targets, and in the core's tests a module")]

mod answer;
mod config;
mod headers;
mod keep;

pub use answer::answer;
pub use config::config;
pub use headers::{Case, apply, carries, extract, headers};
pub use keep::keep;
