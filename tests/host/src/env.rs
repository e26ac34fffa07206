//! The hostcalls of proxy-wasm ABI 0.2.1, with Envoy's answers.

use std::collections::VecDeque;

use crate::abi::{BufferType, LogLevel, MapType, Status, decode_pairs, encode_pairs};
use crate::guest::Guest;
use crate::state::{Callout, LogLine, Metric, MetricKind, Phase};

type Answer = Result<(), Status>;

/// The names of all hostcalls.
pub(crate) const NAMES: &[&str] = &[
    "proxy_add_header_map_value",
    "proxy_call_foreign_function",
    "proxy_close_stream",
    "proxy_continue_stream",
    "proxy_define_metric",
    "proxy_dequeue_shared_queue",
    "proxy_done",
    "proxy_enqueue_shared_queue",
    "proxy_get_buffer_bytes",
    "proxy_get_current_time_nanoseconds",
    "proxy_get_header_map_pairs",
    "proxy_get_header_map_value",
    "proxy_get_log_level",
    "proxy_get_metric",
    "proxy_get_property",
    "proxy_get_shared_data",
    "proxy_get_status",
    "proxy_grpc_call",
    "proxy_grpc_cancel",
    "proxy_grpc_close",
    "proxy_grpc_send",
    "proxy_grpc_stream",
    "proxy_http_call",
    "proxy_increment_metric",
    "proxy_log",
    "proxy_record_metric",
    "proxy_register_shared_queue",
    "proxy_remove_header_map_value",
    "proxy_replace_header_map_value",
    "proxy_resolve_shared_queue",
    "proxy_send_local_response",
    "proxy_set_buffer_bytes",
    "proxy_set_effective_context",
    "proxy_set_header_map_pairs",
    "proxy_set_property",
    "proxy_set_shared_data",
    "proxy_set_tick_period_milliseconds",
];

