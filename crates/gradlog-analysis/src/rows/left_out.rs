//! What an answer left out, counted by the reason.

use super::rule::Verdict;

/// What an answer left out, counted by the reason. Every answer has one, and [`LeftOut::notes`] says it in words.
///
/// A visit is left out for one reason only. Where an answer is made of sweeps, "visits" are rows of these.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct LeftOut {
    /// Visits with a number that is NaN or infinite.
    pub not_finite: u64,
    /// Visits to which the loss gave no weight, so that the gradient was not seen, or of which it ignored all targets.
    pub unseen: u64,
    /// Visits that were recorded without the numbers that the answer is made of.
    pub missing: u64,
    /// Visits that were recorded without the learning rates of their steps.
    pub without_rate: u64,
    /// Visits that were recorded without gradients.
    pub without_gradient: u64,
    /// Visits whose layers were recorded in another form than was asked for.
    pub other_layers: u64,
    /// Visits that came before the first probe.
    pub before_first_probe: u64,
    /// Rows of sweeps at a checkpoint at which the probe has no record.
    pub without_probe: u64,
    /// Visits at or after the last time of the probes.
    pub after_probes: u64,
    /// Visits with several predictions, of which the log keeps one.
    pub several_predictions: u64,
    /// Rows of sweeps that a later row of the same example and checkpoint replaces.
    pub replaced: u64,
    /// Rows of the sweep at step 0, of weights before any training, which joins a sum over checkpoints only if a
    /// window of steps names it.
    pub untrained: u64,
    /// Probe records that are not finite, had no weight in the loss, or differ from the first in form, loss or class.
    pub probe_records: u64,
    /// Probe records that a later record of the same id and time replaces.
    pub probe_records_replaced: u64,
    /// Examples of which no visit or record counts, that no group holds, or that are threshold samples in every run.
    pub examples: u64,
    /// Visits and probes of which the probability of the label rounds to 1, so that the gradient of their log-odds, of
    /// which TRAK's estimator is made, is not known.
    pub without_log_odds: u64,
    /// Visits without a norm in the metric of Adam, where all others have one: those of the optimizer's first step,
    /// of a step that changed the ratio of a layer's learning rate, and those for which nobody read the moments.
    pub without_moments: u64,
}

/// How many reasons there are.
const REASONS: usize = 17;

