//! A header map as it crosses the proxy-wasm ABI: one buffer, read in place.

/// Header names and values in order. Names are lower case, values are opaque bytes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Headers {
    buffer: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Entry {
    name: usize,
    value: usize,
    end: usize,
}

impl Headers {
    /// Reads the ABI's serialized map: a count, a table of name and value sizes (all 32-bit
    /// little endian), then each name and value closed by NUL.
    ///
    /// `None` if sizes and buffer do not agree.
    #[must_use]
    pub fn decode(buffer: Vec<u8>) -> Option<Self> {
        if buffer.is_empty() {
            return Some(Self::default());
        }
        let (count, table) = take_u32(&buffer)?;
        let mut at = count.checked_mul(8)?.checked_add(4)?;
        if at > buffer.len() {
            return None;
        }
        let mut entries = Vec::with_capacity(count);
        let mut table = table;
        for _ in 0..count {
            let (name_len, rest) = take_u32(table)?;
            let (value_len, rest) = take_u32(rest)?;
            table = rest;
            let value = at.checked_add(name_len)?.checked_add(1)?;
            let end = value.checked_add(value_len)?;
            entries.push(Entry { name: at, value, end });
            at = end.checked_add(1)?;
        }
        (at <= buffer.len()).then_some(Self { buffer, entries })
    }

    /// The same, serialized for the host; `None` if it is beyond what 32 bits can say.
    #[must_use]
    pub fn encode<N: AsRef<[u8]>, V: AsRef<[u8]>>(pairs: &[(N, V)]) -> Option<Vec<u8>> {
        let size = |bytes: &[u8]| Some(u32::try_from(bytes.len()).ok()?.to_le_bytes());
        let mut out = u32::try_from(pairs.len()).ok()?.to_le_bytes().to_vec();
        for (name, value) in pairs {
            out.extend_from_slice(&size(name.as_ref())?);
            out.extend_from_slice(&size(value.as_ref())?);
        }
        for (name, value) in pairs {
            for bytes in [name.as_ref(), value.as_ref()] {
                out.extend_from_slice(bytes);
                out.push(0);
            }
        }
        Some(out)
    }

    /// The first value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.get_all(name).next()
    }

    /// All values of `name`, in order.
    pub fn get_all(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.iter().filter(move |(n, _)| *n == name.as_bytes()).map(|(_, value)| value)
    }

    /// Those of the names of which `is_held` holds, in order.
    #[must_use]
    pub fn only(&self, is_held: impl Fn(&[u8]) -> bool) -> Self {
        self.iter().filter(|(name, _)| is_held(name)).collect()
    }

    /// These and, of all names of which `is_held` does not hold, those of `others`.
    #[must_use]
    pub fn over(&self, is_held: impl Fn(&[u8]) -> bool, others: &Self) -> Self {
        let others = others.iter().filter(|(name, _)| !is_held(name));
        self.iter().chain(others).collect()
    }

    /// All names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.entries.iter().filter_map(|entry| {
            let name = self.buffer.get(entry.name..entry.value.saturating_sub(1))?;
            Some((name, self.buffer.get(entry.value..entry.end)?))
        })
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut headers = Self::default();
        for (name, value) in pairs {
            let start = headers.buffer.len();
            headers.buffer.extend_from_slice(name.as_ref());
            headers.buffer.push(0);
            let value_start = headers.buffer.len();
            headers.buffer.extend_from_slice(value.as_ref());
            let end = headers.buffer.len();
            headers.buffer.push(0);
            headers.entries.push(Entry { name: start, value: value_start, end });
        }
        headers
    }
}

fn take_u32(input: &[u8]) -> Option<(usize, &[u8])> {
    let (bytes, rest) = input.split_first_chunk::<4>()?;
    Some((usize::try_from(u32::from_le_bytes(*bytes)).ok()?, rest))
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn wire(pairs: &[(&str, &[u8])]) -> Vec<u8> {
        Headers::encode(pairs).unwrap()
    }

    #[test]
    fn the_wire_is_the_abi_s() {
        let expected = b"\x02\0\0\0\x01\0\0\0\x03\0\0\0\x02\0\0\0\0\0\0\0a\0one\0bc\0\0";
        assert_eq!(wire(&[("a", b"one"), ("bc", b"")]), expected);
        assert_eq!(wire(&[]), [0; 4]);
    }

    #[test]
    fn decodes_in_order_and_keeps_bytes() {
        let pairs: [(&str, &[u8]); 3] = [("a", b"1"), ("b", b"\xff\0"), ("a", b"")];
        let headers = Headers::decode(wire(&pairs)).unwrap();
        assert_eq!(headers.get_all("a").collect::<Vec<_>>(), [&b"1"[..], b""]);
        assert_eq!(headers.get("b"), Some(&b"\xff\0"[..]));
        assert_eq!(headers.get("c"), None);
        let same: Headers = pairs.into_iter().collect();
        assert_eq!(headers.iter().collect::<Vec<_>>(), same.iter().collect::<Vec<_>>());
        assert_eq!(Headers::decode(Vec::new()), Some(Headers::default()));
    }

    #[test]
    fn some_of_one_map_over_the_rest_of_another() {
        let first: Headers = [("a", "1"), ("b", "2"), ("a", "3")].into_iter().collect();
        let then: Headers = [("c", "4"), ("a", "5"), ("d", "6")].into_iter().collect();
        let is_held = |name: &[u8]| matches!(name, b"a" | b"d");
        let kept = first.only(is_held);
        assert_eq!(kept, [("a", "1"), ("a", "3")].into_iter().collect());
        let whole = [("a", "1"), ("a", "3"), ("c", "4")].into_iter().collect();
        assert_eq!(kept.over(is_held, &then), whole);
    }

    #[test]
    fn every_truncation_and_every_size_is_survived() {
        let whole = wire(&[("name", b"value"), ("x", b"")]);
        for end in 1..whole.len() {
            assert_eq!(Headers::decode(whole.get(..end).unwrap().to_vec()), None, "{end}");
        }
        for at in 0..20 {
            let mut bad = whole.clone();
            *bad.get_mut(at).unwrap() = 0xff;
            if let Some(headers) = Headers::decode(bad) {
                assert!(headers.iter().count() <= 2);
            }
        }
    }
}
