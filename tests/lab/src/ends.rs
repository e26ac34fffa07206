//! Every way in which an Envoy ends a request.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::config::{cluster, route};
use crate::mesh::Options;

/// An HTTP filter by its type.
#[must_use]
pub fn filter(name: &str, kind: &str, fields: &Value) -> Value {
    let mut config =
        json!({"@type": format!("type.googleapis.com/envoy.extensions.filters.http.{kind}")});
    for (key, value) in fields.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    json!({"name": name, "typed_config": config})
}

/// Routes, filters and clusters that end a request in every way that Envoy has.
#[must_use]
pub fn all_ways_to_end() -> Options {
    let limit = filter(
        "limit",
        "local_ratelimit.v3.LocalRateLimit",
        &json!({
            "stat_prefix": "limit",
            "token_bucket": {"max_tokens": 1, "tokens_per_fill": 1, "fill_interval": "3600s"},
            "filter_enabled": {"default_value": {"numerator": 100}},
            "filter_enforced": {"default_value": {"numerator": 100}},
        }),
    );
    let with = |mut route: Value, key: &str, value: Value| {
        route["route"][key] = value;
        route
    };
    let mut limited = route("/limited", "app");
    limited["typed_per_filter_config"] = json!({"limit": limit["typed_config"]});
    let retries = json!({"retry_on": "5xx", "num_retries": 2, "retry_back_off": {
        "base_interval": "0.001s", "max_interval": "0.002s"}});
    let mut closed = cluster("closed", SocketAddr::from(([127, 0, 0, 1], 1)));
    closed["connect_timeout"] = json!("0.5s");
    let mut empty = closed.clone();
    empty["name"] = json!("empty");
    empty["load_assignment"] = json!({"cluster_name": "empty"});
    Options {
        routes: vec![
            json!({"name": "no", "match": {"path": "/direct"}, "direct_response": {"status": 418}}),
            limited,
            route("/closed", "closed"),
            route("/empty", "empty"),
            with(route("/brief", "app"), "timeout", json!("0.2s")),
            with(route("/retried", "app"), "retry_policy", retries),
            json!({"match": {"prefix": "/nowhere"}, "route": {"cluster_header": "x-cluster"}}),
            json!({"match": {"prefix": "/moved"}, "redirect": {"path_redirect": "/"}}),
        ],
        before: vec![
            filter(
                "fault",
                "fault.v3.HTTPFault",
                &json!({"abort": {
                "header_abort": {}, "percentage": {"numerator": 100}}}),
            ),
            filter("limit", "local_ratelimit.v3.LocalRateLimit", &json!({"stat_prefix": "limit"})),
        ],
        after: vec![filter(
            "rbac",
            "rbac.v3.RBAC",
            &json!({"rules": {"action": "DENY",
            "policies": {"p": {"principals": [{"any": true}],
                "permissions": [{"url_path": {"path": {"prefix": "/denied"}}}]}}}}),
        )],
        clusters: vec![closed, empty],
        manager: json!({
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "delayed_close_timeout": "0.05s",
        }),
        ..Options::default()
    }
}
