//! The header formats that carry trace context, by the names of the configuration.

macro_rules! formats {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)*) => {
        /// A header format.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        #[repr(u8)]
        pub enum Format {
            $($(#[$doc])* $variant,)*
        }

        impl Format {
            /// All formats, in order of declaration.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Their names, in the same order.
            pub const NAMES: &[&'static str] = &[$($name,)*];

            /// The name in the configuration and in metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

formats! {
    /// W3C `traceparent` and `tracestate`.
    TraceContext = "tracecontext";
    /// W3C `baggage`: no trace context, but values that travel with it.
    Baggage = "baggage";
    /// B3 in the single header `b3`.
    B3 = "b3";
    /// B3 in the headers `x-b3-*`.
    B3Multi = "b3multi";
    /// Jaeger's `uber-trace-id`, with baggage in `uberctx-*`.
    Jaeger = "jaeger";
    /// Datadog's `x-datadog-*`.
    Datadog = "datadog";
    /// AWS X-Ray's `x-amzn-trace-id`.
    XRay = "xray";
    /// OpenTracing's basic tracers: `ot-tracer-*`, with baggage in `ot-baggage-*`.
    OtTrace = "ottrace";
    /// Google Cloud's `x-cloud-trace-context`.
    Gcp = "gcp";
    /// OpenCensus' binary `grpc-trace-bin`.
    GrpcTraceBin = "grpc-trace-bin";
    /// Apache SkyWalking's `sw8`.
    SkyWalking = "skywalking";
}

/// Some formats, in no order.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FormatSet(u16);

impl Format {
    /// The format of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|format| format.name() == name)
    }

    const fn bit(self) -> u16 {
        1 << self as u8
    }
}

impl FormatSet {
    /// Adds `format`.
    pub const fn insert(&mut self, format: Format) {
        self.0 |= format.bit();
    }

    /// Whether `format` is among them.
    #[must_use]
    pub const fn contains(self, format: Format) -> bool {
        self.0 & format.bit() != 0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// All of them, in the order of [`Format::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Format> {
        Format::ALL.iter().copied().filter(move |format| self.contains(*format))
    }
}

impl FromIterator<Format> for FormatSet {
    fn from_iter<I: IntoIterator<Item = Format>>(formats: I) -> Self {
        let mut set = Self::default();
        formats.into_iter().for_each(|format| set.insert(format));
        set
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn each_format_has_a_name_and_a_place_of_its_own() {
        for (format, name) in Format::ALL.iter().zip(Format::NAMES) {
            assert_eq!(format.name(), *name);
            assert_eq!(Format::from_name(name), Some(*format));
            let alone: FormatSet = [*format].into_iter().collect();
            assert_eq!(alone.iter().collect::<Vec<_>>(), [*format]);
        }
        assert_eq!(Format::from_name("w3c"), None);
        let all: FormatSet = Format::ALL.iter().copied().collect();
        assert_eq!(all.iter().collect::<Vec<_>>(), Format::ALL);
        assert!(FormatSet::default().is_empty() && !all.is_empty());
    }
}
