//! What is remembered under one key: the inbound requests that had it, as bytes in a slot.

use crate::model::slots::Entry;
use crate::model::{MonoNanos, SpanId, TraceFlags, TraceId};
use crate::propagation::{ParentDecision, RemoteContext, TraceState};

/// Requests under one key at most; a span links to as many.
pub(super) const MAX_RECORDS: usize = 8;
/// Bytes of a slot at most: eight requests with their `ot`, or one with all the `tracestate` that
/// the specification asks everyone to pass on (Trace Context Level 2, section 3.3.1.5), and more.
pub(super) const MAX_PAYLOAD: u16 = 1024;
/// Bytes of the `tracestate` of one request at most.
pub(super) const MAX_STATE: usize = 768;

/// One inbound request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Record {
    /// When it came.
    pub(super) since: MonoNanos,
    /// From then on it is forgotten.
    pub(super) until: MonoNanos,
    pub(super) trace_id: TraceId,
    pub(super) span_id: SpanId,
    pub(super) flags: TraceFlags,
    /// Whether its caller asked for debug (B3).
    pub(super) debug: bool,
    pub(super) state: TraceState,
}

impl Record {
    /// What its headers would tell the next hop.
    pub(super) fn into_context(self) -> RemoteContext {
        let sampled = self.flags.has(TraceFlags::SAMPLED);
        RemoteContext {
            trace_id: self.trace_id,
            parent_id: Some(self.span_id),
            decision: match (self.debug, sampled) {
                (true, _) => ParentDecision::Debug,
                (false, true) => ParentDecision::Sample,
                (false, false) => ParentDecision::Drop,
            },
            random: self.flags.has(TraceFlags::RANDOM),
            state: self.state,
        }
    }
}

/// All that is remembered under one key.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Records {
    /// The newest first; at most [`MAX_RECORDS`].
    pub(super) list: Vec<Record>,
    /// Until then there are more than the list holds, and not of one trace.
    pub(super) crowded: MonoNanos,
}

/// Set in the flags of a record with [`Record::debug`]; none of the W3C's.
const DEBUG: u8 = 0x80;

impl Records {
    /// What has not expired; nothing for what no worker of ours has written.
    pub(super) fn read(payload: &[u8], now: MonoNanos) -> Self {
        if payload.is_empty() {
            return Self::default();
        }
        let mut records = Self::parse(payload).unwrap_or_default();
        records.list.retain(|record| record.until > now);
        records
    }

    fn parse(payload: &[u8]) -> Option<Self> {
        let (crowded, mut rest) = number(payload)?;
        let mut list = Vec::new();
        while !rest.is_empty() {
            let (record, tail) = parse_record(rest)?;
            list.push(record);
            rest = tail;
        }
        (list.len() <= MAX_RECORDS).then_some(Self { list, crowded })
    }

    /// Adds a request, or what is new of it. Of too many the oldest goes.
    pub(super) fn put(&mut self, record: Record) {
        self.list.retain(|other| other.span_id != record.span_id);
        let place = self.list.partition_point(|other| other.since > record.since);
        self.list.insert(place, record);
        if self.list.len() > MAX_RECORDS {
            let one_trace = self.is_of_one_trace();
            let gone = self.list.pop().filter(|_| !one_trace);
            self.crowded = gone.map_or(self.crowded, |gone| self.crowded.max(gone.until));
        }
    }

    /// Whether all requests that are known are of one trace.
    pub(super) fn is_of_one_trace(&self) -> bool {
        let mut traces = self.list.iter().map(|record| record.trace_id);
        traces.next().is_none_or(|first| traces.all(|trace| trace == first))
    }

