//! From JSON to where spans go.

use super::Env;
use crate::config::error::{Problem, quoted, step};
use crate::config::fields;
use crate::config::json::Json;
use crate::config::node::{Faults, Node, Object};
use crate::config::text::{header_value, is_header_name};
use crate::config::{Batch, Collector, Compression, Export, Protocol, Queue, Retry, Scheme};

pub(super) fn read(object: &Object<'_>, env: Env<'_>, faults: &mut Faults) -> Option<Export> {
    let protocol = object.get("protocol").and_then(|node| node.word(Protocol::NAMES, faults));
    let protocol = protocol.and_then(Protocol::from_name).unwrap_or_default();
    let path = path(object, protocol, faults);
    let scheme = object.get("scheme").and_then(|node| node.word(Scheme::NAMES, faults));
    let scheme = scheme.and_then(Scheme::from_name).unwrap_or_default();
    let compression = object.get("compression");
    let compression = compression.and_then(|node| node.word(Compression::NAMES, faults));
    let compression = compression.and_then(Compression::from_name).unwrap_or_default();
    let headers = object.get("headers").map(|node| headers(&node, env, faults)).unwrap_or_default();
    let timeout = object.period("timeout", &fields::TIMEOUT, faults);
    let batch = batch(&object.object("batch", fields::BATCH, faults).unwrap_or_default(), faults);
    let queue = queue(&object.object("queue", fields::QUEUE, faults).unwrap_or_default(), faults);
    let retry = retry(&object.object("retry", fields::RETRY, faults).unwrap_or_default(), faults);
    cross_checks(&batch, &queue, &retry, faults);
    let needs = "export needs the cluster that spans go to";
    let collectors = upstreams(object, true, needs, faults)?;
    Some(Export {
        protocol,
        collectors,
        path,
        scheme,
        headers,
        timeout,
        compression,
        batch,
        queue,
        retry,
    })
}

/// The cluster and the authority of requests; a cluster is needed for this `reason`.
pub(super) fn upstream(
    object: &Object<'_>,
    reason: &'static str,
    faults: &mut Faults,
) -> Option<(String, String)> {
    let only = upstreams(object, false, reason, faults)?.into_iter().next()?;
    Some((only.cluster, only.authority))
}

/// The same of one cluster or, where there may be `several`, of a list.
fn upstreams(
    object: &Object<'_>,
    several: bool,
    reason: &'static str,
    faults: &mut Faults,
) -> Option<Vec<Collector>> {
    let authority = object.text("authority", &fields::AUTHORITY, faults);
    let Some(node) = object.get("cluster") else {
        faults.add(step(&object.path, "cluster"), Problem::Missing { reason });
        return None;
    };
    let collectors = collectors(&node, several, authority.as_deref(), faults)?;
    // A given authority that is not allowed has been noted.
    if collectors.iter().any(|collector| collector.authority.is_empty()) {
        if object.get("authority").is_none() {
            let reason = "the name of the cluster cannot stand for the authority of a request";
            faults.add(step(&object.path, "authority"), Problem::Missing { reason });
        }
        return None;
    }
    Some(collectors)
}

/// One collector or several, each with the authority that is `given` for all, or its own: empty
/// where its name cannot stand for one.
fn collectors(
    node: &Node<'_>,
    several: bool,
    given: Option<&str>,
    faults: &mut Faults,
) -> Option<Vec<Collector>> {
    const ONE: &str = "is the name of a cluster, or {service, port}";
    let (items, allowed) = match node.json {
        Json::Array(items) if several && items.is_empty() => {
            node.wrong_value("an empty list".to_owned(), "is at least one collector", faults);
            return None;
        }
        Json::Array(_) if several => {
            (node.items(fields::MAX_COLLECTORS, "collectors", faults), ONE)
        }
        _ if several => {
            let allowed = "is the name of a cluster, or {service, port}, or a list of these";
            (vec![node.clone()], allowed)
        }
        _ => (vec![node.clone()], ONE),
    };
    let mut collectors: Vec<Collector> = Vec::new();
    for item in &items {
        let (cluster, derived) = cluster(item, allowed, faults)?;
        if collectors.iter().any(|earlier| earlier.cluster == cluster) {
            faults.add(&*item.path, Problem::DuplicateValue { value: quoted(&cluster) });
        }
        let authority = given.map(str::to_owned).or(derived).unwrap_or_default();
        collectors.push(Collector { cluster, authority });
    }
    (!collectors.is_empty()).then_some(collectors)
}

fn path(object: &Object<'_>, protocol: Protocol, faults: &mut Faults) -> String {
    let given = object.get("path");
    let path = given.as_ref().and_then(|node| node.text(&fields::PATH, faults));
    if let (Some(node), Some(path)) = (&given, path.filter(|path| path.contains("${"))) {
        let allowed = "is a path as it is sent; variables are for the values of headers";
        node.wrong_value(quoted(path), allowed, faults);
    }
    let default = match protocol {
        Protocol::OtlpHttp | Protocol::OtlpHttpJson => "/v1/traces",
        Protocol::Zipkin => "/api/v2/spans",
        Protocol::OtlpGrpc => {
            if let (Some(node), Some(path)) = (given, path) {
                let allowed = "is no path beside otlp/grpc: the method has its own";
                node.wrong_value(quoted(path), allowed, faults);
            }
            return "/opentelemetry.proto.collector.trace.v1.TraceService/Export".to_owned();
        }
    };
    path.unwrap_or(default).to_owned()
}

