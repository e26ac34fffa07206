//! What the host knows: tests set it up and read it back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::abi::{LogLevel, MapType, Pairs, Status};

/// All state of one emulated worker.
#[derive(Debug)]
pub struct State {
    /// Nanoseconds since the epoch; moves only when a test moves it.
    pub clock: u64,
    /// Environment variables of the VM.
    pub environment: Vec<(String, String)>,
    /// Seed of `random_get`; two equal seeds give equal ids.
    pub seed: u64,
    /// Clusters that a callout may name.
    pub clusters: BTreeSet<String>,
    /// Root contexts by id.
    pub roots: BTreeMap<u32, Root>,
    /// HTTP contexts by id.
    pub streams: BTreeMap<u32, Stream>,
    /// Requests and their responses.
    pub exchanges: Vec<Exchange>,
    /// Properties that hold with and without a request, by [`path`].
    pub properties: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Everything logged, in order.
    pub logs: Vec<LogLine>,
    /// What the module wrote to its standard output and error streams.
    pub output: Vec<u8>,
    /// Metrics by name.
    pub metrics: BTreeMap<String, Metric>,
    /// Names by the id that the module got for them.
    pub metric_ids: Vec<String>,
    /// Every callout that the host took, in order.
    pub callouts: Vec<Callout>,
    /// Expressions that the host has compiled, by token.
    pub expressions: BTreeMap<u32, String>,
    /// Shared data: value and compare-and-swap number.
    pub shared_data: BTreeMap<Vec<u8>, (Vec<u8>, u32)>,
    /// Shared queues by index; the id is the index plus one.
    pub queues: Vec<(Vec<u8>, VecDeque<Vec<u8>>)>,
    /// What the module's memory may grow to.
    pub limits: wasmi::StoreLimits,
    /// Hostcalls that do nothing and answer this number.
    pub faults: BTreeMap<String, u32>,
    /// Bytes that a read of this header map gives instead of the map.
    pub garbled_maps: BTreeMap<MapType, Vec<u8>>,
    /// How often each hostcall was made.
    pub hostcalls: BTreeMap<String, u64>,
    /// Every hostcall with what it brought and took, if a test has asked for it.
    pub recorded: Option<Vec<Hostcall>>,
    /// The export that the host has called.
    pub callback: String,
    /// The context that the host entered.
    pub current: u32,
    /// The context that hostcalls apply to.
    pub effective: u32,
    /// The answer that the callback in progress is about.
    pub answer: Option<Answer>,
    /// What the host is about to do with the request.
    pub phase: Phase,
}

impl Default for State {
    fn default() -> Self {
        Self {
            clock: crate::EPOCH,
            environment: Vec::new(),
            seed: 1,
            clusters: BTreeSet::from([crate::CLUSTER.to_owned()]),
            roots: BTreeMap::new(),
            streams: BTreeMap::new(),
            exchanges: Vec::new(),
            properties: BTreeMap::new(),
            logs: Vec::new(),
            output: Vec::new(),
            metrics: BTreeMap::new(),
            metric_ids: Vec::new(),
            callouts: Vec::new(),
            expressions: BTreeMap::new(),
            shared_data: BTreeMap::new(),
            limits: wasmi::StoreLimits::default(),
            queues: Vec::new(),
            faults: BTreeMap::new(),
            garbled_maps: BTreeMap::new(),
            hostcalls: BTreeMap::new(),
            recorded: None,
            callback: String::new(),
            current: 0,
            effective: 0,
            answer: None,
            phase: Phase::Root,
        }
    }
}

/// A hostcall, as [`State::recorded`] has it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Hostcall {
    /// The callback in which it was made.
    pub callback: String,
    /// Its name.
    pub name: String,
    /// What the host has read from the module's memory: names and values, in order.
    pub read: Vec<Vec<u8>>,
    /// The sizes of what it has handed over in memory that the module allocates.
    pub given: Vec<usize>,
    /// What it answered.
    pub answer: u32,
}

/// A root context.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Root {
    /// The plugin configuration; as in Envoy it is there only while the module is configured.
    pub configuration: Vec<u8>,
    /// The period of ticks in milliseconds; zero or absent is none.
    pub tick_period: Option<u32>,
    /// How often the module said that this context is done.
    pub done: u64,
}

/// An HTTP context.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stream {
    /// Its root context.
    pub root: u32,
    /// The request that it is about.
    pub exchange: ExchangeId,
}

/// Names an exchange of [`State::exchanges`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ExchangeId(pub(crate) usize);

/// A request and its response. Several contexts may be about one exchange, as with two plugins.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Exchange {
    /// Absent where the host has none.
    pub request_headers: Option<Pairs>,
    /// Absent where the host has none.
    pub request_trailers: Option<Pairs>,
    /// Absent until the response came.
    pub response_headers: Option<Pairs>,
    /// Absent where the host has none.
    pub response_trailers: Option<Pairs>,
    /// Whether the response goes on after its headers.
    pub has_body: bool,
    /// Properties of the request, by [`path`].
    pub properties: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Properties that the host knows only when the exchange is over.
    pub final_properties: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What expressions give, serialized, by their text; the others fail.
    pub expressions: BTreeMap<String, Vec<u8>>,
    /// What modules set as properties; Envoy shows it in access logs under `wasm.`.
    pub filter_state: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The status of a response that the module made itself.
    pub local_response: Option<u32>,
    /// Whether the module asked to go on with a paused stream.
    pub continued: bool,
    /// Whether the module asked to close the stream.
    pub closed: bool,
}