/// Makes a hostcall. Arguments are 32 bits wide but for the amounts of metrics.
pub(crate) fn call(guest: &mut Guest<'_, '_>, name: &str, args: &[u64]) -> Answer {
    let arg = |index: usize| -> u32 {
        let wide = args.get(index).copied().expect("the linker checked the signature");
        u32::try_from(wide & u64::from(u32::MAX)).expect("masked")
    };
    let wide = |index: usize| args.get(index).copied().expect("the linker checked the signature");
    match name {
        "proxy_add_header_map_value" | "proxy_replace_header_map_value" => {
            let map = map_type(arg(0))?;
            let key = guest.read(arg(1), arg(2))?.to_ascii_lowercase();
            let value = guest.read(arg(3), arg(4))?;
            let pairs = guest.state().map_mut(map)?;
            if name == "proxy_replace_header_map_value" {
                pairs.retain(|(name, _)| *name != key);
            }
            pairs.push((key, value));
            Ok(())
        }
        "proxy_remove_header_map_value" => {
            let map = map_type(arg(0))?;
            let key = guest.read(arg(1), arg(2))?.to_ascii_lowercase();
            guest.state().map_mut(map)?.retain(|(name, _)| *name != key);
            Ok(())
        }
        "proxy_get_header_map_value" => {
            let map = map_type(arg(0))?;
            let key = guest.read(arg(1), arg(2))?.to_ascii_lowercase();
            let in_log = guest.state().phase == Phase::Log;
            let missing = if in_log { Status::NotFound } else { Status::BadArgument };
            let pairs = guest.state().map(map).ok_or(missing)?;
            let value =
                pairs.iter().find(|(name, _)| *name == key).ok_or(Status::NotFound)?.1.clone();
            guest.give(&value, arg(3), arg(4))
        }
        "proxy_get_header_map_pairs" => {
            let map = map_type(arg(0))?;
            let pairs = guest.state().map(map).filter(|pairs| !pairs.is_empty());
            let mut bytes = pairs.map(|pairs| encode_pairs(pairs)).unwrap_or_default();
            if let Some(garbled) = guest.state().garbled_maps.get(&map) {
                bytes.clone_from(garbled);
            }
            guest.give(&bytes, arg(1), arg(2))
        }
        "proxy_set_header_map_pairs" => {
            let map = map_type(arg(0))?;
            let bytes = guest.read(arg(1), arg(2))?;
            let pairs = decode_pairs(&bytes).ok_or(Status::BadArgument)?;
            *guest.state().map_mut(map)? = pairs;
            Ok(())
        }
        "proxy_get_property" => {
            let path = guest.read(arg(0), arg(1))?;
            let value = guest.state().property(&path).ok_or(Status::NotFound)?.clone();
            guest.give(&value, arg(2), arg(3))
        }
        "proxy_set_property" => {
            let path = guest.read(arg(0), arg(1))?;
            let value = guest.read(arg(2), arg(3))?;
            let exchange = guest.state().effective_exchange_mut().ok_or(Status::NotFound)?;
            exchange.filter_state.insert(path, value);
            Ok(())
        }
        "proxy_get_buffer_bytes" => {
            let bytes = buffer(guest, arg(0))?;
            let start = usize::try_from(arg(1)).map_err(|_| Status::BadArgument)?;
            let size = usize::try_from(arg(2)).map_err(|_| Status::BadArgument)?;
            let part = bytes.get(start..).unwrap_or_default();
            let part = part.get(..size).unwrap_or(part);
            // Envoy leaves the pointers alone when there is nothing to give.
            if part.is_empty() { Ok(()) } else { guest.give(part, arg(3), arg(4)) }
        }
        "proxy_set_buffer_bytes" => Err(Status::BadArgument),
        "proxy_log" => {
            let level = LogLevel::from_number(arg(0)).ok_or(Status::BadArgument)?;
            let message = guest.read(arg(1), arg(2))?;
            let message = String::from_utf8_lossy(&message).into_owned();
            let context = guest.state().effective;
            guest.state().logs.push(LogLine { level, context, message });
            Ok(())
        }
        "proxy_get_log_level" => guest.write_u32(arg(0), 2),
        "proxy_get_current_time_nanoseconds" => {
            let clock = guest.state().clock;
            guest.write_u64(arg(0), clock)
        }
        "proxy_set_tick_period_milliseconds" => {
            let root = guest.state().effective_root();
            let root = guest.state().roots.get_mut(&root).ok_or(Status::BadArgument)?;
            root.tick_period = Some(arg(0));
            Ok(())
        }
        "proxy_set_effective_context" => {
            let state = guest.state();
            if !state.roots.contains_key(&arg(0)) && !state.streams.contains_key(&arg(0)) {
                return Err(Status::BadArgument);
            }
            state.effective = arg(0);
            Ok(())
        }
        "proxy_done" => {
            let effective = guest.state().effective;
            let root = guest.state().roots.get_mut(&effective).ok_or(Status::NotFound)?;
            root.done = root.done.saturating_add(1);
            Ok(())
        }
        "proxy_http_call" => http_call(guest, &arg),
        "proxy_define_metric"
        | "proxy_increment_metric"
        | "proxy_record_metric"
        | "proxy_get_metric" => metric(guest, name, &arg, &wide),
        "proxy_get_shared_data" | "proxy_set_shared_data" => shared_data(guest, name, &arg),
        "proxy_register_shared_queue"
        | "proxy_resolve_shared_queue"
        | "proxy_enqueue_shared_queue"
        | "proxy_dequeue_shared_queue" => shared_queue(guest, name, &arg),
        "proxy_continue_stream" => {
            exchange(guest)?.continued = true;
            Ok(())
        }
        "proxy_close_stream" => {
            exchange(guest)?.closed = true;
            Ok(())
        }
        "proxy_send_local_response" => {
            exchange(guest)?.local_response = Some(arg(0));
            Ok(())
        }
        "proxy_get_status" => {
            guest.write_u32(arg(0), 0)?;
            guest.give(b"", arg(1), arg(2))
        }
        // The emulated Envoy has no gRPC upstream, so that no such stream is ever open.
        "proxy_grpc_call" | "proxy_grpc_stream" => Err(Status::ParseFailure),
        "proxy_grpc_cancel" | "proxy_grpc_close" | "proxy_grpc_send" => Err(Status::BadArgument),
        "proxy_call_foreign_function" => foreign_function(guest, &arg),
        _ => Err(Status::Unimplemented),
    }
}

fn map_type(number: u32) -> Result<MapType, Status> {
    MapType::from_number(number).ok_or(Status::BadArgument)
}

fn exchange<'a>(guest: &'a mut Guest<'_, '_>) -> Result<&'a mut crate::state::Exchange, Status> {
    guest.state().effective_exchange_mut().ok_or(Status::BadArgument)
}

