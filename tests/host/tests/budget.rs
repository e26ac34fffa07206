//! What a request costs: hostcalls, which are the same with every compiler, and fuel, which is
//! shown only.
#![expect(clippy::unwrap_used, reason = "test code")]

mod common;

use common::{boot, boot_with};
use meshweft_host_tests::{Exchange, HostEmulator, Usage, request};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const DROPPED_PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

/// What one request spends when the instance has seen others.
fn spent(host: &mut HostEmulator, root: u32, kind: &str, exchange: &Exchange) -> Usage {
    for _ in 0..3 {
        host.serve(root, exchange.clone()).unwrap();
    }
    let before = host.usage();
    host.serve(root, exchange.clone()).unwrap();
    let spent = host.usage().since(&before);
    eprintln!("{kind}: fuel {}, hostcalls {} {:?}", spent.fuel, spent.total(), spent.hostcalls);
    spent
}

fn calls(usage: &Usage) -> Vec<(&str, u64)> {
    usage.hostcalls.iter().map(|(name, count)| (name.as_str(), *count)).collect()
}

/// What every request pays: is another instance on it, what are its headers, leave the trace id,
/// and at the end the clock.
#[test]
fn hostcalls_of_a_request() {
    let (mut host, root) = boot();
    let kinds = [
        ("sampled", request()),
        ("continued", request().with_header("traceparent", PARENT)),
        ("unsampled", request().with_header("traceparent", DROPPED_PARENT)),
    ];
    let [sampled, continued, unsampled] =
        kinds.map(|(kind, exchange)| spent(&mut host, root, kind, &exchange));
    let (mut silent, silent_root) = boot_with("");
    let passed = spent(&mut silent, silent_root, "passed through", &request());
    assert_eq!(calls(&sampled), []);
    assert_eq!(calls(&continued), []);
    assert_eq!(calls(&unsampled), []);
    assert_eq!(calls(&passed), []);
}
