//! `meshweft explain` as its users call it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says where it broke")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

const CONFIG: &str = "filter/cli/tests/testdata/explain.json";
const TRACE_ID: &str = "0af7651916cd43dd84eb211c80319c85";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn explain(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshweft"));
    command.arg("explain").args(arguments).current_dir(root()).stdin(Stdio::null());
    command.output().unwrap()
}

/// What is said of a request, with ids that are given.
#[track_caller]
fn said(config: &str, arguments: &[&str]) -> String {
    let given = ["--config", config, "--trace-id", TRACE_ID, "--now", "2026-07-01T18:00:00Z"];
    let output = explain(&[&given, arguments].concat());
    let note = String::from_utf8_lossy(&output.stderr);
    assert!(note.is_empty() || note.starts_with(&format!("{config}: 2 cel: ")), "{note}");
    assert_eq!(output.status.code(), Some(0));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn told(config: &str, arguments: &[&str]) -> Value {
    serde_json::from_str(&said(config, &[arguments, &["--json"]].concat())).unwrap()
}

#[test]
fn a_new_trace_by_a_rule() {
    let arguments = [
        "--request",
        "POST /orders/7/pay",
        "--host=shop.example",
        "--header",
        "X-Team: a",
        "--header",
        "b3: 0af7",
        "--header",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "--source",
        "10.0.0.1:80",
        "--direction",
        "outbound",
        "--property",
        "xds.route_name=orders",
    ];
    assert_eq!(said(CONFIG, &arguments), include_str!("testdata/rule.txt"));
}

#[test]
fn a_parent_and_a_rule_without_conditions() {
    let arguments = [
        "--request",
        "GET /",
        "--header",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
        "--header",
        "x-request-id: 6b3dbf4b-e1d4-9a3d-a4c5-3b8f0e7d4c21",
        "--source",
        "spiffe://cluster.local/ns/shop",
    ];
    assert_eq!(said(CONFIG, &arguments), include_str!("testdata/parent.txt"));
}

#[test]
fn json_has_all_of_it() {
    let arguments = [
        "--request",
        "POST /shop.Cart/Add?x",
        "--host",
        "api.outside.example",
        "--header",
        "content-type: application/grpc",
        "--header",
        "x-b3-sampled: 1",
        "--source",
        "spiffe://cluster.local/ns/shop",
    ];
    let expected: Value = serde_json::from_str(include_str!("testdata/grpc.json")).unwrap();
    assert_eq!(told(CONFIG, &arguments), expected);
}

#[test]
fn contexts_and_decisions_in_json() {
    let arguments = [
        "--request",
        "GET /healthz",
        "--header",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "--header",
        "tracestate: ot=th:8",
        "--header",
        "b3: x",
        "--source",
        "spiffe://cluster.local/ns/shop",
    ];
    let told = told(CONFIG, &arguments);
    assert_eq!(
        told["context"],
        json!([
            {"format": "b3", "found": "invalid", "why": "unknown b3 sampling state"},
            {
                "format": "tracecontext",
                "found": "context",
                "trace_id": "0af7651916cd43dd8448eb211c80319c",
                "parent_id": "b7ad6b7169203331",
                "decision": "sample",
                "taken": true,
            },
            {"format": "b3multi", "found": "absent"},
            {"format": "xray", "found": "absent"},
        ])
    );
    assert_eq!(told["outcome"], "sampled");
    assert_eq!(
        told["decision"],
        json!({
            "reason": "parent",
            "rule": "probes",
            "parent": "sample",
            "parent_policy": "respect",
            "rate": null,
            "threshold": null,
            "randomness": "48eb211c80319c",
            "limits": [],
            "trace_id": "0af7651916cd43dd8448eb211c80319c",
            "continued": true,
            "span_id": "1111111111111111",
        })
    );
}

#[test]
fn without_export_nothing_is_begun() {
    let arguments = ["--request", "GET /", "--host", "shop", "--header", "b3: 1"];
    assert_eq!(
        said("/dev/null", &arguments),
        "GET /, host shop, inbound\n\n\
         Context that came in\n  \
           tracecontext  absent\n  \
           b3            no ids, sampled; counts\n  \
           b3multi       absent\n\n\
         Decision\n  none: without export nothing is begun\n\n\
         Headers of the request\n    \
             :method: GET\n    \
             :path: /\n    \
             :authority: shop\n    \
             b3: 1\n"
    );
    let told = told("/dev/null", &arguments);
    assert_eq!((&told["outcome"], &told["decision"]), (&json!("passed_through"), &Value::Null));
    assert_eq!((&told["rules"], &told["filter_state"]), (&json!([]), &json!({})));
}

#[test]
fn a_second_instance_does_nothing() {
    let second = ["--request", "GET /", "--property", "meshweft.trace_id=1"];
    let text = said(CONFIG, &second);
    assert!(
        text.contains("\nDecision\n  none: another instance of the filter was there first\n"),
        "{text}"
    );
    assert_eq!(told(CONFIG, &second)["outcome"], "left_alone");
}

#[test]
fn the_mode_says_the_direction_before_the_listener_does() {
    let request = ["--request", "GET /", "--direction", "outbound"];
    for (mode, direction) in [("auto", "outbound"), ("gateway", "inbound")] {
        written(mode, &json!({"mode": mode}), |file| {
            assert_eq!(told(file, &request)["request"]["direction"], direction);
        });
    }
}

/// The path of a file with this configuration, while `with` runs.
fn written(name: &str, config: &Value, with: impl FnOnce(&str)) {
    let name = format!("{name}-{}.json", std::process::id());
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&file, config.to_string()).unwrap();
    with(file.to_str().unwrap());
    std::fs::remove_file(file).unwrap();
}

