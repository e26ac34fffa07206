//! An emulated proxy-wasm host for the release module.
//!
//! The emulator keeps state and nothing else: header maps, properties, metrics, log lines,
//! callouts, shared data. Tests drive callbacks and then read that state; there are no scripts of
//! expected hostcalls. Where the ABI leaves a choice the emulator does what Envoy does.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test tool: what breaks here shall fail the test"
)]

mod abi;
mod emulator;
mod env;
mod guest;
mod module;
mod scenario;
mod state;
mod wasi;

pub use abi::{BufferType, LogLevel, MapType, Pairs, STATUSES, Status, decode_pairs, encode_pairs};
pub use emulator::{Action, HostEmulator, Trap, Usage};
pub use module::{MODULE_VARIABLE, Module};
pub use scenario::{CLUSTER, CONFIGURATION, EPOCH, answer, ok_answer, request};
pub use state::{
    Answer, Callout, Exchange, ExchangeId, Hostcall, LogLine, Metric, MetricKind, Phase, Root,
    State, Stream, path,
};
