//! A small mesh on loopback: real Envoys with the filter, plain applications, an OTLP receiver
//! that decodes with the official types. End-to-end tests, the demo and the benchmarks use it.
//!
//! Everything that is started is stopped when its handle is dropped. A missing piece panics with
//! the command that makes it.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "a tool for tests: what is missing must stop them, with words"
)]

pub mod app;
pub mod backends;
pub mod bench;
pub mod client;
pub mod collector;
pub mod config;
pub mod ends;
pub mod envoy;
pub mod formats;
pub mod http2;
pub mod inference;
pub mod istio;
pub mod load;
pub mod mesh;
pub mod native;
pub mod paths;
pub mod process;
pub mod raw;
pub mod story;
pub mod strategies;
pub mod tls;
pub mod tree;