/// The cluster's name, and the authority that follows from it.
fn cluster(
    node: &Node<'_>,
    allowed: &str,
    faults: &mut Faults,
) -> Option<(String, Option<String>)> {
    match node.json {
        Json::String(_) => {
            let name = node.text(&fields::CLUSTER, faults)?;
            if name.contains("://") {
                let allowed = "is the name of an Envoy cluster, not an address";
                node.wrong_value(quoted(name), allowed, faults);
                return None;
            }
            let authority = match name.split('|').collect::<Vec<_>>().as_slice() {
                // Istio: direction, port, subset, host.
                [_, port, _, host] => format!("{host}:{port}"),
                _ => name.to_owned(),
            };
            let valid = authority.chars().count() <= fields::AUTHORITY.max
                && (fields::AUTHORITY.valid)(&authority);
            Some((name.to_owned(), valid.then_some(authority)))
        }
        Json::Object(_) => {
            let object = node.object(fields::TARGET, faults)?;
            let mut need = |name, reason| {
                let value = object.get(name);
                if value.is_none() {
                    faults.add(step(&object.path, name), Problem::Missing { reason });
                }
                value
            };
            let service = need("service", "the host of the collector");
            let port = need("port", "the port of the collector");
            let service = service.and_then(|node| node.text(&fields::SERVICE, faults));
            let port = port.and_then(|node| node.integer(&fields::PORT, faults));
            let (service, port) = (service?, port?);
            Some((format!("outbound|{port}||{service}"), Some(format!("{service}:{port}"))))
        }
        Json::Array(_) | Json::Bool(_) | Json::Null | Json::Number(_) => {
            node.wrong_type(allowed, faults);
            None
        }
    }
}

fn headers(node: &Node<'_>, env: Env<'_>, faults: &mut Faults) -> Vec<(String, String)> {
    const ALLOWED: &str = "is a map of at most 64 header names to strings";
    let Some(map) = node.map(ALLOWED, faults) else { return Vec::new() };
    if map.len() > fields::MAX_HEADERS {
        node.wrong_value(format!("a map of {}", map.len()), ALLOWED, faults);
        return Vec::new();
    }
    let mut headers = Vec::with_capacity(map.len());
    for (name, node) in map.iter() {
        if !is_header_name(name) || fields::OWN_HEADERS.contains(&name) {
            let allowed = "are header names in lower case, but not those that the export itself \
                or the connection sets";
            node.wrong_value(quoted(name), allowed, faults);
            continue;
        }
        let Json::String(value) = node.json else {
            node.wrong_type("is a string", faults);
            continue;
        };
        match header_value(value, env) {
            Ok(value) => headers.push((name.to_owned(), value)),
            Err(problem) => faults.add(node.path, problem),
        }
    }
    headers
}

fn batch(object: &Object<'_>, faults: &mut Faults) -> Batch {
    Batch {
        max_spans: object.integer("max_spans", &fields::BATCH_SPANS, faults),
        max_bytes: object.integer("max_bytes", &fields::BATCH_BYTES, faults),
        interval: object.period("interval", &fields::INTERVAL, faults),
    }
}

fn queue(object: &Object<'_>, faults: &mut Faults) -> Queue {
    Queue {
        max_spans: object.integer("max_spans", &fields::QUEUE_SPANS, faults),
        max_bytes: object.integer("max_bytes", &fields::QUEUE_BYTES, faults),
    }
}

fn retry(object: &Object<'_>, faults: &mut Faults) -> Retry {
    Retry {
        initial: object.period("initial", &fields::RETRY_INITIAL, faults),
        max: object.period("max", &fields::RETRY_MAX, faults),
        max_elapsed: object.period("max_elapsed", &fields::RETRY_ELAPSED, faults),
    }
}

/// Fields that bound one another, defaults included.
fn cross_checks(batch: &Batch, queue: &Queue, retry: &Retry, faults: &mut Faults) {
    let mut at_most = |path: &str, value: String, bound, limit: String, holds: bool| {
        if !holds {
            faults.add(path, Problem::Conflict { value, bound, limit });
        }
    };
    at_most(
        "$.export.batch.max_spans",
        batch.max_spans.to_string(),
        "$.export.queue.max_spans",
        queue.max_spans.to_string(),
        batch.max_spans <= queue.max_spans,
    );
    at_most(
        "$.export.batch.max_bytes",
        batch.max_bytes.to_string(),
        "$.export.queue.max_bytes",
        queue.max_bytes.to_string(),
        batch.max_bytes <= queue.max_bytes,
    );
    at_most(
        "$.export.retry.initial",
        format!("{:?}", retry.initial),
        "$.export.retry.max",
        format!("{:?}", retry.max),
        retry.initial <= retry.max,
    );
}
