//! Losses that are means over the outputs of an example, by candle's ops.

use super::ops::{as_type, choose, compute_type, log1p, poison_unless_zero};
use super::scale::Scale;
use super::Computed;
use crate::recorder::later::Pending;
use crate::recorder::outputs::{self, Outputs, Weighing};
use crate::recorder::targets::refuse_share;
use candle_core::{Result, Tensor};

/// Small errors are squared at this scale, so that their squares are not lost in f32.
const SCALE: f64 = (1u64 << 50) as f64;
/// From this sum of squares on nothing of weight is lost without the scale.
const SUM_MIN: f64 = 1e-24;

/// Outputs and targets as `[batch, width]`.
struct Pairs {
    outputs: Tensor,
    targets: Tensor,
    batch: usize,
    width: usize,
}

impl Pairs {
    fn new(output: &Tensor, target: &Tensor) -> Result<Self> {
        let dtype = compute_type(output.dtype());
        let batch = output.dim(0)?;
        let width = output.elem_count() / batch.max(1);
        let flat = |tensor: &Tensor| as_type(tensor, dtype)?.reshape((batch, width));
        let target = target.detach().to_device(output.device())?;
        Ok(Self { outputs: flat(output)?, targets: flat(&target)?, batch, width })
    }

    /// The mean over an example's outputs, `[batch, 1]`.
    fn mean(&self, values: &Tensor) -> Result<Tensor> {
        match self.width {
            1 => Ok(values.clone()),
            width => values.sum_keepdim(1)? / width as f64,
        }
    }

    fn scale(&self, weighing: &Weighing) -> Result<Scale> {
        Scale::uniform(weighing, self.batch, self.width, &self.outputs)
    }

    /// The columns of examples with one output, of the outputs and targets themselves.
    fn describe_one(
        &self,
        weighing: &Weighing,
        form: impl FnOnce(&[f64], &[f64], usize, &Weighing) -> Result<outputs::ClosedForm<f64>> + Send + Sync + 'static,
    ) -> Pending<(Outputs, Vec<f32>)> {
        let (batch, weighing) = (self.batch, weighing.clone());
        Pending::new(vec![self.outputs.clone(), self.targets.clone()], move |parts| {
            let form = form(&parts[0], &parts[1], batch, &weighing)?;
            Ok((form.outputs, form.coefficients.into_iter().map(|c| c as f32).collect()))
        })
    }

    /// The columns of examples with several outputs, which `make` fills from their means and the EL2N.
    fn describe_many(
        &self,
        weighing: &Weighing,
        parts: Vec<Tensor>,
        make: impl FnOnce(&[Vec<f64>], &mut Outputs) -> Result<()> + Send + Sync + 'static,
    ) -> Pending<(Outputs, Vec<f32>)> {
        let (batch, width, weighing) = (self.batch, self.width, weighing.clone());
        Pending::new(parts, move |parts| {
            let mut outputs = Outputs { positions: Some(vec![width as u32; batch]), ..Outputs::default() };
            make(parts, &mut outputs)?;
            Ok((outputs, weighing.coefficients(&vec![width; batch])))
        })
    }
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|value| *value as f32).collect()
}

/// `ℓ_i = mean_d (o − t)²`.
pub(super) fn mean_squared_error(output: &Tensor, target: &Tensor, weighing: &Weighing) -> Result<Computed> {
    let pairs = Pairs::new(output, target)?;
    let errors = (&pairs.outputs - &pairs.targets)?;
    let squares = errors.sqr()?;
    let losses = pairs.mean(&squares)?;
    let described = if pairs.width == 1 {
        pairs.describe_one(weighing, |outputs, targets, batch, weighing| {
            Ok(outputs::mean_squared_error(outputs, targets, batch, weighing))
        })
    } else {
        let small = (&errors * SCALE)?.sqr()?.sum_keepdim(1)?;
        let width = pairs.width as f64;
        pairs.describe_many(weighing, vec![losses.clone(), small], move |parts, outputs| {
            outputs.loss = narrow(&parts[0]);
            let norm = |(loss, small): (&f64, &f64)| match loss * width {
                sum if sum < SUM_MIN => (small.sqrt() / SCALE) as f32,
                sum => sum.sqrt() as f32,
            };
            outputs.el2n = Some(parts[0].iter().zip(&parts[1]).map(norm).collect());
            Ok(())
        })
    };
    let delta = (errors * (2.0 / pairs.width as f64))?;
    Ok(Computed { losses, delta, scale: pairs.scale(weighing)?, poison: None, described })
}

/// `ℓ_i = mean_d softplus(z) − t z`.
pub(super) fn binary_cross_entropy(output: &Tensor, target: &Tensor, weighing: &Weighing) -> Result<Computed> {
    let pairs = Pairs::new(output, target)?;
    let (z, t) = (&pairs.outputs, &pairs.targets);
    // exp(−|z|), from which both sigmoids follow without cancellation.
    let small = z.abs()?.neg()?.exp()?;
    let larger = (&small + 1.0)?.recip()?;
    let smaller = (&small * &larger)?;
    let is_positive = z.ge(0.0)?;
    let of_one = choose(&is_positive, &larger, &smaller)?;
    let of_zero = choose(&is_positive, &smaller, &larger)?;
    let errors = ((t.neg()? + 1.0)?.mul(&of_one)? - (t * &of_zero)?)?;
    let poison = Some(poison_unless_zero(&(t - t.clamp(0.0, 1.0)?)?)?);
    let own = ((z.relu()? - (z * t)?)? + log1p(&small)?)?;
    let losses = pairs.mean(&own)?;
    let described = if pairs.width == 1 {
        pairs.describe_one(weighing, |logits, targets, batch, weighing| {
            targets.iter().try_for_each(|target| refuse_share(*target))?;
            Ok(outputs::binary_cross_entropy(logits, targets, batch, weighing))
        })
    } else {
        let is_one = t.ge(0.5)?;
        let signed = choose(&is_one, z, &z.neg()?)?;
        let is_right = z.gt(0.0)?.eq(&is_one)?.to_dtype(z.dtype())?;
        // A logit that is NaN predicts nothing.
        let is_right = choose(&z.eq(z)?, &is_right, z)?;
        let means = [&signed, &choose(&is_one, &of_one, &of_zero)?, &is_right];
        let means = means.into_iter().map(|own| pairs.mean(own)).collect::<Result<Vec<_>>>()?;
        // No error is above 1, so its square at this scale is a number.
        let squares = (&errors * SCALE)?.sqr()?.sum_keepdim(1)?;
        let bounds = [t.min_keepdim(1)?, t.max_keepdim(1)?];
        let parts = [vec![losses.clone(), squares], means, bounds.to_vec()].concat();
        pairs.describe_many(weighing, parts, |parts, outputs| {
            parts[5..].iter().flatten().try_for_each(|target| refuse_share(*target))?;
            outputs.loss = narrow(&parts[0]);
            outputs.el2n = Some(parts[1].iter().map(|sum| (sum.sqrt() / SCALE) as f32).collect());
            let [margin, confidence, correct] = [2, 3, 4].map(|part| Some(narrow(&parts[part])));
            (outputs.margin, outputs.confidence, outputs.correct) = (margin, confidence, correct);
            Ok(())
        })
    };
    let delta = (errors / pairs.width as f64)?;
    Ok(Computed { losses, delta, scale: pairs.scale(weighing)?, poison, described })
}
