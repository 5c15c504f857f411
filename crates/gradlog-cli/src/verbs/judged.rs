//! What a file of verdicts does to a list of examples: only verdicts that fit the runs act.
//!
//! A verdict was given on an example with a label. If the runs recorded another label for it, the verdict is about
//! something else, and it does not act. So does a new label that no example of the runs has: a program that trains with
//! it would fail. Each such verdict is counted and named, and the command ends with the exit code of a loss.

use crate::error::CliError;
use crate::report::count;
use gradlog_analysis::{KeepList, Kept, RunsTable};
use gradlog_format::verdicts::{Judgment, Verdict, Verdicts};
use std::collections::{HashMap, HashSet};

/// How many examples of a reason are named.
const NAMED: usize = 5;

/// Why a verdict does not act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Skipped {
    /// The example had another label when it was judged.
    OtherLabel,
    /// No example has the new label.
    NoSuchLabel,
    /// A relabel of an example that the runs do not have.
    NoSuchExample,
}

/// What verdicts did to a list.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    dropped: usize,
    relabeled: usize,
    /// Examples to keep or to drop that the runs do not have: there is nothing to do.
    absent: usize,
    /// Relabels of examples that have the new label in the runs already.
    done: usize,
    /// How many verdicts were skipped for each reason, and the first of them.
    skipped: HashMap<Skipped, (usize, Vec<String>)>,
}

impl Judged {
    /// Takes the dropped examples out of the list, and gives the relabeled ones their new labels.
    ///
    /// # Errors
    /// [`CliError::OtherVerdicts`] if no verdict fits the runs.
    pub(super) fn apply(verdicts: &Verdicts, table: &RunsTable, list: &mut KeepList) -> Result<Self, CliError> {
        let recorded: HashMap<u64, Option<u32>> = table.rows.iter().map(|row| (row.example, row.label)).collect();
        let labels: HashSet<u32> = recorded.values().flatten().copied().collect();
        let mut judged = Self::default();
        let mut acting: HashMap<u64, Verdict> = HashMap::new();
        for (id, judgment) in verdicts.iter() {
            if judged.fits(id, judgment, &recorded, &labels) {
                acting.insert(id, judgment.verdict);
            }
        }
        if acting.is_empty() && judged.done == 0 && !verdicts.is_empty() {
            return Err(CliError::OtherVerdicts(judged.skipped_words().join("; ")));
        }
        let before = list.kept.len();
        let verdict = |kept: &Kept| acting.get(&kept.example).copied();
        list.kept.retain(|kept| verdict(kept) != Some(Verdict::Drop));
        judged.dropped = before - list.kept.len();
        for kept in &mut list.kept {
            if let Some(Verdict::Relabel(label)) = verdict(kept) {
                kept.label = Some(label);
                judged.relabeled += 1;
            }
        }
        Ok(judged)
    }

    /// Whether a verdict acts on an example of the runs; if not, it is counted.
    fn fits(
        &mut self,
        id: u64,
        judgment: &Judgment,
        recorded: &HashMap<u64, Option<u32>>,
        labels: &HashSet<u32>,
    ) -> bool {
        let Some(now) = recorded.get(&id).copied() else {
            match judgment.verdict {
                Verdict::Relabel(_) => self.skip(Skipped::NoSuchExample, id.to_string()),
                _ => self.absent += 1,
            }
            return false;
        };
        if let Verdict::Relabel(label) = judgment.verdict {
            if now == Some(label) {
                self.done += 1;
                return false;
            }
            // Without recorded labels nothing is known of the classes.
            if !labels.is_empty() && !labels.contains(&label) {
                self.skip(Skipped::NoSuchLabel, format!("{id} to {label}"));
                return false;
            }
        }
        if let (Some(now), Some(before)) = (now, judgment.label) {
            if now != before {
                self.skip(Skipped::OtherLabel, id.to_string());
                return false;
            }
        }
        true
    }

    fn skip(&mut self, why: Skipped, what: String) {
        let (count, first) = self.skipped.entry(why).or_default();
        *count += 1;
        if first.len() < NAMED {
            first.push(what);
        }
    }

    /// Whether a verdict was skipped that asked for something.
    pub(super) fn has_skipped(&self) -> bool {
        !self.skipped.is_empty()
    }

    fn skipped_words(&self) -> Vec<String> {
        let reasons = [
            (Skipped::OtherLabel, "the runs recorded another label than the judged one"),
            (Skipped::NoSuchLabel, "no example of the runs has the new label"),
            (Skipped::NoSuchExample, "the runs do not have the example to relabel"),
        ];
        let mut words: Vec<String> = Vec::new();
        for (why, reason) in reasons {
            if let Some((number, first)) = self.skipped.get(&why) {
                let more = if *number > first.len() { ", ..." } else { "" };
                words.push(format!("{} skipped: {reason} ({}{more})", count(*number, "verdict"), first.join(", ")));
            }
        }
        if self.absent > 0 {
            let absent = count(self.absent, "verdict");
            words.push(format!("{absent} to keep or drop examples that these runs do not have: nothing to do"));
        }
        words
    }

    /// What was done, and what was skipped and why.
    pub(super) fn words(&self, kept: usize) -> Vec<String> {
        let (dropped, relabeled) = (count(self.dropped, "example"), count(self.relabeled, "example"));
        let mut words = vec![format!("by the verdicts {dropped} left out and {relabeled} relabeled; {kept} are kept")];
        if self.done > 0 {
            words.push(format!("note: {} with the new label already", count(self.done, "example")));
        }
        let skipped = self.skipped_words();
        let kind = if self.has_skipped() { "warning" } else { "note" };
        words.extend(skipped.into_iter().map(|line| format!("{kind}: {line}")));
        if self.has_skipped() {
            words.push("warning: skipped verdicts change nothing; is the file of another run?".into());
        }
        words
    }
}
