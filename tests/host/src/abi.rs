//! Numbers and encodings of proxy-wasm ABI 0.2.1.

/// Names and values in order, as bytes.
pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// What a hostcall answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// No such thing.
    NotFound = 1,
    /// An argument is out of its range, or names what is not there now.
    BadArgument = 2,
    /// The host cannot put the value into bytes.
    SerializationFailure = 3,
    /// The host cannot read the argument.
    ParseFailure = 4,
    /// An expression is malformed.
    BadExpression = 5,
    /// A pointer leads out of the guest's memory.
    InvalidMemoryAccess = 6,
    /// Nothing there yet.
    Empty = 7,
    /// Somebody else was faster.
    CasMismatch = 8,
    /// A result has another type.
    ResultMismatch = 9,
    /// The host failed.
    InternalFailure = 10,
    /// A connection broke.
    BrokenConnection = 11,
    /// The host has no such function.
    Unimplemented = 12,
}

/// Every status of the ABI, and one that it does not know.
pub const STATUSES: [u32; 14] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 255];

macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $number:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// The variant of a number of the ABI.
            #[must_use]
            pub const fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

numbered! {
    /// How loud a log line is.
    LogLevel {
        /// Finest.
        Trace = 0,
        /// For developers.
        Debug = 1,
        /// For operators.
        Info = 2,
        /// Something is odd.
        Warn = 3,
        /// Something failed.
        Error = 4,
        /// The VM is lost.
        Critical = 5,
    }
}

numbered! {
    /// A header map.
    MapType {
        /// Of the request.
        RequestHeaders = 0,
        /// Of the request.
        RequestTrailers = 1,
        /// Of the response.
        ResponseHeaders = 2,
        /// Of the response.
        ResponseTrailers = 3,
        /// Of a gRPC callout.
        GrpcInitialMetadata = 4,
        /// Of a gRPC callout.
        GrpcTrailingMetadata = 5,
        /// Of an HTTP callout's answer.
        CallResponseHeaders = 6,
        /// Of an HTTP callout's answer.
        CallResponseTrailers = 7,
    }
}

numbered! {
    /// A buffer.
    BufferType {
        /// Of the request.
        RequestBody = 0,
        /// Of the response.
        ResponseBody = 1,
        /// Of a TCP connection.
        DownstreamData = 2,
        /// Of a TCP connection.
        UpstreamData = 3,
        /// Of an HTTP callout's answer.
        CallResponseBody = 4,
        /// Of a gRPC callout.
        GrpcReceive = 5,
        /// What the VM was started with.
        VmConfiguration = 6,
        /// What the plugin is configured with.
        PluginConfiguration = 7,
        /// Of a foreign function.
        CallData = 8,
    }
}

/// The serialized form of a header map: a count, a table of sizes, then each name and value
/// closed by NUL.
#[must_use]
pub fn encode_pairs(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = size(pairs.len()).to_vec();
    for (name, value) in pairs {
        bytes.extend(size(name.len()));
        bytes.extend(size(value.len()));
    }
    for part in pairs.iter().flat_map(|(name, value)| [name, value]) {
        bytes.extend(part);
        bytes.push(0);
    }
    bytes
}

/// Reads what [`encode_pairs`] writes; `None` if sizes and bytes do not agree.
#[must_use]
pub fn decode_pairs(bytes: &[u8]) -> Option<Pairs> {
    if bytes.is_empty() {
        return Some(Pairs::new());
    }
    let (count, mut table) = take_size(bytes)?;
    let mut rest = table.get(count.checked_mul(8)?..)?;
    let mut pairs = Pairs::new();
    for _ in 0..count {
        let (name_size, after) = take_size(table)?;
        let (value_size, after) = take_size(after)?;
        table = after;
        let (name, after) = take_closed(rest, name_size)?;
        let (value, after) = take_closed(after, value_size)?;
        rest = after;
        pairs.push((name, value));
    }
    rest.is_empty().then_some(pairs)
}

fn size(len: usize) -> [u8; 4] {
    u32::try_from(len).expect("a guest's memory ends at 4 GiB").to_le_bytes()
}

fn take_size(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (size, rest) = bytes.split_first_chunk::<4>()?;
    Some((usize::try_from(u32::from_le_bytes(*size)).ok()?, rest))
}

fn take_closed(bytes: &[u8], size: usize) -> Option<(Vec<u8>, &[u8])> {
    let (part, rest) = bytes.split_at_checked(size)?;
    Some((part.to_vec(), rest.strip_prefix(&[0])?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_travel_both_ways() {
        let pairs = vec![(b"a".to_vec(), b"".to_vec()), (b"bc".to_vec(), b"\xff\0d".to_vec())];
        let bytes = encode_pairs(&pairs);
        assert_eq!(bytes, b"\x02\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\x03\0\0\0a\0\0bc\0\xff\0d\0");
        assert_eq!(decode_pairs(&bytes), Some(pairs));
        assert_eq!(decode_pairs(b""), Some(Pairs::new()));
    }

    #[test]
    fn sizes_and_bytes_must_agree() {
        let bytes = encode_pairs(&[(b"a".to_vec(), b"b".to_vec())]);
        for end in 1..bytes.len() {
            assert_eq!(decode_pairs(&bytes[..end]), None, "{end}");
        }
        assert_eq!(decode_pairs(&[bytes, vec![0]].concat()), None);
        assert_eq!(decode_pairs(b"\xff\xff\xff\xff"), None);
    }
}