/// Nothing is decided about a try: its parent is what the instance before the router wrote, in any
/// format that this one knows.
#[test]
fn a_try_at_an_upstream_is_what_its_parent_is() {
    let config = json!({
        "mode": "upstream",
        "propagation": {"extract": ["tracecontext"], "inject": ["b3", "tracecontext"]},
        "export": {"cluster": "c"},
    });
    let parent = |flags: &str| {
        format!("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}")
    };
    let request = ["--request", "GET /", "--direction", "inbound", "--header"];
    let status = ["--status", "503"];
    written("upstream", &config, |file| {
        assert_eq!(
            said(file, &[&request[..], &[&parent("01")], &status].concat()),
            "GET /, without a host, a try at an upstream\n\n\
             Context that came in\n  \
               b3            absent\n  \
               tracecontext  trace 0af7651916cd43dd8448eb211c80319c, span b7ad6b7169203331, \
                 sampled; counts\n\n\
             Decision\n  sampled, because of parent\n  \
               parent      sampled, respected\n  \
               trace       0af7651916cd43dd8448eb211c80319c, continued\n  \
               span        1111111111111111\n\n\
             Headers of the request\n    \
                 :method: GET\n    \
                 :path: /\n  \
               - traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n  \
               + traceparent: 00-0af7651916cd43dd8448eb211c80319c-1111111111111111-01\n  \
               + b3: 0af7651916cd43dd8448eb211c80319c-1111111111111111-1-b7ad6b7169203331\n\n\
             Outcome\n  recorded in any case: it was sampled\n\n\
             Filter state, for access logs\n  \
               wasm.meshweft.tries: b7ad6b7169203331-1111111111111111\n"
        );
        let again = ["--property", "meshweft.tries=00f067aa0ba902b7-b7ad6b7169203331"];
        let again = told(file, &[&request[..], &[&parent("01")], &again].concat());
        assert_eq!(
            again["filter_state"],
            json!({"wasm.meshweft.tries": "00f067aa0ba902b7-1111111111111111"}),
            "of a second try"
        );
        for none in [parent("00"), "x-a: 1".to_owned(), "traceparent: 00-1".to_owned()] {
            let arguments = [&request[..], &[&none], &status].concat();
            let json = told(file, &arguments);
            assert_eq!(json["request"]["direction"], "upstream");
            let found = [&json["outcome"], &json["decision"], &json["keep"], &json["rules"]];
            assert_eq!(found, [&json!("no_parent"), &Value::Null, &Value::Null, &json!([])]);
            let said = said(file, &arguments);
            let (_, decision) = said.split_once("\nDecision\n").unwrap();
            assert!(
                decision.starts_with(
                    "  none: a try is recorded as the child of a span that is, and only so\n"
                ) && decision.ends_with(&format!("    {none}\n")),
                "{said}"
            );
        }
    });
    written("upstream-alone", &json!({"mode": "upstream"}), |file| {
        let json = told(file, &[&request[..], &[&parent("01")]].concat());
        assert_eq!(json["outcome"], "passed_through");
    });
}

