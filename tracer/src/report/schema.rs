//! Checks that tests of every JSON format share.

use serde_json::{Value, json};

/// A validator for the schema in `text`.
pub(crate) fn validator(text: &str) -> jsonschema::Validator {
    let schema = serde_json::from_str(text).unwrap();
    assert!(jsonschema::meta::is_valid(&schema));
    jsonschema::validator_for(&schema).unwrap()
}

/// Panics unless every field of the schema in `text` is described and always there.
pub(crate) fn explains_every_field(text: &str) {
    walk("", &serde_json::from_str(text).unwrap());
}

fn walk(at: &str, value: &Value) {
    if let Some(fields) = value.get("properties").and_then(Value::as_object) {
        assert_eq!(value["additionalProperties"], json!(false), "{at}");
        let required = value["required"].as_array().unwrap();
        assert_eq!(required.len(), fields.len(), "{at}: every field is always there");
        for (name, field) in fields {
            assert!(field["description"].is_string(), "{at}/{name} says nothing");
        }
    }
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| walk(&format!("{at}/{k}"), v)),
        Value::Array(all) => all.iter().for_each(|v| walk(at, v)),
        _ => (),
    }
}
