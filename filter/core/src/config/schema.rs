//! The JSON Schema (2020-12) of the configuration, made of the table that the parser reads by.

use serde_json::{Map, Value, json};

use super::fields::{
    CIDR_PATTERN, CLUSTER, CONFIDENCE, CONFIG, FORMS, Field, Integer, Kind, LABEL, MATCH,
    MAX_ANY_OF, MAX_ATTRIBUTES, MAX_COLLECTORS, MAX_HEADERS, MAX_VALUE, OWN_ATTRIBUTES,
    OWN_HEADERS, PATTERN, PERIOD_PATTERN, SOURCE_FORMS, STATUS_PATTERN, TAKEN_HEADERS, TARGET,
    TIME_PATTERN, Text, VALUE_PATTERN,
};
use super::text::NAME_PATTERN;

/// The schema.
///
/// It cannot say what the parser checks beside it: bounds of durations, fields that bound one
/// another, need one another or exclude one another, unique names of rules, items of
/// `propagation.trust` that are never asked, an empty `not`, templates that match the same paths,
/// that an attribute has one source, names of credentials, where a matched path begins, what a
/// peer can be, days that a month does not have, the syntax and the size of a regex, how many expressions there are and whether they compile, environment
/// variables, duplicate keys.
#[must_use]
pub fn schema() -> Value {
    let mut schema = Map::new();
    put(&mut schema, "$schema", "https://json-schema.org/draft/2020-12/schema");
    put(&mut schema, "title", "Meshweft");
    put(&mut schema, "description", "Configuration of the Meshweft tracing filter.");
    if let Value::Object(fields) = object(CONFIG, &[]) {
        schema.extend(fields);
    }
    put(
        &mut schema,
        "$defs",
        json!({
            "match": object(MATCH, &[]),
            "matcher": matcher("#/$defs/form"),
            "form": form(FORMS),
            "source": matcher("#/$defs/source_form"),
            "source_form": form(SOURCE_FORMS),
        }),
    );
    Value::Object(schema)
}

fn object(fields: &[Field], required: &[&str]) -> Value {
    let properties: Map<String, Value> =
        fields.iter().map(|field| (field.name.to_owned(), property(field))).collect();
    let mut object = Map::new();
    put(&mut object, "type", "object");
    put(&mut object, "additionalProperties", false);
    put(&mut object, "properties", properties);
    if !required.is_empty() {
        put(&mut object, "required", json!(required));
    }
    Value::Object(object)
}

fn property(field: &Field) -> Value {
    let mut value = shape(&field.kind);
    if let Value::Object(value) = &mut value {
        put(value, "description", field.about);
    }
    value
}