/// The section of the explanation, without what stands in every one.
fn correlation(file: &str, arguments: &[&str]) -> String {
    let said = said(file, &[&["--request", "GET /"], arguments].concat());
    let (_, section) = said.split_once("\nCorrelation\n").unwrap_or_default();
    section.split("\n\n").next().unwrap().to_owned()
}

#[test]
fn what_is_remembered_and_looked_up() {
    let config = json!({
        "correlation": {"headers": ["x-request-id", "x-job"], "linger": "500ms"},
        "propagation": {"trust": [{"match": {"headers": {"x-b3-traceid": {"present": true}}},
            "trust": "link"}]},
        "export": {"cluster": "c"},
    });
    let long = format!("x-job: {}", "x".repeat(257));
    let parent = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let keys = ["--header", "x-request-id: 7", "--header", "X-Job: a\"b"];
    let inbound = ["--direction", "inbound"];
    let outbound = ["--direction", "outbound"];
    let headers = "  x-request-id  is a key: \"7\"\n  x-job         is a key: \"a\\\"b\"\n";
    written("correlation", &config, |file| {
        assert_eq!(
            correlation(file, &[&keys[..], &inbound, &["--header", parent]].concat()),
            format!(
                "{headers}  remembered until 500ms after its end: a call with the same and no \
                 context is its child"
            )
        );
        let looked_up = "  looked up; what is known there, the proxy alone can say: below is what \
            becomes of a call of which nothing is";
        for decision in [&[][..], &["--header", "x-b3-sampled: 1"], &["--header", "b3: x"]] {
            assert_eq!(
                correlation(file, &[&keys[..], &outbound, decision].concat()),
                format!("{headers}{looked_up}")
            );
        }
        for (more, why) in [
            (
                &[&outbound[..], &["--header", parent]].concat(),
                "not looked up: it brings a context",
            ),
            (
                &[&outbound[..], &["--header", "x-b3-traceid: 7"]].concat(),
                "not looked up: what it brings is not trusted",
            ),
            (
                &Vec::new(),
                "none: a listener without a direction is a gateway's (--direction tells of another)",
            ),
        ] {
            let said = correlation(file, &[&keys[..], more].concat());
            assert_eq!(said, format!("{headers}  {why}"));
        }
        for direction in [inbound, outbound] {
            let none = ["--header", "x-request-id: 7", "--header", "x-request-id: 7"];
            assert_eq!(
                correlation(file, &[&none[..], &["--header", &long], &direction].concat()),
                "  x-request-id  is no key: it stands there more than once\n  \
                   x-job         is no key: longer than 256 bytes\n  \
                   none: without a key"
            );
        }
        let one = ["--request", "GET /", "--direction", "outbound", "--header", "x-job:"];
        assert_eq!(
            told(file, &one)["correlation"],
            json!({"action": "none", "why": "no_key", "linger": "500ms", "infer": "off", "headers": [
                {"name": "x-request-id", "value": null, "why": "absent"},
                {"name": "x-job", "value": null, "why": "empty"},
            ]})
        );
        for (direction, action) in [("inbound", "remembered"), ("outbound", "looked_up")] {
            let one =
                ["--request", "GET /", "--direction", direction, "--header", "x-request-id: 7"];
            let told = told(file, &one);
            assert_eq!(told["correlation"]["action"], action);
            assert_eq!(
                told["correlation"]["headers"][0],
                json!({"name": "x-request-id", "value": "7", "why": null})
            );
        }
    });
}

