//! One JSON object, a line for each row.

use super::Value;
use serde_json::Value as Json;
use std::io::{self, Write};

fn json(value: &Value) -> Json {
    match value {
        Value::Integer(value) => Json::from(*value),
        // JSON has neither. An infinite score is a result, such as that of an example that was never learned, and a NaN
        // is not.
        Value::Number(value) if value.is_infinite() => Json::from(if *value > 0.0 { "inf" } else { "-inf" }),
        Value::Number(value) => Json::from(*value),
        Value::Text(text) => Json::from(text.as_str()),
        Value::Flag(value) => Json::from(*value),
        Value::List(values) => values.iter().map(json).collect(),
        Value::Nothing => Json::Null,
    }
}

fn pair(out: &mut impl Write, name: &str, value: &Value) -> io::Result<()> {
    let text = format!("{}:{}", serde_json::to_string(name)?, serde_json::to_string(&json(value))?);
    out.write_all(escaped(text).as_bytes())
}

/// A whole object, indented.
pub fn pretty(object: &Json) -> io::Result<String> {
    Ok(escaped(serde_json::to_string_pretty(object)?))
}

/// JSON text with escapes for what JSON lets stand and a terminal does not: DEL, the C1 controls (0x9B begins an escape
/// sequence) and marks that turn the direction of writing. They occur in strings only.
fn escaped(text: String) -> String {
    let special = |c: char| ('\u{7F}'..='\u{9F}').contains(&c) || super::table::turns(c);
    if !text.contains(special) {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match special(c) {
            true => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => out.push(c),
        }
    }
    out
}

/// The names and their values as one object.
pub(super) fn object(head: &[(&str, Value)]) -> io::Result<String> {
    let object: serde_json::Map<String, Json> =
        head.iter().map(|(name, value)| ((*name).to_owned(), json(value))).collect();
    Ok(serde_json::to_string(&object)?)
}

pub(super) fn begin(out: &mut impl Write, basis: Option<&str>, head: &[(&str, Value)]) -> io::Result<()> {
    out.write_all(b"{")?;
    if let Some(basis) = basis {
        pair(out, "basis", &basis.into())?;
        out.write_all(b",\n")?;
    }
    for (name, value) in head {
        pair(out, name, value)?;
        out.write_all(b",\n")?;
    }
    out.write_all(b"\"rows\":[")
}

pub(super) fn row(out: &mut impl Write, first: bool, columns: &[String], values: &[Value]) -> io::Result<()> {
    out.write_all(if first { b"\n{" } else { b",\n{" })?;
    for (position, (name, value)) in columns.iter().zip(values).enumerate() {
        if position > 0 {
            out.write_all(b",")?;
        }
        pair(out, name, value)?;
    }
    out.write_all(b"}")
}

pub(super) fn end(out: &mut impl Write) -> io::Result<()> {
    out.write_all(b"\n]}\n")
}

#[cfg(test)]
mod tests {
    use crate::report::{Format, Rows, Value};
    use serde_json::json;

    fn parse(bytes: &[u8]) -> serde_json::Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn is_one_object_with_its_rows() {
        let list = Value::from(vec![0.5, f64::NAN]);
        let head = [("score", Value::from("a\"b")), ("damage", Value::Nothing), ("list", list)];
        let mut rows = Rows::begin(Format::Json, Vec::new(), Some("visits"), &head, &["example", "x", "ok"]).unwrap();
        rows.row(&[u64::MAX.into(), (0.1 + 0.2).into(), true.into()]).unwrap();
        rows.row(&[1u64.into(), f64::NAN.into(), false.into()]).unwrap();
        rows.row(&[2u64.into(), f64::INFINITY.into(), true.into()]).unwrap();
        rows.row(&[3u64.into(), f64::NEG_INFINITY.into(), true.into()]).unwrap();
        let expected = json!({"basis": "visits", "score": "a\"b", "damage": null, "list": [0.5, null], "rows": [
            {"example": u64::MAX, "x": 0.1 + 0.2, "ok": true}, {"example": 1, "x": null, "ok": false},
            {"example": 2, "x": "inf", "ok": true}, {"example": 3, "x": "-inf", "ok": true}]});
        assert_eq!(parse(&rows.end().unwrap()), expected);
    }

    #[test]
    fn no_rows_and_no_head() {
        let rows = Rows::begin(Format::Json, Vec::new(), None, &[], &["example"]).unwrap();
        assert_eq!(parse(&rows.end().unwrap()), json!({"rows": []}));
    }
}
