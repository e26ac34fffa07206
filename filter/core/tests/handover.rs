//! Changes of a configuration in virtual time: what an instance that goes has not sent is sent
//! once, whether the host lets it go on or ends it, or is counted.
#![allow(clippy::unwrap_used, clippy::panic, clippy::arithmetic_side_effects)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use meshweft_core::Exchange;
use meshweft_core::config::Config;
use meshweft_core::export::{Answer, ExportCall, Outcome};
use meshweft_core::model::{Headers, Local, MonoNanos, Shared, UnixNanos};
use meshweft_core::plugin::{Plugin, Tick};
use meshweft_core::stream::Stream;
use rand::SeedableRng;
use rand::rngs::SmallRng;
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// What an instance that went leaves to others from then on.
const LEASE: u64 = 2;
/// Seconds until what nobody has taken is counted as lost.
const OVER: u64 = LEASE + 30;

const BEFORE: &str = r#"{"service": {"name": "before"}, "export": {"cluster": "collector"}}"#;
const AFTER: &str = r#"{"service": {"name": "after"}, "export": {"cluster": "collector"}}"#;

struct Told;

impl Exchange for Told {
    fn request_headers(&self) -> Headers {
        [(":method", "GET"), (":path", "/"), (":authority", "shop"), (":scheme", "http")]
            .into_iter()
            .collect()
    }
    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        let value = match path {
            ["request", "time"] => 1_700_000_000_000_000_000_i64,
            ["request", "duration"] => 5_000_000,
            ["response", "code"] => 200,
            _ => return None,
        };
        Some(value.to_le_bytes().to_vec())
    }
}

/// A proxy: what its instances share, its time, and what `/stats` says.
#[derive(Clone, Default)]
struct Proxy {
    shared: Rc<Local>,
    stats: Rc<RefCell<BTreeMap<String, i64>>>,
}

impl Proxy {
    fn now(&self) -> MonoNanos {
        self.shared.now()
    }

    fn pass(&self, seconds: u64) {
        self.shared.clock.set(self.now().after(Duration::from_secs(seconds)));
    }

    fn instance(&self, config: &str) -> Instance {
        let config = Config::parse(config.as_bytes(), &|_| None).unwrap();
        let plugin = Plugin::new(config, None, &|_| None);
        let seed = self.stats.borrow().len() as u64 + self.shared.keys().len() as u64 + 7;
        Instance { proxy: self.clone(), plugin, rng: SmallRng::seed_from_u64(seed) }
    }

    fn stat(&self, name: &str) -> i64 {
        self.stats.borrow().get(&format!("meshweft_{name}")).copied().unwrap_or(0)
    }

    /// Of all spans: `[exported, dropped at a shutdown, waiting, under way, left]`.
    fn sum(&self) -> [i64; 5] {
        let found = ["exported", "dropped_shutdown", "queue_spans", "in_flight_spans"];
        let [exported, dropped, waiting, under_way] = found.map(|name| self.stat(name));
        let left = self.stat("sampled") - exported - dropped - waiting - under_way;
        for gauge in [waiting, under_way, self.stat("queue_bytes"), left] {
            assert!(gauge >= 0, "{:#?}", self.stats.borrow());
        }
        assert_eq!(waiting == 0, self.stat("queue_bytes") == 0);
        [exported, dropped, waiting, under_way, left]
    }

    /// Bytes that stand in shared data.
    fn held(&self) -> usize {
        self.shared.keys().iter().filter_map(|key| self.shared.get(key)).map(|(v, _)| v.len()).sum()
    }
}

struct Instance {
    proxy: Proxy,
    plugin: Plugin,
    rng: SmallRng,
}

impl Instance {
    fn serve(&mut self, requests: usize) {
        for _ in 0..requests {
            let mut stream = Stream::default();
            let shared = &*self.proxy.shared;
            stream.on_request_headers(&mut self.plugin, &Told, shared, &mut self.rng);
            stream.on_log(&mut self.plugin, &Told, shared, &mut self.rng);
        }
        self.count();
    }