#[test]
fn where_nothing_is_joined_nothing_is_said_of_it() {
    for (name, config) in [
        ("off", json!({"correlation": {"headers": []}, "export": {"cluster": "c"}})),
        ("gateway", json!({"mode": "gateway", "export": {"cluster": "c"}})),
        ("no-export", json!({})),
    ] {
        written(name, &config, |file| {
            let request = ["--direction", "inbound", "--header", "x-request-id: 7"];
            assert_eq!(correlation(file, &request), "");
            let request = [&["--request", "GET /"][..], &request].concat();
            assert_eq!(told(file, &request)["correlation"], Value::Null);
        });
    }
    // What is inferred needs no header.
    let config =
        json!({"correlation": {"headers": [], "infer": "best"}, "export": {"cluster": "c"}});
    written("infer", &config, |file| {
        assert_eq!(
            correlation(file, &["--direction", "outbound"]),
            "  none: without a key\n  infer best: a call without a known key is joined by what the \
             proxy has seen, here nothing"
        );
    });
}

#[test]
fn ids_are_random_unless_given() {
    let id = || {
        let config = "config-examples/production.json";
        let output = explain(&["--config", config, "--request", "GET /", "--json"]);
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        (told["decision"]["trace_id"].clone(), told["decision"]["span_id"].clone())
    };
    assert_ne!(id(), id());
}

/// What is told of each condition and what the filter found agree.
#[test]
fn the_rule_that_matched_is_the_first_whose_conditions_hold() {
    fn all_hold(rule: &Value) -> bool {
        rule["conditions"].as_array().unwrap().iter().all(|check| check["holds"] == true)
    }
    let requests: [&[&str]; 5] = [
        &["--request", "GET /healthz", "--host", "shop"],
        &["--request", "POST /orders/7/pay", "--header", "x-canary: 1"],
        &["--request", "GET /", "--header", "x-canary: 1", "--header", "x-debug: 1"],
        &["--request", "POST /shop.Cart/Add", "--header", "content-type: application/grpc"],
        &["--request", "GET /checkout/1", "--host", "edge.example"],
    ];
    let (mut matched, mut differed) = (0, 0);
    for file in std::fs::read_dir(root().join("config-examples")).unwrap() {
        let file = file.unwrap().path();
        let name = file.to_str().unwrap();
        if !name.ends_with(".json") {
            continue;
        }
        for request in requests {
            for rule in told(name, request)["rules"].as_array().unwrap() {
                match rule["result"].as_str().unwrap() {
                    "matches" => {
                        matched += 1;
                        assert!(all_hold(rule), "{name} {request:?} {rule}");
                    }
                    "differs" => {
                        differed += 1;
                        assert!(!all_hold(rule), "{name} {request:?} {rule}");
                    }
                    _ => {}
                }
            }
        }
    }
    assert!(matched > 5 && differed > 20, "{matched} {differed}");
}

#[test]
fn the_readme_shows_what_the_tool_says() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (_, block) = readme.split_once("```console\n$ target/meshweft explain ").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let (command, expected) = block.split_once("\n\n").unwrap();
    // The words of a shell: every other piece between quotes is quoted.
    let command = command.replace("\\\n", " ");
    let mut words = Vec::new();
    for (number, piece) in command.split('\'').enumerate() {
        if number % 2 == 0 {
            words.extend(piece.split_whitespace());
        } else {
            words.push(piece);
        }
    }
    let output = explain(&words);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

const KEEP: &str = "filter/cli/tests/testdata/keep.json";