impl Exchange {
    /// All values of a request header.
    #[must_use]
    pub fn request_header(&self, name: &str) -> Vec<&[u8]> {
        values(self.request_headers.as_ref(), name)
    }

    /// All values of a response header.
    #[must_use]
    pub fn response_header(&self, name: &str) -> Vec<&[u8]> {
        values(self.response_headers.as_ref(), name)
    }

    /// The same with a response that has a body.
    #[must_use]
    pub fn with_body(self) -> Self {
        Self { has_body: true, ..self }
    }

    /// Adds a request header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let pair = (name.as_bytes().to_vec(), value.as_ref().to_vec());
        self.request_headers.get_or_insert_default().push(pair);
        self
    }

    /// Sets a property that is known from the beginning.
    #[must_use]
    pub fn with_property(mut self, segments: &[&str], value: impl AsRef<[u8]>) -> Self {
        self.properties.insert(path(segments), value.as_ref().to_vec());
        self
    }

    /// Says what an expression gives, serialized.
    #[must_use]
    pub fn with_expression(mut self, text: &str, value: impl AsRef<[u8]>) -> Self {
        self.expressions.insert(text.to_owned(), value.as_ref().to_vec());
        self
    }

    /// Sets a property that is known only at the end.
    #[must_use]
    pub fn with_final_property(mut self, segments: &[&str], value: impl AsRef<[u8]>) -> Self {
        self.final_properties.insert(path(segments), value.as_ref().to_vec());
        self
    }

    pub(crate) fn map(&self, kind: MapType) -> Option<&Pairs> {
        match kind {
            MapType::RequestHeaders => self.request_headers.as_ref(),
            MapType::RequestTrailers => self.request_trailers.as_ref(),
            MapType::ResponseHeaders => self.response_headers.as_ref(),
            MapType::ResponseTrailers => self.response_trailers.as_ref(),
            _ => None,
        }
    }

    pub(crate) fn map_mut(&mut self, kind: MapType) -> Option<&mut Pairs> {
        match kind {
            MapType::RequestHeaders => self.request_headers.as_mut(),
            MapType::RequestTrailers => self.request_trailers.as_mut(),
            MapType::ResponseHeaders => self.response_headers.as_mut(),
            MapType::ResponseTrailers => self.response_trailers.as_mut(),
            _ => None,
        }
    }
}

fn values<'a>(pairs: Option<&'a Pairs>, name: &str) -> Vec<&'a [u8]> {
    let pairs = pairs.into_iter().flatten();
    pairs.filter(|(n, _)| n == name.as_bytes()).map(|(_, value)| value.as_slice()).collect()
}

/// Where in its life a request is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// No request: a callback of the root context.
    Root,
    /// Headers may be changed.
    Stream,
    /// All is final: headers may be read, not changed.
    Log,
    /// The request is over: nothing of it can be read.
    Over,
}

/// One log line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogLine {
    /// How loud.
    pub level: LogLevel,
    /// The context that logged.
    pub context: u32,
    /// What it says.
    pub message: String,
}

/// What a metric is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Moves both ways.
    Gauge,
    /// Takes samples.
    Histogram,
}

/// A metric.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Metric {
    /// What it is.
    pub kind: MetricKind,
    /// The value of a counter or gauge.
    pub value: i64,
    /// The samples of a histogram.
    pub samples: Vec<u64>,
}

/// A callout under way or answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Callout {
    /// Names it towards the module.
    pub token: u32,
    /// The context that it belongs to.
    pub context: u32,
    /// The cluster.
    pub upstream: String,
    /// Headers, pseudo headers included.
    pub headers: Pairs,
    /// The body.
    pub body: Vec<u8>,
    /// Trailers.
    pub trailers: Pairs,
    /// Milliseconds that an answer may take.
    pub timeout: u32,
    /// Whether the module got an answer.
    pub answered: bool,
}

impl Callout {
    /// All values of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Vec<&[u8]> {
        values(Some(&self.headers), name)
    }
}

/// The answer to a callout. [`Answer::default`] is what Envoy gives after a time-out or a reset.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Answer {
    /// Pseudo headers included; absent when no answer came.
    pub headers: Option<Pairs>,
    /// The body.
    pub body: Vec<u8>,
    /// Trailers.
    pub trailers: Option<Pairs>,
}

/// A property's path as it crosses the ABI.
#[must_use]
pub fn path(segments: &[&str]) -> Vec<u8> {
    segments.join("\0").into_bytes()
}

impl State {
    /// The hostcall that is being made, if it is recorded.
    pub(crate) fn recording(&mut self) -> Option<&mut Hostcall> {
        self.recorded.as_mut()?.last_mut()
    }

