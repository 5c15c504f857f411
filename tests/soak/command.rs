//! The command as typed, on what a kill has left: its exit codes and its words are those of what can be read.

use crate::reading::{read, Reading};
use anyhow::{ensure, Context, Result};
use std::path::Path;
use std::process::Command;

/// `gradlog verify RUN` says what `reading` says.
pub fn verify(run: &Path, reading: &Reading) -> Result<()> {
    let state = match (&reading.damage, reading.finished) {
        (Some(_), _) => "damaged",
        (None, true) => "sound",
        (None, false) => "sound, not finished",
    };
    let words = type_in(&["verify".as_ref(), run], if reading.damage.is_some() { 3 } else { 0 })?;
    ensure!(value(&words, "state")? == state, "verify does not say `{state}`: {words}");
    let visits = reading.rows.len().to_string();
    ensure!(value(&words, "visits")? == visits, "verify does not count {visits} visits: {words}");
    Ok(())
}

/// `gradlog recover RUN --out NEW` makes a sound run with the same rows.
pub fn recover(run: &Path, new: &Path, reading: &Reading) -> Result<()> {
    // A torn header is something that was lost, although nobody had been promised it.
    let words =
        type_in(&["recover".as_ref(), run, "--out".as_ref(), new], if reading.damage.is_some() { 3 } else { 0 })?;
    let recovered = read(new).context("the recovered run")?;
    ensure!(recovered.damage.is_none(), "the recovered run is damaged: {words}");
    ensure!(
        recovered.finished == reading.finished,
        "the recovered run says otherwise whether it was finished: {words}"
    );
    let same = recovered.rows == reading.rows && recovered.steps == reading.steps;
    ensure!(same, "the recovered run has {} rows, the other {}: {words}", recovered.rows.len(), reading.rows.len());
    Ok(())
}

/// What the command prints, if it exits with `code`.
fn type_in(arguments: &[&Path], code: i32) -> Result<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_gradlog-under-test")).args(arguments).output()?;
    let words = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(code),
        "{arguments:?} exits with {} where {code} belongs: {words}",
        output.status
    );
    Ok(words)
}

/// What stands behind `name` in a table of names and values.
fn value<'a>(words: &'a str, name: &str) -> Result<&'a str> {
    let line = |line: &'a str| line.strip_prefix(name).filter(|rest| rest.starts_with(' ')).map(str::trim);
    words.lines().find_map(line).with_context(|| format!("no `{name}` in {words}"))
}
