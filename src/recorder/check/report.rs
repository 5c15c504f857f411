//! What a check says, in words.

use gradlog_format::log::FindingKind;

/// More names or ids than this are counted and not listed.
const NAMED_MAX: usize = 6;

/// The verdict of [`Recorder::check_gradients`](crate::Recorder::check_gradients). Its `Display` says it in words.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[must_use = "print the verdict, or ask `agrees`"]
pub struct GradientCheck {
    /// Number of examples that were compared; 0 if nothing was checked.
    pub examples: usize,
    /// Number of recorded layers that were compared.
    pub layers: usize,
    /// The relative difference that counts as rounding.
    pub tolerance: f64,
    /// The largest relative difference between a recorded gradient and that of the example alone. `None` if it was not
    /// measured.
    pub largest_difference: Option<f64>,
    /// What was found.
    pub findings: Vec<Finding>,
    /// Remarks that are no findings.
    pub notes: Vec<String>,
}

/// Something that a check found. Its `Display` says it in words, with a way out.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Finding {
    /// What was found.
    pub kind: FindingKind,
    /// The layers or variables that it concerns; empty for the loss.
    pub names: Vec<String>,
    /// The ids of the examples that it shows in; empty if it is not about single examples.
    pub examples: Vec<u64>,
    /// The largest relative difference, if it was measured.
    pub difference: Option<f64>,
    text: String,
}

impl Finding {
    pub(super) fn new(kind: FindingKind, names: Vec<String>, text: String) -> Self {
        Self { kind, names, examples: Vec::new(), difference: None, text }
    }

    pub(super) fn with_examples(self, examples: Vec<u64>) -> Self {
        Self { examples, ..self }
    }

    pub(super) fn with_difference(self, difference: f64) -> Self {
        Self { difference: Some(difference), ..self }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl GradientCheck {
    /// A check that did not run.
    pub(super) fn nothing(reason: &str) -> Self {
        let notes = vec![format!("nothing was checked: {reason}")];
        Self { examples: 0, layers: 0, tolerance: 0.0, largest_difference: None, findings: Vec::new(), notes }
    }

    /// Whether every recorded gradient is the example's own. A variable that no tap covers is a finding and no
    /// disagreement: what is recorded is right, but it is not the whole gradient.
    pub fn agrees(&self) -> bool {
        self.examples > 0 && !self.findings.iter().any(|finding| finding.kind.is_fault())
    }

    /// Whether the check found this.
    pub fn found(&self, kind: FindingKind) -> bool {
        self.findings.iter().any(|finding| finding.kind == kind)
    }

    /// The findings as bits, for the log.
    pub(super) fn bits(&self) -> u32 {
        self.findings.iter().fold(0, |bits, finding| bits | finding.kind.bit())
    }
}

/// The verdict, then a line for each finding and each note.
impl std::fmt::Display for GradientCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut lines = Vec::new();
        if self.examples > 0 {
            let compared = match self.layers {
                0 => format!("losses of {} examples", self.examples),
                1 => format!("gradients of {} examples in 1 layer", self.examples),
                layers => format!("gradients of {} examples in {layers} layers", self.examples),
            };
            let how = match self.largest_difference {
                Some(largest) => format!("; the largest relative difference is {}", percent(largest)),
                None => String::new(),
            };
            lines.push(match self.agrees() {
                true => format!("check passed: {compared} agree with each example alone{how}"),
                false => format!("check failed: {compared} were compared with each example alone{how}"),
            });
        }
        lines.extend(self.findings.iter().map(|finding| format!("- {finding}")));
        lines.extend(self.notes.iter().map(|note| format!("- note: {note}")));
        f.write_str(&lines.join("\n"))
    }
}

/// A relative difference in words.
pub(super) fn percent(relative: f64) -> String {
    match relative {
        infinite if !infinite.is_finite() => "not finite".into(),
        0.0 => "0".into(),
        small if small < 1e-3 => format!("{small:.0e}"),
        other => format!("{:.1} %", 100.0 * other),
    }
}

/// Names for a sentence.
pub(super) fn quote(names: &[String]) -> String {
    list(names.iter().map(|name| format!("`{name}`")).collect())
}

/// Ids for a sentence.
pub(super) fn list_ids(ids: &[u64]) -> String {
    let what = if ids.len() == 1 { "example" } else { "examples" };
    format!("{what} {}", list(ids.iter().map(u64::to_string).collect()))
}

fn list(mut all: Vec<String>) -> String {
    let more = all.len().saturating_sub(NAMED_MAX);
    all.truncate(NAMED_MAX);
    match more {
        0 => all.join(", "),
        more => format!("{} and {more} more", all.join(", ")),
    }
}
