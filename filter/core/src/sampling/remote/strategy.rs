//! What a remote sampling endpoint says of a service: Jaeger's `SamplingStrategyResponse`, as JSON.

use core::fmt;
use std::collections::BTreeMap;

use crate::config::{Json, Rate};

/// More traces per second are no limit and no floor.
const MAX_PER_SECOND: f64 = 1e9;

/// What decides about new traces.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Strategy {
    /// So many traces per second, whatever the load; above zero.
    PerSecond(f64),
    /// A share of all traces.
    Share(Rate),
    /// A share of the traces of each operation.
    PerOperation {
        /// By the name that a span of the operation has.
        rates: BTreeMap<String, Rate>,
        /// Of all others.
        default: Rate,
        /// So many traces of each operation at least, per minute.
        floor_per_minute: Option<f64>,
    },
}

/// Why an answer is not used.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub(crate) enum BadStrategy {
    /// It lacks a field.
    Missing(&'static str),
    /// It is not JSON.
    NotJson,
    /// It is JSON, but no object.
    NotObject,
    /// A number is beyond its bounds, or no number.
    Number(&'static str),
    /// A field is of another type than it has.
    Type(&'static str),
    /// There is no such type of strategy.
    UnknownType,
}

impl fmt::Display for BadStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(field) => write!(f, "it has no {field}"),
            Self::NotJson => f.write_str("it is not JSON"),
            Self::NotObject => f.write_str("it is not an object"),
            Self::Number(field) => write!(f, "its {field} is out of range"),
            Self::Type(field) => write!(f, "its {field} is of the wrong type"),
            Self::UnknownType => {
                f.write_str("its strategyType is neither PROBABILISTIC nor RATE_LIMITING")
            }
        }
    }
}

impl Strategy {
    /// Reads an answer. As in Jaeger's clients, strategies of operations come before all else that
    /// it says. A number that is absent is zero, as protobuf's JSON has it.
    pub(crate) fn parse(answer: &[u8]) -> Result<Self, BadStrategy> {
        let answer = &Json::read(answer).ok_or(BadStrategy::NotJson)?;
        if !matches!(answer, Json::Object(_)) {
            return Err(BadStrategy::NotObject);
        }
        if let Some(operations) = object(answer, "operationSampling")? {
            return per_operation(operations);
        }
        match Type::of(answer)? {
            Type::Probabilistic => Ok(Self::Share(share(answer)?)),
            Type::RateLimiting => {
                let field = "rateLimitingSampling";
                let limit = object(answer, field)?.ok_or(BadStrategy::Missing(field))?;
                let limit = per_second(limit, "maxTracesPerSecond")?;
                // A limit of zero would let the first one pass.
                Ok(if limit > 0.0 { Self::PerSecond(limit) } else { Self::Share(Rate::NONE) })
            }
        }
    }
}

fn per_operation(operations: &Json) -> Result<Strategy, BadStrategy> {
    const LIST: &str = "perOperationStrategies";
    let list = match operations.get(LIST) {
        None | Some(Json::Null) => &[][..],
        Some(Json::Array(list)) => list,
        Some(_) => return Err(BadStrategy::Type(LIST)),
    };
    let one = |item: &Json| {
        if !matches!(item, Json::Object(_)) {
            return Err(BadStrategy::Type(LIST));
        }
        let name = match item.get("operation") {
            Some(Json::String(name)) => name.clone(),
            Some(_) => return Err(BadStrategy::Type("operation")),
            None => return Err(BadStrategy::Missing("operation")),
        };
        Ok((name, share(item)?))
    };
    let mut rates = BTreeMap::new();
    for item in list {
        let (name, rate) = one(item)?;
        rates.insert(name, rate);
    }
    let floor = per_second(operations, "defaultLowerBoundTracesPerSecond")? * 60.0;
    Ok(Strategy::PerOperation {
        rates,
        default: rate(operations, "defaultSamplingProbability")?,
        floor_per_minute: (floor > 0.0).then_some(floor),
    })
}

