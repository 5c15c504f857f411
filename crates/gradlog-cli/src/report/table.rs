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

/// Two columns of blanks stand between two cells, or one where that makes the table fit.
const GAPS: [usize; 2] = [2, 1];
/// Where words stand that have no room in their row.
const INDENT: &str = "    ";

/// Columns of a table, and how wide they are.
struct Layout<'a> {
    columns: &'a [String],
    widths: Vec<usize>,
    /// Whether a column holds numbers, which are set to the right.
    right: Vec<bool>,
}

impl<'a> Layout<'a> {
    fn new(columns: &'a [String], rows: &[Vec<String>]) -> Self {
        let cells = |column: usize| rows.iter().filter_map(move |row| row.get(column));
        let width =
            |column: usize| cells(column).map(|cell| cell.width()).chain([columns[column].width()]).max().unwrap_or(0);
        let widths = (0..columns.len()).map(width).collect();
        let right = (0..columns.len()).map(|column| cells(column).all(|cell| is_number(cell))).collect();
        Self { columns, widths, right }
    }

    /// The width of these columns.
    fn width(&self, shown: &[usize], gap: usize) -> usize {
        shown.iter().map(|column| self.widths[*column]).sum::<usize>() + gap * shown.len().saturating_sub(1)
    }

    /// The line of a row with these columns.
    fn line(&self, row: &[String], shown: &[usize], gap: usize) -> String {
        let mut line = String::new();
        for (place, column) in shown.iter().enumerate() {
            let Some(cell) = row.get(*column) else { continue };
            if place > 0 {
                line.push_str(&" ".repeat(gap));
            }
            let padding = " ".repeat(self.widths[*column].saturating_sub(cell.width()));
            let (before, after) = if self.right[*column] { (padding.as_str(), "") } else { ("", padding.as_str()) };
            line.push_str(before);
            line.push_str(cell);
            line.push_str(after);
        }
        line.truncate(line.trim_end().len());
        line
    }

    /// The last column, if it holds words that leave the others room in `room` only if they stand below their row.
    fn words_below(&self, room: usize) -> Option<usize> {
        let last = self.columns.len().checked_sub(1).filter(|last| *last > 0 && !self.right[*last])?;
        let others: Vec<usize> = (0..last).collect();
        // The name of the column stays in its row.
        let needed = self.width(&others, GAPS[0]) + GAPS[0] + self.columns[last].width();
        (self.widths[last] > room / 3 && needed <= room).then_some(last)
    }

    /// The columns in blocks that fit `room`. The first columns, up to that of the example, stand in each.
    fn blocks(&self, room: usize) -> Vec<Vec<usize>> {
        let key = 1 + self.columns.iter().position(|name| name == "example").unwrap_or(0);
        let key: Vec<usize> = (0..key.min(self.columns.len())).collect();
        let mut blocks = vec![key.clone()];
        for column in key.len()..self.columns.len() {
            let Some(block) = blocks.last_mut() else { break };
            block.push(column);
            if self.width(block, GAPS[0]) > room && block.len() > key.len() + 1 {
                block.pop();
                blocks.push([key.as_slice(), &[column]].concat());
            }
        }
        blocks
    }
}

/// Writes a table of at most `room` columns of a terminal, if its cells permit.
pub(super) fn write(out: &mut impl Write, columns: &[String], rows: &[Vec<String>], room: usize) -> io::Result<()> {
    let layout = Layout::new(columns, rows);
    let all: Vec<usize> = (0..columns.len()).collect();
    let lines = std::iter::once(columns).chain(rows.iter().map(Vec::as_slice));
    if let Some(gap) = GAPS.into_iter().find(|gap| layout.width(&all, *gap) <= room) {
        return lines.into_iter().try_for_each(|row| writeln!(out, "{}", layout.line(row, &all, gap)));
    }
    if let Some(last) = layout.words_below(room) {
        writeln!(out, "{}", layout.line(columns, &all, GAPS[0]))?;
        let options = textwrap::Options::new(room).initial_indent(INDENT).subsequent_indent(INDENT);
        for row in rows {
            writeln!(out, "{}", layout.line(row, &all[..last], GAPS[0]))?;
            for line in row.get(last).map(|words| textwrap::wrap(words, &options)).unwrap_or_default() {
                writeln!(out, "{line}")?;
            }
        }
        return Ok(());
    }
    for (number, block) in layout.blocks(room).iter().enumerate() {
        if number > 0 {
            writeln!(out)?;
        }
        for row in lines.clone() {
            writeln!(out, "{}", layout.line(row, block, GAPS[0]))?;
        }
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

    fn fitted(columns: &[&str], rows: &[&[&str]], room: usize) -> String {
        let mut table = Rows::begin(Format::Table, Vec::new(), None, &[], columns).unwrap().fit(Some(room));
        rows.iter().for_each(|row| table.row(&row.iter().map(|cell| (*cell).into()).collect::<Vec<_>>()).unwrap());
        String::from_utf8(table.end().unwrap()).unwrap()
    }

    #[test]
    fn a_table_fits_a_terminal_by_smaller_gaps_or_in_blocks_under_the_example() {
        let columns = ["role", "example", "score", "visits", "label"];
        let rows: [&[&str]; 2] = [&["pro", "7", "0.5", "6", "1"], &["opp", "12", "-0.25", "6", "0"]];
        let whole = "role  example  score  visits  label\npro         7    0.5       6      1\nopp        12  -0.25       6      0\n";
        assert_eq!(fitted(&columns, &rows, 35), whole);
        let narrow =
            "role example score visits label\npro        7   0.5      6     1\nopp       12 -0.25      6     0\n";
        assert_eq!(fitted(&columns, &rows, 34), narrow);
        assert_eq!(fitted(&columns, &rows, 31), narrow);
        let blocks = "role  example  score  visits\npro         7    0.5       6\nopp        12  -0.25       6\n\n\
                      role  example  label\npro         7      1\nopp        12      0\n";
        assert_eq!(fitted(&columns, &rows, 30), blocks);
        assert_eq!(fitted(&columns, &rows, 28), blocks);
        // Each block has one column of its own, however narrow the terminal is.
        assert_eq!(fitted(&columns, &rows, 1).lines().count(), 3 * 3 + 2);
    }

    #[test]
    fn long_words_of_the_last_column_stand_below_their_row() {
        let columns = ["example", "reasons"];
        let rows: [&[&str]; 2] = [&["7", "low margin; never learned; high loss"], &["12", "ambiguous"]];
        let expected =
            "example  reasons\n      7\n    low margin; never\n    learned; high loss\n     12\n    ambiguous\n";
        assert_eq!(fitted(&columns, &rows, 24), expected);
        assert!(expected.lines().all(|line| line.width() <= 24));
        assert_eq!(fitted(&columns, &rows, 45).lines().count(), 3, "where there is room they stay in their row");
    }
}
