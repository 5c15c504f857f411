//! How each layer is trained: learning rates of its own, and layers that no step changes (FORMAT.md, "Layer rates").

use super::gradient::Layout;
use super::window::Window;
use crate::{rows::column, AnalysisError};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::{Block, ReadError, Run};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// What multiplies the learning rate of each layer, from which step on.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct LayerRates {
    /// Of each layer, the factors that were told, by their first step.
    told: BTreeMap<u16, BTreeMap<u64, f32>>,
    /// Whether its parameters change, likewise.
    trained: BTreeMap<u16, BTreeMap<u64, bool>>,
    /// Whether only some of its parameters change, likewise.
    in_part: BTreeMap<u16, BTreeMap<u64, bool>>,
    /// Of each parameter of a layer, the weight decays that were told, by their first step.
    decays: BTreeMap<(u16, usize), BTreeMap<u64, f32>>,
    /// Steps at the rate 0. They move nothing, so no layer has a ratio there.
    still: BTreeSet<u64>,
}

/// The value of [`Column::Trained`] for a layer of which steps change some parameters and not others.
const IN_PART: u8 = 2;

/// The first and the last step of the blocks that the window takes rows of.
pub(super) fn steps_inside(run: &Run, window: &Window) -> Option<RangeInclusive<u64>> {
    let mut steps: Option<RangeInclusive<u64>> = None;
    for block in run.scan().filter(|block| window.is_on(block) && window.touches(block)) {
        let (mut first, mut last) = block.steps();
        if let Some(inside) = &window.steps {
            (first, last) = (first.max(inside.start), last.min(inside.end.saturating_sub(1)));
        }
        if first <= last {
            steps = Some(steps.map_or(first..=last, |all| first.min(*all.start())..=last.max(*all.end())));
        }
    }
    steps
}

/// The value that holds at a step.
fn at<T: Copy>(values: Option<&BTreeMap<u64, T>>, step: u64, before: T) -> T {
    values.and_then(|values| values.range(..=step).next_back()).map_or(before, |(_, value)| *value)
}

fn insert<T>(values: &mut BTreeMap<u64, T>, step: u64, value: T) {
    // A later row replaces what earlier ones say of its step and later.
    values.split_off(&step);
    values.insert(step, value);
}

impl LayerRates {
    /// Reads all of a run, as far as it can be read: who reads its rows meets the same damage.
    pub(crate) fn read(run: &Run) -> Result<Self, AnalysisError> {
        let mut rates = Self::default();
        let is_read = |block: &Block| matches!(block.kind(), Some(BlockKind::LayerRates | BlockKind::Steps));
        for block in run.scan().filter(is_read) {
            let added = match block.kind() {
                Some(BlockKind::Steps) => rates.add_still(&block),
                _ => rates.add(&block),
            };
            match added {
                Ok(()) => {}
                Err(ReadError::Damaged(_)) => break,
                Err(other) => return Err(other.into()),
            }
        }
        Ok(rates)
    }

    fn add(&mut self, block: &Block) -> Result<(), ReadError> {
        let (steps, layers) = (column::u64s(block, Column::Step)?, column::u32s(block, Column::Layer)?);
        let told = column::optional(block, Column::RateFactor, column::f32s)?;
        let trained = column::optional(block, Column::Trained, column::u8s)?;
        let parameters = column::optional(block, Column::Parameter, column::u32s)?;
        let decays = column::optional(block, Column::WeightDecay, column::f32s)?;
        for (row, (&step, &layer)) in steps.iter().zip(&layers).enumerate() {
            let Ok(layer) = u16::try_from(layer) else {
                return Err(block.damaged(format!("a learning rate of layer {layer}, which no run has")));
            };
            if let Some(&factor) = told.as_ref().and_then(|told| told.get(row)) {
                if !(factor.is_finite() && factor >= 0.0) {
                    return Err(block.damaged(format!("a factor of {factor} of a learning rate")));
                }
                insert(self.told.entry(layer).or_default(), step, factor);
            }
            let parameter = parameters.as_ref().and_then(|parameters| parameters.get(row));
            let decay = decays.as_ref().and_then(|decays| decays.get(row));
            if let (Some(&parameter), Some(&decay)) = (parameter, decay) {
                if decay.is_infinite() {
                    return Err(block.damaged(format!("a weight decay of {decay}")));
                }
                insert(self.decays.entry((layer, parameter as usize)).or_default(), step, decay);
            }
            if let Some(&trained) = trained.as_ref().and_then(|trained| trained.get(row)) {
                insert(self.trained.entry(layer).or_default(), step, trained != 0);
                insert(self.in_part.entry(layer).or_default(), step, trained == IN_PART);
            }
        }
        Ok(())
    }

    fn add_still(&mut self, block: &Block) -> Result<(), ReadError> {
        let Some(rates) = column::optional(block, Column::LearningRate, column::f32s)? else { return Ok(()) };
        if rates.contains(&0.0) {
            let steps = column::u64s(block, Column::Step)?.into_iter().zip(rates);
            self.still.extend(steps.filter(|(_, rate)| *rate == 0.0).map(|(step, _)| step));
        }
        Ok(())
    }

