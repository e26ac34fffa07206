//! Which headers of which formats stand on a request.

use super::b3::Multi;
use super::{Incoming, b3, tracecontext};
use crate::config::Format;
use crate::model::Headers;

/// A header that may stand once.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Field<'a> {
    #[default]
    Absent,
    Once(&'a [u8]),
    Repeated,
}

/// The headers of all formats, found in one pass.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Standing<'a> {
    pub(super) traceparent: Field<'a>,
    pub(super) tracestate: bool,
    pub(super) b3: Field<'a>,
    pub(super) trace_id: Field<'a>,
    pub(super) span_id: Field<'a>,
    pub(super) parent_span_id: bool,
    // Of these two the first value counts, as B3 says of its state headers.
    pub(super) sampled: Option<&'a [u8]>,
    pub(super) flags: Option<&'a [u8]>,
}

impl<'a> Standing<'a> {
    pub(super) fn of(headers: &'a Headers) -> Self {
        let mut standing = Self::default();
        for (name, value) in headers.iter() {
            match name {
                b"traceparent" => standing.traceparent.add(value),
                b"tracestate" => standing.tracestate = true,
                b"b3" => standing.b3.add(value),
                b"x-b3-traceid" => standing.trace_id.add(value),
                b"x-b3-spanid" => standing.span_id.add(value),
                b"x-b3-parentspanid" => standing.parent_span_id = true,
                b"x-b3-sampled" => standing.sampled = standing.sampled.or(Some(value)),
                b"x-b3-flags" => standing.flags = standing.flags.or(Some(value)),
                _ => {}
            }
        }
        standing
    }

    /// Whether a header stands from which `format` is read, be it valid or not.
    ///
    /// A `tracestate` is none: without a `traceparent` it means nothing.
    pub(super) fn has(&self, format: Format) -> bool {
        match format {
            Format::B3 => self.b3 != Field::Absent,
            Format::B3Multi => {
                self.trace_id != Field::Absent
                    || self.span_id != Field::Absent
                    || self.parent_span_id
                    || self.sampled.is_some()
                    || self.flags.is_some()
            }
            Format::TraceContext => self.traceparent != Field::Absent,
        }
    }

    /// What `format` says, without its state.
    pub(super) fn parse(&self, format: Format) -> Incoming {
        match format {
            Format::B3 => match self.b3 {
                Field::Absent => Incoming::Absent,
                Field::Once(value) => b3::parse_single(value).unwrap_or(Incoming::Invalid),
                Field::Repeated => Incoming::Invalid,
            },
            Format::B3Multi => {
                if self.trace_id == Field::Repeated || self.span_id == Field::Repeated {
                    return Incoming::Invalid;
                }
                b3::parse_multi(Multi {
                    trace_id: self.trace_id.once(),
                    span_id: self.span_id.once(),
                    sampled: self.sampled,
                    flags: self.flags,
                })
                .unwrap_or(Incoming::Invalid)
            }
            Format::TraceContext => match self.traceparent {
                Field::Absent => Incoming::Absent,
                Field::Once(value) => {
                    tracecontext::parse(value).map_or(Incoming::Invalid, Incoming::Context)
                }
                Field::Repeated => Incoming::Invalid,
            },
        }
    }
}

impl<'a> Field<'a> {
    fn add(&mut self, value: &'a [u8]) {
        *self = if *self == Self::Absent { Self::Once(value) } else { Self::Repeated };
    }

    fn once(self) -> Option<&'a [u8]> {
        match self {
            Self::Once(value) => Some(value),
            Self::Absent | Self::Repeated => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn each_header_has_its_place() {
        let headers: Headers = [
            ("x-b3-sampled", "first"),
            ("x-b3-traceid", "1"),
            ("x-b3-sampled", "second"),
            ("x-b3-spanid", "2"),
            ("x-b3-spanid", "2"),
            ("x-b3-parentspanid", ""),
            ("tracestate", ""),
            ("b3", ""),
            ("x-b3", "3"),
        ]
        .into_iter()
        .collect();
        let standing = Standing::of(&headers);
        assert_eq!(
            standing,
            Standing {
                traceparent: Field::Absent,
                tracestate: true,
                b3: Field::Once(b""),
                trace_id: Field::Once(b"1"),
                span_id: Field::Repeated,
                parent_span_id: true,
                sampled: Some(b"first"),
                flags: None,
            }
        );
        assert!(standing.has(Format::B3) && standing.has(Format::B3Multi));
        assert!(!standing.has(Format::TraceContext));
        assert_eq!(standing.parse(Format::B3Multi), Incoming::Invalid);
        assert_eq!(standing.parse(Format::B3), Incoming::Invalid);
        assert_eq!(standing.parse(Format::TraceContext), Incoming::Absent);
    }
}