fn buffer(guest: &mut Guest<'_, '_>, number: u32) -> Result<Vec<u8>, Status> {
    let state = guest.state();
    match BufferType::from_number(number).ok_or(Status::BadArgument)? {
        BufferType::VmConfiguration => Ok(Vec::new()),
        BufferType::PluginConfiguration => {
            let root = state.roots.get(&state.effective).ok_or(Status::NotFound)?;
            Ok(root.configuration.clone())
        }
        BufferType::CallResponseBody => {
            let answer = state.answer.as_ref().filter(|answer| answer.headers.is_some());
            Ok(answer.ok_or(Status::NotFound)?.body.clone())
        }
        _ => Err(Status::NotFound),
    }
}

fn http_call(guest: &mut Guest<'_, '_>, arg: &dyn Fn(usize) -> u32) -> Answer {
    let upstream = guest.read(arg(0), arg(1))?;
    let upstream = String::from_utf8(upstream).map_err(|_| Status::BadArgument)?;
    let headers = guest.read(arg(2), arg(3))?;
    let headers = decode_pairs(&headers).ok_or(Status::ParseFailure)?;
    let body = guest.read(arg(4), arg(5))?;
    let trailers = guest.read(arg(6), arg(7))?;
    let trailers = decode_pairs(&trailers).ok_or(Status::ParseFailure)?;
    let state = guest.state();
    let required = [":path", ":method", ":authority"];
    let has = |name: &str| headers.iter().any(|(n, _)| n == name.as_bytes());
    if !state.clusters.contains(&upstream) || !required.into_iter().all(has) {
        return Err(Status::BadArgument);
    }
    let token = state.callouts.len().saturating_add(1);
    let token = u32::try_from(token).map_err(|_| Status::InternalFailure)?;
    state.callouts.push(Callout {
        token,
        context: state.effective,
        upstream,
        headers,
        body,
        trailers,
        timeout: arg(8),
        answered: false,
    });
    guest.write_u32(arg(9), token)
}

fn metric(
    guest: &mut Guest<'_, '_>,
    name: &str,
    arg: &dyn Fn(usize) -> u32,
    wide: &dyn Fn(usize) -> u64,
) -> Answer {
    if name == "proxy_define_metric" {
        let kind = match arg(0) {
            0 => MetricKind::Counter,
            1 => MetricKind::Gauge,
            2 => MetricKind::Histogram,
            _ => return Err(Status::BadArgument),
        };
        let key = guest.read(arg(1), arg(2))?;
        let key = String::from_utf8(key).map_err(|_| Status::BadArgument)?;
        let state = guest.state();
        let fresh = Metric { kind, value: 0, samples: Vec::new() };
        state.metrics.entry(key.clone()).or_insert(fresh);
        state.metric_ids.push(key);
        let id = u32::try_from(state.metric_ids.len()).map_err(|_| Status::InternalFailure)?;
        return guest.write_u32(arg(3), id);
    }
    let state = guest.state();
    let index = usize::try_from(arg(0)).ok().and_then(|id| id.checked_sub(1));
    let key = index.and_then(|index| state.metric_ids.get(index)).ok_or(Status::NotFound)?;
    let metric = state.metrics.get_mut(key).ok_or(Status::NotFound)?;
    match (name, metric.kind) {
        ("proxy_increment_metric", kind) => {
            let offset = wide(1).cast_signed();
            match kind {
                MetricKind::Counter if offset < 0 => return Err(Status::BadArgument),
                MetricKind::Histogram => return Err(Status::BadArgument),
                MetricKind::Counter | MetricKind::Gauge => {
                    metric.value = metric.value.saturating_add(offset);
                }
            }
            Ok(())
        }
        ("proxy_record_metric", MetricKind::Counter) => {
            metric.value = metric.value.saturating_add_unsigned(wide(1));
            Ok(())
        }
        ("proxy_record_metric", MetricKind::Gauge) => {
            metric.value = wide(1).cast_signed();
            Ok(())
        }
        ("proxy_record_metric", MetricKind::Histogram) => {
            metric.samples.push(wide(1));
            Ok(())
        }
        (_, MetricKind::Histogram) => Err(Status::BadArgument),
        (_, MetricKind::Counter | MetricKind::Gauge) => {
            let value = metric.value.cast_unsigned();
            guest.write_u64(arg(1), value)
        }
    }
}

