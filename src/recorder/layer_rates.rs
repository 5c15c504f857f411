//! Learning rates of single layers, as the loop tells them, and layers that no step changes, as they are seen: from
//! there into blocks of kind LayerRates (FORMAT.md, "Layer rates").

use super::message::Message;
use super::queue::Sent;
use super::state::State;
use super::watch::Seen;
use crate::step::StepInfo;
use crate::taps::Registered;
use gradlog_format::log::{BlockBuilder, BlockKind, Cells, Column};
use std::collections::BTreeMap;

/// Factors that differ by less are the same: a schedule divides two rates anew in each step.
const TOLERANCE: f32 = 1e-5;

/// For each layer with a reported rate: its number, and its rate divided by that of the step. If both rates are 0, as
/// in the first step of a warm-up, there is no ratio, and the layer is left out.
///
/// # Errors
/// In words, for a layer that is not tapped, a rate that is no rate, and a step whose own rate is 0.
pub(super) fn rate_factors(layers: &[Registered], info: &StepInfo) -> Result<Vec<(u32, f32)>, String> {
    let factor = |(name, rate): &(String, f64)| {
        let Some(number) = layers.iter().position(|layer| layer.name == *name) else {
            let known: Vec<&str> = layers.iter().map(|layer| layer.name.as_str()).collect();
            return Err(format!(
                "a learning rate was given for layer `{name}`, but the tapped layers are {}",
                known.join(", ")
            ));
        };
        if !(rate.is_finite() && *rate >= 0.0) {
            return Err(format!(
                "a learning rate of {rate} for layer `{name}` is not allowed: give 0 or a positive number"
            ));
        }
        let factor = (rate / info.learning_rate) as f32;
        if !(factor.is_finite() && info.learning_rate > 0.0) {
            return Err(format!(
                "layer `{name}` has a learning rate of its own, so the step's must be above 0: give that of the largest group"
            ));
        }
        Ok((number as u32, factor))
    };
    let by_variable = rates_by_variable(layers, info)?;
    // What the loop says of a layer counts, whatever the optimizer says.
    let is_still = |(_, rate): &&(String, f64)| info.learning_rate == 0.0 && *rate == 0.0;
    let unsaid = by_variable.iter().filter(|(name, _)| !info.layer_rates.iter().any(|(said, _)| said == name));
    info.layer_rates.iter().chain(unsaid).filter(|rate| !is_still(rate)).map(factor).collect()
}

/// The layers whose variables have a rate of their own.
fn rates_by_variable(layers: &[Registered], info: &StepInfo) -> Result<Vec<(String, f64)>, String> {
    if info.variable_rates.is_empty() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for layer in layers {
        let own = layer.spec.parameters.iter().map(|parameter| {
            let own = info.variable_rates.iter().find(|(id, _)| Some(*id) == parameter.id);
            own.map_or(info.learning_rate, |(_, rate)| *rate)
        });
        let rates: Vec<f64> = own.collect();
        let Some(first) = rates.first().copied() else { continue };
        if rates.iter().any(|rate| *rate != first) {
            return Err(format!(
                "the parameters of layer `{}` have different learning rates ({rates:?}), and the log has one for each layer: \
                 put them into one parameter group",
                layer.name
            ));
        }
        if first != info.learning_rate {
            found.push((layer.name.clone(), first));
        }
    }
    Ok(found)
}

/// The weight decays that differ from that of the step: number of the layer, that of the parameter, and decay.
pub(super) fn own_decays(layers: &[Registered], info: &StepInfo) -> Vec<Decay> {
    let mut found = Vec::new();
    for (layer, (number, parameter)) in layers
        .iter()
        .zip(0..)
        .flat_map(|(layer, number)| layer.spec.parameters.iter().zip(0..).map(move |(p, at)| (number, (at, p))))
    {
        let own = info.variable_decays.iter().find(|(id, _)| Some(*id) == parameter.id);
        found.extend(own.map(|(_, decay)| ((layer, number), *decay as f32)));
    }
    found
}

/// Numbers of a layer and of one of its parameters, and the parameter's weight decay.
pub(super) type Decay = ((u32, u32), f32);

/// The factors and decays that the log holds.
#[derive(Debug, Default)]
pub(super) struct RatesTold {
    factors: BTreeMap<u32, f32>,
    /// `None` for the decay of the step.
    decays: BTreeMap<(u32, u32), Option<f32>>,
}

impl RatesTold {
    /// The log says something of these layers that is out of date.
    pub(super) fn outdated(layers: &[Registered]) -> Self {
        let numbers = || layers.iter().zip(0u32..);
        let parameters = |(layer, number): (&Registered, u32)| {
            (0..layer.spec.parameters.len() as u32).map(move |parameter| ((number, parameter), Some(f32::NAN)))
        };
        Self {
            factors: numbers().map(|(_, number)| (number, f32::NAN)).collect(),
            decays: numbers().flat_map(parameters).collect(),
        }
    }

