//! How the cost of a request grows: fuel, about one an instruction, of the module in the emulated
//! host, so that a curve is the same on every machine.

use meshweft_host_tests::{Exchange, HostEmulator, Module, request};
use serde_json::{Value, json};

use super::chart::Line;

/// A thing of which there may be many.
#[derive(Clone, Copy, Debug)]
pub struct Series {
    /// What it is, and the name of its file.
    pub name: &'static str,
    /// How many.
    counts: &'static [usize],
    /// The cost of a request with so many: of one that is recorded, and of one that is not.
    cost: fn(&Module, usize, rate: f64) -> u64,
}

/// All series.
pub const SERIES: [Series; 7] = [
    Series { name: "rules", counts: &[1, 10, 100, 1_000], cost: rules },
    Series { name: "route templates", counts: &[1, 10, 100, 1_000], cost: routes },
    Series { name: "configured attributes", counts: &[1, 5, 10, 20, 50], cost: attributes },
    Series { name: "request headers", counts: &[5, 10, 25, 50, 100], cost: headers },
    Series { name: "open requests", counts: &[1, 10, 100, 1_000, 10_000], cost: open },
    Series { name: "bytes of the path", counts: &[10, 100, 1_000, 4_000], cost: path },
    Series {
        name: "bytes of a recorded header",
        counts: &[16, 256, 1_024, 4_096, 16_384],
        cost: header,
    },
];

impl Series {
    /// A line for requests that are recorded, and one for those that are not.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "figures for a chart")]
    pub fn lines(&self, module: &Module) -> Vec<Line> {
        let line = |(name, rate): (&str, f64)| {
            let point =
                |count: &usize| (*count as f64, (self.cost)(module, *count, rate) as f64 / 1e3);
            Line { name: name.to_owned(), points: self.counts.iter().map(point).collect() }
        };
        [("sampled", 1.0), ("not sampled", 0.0)].map(line).into()
    }
}

/// Requests of which the mean is taken.
const REQUESTS: u64 = 64;

fn boot(module: &Module, rate: f64, more: Value) -> (HostEmulator, u32) {
    let mut config = super::mode::configuration(json!({"sampling": {"rate": rate}}));
    crate::mesh::merge(&mut config, more);
    HostEmulator::boot(module, &config.to_string()).expect("the module starts")
}

fn mean(host: &mut HostEmulator, root: u32, exchange: &Exchange) -> u64 {
    let serve = |host: &mut HostEmulator| {
        host.serve(root, exchange.clone()).expect("a request is served");
    };
    (0..3).for_each(|_| serve(host));
    let before = host.usage();
    (0..REQUESTS).for_each(|_| serve(host));
    host.usage().since(&before).fuel / REQUESTS
}

fn rules(module: &Module, count: usize, rate: f64) -> u64 {
    let more = json!({"sampling": {"rules": super::mode::rules(0..count)}});
    let (mut host, root) = boot(module, rate, more);
    mean(&mut host, root, &request())
}

fn routes(module: &Module, count: usize, rate: f64) -> u64 {
    let routes: Vec<_> = (0..count).map(|n| format!("/api/v{}/{n}/{{id}}", n % 7)).collect();
    let (mut host, root) = boot(module, rate, json!({"spans": {"routes": routes}}));
    mean(&mut host, root, &request())
}

fn attributes(module: &Module, count: usize, rate: f64) -> u64 {
    let attribute = |n: usize| json!({"name": format!("a{n}"), "value": "v"});
    let attributes: Vec<_> = (0..count).map(attribute).collect();
    let (mut host, root) = boot(module, rate, json!({"spans": {"attributes": attributes}}));
    mean(&mut host, root, &request())
}

fn headers(module: &Module, count: usize, rate: f64) -> u64 {
    let (mut host, root) = boot(module, rate, json!({}));
    let there = request().request_headers.map_or(0, |headers| headers.len());
    let more = there..count.max(there);
    let exchange = more.fold(request(), |r, n| r.with_header(&format!("x-header-{n}"), "a value"));
    mean(&mut host, root, &exchange)
}

fn open(module: &Module, count: usize, rate: f64) -> u64 {
    let (mut host, root) = boot(module, rate, json!({}));
    for _ in 0..count {
        let id = host.exchange(request());
        let stream = host.create_stream(root, id).expect("a context");
        host.request_headers(stream).expect("headers");
    }
    mean(&mut host, root, &request())
}

fn path(module: &Module, count: usize, rate: f64) -> u64 {
    let (mut host, root) = boot(module, rate, json!({}));
    let mut exchange = request();
    if let Some(headers) = &mut exchange.request_headers {
        headers.retain(|(name, _)| name != b":path");
    }
    mean(&mut host, root, &exchange.with_header(":path", format!("/{}", "p".repeat(count - 1))))
}

/// The size of a span: there is no other text in it that users may make as long as they like.
fn header(module: &Module, count: usize, rate: f64) -> u64 {
    let attribute = json!({"name": "note", "request_header": "x-note", "as": "string"});
    let spans = json!({"attributes": [attribute], "max_value_length": 65_536});
    let (mut host, root) = boot(module, rate, json!({"spans": spans}));
    mean(&mut host, root, &request().with_header("x-note", "n".repeat(count)))
}
