//! Comma-separated values (RFC 4180, section 2, with line feeds).

use super::Value;
use std::io::{self, Write};

pub(super) fn header(out: &mut impl Write, columns: &[&str]) -> io::Result<()> {
    line(out, columns.iter().map(|name| quoted(name)))
}

pub(super) fn row(out: &mut impl Write, values: &[Value]) -> io::Result<()> {
    line(out, values.iter().map(cell))
}

fn line(out: &mut impl Write, cells: impl Iterator<Item = String>) -> io::Result<()> {
    for (position, cell) in cells.enumerate() {
        if position > 0 {
            out.write_all(b",")?;
        }
        out.write_all(cell.as_bytes())?;
    }
    out.write_all(b"\n")
}

fn cell(value: &Value) -> String {
    match value {
        Value::Integer(value) => value.to_string(),
        // The debug form is the shortest that reads back to the same number, with an exponent where that is shorter;
        // not finite ones read `NaN`, `inf`, `-inf`, as most readers take them.
        Value::Number(value) => format!("{value:?}"),
        Value::Text(text) => quoted(text),
        Value::Flag(value) => value.to_string(),
        Value::List(values) => quoted(&values.iter().map(cell).collect::<Vec<_>>().join(", ")),
        Value::Nothing => String::new(),
    }
}

fn quoted(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use crate::report::{Format, Rows, Value};

    #[test]
    fn reads_back_as_it_was() {
        let words = ["plain", "a,b", "say \"no\"", "two\nlines", "cr\r", ""];
        let numbers = [0.1 + 0.2, 1e-300, -1.7976931348623157e308, f64::INFINITY, 5e-324, 3.0];
        let mut rows = Rows::begin(Format::Csv, Vec::new(), None, &[], &["na,me", "number", "none", "list"]).unwrap();
        for (word, number) in words.iter().zip(numbers) {
            rows.row(&[(*word).into(), number.into(), Value::Nothing, vec![1u64, 2].into()]).unwrap();
        }
        let bytes = rows.end().unwrap();
        let mut reader = csv::Reader::from_reader(bytes.as_slice());
        assert_eq!(reader.headers().unwrap(), vec!["na,me", "number", "none", "list"]);
        let records: Vec<_> = reader.records().map(Result::unwrap).collect();
        assert_eq!(records.len(), words.len());
        for (record, (word, number)) in records.iter().zip(words.iter().zip(numbers)) {
            assert_eq!(&record[0], *word);
            assert_eq!(record[1].parse::<f64>().unwrap().to_bits(), number.to_bits());
            assert_eq!((&record[2], &record[3]), ("", "1, 2"));
        }
    }

    #[test]
    fn what_an_answer_rests_on_is_one_comment_before_the_header() {
        let basis = Some("visits, training mode\nexample,score");
        let mut rows = Rows::begin(Format::Csv, Vec::new(), basis, &[], &["example"]).unwrap();
        rows.row(&[Value::Integer(7)]).unwrap();
        let text = String::from_utf8(rows.end().unwrap()).unwrap();
        assert_eq!(text, "# visits, training mode\u{FFFD}example,score\nexample\n7\n");
    }
}
