//! Which headers of which formats stand on a request: one pass finds all of them, so that a
//! format costs nothing where it does not stand.

use crate::model::Headers;

macro_rules! names {
    ($($variant:ident = $name:literal;)*) => {
        /// A header of some format.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        #[repr(usize)]
        pub(super) enum Name { $($variant,)* }

        impl Name {
            pub(super) const ALL: &[Self] = &[$(Self::$variant,)*];

            pub(super) const fn text(self) -> &'static str {
                match self {
                    $(Self::$variant => match core::str::from_utf8($name) {
                        Ok(text) => text,
                        Err(_) => "",
                    },)*
                }
            }

            fn find(name: &[u8]) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

names! {
    Traceparent = b"traceparent";
    Tracestate = b"tracestate";
    Baggage = b"baggage";
    B3 = b"b3";
    XB3TraceId = b"x-b3-traceid";
    XB3SpanId = b"x-b3-spanid";
    XB3ParentSpanId = b"x-b3-parentspanid";
    XB3Sampled = b"x-b3-sampled";
    XB3Flags = b"x-b3-flags";
    UberTraceId = b"uber-trace-id";
    JaegerDebugId = b"jaeger-debug-id";
    JaegerBaggage = b"jaeger-baggage";
    XDatadogTraceId = b"x-datadog-trace-id";
    XDatadogParentId = b"x-datadog-parent-id";
    XDatadogSamplingPriority = b"x-datadog-sampling-priority";
    XDatadogOrigin = b"x-datadog-origin";
    XDatadogTags = b"x-datadog-tags";
    XAmznTraceId = b"x-amzn-trace-id";
    OtTracerTraceId = b"ot-tracer-traceid";
    OtTracerSpanId = b"ot-tracer-spanid";
    OtTracerSampled = b"ot-tracer-sampled";
    XCloudTraceContext = b"x-cloud-trace-context";
    GrpcTraceBin = b"grpc-trace-bin";
    Sw8 = b"sw8";
    Sw8Correlation = b"sw8-correlation";
    Sw8X = b"sw8-x";
}

/// Baggage of Jaeger: a header for each key.
pub(super) const UBERCTX: &str = "uberctx-";
/// Baggage of OpenTracing's basic tracers: a header for each key.
pub(super) const OT_BAGGAGE: &str = "ot-baggage-";

/// The values of one header.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Field<'a> {
    #[default]
    Absent,
    Once(&'a [u8]),
    /// Several, of which this is the first.
    Repeated(&'a [u8]),
}

/// The headers of all formats that stand on a request.
#[derive(Debug)]
pub struct Standing<'a> {
    headers: &'a Headers,
    fields: [Field<'a>; Name::ALL.len()],
    /// Names and values of headers that begin with [`UBERCTX`] or [`OT_BAGGAGE`], in order.
    keyed: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Standing<'a> {
    /// Finds them.
    #[must_use]
    pub fn of(headers: &'a Headers) -> Self {
        let fields = [Field::Absent; Name::ALL.len()];
        let mut standing = Self { headers, fields, keyed: Vec::new() };
        for (name, value) in headers.iter() {
            if let Some(found) = Name::find(name) {
                if let Some(field) = standing.fields.get_mut(found as usize) {
                    field.add(value);
                }
            } else if name.starts_with(UBERCTX.as_bytes())
                || name.starts_with(OT_BAGGAGE.as_bytes())
            {
                standing.keyed.push((name, value));
            }
        }
        standing
    }

    /// Whether no header of any format stands.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keyed.is_empty() && self.fields.iter().all(|field| *field == Field::Absent)
    }

    /// The values of `name`.
    pub(super) fn field(&self, name: Name) -> Field<'a> {
        self.fields.get(name as usize).copied().unwrap_or_default()
    }

    /// Whether a header of this name stands.
    pub(super) fn has(&self, name: Name) -> bool {
        self.field(name) != Field::Absent
    }

    /// All values of `name`, in order.
    pub(super) fn values(&self, name: Name) -> impl Iterator<Item = &'a [u8]> {
        self.headers.get_all(name.text())
    }

    /// Names and values of the headers that begin with `prefix`, in order.
    pub(super) fn keyed(&self, prefix: &'static str) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.keyed.iter().copied().filter(move |(name, _)| name.starts_with(prefix.as_bytes()))
    }

    /// All headers of the request.
    pub(super) const fn headers(&self) -> &'a Headers {
        self.headers
    }
}

impl<'a> Field<'a> {
    const fn add(&mut self, value: &'a [u8]) {
        *self = match *self {
            Self::Absent => Self::Once(value),
            Self::Once(first) | Self::Repeated(first) => Self::Repeated(first),
        };
    }

    /// The first value.
    pub(super) const fn first(self) -> Option<&'a [u8]> {
        match self {
            Self::Absent => None,
            Self::Once(value) | Self::Repeated(value) => Some(value),
        }
    }

    /// The value of a header that may stand once.
    pub(super) const fn once(self) -> Result<Option<&'a [u8]>, super::Malformed> {
        match self {
            Self::Absent => Ok(None),
            Self::Once(value) => Ok(Some(value)),
            Self::Repeated(_) => Err(super::Malformed::Field("a header that stands twice")),
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
        for name in Name::ALL {
            let headers: Headers = [("x", "0"), (name.text(), "1")].into_iter().collect();
            let standing = Standing::of(&headers);
            for other in Name::ALL {
                assert_eq!(standing.has(*other), name == other, "{name:?} {other:?}");
            }
            assert_eq!(standing.field(*name), Field::Once(b"1"));
        }
    }

    #[test]
    fn several_values_are_told_from_one() {
        let headers: Headers =
            [("b3", "1"), ("tracestate", ""), ("b3", "2"), ("b3", "3")].into_iter().collect();
        let standing = Standing::of(&headers);
        assert_eq!(standing.field(Name::B3), Field::Repeated(b"1"));
        assert_eq!(standing.field(Name::B3).first(), Some(&b"1"[..]));
        assert_eq!(
            standing.field(Name::B3).once().unwrap_err().to_string(),
            "a header that stands twice"
        );
        assert_eq!(standing.values(Name::B3).collect::<Vec<_>>(), [b"1", b"2", b"3"]);
        assert_eq!(standing.field(Name::Tracestate).once(), Ok(Some(&b""[..])));
        assert_eq!(standing.field(Name::Sw8).once(), Ok(None));
    }

    #[test]
    fn headers_with_a_key_in_their_name() {
        let headers: Headers =
            [("uberctx-a", "1"), ("uberctx", "0"), ("ot-baggage-", "2"), ("uberctx-b", "3")]
                .into_iter()
                .collect();
        let standing = Standing::of(&headers);
        assert_eq!(
            standing.keyed(UBERCTX).collect::<Vec<_>>(),
            [(&b"uberctx-a"[..], &b"1"[..]), (b"uberctx-b", b"3")]
        );
        assert_eq!(
            standing.keyed(OT_BAGGAGE).collect::<Vec<_>>(),
            [(&b"ot-baggage-"[..], &b"2"[..])]
        );
    }
}
