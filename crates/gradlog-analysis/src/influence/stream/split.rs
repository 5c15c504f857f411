//! What a score is made of: its share by layer ("where?") or by epoch ("when did this example help?").
//!
//! TracIn is a sum over visits and layers, so its parts add up to it, normalized or not: the norms that a term is
//! divided by are those of the whole. Only the visits of the examples that are asked about are multiplied.

use super::block_visits::{BlockVisits, Lent};
use super::norms::divisor;
use crate::influence::plan::{InfluencePlan, Pass};
use crate::influence::products::{panels_of, stretches, Floats, Products, Unpacked, Variances, NO_INTEGERS, TILE_ROWS};
use crate::{rows::column, AnalysisError};
use gradlog_format::log::Column;
use gradlog_format::run::{Block, Damage};
use gradlog_kernels::int8::{Tile, COLUMNS, ROWS};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

/// What scores are taken apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SplitBy {
    /// Layers. Those that were folded share one vector and one part, with the name `folded`.
    Layer,
    /// Epochs of the visits, or on sweeps of the checkpoints.
    Epoch,
}

/// A part of a score.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// That of a layer.
    Layer(String),
    /// That of an epoch.
    Epoch(u32),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Layer(name) => f.write_str(name),
            Part::Epoch(epoch) => write!(f, "{epoch}"),
        }
    }
}

/// Some scores in parts, which add up to the scores themselves but for rounding.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Split {
    /// The parts: layers in the order of the model, or all epochs of the visits inside the window, ascending.
    pub parts: Vec<Part>,
    /// `[pairs, parts]`, in the order in which the pairs were asked for; 0 where an example has no visit there.
    pub scores: Vec<f64>,
    /// One standard deviation of the sketch error of each, as `scores`. Errors by layer add up to more than that of
    /// the score, because independent errors add by their squares. Empty without
    /// [`InfluenceQuestion::sketch_errors`](crate::InfluenceQuestion::sketch_errors).
    pub errors: Vec<f64>,
    /// Where the run stopped being readable, if it did; the parts are then of what came before.
    pub damage: Option<Damage>,
}

impl Split {
    /// The parts of a pair's score.
    ///
    /// # Panics
    /// If there is no such pair.
    pub fn pair_scores(&self, pair: usize) -> &[f64] {
        &self.scores[pair * self.parts.len()..(pair + 1) * self.parts.len()]
    }

    /// Their errors, if they were asked for.
    ///
    /// # Panics
    /// If there is no such pair.
    pub fn pair_errors(&self, pair: usize) -> Option<&[f64]> {
        (!self.errors.is_empty()).then(|| &self.errors[pair * self.parts.len()..(pair + 1) * self.parts.len()])
    }
}

/// The pairs of each example: number of the pair, and position of its probe in the pass.
type Wanted = HashMap<u64, Vec<(usize, usize)>>;

/// What a visit adds to a pair.
struct Term {
    pair: usize,
    epoch: u32,
    /// By layer.
    scores: Vec<f64>,
    /// By layer, or of all layers if the split is by epoch; empty if no errors are wanted.
    errors: Vec<f64>,
}

/// What a block adds.
#[derive(Default)]
struct Added {
    terms: Vec<Term>,
    /// Epochs of all rows inside the window, if the split is by them.
    epochs: BTreeSet<u32>,
    /// To the self-influence of examples.
    own: Vec<(u64, f64)>,
}

/// One part of all pairs.
struct Sums {
    scores: Vec<f64>,
    /// Empty if no errors are wanted.
    errors: Vec<f64>,
}

/// The parts, by the number of a layer or by epoch.
type Grown = BTreeMap<u32, Sums>;

