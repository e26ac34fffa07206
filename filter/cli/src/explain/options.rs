//! What `explain` is asked.

use std::ffi::OsString;

use meshweft_core::config::{Config, Direction, period, time};
use meshweft_core::model::{TraceId, UnixNanos};

use crate::args::{Args, Known};
use crate::outcome::{self, Property};
use crate::request::Request;

const KNOWN: Known<'_> = Known {
    once: &[
        "--config",
        "--direction",
        "--duration",
        "--grpc-status",
        "--host",
        "--now",
        "--request",
        "--response-flags",
        "--source",
        "--status",
        "--trace-id",
    ],
    often: &["--cel", "--header", "--property"],
    flags: &["--json"],
    words: 0,
};

/// Characters of a header's name beside letters and digits (RFC 9110, section 5.6.2).
const TOKEN: &str = "!#$%&'*+-.^_`|~";

/// What `explain` is asked.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) config: OsString,
    pub(super) request: Request,
    /// Texts of expressions, and whether they hold.
    pub(super) expressions: Vec<(String, bool)>,
    /// Of a new trace; random without.
    pub(super) trace_id: Option<TraceId>,
    /// The time by which rules expire; the clock's without.
    pub(super) now: Option<UnixNanos>,
    /// Whether it is told how the request ended.
    pub(super) ended: bool,
    pub(super) json: bool,
}

impl Options {
    /// Reads the arguments behind `explain`.
    ///
    /// # Errors
    /// Says of the first argument that is wrong what is.
    pub(super) fn parse(arguments: &[OsString]) -> Result<Self, String> {
        let args = Args::parse(arguments, KNOWN)?;
        let config = args.value("--config").ok_or("--config FILE is missing")?;
        let line = args.one("--request", request_line)?;
        let (method, path) = line.ok_or("--request 'METHOD /path' is missing")?;
        let mut properties = args.all("--property", property)?;
        properties.extend(args.one("--source", |text| Ok(source(text)))?);
        properties.extend(args.one("--direction", direction)?);
        let mut ending = args.one("--status", status)?;
        let more = [
            args.one("--duration", duration)?,
            args.one("--grpc-status", grpc_status)?,
            args.one("--response-flags", response_flags)?,
        ];
        if ending.is_none() && more.iter().any(Option::is_some) {
            ending = Some(outcome::status(200));
        }
        let ended = ending.is_some();
        properties.extend(ending.into_iter().chain(more.into_iter().flatten()));
        let host = args.one("--host", |text| Ok(text.to_owned()))?;
        let headers = args.all("--header", header)?;
        Ok(Self {
            config: config.to_owned(),
            request: Request { method, path, host, headers, properties, ..Request::default() },
            expressions: args.all("--cel", expression)?,
            trace_id: args.one("--trace-id", trace_id)?,
            now: args.one("--now", now)?,
            ended,
            json: args.flag("--json"),
        })
    }
}

impl Options {
    /// Finds the expressions of `config` whose values are given.
    ///
    /// # Errors
    /// Says of a value that is of no expression.
    pub(super) fn evaluate(&mut self, config: &Config) -> Result<(), String> {
        let of = |text: &str| self.expressions.iter().rfind(|(known, _)| known == text);
        let values = config.expressions().map(|own| of(own.text.trim()).map(|(_, holds)| *holds));
        self.request.expressions = values.collect();
        let known = |text: &str| config.expressions().any(|own| own.text.trim() == text);
        match self.expressions.iter().find(|(text, _)| !known(text)) {
            Some((text, _)) => Err(format!("--cel {text:?}: the configuration has no such cel")),
            None => Ok(()),
        }
    }
}

fn request_line(text: &str) -> Result<(String, String), String> {
    let mut words = text.split_ascii_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some(method), Some(path), None) if path.starts_with('/') || path == "*" => {
            Ok((method.to_owned(), path.to_owned()))
        }
        _ => Err("must be a method and a path, such as 'GET /orders'".to_owned()),
    }
}

