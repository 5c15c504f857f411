//! How the training went: loss, accuracy, learned and forgotten over its visits, and over the probes of each set.

use crate::histories::is_plain_probes;
use crate::rows::basis::{Basis, BasisRows, Uses};
use crate::rows::driver::{fold_each, fold_in_step_order, ReadTo};
use crate::rows::reader::{RowReader, WantedGradient};
use crate::rows::rule::RowRule;
use crate::rows::sweep::Sweeps;
use crate::{rows::column, AnalysisError, LeftOut, Progress, Window};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::{Block, Damage, ReadError, Run};
use std::collections::{BTreeMap, HashMap};
use std::ops::{Range, RangeInclusive};

#[cfg(test)]
mod tests;

/// Points of a run that has one epoch.
const POINTS: u64 = 50;

/// A visit counts if its loss is finite, as for the score of that name.
const RULE: RowRule = RowRule::outputs(&[Column::Loss]);

/// Asks how the training went: mean loss, accuracy, and how many examples were learned and forgotten, by epoch.
///
/// With `acc_j` = 1 if visit `j` of an example was right, it is learned at `j` where `acc_{j−1} = 0` and `acc_j = 1`,
/// and forgotten where it is the other way round (Toneva et al. 2019, §3). The first visit is neither. So the sum of
/// `forgotten` is that of the finite [`Forgetting`](crate::Score::Forgetting) scores.
///
/// A run that has one epoch gives 50 points of equally many steps.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct CurveQuestion {
    window: Window,
    progress: Progress,
}

window_options!(CurveQuestion);
progress_options!(CurveQuestion);

/// How a training went.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Curves {
    /// What the training's points rest on.
    pub basis: Basis,
    /// The points of the training, in order.
    pub points: Vec<CurvePoint>,
    /// Whether a point is an epoch; else it is a stretch of steps.
    pub by_epoch: bool,
    /// The curve of each probe set, in the order of the first records.
    pub probes: Vec<ProbeCurve>,
    /// Visits that were left out, by the reason.
    pub left_out: LeftOut,
    /// Where the run stopped being readable, if it did.
    pub damage: Option<Damage>,
}

/// An epoch of a training, or a stretch of its steps.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct CurvePoint {
    /// Its epoch; that of its first visit, for a stretch of steps.
    pub epoch: u32,
    /// First and last step of its visits.
    pub steps: RangeInclusive<u64>,
    /// Visits that count.
    pub visits: u64,
    /// Mean loss.
    pub loss: f64,
    /// Share of right predictions; `None` without any record of them.
    pub correct: Option<f64>,
    /// Visits that were right after a wrong one of the same example; `None` where the run has no predictions, or
    /// several a visit.
    pub learned: Option<u64>,
    /// Visits that were wrong after a right one of the same example.
    pub forgotten: Option<u64>,
}

/// How the probes of a set went.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct ProbeCurve {
    /// Name of the set.
    pub set: String,
    /// The times at which it was taken, ascending.
    pub points: Vec<ProbePoint>,
}

/// The probes of a set at one time.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ProbePoint {
    /// The step before which they were taken.
    pub step: u64,
    /// Its epoch.
    pub epoch: u32,
    /// Probes with a finite loss.
    pub probes: u64,
    /// Their mean loss.
    pub loss: f64,
    /// Share of right predictions; `None` without any record of them.
    pub correct: Option<f64>,
}

#[derive(Default)]
struct Sums {
    epoch: u32,
    steps: Option<RangeInclusive<u64>>,
    visits: u64,
    loss: f64,
    corrects: u64,
    correct: f64,
    learned: u64,
    forgotten: u64,
}

impl Sums {
    fn add(&mut self, loss: f32, correct: Option<f32>) {
        self.visits += 1;
        self.loss += f64::from(loss);
        if let Some(correct) = correct.filter(|correct| correct.is_finite()) {
            self.corrects += 1;
            self.correct += f64::from(correct);
        }
    }

    fn mean_correct(&self) -> Option<f64> {
        (self.corrects > 0).then(|| self.correct / self.corrects as f64)
    }
}

/// The rows of a block that count.
struct Counted {
    rows: Vec<usize>,
    ids: Vec<u64>,
    steps: Vec<u64>,
    epochs: Vec<u32>,
    losses: Vec<f32>,
    corrects: Option<Vec<f32>>,
    several: bool,
    left_out: LeftOut,
}

