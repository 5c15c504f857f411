//! Minus a score of a prediction, by candle's ops.

use super::cross_entropy::Told;
use super::ops::{compute_type, own_copy, poison_unless_zero};
use super::rows::Rows;
use super::scale::Scale;
use super::Computed;
use crate::recorder::later::Pending;
use crate::recorder::outputs::{Outputs, Weighing};
use crate::recorder::prediction::refuse_class;
use crate::recorder::targets::refuse_label;
use candle_core::{bail, DType, Error, Result, Tensor};
use gradlog_format::log::PredictionScore;

/// `ℓ_i = −f(z_i, c_i)` of `[batch, classes]` logits. Without given classes, each class is the predicted one.
pub(super) fn prediction_score(
    logits: &Tensor,
    given: Option<&Tensor>,
    score: PredictionScore,
    weighing: &Weighing,
) -> Result<Computed> {
    let (batch, classes) = logits.dims2()?;
    let dtype = compute_type(logits.dtype());
    let numbers = own_copy(logits, dtype)?;
    let (class, told) = match given {
        None => {
            let class = numbers.argmax_keepdim(1)?;
            (class.clone(), class.to_dtype(dtype)?)
        }
        Some(given) => {
            let given = given.to_device(logits.device())?.to_dtype(DType::I64)?.contiguous()?.reshape((batch, 1))?;
            (given.clamp(0i64, classes as i64 - 1)?, given.to_dtype(dtype)?)
        }
    };
    let rows = Rows::new(numbers, &class)?;
    let poison = Some(poison_unless_zero(&(&told - class.to_dtype(dtype)?)?)?);
    let ones = rows.own.ones_like()?;
    let (losses, delta) = match score {
        PredictionScore::Logit => (rows.own.neg()?, rows.others.zeros_like()?),
        PredictionScore::Margin => {
            let delta = rows.others.zeros_like()?;
            Rows::set_own(&delta, &rows.rival_class, &ones)?;
            ((&rows.rival - &rows.own)?, delta)
        }
        PredictionScore::LogOdds => {
            let losses = ((&rows.rival - &rows.own)? + rows.sum.log()?)?;
            (losses, rows.others.broadcast_mul(&rows.per_other(&ones)?)?)
        }
        _ => bail!("the score {score} has no formula here: use another score"),
    };
    Rows::set_own(&delta, &class, &ones.neg()?)?;
    let mut parts = vec![rows.own.clone(), rows.rival.clone(), rows.rival_class.to_dtype(dtype)?, rows.sum.clone()];
    parts.extend([told, losses.clone()]);
    let (weighing, scale) = (weighing.clone(), Scale::uniform(weighing, batch, 1, &losses)?);
    let described = Pending::new(parts, move |parts| {
        let label = |class: &f64| refuse_label(*class as i64);
        let scored = parts[4].iter().map(label).collect::<Result<Vec<u32>>>()?;
        scored.iter().try_for_each(|class| refuse_class(*class as usize, classes)).map_err(Error::msg)?;
        let prediction = |(place, class): (usize, &u32)| Told::new(parts, place).prediction(*class);
        let outputs = Outputs {
            prediction: Some(scored.iter().enumerate().map(prediction).collect()),
            loss: parts[5].iter().map(|loss| *loss as f32).collect(),
            scored: Some((score, scored)),
            ..Outputs::default()
        };
        Ok((outputs, weighing.coefficients(&vec![1; batch])))
    });
    Ok(Computed { losses, delta, scale, poison, described })
}
