//! A request as a host would show it, and the randomness of its ids.

use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};

use meshweft_core::model::{Exchange, Headers, TraceId};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng, TryRng};

/// A request.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) host: Option<String>,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// By their paths, joined by dots; the last of a path counts.
    pub(crate) properties: Vec<(String, Vec<u8>)>,
    /// Whether expressions hold, by their places among those of the configuration.
    pub(crate) expressions: Vec<Option<bool>>,
}

impl Request {
    /// All headers in order, pseudo headers first.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let pseudo = [
            (":method", Some(&self.method)),
            (":path", Some(&self.path)),
            (":authority", self.host.as_ref()),
        ];
        let pseudo = pseudo.into_iter().filter_map(|(name, value)| Some((name, value?.as_str())));
        pseudo.chain(self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())))
    }
}

impl Exchange for Request {
    fn request_headers(&self) -> Headers {
        self.pairs().collect()
    }

    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        let path = path.join(".");
        let property = self.properties.iter().rfind(|(known, _)| *known == path);
        property.map(|(_, value)| value.clone())
    }

    fn evaluate(&self, expression: u32) -> Option<bool> {
        *self.expressions.get(usize::try_from(expression).ok()?)?
    }
}

/// Draws ids.
#[derive(Debug)]
pub(crate) enum Draws {
    /// Those of an example: this trace id, and a span id that nobody takes for a real one.
    Given(TraceId),
    /// Random ones.
    Random(SmallRng),
}

/// Each byte of the span id in an example.
const EXAMPLE: u8 = 0x11;

impl Draws {
    pub(crate) fn new(trace_id: Option<TraceId>) -> Self {
        let random = || SmallRng::seed_from_u64(RandomState::new().hash_one(()));
        trace_id.map_or_else(|| Self::Random(random()), Self::Given)
    }
}

impl TryRng for Draws {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        match self {
            // Only a trace id is drawn in one piece of its length.
            Self::Given(id) => match <&mut [u8; 16]>::try_from(&mut *bytes) {
                Ok(bytes) => *bytes = id.to_bytes(),
                Err(_) => bytes.fill(EXAMPLE),
            },
            Self::Random(rng) => rng.fill_bytes(bytes),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use meshweft_core::model::SpanId;

    use super::*;

    #[test]
    fn the_id_of_a_new_trace_may_be_given() {
        let draw = |id| {
            let mut draws = Draws::new(id);
            (TraceId::random(&mut draws), SpanId::random(&mut draws))
        };
        let id = TraceId::from_bytes([7; 16]).unwrap();
        assert_eq!(draw(Some(id)), (id, SpanId::from_bytes([EXAMPLE; 8]).unwrap()));
        assert_ne!(draw(None), draw(None));
    }
}