/// A name in lower case, as the host gives it, and its value without the space around it.
fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').unwrap_or_default();
    let token = |c: char| c.is_ascii_alphanumeric() || TOKEN.contains(c);
    if name.is_empty() || !name.chars().all(token) {
        return Err("must be a name and a value, such as 'x-team: pay'".to_owned());
    }
    let name = name.to_ascii_lowercase();
    if name == "host" {
        return Err("the host is given with --host".to_owned());
    }
    Ok((name, value.trim_matches([' ', '\t']).to_owned()))
}

fn property(text: &str) -> Result<(String, Vec<u8>), String> {
    let (path, value) = text.split_once('=').unwrap_or_default();
    if path.is_empty() {
        return Err("must be a name and a value, such as xds.route_name=orders".to_owned());
    }
    Ok((path.to_owned(), value.into()))
}

/// Whether an expression holds, and its text.
fn expression(text: &str) -> Result<(String, bool), String> {
    let (value, expression) = text.split_once(':').unwrap_or_default();
    let holds = match value.trim() {
        "true" => true,
        "false" => false,
        _ => {
            return Err(
                "must be true or false and an expression, such as 'true: a == b'".to_owned()
            );
        }
    };
    Ok((expression.trim().to_owned(), holds))
}

/// The peer by the property in which the host would tell of it.
fn source(text: &str) -> (String, Vec<u8>) {
    let path =
        if text.contains("://") { "connection.uri_san_peer_certificate" } else { "source.address" };
    (path.to_owned(), text.into())
}

/// `envoy.config.core.v3.TrafficDirection`, encoded as the host does.
fn direction(text: &str) -> Result<(String, Vec<u8>), String> {
    let number: i64 = match text {
        _ if text == Direction::Inbound.name() => 1,
        _ if text == Direction::Outbound.name() => 2,
        _ => return Err("must be inbound or outbound".to_owned()),
    };
    Ok(("xds.listener_direction".to_owned(), number.to_le_bytes().to_vec()))
}

fn status(text: &str) -> Result<Property, String> {
    let code = text.parse().ok().filter(|code| (100..600).contains(code));
    code.map(outcome::status).ok_or_else(|| "must be a status from 100 to 599".to_owned())
}

fn duration(text: &str) -> Result<Property, String> {
    let duration = period(text).map(outcome::took);
    duration.ok_or_else(|| "must be a whole number with ms, s, m or h, such as 700ms".to_owned())
}

fn grpc_status(text: &str) -> Result<Property, String> {
    let code = outcome::grpc_code(text).map(outcome::grpc_status);
    code.ok_or_else(|| "must be a gRPC status, such as UNAVAILABLE or 14".to_owned())
}

fn response_flags(text: &str) -> Result<Property, String> {
    let flags = outcome::flags(text).map(outcome::response_flags);
    flags.ok_or_else(|| "must be letters of Envoy's access logs, such as UF,URX".to_owned())
}

fn trace_id(text: &str) -> Result<TraceId, String> {
    TraceId::from_hex(text.as_bytes())
        .map_err(|error| format!("{error}: must be 32 digits of lower-case hex, not all zero"))
}

fn now(text: &str) -> Result<UnixNanos, String> {
    time(text).ok_or_else(|| "must be a time such as 2026-07-01T20:00:00+02:00".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_as_the_host_gives_them() {
        let pair = |name: &str, value: &str| Ok((name.to_owned(), value.to_owned()));
        assert_eq!(header("X-Team: \t pay: 1 "), pair("x-team", "pay: 1"));
        assert_eq!(header("b3:"), pair("b3", ""));
        for wrong in ["b3", ":path: /", "a b: c", "", "é: x"] {
            assert_eq!(
                header(wrong),
                Err("must be a name and a value, such as 'x-team: pay'".to_owned()),
                "{wrong}"
            );
        }
    }

    #[test]
    fn peers_by_what_they_look_like() {
        let uri = "connection.uri_san_peer_certificate".to_owned();
        assert_eq!(source("spiffe://a/b"), (uri, b"spiffe://a/b".to_vec()));
        let address = "source.address".to_owned();
        assert_eq!(source("[fd00::7]:80"), (address, b"[fd00::7]:80".to_vec()));
    }
}