    /// Steps at which a layer's rate is another multiple of the step's than before.
    pub(crate) fn changes(&self) -> BTreeSet<u64> {
        let mut changes = BTreeSet::new();
        for told in self.told.values() {
            let mut before = 1.0;
            for (&step, &factor) in told {
                if factor != before {
                    changes.insert(step);
                }
                before = factor;
            }
        }
        changes
    }

    /// The first and the last step of a run.
    #[cfg(feature = "curvature")]
    pub(crate) fn all_steps(&self, run: &Run) -> RangeInclusive<u64> {
        steps_inside(run, &Window::everything()).unwrap_or(0..=0)
    }

    /// Whether parameters have weight decays of their own.
    #[cfg(feature = "curvature")]
    pub(crate) fn has_decays(&self) -> bool {
        !self.decays.is_empty()
    }

    /// The weight decay of a parameter throughout some steps, if it is not that of the step.
    ///
    /// # Errors
    /// The first step from which it is another.
    #[cfg(feature = "curvature")]
    pub(crate) fn decay(&self, parameter: (u16, usize), steps: &RangeInclusive<u64>) -> Result<Option<f32>, u64> {
        let Some(told) = self.decays.get(&parameter) else { return Ok(None) };
        // NaN is the decay of the step.
        let own = |decay: f32| (!decay.is_nan()).then_some(decay);
        let first = at(Some(told), *steps.start(), f32::NAN);
        let mut changes = told.range(steps.clone());
        match changes.find(|(step, decay)| **step > *steps.start() && own(**decay) != own(first)) {
            Some((step, _)) => Err(*step),
            None => Ok(own(first)),
        }
    }

    /// Whether all layers are trained at the rate of the step.
    pub(crate) fn is_empty(&self) -> bool {
        self.told.is_empty() && self.trained.is_empty()
    }

    /// What multiplies the learning rate of `layer` at `step`.
    pub(crate) fn factor(&self, layer: u16, step: u64) -> f32 {
        if at(self.trained.get(&layer), step, true) {
            at(self.told.get(&layer), step, 1.0)
        } else {
            0.0
        }
    }

    /// Whether steps change only some parameters of `layer` somewhere in `steps`.
    pub(crate) fn is_in_part(&self, layer: u16, steps: &RangeInclusive<u64>) -> bool {
        let changes = self.in_part.get(&layer);
        at(changes, *steps.start(), false)
            || changes.is_some_and(|changes| changes.range(steps.clone()).any(|(_, in_part)| *in_part))
    }

    /// The factor of a layer in all of these steps but those at the rate 0.
    ///
    /// # Errors
    /// The first step at which it is another.
    pub(super) fn constant(&self, layer: u16, steps: &RangeInclusive<u64>, uses_rates: bool) -> Result<f32, u64> {
        let last = *steps.end();
        let moving = |from: u64| (from..=last).find(|step| !self.still.contains(step));
        let first = moving(*steps.start()).unwrap_or(*steps.start());
        let factor_at = |step: u64| match self.factor(layer, step) {
            factor if uses_rates || factor == 0.0 => factor,
            _ => 1.0,
        };
        let factor = factor_at(first);
        let told = self.told.get(&layer).into_iter().flat_map(BTreeMap::keys);
        let changes = told.chain(self.trained.get(&layer).into_iter().flat_map(BTreeMap::keys));
        let mut changes: Vec<u64> = changes.copied().filter(|step| (first..=last).contains(step)).collect();
        changes.sort_unstable();
        changes.into_iter().filter_map(moving).find(|step| factor_at(*step) != factor).map_or(Ok(factor), Err)
    }

    /// The factors of the layers in a window. Without `uses_rates`, 1 for every layer that is trained.
    ///
    /// # Errors
    /// [`AnalysisError::OutOfRange`] if one changes inside the window, or if layers that share the folded vector differ
    /// in a way that no number can make up for; [`AnalysisError::Read`].
    pub(crate) fn in_window(
        &self,
        run: &Run,
        window: &Window,
        layout: &Layout,
        uses_rates: bool,
    ) -> Result<Factors, AnalysisError> {
        let layers = &run.manifest().layers;
        if self.is_empty() {
            return Ok(Factors::default());
        }
        let Some(steps) = steps_inside(run, window) else { return Ok(Factors::default()) };
        let name = |number: u16| layers.get(usize::from(number)).map_or("?", |layer| layer.name.as_str());
        let constant = |layer: u16| {
            self.constant(layer, &steps, uses_rates).map_err(|step| AnalysisError::OutOfRange {
                what: "the learning rate of a layer inside the window",
                given: format!("another multiple of the step's rate from step {step} on (layer `{}`)", name(layer)),
                range: "the same multiple throughout: ask for the steps before and after it apart".into(),
            })
        };
        let mut factors = Factors::default();
        for factored in &layout.factored {
            factors.factored.insert(factored.layer, constant(factored.layer)?);
        }
        let is_factored = |number: usize| layout.factored.iter().any(|f| usize::from(f.layer) == number);
        let folded: Vec<u16> = match layout.folded {
            Some(_) => (0..layers.len()).filter(|number| !is_factored(*number)).map(|number| number as u16).collect(),
            None => Vec::new(),
        };
        let of_folded = folded.iter().map(|layer| constant(*layer)).collect::<Result<Vec<f32>, _>>()?;
        let moving: Vec<f32> = of_folded.iter().copied().filter(|factor| *factor > 0.0).collect();
        factors.folded = moving.first().copied().unwrap_or(if of_folded.is_empty() { 1.0 } else { 0.0 });
        if let Some(other) = moving.iter().find(|other| **other != factors.folded) {
            return Err(AnalysisError::OutOfRange {
                what: "the learning rates of the layers that share the folded vector",
                given: format!("{} and {other} times the step's", factors.folded),
                range: "one rate: name factored layers alone, or take a score without learning rates".into(),
            });
        }
        Ok(factors)
    }
}

