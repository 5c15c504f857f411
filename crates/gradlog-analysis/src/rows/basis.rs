//! What an answer rests on, in one line. Every answer carries a [`Basis`], and all of them are made here.

use super::left_out::LeftOut;
use super::optimizer_model::{read_steps, OptimizerModel};
use super::rule::RowRule;
use super::share::ExampleShare;
use super::untrained::UntrainedLayers;
use super::window::Window;
use super::wiring::{EpochsBack, LabelChanges, SEVERAL_LABELS, VISITS_LOOKED_AT};
use crate::{rows::column, AnalysisError};
use gradlog_format::log::{BlockKind, Column, Manifest, Mode};
use gradlog_format::run::{Block, ReadError, Run};
use std::collections::BTreeMap;
use std::fmt;

/// What an answer rests on. Every answer has one, and its `Display` is the line that the command prints.
///
/// The line has these clauses, as far as they apply, with `; ` between them: the rows and the mode of the model, the
/// optimizer that is modeled, the layers whose gradients count, layers that are not trained, weights of examples,
/// couplings between examples, ids with several labels, epochs that go backwards, the share of the examples, and what
/// was left out.
///
/// ```
/// use gradlog_analysis::{Basis, BasisRows};
///
/// let mut basis = Basis::default();
/// assert_eq!(basis.to_string(), "visits, training mode");
/// basis.left_out.not_finite = 2;
/// assert_eq!(basis.to_string(), "visits, training mode; left out: 2 visits (a number was NaN or infinite)");
/// assert_eq!(basis.rows, BasisRows::Visits);
/// ```
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct Basis {
    /// Which rows it is made of, and how the model ran.
    pub rows: BasisRows,
    /// What is taken for the optimizer; `None` where no step plays a part, as in a mean over visits.
    pub optimizer: Option<OptimizerModel>,
    /// Whose gradients count; `None` where the answer is made of outputs alone.
    pub gradients: Option<GradientCoverage>,
    /// Recorded layers that no step changed; none where the answer is made of outputs or of probes alone.
    pub untrained: UntrainedLayers,
    /// By what examples count in an objective that is more than their plain mean, for methods that have an objective;
    /// and which curvature does not go by it.
    pub weighting: Option<String>,
    /// Whether examples among the first 16,384 visits have several labels. `gradlog info` looks at all visits.
    pub several_labels: bool,
    /// Where epochs go backwards, if they do.
    pub epochs_back: Option<EpochsBack>,
    /// What makes the gradient of an example depend on others of its batch, if the run says so.
    pub coupling: Option<String>,
    /// Visits inside the window that the recorder dropped, so that the log does not hold them.
    pub dropped: u64,
    /// The share of the examples that it is about; `None` for all.
    pub share: Option<ExampleShare>,
    /// What was left out, by the reason. It is that of the answer.
    pub left_out: LeftOut,
}

/// Which rows an answer is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum BasisRows {
    /// Visits of the training: in training mode, at the weights just before each step.
    #[default]
    Visits,
    /// Sweeps of the examples at checkpoints.
    Sweeps {
        /// The steps before which the checkpoints were taken, ascending.
        steps: Vec<u64>,
        /// How the model ran. More than one if replays differed.
        modes: Vec<Mode>,
    },
    /// Records of probes.
    Probes {
        /// The steps before which they were taken, ascending.
        times: Vec<u64>,
        /// How the model ran where a replay took them; empty for probes of the training.
        modes: Vec<Mode>,
    },
}

/// Whose gradients an answer is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct GradientCoverage {
    /// Recorded layers whose gradients count.
    pub layers: u64,
    /// Recorded layers.
    pub recorded_layers: u64,
    /// Parameters of the layers that count. A tensor that several layers share counts once.
    pub parameters: u64,
    /// Parameters of the model, if it was declared.
    pub model_parameters: Option<u64>,
}

/// What an answer is made of besides its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Uses {
    /// Outputs: losses, margins and the like.
    Outputs,
    /// Gradients, each for itself.
    Gradients,
    /// Gradients, weighted by the steps that they took part in.
    Steps,
}

