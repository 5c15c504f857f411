//! From what a check has seen to findings in words.

use super::evidence::Evidence;
use super::measure::{largest, Difference};
use super::report::{list_ids, percent, quote, Finding, GradientCheck};
use crate::taps::{is_statistic, Registered};
use gradlog_format::log::FindingKind;
use std::collections::{BTreeMap, BTreeSet};

impl Evidence<'_> {
    /// Makes the verdict. `batch_norms` are the names of the model's BatchNorm layers.
    pub(super) fn judge(self, batch_norms: &[String]) -> GradientCheck {
        let mut findings = Vec::new();
        self.judge_reach(&mut findings);
        self.judge_shapes(&mut findings);
        let wrong = self.judge_taps(&mut findings);
        let shared = self.judge_sums(&wrong, &mut findings);
        let moving: Vec<String> = (batch_norms.iter())
            .filter(|layer| self.changed.iter().any(|name| is_statistic(name, std::slice::from_ref(layer))))
            .map(|layer| if layer.is_empty() { "the model's BatchNorm".into() } else { layer.clone() })
            .collect();
        let mut notes = Vec::new();
        let mut largest_difference = None;
        if self.is_random() {
            self.judge_randomness(&mut findings);
            if !moving.is_empty() {
                findings.push(self.coupled_by_statistics(&moving));
            }
        } else {
            let all = self.gradients.relative();
            largest_difference = largest(&all).map(|one| one.relative);
            self.judge_couplings(&all, &wrong, &shared, &moving, &mut findings);
        }
        if !self.uncovered.is_empty() {
            findings.push(self.uncovered());
        }
        let others: Vec<String> =
            self.changed.iter().filter(|name| !is_statistic(name, batch_norms)).cloned().collect();
        if !others.is_empty() {
            notes.push(format!("the forward pass changes {}; the check has set them back", quote(&others)));
        }
        if self.layers.iter().any(Registered::is_variable) {
            notes.push(
                "the gradients of declared variables come from `per_example`, each from one example alone, and were not \
                 compared"
                    .into(),
            );
        }
        if self.without_weight > 0 {
            notes.push(format!("{} examples have no weight in the loss and were not compared", self.without_weight));
        }
        if !self.other_path.is_empty() {
            let ids: Vec<u64> = self.other_path.iter().map(|example| self.id(*example)).collect();
            notes.push(format!("alone, {} takes another path through the tapped layers", list_ids(&ids)));
        }
        let hidden: Vec<String> =
            self.parameters.all.iter().filter(|p| p.id.is_none()).map(|p| p.name.clone()).collect();
        if !hidden.is_empty() {
            notes.push(format!(
                "{} could not be compared: the layer hides the tensor, and no variable has this name",
                quote(&hidden)
            ));
        }
        GradientCheck {
            examples: self.ids.len(),
            layers: self.compared,
            tolerance: self.tolerance,
            largest_difference,
            findings,
            notes,
        }
    }

    fn judge_reach(&self, findings: &mut Vec<Finding>) {
        let names = |layers: &[usize]| layers.iter().map(|layer| self.layer(*layer)).collect::<Vec<_>>();
        if !self.unreached.is_empty() {
            let names = names(&self.unreached);
            let text = format!(
                "the forward pass does not reach {}: run the tapped layers, give a declared last layer its input by \
                 `pass.features`, and tap what a pass may leave out with `taps.tap_optional`",
                quote(&names)
            );
            findings.push(Finding::new(FindingKind::NoGradient, names, text));
        }
        if !self.severed.is_empty() {
            let names = names(&self.severed);
            let text = format!(
                "no gradient comes back to {}: the output does not reach the loss, or a later operation has no backward",
                quote(&names)
            );
            findings.push(Finding::new(FindingKind::NoGradient, names, text));
        }
    }

    fn judge_shapes(&self, findings: &mut Vec<Finding>) {
        for (layer, (in_batch, alone)) in &self.not_first {
            let name = self.layer(*layer);
            let found = match alone {
                0 => format!("{in_batch} for a batch of {}", self.ids.len()),
                alone => format!("{in_batch} for a batch of {}, and {alone} for one example", self.ids.len()),
            };
            let text = format!(
                "the batch is not the first dimension of `{name}`: the first dimension is {found}. Examples are mixed \
                 up there. Keep the batch first through every tapped layer: `[batch, positions, width]`, not \
                 `[positions, batch, width]` or `[batch * positions, width]`"
            );
            findings.push(Finding::new(FindingKind::BatchNotFirst, vec![name], text));
        }
    }

    /// Returns the layers whose taps are wrong.
    fn judge_taps(&self, findings: &mut Vec<Finding>) -> BTreeSet<usize> {
        let mut wrong: BTreeMap<usize, (String, Option<f64>, Vec<u64>)> = BTreeMap::new();
        for (layer, what) in &self.wrong_taps {
            wrong.insert(*layer, (what.clone(), None, Vec::new()));
        }
        let all = self.taps.relative();
        for (subject, worst) in self.differing(&all).0 {
            let layer = self.parameters.all[subject].layer;
            let own: Vec<Difference> =
                all.iter().filter(|one| self.parameters.all[one.subject].layer == layer).copied().collect();
            let examples = self.differing(&own).1;
            let text = format!(
                "its per-example gradients differ from candle's backward through its `plain_forward` by up to {} \
                 (`{}`, example {})",
                percent(worst.relative),
                self.parameter(subject),
                self.id(worst.example)
            );
            let known = wrong.entry(layer).or_insert((text.clone(), Some(worst.relative), examples.clone()));
            if known.1.is_some_and(|known| worst.relative > known) {
                *known = (text, Some(worst.relative), examples);
            }
        }
        for (layer, (what, difference, examples)) in &wrong {
            let kind = self.layers[*layer].spec.kind;
            let way_out = match kind {
                "conv1d" => "candle's gradients of `conv1d` are wrong outside f32 on the CPU (docs/candle-faults.md)",
                _ => "Correct `Tap::per_example` and `Tap::plain_forward` until they agree",
            };
            let name = self.layer(*layer);
            let text = format!("the tap of `{name}` ({kind}) is wrong: {what}. {way_out}");
            let finding = Finding::new(FindingKind::WrongTap, vec![name], text).with_examples(examples.clone());
            findings.push(match difference {
                Some(difference) => finding.with_difference(*difference),
                None => finding,
            });
        }
        wrong.into_keys().collect()
    }

    /// Returns the tensors that get a gradient from elsewhere.
    fn judge_sums(&self, wrong: &BTreeSet<usize>, findings: &mut Vec<Finding>) -> BTreeSet<usize> {
        let all = self.sums.relative();
        let mut shared = BTreeSet::new();
        for (tensor, worst) in self.differing(&all).0 {
            shared.insert(tensor);
            if self.is_flagged(tensor, wrong) {
                continue;
            }
            let name = self.parameter(tensor);
            let text = format!(
                "`{name}` gets a gradient from outside its tapped layer: the recorded gradients and the batch's \
                 gradient differ by {}. Another module uses the parameter, or a term of the loss does, or \
                 `pass.features` got other features than this layer. Tap every module that uses it, or make the term \
                 part of each example's loss",
                percent(worst.relative)
            );
            findings.push(Finding::new(FindingKind::SharedParameter, vec![name], text).with_difference(worst.relative));
        }
        shared
    }

    /// Whether a layer of this tensor has a finding of its own.
    fn is_flagged(&self, tensor: usize, wrong: &BTreeSet<usize>) -> bool {
        let Some((_, places)) = self.parameters.tensors.get(&tensor) else { return false };
        places.iter().any(|place| {
            let layer = self.parameters.all[*place].layer;
            wrong.contains(&layer) || self.not_first.contains_key(&layer)
        })
    }

    fn judge_randomness(&self, findings: &mut Vec<Finding>) {
        let worst = self.runs.iter().filter_map(|runs| self.worst(runs)).map(|one| one.relative).fold(0.0, f64::max);
        let text = format!(
            "two equal runs of the batch differ by up to {}: something in the model or the loss is random, such as \
             dropout or noise that is drawn inside. Couplings could not be looked for. Run the check without it: \
             `forward_t(x, false)`, a drop rate of 0, or noise that is drawn before the check and given by \
             `rows.of(&noise)`",
            percent(worst)
        );
        findings.push(Finding::new(FindingKind::Random, Vec::new(), text).with_difference(worst));
    }

    fn coupled_by_statistics(&self, moving: &[String]) -> Finding {
        let text = format!(
            "{} is a BatchNorm in training mode, so the examples of a batch are coupled. {SHARES}. {WITHOUT_BATCH_NORM}",
            quote(moving)
        );
        Finding::new(FindingKind::CoupledExamples, moving.to_vec(), text)
    }

    fn judge_couplings(
        &self,
        gradients: &[Difference],
        wrong: &BTreeSet<usize>,
        shared: &BTreeSet<usize>,
        moving: &[String],
        findings: &mut Vec<Finding>,
    ) {
        let unexplained: Vec<Difference> = (gradients.iter())
            .filter(|one| !self.is_flagged(one.subject, wrong) && !shared.contains(&one.subject))
            .copied()
            .collect();
        let (tensors, differing) = self.differing(&unexplained);
        let worst = largest(&unexplained).filter(|one| one.relative > self.tolerance);
        let off_by = worst.map_or(String::new(), |worst| {
            let name = self.parameter(worst.subject);
            format!(
                " They differ from the gradients of the examples alone by up to {} (`{name}`, example {}).",
                percent(worst.relative),
                self.id(worst.example)
            )
        });
        let with_worst = |finding: Finding| match worst {
            Some(worst) => finding.with_difference(worst.relative),
            None => finding,
        };
        let begins = self.inputs.iter().find_map(|(layer, differences)| Some((*layer, self.worst(differences)?)));
        let loss = self.worst(&self.losses);
        if let Some((layer, input)) = begins {
            let name = self.layer(layer);
            let cause = match moving {
                [] => String::new(),
                layers => format!(", because {} is a BatchNorm in training mode", quote(layers)),
            };
            let way_out = if moving.is_empty() { WITHOUT_COUPLING } else { WITHOUT_BATCH_NORM };
            let text = format!(
                "what `{name}` sees of an example depends on the rest of the batch{cause} (by {} for example {}). \
                 {SHARES}.{off_by} {way_out}",
                percent(input.relative),
                self.id(input.example)
            );
            let names = if moving.is_empty() { vec![name] } else { moving.to_vec() };
            findings.push(with_worst(Finding::new(FindingKind::CoupledExamples, names, text).with_examples(differing)));
        } else if !moving.is_empty() {
            findings.push(with_worst(self.coupled_by_statistics(moving).with_examples(differing)));
        } else if let Some(loss) = loss {
            let (in_batch, alone) = self.loss_pairs.get(&loss.example).copied().unwrap_or_default();
            let where_from = match self.layers.is_empty() {
                true => "",
                false => ", although every tapped layer sees the same",
            };
            let shares = if self.layers.is_empty() { "" } else { &format!(" {SHARES}.{off_by}") };
            let examples = self.differing(&self.losses.relative()).1;
            let text = format!(
                "the loss of an example depends on the other examples of its batch{where_from}: example {} has the \
                 loss {in_batch} in the batch and {alone} alone.{shares} {WITHOUT_COUPLED_LOSS}",
                self.id(loss.example)
            );
            findings
                .push(with_worst(Finding::new(FindingKind::CoupledLosses, Vec::new(), text).with_examples(examples)));
        } else if let Some(worst) = worst {
            let names: Vec<String> = tensors.keys().map(|place| self.parameter(*place)).collect();
            let text = format!(
                "the recorded gradients of {} are not those of the examples alone, although inputs and losses agree: \
                 they differ by up to {} (`{}`, example {})",
                quote(&names),
                percent(worst.relative),
                self.parameter(worst.subject),
                self.id(worst.example)
            );
            findings.push(with_worst(Finding::new(FindingKind::Disagreement, names, text).with_examples(differing)));
        }
        let folds = self.folds.relative();
        for (layer, worst) in self.differing(&folds).0.into_iter().filter(|(layer, _)| !wrong.contains(layer)) {
            let name = self.layer(layer);
            let text = format!(
                "the fused op of `{name}` records other gradients than its tap, by up to {} (example {}): please report \
                 this as a bug in gradlog",
                percent(worst.relative),
                self.id(worst.example)
            );
            findings.push(Finding::new(FindingKind::Disagreement, vec![name], text).with_difference(worst.relative));
        }
    }

    fn uncovered(&self) -> Finding {
        let names: Vec<String> = self.uncovered.iter().map(|(name, _)| name.clone()).collect();
        let numbers: usize = self.uncovered.iter().map(|(_, numbers)| numbers).sum();
        let text = format!(
            "no tap covers {}, which the loss trains ({numbers} parameters): what is recorded is right, but it is not \
             the whole gradient. Tap the layer, or keep to scores that need no whole gradient",
            quote(&names)
        );
        Finding::new(FindingKind::UncoveredVariable, names, text)
    }
}

const SHARES: &str =
    "What is recorded is each example's share of the batch gradient: the part that flows through its own \
                      activations. The shares add up to the batch gradient, and depend on the other examples";
const WITHOUT_BATCH_NORM: &str = "Use GroupNorm, LayerNorm or RmsNorm, or freeze the statistics \
                                  (`taps::FrozenBatchNorm`). To keep the shares, set `Config::on_batch_norm`";
const WITHOUT_COUPLING: &str = "Find what mixes the batch before this layer: a norm, a mean or an attention over the \
                                first dimension";
const WITHOUT_COUPLED_LOSS: &str =
    "Contrastive losses do this. No loss of one example stands for them, so results about \
                                    single examples are results about shares";
