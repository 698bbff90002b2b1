//! A request's body, field by field.
//!
//! The one idea: every field is taken once, by name and type; what is left at the end is unknown, and refused by its name. So
//! nothing that a client asks for is passed over.

use super::refusal::Refusal;
use axum::http::StatusCode;
use serde_json::{Map, Value};

/// What is left of a body.
#[derive(Debug)]
pub struct Fields(Map<String, Value>);

impl Fields {
    /// A body's fields; those that hold null are absent.
    ///
    /// # Errors
    /// 400 when it is no JSON object.
    pub fn read(body: &[u8]) -> Result<Fields, Refusal> {
        let bad = |what: String| Refusal::new(StatusCode::BAD_REQUEST, what);
        let value = serde_json::from_slice(body).map_err(|e| bad(format!("the body is not JSON: {e}")))?;
        let Value::Object(map) = value else {
            return Err(bad(format!("the body must be a JSON object, is {}", kind(&value))));
        };
        Ok(Fields::of(map))
    }

    /// The fields of an object inside of a body.
    pub fn of(map: Map<String, Value>) -> Fields {
        Fields(map.into_iter().filter(|(_, value)| !value.is_null()).collect())
    }

    /// Takes a field of any type.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.0.shift_remove(name)
    }

    /// Takes a number.
    ///
    /// # Errors
    /// 400 when it is none.
    pub fn float(&mut self, name: &str) -> Result<Option<f32>, Refusal> {
        self.typed(name, "a number", |value| value.as_f64().map(|x| x as f32))
    }

    /// Takes a whole number, 0 or more.
    ///
    /// # Errors
    /// 400 when it is none.
    pub fn whole(&mut self, name: &str) -> Result<Option<u64>, Refusal> {
        self.typed(name, "a whole number, 0 or more", Value::as_u64)
    }

    /// Takes a whole number of 64 bits, with a sign or without; its bits.
    ///
    /// # Errors
    /// 400 when it is none.
    pub fn seed(&mut self, name: &str) -> Result<Option<u64>, Refusal> {
        let bits = |value: &Value| value.as_u64().or_else(|| value.as_i64().map(|n| n as u64));
        self.typed(name, "a whole number of 64 bits", bits)
    }

    /// Takes true or false; false where it is absent.
    ///
    /// # Errors
    /// 400 when it is neither.
    pub fn flag(&mut self, name: &str) -> Result<bool, Refusal> {
        Ok(self.typed(name, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    /// Takes a string.
    ///
    /// # Errors
    /// 400 when it is none.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, Refusal> {
        self.typed(name, "a string", |value| value.as_str().map(String::from))
    }

    /// Takes an object.
    ///
    /// # Errors
    /// 400 when it is none.
    pub fn object(&mut self, name: &str) -> Result<Option<Map<String, Value>>, Refusal> {
        self.typed(name, "an object", |value| value.as_object().cloned())
    }

    fn typed<T>(&mut self, name: &str, want: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>, Refusal> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let got = read(&value);
        got.map(Some).ok_or_else(|| Refusal::of_field(name, format!("`{name}` must be {want}, is {}", kind(&value))))
    }

    /// Takes a field that we do not compute, at the one value where it changes nothing.
    ///
    /// # Errors
    /// 400 at any other value.
    pub fn neutral(&mut self, name: &str, plain: &[Value]) -> Result<(), Refusal> {
        let Some(value) = self.take(name) else { return Ok(()) };
        let same = |plain: &Value| *plain == value || plain.as_f64().is_some() && plain.as_f64() == value.as_f64();
        if plain.iter().any(same) {
            return Ok(());
        }
        let but = plain.first().map_or(String::new(), |plain| format!(" but for {plain}"));
        let what = format!("`{name}` is not supported{but}: leave it out");
        Err(Refusal::of_field(name, what).with_code("unsupported_field"))
    }

    /// Refuses what nobody took.
    ///
    /// # Errors
    /// 400 that names the unknown fields.
    pub fn end(self) -> Result<(), Refusal> {
        let left: Vec<String> = self.0.keys().map(|name| format!("`{name}`")).collect();
        let Some(first) = self.0.keys().next() else { return Ok(()) };
        let what = format!("unknown field{} {}", if left.len() > 1 { "s" } else { "" }, left.join(", "));
        Err(Refusal::of_field(first, what).with_code("unknown_field"))
    }
}

/// A value's type, in words.
pub fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) => "true or false".into(),
        Value::Number(n) => n.to_string(),
        Value::String(_) => "a string".into(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(value: Value) -> Fields {
        Fields::read(value.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn what_nobody_takes_is_named() {
        let mut some = fields(json!({"a": 1, "b": null, "tempreature": 1, "c": {}}));
        assert_eq!((some.whole("a"), some.take("b")), (Ok(Some(1)), None));
        let refusal = some.end().unwrap_err();
        assert_eq!(refusal.message, "unknown fields `tempreature`, `c`");
        assert_eq!(refusal.param.as_deref(), Some("tempreature"));
        assert_eq!(fields(json!({})).end(), Ok(()));
    }

    #[test]
    fn another_type_is_refused_by_name() {
        let some = || fields(json!({"x": "1", "n": -1, "s": -1, "f": 1.5}));
        assert!(some().float("x").unwrap_err().message.contains("`x` must be a number, is a string"));
        assert!(some().whole("n").unwrap_err().message.contains("is -1"));
        assert!(some().whole("f").is_err() && some().text("f").is_err() && some().flag("x").is_err());
        assert_eq!(some().seed("s"), Ok(Some(u64::MAX)));
        for body in ["[1]", "", "{", "{\"a\": 1} x"] {
            assert_eq!(Fields::read(body.as_bytes()).unwrap_err().status, StatusCode::BAD_REQUEST);
        }
    }

    #[test]
    fn what_we_do_not_compute_is_taken_where_it_changes_nothing() {
        let penalty = |value: Value| fields(json!({ "penalty": value })).neutral("penalty", &[json!(0)]);
        assert_eq!((penalty(json!(0.0)), penalty(json!(0)), penalty(Value::Null)), (Ok(()), Ok(()), Ok(())));
        let refused = penalty(json!(0.5)).unwrap_err();
        assert_eq!(refused.message, "`penalty` is not supported but for 0: leave it out");
    }
}