impl CurveQuestion {
    /// The curves of the whole run.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the run.
    ///
    /// # Errors
    /// [`AnalysisError::Missing`] if no visit has a loss, [`AnalysisError::OutsideRun`] for a window without visits,
    /// [`AnalysisError::OnlyVisits`] for one on sweeps, [`AnalysisError::Read`] if the file system refuses. Damage is
    /// not an error.
    ///
    /// # Cost
    /// A pass over five small columns of the visits, and one over those of the probes. Memory: about 20 bytes for each
    /// example and probe record.
    pub fn compute(&self, run: &Run) -> Result<Curves, AnalysisError> {
        self.window.refuse_sweeps("the curves of a training")?;
        self.window.refuse_outside(&[run])?;
        let mut curves = Curves {
            basis: Basis::of(run, &self.window, BasisRows::Visits, Uses::Outputs)?,
            probes: self.read_probes(run)?,
            ..Curves::default()
        };
        self.read_visits(run, &mut curves)?;
        curves.basis.left_out = curves.left_out.clone();
        Ok(curves)
    }

    fn read_visits(&self, run: &Run, curves: &mut Curves) -> Result<(), AnalysisError> {
        let keep = |block: &Block| self.window.is_on(block) && self.window.touches(block);
        let extents: Vec<_> = run.scan().filter(keep).map(|block| (block.epochs(), block.steps())).collect();
        let span = |ends: &dyn Fn(usize) -> (u64, u64)| {
            (0..extents.len()).map(ends).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))).unwrap_or((0, 0))
        };
        let epochs = span(&|at| (extents[at].0 .0.into(), extents[at].0 .1.into()));
        let steps = span(&|at| extents[at].1);
        curves.by_epoch = epochs.0 < epochs.1;
        let width = (steps.1.saturating_sub(steps.0) / POINTS).saturating_add(1);
        let by_epoch = curves.by_epoch;
        let place = |epoch: u32, step: u64| match by_epoch {
            true => u64::from(epoch),
            false => step.saturating_sub(steps.0) / width,
        };
        let mut points: BTreeMap<u64, Sums> = BTreeMap::new();
        let mut was_right: HashMap<u64, bool> = HashMap::new();
        let (mut several, mut left_out) = (false, LeftOut::default());
        let fold = |block: &Counted, range: Range<usize>| {
            several |= block.several;
            if range.start == 0 {
                left_out.add(&block.left_out);
            }
            for &row in block.rows.iter().filter(|row| range.contains(row)) {
                let (epoch, step) = (block.epochs[row], block.steps[row]);
                let sums = points.entry(place(epoch, step)).or_insert_with(|| Sums { epoch, ..Sums::default() });
                let correct = block.corrects.as_ref().map(|corrects| corrects[row]);
                sums.add(block.losses[row], correct);
                sums.steps = Some(match sums.steps.take() {
                    None => step..=step,
                    Some(steps) => step.min(*steps.start())..=step.max(*steps.end()),
                });
                let Some(right) = correct.filter(|correct| correct.is_finite()).map(|correct| correct >= 0.5) else {
                    continue;
                };
                match was_right.insert(block.ids[row], right) {
                    Some(false) if right => sums.learned += 1,
                    Some(true) if !right => sums.forgotten += 1,
                    _ => {}
                }
            }
            Ok(())
        };
        let ReadTo(damage) = fold_in_step_order(run, &self.progress, keep, |block| self.read_block(block), fold)?;
        if points.is_empty() && left_out.missing > 0 {
            return Err(AnalysisError::Missing {
                score: "the curve of the training",
                what: "losses",
                how: "record the loss of each example: with `pass.cross_entropy`, `pass.mse` or `pass.losses`",
            });
        }
        let point = |sums: Sums| CurvePoint {
            epoch: sums.epoch,
            steps: sums.steps.clone().unwrap_or(0..=0),
            visits: sums.visits,
            loss: sums.loss / sums.visits as f64,
            correct: sums.mean_correct(),
            learned: (sums.corrects > 0 && !several).then_some(sums.learned),
            forgotten: (sums.corrects > 0 && !several).then_some(sums.forgotten),
        };
        curves.points = points.into_values().map(point).collect();
        (curves.left_out, curves.damage) = (left_out, damage);
        Ok(())
    }

    fn read_block(&self, block: &Block) -> Result<Counted, AnalysisError> {
        let reader =
            RowReader { window: &self.window, sweeps: &Sweeps::default(), rule: RULE, gradient: WantedGradient::None };
        let mut left_out = LeftOut::default();
        let read = reader.read(block)?;
        let rows = read.counting(&mut left_out);
        let several = rows.iter().any(|row| read.positions.as_ref().is_some_and(|positions| positions[*row] > 1));
        Ok(Counted {
            rows,
            ids: column::u64s(block, Column::Example)?,
            steps: column::u64s(block, Column::Step)?,
            epochs: column::u32s(block, Column::Epoch)?,
            losses: column::optional(block, Column::Loss, column::f32s)?.unwrap_or_default(),
            corrects: column::optional(block, Column::Correct, column::f32s)?,
            several,
            left_out,
        })
    }

    fn read_probes(&self, run: &Run) -> Result<Vec<ProbeCurve>, AnalysisError> {
        let mut names: HashMap<u32, String> = HashMap::new();
        let mut order: Vec<String> = Vec::new();
        // Of a probe that was recorded twice before a step, the last record counts.
        type Record = (u32, f32, Option<f32>);
        let mut records: HashMap<String, BTreeMap<(u64, u64), Record>> = HashMap::new();
        let keep = |block: &Block| {
            block.kind() == Some(BlockKind::ProbeSet) || is_plain_probes(block) && self.window.touches(block)
        };
        let read = |block: &Block| ProbeBlock::read(block).map_err(AnalysisError::from);
        let ReadTo(_) = fold_each(run, &Progress::default(), keep, read, |read| {
            match read {
                ProbeBlock::Name(number, name) => {
                    names.insert(number, name);
                }
                ProbeBlock::Rows(rows) => {
                    for (set, id, step, epoch, loss, correct) in rows {
                        let Some(name) = names.get(&set) else { continue };
                        if !order.contains(name) {
                            order.push(name.clone());
                        }
                        records.entry(name.clone()).or_default().insert((step, id), (epoch, loss, correct));
                    }
                }
            }
            Ok(())
        })?;
        let curve = |set: String| {
            let mut times: BTreeMap<u64, Sums> = BTreeMap::new();
            for ((step, _), (epoch, loss, correct)) in records.remove(&set).unwrap_or_default() {
                if loss.is_finite() {
                    let sums = times.entry(step).or_insert_with(|| Sums { epoch, ..Sums::default() });
                    sums.add(loss, correct);
                }
            }
            let point = |(step, sums): (u64, Sums)| ProbePoint {
                step,
                epoch: sums.epoch,
                probes: sums.visits,
                loss: sums.loss / sums.visits as f64,
                correct: sums.mean_correct(),
            };
            ProbeCurve { set, points: times.into_iter().map(point).collect() }
        };
        Ok(order.into_iter().map(curve).collect())
    }
}

