//! The nouns: ids, flags, headers, times, metrics, and the seam to the host.

mod exchange;
mod flags;
mod format;
mod grpc;
mod headers;
mod id;
mod method;
mod metric;
mod response_flags;
pub(crate) mod shared;
pub(crate) mod slots;
mod time;

pub use exchange::{Exchange, HeaderEdit};
pub use flags::TraceFlags;
pub use format::{Format, FormatSet};
pub use grpc::STATUSES as GRPC_STATUSES;
pub(crate) use grpc::{grpc_method, is_grpc};
pub use headers::Headers;
pub use id::{IdError, SpanId, TraceId};
pub(crate) use id::{hex_digit, hex_digits, push_hex};
pub(crate) use method::known_method;
pub use metric::{Metric, MetricId, MetricKind, MetricUpdate, Metrics};
pub(crate) use response_flags::LETTERS as RESPONSE_FLAGS;
pub use response_flags::ResponseFlags;
pub use shared::{Local, Shared, SharedError};
pub use time::{MonoNanos, UnixNanos};