    /// What stands in the slot. Where room is short, the oldest requests lose their `tracestate`.
    pub(super) fn write(mut self) -> Entry {
        let until = self.list.iter().map(|record| record.until).max().unwrap_or_default();
        let mut length = self.length();
        for record in self.list.iter_mut().rev() {
            if length <= usize::from(MAX_PAYLOAD) {
                break;
            }
            length = length.saturating_sub(record.state.as_str().len());
            record.state = TraceState::default();
        }
        let mut payload = Vec::with_capacity(length);
        payload.extend_from_slice(&self.crowded.0.to_le_bytes());
        for record in &self.list {
            write_record(record, &mut payload);
        }
        Entry { until, payload }
    }

    fn length(&self) -> usize {
        let record = |record: &Record| RECORD.saturating_add(record.state.as_str().len());
        self.list.iter().map(record).fold(8, usize::saturating_add)
    }
}

/// Bytes of a record beside its state: two times, ids, flags, the length of the state.
const RECORD: usize = 43;

fn parse_record(bytes: &[u8]) -> Option<(Record, &[u8])> {
    let (since, rest) = number(bytes)?;
    let (until, rest) = number(rest)?;
    let (trace_id, rest) = rest.split_first_chunk()?;
    let (span_id, rest) = rest.split_first_chunk()?;
    let (flags, rest) = rest.split_first()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (state, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    let record = Record {
        since,
        until,
        trace_id: TraceId::from_bytes(*trace_id)?,
        span_id: SpanId::from_bytes(*span_id)?,
        flags: TraceFlags::from_bits(*flags),
        debug: flags & DEBUG != 0,
        state: TraceState::remembered(state)?,
    };
    Some((record, rest))
}

fn write_record(record: &Record, payload: &mut Vec<u8>) {
    let state = record.state.as_str().as_bytes();
    // A state is at most `MAX_STATE` long.
    let length = u16::try_from(state.len()).unwrap_or_default();
    let debug = if record.debug { DEBUG } else { 0 };
    payload.extend_from_slice(&record.since.0.to_le_bytes());
    payload.extend_from_slice(&record.until.0.to_le_bytes());
    payload.extend_from_slice(&record.trace_id.to_bytes());
    payload.extend_from_slice(&record.span_id.to_bytes());
    payload.push(record.flags.bits() | debug);
    payload.extend_from_slice(&length.to_le_bytes());
    payload.extend_from_slice(state);
}

fn number(bytes: &[u8]) -> Option<(MonoNanos, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((MonoNanos(u64::from_le_bytes(*number)), rest))
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    /// The request `span` of `trace`, that came at `since` and is forgotten at 100.
    fn record(trace: u8, span: u8, since: u64) -> Record {
        Record {
            since: MonoNanos(since),
            until: MonoNanos(100),
            trace_id: TraceId::from_bytes([trace; 16]).unwrap(),
            span_id: SpanId::from_bytes([span; 8]).unwrap(),
            flags: TraceFlags::SAMPLED,
            debug: false,
            state: TraceState::default(),
        }
    }

    fn records(list: impl IntoIterator<Item = Record>) -> Records {
        let mut records = Records::default();
        list.into_iter().for_each(|record| records.put(record));
        records
    }

    fn spans(records: &Records) -> Vec<u8> {
        records.list.iter().map(|record| record.span_id.to_bytes()[0]).collect()
    }

    fn state(length: usize) -> TraceState {
        let member = |index| format!("{index:02}={}", "x".repeat(97));
        let list: Vec<_> = (0..32).map(member).collect();
        let text = &list.join(",")[..length];
        TraceState::parse([text.as_bytes()]).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let mut whole = record(1, 2, 3);
        whole.flags = TraceFlags::SAMPLED.with(TraceFlags::RANDOM);
        whole.debug = true;
        whole.state = TraceState::parse([&b"ot=th:0,a=1"[..]]).unwrap();
        let written = records([whole, record(4, 5, 6)]);
        let Entry { until, payload } = written.clone().write();
        assert_eq!(until, MonoNanos(100));
        assert_eq!(payload.len(), 8 + 2 * RECORD + 11);
        assert_eq!(Records::read(&payload, MonoNanos(99)), written);
        assert_eq!(Records::read(&payload, MonoNanos(100)), Records::default());
    }

    #[test]
    fn what_is_not_whole_is_nothing() {
        let payload = records([record(1, 2, 3)]).write().payload;
        for end in 0..payload.len() {
            let read = Records::read(&payload[..end], MonoNanos(0));
            assert_eq!(read, Records::default(), "{end}");
        }
        let mut zero = payload.clone();
        zero[8 + 16..8 + 32].fill(0);
        let mut line = records([Record { state: state(30), ..record(1, 2, 3) }]).write().payload;
        line.pop();
        line.push(b'\n');
        let nine = [&payload[..8], &payload[8..].repeat(9)].concat();
        for payload in [zero, line, nine, vec![0xff; 100]] {
            assert_eq!(Records::read(&payload, MonoNanos(0)), Records::default(), "{payload:?}");
        }
    }

    #[test]
    fn the_newest_comes_first_and_a_request_stands_once() {
        let mut records = records([record(1, 1, 20), record(1, 2, 10), record(1, 3, 30)]);
        assert_eq!(spans(&records), [3, 1, 2]);
        records.put(Record { until: MonoNanos(200), ..record(1, 2, 10) });
        assert_eq!(spans(&records), [3, 1, 2]);
        assert_eq!(records.list[2].until, MonoNanos(200));
        // One that had to go comes back to its place.
        records.list.remove(1);
        records.put(record(1, 1, 20));
        assert_eq!(spans(&records), [3, 1, 2]);
    }

    #[test]
    fn of_too_many_the_oldest_goes_and_that_is_remembered() {
        let one_trace = records((1..=9).map(|span| record(1, span, span.into())));
        assert_eq!(spans(&one_trace), [9, 8, 7, 6, 5, 4, 3, 2]);
        assert_eq!((one_trace.crowded, one_trace.is_of_one_trace()), (MonoNanos(0), true));
        let mut strangers = records((1..=8).map(|span| record(span, span, span.into())));
        assert_eq!((strangers.crowded, strangers.is_of_one_trace()), (MonoNanos(0), false));
        strangers.put(record(9, 9, 9));
        assert_eq!(spans(&strangers), [9, 8, 7, 6, 5, 4, 3, 2]);
        assert_eq!(strangers.crowded, MonoNanos(100));
    }

    #[test]
    fn the_oldest_lose_their_state_where_room_is_short() {
        let with_state =
            |span: u8, length| Record { state: state(length), ..record(1, span, span.into()) };
        let entry = records((1..=3).map(|span| with_state(span, 300))).write();
        let read = Records::read(&entry.payload, MonoNanos(0));
        let lengths: Vec<_> = read.list.iter().map(|r| r.state.as_str().len()).collect();
        assert_eq!(lengths, [300, 300, 0]);
        let full = records((1..=8).map(|span| with_state(span, MAX_STATE))).write().payload;
        assert!(full.len() <= usize::from(MAX_PAYLOAD), "{}", full.len());
        let one = records([with_state(1, MAX_STATE)]).write().payload;
        assert_eq!(Records::read(&one, MonoNanos(0)).list[0].state, state(MAX_STATE));
    }

    #[test]
    fn a_context_says_what_was_decided() {
        use ParentDecision::{Debug, Drop, Sample};
        let (sampled, random) = (TraceFlags::SAMPLED, TraceFlags::RANDOM);
        for (flags, debug, decision, is_random) in [
            (TraceFlags::default(), false, Drop, false),
            (sampled, false, Sample, false),
            (sampled.with(random), false, Sample, true),
            (random, false, Drop, true),
            (sampled, true, Debug, false),
        ] {
            assert_eq!(
                Record { flags, debug, state: state(100), ..record(1, 2, 3) }.into_context(),
                RemoteContext {
                    trace_id: TraceId::from_bytes([1; 16]).unwrap(),
                    parent_id: SpanId::from_bytes([2; 8]),
                    decision,
                    random: is_random,
                    state: state(100),
                }
            );
        }
    }
}
