//! The resource: who the spans are from (OpenTelemetry semantic conventions, resource).

use prost::Message;
use prost_types::value::Kind;
use prost_types::{Struct, Value};

use super::Resource;
use crate::config::{Scalar, Service};
use crate::propagation::percent_decode;

/// What is used of `envoy.config.core.v3.Node`.
#[derive(Clone, PartialEq, Message)]
pub struct Node {
    /// Istio's has four parts, separated by `~`.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The service cluster that the bootstrap names.
    #[prost(string, tag = "2")]
    pub cluster: String,
    /// Free form; Istio describes the workload here.
    #[prost(message, optional, tag = "3")]
    pub metadata: Option<Struct>,
    /// Where the proxy runs.
    #[prost(message, optional, tag = "4")]
    pub locality: Option<Locality>,
}

/// What is used of `envoy.config.core.v3.Locality`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Locality {
    /// The cloud region.
    #[prost(string, tag = "1")]
    pub region: String,
    /// The availability zone.
    #[prost(string, tag = "2")]
    pub zone: String,
}

impl Node {
    /// The node that the host describes in `xds.node`; an unreadable one tells nothing.
    #[must_use]
    pub fn from_property(bytes: &[u8]) -> Self {
        Self::decode(bytes).unwrap_or_default()
    }

    /// Whether the proxy stands alone: Istio's gateways and waypoints have no workload behind them.
    #[must_use]
    pub fn is_gateway(&self) -> bool {
        self.id.starts_with("router~") || self.id.starts_with("waypoint~")
    }

    fn text(&self, key: &str) -> Option<&str> {
        text(self.metadata.as_ref()?, key)
    }

    /// What the pod belongs to, with the kind's attribute: Istio knows it by the path under which
    /// Kubernetes has it.
    fn owner(&self) -> Option<(&'static str, &str)> {
        let path = self.text("OWNER")?.strip_prefix("kubernetes://apis/")?;
        let mut steps = path.rsplit('/');
        let name = steps.next().filter(|name| !name.is_empty())?;
        let kind = steps.next()?;
        OWNERS.iter().find(|(owners, _)| *owners == kind).map(|(_, attribute)| (*attribute, name))
    }

    fn label(&self, key: &str) -> Option<&str> {
        match &self.metadata.as_ref()?.fields.get("LABELS")?.kind {
            Some(Kind::StructValue(labels)) => text(labels, key),
            _ => None,
        }
    }
}

/// Kinds of workloads in Kubernetes, in the plural of its paths, and their attributes.
const OWNERS: [(&str, &str); 6] = [
    ("cronjobs", "k8s.cronjob.name"),
    ("daemonsets", "k8s.daemonset.name"),
    ("deployments", "k8s.deployment.name"),
    ("jobs", "k8s.job.name"),
    ("replicasets", "k8s.replicaset.name"),
    ("statefulsets", "k8s.statefulset.name"),
];

/// What Istio calls the revision of a workload that has none.
const NO_REVISION: &str = "latest";

/// Attributes of `OTEL_RESOURCE_ATTRIBUTES` at most.
const MAX_VARIABLE: usize = 128;

