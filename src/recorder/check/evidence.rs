//! What a check has seen: differences, and what could not be compared.

use super::measure::{largest, Difference, Differences};
use super::observe::Observed;
use super::parameters::Parameters;
use crate::taps::{read_f32, Registered};
use candle_core::{Result, Var};
use std::collections::{BTreeMap, BTreeSet};

/// What a check has seen.
pub(super) struct Evidence<'a> {
    pub ids: &'a [u64],
    pub layers: &'a [Registered],
    pub parameters: &'a Parameters,
    pub tolerance: f64,
    /// Variables that the forward pass changes.
    pub changed: Vec<String>,
    /// Two runs of the batch: losses and gradients.
    pub runs: [Differences; 2],
    /// Each tap against its own layer. The subject is a parameter.
    pub taps: Differences,
    /// Sums of recorded gradients against the batch's gradient. The subject is a tensor.
    pub sums: Differences,
    /// Folded gradients against exact ones. The subject is a layer.
    pub folds: Differences,
    /// Each loss in the batch against the loss alone.
    pub losses: Differences,
    /// In the batch, and alone.
    pub loss_pairs: BTreeMap<usize, (f32, f32)>,
    /// Each input in the batch against that alone, by the use's place in the forward pass, with its layer.
    pub inputs: Vec<(usize, Differences)>,
    /// Each gradient in the batch against that alone. The subject is a tensor.
    pub gradients: Differences,
    /// Layers without the batch as first dimension: what was found in the batch, and alone.
    pub not_first: BTreeMap<usize, (usize, usize)>,
    /// Layers whose tap fails, and how.
    pub wrong_taps: Vec<(usize, String)>,
    pub unreached: Vec<usize>,
    pub severed: Vec<usize>,
    /// Examples that take another path through the model alone.
    pub other_path: Vec<usize>,
    /// Number of examples without a weight in the loss.
    pub without_weight: usize,
    /// Number of layers whose gradients could be compared.
    pub compared: usize,
    /// Trained variables that no tap covers, and their sizes.
    pub uncovered: Vec<(String, usize)>,
}

impl<'a> Evidence<'a> {
    pub(super) fn new(
        ids: &'a [u64],
        tolerance: f64,
        layers: &'a [Registered],
        parameters: &'a Parameters,
        changed: Vec<String>,
    ) -> Self {
        Self {
            ids,
            layers,
            parameters,
            tolerance,
            changed,
            runs: Default::default(),
            taps: Differences::default(),
            sums: Differences::default(),
            folds: Differences::default(),
            losses: Differences::default(),
            loss_pairs: BTreeMap::new(),
            inputs: Vec::new(),
            gradients: Differences::default(),
            not_first: BTreeMap::new(),
            wrong_taps: Vec::new(),
            unreached: Vec::new(),
            severed: Vec::new(),
            other_path: Vec::new(),
            without_weight: 0,
            compared: 0,
            uncovered: Vec::new(),
        }
    }

    /// Compares two equal runs of the batch.
    pub(super) fn compare_runs(&mut self, one: &Observed, other: &Observed) {
        let [losses, gradients] = &mut self.runs;
        for (example, (a, b)) in one.losses.iter().zip(&other.losses).enumerate() {
            losses.add(0, example, &[*a], &[*b]);
        }
        for (subject, (id, _)) in &self.parameters.tensors {
            let read = |run: &Observed| run.grads.get_id(*id).and_then(|grad| read_f32(grad).ok());
            if let (Some(a), Some(b)) = (read(one), read(other)) {
                gradients.add(*subject, 0, &a, &b);
            }
        }
    }

    /// Whether two equal runs differ.
    pub(super) fn is_random(&self) -> bool {
        self.runs.iter().any(|runs| self.worst(runs).is_some())
    }

    pub(super) fn inputs_at(&mut self, place: usize, layer: usize) -> &mut Differences {
        while self.inputs.len() <= place {
            self.inputs.push((layer, Differences::default()));
        }
        self.inputs[place].0 = layer;
        &mut self.inputs[place].1
    }

    pub(super) fn note_losses(&mut self, example: usize, in_batch: f32, alone: f32) {
        // Adding 0 makes a zero of a negative one.
        self.loss_pairs.insert(example, (in_batch + 0.0, alone + 0.0));
    }

    pub(super) fn note_not_first(&mut self, layer: usize, in_batch: usize, alone: usize) {
        let known = self.not_first.entry(layer).or_insert((in_batch, alone));
        known.1 = known.1.max(alone);
    }

    pub(super) fn note_wrong_tap(&mut self, layer: usize, what: String) {
        if !self.wrong_taps.iter().any(|(known, _)| *known == layer) {
            self.wrong_taps.push((layer, what));
        }
    }

    /// Finds variables, of those that are trained, that no tap covers.
    pub(super) fn find_uncovered<'v>(
        &mut self,
        trained: impl Iterator<Item = &'v (String, Var)>,
        batch: &Observed,
    ) -> Result<()> {
        if self.layers.is_empty() {
            return Ok(());
        }
        for (name, var) in trained {
            if self.parameters.covers(var.id()) {
                continue;
            }
            let Some(grad) = batch.grads.get(var.as_tensor()) else { continue };
            if read_f32(grad)?.iter().any(|v| *v != 0.0) {
                self.uncovered.push((name.clone(), var.elem_count()));
            }
        }
        Ok(())
    }

    /// The largest difference above rounding.
    pub(super) fn worst(&self, differences: &Differences) -> Option<Difference> {
        largest(&differences.relative()).filter(|one| one.relative > self.tolerance)
    }

    /// The subjects that differ by more than rounding, each with its largest difference, and the examples.
    pub(super) fn differing(&self, all: &[Difference]) -> (BTreeMap<usize, Difference>, Vec<u64>) {
        let mut subjects: BTreeMap<usize, Difference> = BTreeMap::new();
        let mut examples = BTreeSet::new();
        for one in all.iter().filter(|one| one.relative > self.tolerance) {
            let worst = subjects.entry(one.subject).or_insert(*one);
            if one.relative > worst.relative {
                *worst = *one;
            }
            examples.insert(one.example);
        }
        (subjects, examples.into_iter().filter_map(|example| self.ids.get(example).copied()).collect())
    }

    pub(super) fn layer(&self, number: usize) -> String {
        self.layers[number].name.clone()
    }

    pub(super) fn parameter(&self, place: usize) -> String {
        self.parameters.all[place].name.clone()
    }

    pub(super) fn id(&self, example: usize) -> u64 {
        self.ids.get(example).copied().unwrap_or(0)
    }
}
