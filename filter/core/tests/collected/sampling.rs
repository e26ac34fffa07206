//! Collected vectors of probability sampling: each list has a shape of its own.

use meshweft_core::config::Rate;
use meshweft_core::propagation::TraceState;
use meshweft_core::sampling::{OtMember, Randomness, Threshold};
use serde_json::{Value, json};

/// The lists of the file, with what checks a case of each.
const LISTS: &[(&str, Check)] = &[
    ("parse_ot_value", read),
    ("round_trip_ot_value", written_again),
    ("probability_to_threshold", of_a_rate),
    ("threshold_to_probability", to_a_rate),
    ("threshold_greater", greater),
    ("th_syntax", syntax),
    ("rv_syntax", syntax),
    ("decision", decided),
    ("sampler", sampled),
    ("forward", forwarded),
    ("update", updated),
    ("parse_tracestate", read_from_state),
];

/// What stands in the file beside them. `set_value` is of other keys than `th`, which no one here
/// sets.
const OTHERS: &[&str] = &["about", "format", "set_value", "sources"];

/// What we do otherwise, and why.
const CHOICES: &[(&str, &str)] = &[
    (
        "always on, no parent randomness",
        "a request with a parent gains no member that it did not bring",
    ),
    (
        "parent threshold, consistent: the sampled flag is not looked at",
        "the parent's decision is its flag; a threshold that says otherwise is not believed",
    ),
];

type Check = fn(&Value);

#[test]
fn cases() {
    let Some(folder) = super::folder() else { return };
    let suite = super::suite(&folder, "sampling");
    for name in suite.as_object().unwrap().keys() {
        let known = LISTS.iter().any(|(list, _)| list == name) || OTHERS.contains(&&**name);
        assert!(known, "{name} is not run");
    }
    for (list, check) in LISTS {
        let cases = suite[list].as_array().unwrap();
        assert!(!cases.is_empty(), "{list} has no case");
        for case in cases {
            // Said only where the test fails.
            println!("{list}: {case}");
            check(case);
        }
    }
}

fn threshold(text: &Value) -> Option<Threshold> {
    text.as_str().map(|text| Threshold::from_hex(text).unwrap())
}

fn randomness(text: &Value) -> Option<Randomness> {
    text.as_str().map(|text| Randomness::from_hex(text).unwrap())
}

fn rate(probability: &Value) -> Option<Rate> {
    Rate::new(probability.as_f64().unwrap())
}

fn bits(threshold: Threshold) -> u64 {
    u64::from_str_radix(&format!("{:0<14}", threshold.to_string()), 16).unwrap()
}

/// The parts of a member, in any order.
fn parts(member: &str) -> Vec<&str> {
    let mut parts: Vec<&str> = member.split(';').filter(|part| !part.is_empty()).collect();
    parts.sort_unstable();
    parts
}

fn read(case: &Value) {
    let mut member = OtMember::parse(case["in"].as_str().unwrap());
    let said = (threshold(&case["th"]), randomness(&case["rv"]));
    assert_eq!((member.threshold, member.randomness), said);
    if case["error"].is_null() {
        (member.threshold, member.randomness) = (None, None);
        let extra: Vec<&str> =
            case["extra"].as_array().unwrap().iter().map(|part| part.as_str().unwrap()).collect();
        assert_eq!(member.to_string(), extra.join(";"));
    }
}

fn written_again(case: &Value) {
    let list = format!("ot={}", case["in"].as_str().unwrap());
    // What is too long for a member is none.
    let state = TraceState::parse([list.as_bytes()]).unwrap_or_default();
    let member = OtMember::of(&state).unwrap_or_default();
    assert_eq!(member.to_string(), case["out"].as_str().unwrap());
}

fn of_a_rate(case: &Value) {
    let exact = rate(&case["probability"]).and_then(Threshold::exact);
    if case["error"] == "range" || case["note"] == "never" {
        assert_eq!(exact, None);
        return;
    }
    let exact = exact.unwrap();
    if let Some(full) = threshold(&case["th_full"]) {
        // Taken from 1 - p, which is rounded.
        let slack = if case["source"] == "datadog" { 4 } else { 0 };
        assert!(bits(exact).abs_diff(bits(full)) <= slack, "{exact}");
    }
    if let Some(expected) = case["threshold"].as_u64() {
        assert_eq!(bits(exact), expected);
    }
    for precision in 3..=5 {
        if let Some(text) = case[format!("th_precision_{precision}")].as_str() {
            assert_eq!(exact.rounded(precision).to_string(), text);
        }
    }
    if let Some(text) = case["th_precision_4"].as_str() {
        assert_eq!(Threshold::of(rate(&case["probability"]).unwrap()).unwrap().to_string(), text);
    }
}

