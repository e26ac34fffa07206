//! Pieces of Envoy configuration, as JSON that tests put together and change.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::paths;

/// The name of the collector's cluster.
pub const COLLECTOR: &str = "otel-collector";

/// The name of the cluster that reaches the same over HTTP/2.
pub const COLLECTOR_H2: &str = "otel-collector-h2";

/// A line of the lab's access logs; `-` stands for what is not there.
const ACCESS_LOG: &str = "%FILTER_STATE(wasm.meshweft.trace_id:PLAIN)% \
    %FILTER_STATE(wasm.meshweft.span_id:PLAIN)% %FILTER_STATE(wasm.meshweft.sampled:PLAIN)% \
    %RESPONSE_CODE% %RESPONSE_FLAGS%\n";

/// A listener's traffic direction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// To the workload.
    Inbound,
    /// From the workload.
    Outbound,
    /// Neither: a gateway.
    Unspecified,
}

impl Direction {
    const fn name(self) -> &'static str {
        match self {
            Self::Inbound => "INBOUND",
            Self::Outbound => "OUTBOUND",
            Self::Unspecified => "UNSPECIFIED",
        }
    }
}

/// An address on loopback; port 0 lets the kernel choose.
#[must_use]
pub fn loopback(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

/// A cluster with one static endpoint, over HTTP/1.1.
#[must_use]
pub fn cluster(name: &str, to: SocketAddr) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": {"socket_address": {
                "address": to.ip(), "port_value": to.port()}}}}]}]},
    })
}

/// The same over HTTP/2.
#[must_use]
pub fn cluster_h2(name: &str, to: SocketAddr) -> Value {
    let mut cluster = cluster(name, to);
    cluster["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    });
    cluster
}

/// A route of everything below `prefix` to a cluster.
#[must_use]
pub fn route(prefix: &str, cluster: &str) -> Value {
    json!({"match": {"prefix": prefix}, "route": {"cluster": cluster, "timeout": "5s"}})
}

/// The filter with this configuration, as users load it.
#[must_use]
pub fn meshweft(config: &Value) -> Value {
    json!({"name": "meshweft", "typed_config": wasm(config)})
}

/// The filter's `typed_config`.
#[must_use]
pub fn wasm(config: &Value) -> Value {
    wasm_of(&paths::module(), &config.to_string())
}

/// The `typed_config` of a filter that is this module.
#[must_use]
pub fn wasm_of(module: &Path, configuration: &str) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
        "config": {
            "name": "meshweft",
            "root_id": "meshweft",
            "failure_policy": "FAIL_OPEN",
            "vm_config": {
                "runtime": "envoy.wasm.runtime.v8",
                "code": {"local": {"filename": module}},
                "environment_variables": {"key_values": {"LAB_TOKEN": "from-the-environment"}},
            },
            "configuration": {
                "@type": "type.googleapis.com/google.protobuf.StringValue",
                "value": configuration,
            },
        },
    })
}

/// The filter, its configuration read from a file that may be replaced while traffic runs.
#[must_use]
pub fn meshweft_by_ecds(file: &Path) -> Value {
    json!({"name": "meshweft", "config_discovery": {
        "config_source": {
            "path_config_source": {"path": file},
            "resource_api_version": "V3",
        },
        "type_urls": ["type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"],
    }})
}

/// What stands in the file of [`meshweft_by_ecds`].
#[must_use]
pub fn ecds_resource(config: &Value, version: &str) -> Value {
    json!({"version_info": version, "resources": [{
        "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
        "name": "meshweft",
        "typed_config": wasm(config),
    }]})
}

/// An HTTP listener: `filters` stand before the router; a log line per request goes to
/// `access_log`, if given, as `{trace_id} {span_id} {sampled} {code} {flags}`.
#[must_use]
pub fn listener(
    name: &str,
    direction: Direction,
    filters: Vec<Value>,
    routes: Vec<Value>,
    access_log: Option<&Path>,
) -> Value {
    let mut filters = filters;
    filters.push(json!({"name": "envoy.filters.http.router", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}));
    let access_log: Vec<Value> = access_log
        .map(|path| {
            json!({"name": "file", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": path,
                "log_format": {"text_format_source": {"inline_string":
                    ACCESS_LOG}},
            }})
        })
        .into_iter()
        .collect();
    json!({
        "name": name,
        "address": loopback(0),
        "traffic_direction": direction.name(),
        "filter_chains": [{"filters": [{
            "name": "http",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": name,
                "codec_type": "AUTO",
                "access_log": access_log,
                "http_filters": filters,
                "route_config": {"name": name, "virtual_hosts": [
                    {"name": "all", "domains": ["*"], "routes": routes}]},
            },
        }]}],
    })
}

/// A whole bootstrap for a node with this id.
#[must_use]
pub fn bootstrap(node: Value, listeners: Vec<Value>, clusters: Vec<Value>) -> Value {
    json!({
        "node": node,
        "admin": {"address": loopback(0)},
        "static_resources": {"listeners": listeners, "clusters": clusters},
        // Envoy flushes counters to /stats at once; histograms wait for this.
        "stats_flush_interval": "0.2s",
    })
}

/// A plain node.
#[must_use]
pub fn node(id: &str) -> Value {
    json!({"id": id, "cluster": id})
}

/// The metadata by which Istio describes a sidecar's workload.
#[must_use]
pub fn istio_node(name: &str, namespace: &str) -> Value {
    json!({
        "id": format!("sidecar~127.0.0.1~{name}-abc.{namespace}~{namespace}.svc.cluster.local"),
        "cluster": format!("{name}.{namespace}"),
        "metadata": {
            "NAME": format!("{name}-abc"),
            "NAMESPACE": namespace,
            "WORKLOAD_NAME": name,
            "CLUSTER_ID": "Kubernetes",
            "LABELS": {"app": name, "service.istio.io/canonical-name": name},
        },
    })
}
