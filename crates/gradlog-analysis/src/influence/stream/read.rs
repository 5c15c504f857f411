//! What is read of a block of visits: which rows count, their weights, their gradients and their products.

use super::block_visits::{BlockVisits, Dots, Lent};
use crate::influence::plan::{InfluencePlan, Pass};
use crate::influence::question::Normalization;
use crate::rows::gradient::Gradients;
use crate::rows::reader::{RowReader, WantedGradient};
use crate::rows::rule::{RowRule, UnseenGradient};
use crate::{rows::column, AnalysisError};
use gradlog_format::log::Column;
use gradlog_format::run::Block;

/// TracIn multiplies the gradient of a visit by these.
const RULE: RowRule =
    RowRule::gradients(&[Column::LearningRate, Column::Clip, Column::Coefficient], UnseenGradient::ZeroByCoefficient);

impl InfluencePlan<'_> {
    /// What a block of visits or of sweeps adds.
    pub(super) fn read_visits(&self, pass: &Pass, lent: &Lent, block: &Block) -> Result<BlockVisits, AnalysisError> {
        let mut out = self.read_rows(pass, lent, block)?;
        self.read_gradients(block, &mut out)?;
        if out.gradients.is_none() {
            return Ok(out);
        }
        let probes = pass.ids.len();
        if self.question.group {
            out.dots = Some(Dots::group_mean(&self.scheme, &out, lent, probes, self.probes()));
            out.gradients = None;
        } else if Dots::fit(probes) {
            out.dots = Some(Dots::multiply(&self.scheme, &out, lent, probes));
            out.gradients = None;
        }
        Ok(out)
    }

    /// Which rows of a block of visits or of sweeps count, and with which weights.
    pub(super) fn read_rows(&self, pass: &Pass, lent: &Lent, block: &Block) -> Result<BlockVisits, AnalysisError> {
        let on_sweeps = self.question.window.is_on_sweeps();
        let reader = RowReader {
            window: &self.question.window,
            sweeps: &self.sweeps,
            rule: RULE,
            gradient: WantedGradient::Whole(&self.index.layout, self.run.manifest()),
        };
        let rows = reader.read(block)?;
        let mut out = BlockVisits {
            examples: column::u64s(block, Column::Example)?,
            steps: column::u64s(block, Column::Step)?,
            labels: column::classes(block, Column::Label)?,
            predictions: column::classes(block, Column::Prediction)?,
            inside: rows.inside.rows().collect(),
            ..BlockVisits::default()
        };
        let time_at = |step: u64| match on_sweeps {
            true => pass.times.binary_search(&step).ok(),
            false => self.time_of(&pass.times, step),
        };
        let known = self.norms.as_ref().map(|norms| norms.known(block)).transpose()?.flatten();
        for row in rows.counting(&mut out.left_out) {
            if known.as_ref().is_some_and(|known| !known[row]) {
                out.left_out.without_moments += 1;
                continue;
            }
            match time_at(out.steps[row]) {
                Some(time) => {
                    out.rows.push(row);
                    let weight: f64 = rows.numbers.iter().map(|factor| f64::from(factor[row])).product();
                    out.weights.push(match &self.adam {
                        // All factors but the first, which is the learning rate.
                        Some(rates) if !on_sweeps => {
                            let others: f64 = rows.numbers[1..].iter().map(|factor| f64::from(factor[row])).product();
                            rates.at(out.steps[row]) * others
                        }
                        _ => weight,
                    });
                    out.times.push(time);
                    out.at_probe_times += u64::from(pass.times[time] == out.steps[row]);
                }
                None if on_sweeps => out.left_out.without_probe += 1,
                None => out.left_out.before_first_probe += 1,
            }
        }
        out.gap = rows.gap;
        if out.times.iter().any(|time| !lent.contains_key(time)) {
            return Err(block.damaged("a step outside the range in the block's header".into()).into());
        }
        Ok(out)
    }

    /// The gradients of the rows that count, and their weights as the question wants them.
    pub(super) fn read_gradients(&self, block: &Block, out: &mut BlockVisits) -> Result<(), AnalysisError> {
        if out.gap.is_some() {
            return Ok(());
        }
        let gradients = Gradients::read(block, &self.layout)?;
        if self.question.normalization != Normalization::None {
            let norms = self.squared_norms(block, &gradients, &out.rows)?;
            out.normalize(self.question.normalization, &norms);
        }
        out.gradients = Some(gradients);
        Ok(())
    }
}