impl Uses {
    /// What a score uses by the numbers that it is made of.
    pub(crate) fn of_rule(rule: &RowRule) -> Self {
        if rule.numbers.contains(&Column::LearningRate) {
            Uses::Steps
        } else if rule.numbers.contains(&Column::SquaredNorm) {
            Uses::Gradients
        } else {
            Uses::Outputs
        }
    }
}

impl Basis {
    /// What an answer rests on that is made of `rows` inside `window`.
    ///
    /// # Errors
    /// [`AnalysisError::Read`] if the file system refuses. A damaged block ends the reading: the answer itself meets
    /// the same damage.
    ///
    /// # Cost
    /// One pass over the headers of the run, and over the blocks of steps where these play a part.
    pub(crate) fn of(run: &Run, window: &Window, rows: BasisRows, uses: Uses) -> Result<Self, AnalysisError> {
        let mut basis = Self { rows, coupling: coupling(run)?, share: window.share, ..Self::default() };
        let mut told = BTreeMap::new();
        for block in run.scan() {
            match block.kind() {
                // A sweep takes the rates of its checkpoints, which are those of steps before them.
                Some(BlockKind::Steps) if uses == Uses::Steps => read_steps(&block, window, &mut told)?,
                Some(BlockKind::Gaps) if !window.is_on_sweeps() => basis.dropped += dropped(&block, window)?,
                _ => {}
            }
        }
        if !matches!(basis.rows, BasisRows::Probes { .. }) {
            basis.several_labels = match run.buckets() {
                Some(buckets) => buckets.facts.several_labels,
                None => LabelChanges::find(run, VISITS_LOOKED_AT)?.is_some(),
            };
            basis.epochs_back = EpochsBack::find(run)?;
        }
        basis.optimizer = (uses == Uses::Steps).then(|| OptimizerModel::of(&told));
        if uses == Uses::Outputs {
            return Ok(basis);
        }
        if !matches!(basis.rows, BasisRows::Probes { .. }) {
            basis.untrained = UntrainedLayers::find(run, window)?;
        }
        let (layers, left_out) = (&run.manifest().layers, &basis.untrained.left_out);
        let counting: Vec<usize> = (0..layers.len()).filter(|at| !left_out.contains(&layers[*at].name)).collect();
        basis.gradients = Some(GradientCoverage::of(run.manifest(), Some(&counting)));
        Ok(basis)
    }

    /// The same, of these layers alone, by their numbers.
    #[must_use]
    pub(crate) fn of_layers(mut self, manifest: &Manifest, numbers: &[usize]) -> Self {
        self.gradients = Some(GradientCoverage::of(manifest, Some(numbers)));
        self
    }

    /// The same, with what the answer left out.
    #[must_use]
    pub(crate) fn with_left_out(mut self, left_out: &LeftOut) -> Self {
        self.left_out = left_out.clone();
        self
    }

    /// The same, of probes that are multiplied by Adam's second moments.
    #[must_use]
    pub(crate) fn with_moments(mut self) -> Self {
        self.optimizer = self.optimizer.map(|model| OptimizerModel { models_moments: true, ..model });
        self
    }

    /// The same, with norms of visits in Adam's metric. A parameter that no step changes has no part in it.
    #[must_use]
    pub(crate) fn with_norms_in_metric(mut self) -> Self {
        self.optimizer = self.optimizer.map(|model| OptimizerModel { models_norms: true, ..model });
        let counted = std::mem::take(&mut self.untrained.counted);
        self.untrained.left_out.extend(counted);
        self.untrained.in_part.clear();
        self
    }

    /// Whether norms of visits are in Adam's metric.
    pub(crate) fn is_in_metric(&self) -> bool {
        self.optimizer.as_ref().is_some_and(|model| model.models_norms)
    }

    /// Whether it is sweeps and not visits.
    pub fn is_sweeps(&self) -> bool {
        matches!(self.rows, BasisRows::Sweeps { .. })
    }

