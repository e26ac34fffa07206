//! An application that forwards nothing behind a real Envoy with two workers: what is joined is
//! joined rightly. How much is joined, by load, `make bench-correlation` says.
#![allow(clippy::panic, reason = "a test says where it broke")]

use meshweft_lab::inference::{Behaviour, Bench};
use serde_json::json;

/// One at a time every call is told apart, whichever worker serves it.
#[tokio::test(flavor = "multi_thread")]
async fn single_joins_all_calls_of_lone_requests() {
    let infer = json!({"headers": [], "infer": "single"});
    let mut bench = Bench::start(Behaviour::Parallel, &infer, 1).await;
    let score = bench.one_by_one(40).await;
    assert_eq!((score.calls, score.joined, score.right), (120.0, 120.0, 120.0));
}

/// With many at once `single` joins none to the wrong one.
#[tokio::test(flavor = "multi_thread")]
async fn single_joins_rightly_or_not_at_all() {
    let infer = json!({"headers": [], "infer": "single"});
    let mut bench = Bench::start(Behaviour::Sequence, &infer, 2).await;
    let score = bench.load(3.0, 120).await;
    assert_eq!((score.calls, score.joined), (240.0, score.right));
}

/// `best` joins lone requests once it has learned, and tells the candidates of what is ambiguous.
#[tokio::test(flavor = "multi_thread")]
async fn best_joins_lone_requests_and_links_the_others() {
    let infer = json!({"headers": [], "infer": "best"});
    let mut bench = Bench::start(Behaviour::Sequence, &infer, 3).await;
    bench.quiet(80).await;
    let alone = bench.one_by_one(30).await;
    assert_eq!(alone.joined, alone.right);
    assert!(alone.joined >= 0.8 * alone.calls, "{alone:?}");
    let busy = bench.load(8.0, 120).await;
    assert_eq!(busy.calls, 240.0);
    // Each call that was not joined names candidates, but for those that nobody is likely for.
    assert!(busy.joined + busy.linked >= 0.9 * busy.calls, "{busy:?}");
}
