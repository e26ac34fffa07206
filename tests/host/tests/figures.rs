//! What a request costs, held against figures in `testdata`: hostcalls, fuel for each compiler,
//! allocations of the core, memory and size of the module. More than 2 % above them fails.
//! `make budget` writes them anew; what changed shows in the diff, and a commit says why.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code"
)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::{env, fs};

use common::boot_with;
use meshweft_core::config::Config;
use meshweft_core::model::{Headers, MonoNanos, Shared, SharedError, UnixNanos};
use meshweft_core::plugin::Plugin;
use meshweft_core::stream::Stream;
use meshweft_host_tests::{Exchange, Module, path, request};
use rand::SeedableRng;
use rand::rngs::SmallRng;

/// If set, figures are written and not compared.
const WRITE: &str = "MESHWEFT_BUDGET_WRITE";

/// What a figure may grow by, in percent.
const ROOM: u64 = 2;

/// The same for a compiler of which there are no figures, over the largest of the others.
const ROOM_OF_STRANGERS: u64 = 15;

type Figures = BTreeMap<String, u64>;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const DROPPED_PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

/// The kinds of requests: name, fields of the configuration, `traceparent`. Correlation, which is
/// on by default, has kinds of its own.
const KINDS: [(&str, &str, Option<&str>); 9] = [
    ("sampled", r#""sampling": {"rate": 1}, "correlation": {"headers": []}"#, None),
    (
        "sampled, continued",
        r#""sampling": {"rate": 0}, "correlation": {"headers": []}"#,
        Some(PARENT),
    ),
    ("not sampled", r#""sampling": {"rate": 0}, "correlation": {"headers": []}"#, None),
    (
        "not sampled, continued",
        r#""sampling": {"rate": 1}, "correlation": {"headers": []}"#,
        Some(DROPPED_PARENT),
    ),
    (
        "not sampled, might be kept",
        r#""sampling": {"rate": 0, "keep": {"errors": true}}, "correlation": {"headers": []}"#,
        None,
    ),
    (
        "not sampled, asked by patterns",
        r#""sampling": {"rate": 0, "rules": [
            {"name": "a", "rate": 1, "match": {"path": {"regex": "(?i)/(cart|orders)/\\w+/items"}}},
            {"name": "b", "rate": 1, "match": {"headers": {"user-agent": {"contains": "curl"}}}}
        ]}, "correlation": {"headers": []}"#,
        None,
    ),
    (
        "sampled, redacted",
        r#""sampling": {"rate": 1}, "correlation": {"headers": []}, "spans": {"redact": [
            {"pattern": "\\b[0-9]{2,}\\b"}, {"pattern": "[\\w.+-]+@[\\w-]+\\.[a-z]+"}
        ]}"#,
        None,
    ),
    ("sampled, correlated", r#""sampling": {"rate": 1}"#, None),
    ("not sampled, correlated", r#""sampling": {"rate": 0}"#, None),
];

/// The configuration of a kind, and its request.
fn kind(fields: &str, parent: Option<&str>) -> (String, Exchange) {
    let config = format!(
        r#"{{"service": {{"name": "checkout"}}, "export": {{"cluster": "otel-collector"}}, {fields}}}"#
    );
    let exchange =
        parent.into_iter().fold(request(), |r, value| r.with_header("traceparent", value));
    (config, exchange)
}

/// The mean of as many requests as amortize what grows by doubling.
const REQUESTS: u32 = 128;

#[test]
fn hostcalls_of_a_request() {
    let mut found = BTreeMap::new();
    for (name, fields, parent) in KINDS {
        let (config, exchange) = kind(fields, parent);
        let (mut host, root) = boot_with(&config);
        host.serve(root, exchange.clone()).unwrap();
        let before = host.usage();
        host.serve(root, exchange).unwrap();
        let spent = host.usage().since(&before).hostcalls;
        found.insert(format!("{name}: all"), spent.values().sum());
        found.extend(spent.into_iter().map(|(call, count)| (format!("{name}: {call}"), count)));
    }
    compare("hostcalls.json", None, &found);
}

#[test]
fn fuel_of_a_request() {
    let mut found = BTreeMap::new();
    for (name, fields, parent) in KINDS {
        let (config, exchange) = kind(fields, parent);
        let (mut host, root) = boot_with(&config);
        for _ in 0..3 {
            host.serve(root, exchange.clone()).unwrap();
        }
        let before = host.usage();
        for _ in 0..REQUESTS {
            host.serve(root, exchange.clone()).unwrap();
        }
        found.insert(name.to_owned(), host.usage().since(&before).fuel / u64::from(REQUESTS));
    }
    compare("fuel.json", Some(&compiler()), &found);
}

#[test]
fn size_and_memory() {
    const FULL: usize = 8_192;
    let (config, exchange) =
        kind(r#""sampling": {"rate": 1}, "correlation": {"headers": []}"#, None);
    let (mut host, root) = boot_with(&config);
    host.serve(root, exchange.clone()).unwrap();
    let idle = host.memory() as u64;
    for _ in 0..FULL {
        host.serve(root, exchange.clone()).unwrap();
    }
    host.tick(root).unwrap();
    let full = host.memory() as u64;
    let bytes = fs::metadata(Module::path()).unwrap().len();
    assert!(idle <= 4 << 20, "{idle} bytes of memory for a worker without load");
    assert!(full <= 24 << 20, "{full} bytes of memory with a full queue of the default size");
    let found = [("module", bytes), ("memory, idle", idle), ("memory, full queue", full)];
    let found = found.map(|(name, bytes)| (name.to_owned(), bytes)).into_iter().collect();
    compare("size.json", Some(&compiler()), &found);
}

/// What the core allocates for a request, natively: how often, and how many bytes.
#[test]
fn allocations_of_a_request() {
    let mut found = BTreeMap::new();
    for (name, fields, parent) in KINDS {
        let (config, exchange) = kind(fields, parent);
        let config = Config::parse(config.as_bytes(), &|_| None).unwrap();
        let mut plugin = Plugin::new(config, None, &|_| None);
        let mut rng = SmallRng::seed_from_u64(1);
        let mut serve = || {
            let mut stream = Stream::default();
            let (host, shared) = (Told::of(&exchange), Alone);
            let (mut times, mut bytes) = (0, 0);
            let mut counted = |count: (u64, u64)| {
                times += count.0;
                bytes += count.1;
            };
            counted(allocated(|| {
                drop(stream.on_request_headers(&mut plugin, &host, &shared, &mut rng));
            }));
            counted(allocated(|| {
                drop(stream.on_response_headers(&plugin, &host, &shared, UnixNanos::default));
            }));
            counted(allocated(|| drop(stream.on_log(&mut plugin, &host, &shared, &mut rng))));
            (times, bytes)
        };
        let all: Vec<_> = (0..REQUESTS).map(|_| serve()).collect();
        let mean = |sum: u64| sum / u64::from(REQUESTS);
        found.insert(format!("{name}: times"), mean(all.iter().map(|(times, _)| times).sum()));
        found.insert(format!("{name}: bytes"), mean(all.iter().map(|(_, bytes)| bytes).sum()));
    }
    compare("allocations.json", None, &found);
}

/// Holds `found` against the figures of a file, those of a compiler if it has several.
#[track_caller]
fn compare(file: &str, compiler: Option<&str>, found: &Figures) {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/testdata").join(file);
    let text = fs::read_to_string(&file).unwrap_or_else(|_| "{}".to_owned());
    // Without compilers there is one set, under no name.
    let mut sets: BTreeMap<String, Figures> = match compiler {
        Some(_) => serde_json::from_str(&text).unwrap(),
        None => BTreeMap::from([(String::new(), serde_json::from_str(&text).unwrap())]),
    };
    let own = compiler.unwrap_or_default();
    eprintln!("{} {own}: {found:#?}", file.display());
    if env::var_os(WRITE).is_some() {
        sets.insert(own.to_owned(), found.clone());
        let text = match compiler {
            Some(_) => serde_json::to_string_pretty(&sets),
            None => serde_json::to_string_pretty(found),
        };
        fs::write(&file, text.unwrap() + "\n").unwrap();
        return;
    }
    let (set, room) = match sets.remove(own) {
        Some(set) => (set, ROOM),
        None => (largest(sets), ROOM_OF_STRANGERS),
    };
    let more: Vec<_> = found
        .iter()
        .filter_map(|(name, now)| {
            let was = set.get(name).copied().unwrap_or(0);
            (now * 100 > was * (100 + room)).then(|| format!("{name}: {was} -> {now}"))
        })
        .collect();
    assert!(
        more.is_empty(),
        "{own} costs more than {room} % above {}: {more:#?}\n\
        If that is what it is worth, `make budget` writes the figures anew.",
        file.display()
    );
}

fn largest(sets: BTreeMap<String, Figures>) -> Figures {
    let mut largest = Figures::new();
    for (name, figure) in sets.into_values().flatten() {
        let most = largest.entry(name).or_default();
        *most = figure.max(*most);
    }
    largest
}

/// The compiler of the module, by its own word.
fn compiler() -> String {
    let bytes = fs::read(Module::path()).unwrap();
    // The name of a tool in the section `producers`, then a byte with the length of its version.
    let at = bytes.windows(6).rposition(|six| six == b"\x05rustc").unwrap();
    let (length, rest) = bytes[at + 6..].split_first().unwrap();
    let version = str::from_utf8(&rest[..usize::from(*length)]).unwrap();
    format!("rustc {}", version.split(' ').next().unwrap_or_default())
}

/// An exchange as the core reads it.
struct Told<'a> {
    exchange: &'a Exchange,
    headers: Headers,
}

impl<'a> Told<'a> {
    fn of(exchange: &'a Exchange) -> Self {
        let headers = exchange.request_headers.iter().flatten();
        let headers = headers.map(|(name, value)| (name.as_slice(), value.as_slice())).collect();
        Self { exchange, headers }
    }
}

impl meshweft_core::Exchange for Told<'_> {
    fn request_headers(&self) -> Headers {
        self.headers.clone()
    }

    fn property(&self, segments: &[&str]) -> Option<Vec<u8>> {
        // Building the path is the adapter's affair.
        let path = uncounted(|| path(segments));
        let Exchange { properties, final_properties, .. } = self.exchange;
        final_properties.get(&path).or_else(|| properties.get(&path)).cloned()
    }
}