    /// The line of an answer over several parts, such as runs. Each clause is said once, and counts are added.
    pub fn describe_all<'a>(parts: impl IntoIterator<Item = &'a Basis>) -> String {
        let mut clauses: [Vec<String>; 9] = Default::default();
        let (mut left_out, mut dropped) = (LeftOut::default(), 0u64);
        for part in parts {
            for (said, clause) in clauses.iter_mut().zip(part.clauses()) {
                if let Some(clause) = clause.filter(|clause| !said.contains(clause)) {
                    said.push(clause);
                }
            }
            left_out.add(&part.left_out);
            dropped = dropped.saturating_add(part.dropped);
        }
        let said = clauses.into_iter().filter(|said| !said.is_empty()).map(|said| said.join(" and "));
        said.chain(left_out_clause(&left_out, dropped)).collect::<Vec<_>>().join("; ")
    }

    /// The clauses but for what was left out.
    fn clauses(&self) -> [Option<String>; 9] {
        let text = |part: Option<&dyn fmt::Display>| part.map(ToString::to_string);
        let (optimizer, gradients) = (self.optimizer.as_ref(), self.gradients.as_ref());
        [
            text(Some(&self.rows)),
            text(optimizer.map(|model| model as &dyn fmt::Display)),
            text(gradients.map(|coverage| coverage as &dyn fmt::Display)),
            untrained_clause(&self.untrained),
            self.weighting.clone(),
            self.coupling.clone(),
            self.several_labels.then(|| SEVERAL_LABELS.to_owned()),
            self.epochs_back.map(|found| found.to_string()),
            self.share.map(|share| format!("share {share} of the examples alone")),
        ]
    }
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Basis::describe_all([self]))
    }
}

/// What makes the gradient of an example depend on others of its batch, as the run says: its BatchNorm, and what its
/// checks found. In a damaged run, what the manifest says.
fn coupling(run: &Run) -> Result<Option<String>, AnalysisError> {
    let found = match run.couplings() {
        Err(ReadError::Damaged(_)) => run.manifest().couplings(),
        found => found?,
    };
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    Ok((!found.is_empty()).then(|| found.join(" and ")))
}

fn untrained_clause(layers: &UntrainedLayers) -> Option<String> {
    let parts = [
        (&layers.left_out, "not trained"),
        (&layers.counted, "not trained, but counted with layers that share their vector"),
        (&layers.partly, "not trained in all steps"),
        (&layers.in_part, "trained in part, but counted whole"),
    ];
    let names = |names: &[String]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let parts = parts.into_iter().filter(|(layers, _)| !layers.is_empty());
    let said: Vec<String> = parts.map(|(layers, what)| format!("{what}: {}", names(layers))).collect();
    (!said.is_empty()).then(|| said.join(", "))
}

fn left_out_clause(left_out: &LeftOut, dropped: u64) -> Option<String> {
    let one = if dropped == 1 { "visit" } else { "visits" };
    let lost = (dropped > 0).then(|| format!("{dropped} {one} (dropped while recording)"));
    let all: Vec<String> = lost.into_iter().chain(left_out.short_notes()).collect();
    (!all.is_empty()).then(|| format!("left out: {}", all.join(", ")))
}

impl fmt::Display for BasisRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BasisRows::Visits => f.write_str("visits, training mode"),
            BasisRows::Sweeps { steps, modes } => {
                match steps.as_slice() {
                    [] => f.write_str("no sweep")?,
                    [step] => write!(f, "sweep at checkpoint step {step}")?,
                    [first, .., last] => write!(f, "sweeps at {} checkpoints, steps {first} to {last}", steps.len())?,
                }
                match modes.as_slice() {
                    [] => f.write_str(", in a mode that is not known"),
                    modes => write!(f, ", {}", mode_words(modes)),
                }
            }
            BasisRows::Probes { times, modes } => {
                match times.as_slice() {
                    [] => f.write_str("no probe")?,
                    [time] => write!(f, "probes at step {time}")?,
                    [first, .., last] => write!(f, "probes at {} times, steps {first} to {last}", times.len())?,
                }
                match modes.as_slice() {
                    [] => Ok(()),
                    modes => write!(f, ", {}", mode_words(modes)),
                }
            }
        }
    }
}