/// What is said of the outcome of a request that ended so.
fn outcome(path: &str, ended: &[&str]) -> String {
    let request = format!("GET {path}");
    let said = said(KEEP, &[&["--request", &request], ended].concat());
    let (_, outcome) = said.split_once("\nOutcome\n").unwrap_or_default();
    outcome.split("\n\n").next().unwrap().trim_end().to_owned()
}

#[test]
fn an_outcome_keeps_or_not() {
    assert_eq!(outcome("/", &[]), "", "no outcome is told");
    assert_eq!(
        outcome("/", &["--status", "503", "--duration", "700ms", "--response-flags", "UF,URX"]),
        r#"  kept, because of errors
    yes  errors true: is "503" and "UF,URX"
    yes  status ["5xx",429]: is "503"
    no   response_flags ["UO"]: is "UF,URX"
    yes  slower_than "500ms": is "700ms""#
    );
    assert_eq!(
        outcome("/", &["--duration=500ms"]),
        r#"  not kept: no condition holds
    no   errors true: is "200"
    no   status ["5xx",429]: is "200"
    no   response_flags ["UO"]: is absent
    no   slower_than "500ms": is "500ms""#
    );
    let failed = ["--status", "503"];
    assert_eq!(outcome("/healthz", &failed), r#"  not kept: its rule says "keep": false"#);
    assert_eq!(outcome("/all", &failed), "  recorded in any case: it was sampled");
    let grpc = ["--header", "content-type: application/grpc", "--grpc-status", "UNAVAILABLE"];
    assert!(outcome("/", &grpc).starts_with("  kept, because of errors\n"));
}

#[test]
fn outcomes_in_json() {
    let arguments = ["--request", "GET /", "--status", "200", "--duration", "1s"];
    assert_eq!(
        told(KEEP, &arguments)["keep"],
        json!({"result": "kept", "reason": "slower_than", "conditions": [
            {"field": "errors", "asked": true, "seen": ["200"], "holds": false, "within": []},
            {"field": "status", "asked": ["5xx", 429], "seen": ["200"], "holds": false, "within": []},
            {"field": "response_flags", "asked": ["UO"], "seen": [], "holds": false, "within": []},
            {"field": "slower_than", "asked": "500ms", "seen": ["1s"], "holds": true, "within": []},
        ]})
    );
    let none = told(CONFIG, &["--request", "GET /healthz", "--status", "503"]);
    assert_eq!(none["keep"], json!({"result": "not_configured", "reason": null, "conditions": []}));
    assert_eq!(told(KEEP, &["--request", "GET /"])["keep"], Value::Null);
}

#[test]
fn wrong_usage_is_told() {
    let request = ["--config", "/dev/null", "--request", "GET /"];
    for (arguments, why) in [
        (&["--request", "GET /"][..], "--config FILE is missing"),
        (&["--config", "x"], "--request 'METHOD /path' is missing"),
        (&["--config"], "--config needs a value"),
        (&["x.json"], "x.json: no such option"),
        (&["--outcome", "503"], "--outcome: no such option"),
        (
            &[&request[..], &["--status", "99"]].concat(),
            "--status '99': must be a status from 100 to 599",
        ),
        (
            &[&request[..], &["--duration", "1.5s"]].concat(),
            "--duration '1.5s': must be a whole number with ms, s, m or h, such as 700ms",
        ),
        (
            &[&request[..], &["--grpc-status", "Unavailable"]].concat(),
            "--grpc-status 'Unavailable': must be a gRPC status, such as UNAVAILABLE or 14",
        ),
        (
            &[&request[..], &["--response-flags", "UF,XX"]].concat(),
            "--response-flags 'UF,XX': must be letters of Envoy's access logs, such as UF,URX",
        ),
        (
            &["--config", "x", "--request", "GET"],
            "--request 'GET': must be a method and a path, such as 'GET /orders'",
        ),
        (
            &["--config", "x", "--request", "GET orders"],
            "--request 'GET orders': must be a method and a path, such as 'GET /orders'",
        ),
        (
            &[&request[..], &["--header", "b3"]].concat(),
            "--header 'b3': must be a name and a value, such as 'x-team: pay'",
        ),
        (
            &[&request[..], &["--header", "Host: a"]].concat(),
            "--header 'Host: a': the host is given with --host",
        ),
        (
            &[&request[..], &["--property", "a"]].concat(),
            "--property 'a': must be a name and a value, such as xds.route_name=orders",
        ),
        (
            &[&request[..], &["--direction", "up"]].concat(),
            "--direction 'up': must be inbound or outbound",
        ),
        (
            &[&request[..], &["--trace-id", "1"]].concat(),
            "--trace-id '1': id of the wrong length: must be 32 digits of lower-case hex, \
             not all zero",
        ),
        (
            &[&request[..], &["--now", "today"]].concat(),
            "--now 'today': must be a time such as 2026-07-01T20:00:00+02:00",
        ),
        (&[&request[..], &["--json", "--json"]].concat(), "--json is given twice"),
    ] {
        let output = explain(arguments);
        let expected = format!("meshweft explain: {why}\nmeshweft help says what it takes.\n");
        assert_eq!(String::from_utf8_lossy(&output.stderr), expected);
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty(), "{why}");
    }
}