    fn tick(&mut self) -> Tick {
        let now = self.proxy.now();
        let tick = self.plugin.on_tick(now, UnixNanos(now.0), &*self.proxy.shared);
        self.count();
        tick
    }

    fn calls(&mut self) -> Vec<ExportCall> {
        self.tick().calls
    }

    /// The host wants it gone.
    fn go(&mut self) -> bool {
        let done = self.plugin.on_shutdown(self.proxy.now(), &*self.proxy.shared);
        self.count();
        done
    }

    fn answer(&mut self, call: &ExportCall, status: u16) {
        let outcome = Outcome::Answered(Answer { status, ..Answer::default() });
        let (now, shared) = (self.proxy.now(), Rc::clone(&self.proxy.shared));
        self.plugin.on_outcome(call.id, &outcome, now, &*shared, &mut self.rng);
        self.count();
    }

    fn count(&mut self) {
        let mut stats = self.proxy.stats.borrow_mut();
        for update in self.plugin.metrics.take() {
            *stats.entry(self.plugin.metric_name(update.metric)).or_default() += update.value;
        }
    }
}

fn named(call: &ExportCall, service: &str) -> bool {
    call.body.windows(service.len()).any(|window| window == service.as_bytes())
}

/// The host ends the old instance's VM at once.
#[test]
fn what_waits_in_an_instance_that_is_ended_goes_with_the_next_one() {
    let proxy = Proxy::default();
    let (mut old, mut new) = (proxy.instance(BEFORE), proxy.instance(AFTER));
    old.serve(3);
    assert!(!old.go());
    drop(old);
    assert_eq!(proxy.sum(), [0, 0, 0, 0, 3]);
    // It might have waked.
    proxy.pass(LEASE - 1);
    assert_eq!(new.calls(), []);
    proxy.pass(1);
    let [call] = &new.calls()[..] else { panic!() };
    // The spans are those of the old one, with its resource.
    assert!(named(call, "before") && !named(call, "after"));
    new.answer(call, 200);
    assert_eq!((proxy.sum(), proxy.stat("taken_over")), ([3, 0, 0, 0, 0], 3));
    assert_eq!((new.calls(), proxy.held()), (vec![], 0));
}

/// The host lets it go on, since its VM serves others.
#[test]
fn an_instance_that_wakes_takes_back_what_it_left() {
    let proxy = Proxy::default();
    let (mut old, mut new) = (proxy.instance(BEFORE), proxy.instance(AFTER));
    old.serve(3);
    assert!(!old.go());
    proxy.pass(1);
    assert_eq!(new.calls(), []);
    let [call] = &old.calls()[..] else { panic!() };
    assert_eq!(proxy.held(), 0);
    proxy.pass(OVER);
    assert_eq!(new.calls(), []);
    old.answer(call, 200);
    assert!(old.tick().done);
    assert_eq!((proxy.sum(), proxy.stat("taken_over")), ([3, 0, 0, 0, 0], 0));
}

/// No host should, and an instance that is asked twice to go leaves everything once.
#[test]
fn who_is_asked_twice_leaves_everything_once() {
    let proxy = Proxy::default();
    let (mut old, mut new) = (proxy.instance(BEFORE), proxy.instance(AFTER));
    old.serve(2);
    assert!(!old.go());
    old.serve(1);
    assert!(!old.go());
    drop(old);
    proxy.pass(LEASE);
    let calls = new.calls();
    assert_eq!(calls.len(), 2);
    calls.iter().for_each(|call| new.answer(call, 200));
    assert_eq!(proxy.sum(), [3, 0, 0, 0, 0]);
}

/// Its worker was busy for longer than others wait.
#[test]
fn an_instance_that_wakes_late_leaves_to_others_what_they_have_taken() {
    let proxy = Proxy::default();
    let (mut old, mut new) = (proxy.instance(BEFORE), proxy.instance(AFTER));
    old.serve(1);
    proxy.pass(1);
    let sent = old.calls();
    old.serve(2);
    assert!(!old.go());
    proxy.pass(LEASE);
    let calls = new.calls();
    assert_eq!((calls.len(), proxy.sum()), (2, [0, 0, 0, 3, 0]));
    // An answer to what is not its own any more is nobody's.
    old.answer(&sent[0], 200);
    assert_eq!(proxy.sum(), [0, 0, 0, 3, 0]);
    let tick = old.tick();
    assert_eq!((tick.calls, tick.done), (vec![], true));
    calls.iter().for_each(|call| new.answer(call, 200));
    assert_eq!((proxy.sum(), proxy.stat("taken_over")), ([3, 0, 0, 0, 0], 3));
}