fn shared_data(guest: &mut Guest<'_, '_>, name: &str, arg: &dyn Fn(usize) -> u32) -> Answer {
    let key = guest.read(arg(0), arg(1))?;
    if name == "proxy_get_shared_data" {
        let entry = guest.state().shared_data.get(&key).cloned();
        let (value, cas) = entry.ok_or(Status::NotFound)?;
        guest.give(&value, arg(2), arg(3))?;
        return guest.write_u32(arg(4), cas);
    }
    let value = guest.read(arg(2), arg(3))?;
    let data = &mut guest.state().shared_data;
    let now = data.get(&key).map(|(_, cas)| *cas);
    // Zero asks for no comparison.
    if arg(4) != 0 && now.is_some_and(|now| now != arg(4)) {
        return Err(Status::CasMismatch);
    }
    let cas = now.unwrap_or(0).wrapping_add(1);
    data.insert(key, (value, cas));
    Ok(())
}

/// The functions of Envoy for expressions of CEL. What an expression gives is for the test to say;
/// one with an open parenthesis is none.
fn foreign_function(guest: &mut Guest<'_, '_>, arg: &dyn Fn(usize) -> u32) -> Answer {
    let name = guest.read(arg(0), arg(1))?;
    let argument = guest.read(arg(2), arg(3))?;
    let token = |argument: &[u8]| {
        argument.try_into().map(u32::from_le_bytes).map_err(|_| Status::BadArgument)
    };
    match name.as_slice() {
        b"expr_create" => {
            let text = String::from_utf8(argument).map_err(|_| Status::BadArgument)?;
            if text.matches('(').count() != text.matches(')').count() {
                return Err(Status::BadArgument);
            }
            let expressions = &mut guest.state().expressions;
            let last = expressions.last_key_value().map_or(0, |(token, _)| *token);
            let token = last.checked_add(1).ok_or(Status::InternalFailure)?;
            expressions.insert(token, text);
            guest.give(&token.to_le_bytes(), arg(4), arg(5))
        }
        b"expr_evaluate" => {
            let token = token(&argument)?;
            let state = guest.state();
            let text = state.expressions.get(&token).cloned().ok_or(Status::NotFound)?;
            let exchange = state.effective_exchange().ok_or(Status::InternalFailure)?;
            let value = exchange.expressions.get(&text).cloned();
            guest.give(&value.ok_or(Status::InternalFailure)?, arg(4), arg(5))
        }
        b"expr_delete" => {
            guest.state().expressions.remove(&token(&argument)?);
            Ok(())
        }
        _ => Err(Status::NotFound),
    }
}

fn shared_queue(guest: &mut Guest<'_, '_>, name: &str, arg: &dyn Fn(usize) -> u32) -> Answer {
    let id_of = |guest: &mut Guest<'_, '_>, key: &[u8]| -> Option<u32> {
        let index = guest.state().queues.iter().position(|(name, _)| name == key)?;
        u32::try_from(index).ok()?.checked_add(1)
    };
    match name {
        "proxy_register_shared_queue" => {
            let key = guest.read(arg(0), arg(1))?;
            if id_of(guest, &key).is_none() {
                guest.state().queues.push((key.clone(), VecDeque::new()));
            }
            let id = id_of(guest, &key).ok_or(Status::InternalFailure)?;
            guest.write_u32(arg(2), id)
        }
        "proxy_resolve_shared_queue" => {
            let key = guest.read(arg(2), arg(3))?;
            let id = id_of(guest, &key).ok_or(Status::NotFound)?;
            guest.write_u32(arg(4), id)
        }
        _ => {
            let value = match name {
                "proxy_enqueue_shared_queue" => Some(guest.read(arg(1), arg(2))?),
                _ => None,
            };
            let index = usize::try_from(arg(0)).ok().and_then(|id| id.checked_sub(1));
            let queues = &mut guest.state().queues;
            let queue = index.and_then(|index| queues.get_mut(index)).ok_or(Status::NotFound)?;
            if let Some(value) = value {
                queue.1.push_back(value);
                return Ok(());
            }
            let value = queue.1.pop_front().ok_or(Status::Empty)?;
            guest.give(&value, arg(1), arg(2))
        }
    }
}
