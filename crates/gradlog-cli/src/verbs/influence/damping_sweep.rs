//! Several dampings at once: what each answer is called, and how far neighbors agree.

use super::answer::Answer;
use gradlog_analysis::{Agreement, AnalysisError, Damping};

/// A sweep over dampings, from the smallest to the largest.
pub(super) struct DampingSweep {
    dampings: Vec<Damping>,
    /// Of each damping but the last, how far it agrees with the next.
    agreements: Vec<Mean>,
}

/// Agreement over the probes that were compared.
struct Mean {
    spearman: f64,
    each: Vec<Agreement>,
}

impl DampingSweep {
    /// Compares the `answers` to one question, with up to `count` of the strongest of both ends compared; `None` for a
    /// single one.
    pub(super) fn new(answers: &[Answer], count: usize) -> Result<Option<Self>, AnalysisError> {
        if answers.len() < 2 {
            return Ok(None);
        }
        let dampings = answers.iter().filter_map(Answer::damping).collect();
        let pairs = answers.iter().zip(&answers[1..]);
        let agreements = pairs.map(|(one, next)| Mean::new(one, next, count)).collect::<Result<_, _>>()?;
        Ok(Some(Self { dampings, agreements }))
    }

    /// What was given for each.
    pub(super) fn values(&self) -> Vec<f64> {
        self.dampings.iter().map(|damping| damping_value(*damping)).collect()
    }

    /// All in words, as those of one are.
    pub(super) fn names(&self) -> String {
        let values: Vec<String> = self.values().iter().map(f64::to_string).collect();
        match self.dampings.first() {
            Some(Damping::Relative(_)) => format!("{} of the mean eigenvalue", values.join(", ")),
            _ => values.join(", "),
        }
    }

    /// The words of an answer to one damping, made those of all.
    pub(super) fn variant(&self, of_one: &str) -> String {
        let one = self.dampings.first().map_or_else(String::new, |damping| format!("damping {damping}"));
        of_one.replacen(&one, &format!("dampings {}", self.names()), 1)
    }

    /// Of each damping but the last, the rank correlation with the next.
    pub(super) fn spearmans(&self) -> Vec<f64> {
        self.agreements.iter().map(|mean| mean.spearman).collect()
    }

    /// Of each damping but the last, the share of its strongest at both ends that are among the strongest of the next.
    pub(super) fn kept(&self) -> Vec<f64> {
        let share = |mean: &Mean| {
            let (there, kept) = (mean.sum(|each| each.proponents + each.opponents), mean.sum(count_kept));
            kept as f64 / there as f64
        };
        self.agreements.iter().map(share).collect()
    }

    /// A line for each pair of neighbors.
    pub(super) fn words(&self) -> Vec<String> {
        let line = |(pair, mean): (&[f64], &Mean)| {
            let over = match mean.each.len() {
                1 => String::new(),
                probes => format!(" over {probes} probes"),
            };
            format!(
                "from damping {} to {}{over}: rank correlation {:.3}; {} of the {} strongest proponents and {} of the {} \
                 strongest opponents stay",
                pair[0],
                pair[1],
                mean.spearman,
                mean.sum(|each| each.proponents_kept),
                mean.sum(|each| each.proponents),
                mean.sum(|each| each.opponents_kept),
                mean.sum(|each| each.opponents),
            )
        };
        self.values().windows(2).zip(&self.agreements).map(line).collect()
    }
}

impl Mean {
    fn new(one: &Answer, next: &Answer, count: usize) -> Result<Self, AnalysisError> {
        let probes = 0..one.about.probes.len();
        let each: Vec<Agreement> =
            probes.map(|probe| one.about.agreement(&next.about, probe, count)).collect::<Result<_, _>>()?;
        let spearman = each.iter().map(|each| each.spearman).sum::<f64>() / each.len() as f64;
        Ok(Self { spearman, each })
    }

    fn sum(&self, count: fn(&Agreement) -> usize) -> usize {
        self.each.iter().map(count).sum()
    }
}

fn count_kept(each: &Agreement) -> usize {
    each.proponents_kept + each.opponents_kept
}

/// The number that is written for a damping in rows.
pub(super) fn damping_value(damping: Damping) -> f64 {
    damping.value()
}