    /// The exchange that an id names.
    #[must_use]
    pub fn exchange(&self, id: ExchangeId) -> &Exchange {
        self.exchanges.get(id.0).expect("exchanges are never removed")
    }

    /// The same, to be changed by the test: what Envoy or an application does to a request.
    pub fn exchange_mut(&mut self, id: ExchangeId) -> &mut Exchange {
        self.exchanges.get_mut(id.0).expect("exchanges are never removed")
    }

    /// A counter's or gauge's value; zero as long as the module did not define it.
    #[must_use]
    pub fn metric(&self, name: &str) -> i64 {
        self.metrics.get(name).map_or(0, |metric| metric.value)
    }

    /// Log lines of this level or louder.
    #[must_use]
    pub fn logged(&self, level: LogLevel) -> Vec<&str> {
        let lines = self.logs.iter().filter(|line| line.level >= level);
        lines.map(|line| line.message.as_str()).collect()
    }

    /// Callouts that wait for an answer.
    #[must_use]
    pub fn pending(&self) -> Vec<&Callout> {
        self.callouts.iter().filter(|callout| !callout.answered).collect()
    }

    pub(crate) fn effective_exchange(&self) -> Option<&Exchange> {
        let stream = self.streams.get(&self.effective)?;
        (self.phase != Phase::Over).then(|| self.exchange(stream.exchange))
    }

    pub(crate) fn effective_exchange_mut(&mut self) -> Option<&mut Exchange> {
        let stream = *self.streams.get(&self.effective)?;
        (self.phase != Phase::Over).then(|| self.exchange_mut(stream.exchange))
    }

    pub(crate) fn effective_root(&self) -> u32 {
        self.streams.get(&self.effective).map_or(self.effective, |stream| stream.root)
    }

    pub(crate) fn map(&self, kind: MapType) -> Option<&Pairs> {
        match kind {
            MapType::CallResponseHeaders => self.answer.as_ref()?.headers.as_ref(),
            MapType::CallResponseTrailers => self.answer.as_ref()?.trailers.as_ref(),
            MapType::RequestTrailers if self.phase == Phase::Log => None,
            _ => self.effective_exchange()?.map(kind),
        }
    }

    /// A map may be changed only while its stream goes on.
    pub(crate) fn map_mut(&mut self, kind: MapType) -> Result<&mut Pairs, Status> {
        if self.phase != Phase::Stream {
            return Err(Status::BadArgument);
        }
        let map = self.effective_exchange_mut().and_then(|exchange| exchange.map_mut(kind));
        map.ok_or(Status::BadArgument)
    }

    pub(crate) fn property(&self, path: &[u8]) -> Option<&Vec<u8>> {
        let exchange = self.effective_exchange();
        let last = exchange.filter(|_| self.phase == Phase::Log);
        last.and_then(|exchange| exchange.final_properties.get(path))
            .or_else(|| exchange?.properties.get(path))
            .or_else(|| self.properties.get(path))
            .or_else(|| exchange?.filter_state.get(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A state with one request under context 2 of root 1.
    fn state(phase: Phase) -> State {
        let exchange = Exchange::default()
            .with_header("a", "1")
            .with_header("a", "2")
            .with_property(&["x", "y"], "first")
            .with_final_property(&["x", "y"], "last");
        let stream = Stream { root: 1, exchange: ExchangeId(0) };
        State {
            exchanges: vec![exchange],
            streams: BTreeMap::from([(2, stream)]),
            roots: BTreeMap::from([(1, Root::default())]),
            effective: 2,
            phase,
            ..State::default()
        }
    }

    #[test]
    fn properties_follow_the_phase() {
        let property = |phase| state(phase).property(b"x\0y").cloned();
        assert_eq!(property(Phase::Stream), Some(b"first".to_vec()));
        assert_eq!(property(Phase::Log), Some(b"last".to_vec()));
        assert_eq!(property(Phase::Over), None);
        let mut state = state(Phase::Stream);
        state.properties.insert(b"node".to_vec(), b"n".to_vec());
        state.effective = 1;
        assert_eq!(state.property(b"x\0y"), None);
        assert_eq!(state.property(b"node"), Some(&b"n".to_vec()));
    }

    #[test]
    fn headers_change_only_while_the_stream_goes_on() {
        assert_eq!(state(Phase::Log).map_mut(MapType::RequestHeaders), Err(Status::BadArgument));
        assert_eq!(state(Phase::Log).map(MapType::RequestHeaders).map(Vec::len), Some(2));
        let mut state = state(Phase::Stream);
        assert_eq!(state.map_mut(MapType::ResponseHeaders), Err(Status::BadArgument));
        state.map_mut(MapType::RequestHeaders).unwrap().remove(0);
        assert_eq!(state.exchange(ExchangeId(0)).request_header("a"), [b"2"]);
    }

    #[test]
    fn the_root_of_a_context() {
        let mut state = state(Phase::Stream);
        assert_eq!(state.effective_root(), 1);
        state.effective = 1;
        assert_eq!(state.effective_root(), 1);
    }
}