fn shape(kind: &Kind) -> Value {
    match kind {
        Kind::Attributes => json!({
            "type": "object",
            "maxProperties": MAX_ATTRIBUTES,
            "propertyNames": {
                "minLength": 1, "maxLength": LABEL.max, "not": {"enum": OWN_ATTRIBUTES}
            },
            "additionalProperties": shape(&Kind::Scalar),
            "default": {},
        }),
        Kind::Bool { default } => json!({"type": "boolean", "default": default}),
        Kind::Choice { of, default: None } => json!({"enum": of}),
        Kind::Choice { of, default } => json!({"enum": of, "default": default}),
        Kind::Choices { of, default } => json!({
            "type": "array", "items": {"enum": of}, "uniqueItems": true, "default": default
        }),
        Kind::Cluster => cluster(),
        Kind::Clusters => {
            let several = json!({
                "type": "array", "items": cluster(), "minItems": 1, "maxItems": MAX_COLLECTORS,
                "uniqueItems": true,
            });
            json!({"anyOf": [cluster(), several]})
        }
        Kind::Either { words, default, or } => {
            let mut schema = Map::new();
            put(&mut schema, "anyOf", json!([{"enum": words}, shape(or)]));
            if let Some(default) = default {
                put(&mut schema, "default", *default);
            }
            Value::Object(schema)
        }
        Kind::Headers => json!({
            "type": "object",
            "maxProperties": MAX_HEADERS,
            "propertyNames": {"pattern": NAME_PATTERN, "not": {"enum": OWN_HEADERS}},
            "additionalProperties": {
                "type": "string", "maxLength": MAX_VALUE, "pattern": VALUE_PATTERN
            },
            "default": {},
        }),
        Kind::Integer(range) => integer(range),
        Kind::List { of, max, unique, empty_by_default } => {
            let mut schema = Map::new();
            put(&mut schema, "type", "array");
            put(&mut schema, "maxItems", *max);
            put(&mut schema, "items", shape(of));
            if *unique {
                put(&mut schema, "uniqueItems", true);
            }
            if *empty_by_default {
                put(&mut schema, "default", json!([]));
            }
            Value::Object(schema)
        }
        Kind::Match => json!({"$ref": "#/$defs/match"}),
        Kind::Matcher => json!({"$ref": "#/$defs/matcher"}),
        Kind::Matchers => json!({
            "type": "object",
            "maxProperties": MAX_HEADERS,
            "propertyNames": {"pattern": NAME_PATTERN, "not": {"const": "host"}},
            "additionalProperties": {"$ref": "#/$defs/matcher"},
            "default": {},
        }),
        Kind::Names { of, max, default } => json!({
            "type": "array", "maxItems": max, "items": text(of), "uniqueItems": true,
            "default": default
        }),
        Kind::Object { fields, required } => object(fields, required),
        Kind::OptionalPeriod => json!({"type": "string", "pattern": PERIOD_PATTERN}),
        Kind::Period(range) => json!({
            "type": "string", "pattern": PERIOD_PATTERN, "default": range.default
        }),
        Kind::PeriodIfAny => json!({"type": "string", "pattern": PERIOD_PATTERN}),
        Kind::Confidence => {
            json!({"type": "number", "minimum": 0.5, "maximum": 1, "default": CONFIDENCE})
        }
        Kind::AboveZero => json!({"type": "number", "exclusiveMinimum": 0}),
        Kind::Rate { default: None } => json!({"type": "number", "minimum": 0, "maximum": 1}),
        Kind::Rate { default } => {
            json!({"type": "number", "minimum": 0, "maximum": 1, "default": default})
        }
        Kind::ResponseHeader => {
            let taken = format!("^({})", TAKEN_HEADERS.join("|"));
            json!({
                "type": "string",
                "allOf": [{"pattern": NAME_PATTERN}, {"pattern": "^x-|trace"}],
                "not": {"pattern": taken},
            })
        }
        Kind::Scalar => {
            json!({"anyOf": [text(&LABEL), {"type": "number"}, {"type": "boolean"}]})
        }
        Kind::Secret => json!({
            "type": "string", "minLength": 1, "maxLength": MAX_VALUE, "pattern": VALUE_PATTERN
        }),
        Kind::Source => json!({"$ref": "#/$defs/source"}),
        Kind::Status => json!({"anyOf": [
            {"type": "integer", "minimum": 100, "maximum": 599},
            {"type": "string", "pattern": STATUS_PATTERN},
        ]}),
        Kind::Text(bounds) => text(bounds),
        Kind::Time => json!({"type": "string", "pattern": TIME_PATTERN}),
    }
}

fn cluster() -> Value {
    json!({
        "anyOf": [text(&CLUSTER), object(TARGET, &["service", "port"])],
        "not": {"type": "string", "pattern": "://"},
    })
}

fn integer(range: &Integer) -> Value {
    let mut schema = json!({"type": "integer", "minimum": range.min, "maximum": range.max});
    if let (Some(default), Value::Object(schema)) = (range.default, &mut schema) {
        put(schema, "default", default);
    }
    schema
}

fn text(bounds: &Text) -> Value {
    let mut schema = Map::new();
    put(&mut schema, "type", "string");
    put(&mut schema, "minLength", 1);
    put(&mut schema, "maxLength", bounds.max);
    if let Some(pattern) = bounds.pattern {
        put(&mut schema, "pattern", pattern);
    }
    if let Some(default) = bounds.default {
        put(&mut schema, "default", default);
    }
    Value::Object(schema)
}

/// A form, or any of a list of forms.
fn matcher(form: &str) -> Value {
    let form = json!({"$ref": form});
    let list = json!({"type": "array", "minItems": 1, "maxItems": MAX_ANY_OF, "items": form});
    json!({"anyOf": [form, list]})
}

/// A string, or an object of exactly one of `forms`.
fn form(forms: &[&str]) -> Value {
    let exact = json!({"type": "string", "maxLength": PATTERN.max});
    let mut properties = Map::new();
    for name in forms {
        let shape = match *name {
            "cidr" => json!({"type": "string", "pattern": CIDR_PATTERN}),
            "exact" => exact.clone(),
            "present" => json!({"type": "boolean"}),
            _ => text(&PATTERN),
        };
        put(&mut properties, name, shape);
    }
    let object = json!({
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": false,
        "properties": properties,
    });
    json!({"anyOf": [exact, object]})
}

fn put(map: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    map.insert(key.to_owned(), value.into());
}
