//! Compares an example in its batch with the same example alone.

use super::batch_rows::BatchRows;
use super::evidence::Evidence;
use super::observe::Observed;
use super::parameters::Parameters;
use super::taps_alone::Recorded;
use crate::recorder::error::RecordError;
use crate::taps::{read_f32, read_row};
use candle_core::{Result, Tensor};

/// Says which example was run alone when the user's closure failed.
pub(super) fn name_example(error: RecordError, rows: &BatchRows) -> RecordError {
    let what = |text: String| {
        format!(
        "a check runs each example alone, and example {} alone failed: {text}. The closure must run only the rows that \
         it is given (`rows.of(&x)`), and the model must take a batch of one",
        rows.ids().first().copied().unwrap_or(0)
    )
    };
    match error {
        RecordError::Pass { step, what: text } => RecordError::Pass { step, what: what(text) },
        RecordError::Candle(cause) => candle_core::Error::msg(what(cause.to_string())).into(),
        other => other,
    }
}

/// Compares the example at `position` of the batch with a run of it alone.
pub(super) fn compare(
    position: usize,
    batch: &Observed,
    alone: &Observed,
    parameters: &Parameters,
    recorded: &[Recorded],
    evidence: &mut Evidence<'_>,
) -> Result<()> {
    if let ([own], Some(in_batch)) = (&alone.losses[..], batch.losses.get(position)) {
        evidence.losses.add(0, position, &[*own], &[*in_batch]);
        evidence.note_losses(position, *in_batch, *own);
    }
    compare_inputs(position, batch, alone, evidence)?;
    let (factor, own_factor) = (batch.factors.get(position), alone.factors.first());
    let (Some(factor), Some(own_factor)) = (factor.filter(|c| **c != 0.0), own_factor.filter(|c| **c != 0.0)) else {
        evidence.without_weight += 1;
        return Ok(());
    };
    let gradients: Vec<Option<Vec<f32>>> = recorded.iter().map(|layer| layer.own(position, *factor)).collect();
    for (subject, (id, places)) in &parameters.tensors {
        let mut sum: Option<Vec<f32>> = None;
        for place in places {
            let parameter = &parameters.all[*place];
            let Some(gradient) = &gradients[parameter.layer] else {
                sum = None;
                break;
            };
            let own = &gradient[parameter.range.clone()];
            match &mut sum {
                Some(sum) => sum.iter_mut().zip(own).for_each(|(sum, own)| *sum += own),
                None => sum = Some(own.to_vec()),
            }
        }
        // A layer that could not be compared has a finding of its own.
        let Some(sum) = sum else { continue };
        let mut own = match alone.grads.get_id(*id) {
            Some(grad) => read_f32(grad)?,
            None => vec![0.0; sum.len()],
        };
        own.iter_mut().for_each(|v| *v = (f64::from(*v) / own_factor) as f32);
        evidence.gradients.add(*subject, position, &sum, &own);
    }
    Ok(())
}

/// Compares what the tapped layers saw. The first difference in the order of the forward pass is where the coupling
/// begins.
fn compare_inputs(position: usize, batch: &Observed, alone: &Observed, evidence: &mut Evidence<'_>) -> Result<()> {
    let layers = |run: &Observed| run.inputs.iter().map(|(layer, _)| *layer).collect::<Vec<_>>();
    if layers(batch) != layers(alone) {
        evidence.other_path.push(position);
        return Ok(());
    }
    let rows = |x: &Tensor| x.dims().first().copied().unwrap_or(0);
    for (place, ((layer, in_batch), (_, own))) in batch.inputs.iter().zip(&alone.inputs).enumerate() {
        if rows(in_batch) != evidence.ids.len() || rows(own) != 1 {
            evidence.note_not_first(*layer, rows(in_batch), rows(own));
            continue;
        }
        if in_batch.dims()[1..] != own.dims()[1..] {
            evidence.other_path.push(position);
            return Ok(());
        }
        evidence.inputs_at(place, *layer).add(0, position, &read_row(in_batch, position)?, &read_row(own, 0)?);
    }
    Ok(())
}