fn mode_words(modes: &[Mode]) -> String {
    match modes {
        [mode] => mode.to_string(),
        _ => "partly in training and partly in evaluation mode".into(),
    }
}

/// Visits that a block of gaps says were dropped, as far as it lies inside the window.
fn dropped(block: &Block, window: &Window) -> Result<u64, AnalysisError> {
    if !window.touches(block) {
        return Ok(0);
    }
    match column::u64s(block, Column::Dropped) {
        Ok(counts) => Ok(counts.into_iter().fold(0, u64::saturating_add)),
        Err(ReadError::Damaged(_)) => Ok(0),
        Err(other) => Err(other.into()),
    }
}

impl GradientCoverage {
    /// Of all recorded layers, or of those with these numbers.
    pub(crate) fn of(manifest: &Manifest, numbers: Option<&[usize]>) -> Self {
        let mut part = manifest.clone();
        if let Some(numbers) = numbers {
            let mut number = 0..;
            part.layers.retain(|_| number.next().is_some_and(|number| numbers.contains(&number)));
        }
        Self {
            layers: part.layers.len() as u64,
            recorded_layers: manifest.layers.len() as u64,
            parameters: part.recorded_parameters(),
            model_parameters: manifest.model_parameters,
        }
    }

    /// The share of the model's parameters, if the model was declared.
    pub fn share(&self) -> Option<f64> {
        self.model_parameters.map(|all| (self.parameters as f64 / (all as f64).max(1.0)).min(1.0))
    }
}

impl fmt::Display for GradientCoverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layers, recorded_layers, parameters, model_parameters } = *self;
        let plural = if recorded_layers == 1 { "layer" } else { "layers" };
        match layers == recorded_layers {
            true => write!(f, "gradients of {layers} {plural}")?,
            false => write!(f, "gradients of {layers} of {recorded_layers} recorded {plural}")?,
        }
        match model_parameters {
            None => f.write_str(" (the model was not declared, so their share of it is not known)"),
            Some(all) if parameters >= all => f.write_str(", all of the model's parameters"),
            // A part is never rounded to the whole.
            Some(all) => {
                let percent = (100.0 * parameters as f64 / all as f64).min(99.9);
                write!(f, ", {percent:.1} % of the model's parameters")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_model_is_never_called_the_whole() {
        let of = |layers, parameters, model_parameters| {
            GradientCoverage { layers, recorded_layers: 3, parameters, model_parameters }.to_string()
        };
        assert_eq!(of(3, 1000, Some(1000)), "gradients of 3 layers, all of the model's parameters");
        assert_eq!(of(3, 99_999, Some(100_000)), "gradients of 3 layers, 99.9 % of the model's parameters");
        assert_eq!(of(1, 250, Some(1000)), "gradients of 1 of 3 recorded layers, 25.0 % of the model's parameters");
        assert!(of(3, 250, None).contains("not known"));
    }

    #[test]
    fn several_parts_say_each_clause_once_and_add_counts() {
        let left_out = LeftOut { not_finite: 1, ..LeftOut::default() };
        let one = Basis { dropped: 3, ..Basis::default() }.with_left_out(&left_out);
        let other = Basis::default().with_left_out(&left_out);
        assert_eq!(
            Basis::describe_all([&one, &other]),
            "visits, training mode; left out: 3 visits (dropped while recording), 2 visits (a number was NaN or infinite)"
        );
        let name = |name: &str| vec![name.to_owned()];
        let untrained = UntrainedLayers { left_out: name("fc2"), partly: name("fc1"), ..UntrainedLayers::default() };
        let untrained = Basis { untrained, ..Basis::default() };
        assert_eq!(untrained.to_string(), "visits, training mode; not trained: `fc2`, not trained in all steps: `fc1`");
        let coupled = Basis { coupling: Some("BatchNorm couples examples".into()), ..Basis::default() };
        assert_eq!(coupled.to_string(), "visits, training mode; BatchNorm couples examples");
    }
}
