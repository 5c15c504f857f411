//! Aligned columns for the eye.

use super::Value;
use gradlog_analysis::significant;
use std::io::{self, Write};
use unicode_width::UnicodeWidthStr;

pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Integer(value) => value.to_string(),
        Value::Number(value) => significant(*value),
        Value::Text(text) => printable(text),
        Value::Flag(value) => if *value { "yes" } else { "no" }.into(),
        Value::List(values) => values.iter().map(cell).collect::<Vec<_>>().join(", "),
        Value::Nothing => "-".into(),
    }
}

/// The text without its line breaks and control characters, which would break a table, or the terminal, and without
/// those that turn the direction of writing, which would show other text than there is.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || turns(c) { '\u{FFFD}' } else { c }).collect()
}

/// Whether a character changes the direction in which others are shown (Unicode's Bidi_Control).
pub(super) fn turns(c: char) -> bool {
    matches!(c, '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// Writes names and what they are, one pair a line.
///
/// # Errors
/// What `out` says.
pub fn write_pairs(out: &mut dyn Write, pairs: &[(&str, String)]) -> io::Result<()> {
    let width = pairs.iter().map(|(name, _)| name.width()).max().unwrap_or(0);
    for (name, value) in pairs {
        writeln!(out, "{name}{}  {}", " ".repeat(width - name.width()), printable(value))?;
    }
    Ok(())
}

/// Whether a cell reads as a number, which is set to the right.
fn is_number(cell: &str) -> bool {
    cell == "-" || cell.parse::<f64>().is_ok()
}

pub(super) fn write(out: &mut impl Write, columns: &[String], rows: &[Vec<String>]) -> io::Result<()> {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.width()).chain([columns[column].width()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let right: Vec<bool> =
        (0..columns.len()).map(|column| rows.iter().filter_map(|row| row.get(column)).all(|c| is_number(c))).collect();
    for row in std::iter::once(columns).chain(rows.iter().map(Vec::as_slice)) {
        let mut line = String::new();
        for ((cell, width), right) in row.iter().zip(&widths).zip(&right) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            let padding = " ".repeat(width.saturating_sub(cell.width()));
            let (before, after) = if *right { (padding.as_str(), "") } else { ("", padding.as_str()) };
            line.push_str(before);
            line.push_str(cell);
            line.push_str(after);
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Format, Rows};

    #[test]
    fn numbers_stand_to_the_right_and_words_to_the_left() {
        let mut rows = Rows::begin(Format::Table, Vec::new(), None, &[], &["example", "la\x1byer", "score"]).unwrap();
        rows.row(&[Value::Integer(7), "fc\n1".into(), 0.5.into()]).unwrap();
        rows.row(&[Value::Integer(12345678), "convolution".into(), f64::INFINITY.into()]).unwrap();
        rows.row(&[Value::Integer(3), vec!["x", "y"].into(), Value::Nothing]).unwrap();
        let text = String::from_utf8(rows.end().unwrap()).unwrap();
        let expected = " example  la\u{FFFD}yer         score\n       7  fc\u{FFFD}1         0.50000\n\
                        12345678  convolution      inf\n       3  x, y               -\n";
        assert_eq!(text, expected);
    }

    /// A wide character takes two cells of a terminal, a combining one none.
    #[test]
    fn columns_are_as_wide_as_a_terminal_shows_them() {
        let mut rows = Rows::begin(Format::Table, Vec::new(), None, &[], &["層", "layer", "n"]).unwrap();
        rows.row(&["畳み込み".into(), "fc".into(), 7u64.into()]).unwrap();
        rows.row(&["e\u{301}te\u{301}".into(), "日".into(), 12u64.into()]).unwrap();
        let text = String::from_utf8(rows.end().unwrap()).unwrap();
        let expected = "層        layer   n\n畳み込み  fc      7\ne\u{301}te\u{301}       日     12\n";
        assert_eq!(text, expected);
        assert!(text.lines().all(|line| line.width() == 19), "{text}");

        let mut out = Vec::new();
        write_pairs(&mut out, &[("層", "a".into()), ("abc", "b".into())]).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "層   a\nabc  b\n");
    }
}
