//! A row of the audit's table.

use super::Measured;
use serde::Serialize;
use std::io::{self, Write};

/// What was measured, of which method, in which setting.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// Model, data and training.
    pub setting: String,
    /// The method that is audited.
    pub method: String,
    /// What is measured of it.
    pub metric: String,
    /// Its value; no number is `null` in JSON.
    pub value: f64,
    /// Lower end of the 95 % bootstrap interval.
    pub low: f64,
    /// Upper end of it.
    pub high: f64,
    /// The seeds of the recorded runs that it is computed from.
    pub seeds: Vec<u64>,
}

impl Finding {
    /// A row of the table.
    pub fn new(setting: &str, method: &str, metric: &str, measured: Measured, seeds: &[u64]) -> Self {
        let Measured { value, low, high } = measured;
        let (setting, method, metric) = (setting.into(), method.into(), metric.into());
        Self { setting, method, metric, value, low, high, seeds: seeds.to_vec() }
    }
}

/// Writes findings as a JSON list of `{setting, method, metric, value, low, high, seeds}`, a line each.
///
/// # Errors
/// What `out` refuses.
pub fn write_json(findings: &[Finding], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "[")?;
    for (number, finding) in findings.iter().enumerate() {
        let comma = if number + 1 < findings.len() { "," } else { "" };
        writeln!(out, "  {}{comma}", serde_json::to_string(finding)?)?;
    }
    writeln!(out, "]")?;
    out.flush()
}