#[derive(Clone, Copy, Debug)]
enum Type {
    Probabilistic,
    RateLimiting,
}

impl Type {
    /// By its name, or by its number: so older servers write it. The first is the default.
    fn of(answer: &Json) -> Result<Self, BadStrategy> {
        match answer.get("strategyType") {
            None | Some(Json::Null) => Ok(Self::Probabilistic),
            Some(Json::String(name)) if name == "PROBABILISTIC" => Ok(Self::Probabilistic),
            Some(Json::String(name)) if name == "RATE_LIMITING" => Ok(Self::RateLimiting),
            Some(Json::Number(number)) if number.as_u64() == Some(0) => Ok(Self::Probabilistic),
            Some(Json::Number(number)) if number.as_u64() == Some(1) => Ok(Self::RateLimiting),
            Some(_) => Err(BadStrategy::UnknownType),
        }
    }
}

/// The rate in the field `probabilisticSampling`.
fn share(of: &Json) -> Result<Rate, BadStrategy> {
    let field = "probabilisticSampling";
    let sampling = object(of, field)?.ok_or(BadStrategy::Missing(field))?;
    rate(sampling, "samplingRate")
}

fn rate(of: &Json, field: &'static str) -> Result<Rate, BadStrategy> {
    Rate::new(number(of, field)?).ok_or(BadStrategy::Number(field))
}

/// Traces per second.
fn per_second(of: &Json, field: &'static str) -> Result<f64, BadStrategy> {
    let number = number(of, field)?;
    if (0.0..=MAX_PER_SECOND).contains(&number) {
        Ok(number)
    } else {
        Err(BadStrategy::Number(field))
    }
}

fn number(of: &Json, field: &'static str) -> Result<f64, BadStrategy> {
    match of.get(field) {
        None | Some(Json::Null) => Ok(0.0),
        Some(Json::Number(number)) => number.as_f64().ok_or(BadStrategy::Number(field)),
        Some(_) => Err(BadStrategy::Type(field)),
    }
}