    /// The rows for the decays that have changed at `step`, if one has. A parameter that is not among `decays` has that
    /// of the step.
    pub(super) fn take_decays(&mut self, step: u64, decays: &[Decay]) -> Option<BlockBuilder> {
        if decays.is_empty() && self.decays.is_empty() {
            return None;
        }
        let mut now: BTreeMap<(u32, u32), Option<f32>> = self.decays.keys().map(|known| (*known, None)).collect();
        now.extend(decays.iter().map(|(parameter, decay)| (*parameter, Some(*decay))));
        // What the log is not known to say is NaN, which equals nothing.
        let is_new = |(known, decay): &((u32, u32), Option<f32>)| self.decays.get(known).copied().flatten() != *decay;
        let changes: Vec<((u32, u32), Option<f32>)> = now.into_iter().filter(is_new).collect();
        if changes.is_empty() {
            return None;
        }
        self.decays.extend(changes.iter().copied());
        let mut rows = BlockBuilder::new(BlockKind::LayerRates);
        rows.u64s(Column::Step, changes.iter().map(|_| step));
        rows.u32s(Column::Layer, changes.iter().map(|((layer, _), _)| *layer));
        rows.u32s(Column::Parameter, changes.iter().map(|((_, parameter), _)| *parameter));
        rows.f32s(Column::WeightDecay, changes.iter().map(|(_, decay)| decay.unwrap_or(f32::NAN)));
        rows.advance(changes.len() as u32, step, 0);
        Some(rows)
    }

    /// The rows for the factors that have changed at `step`, if one has. A layer that is not among `factors` has the
    /// factor 1.
    pub(super) fn take_changes(&mut self, step: u64, factors: &[(u32, f32)]) -> Option<BlockBuilder> {
        if factors.is_empty() && self.factors.is_empty() {
            return None;
        }
        let mut now: BTreeMap<u32, f32> = self.factors.keys().map(|layer| (*layer, 1.0)).collect();
        now.extend(factors.iter().copied());
        let is_same = |layer: &u32, factor: f32| {
            let before = self.factors.get(layer).copied().unwrap_or(1.0);
            (before - factor).abs() <= TOLERANCE * factor
        };
        let changes: Vec<(u32, f32)> = now.into_iter().filter(|(layer, factor)| !is_same(layer, *factor)).collect();
        if changes.is_empty() {
            return None;
        }
        self.factors.extend(changes.iter().copied());
        let mut rows = BlockBuilder::new(BlockKind::LayerRates);
        rows.u64s(Column::Step, changes.iter().map(|_| step));
        rows.u32s(Column::Layer, changes.iter().map(|(layer, _)| *layer));
        rows.f32s(Column::RateFactor, changes.iter().map(|(_, factor)| *factor));
        rows.advance(changes.len() as u32, step, 0);
        Some(rows)
    }
}

/// The rows for layers that were looked at.
pub(super) fn seen_rows(seen: &[Seen]) -> BlockBuilder {
    let mut rows = BlockBuilder::new(BlockKind::LayerRates);
    rows.u64s(Column::Step, seen.iter().map(|seen| seen.step));
    rows.u32s(Column::Layer, seen.iter().map(|seen| seen.layer));
    rows.column(Column::Trained, Cells::U8, 1).extend(seen.iter().map(|seen| seen.trained as u8));
    seen.iter().for_each(|seen| rows.advance(1, seen.step, 0));
    rows
}

impl State {
    /// Looks at the layers' parameters before a training step, and hands over what is new.
    pub(super) fn look_at_layers(&mut self) {
        let seen = self.watch.look_before(self.step, &self.layers);
        self.send_seen(seen, false);
    }

    /// Looks once more when the training has ended.
    pub(super) fn look_at_layers_at_end(&mut self) {
        if self.replayed.is_none() {
            let seen = self.watch.look_at_end(self.step);
            self.send_seen(seen, true);
        }
    }

    /// What the queue has no room for waits for the next look. An error shows at the next pass.
    fn send_seen(&mut self, seen: Vec<Seen>, wait: bool) {
        self.unsent_layers.extend(seen);
        // Rows of a block are in the order of their steps.
        self.unsent_layers.sort_by_key(|seen| seen.step);
        if self.unsent_layers.is_empty() {
            return;
        }
        let (unsent, Some(queue)) = (self.unsent_layers.clone(), &mut self.queue) else { return };
        let message = Message::LayersSeen(unsent);
        let sent = match wait {
            true => queue.send_unless_hurried(message, 0).map(|()| Sent::Yes),
            false => queue.send(message, 0),
        };
        if matches!(sent, Ok(Sent::Yes)) {
            self.unsent_layers.clear();
        }
    }
}