impl InfluencePlan<'_> {
    /// Takes some scores of an answer apart: each pair is an example and the position of a probe among those of
    /// [`pass(number)`](InfluencePlan::pass), 0 for a group.
    ///
    /// # Errors
    /// As [`InfluenceQuestion::compute`](crate::InfluenceQuestion::compute); [`AnalysisError::OutOfRange`] if `number`
    /// is not below [`InfluencePlan::passes`], or the pass has no probe at a position that a pair names.
    ///
    /// # Cost
    /// Inflates the gradients of the blocks that hold a visit of one of the examples, and multiplies theirs alone.
    /// Memory: two numbers for each pair and part.
    pub fn split(&self, number: usize, by: SplitBy, pairs: &[(u64, usize)]) -> Result<Split, AnalysisError> {
        let passes = self.answer_passes(number)?;
        let columns = if self.question.group { 1 } else { passes.iter().map(|pass| pass.ids.len()).sum() };
        if let Some((_, probe)) = pairs.iter().find(|(_, probe)| *probe >= columns) {
            let (what, range) = ("the position of a probe", format!("below {columns}"));
            return Err(AnalysisError::OutOfRange { what, given: probe.to_string(), range });
        }
        let mut wanted = Wanted::new();
        for (pair, &(example, probe)) in pairs.iter().enumerate() {
            wanted.entry(example).or_default().push((pair, probe));
        }
        let (mut whole, mut damage) = (Grown::new(), self.index.damage.clone());
        let names = self.layer_names();
        if by == SplitBy::Layer {
            whole.extend((0..names.len() as u32).map(|layer| (layer, self.zeros(pairs.len()))));
        }
        for pass in passes {
            let mut grown = Grown::new();
            let mut own: HashMap<u64, f64> = HashMap::new();
            let read = |lent: &Lent, block: &Block| self.read_split(pass, lent, block, by, &wanted);
            let read_to = self.fold_visits(pass, read, |_, blocks| {
                for Added { terms, epochs, own: more } in blocks {
                    for epoch in epochs {
                        whole.entry(epoch).or_insert_with(|| self.zeros(pairs.len()));
                    }
                    more.into_iter().for_each(|(example, more)| *own.entry(example).or_default() += more);
                    terms.into_iter().for_each(|term| self.enter(&mut grown, by, pairs.len(), term));
                }
                Ok(())
            })?;
            damage = damage.or(read_to.0);
            for (part, sums) in grown {
                let whole = whole.entry(part).or_insert_with(|| self.zeros(pairs.len()));
                for (pair, (example, _)) in pairs.iter().enumerate() {
                    let by = own.get(example).map_or(1.0, |own| divisor(*own));
                    whole.scores[pair] += sums.scores[pair] / by;
                    if let (Some(whole), Some(error)) = (whole.errors.get_mut(pair), sums.errors.get(pair)) {
                        *whole += error / by;
                    }
                }
            }
        }
        let part = |number: &u32| match by {
            SplitBy::Epoch => Part::Epoch(*number),
            SplitBy::Layer => Part::Layer(names[*number as usize].clone()),
        };
        let rows = |of: fn(&Sums) -> &[f64]| {
            let row = |pair: usize| whole.values().filter_map(move |part| of(part).get(pair).copied());
            (0..pairs.len()).flat_map(row).collect()
        };
        let (scores, errors) = (rows(|part| &part.scores), rows(|part| &part.errors));
        Ok(Split { parts: whole.keys().map(part).collect(), scores, errors, damage })
    }

    fn zeros(&self, pairs: usize) -> Sums {
        Sums { scores: vec![0.0; pairs], errors: vec![0.0; if self.scheme.errors() { pairs } else { 0 }] }
    }

    fn enter(&self, grown: &mut Grown, by: SplitBy, pairs: usize, term: Term) {
        let mut add = |part: u32, score: f64, error: Option<f64>| {
            let Sums { scores, errors } = grown.entry(part).or_insert_with(|| self.zeros(pairs));
            scores[term.pair] += score;
            if let (Some(sum), Some(error)) = (errors.get_mut(term.pair), error) {
                *sum += error;
            }
        };
        match by {
            SplitBy::Epoch => add(term.epoch, term.scores.iter().sum(), term.errors.first().copied()),
            SplitBy::Layer => {
                for (layer, score) in term.scores.iter().enumerate() {
                    add(layer as u32, *score, term.errors.get(layer).copied());
                }
            }
        }
    }

    fn read_split(
        &self,
        pass: &Pass,
        lent: &Lent,
        block: &Block,
        by: SplitBy,
        wanted: &Wanted,
    ) -> Result<Added, AnalysisError> {
        let mut rows = self.read_rows(pass, lent, block)?;
        let mut epochs = Vec::new();
        let mut added = Added::default();
        if by == SplitBy::Epoch {
            epochs = column::u32s(block, Column::Epoch)?;
            added.epochs = rows.inside.iter().map(|&row| epochs[row]).collect();
        }
        rows.keep(|example| wanted.contains_key(&example));
        if rows.rows.is_empty() {
            return Ok(added);
        }
        self.read_gradients(block, &mut rows)?;
        let of_row = |position: usize| rows.examples[rows.rows[position]];
        added.own = rows.self_influence.iter().enumerate().map(|(position, own)| (of_row(position), *own)).collect();
        // Of each pair of a row and a pair of the question, what the layers say.
        let mut found: BTreeMap<(usize, usize), (Vec<f64>, Vec<f64>)> = BTreeMap::new();
        self.each_product(pass, lent, &rows, wanted, |position, pair, values, variances| {
            let errors: Vec<f64> = match (variances, by) {
                (None, _) => Vec::new(),
                (Some(variances), SplitBy::Layer) => variances.iter().map(|variance| variance.sqrt()).collect(),
                (Some(variances), SplitBy::Epoch) => vec![variances.iter().sum::<f64>().sqrt()],
            };
            let (scores, deviations) =
                found.entry((position, pair)).or_insert_with(|| (vec![0.0; values.len()], vec![0.0; errors.len()]));
            scores.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            deviations.iter_mut().zip(&errors).for_each(|(sum, error)| *sum += error);
        });
        let share = if self.question.group { 1.0 / self.probes() as f64 } else { 1.0 };
        for ((position, pair), (mut scores, mut errors)) in found {
            let weight = rows.weights[position] * share;
            scores.iter_mut().for_each(|score| *score *= weight);
            errors.iter_mut().for_each(|error| *error *= weight.abs());
            // As in the scores themselves, a visit with a product that is not finite does not count.
            if scores.iter().sum::<f64>().is_finite() {
                let epoch = epochs.get(rows.rows[position]).copied().unwrap_or(0);
                added.terms.push(Term { pair, epoch, scores, errors });
            }
        }
        Ok(added)
    }

    /// Hands the products of the rows with the probes of their pairs to `each`: the position of the row, the pair, and
    /// by layer the products and their variances.
    fn each_product(
        &self,
        pass: &Pass,
        lent: &Lent,
        rows: &BlockVisits,
        wanted: &Wanted,
        mut each: impl FnMut(usize, usize, &[f64], Option<&[f64]>),
    ) {
        let Some(gradients) = &rows.gradients else { return };
        let (scheme, group) = (&self.scheme, self.question.group);
        let pairs_of = |position: usize| wanted.get(&rows.examples[rows.rows[position]]).map_or(&[][..], Vec::as_slice);
        let (mut tile, mut floats) = (Unpacked::default(), Floats::default());
        let mut kept = NO_INTEGERS;
        let zeros: Tile<f32> = [0.0; ROWS * COLUMNS];
        let mut layers: Vec<(Tile<f32>, Variances)> =
            (0..scheme.layers()).map(|_| (zeros, Variances::default())).collect();
        for stretch in stretches(&rows.times) {
            let Some(probes) = lent.get(&rows.times[stretch.start]) else { continue };
            for panel in 0..panels_of(pass.ids.len()) {
                let columns = panel * COLUMNS..pass.ids.len().min((panel + 1) * COLUMNS);
                let has =
                    |position: &usize| group || pairs_of(*position).iter().any(|(_, probe)| columns.contains(probe));
                let positions: Vec<usize> = stretch.clone().filter(has).collect();
                for positions in positions.chunks(TILE_ROWS) {
                    let of_block: Vec<usize> = positions.iter().map(|&position| rows.rows[position]).collect();
                    tile.load(scheme, gradients, &of_block, (probes, 1));
                    let products = Products::new(scheme, &tile, (probes, panel..panel + 1), &mut floats);
                    for (number, positions) in positions.chunks(ROWS).enumerate() {
                        for (layer, (sums, variances)) in layers.iter_mut().enumerate() {
                            (*sums, *variances) = (zeros, Variances::default());
                            products.add(layer, (number, panel), &mut kept, sums, variances);
                        }
                        for (row, &position) in positions.iter().enumerate() {
                            let mut hand = |pair: usize, probe: usize| {
                                let at = row * COLUMNS + probe - columns.start;
                                let values: Vec<f64> = layers.iter().map(|layer| f64::from(layer.0[at])).collect();
                                let both =
                                    |layer: &(Tile<f32>, Variances)| f64::from(layer.1.shared[at] + layer.1.own[at]);
                                let variances: Vec<f64> = layers.iter().map(both).collect();
                                each(position, pair, &values, scheme.errors().then_some(&variances));
                            };
                            for &(pair, probe) in pairs_of(position) {
                                match group {
                                    true => columns.clone().for_each(|probe| hand(pair, probe)),
                                    false if columns.contains(&probe) => hand(pair, probe),
                                    false => {}
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