#[test]
fn what_is_under_way_is_sent_again_unless_its_answer_comes() {
    for comes in [true, false] {
        let proxy = Proxy::default();
        let (mut old, mut new) = (proxy.instance(BEFORE), proxy.instance(AFTER));
        old.serve(5);
        proxy.pass(1);
        let [sent] = &old.calls()[..] else { panic!() };
        assert!(!old.go());
        assert_eq!(proxy.sum(), [0, 0, 0, 0, 5]);
        if comes {
            old.answer(sent, 200);
            assert_eq!((proxy.sum(), proxy.held()), ([5, 0, 0, 0, 0], 0));
        }
        proxy.pass(LEASE);
        let calls = new.calls();
        assert_eq!(calls.len(), usize::from(!comes));
        for call in &calls {
            assert_eq!(call.body, sent.body, "the same again");
            new.answer(call, 200);
        }
        assert_eq!(proxy.sum(), [5, 0, 0, 0, 0]);
    }
}

#[test]
fn of_many_workers_one_takes_each_batch() {
    let proxy = Proxy::default();
    let mut old: Vec<_> = (0..8).map(|_| proxy.instance(BEFORE)).collect();
    let mut new: Vec<_> = (0..8).map(|_| proxy.instance(AFTER)).collect();
    for instance in &mut old {
        instance.serve(600);
        assert!(!instance.go());
    }
    drop(old);
    proxy.pass(LEASE);
    let mut calls = 0;
    // Eight may be under way from one, and sixteen batches wait.
    for _ in 0..2 {
        for instance in &mut new {
            for call in instance.calls() {
                calls += 1;
                instance.answer(&call, 200);
            }
        }
    }
    assert_eq!((calls, proxy.sum()), (16, [4_800, 0, 0, 0, 0]));
    assert_eq!((proxy.stat("taken_over"), proxy.held()), (4_800, 0));
}

#[test]
fn one_change_after_the_other_loses_nothing() {
    let proxy = Proxy::default();
    let mut last = proxy.instance(BEFORE);
    for _ in 0..20 {
        let next = proxy.instance(BEFORE);
        last.serve(10);
        last.go();
        last = next;
        proxy.pass(1);
        for call in last.calls() {
            last.answer(&call, 200);
        }
    }
    proxy.pass(LEASE);
    for call in last.calls() {
        last.answer(&call, 200);
    }
    assert_eq!(proxy.sum(), [200, 0, 0, 0, 0]);
}

/// Spans, and the headers that go with them, are for one collector alone.
#[test]
fn another_destination_gets_nothing_and_counts_it() {
    for export in [
        r#"{"cluster": "other"}"#,
        r#"{"cluster": "collector", "path": "/v2"}"#,
        r#"{"cluster": "collector", "authority": "other"}"#,
        r#"{"cluster": "collector", "protocol": "zipkin"}"#,
        r#"{"cluster": "collector", "compression": "gzip"}"#,
        r#"{"cluster": "collector", "headers": {"x-scope-orgid": "b"}}"#,
        r#"{"cluster": ["collector", "other"]}"#,
    ] {
        let proxy = Proxy::default();
        let config = format!(r#"{{"export": {export}}}"#);
        let (mut old, mut new) = (proxy.instance(BEFORE), proxy.instance(&config));
        old.serve(3);
        old.go();
        drop(old);
        proxy.pass(OVER - 1);
        assert_eq!((new.calls(), proxy.sum()), (vec![], [0, 0, 0, 0, 3]), "{export}");
        proxy.pass(1);
        assert_eq!((new.calls(), proxy.sum()), (vec![], [0, 3, 0, 0, 0]), "{export}");
        assert_eq!(proxy.held(), 0);
    }
}

/// What does not change where spans go and how they look there.
#[test]
fn other_bounds_and_pauses_are_no_other_destination() {
    let proxy = Proxy::default();
    let export = r#"{"export": {"cluster": "collector", "timeout": "1s",
        "batch": {"max_spans": 1}, "queue": {"max_spans": 3}, "retry": {"max_elapsed": "9s"}}}"#;
    let (mut old, mut new) = (proxy.instance(BEFORE), proxy.instance(export));
    old.serve(3);
    old.go();
    drop(old);
    proxy.pass(LEASE);
    let [call] = &new.calls()[..] else { panic!() };
    new.answer(call, 200);
    assert_eq!(proxy.sum(), [3, 0, 0, 0, 0]);
}