#[test]
fn expressions_are_unknown_unless_told() {
    const CEL: &str = "config-examples/cel.json";
    let request = ["--config", CEL, "--request", "POST /upload", "--trace-id", TRACE_ID];
    let note = "config-examples/cel.json: 2 cel: only Envoy compiles and evaluates it, so that it \
        is not checked here, and unknown where explain is not told of it by --cel\n";
    let of = |more: &[&str]| {
        let output = explain(&[&request[..], more].concat());
        assert_eq!(String::from_utf8_lossy(&output.stderr), note);
        String::from_utf8(output.stdout).unwrap()
    };
    let large = "request.size > 1048576";
    for (told, line, decision) in [
        (
            None,
            "    ?    cel \"request.size > 1048576\": unknown; --cel would say\n",
            "not sampled, because of default",
        ),
        (
            Some("false"),
            "    no   cel \"request.size > 1048576\"\n",
            "not sampled, because of default",
        ),
        (
            Some("true"),
            "    yes  cel \"request.size > 1048576\"\n",
            "sampled, because of rule:large",
        ),
    ] {
        let value = told.map(|told| format!("{told}: {large}"));
        let more: Vec<_> = value.iter().flat_map(|value| ["--cel", value]).collect();
        let text = of(&more);
        assert!(text.contains(line), "{text}");
        assert!(text.contains(decision), "{text}");
        let json: Value = serde_json::from_str(&of(&[&more[..], &["--json"]].concat())).unwrap();
        let expected = json!({"field": "cel", "asked": large, "seen": [],
            "holds": told.map(|told| told == "true"), "within": []});
        assert_eq!(json.pointer("/rules/0/conditions/1"), Some(&expected));
    }
    for (value, why) in [
        (
            "maybe: a",
            "--cel 'maybe: a': must be true or false and an expression, such as 'true: a == b'",
        ),
        ("true: a", "--cel \"a\": the configuration has no such cel"),
    ] {
        let output = explain(&[&request[..], &["--cel", value]].concat());
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(err.contains(&format!("meshweft explain: {why}\n")), "{err}");
        assert_eq!(output.status.code(), Some(2));
    }
}

#[test]
fn a_configuration_that_is_not_valid_is_not_explained() {
    let output = explain(&["--config", "README.md", "--request", "GET /"]);
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "README.md: configuration: line 1, column 1: not JSON: expected value\n"
    );
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    let output = explain(&["--config", "/nonexistent/x.json", "--request", "GET /"]);
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(err.starts_with("/nonexistent/x.json: cannot be read: "), "{err}");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
}
