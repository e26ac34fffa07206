//! The bootstrap of an Envoy that Istio steers, with the node as Istio's agent describes it.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

use super::Release;
use crate::config::loopback;

/// What a proxy is for, as its node's id says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Beside a workload.
    Sidecar,
    /// A gateway.
    Router,
    /// A waypoint of an ambient mesh.
    Waypoint,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Router => "router",
            Self::Waypoint => "waypoint",
        }
    }
}

/// A proxy and its workload.
#[derive(Clone, Debug)]
pub struct Proxy<'a> {
    /// What it is for.
    pub kind: Kind,
    /// The name of the workload.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// The address of its pod.
    pub address: Ipv4Addr,
    /// The labels of its pod.
    pub labels: Value,
}

impl Proxy<'_> {
    /// Its bootstrap: everything else comes from istiod.
    #[must_use]
    pub fn bootstrap(&self, release: Release, istiod: SocketAddr) -> Value {
        let (kind, Self { name, namespace, address, labels, .. }) = (self.kind.name(), self);
        let ads = json!({"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"});
        json!({
            "node": {
                "id": format!("{kind}~{address}~{name}-0.{namespace}~{namespace}.svc.cluster.local"),
                "cluster": format!("{name}.{namespace}"),
                "locality": {"region": "eu-1", "zone": "eu-1a"},
                "metadata": {
                    "NAME": format!("{name}-0"),
                    "NAMESPACE": namespace,
                    "WORKLOAD_NAME": name,
                    "OWNER": format!("kubernetes://apis/apps/v1/namespaces/{namespace}/deployments/{name}"),
                    "SERVICE_ACCOUNT": name,
                    "LABELS": labels,
                    "CLUSTER_ID": "Kubernetes",
                    "MESH_ID": "cluster.local",
                    "NODE_NAME": "node-1",
                    "INSTANCE_IPS": address.to_string(),
                    "INTERCEPTION_MODE": "NONE",
                    "ISTIO_VERSION": release.version(),
                },
            },
            "admin": {"address": loopback(0)},
            "stats_flush_interval": "0.2s",
            "dynamic_resources": {
                "ads_config": {
                    "api_type": "DELTA_GRPC",
                    "transport_api_version": "V3",
                    "set_node_on_first_message_only": true,
                    "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}],
                },
                "lds_config": ads,
                "cds_config": ads,
            },
            "static_resources": {"clusters": [crate::config::cluster_h2("xds-grpc", istiod)]},
        })
    }
}