#[test]
fn an_instance_that_exports_nothing_counts_what_was_left() {
    let proxy = Proxy::default();
    let (mut old, mut new) = (proxy.instance(BEFORE), proxy.instance("{}"));
    old.serve(2);
    proxy.pass(1);
    assert_eq!(old.calls().len(), 1);
    old.serve(3);
    old.go();
    drop(old);
    proxy.pass(OVER);
    assert_eq!(new.calls(), []);
    assert_eq!((proxy.sum(), proxy.held()), ([0, 5, 0, 0, 0], 0));
}

#[test]
fn there_must_be_room_in_the_queue() {
    let proxy = Proxy::default();
    let small = r#"{"export": {"cluster": "collector", "batch": {"max_spans": 4},
        "queue": {"max_spans": 4}}}"#;
    let (mut old, mut new) = (proxy.instance(BEFORE), proxy.instance(small));
    old.serve(3);
    old.go();
    drop(old);
    new.serve(2);
    proxy.pass(LEASE);
    let [own] = &new.calls()[..] else { panic!() };
    new.answer(own, 200);
    let [call] = &new.calls()[..] else { panic!() };
    new.answer(call, 200);
    assert_eq!(proxy.sum(), [5, 0, 0, 0, 0]);
}

/// Spans of 16 MiB at most are left, and no more than 256 batches; the rest is counted.
#[test]
fn what_has_no_room_is_counted_if_its_owner_does_not_wake() {
    let config = r#"{"export": {"cluster": "collector", "batch": {"max_spans": 1}}}"#;
    for wakes in [false, true] {
        let proxy = Proxy::default();
        let (mut old, mut new) = (proxy.instance(config), proxy.instance(config));
        old.serve(300);
        old.go();
        let mut all = vec![&mut new];
        if wakes {
            proxy.pass(1);
            all.push(&mut old);
        } else {
            proxy.pass(LEASE);
        }
        for _ in 0..50 {
            for instance in &mut all {
                for call in instance.calls() {
                    instance.answer(&call, 200);
                }
            }
        }
        let expected = if wakes { [300, 0, 0, 0, 0] } else { [256, 44, 0, 0, 0] };
        assert_eq!((proxy.sum(), proxy.held()), (expected, 0));
    }
}

/// Any plugin may write there.
#[test]
fn strangers_bytes_are_not_sent() {
    let proxy = Proxy::default();
    let (mut old, mut new) = (proxy.instance(BEFORE), proxy.instance(AFTER));
    old.serve(3);
    old.go();
    drop(old);
    let body = "meshweft/1/handover/0";
    let (mut bytes, _) = proxy.shared.get(body).unwrap();
    bytes[20] ^= 1;
    proxy.shared.set(body, &bytes, 0).unwrap();
    proxy.pass(LEASE);
    assert_eq!((new.calls(), proxy.sum()), (vec![], [0, 3, 0, 0, 0]));
    // A list that is none does no harm either, and is written over.
    for garbage in [&b"x"[..], &[0xff; 8 + 39], &[0; 100_000]] {
        proxy.shared.set("meshweft/1/handover", garbage, 0).unwrap();
        assert_eq!(new.calls(), []);
    }
    new.serve(1);
    new.go();
    drop(new);
    let mut last = proxy.instance(AFTER);
    proxy.pass(LEASE);
    assert_eq!(last.calls().len(), 1);
}