/// Of a reason what was left out (one and many), why, and what helps; in the order of the fields.
type Words = ([&'static str; 2], &'static str, &'static str);

/// Every recorder in Rust writes the rates, so what lacks them came from elsewhere.
pub(crate) const RATES_HELP: &str = "Give `learning_rate` with each step where the run is written.";

const VISITS: [&str; 2] = ["visit left out", "visits left out"];

const WORDS: [Words; REASONS] = [
    (VISITS, "a number was NaN or infinite", "A summary of the run names the first step with one."),
    (VISITS, "the loss gave the example no weight or ignored all its targets", ""),
    (
        VISITS,
        "recorded without the numbers of this score",
        "Record the loss with `pass.cross_entropy` or the logits with `pass.logits`, and wrap the layers with `Taps::tap`.",
    ),
    (VISITS, "recorded without the learning rates of their steps", RATES_HELP),
    (VISITS, "recorded without gradients", "Wrap the model's layers with `Taps::tap`."),
    (
        VISITS,
        "their layers were recorded in another form",
        "Record all visits and probes with the same layers and the same sketches.",
    ),
    (
        VISITS,
        "they came before the first probe",
        "Record a probe pass before the first step, or take the nearest probe time.",
    ),
    (
        ["row of a sweep left out", "rows of sweeps left out"],
        "the probe has no record at their checkpoint",
        "Replay the probes at every checkpoint that is swept.",
    ),
    (VISITS, "they came at or after the last probe", "Record the probes once more when the training has ended."),
    (VISITS, "they have several predictions, and the log keeps one", ""),
    (["row of a sweep replaced", "rows of sweeps replaced"], "a later row is of the same example and checkpoint", ""),
    (
        ["row of a sweep left out", "rows of sweeps left out"],
        "the sweep at step 0 is of weights before any training",
        "Give a window of steps that holds 0 to count it.",
    ),
    (
        ["probe record left out", "probe records left out"],
        "not finite, without weight in the loss, or of another form, loss or class than the first",
        "",
    ),
    (["probe record replaced", "probe records replaced"], "a later record is of the same id and time", ""),
    (
        ["example left out", "examples left out"],
        "no usable visit or record, no score, in no whole group, or a threshold sample in every run",
        "",
    ),
    (
        ["gradient of log-odds left out", "gradients of log-odds left out"],
        "the probability of the label rounds to 1",
        "Take the epochs before the model is so sure.",
    ),
    (
        VISITS,
        "no norm in Adam's metric: the first step, a step that changed a layer's rate, or moments that were not read in time",
        "Take the steps as plain SGD to count them.",
    ),
];

impl LeftOut {
    /// Whether nothing was left out.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What was left out, in words: a sentence for each reason with the count, the reason and what helps against it.
    ///
    /// ```
    /// let mut left_out = gradlog_analysis::LeftOut::default();
    /// left_out.not_finite = 2;
    /// assert!(left_out.notes()[0].starts_with("2 visits left out: a number was NaN or infinite."));
    /// ```
    pub fn notes(&self) -> Vec<String> {
        let note = |(count, ([one, many], why, help)): (u64, Words)| {
            let what = if count == 1 { one } else { many };
            format!("{count} {what}: {why}. {help}").trim_end().to_owned()
        };
        self.found().map(note).collect()
    }

    /// The same in a few words each, such as `2 visits (a number was NaN or infinite)`.
    pub(super) fn short_notes(&self) -> Vec<String> {
        let note = |(count, ([one, many], why, _)): (u64, Words)| {
            let what = if count == 1 { one } else { many };
            format!("{count} {} ({why})", what.trim_end_matches(" left out"))
        };
        self.found().map(note).collect()
    }

    /// The counts above 0 with their words.
    fn found(&self) -> impl Iterator<Item = (u64, Words)> {
        self.counts().into_iter().zip(WORDS).filter(|(count, _)| *count > 0)
    }

    fn counts(&self) -> [u64; REASONS] {
        [
            self.not_finite,
            self.unseen,
            self.missing,
            self.without_rate,
            self.without_gradient,
            self.other_layers,
            self.before_first_probe,
            self.without_probe,
            self.after_probes,
            self.several_predictions,
            self.replaced,
            self.untrained,
            self.probe_records,
            self.probe_records_replaced,
            self.examples,
            self.without_log_odds,
            self.without_moments,
        ]
    }

    fn counts_mut(&mut self) -> [&mut u64; REASONS] {
        [
            &mut self.not_finite,
            &mut self.unseen,
            &mut self.missing,
            &mut self.without_rate,
            &mut self.without_gradient,
            &mut self.other_layers,
            &mut self.before_first_probe,
            &mut self.without_probe,
            &mut self.after_probes,
            &mut self.several_predictions,
            &mut self.replaced,
            &mut self.untrained,
            &mut self.probe_records,
            &mut self.probe_records_replaced,
            &mut self.examples,
            &mut self.without_log_odds,
            &mut self.without_moments,
        ]
    }

    /// Adds what another part of the run left out.
    pub(crate) fn add(&mut self, other: &LeftOut) {
        for (sum, more) in self.counts_mut().into_iter().zip(other.counts()) {
            *sum += more;
        }
    }

    /// Adds what another share of the examples left out. Probe records are of no share.
    pub(crate) fn add_share(&mut self, other: &LeftOut) {
        let (records, replaced) = (self.probe_records, self.probe_records_replaced);
        self.add(other);
        (self.probe_records, self.probe_records_replaced) = (records, replaced);
    }

    /// Takes the larger count of each reason: for answers that are made of the same visits, which would else count
    /// twice.
    pub(crate) fn take_larger(&mut self, other: &LeftOut) {
        for (mine, other) in self.counts_mut().into_iter().zip(other.counts()) {
            *mine = other.max(*mine);
        }
    }

    /// Counts a row.
    #[inline]
    pub(crate) fn count(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Counts => {}
            Verdict::NotFinite => self.not_finite += 1,
            Verdict::Unseen => self.unseen += 1,
            Verdict::SeveralPredictions => self.several_predictions += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_words() {
        let mut all = LeftOut::default();
        assert!(all.is_empty() && all.notes().is_empty());
        for (count, number) in all.counts_mut().into_iter().zip(1..) {
            *count = number;
        }
        let notes = all.notes();
        assert_eq!(notes.len(), REASONS);
        for (note, number) in notes.iter().zip(1..) {
            assert!(note.starts_with(&format!("{number} ")) && note.contains(": ") && note.ends_with('.'), "{note}");
        }
        assert!(notes[0].starts_with("1 visit left out: "), "{}", notes[0]);
        assert!(notes[15].starts_with("16 gradients of log-odds left out: "), "{}", notes[15]);
        assert!(notes[14].starts_with("15 examples left out: "), "{}", notes[14]);
    }

    #[test]
    fn sums_and_larger_counts() {
        let mut sum = LeftOut { not_finite: 2, replaced: 1, ..LeftOut::default() };
        let other = LeftOut { not_finite: 3, unseen: 4, ..LeftOut::default() };
        let mut larger = sum.clone();
        sum.add(&other);
        larger.take_larger(&other);
        assert_eq!(sum, LeftOut { not_finite: 5, unseen: 4, replaced: 1, ..LeftOut::default() });
        assert_eq!(larger, LeftOut { not_finite: 3, unseen: 4, replaced: 1, ..LeftOut::default() });
        sum.count(Verdict::Counts);
        sum.count(Verdict::Unseen);
        sum.count(Verdict::SeveralPredictions);
        assert_eq!((sum.unseen, sum.several_predictions), (5, 1));
    }
}
