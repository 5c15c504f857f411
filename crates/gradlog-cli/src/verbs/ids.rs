//! Files of example ids that a user hands in.

use crate::error::CliError;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// The longest line that is read, in bytes.
const LINE_BYTES_MAX: u64 = 4096;

/// Reads `id` or `id,rest` from each line. Empty lines, lines that begin with `#`, and one header are passed over; the
/// rest is empty without a comma.
pub(super) fn read_ids(path: &Path) -> Result<Vec<(u64, String)>, CliError> {
    let io = |source| CliError::In { path: path.to_owned(), source };
    let mut file = BufReader::new(File::open(path).map_err(io)?);
    let mut rows = Vec::new();
    let mut is_first = true;
    for number in 1u64.. {
        let mut line = Vec::new();
        let bytes = std::io::Read::take(&mut file, LINE_BYTES_MAX).read_until(b'\n', &mut line).map_err(io)?;
        if bytes == 0 {
            break;
        }
        let line = String::from_utf8_lossy(&line);
        if line.starts_with('#') {
            continue;
        }
        let may_be_header = std::mem::take(&mut is_first);
        let (id, rest) = line.split_once(',').unwrap_or((&line, ""));
        let (id, rest) = (id.trim().trim_matches('"'), rest.trim().trim_matches('"'));
        match id.parse::<u64>() {
            Ok(id) => rows.push((id, rest.to_owned())),
            Err(_) if line.trim().is_empty() => {}
            // A header has a name where an id belongs.
            Err(_) if may_be_header && id.starts_with(|c: char| c.is_alphabetic()) => {}
            Err(_) => {
                let text = id.chars().take(40).collect();
                return Err(CliError::NotAnId { path: path.to_owned(), line: number, text });
            }
        }
    }
    Ok(rows)
}