/// What multiplies the learning rates of the layers throughout a window.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Factors {
    factored: BTreeMap<u16, f32>,
    folded: f32,
}

impl Default for Factors {
    fn default() -> Self {
        Self { factored: BTreeMap::new(), folded: 1.0 }
    }
}

impl Factors {
    /// Whether every layer is trained at the rate of the step.
    pub(crate) fn are_one(&self) -> bool {
        self.folded == 1.0 && self.factored.values().all(|factor| *factor == 1.0)
    }

    /// Of each layer of a layout, the factored ones and then the folded vector.
    pub(crate) fn of(&self, layout: &Layout) -> Vec<f32> {
        let factored = layout.factored.iter().map(|f| self.factored.get(&f.layer).copied().unwrap_or(1.0));
        factored.chain(layout.folded.map(|_| self.folded)).collect()
    }

    /// The layers of a layout that are trained.
    ///
    /// # Errors
    /// [`AnalysisError::Missing`] if none of them is.
    pub(crate) fn trained(&self, layout: &Layout, score: &'static str) -> Result<Layout, AnalysisError> {
        let is_trained = |layer: u16| self.factored.get(&layer).is_none_or(|factor| *factor > 0.0);
        let kept = Layout {
            factored: layout.factored.iter().filter(|f| is_trained(f.layer)).cloned().collect(),
            folded: layout.folded.filter(|_| self.folded > 0.0),
        };
        if kept.is_empty() && !layout.is_empty() {
            return Err(AnalysisError::Missing {
                score,
                what: "a layer that was trained inside the window",
                how: "ask for other layers or other steps: `SummaryQuestion` lists the layers that no step changed",
            });
        }
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_rows_replace_earlier_ones_from_their_step_on() {
        let mut rates = LayerRates::default();
        assert!(rates.is_empty());
        for (step, factor) in [(5, 0.5), (9, 2.0), (7, 0.25)] {
            insert(rates.told.entry(1).or_default(), step, factor);
        }
        insert(rates.trained.entry(1).or_default(), 0, false);
        insert(rates.trained.entry(1).or_default(), 6, true);
        let factors: Vec<f32> = [0, 5, 6, 7, 9].map(|step| rates.factor(1, step)).to_vec();
        assert_eq!(factors, [0.0, 0.0, 0.5, 0.25, 0.25]);
        assert_eq!(rates.factor(0, 5), 1.0);
        assert_eq!(rates.constant(1, &(7..=100), true), Ok(0.25));
        assert_eq!(rates.constant(1, &(6..=100), true), Err(7));
        assert_eq!(rates.constant(1, &(6..=100), false), Ok(1.0));
        assert_eq!(rates.constant(1, &(0..=5), true), Ok(0.0));
        assert_eq!(rates.constant(1, &(5..=100), false), Err(6));
    }

    /// A warm-up starts at the rate 0, where a layer has no ratio to the step's rate.
    #[test]
    fn steps_at_the_rate_0_are_no_change() {
        let mut rates = LayerRates { still: BTreeSet::from([0, 1, 5, 6]), ..LayerRates::default() };
        insert(rates.told.entry(1).or_default(), 2, 0.1);
        assert_eq!(rates.constant(1, &(0..=9), true), Ok(0.1));
        // A rate that is reported and then taken back, both in steps that move nothing.
        insert(rates.told.entry(1).or_default(), 5, 1.0);
        insert(rates.told.entry(1).or_default(), 7, 0.1);
        assert_eq!(rates.constant(1, &(0..=9), true), Ok(0.1));
        insert(rates.told.entry(1).or_default(), 8, 0.2);
        assert_eq!(rates.constant(1, &(0..=9), true), Err(8));
        // A change at a step that moves nothing holds from the next one that does.
        insert(rates.told.entry(1).or_default(), 5, 0.5);
        assert_eq!(rates.constant(1, &(0..=9), true), Err(7));
    }
}
