//! One correct span for every kind of exchange, through a real Envoy.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says where it broke")]

use meshweft_lab::client::{Client, Version};
use meshweft_lab::mesh::{Workload, exporting};
use serde_json::json;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00f067aa0ba902b7";

#[tokio::test(flavor = "multi_thread")]
async fn the_forwarded_parent_id_is_the_exported_span_id() {
    let lab = Workload::start(&exporting(json!({}))).await;
    let client = Client::new(Version::H1);
    let incoming = format!("00-{TRACE}-{PARENT}-01");
    for (listener, kind) in [("inbound", "SERVER"), ("outbound", "CLIENT"), ("gateway", "SERVER")] {
        for headers in [vec![], vec![("traceparent", incoming.as_bytes())]] {
            lab.collector.clear();
            let answer = client.get(lab.envoy.listener(listener), "/a?secret=1", &headers).await;
            assert_eq!(answer.expect("an answer").status, 200);
            let spans = lab.collector.wait_for(1).await;
            let [span] = &*spans else { panic!("{spans:#?}") };
            let forwarded = lab.app.last().one("traceparent");
            let flags = if headers.is_empty() { "03" } else { "01" };
            assert_eq!(forwarded, format!("00-{}-{}-{flags}", span.trace_id, span.span_id));
            assert_eq!((span.kind.as_str(), span.name.as_str(), span.error), (kind, "GET", false));
            if !headers.is_empty() {
                assert_eq!((&*span.trace_id, &*span.parent_id), (TRACE, PARENT));
            }
            assert!(span.start > 1_700_000_000_000_000_000 && span.end > span.start, "{span:#?}");
            assert_eq!(span.attribute("http.response.status_code"), "200");
        }
    }
    lab.envoy.stop().await;
}
