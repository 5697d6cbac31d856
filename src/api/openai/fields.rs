//! Typed access to a JSON object. Every mistake names the field, what it should be and what it is.

use crate::wish::Invalid;
use serde_json::{Map, Value};

/// An object of the request and the path to it, for messages.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: &'a str,
}

impl<'a> Fields<'a> {
    pub(super) fn of(value: &'a Value, path: &'a str) -> Result<Fields<'a>, Invalid> {
        match value {
            Value::Object(map) => Ok(Fields { map, path }),
            other if path.is_empty() => Err(Invalid::malformed(
                "",
                format!("the body must be a JSON object, not {}", kind(other)),
            )),
            other => Err(wrong(path, "an object", other)),
        }
    }

    pub(super) fn name(&self, field: &str) -> String {
        if self.path.is_empty() {
            field.to_string()
        } else {
            format!("{}.{field}", self.path)
        }
    }

    /// A field that says something; null is silence.
    pub(super) fn get(&self, field: &str) -> Option<&'a Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    pub(super) fn required(&self, field: &str) -> Result<&'a Value, Invalid> {
        self.get(field).ok_or_else(|| {
            let name = self.name(field);
            Invalid::missing(&name, format!("{name} is missing"))
        })
    }

    pub(super) fn text(&self, field: &str) -> Result<Option<&'a str>, Invalid> {
        self.typed(field, "a string", Value::as_str)
    }

    pub(super) fn required_text(&self, field: &str) -> Result<&'a str, Invalid> {
        let value = self.required(field)?;
        value
            .as_str()
            .ok_or_else(|| wrong(&self.name(field), "a string", value))
    }

    pub(super) fn number(&self, field: &str) -> Result<Option<f64>, Invalid> {
        self.typed(field, "a number", Value::as_f64)
    }

    pub(super) fn flag(&self, field: &str) -> Result<Option<bool>, Invalid> {
        self.typed(field, "true or false", Value::as_bool)
    }

    pub(super) fn array(&self, field: &str) -> Result<Option<&'a Vec<Value>>, Invalid> {
        self.typed(field, "an array", Value::as_array)
    }

    /// A count: whole, not negative, at most 32 bits.
    pub(super) fn count(&self, field: &str) -> Result<Option<u32>, Invalid> {
        self.get(field)
            .map(|value| count(&self.name(field), value))
            .transpose()
    }

    fn typed<T>(
        &self,
        field: &str,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Invalid> {
        let value = self.get(field);
        value
            .map(|value| read(value).ok_or_else(|| wrong(&self.name(field), expected, value)))
            .transpose()
    }
}

pub(super) fn count(name: &str, value: &Value) -> Result<u32, Invalid> {
    if let Some(number) = value.as_u64().and_then(|n| u32::try_from(n).ok()) {
        return Ok(number);
    }
    match value {
        Value::Number(number) => {
            let message = format!("{name} must be a whole number, at least 0, not {number}");
            Err(Invalid::value(name, message))
        }
        other => Err(wrong(name, "a whole number", other)),
    }
}

pub(super) fn wrong(name: &str, expected: &str, got: &Value) -> Invalid {
    Invalid::malformed(
        name,
        format!("{name} must be {expected}, not {}", kind(got)),
    )
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