/// What a block says of probes.
enum ProbeBlock {
    Name(u32, String),
    /// Set, id, step, epoch, loss, right.
    Rows(Vec<(u32, u64, u64, u32, f32, Option<f32>)>),
}

impl ProbeBlock {
    fn read(block: &Block) -> Result<Self, ReadError> {
        if block.kind() == Some(BlockKind::ProbeSet) {
            let (number, name) = block.probe_set()?;
            let number = column::u32s(block, Column::ProbeSet)?.first().copied().unwrap_or(number);
            return Ok(ProbeBlock::Name(number, name));
        }
        let Some(losses) = column::optional(block, Column::Loss, column::f32s)? else {
            return Ok(ProbeBlock::Rows(Vec::new()));
        };
        let (sets, ids) = (column::u32s(block, Column::ProbeSet)?, column::u64s(block, Column::Example)?);
        let (steps, epochs) = (column::u64s(block, Column::Step)?, column::u32s(block, Column::Epoch)?);
        let corrects = column::optional(block, Column::Correct, column::f32s)?;
        let row =
            |at: usize| (sets[at], ids[at], steps[at], epochs[at], losses[at], corrects.as_ref().map(|all| all[at]));
        Ok(ProbeBlock::Rows((0..ids.len()).map(row).collect()))
    }
}
