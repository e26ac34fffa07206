//! Services with SkyWalking's own agent before and behind the filter.

use std::collections::BTreeSet;

use meshweft_lab::backends::otelcol::OtelCollector;
use meshweft_lab::backends::otlp::hex;
use meshweft_lab::backends::shop::HTTP;
use meshweft_lab::backends::skywalking::Agent;
use meshweft_lab::client::{Client, Version};
use meshweft_lab::mesh::Options;
use serde_json::json;

/// A client and an application with SkyWalking's agent, the filter between them and behind them:
/// one trace to either, by SkyWalking's text and by the Collector's id.
#[tokio::test(flavor = "multi_thread")]
async fn skywalkings_agent_and_the_filter_go_on_from_each_other() {
    let agent = Agent::new();
    let collector = OtelCollector::start().await;
    let relay = HTTP.relay(collector.http(), collector.grpc()).await;
    let formats = json!({"extract": ["skywalking"], "inject": ["skywalking"]});
    let config = json!({"propagation": formats, "correlation": {"headers": []}});
    let lab = HTTP.workload("shop", relay.address(), config, Options::default()).await;
    let client = Client::new(Version::H1);
    let call = async |listener: &str, header: Option<&str>| {
        let headers: Vec<_> = header.map(|text| ("sw8", text.as_bytes())).into_iter().collect();
        let headers = [&headers[..], &[("host", &b"shop:80"[..])]].concat();
        client.get(lab.envoy.listener(listener), "/a", &headers).await.expect("an answer");
        agent.reads(&lab.app.last().one("sw8")).await
    };

    // Of an agent's trace: from the client to the application, which goes on, to the next.
    let client_of_shop = agent.writes(None).await;
    let at_shop = call("inbound", Some(&client_of_shop.header)).await;
    let from_shop = agent.writes(Some(&at_shop.trace_id)).await;
    let at_next = call("outbound", Some(&from_shop.header)).await;
    // Of a trace that the filter begins.
    let of_ours = call("inbound", None).await;

    let names = ["shop", "shop", "GET", "shop:80"].map(str::to_owned);
    for seen in [&at_shop, &at_next, &of_ours] {
        assert!(seen.is_valid, "{seen:?}");
        assert_eq!((&*seen.span_id, &seen.names), ("0", &names));
    }
    assert_eq!(at_shop.trace_id, client_of_shop.trace_id);
    assert_eq!(at_next.trace_id, client_of_shop.trace_id);

    let written = collector.written(3).await;
    assert_eq!(written.len(), 3);
    let span = |seen: &str| {
        let of = |id: &[u8]| seen.starts_with(&hex(id));
        let found = written.iter().find(|whole| of(&whole.span.span_id));
        found.unwrap_or_else(|| panic!("no span is {seen}")).span.clone()
    };
    let [server, next, new] = [&at_shop, &at_next, &of_ours].map(|seen| span(&seen.segment_id));
    assert_eq!((server.kind, next.kind), (2, 3));
    // The agent's ids are 32 digits, which are the Collector's.
    assert_eq!(hex(&server.trace_id), client_of_shop.trace_id);
    assert_eq!(server.trace_id, next.trace_id);
    assert_eq!((hex(&new.trace_id), new.parent_span_id.len()), (of_ours.trace_id, 0));
    // A parent is a span of its caller's segment: each of its own.
    let parents = BTreeSet::from([server.parent_span_id, next.parent_span_id]);
    assert_eq!(parents.iter().map(Vec::len).collect::<Vec<_>>(), [8, 8]);
    lab.envoy.stop().await;
    collector.stop().await;
}
