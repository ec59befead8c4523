//! The JSON schema of events, and the fields that filters may name; both come from the views alone.

use crate::view::EventView;
use schemars::generate::SchemaSettings;
use serde_json::Value;
use std::{collections::BTreeMap, fmt, sync::LazyLock};

/// The JSON schema (draft 2020-12) of one event.
pub fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let generated = settings.into_generator().into_root_schema_for::<EventView<'_>>();
    let mut schema = generated.to_value();
    // No payload, as an event of a later version has it, would let a wrong one pass as well; and a reader
    // looks for all keys in one place.
    let payloads: Vec<_> = payloads(&schema).collect();
    if let Some(root) = schema.as_object_mut() {
        root.remove("anyOf");
        root.remove("oneOf");
        if let Some(Value::Object(properties)) = root.get_mut("properties") {
            properties.extend(payloads);
        }
    }
    schema
}

/// The keys of payloads with their schemas, wherever they are offered for choice.
fn payloads(schema: &Value) -> Box<dyn Iterator<Item = (String, Value)> + '_> {
    let choices = ["anyOf", "oneOf"].into_iter().filter_map(|of| schema[of].as_array()).flatten();
    Box::new(choices.flat_map(|choice| {
        let own = choice["properties"].as_object().into_iter().flatten();
        own.map(|(key, it)| (key.clone(), it.clone())).chain(payloads(choice))
    }))
}

/// What a value of an event is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Type {
    Bool,
    Number,
    Text,
    List(Box<Type>),
    /// From text to text.
    Map,
    Object(Fields),
}

/// The fields of an object by name.
pub(crate) type Fields = BTreeMap<String, Type>;

/// The fields of an event: what every one has, and a payload a kind.
pub(crate) static FIELDS: LazyLock<Fields> = LazyLock::new(|| {
    let schema = schema();
    object(&schema, &schema)
});

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "true or false",
            Self::Number => "a number",
            Self::Text => "text",
            Self::List(_) => "a list",
            Self::Map => "a map",
            Self::Object(_) => "an object",
        })
    }
}

/// The object that a schema describes.
fn object(root: &Value, schema: &Value) -> Fields {
    let properties = schema["properties"].as_object().into_iter().flatten();
    properties.map(|(name, field)| (name.clone(), type_of(root, field))).collect()
}

fn resolved<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let target = schema["$ref"].as_str().and_then(|path| root.pointer(path.strip_prefix('#')?));
    target.unwrap_or(schema)
}

fn type_of(root: &Value, schema: &Value) -> Type {
    let schema = resolved(root, schema);
    let is_null = |it: &Value| it.as_str().or(it["type"].as_str()) == Some("null");
    if let Some(choice) = schema["anyOf"].as_array().filter(|it| it.iter().any(is_null)) {
        return type_of(root, choice.iter().find(|it| !is_null(it)).unwrap_or(schema));
    }
    let named = match &schema["type"] {
        Value::Array(names) => names.iter().find(|it| !is_null(it)).and_then(Value::as_str),
        name => name.as_str(),
    };
    match named {
        Some("boolean") => Type::Bool,
        Some("integer" | "number") => Type::Number,
        Some("array") => Type::List(Box::new(type_of(root, &schema["items"]))),
        Some("object") if schema["additionalProperties"].is_object() => Type::Map,
        Some("object") => Type::Object(object(root, schema)),
        _ => Type::Text,
    }
}