/// A worker that is alone, in a proxy whose time stands still.
struct Alone;

impl Shared for Alone {
    fn get(&self, _: &str) -> Option<(Vec<u8>, u32)> {
        None
    }
    fn set(&self, _: &str, _: &[u8], _: u32) -> Result<(), SharedError> {
        Err(SharedError::Unavailable)
    }
    fn now(&self) -> MonoNanos {
        MonoNanos(1)
    }
}

thread_local! {
    /// How often this thread has allocated, and how many bytes; `None`: not counted.
    static ALLOCATED: Cell<Option<(u64, u64)>> = const { Cell::new(None) };
}

/// What `work` allocates, on this thread.
fn allocated(work: impl FnOnce()) -> (u64, u64) {
    ALLOCATED.set(Some((0, 0)));
    work();
    ALLOCATED.take().unwrap()
}

fn uncounted<T>(work: impl FnOnce() -> T) -> T {
    let before = ALLOCATED.take();
    let value = work();
    ALLOCATED.set(before);
    value
}

struct Counting;

impl Counting {
    fn count(size: usize) {
        if let Some((times, bytes)) = ALLOCATED.get() {
            ALLOCATED.set(Some((times + 1, bytes + size as u64)));
        }
    }
}

#[expect(unsafe_code, reason = "an allocator, which hands everything on to the system's")]
// SAFETY: each call goes on as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size());
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(block, layout) }
    }
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count(size);
        // SAFETY: the caller's promise is the same.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