/// The resource from the configuration, else the environment, else the node.
///
/// The four fields of `service` win over `service.attributes`, these over `OTEL_SERVICE_NAME`, that
/// over `OTEL_RESOURCE_ATTRIBUTES`, these over what the node says.
#[must_use]
pub fn resource(
    service: &Service,
    node: &Node,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Resource {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let own = |text: Option<&str>| text.map(str::to_owned);
    let locality = node.locality.clone().unwrap_or_default();

    let variable = environment("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    // As the specification says, one that cannot be read is discarded as a whole.
    let variable = attributes(&variable).unwrap_or_default();
    let named = variable.iter().find(|(key, _)| key == "service.name");

    let name = service
        .name
        .clone()
        .or_else(|| environment("OTEL_SERVICE_NAME").filter(|name| !name.is_empty()))
        .or_else(|| named.map(|(_, name)| name.clone()))
        .or_else(|| own(node.label("service.istio.io/canonical-name")))
        .or_else(|| own(node.text("WORKLOAD_NAME")))
        .or_else(|| own(node.label("app.kubernetes.io/name")))
        .or_else(|| own(node.label("app")))
        .or_else(|| some(&node.cluster))
        .unwrap_or_else(|| "unknown_service:envoy".to_owned());
    let namespace = service.namespace.clone().or_else(|| own(node.text("NAMESPACE")));
    let revision = node.label("service.istio.io/canonical-revision");
    let version = service
        .version
        .clone()
        .or_else(|| own(revision.filter(|revision| *revision != NO_REVISION)))
        .or_else(|| own(node.label("app.kubernetes.io/version")))
        .or_else(|| own(node.label("version")));

    let mut resource = Resource::default();
    let mut put = |key: &str, value: Scalar| {
        if resource.attributes.iter().all(|(name, _)| name != key) {
            resource.attributes.push((key.to_owned(), value));
        }
    };
    put("service.name", Scalar::String(name));
    for (key, value) in [
        ("service.namespace", &service.namespace),
        ("service.version", &service.version),
        ("deployment.environment.name", &service.environment),
    ] {
        if let Some(value) = value {
            put(key, Scalar::String(value.clone()));
        }
    }
    for (key, value) in &service.attributes {
        put(key, value.clone());
    }
    for (key, value) in variable {
        put(&key, Scalar::String(value));
    }
    if let Some((key, name)) = node.owner() {
        put(key, Scalar::String(name.to_owned()));
    }
    for (key, value) in [
        ("service.namespace", namespace),
        ("service.version", version),
        ("k8s.pod.name", own(node.text("NAME"))),
        ("k8s.namespace.name", own(node.text("NAMESPACE"))),
        ("k8s.cluster.name", own(node.text("CLUSTER_ID"))),
        ("k8s.node.name", own(node.text("NODE_NAME"))),
        ("cloud.region", some(&locality.region)),
        ("cloud.availability_zone", some(&locality.zone)),
        ("istio.canonical_service", own(node.label("service.istio.io/canonical-name"))),
        ("istio.canonical_revision", own(revision)),
        ("istio.mesh_id", own(node.text("MESH_ID"))),
        ("telemetry.sdk.name", some("meshweft")),
        ("telemetry.sdk.language", some("rust")),
        ("telemetry.sdk.version", some(env!("CARGO_PKG_VERSION"))),
    ] {
        if let Some(value) = value {
            put(key, Scalar::String(value));
        }
    }
    resource
}

/// The attributes in `text`, of which the last of a name counts: `key=value` between commas, the
/// values with percent-encoding (OpenTelemetry, resource SDK).
fn attributes(text: &str) -> Option<Vec<(String, String)>> {
    let mut attributes: Vec<(String, String)> = Vec::new();
    for member in text.split(',').map(str::trim).filter(|member| !member.is_empty()) {
        let (key, value) = member.split_once('=')?;
        let (key, value) = (decoded(key.trim())?, decoded(value.trim())?);
        if key.is_empty() {
            return None;
        }
        attributes.retain(|(earlier, _)| *earlier != key);
        attributes.push((key, value));
    }
    (attributes.len() <= MAX_VARIABLE).then_some(attributes)
}

/// `text` without percent-encoding; `None` if it is not UTF-8 then.
fn decoded(text: &str) -> Option<String> {
    String::from_utf8(percent_decode(text.as_bytes()).into_owned()).ok()
}

fn text<'a>(fields: &'a Struct, key: &str) -> Option<&'a str> {
    match fields.fields.get(key) {
        Some(Value { kind: Some(Kind::StringValue(text)) }) if !text.is_empty() => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn string(text: &str) -> Value {
        Value { kind: Some(Kind::StringValue(text.to_owned())) }
    }

    fn istio() -> Node {
        let labels = [
            ("app", "reviews"),
            ("service.istio.io/canonical-name", "reviews"),
            ("service.istio.io/canonical-revision", "v3"),
        ];
        let labels = labels.map(|(key, value)| (key.to_owned(), string(value)));
        let metadata = [
            ("NAME", string("reviews-v3-abc")),
            ("NAMESPACE", string("shop")),
            ("WORKLOAD_NAME", string("reviews-v3")),
            ("CLUSTER_ID", string("Kubernetes")),
            ("MESH_ID", string("mesh.test")),
            ("OWNER", string("kubernetes://apis/apps/v1/namespaces/shop/deployments/reviews-v3")),
            (
                "LABELS",
                Value {
                    kind: Some(Kind::StructValue(Struct { fields: labels.into_iter().collect() })),
                },
            ),
        ];
        let fields = metadata.map(|(key, value)| (key.to_owned(), value)).into_iter().collect();
        Node {
            id: "sidecar~10.0.0.1~reviews-v3-abc.shop~shop.svc.cluster.local".to_owned(),
            cluster: "reviews.shop".to_owned(),
            metadata: Some(Struct { fields }),
            locality: Some(Locality { region: "eu".to_owned(), zone: "eu-1".to_owned() }),
        }
    }

    fn lines(resource: &Resource) -> Vec<String> {
        resource.attributes.iter().map(|(key, value)| format!("{key}={value:?}")).collect()
    }

    #[track_caller]
    fn name(service: &Service, node: &Node, variable: Option<&str>, expected: &str) {
        let environment =
            |name: &str| variable.filter(|_| name == "OTEL_SERVICE_NAME").map(str::to_owned);
        let resource = resource(service, node, &environment);
        assert_eq!(
            resource.attributes.first(),
            Some(&("service.name".to_owned(), Scalar::String(expected.to_owned())))
        );
    }

    #[test]
    fn istio_describes_the_workload() {
        let node = Node::from_property(&istio().encode_to_vec());
        let mut lines = lines(&resource(&Service::default(), &node, &|_| None));
        lines.truncate(12);
        assert_eq!(
            lines,
            [
                r#"service.name=String("reviews")"#,
                r#"k8s.deployment.name=String("reviews-v3")"#,
                r#"service.namespace=String("shop")"#,
                r#"service.version=String("v3")"#,
                r#"k8s.pod.name=String("reviews-v3-abc")"#,
                r#"k8s.namespace.name=String("shop")"#,
                r#"k8s.cluster.name=String("Kubernetes")"#,
                r#"cloud.region=String("eu")"#,
                r#"cloud.availability_zone=String("eu-1")"#,
                r#"istio.canonical_service=String("reviews")"#,
                r#"istio.canonical_revision=String("v3")"#,
                r#"istio.mesh_id=String("mesh.test")"#,
            ]
        );
    }

    #[test]
    fn the_environment_has_attributes() {
        let env = |name: &str| match name {
            "OTEL_RESOURCE_ATTRIBUTES" => Some(
                "service.name=env, team=pay%6Dents,k8s.pod.name=mine,team=a%2Cb=c,\
                 service.version=9"
                    .to_owned(),
            ),
            _ => None,
        };
        let service = Service {
            attributes: vec![("service.version".to_owned(), Scalar::Int(1))],
            ..Service::default()
        };
        let mut lines = lines(&resource(&service, &istio(), &env));
        lines.truncate(6);
        assert_eq!(
            lines,
            [
                r#"service.name=String("env")"#,
                "service.version=Int(1)",
                r#"k8s.pod.name=String("mine")"#,
                r#"team=String("a,b=c")"#,
                r#"k8s.deployment.name=String("reviews-v3")"#,
                r#"service.namespace=String("shop")"#,
            ]
        );
        for unreadable in ["a", "a=b,c", "=b", "a=%ff"] {
            assert_eq!(attributes(unreadable), None, "{unreadable}");
        }
        let many = |n: i32| (0..n).map(|i| format!("a{i}=x")).collect::<Vec<_>>().join(",");
        assert_eq!(attributes(&many(128)).map(|list| list.len()), Some(128));
        assert_eq!(attributes(&many(129)), None);
        assert_eq!(attributes(" , "), Some(Vec::new()));
        let stray = attributes("a=100%").unwrap_or_default();
        assert_eq!(stray, [("a".to_owned(), "100%".to_owned())]);
    }

    #[test]
    fn owners_and_revisions() {
        let node = |key: &str, value: Value| Node {
            metadata: Some(Struct { fields: [(key.to_owned(), value)].into_iter().collect() }),
            ..Node::default()
        };
        let base = "kubernetes://apis/apps/v1/namespaces/a";
        for (owner, expected) in [
            (format!("{base}/statefulsets/db"), Some(("k8s.statefulset.name", "db"))),
            (
                "kubernetes://apis/batch/v1/namespaces/a/jobs/once".to_owned(),
                Some(("k8s.job.name", "once")),
            ),
            (format!("{base}/rollouts/x"), None),
            (format!("{base}/deployments/"), None),
            ("deployments/x".to_owned(), None),
            ("kubernetes://apis/x".to_owned(), None),
        ] {
            assert_eq!(node("OWNER", string(&owner)).owner(), expected, "{owner}");
        }
        let labels = |labels: &[(&str, &str)]| {
            let fields = labels.iter().map(|(k, v)| ((*k).to_owned(), string(v))).collect();
            node("LABELS", Value { kind: Some(Kind::StructValue(Struct { fields })) })
        };
        let latest = ("service.istio.io/canonical-revision", "latest");
        for (node, expected) in
            [(labels(&[latest]), None), (labels(&[latest, ("version", "v2")]), Some("v2"))]
        {
            let resource = resource(&Service::default(), &node, &|_| None);
            let version = resource.attributes.iter().find(|(key, _)| key == "service.version");
            let expected = expected.map(|version| Scalar::String(version.to_owned()));
            assert_eq!(version.map(|(_, version)| version.clone()), expected);
        }
    }

    #[test]
    fn the_name_in_order_of_precedence() {
        let configured = Service { name: Some("mine".to_owned()), ..Service::default() };
        let plain = Node { cluster: "edge".to_owned(), ..Node::default() };
        name(&configured, &istio(), Some("env"), "mine");
        name(&Service::default(), &istio(), Some("env"), "env");
        name(&Service::default(), &istio(), Some(""), "reviews");
        name(&Service::default(), &plain, None, "edge");
        name(&Service::default(), &Node::default(), None, "unknown_service:envoy");
    }

    #[test]
    fn configured_attributes_win_and_no_name_stands_twice() {
        let service = Service {
            version: Some("2".to_owned()),
            attributes: vec![
                ("k8s.pod.name".to_owned(), Scalar::String("other".to_owned())),
                ("service.version".to_owned(), Scalar::Int(1)),
                ("team".to_owned(), Scalar::Bool(true)),
            ],
            ..Service::default()
        };
        let resource = resource(&service, &istio(), &|_| None);
        let of = |key| resource.attributes.iter().filter(|(k, _)| k == key).collect::<Vec<_>>();
        let pod = ("k8s.pod.name".to_owned(), Scalar::String("other".to_owned()));
        let version = ("service.version".to_owned(), Scalar::String("2".to_owned()));
        assert_eq!(of("k8s.pod.name"), [&pod]);
        assert_eq!(of("service.version"), [&version]);
        assert_eq!(of("team"), [&("team".to_owned(), Scalar::Bool(true))]);
    }

    #[test]
    fn garbage_tells_nothing() {
        assert_eq!(Node::from_property(b"\xff\xff\xff"), Node::default());
        assert!(!Node::default().is_gateway());
        assert!(Node { id: "router~1~a~b".to_owned(), ..Node::default() }.is_gateway());
    }
}