/// A field that is an object, if it is there.
fn object<'a>(of: &'a Json, field: &'static str) -> Result<Option<&'a Json>, BadStrategy> {
    match of.get(field) {
        None | Some(Json::Null) => Ok(None),
        Some(object @ Json::Object(_)) => Ok(Some(object)),
        Some(_) => Err(BadStrategy::Type(field)),
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn rate(rate: f64) -> Rate {
        Rate::new(rate).unwrap()
    }

    #[test]
    fn strategies() {
        let operations = |rates: &[(&str, f64)], default, floor_per_minute| {
            let rates = rates.iter().map(|(name, share)| ((*name).to_owned(), rate(*share)));
            Strategy::PerOperation {
                rates: rates.collect(),
                default: rate(default),
                floor_per_minute,
            }
        };
        for (answer, expected) in [
            (
                r#"{"strategyType": "PROBABILISTIC", "probabilisticSampling": {"samplingRate": 0.8}}"#,
                Strategy::Share(rate(0.8)),
            ),
            // A default is not written, or as null.
            (r#"{"probabilisticSampling": {}}"#, Strategy::Share(rate(0.0))),
            (
                r#"{"strategyType": null, "probabilisticSampling": {"samplingRate": 1},
                    "rateLimitingSampling": null, "operationSampling": null}"#,
                Strategy::Share(rate(1.0)),
            ),
            // Numbers for names, as older servers write them.
            (
                r#"{"strategyType": 0, "probabilisticSampling": {"samplingRate": 5e-1}}"#,
                Strategy::Share(rate(0.5)),
            ),
            (
                r#"{"strategyType": 1, "rateLimitingSampling": {"maxTracesPerSecond": 5}}"#,
                Strategy::PerSecond(5.0),
            ),
            (
                r#"{"strategyType": "RATE_LIMITING", "rateLimitingSampling": {"maxTracesPerSecond": 0}}"#,
                Strategy::Share(Rate::NONE),
            ),
            // Operations come first, whatever the type; their upper bound is nobody's.
            (
                r#"{"strategyType": "RATE_LIMITING", "rateLimitingSampling": {"maxTracesPerSecond": 5},
                    "operationSampling": {"defaultSamplingProbability": 0.5,
                    "defaultUpperBoundTracesPerSecond": 1, "defaultLowerBoundTracesPerSecond": 0.1,
                    "perOperationStrategies": [
                        {"operation": "GET", "probabilisticSampling": {"samplingRate": 0.25}},
                        {"operation": "GET /a", "probabilisticSampling": {"samplingRate": 0}},
                        {"operation": "GET", "probabilisticSampling": {"samplingRate": 0.75}}]}}"#,
                operations(&[("GET", 0.75), ("GET /a", 0.0)], 0.5, Some(6.0)),
            ),
            (
                r#"{"operationSampling": {"perOperationStrategies": null}}"#,
                operations(&[], 0.0, None),
            ),
        ] {
            assert_eq!(Strategy::parse(answer.as_bytes()), Ok(expected), "{answer}");
        }
    }

    #[test]
    fn bad_answers_say_why() {
        let deep = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
        for (answer, why) in [
            ("", "it is not JSON"),
            (r#"{"probabilisticSampling": {"samplingRate": 1"#, "it is not JSON"),
            ("<html>", "it is not JSON"),
            (&deep, "it is not JSON"),
            ("[]", "it is not an object"),
            ("{}", "it has no probabilisticSampling"),
            (r#"{"strategyType": "RATE_LIMITING"}"#, "it has no rateLimitingSampling"),
            (
                r#"{"strategyType": 2}"#,
                "its strategyType is neither PROBABILISTIC nor RATE_LIMITING",
            ),
            (
                r#"{"strategyType": []}"#,
                "its strategyType is neither PROBABILISTIC nor RATE_LIMITING",
            ),
            (r#"{"probabilisticSampling": 1}"#, "its probabilisticSampling is of the wrong type"),
            (
                r#"{"probabilisticSampling": {"samplingRate": "1"}}"#,
                "its samplingRate is of the wrong type",
            ),
            (
                r#"{"probabilisticSampling": {"samplingRate": 1.5}}"#,
                "its samplingRate is out of range",
            ),
            (
                r#"{"probabilisticSampling": {"samplingRate": -1}}"#,
                "its samplingRate is out of range",
            ),
            (r#"{"probabilisticSampling": {"samplingRate": 1e999}}"#, "it is not JSON"),
            (
                r#"{"strategyType": 1, "rateLimitingSampling": {"maxTracesPerSecond": -1}}"#,
                "its maxTracesPerSecond is out of range",
            ),
            (
                r#"{"strategyType": 1, "rateLimitingSampling": {"maxTracesPerSecond": 1e10}}"#,
                "its maxTracesPerSecond is out of range",
            ),
            (r#"{"operationSampling": []}"#, "its operationSampling is of the wrong type"),
            (
                r#"{"operationSampling": {"perOperationStrategies": {}}}"#,
                "its perOperationStrategies is of the wrong type",
            ),
            (
                r#"{"operationSampling": {"perOperationStrategies": [1]}}"#,
                "its perOperationStrategies is of the wrong type",
            ),
            (r#"{"operationSampling": {"perOperationStrategies": [{}]}}"#, "it has no operation"),
            (
                r#"{"operationSampling": {"perOperationStrategies": [{"operation": 1}]}}"#,
                "its operation is of the wrong type",
            ),
            (
                r#"{"operationSampling": {"perOperationStrategies": [{"operation": "a"}]}}"#,
                "it has no probabilisticSampling",
            ),
            (
                r#"{"operationSampling": {"defaultSamplingProbability": 2}}"#,
                "its defaultSamplingProbability is out of range",
            ),
            (
                r#"{"operationSampling": {"defaultLowerBoundTracesPerSecond": -0.1}}"#,
                "its defaultLowerBoundTracesPerSecond is out of range",
            ),
        ] {
            let found = Strategy::parse(answer.as_bytes()).map_err(|why| why.to_string());
            assert_eq!(found, Err(why.to_owned()), "{answer}");
        }
    }
}