fn to_a_rate(case: &Value) {
    let threshold = threshold(&case["th"]).unwrap();
    let probability = match case["adjusted_count"].as_f64() {
        Some(count) => 1.0 / count,
        None => case["probability"].as_f64().unwrap(),
    };
    assert_eq!(Threshold::exact(Rate::new(probability).unwrap()), Some(threshold));
}

fn greater(case: &Value) {
    assert_eq!(threshold(&case["a"]) > threshold(&case["b"]), case["greater"] == true);
}

fn syntax(case: &Value) {
    let valid = match case["th"].as_str() {
        Some(text) => Threshold::from_hex(text).is_some(),
        None => Randomness::from_hex(case["rv"].as_str().unwrap()).is_some(),
    };
    assert_eq!(valid, case["valid"] == true);
}

fn decided(case: &Value) {
    let randomness = randomness(&case["rv"])
        .unwrap_or_else(|| Randomness::of(super::trace_id(case["trace_id"].as_str().unwrap())));
    assert_eq!(threshold(&case["th"]).unwrap().keeps(randomness), case["sampled"] == true);
}

/// The samplers of SDKs, as configurations of ours.
fn sampled(case: &Value) {
    let name = case["name"].as_str().unwrap();
    let sampling = match case["sampler"].as_str().unwrap() {
        "always_on" => json!({"rate": 1, "parent": "ignore"}),
        "always_off" => json!({"rate": 0, "parent": "ignore"}),
        "parent_threshold(always_on)" => json!({"rate": 1}),
        "probability(0.5)" => json!({"rate": 0.5, "parent": "ignore"}),
        "probability(1.0)" => json!({"rate": 1, "parent": "ignore"}),
        other => panic!("{other}"),
    };
    let flag = if case["parent_sampled"] == true { "01" } else { "00" };
    let id = case["trace_id"].as_str().unwrap();
    let mut headers = vec![("traceparent".to_owned(), format!("00-{id}-00f067aa0ba902b7-{flag}"))];
    let before = member(&case["parent_ot"]);
    if !before.is_empty() {
        headers.push(("tracestate".to_owned(), format!("ot={before}")));
    }
    let (sampled, state) = super::served(&sampling, &headers);
    let same = sampled == (case["sampled"] == true) && ot_of(state) == member(&case["ot_out"]);
    let chosen = CHOICES.iter().any(|(other, _)| *other == name);
    assert_eq!(same, !chosen, "{sampled}");
}

fn forwarded(case: &Value) {
    let headers: Vec<(String, String)> = serde_json::from_value(case["headers"].clone()).unwrap();
    let (sampled, state) = super::served(&json!({}), &headers);
    let mut expected = case["ot_out"].clone();
    if case.get("disputed").is_some() {
        // As the specification has it, and not Datadog: what is not sampled has no threshold.
        assert!(!sampled);
        expected.as_object_mut().unwrap().remove("th");
    }
    for kept in case["keeps"].as_array().into_iter().flatten() {
        let kept = kept.as_str().unwrap();
        let list = state.as_deref().unwrap();
        assert!(list.split(',').any(|member| member == kept), "{kept} is gone from {list}");
    }
    assert_eq!(ot_of(state), member(&expected));
}

/// Those that raise a threshold, as a decision of ours may; a lower one is refused by a sampler
/// that stands behind another, and ours is none.
fn updated(case: &Value) {
    if case.get("error").is_some() {
        return;
    }
    let list = format!("ot={}", case["in"].as_str().unwrap());
    let state = TraceState::parse([list.as_bytes()]).unwrap_or_default();
    let threshold = rate(&case["probability"]).and_then(Threshold::exact);
    let after = OtMember::of(&state).unwrap_or_default().write(&state, threshold);
    assert_eq!(parts(after.get("ot").unwrap()), parts(case["out"].as_str().unwrap()));
}

fn read_from_state(case: &Value) {
    let state = TraceState::parse([case["in"].as_str().unwrap().as_bytes()]);
    assert_eq!(state.is_ok(), case["valid"] == true);
    let state = state.unwrap_or_default();
    let member = OtMember::of(&state).unwrap_or_default();
    let said = (threshold(&case["th"]), randomness(&case["rv"]));
    assert_eq!((member.threshold, member.randomness), said);
    for (key, value) in case["other"].as_object().unwrap() {
        assert_eq!(state.get(key), value.as_str());
    }
}

/// The member `ot` of what goes on, its parts in alphabetical order.
fn ot_of(state: Option<String>) -> String {
    let list = state.unwrap_or_default();
    let ot = list.split(',').find_map(|member| member.strip_prefix("ot="));
    parts(ot.unwrap_or_default()).join(";")
}

/// The member that says this, its parts in alphabetical order.
fn member(said: &Value) -> String {
    let said = said.as_object().unwrap();
    let mut parts: Vec<String> =
        said.iter().map(|(key, value)| format!("{key}:{}", value.as_str().unwrap())).collect();
    parts.sort_unstable();
    parts.join(";")
}
