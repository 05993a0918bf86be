//! As much of JSON Schema (2020-12) as the files in `docs/schemas` use.

use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The keywords that are understood; a schema with another one is a mistake here.
const KEYWORDS: [&str; 15] = [
    "$schema",
    "$defs",
    "$ref",
    "title",
    "description",
    "type",
    "enum",
    "const",
    "minimum",
    "required",
    "properties",
    "items",
    "additionalProperties",
    "allOf",
    "format",
];

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schemas")
}

/// One schema file.
pub struct Schema {
    root: Value,
}

impl Schema {
    /// `docs/schemas/NAME.json`.
    pub fn load(name: &str) -> Self {
        let path = dir().join(format!("{name}.json"));
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self {
            root: serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display())),
        }
    }

    /// Everything that is wrong with `value`, with its place; members that no schema speaks of count as wrong.
    pub fn problems(&self, value: &Value) -> Vec<String> {
        let mut problems = Vec::new();
        let mut known = BTreeSet::new();
        self.check(&self.root, value, "$", &mut problems, &mut known);
        unknown(value, "$", &known, &mut problems);
        problems
    }

    fn check(
        &self,
        schema: &Value,
        value: &Value,
        at: &str,
        problems: &mut Vec<String>,
        known: &mut BTreeSet<String>,
    ) {
        let empty = Map::new();
        let schema = schema.as_object().unwrap_or(&empty);
        for keyword in schema.keys().filter(|keyword| !KEYWORDS.contains(&keyword.as_str())) {
            problems.push(format!("{at}: the schema uses {keyword}, which is not understood here"));
        }
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            match reference.strip_prefix("#/$defs/") {
                Some(name) => self.check(&self.root["$defs"][name], value, at, problems, known),
                None => {
                    let other = Self::load(reference.trim_end_matches(".json"));
                    other.check(&other.root, value, at, problems, known);
                }
            }
        }
        for part in schema.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            self.check(part, value, at, problems, known);
        }
        if let Some(types) = schema.get("type") {
            let is = |name: &Value| name.as_str().is_some_and(|name| has_type(value, name));
            if !types.as_array().map_or_else(|| is(types), |types| types.iter().any(is)) {
                problems.push(format!("{at}: {value} is not of type {types}"));
            }
        }
        if schema.get("enum").and_then(Value::as_array).is_some_and(|values| !values.contains(value)) {
            problems.push(format!("{at}: {value} is none of {}", schema["enum"]));
        }
        if schema.get("const").is_some_and(|only| only != value) {
            problems.push(format!("{at}: {value} is not {}", schema["const"]));
        }
        if let (Some(minimum), Some(number)) = (schema.get("minimum").and_then(Value::as_f64), value.as_f64())
            && number < minimum
        {
            problems.push(format!("{at}: {value} is below {minimum}"));
        }
        if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
            for (index, value) in values.iter().enumerate() {
                self.check(items, value, &format!("{at}[{index}]"), problems, known);
            }
        }
        if let Some(members) = value.as_object() {
            for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
                let name = name.as_str().unwrap_or_default();
                if !members.contains_key(name) {
                    problems.push(format!("{at}: {name} is missing"));
                }
            }
            let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
            for (name, value) in members {
                let place = format!("{at}.{name}");
                let property = properties.get(name).or(schema.get("additionalProperties"));
                if let Some(property) = property {
                    known.insert(place.clone());
                    self.check(property, value, &place, problems, known);
                }
            }
        }
    }
}

fn has_type(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.is_u64() || value.is_i64(),
        _ => false,
    }
}

fn unknown(value: &Value, at: &str, known: &BTreeSet<String>, problems: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let place = format!("{at}.{name}");
                if known.contains(&place) {
                    unknown(value, &place, known, problems);
                } else {
                    problems.push(format!("{place}: the schema does not speak of it"));
                }
            }
        }
        Value::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                unknown(value, &format!("{at}[{index}]"), known, problems);
            }
        }
        _ => {}
    }
}

#[test]
fn the_validator_finds_what_is_wrong() {
    let schema = Schema::load("vlog");
    let good = serde_json::json!({"buckets": [{"bucket": 0, "active_fid": 2, "head": {"fid": 2, "offset": 9}, "segments": [1], "total_bytes": 9, "live_bytes": 4, "values": 1}]});
    assert_eq!(schema.problems(&good), Vec::<String>::new());
    let bad = serde_json::json!({"buckets": [{"bucket": -1, "active_fid": "2", "head": {"fid": 2}, "segments": [1], "more": 1}]});
    let problems = schema.problems(&bad);
    for part in [
        "bucket: -1 is below 0",
        "active_fid: \"2\" is not of type",
        "offset is missing",
        "more: the schema does not",
    ] {
        assert!(problems.iter().any(|problem| problem.contains(part)), "{part} in {problems:#?}");
    }
    assert_eq!(Schema::load("vlog").problems(&serde_json::json!({}))[0], "$: buckets is missing");
}
