//! Whether the declared last layer is what makes the logits: `logits = features · Wᵀ + b`.
//!
//! Its gradients follow from the features and from the loss's gradient by its output. They are wrong if something lies
//! between the layer and the loss (a temperature, a cap), or if other features were given. Where the declared model
//! shows the layer's variables, the product is computed and compared, on some rows of the first pass and of the 16th,
//! 32nd, 64th, ...
//!
//! A number that is added to a class of all examples changes no gradient, so each class may be off by a constant.
//! Logits that are put out of reach (−∞, −1e9) are not compared. `backward_step` sees the variables' gradients, too: if
//! they are those that are recorded, all is right, whatever was added to the logits.

use super::later::Later;
use super::message::PassKind;
use super::pass_core::PassCore;
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result, Tensor, Var};

/// Rows that are compared.
const ROWS: usize = 64;

/// The last layer's variables, and when to look at them.
#[derive(Debug)]
pub(crate) struct Head {
    pub name: String,
    pub weight: Var,
    pub bias: Option<Var>,
    /// Passes that gave features: of a training, and others.
    passes: [u64; 2],
    /// Whether the last look found something wrong.
    is_wrong: bool,
}

impl Head {
    pub(crate) fn new(name: String, weight: Var, bias: Option<Var>) -> Self {
        Self { name, weight, bias, passes: [0; 2], is_wrong: false }
    }

    /// Counts a pass. Says whether to look at it.
    fn count(&mut self, kind: PassKind) -> bool {
        let passes = &mut self.passes[usize::from(kind != PassKind::Training)];
        *passes += 1;
        self.is_wrong || *passes == 1 || *passes >= 16 && passes.is_power_of_two()
    }

    /// The relative difference that rounding may make, and the spacing of numbers, for the least precise type.
    fn precision(&self, others: [&Tensor; 2]) -> (f64, f64) {
        let types = [self.weight.dtype(), others[0].dtype(), others[1].dtype()];
        let is = |dtype| types.contains(&dtype);
        match (is(DType::BF16), is(DType::F16)) {
            (true, _) => (0.05, 1.0 / 128.0),
            (_, true) => (0.05, 1.0 / 1024.0),
            _ => (0.01, f64::from(f32::EPSILON)),
        }
    }

    /// Whether the layer's output for `features` is `logits`. `None` if the shapes do not fit, or show nothing.
    fn makes(&self, features: &Tensor, logits: &Tensor) -> Result<Option<bool>> {
        let (outputs, inputs) = self.weight.dims2()?;
        let rows = features.elem_count() / inputs.max(1);
        if rows < 2 || rows * inputs != features.elem_count() || rows * outputs != logits.elem_count() {
            return Ok(None);
        }
        let kept = rows.min(ROWS);
        let take = |tensor: &Tensor, width| {
            let tensor = tensor.detach().reshape((rows, width))?.narrow(0, 0, kept)?;
            tensor.to_dtype(DType::F32)?.contiguous()
        };
        let weight = self.weight.as_detached_tensor().to_dtype(DType::F32)?.t()?;
        let mut made = take(features, inputs)?.to_device(weight.device())?.matmul(&weight)?;
        if let Some(bias) = &self.bias {
            made = made.broadcast_add(&bias.as_detached_tensor().to_dtype(DType::F32)?)?;
        }
        let read = |tensor: Tensor| tensor.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>();
        let (made, logits_read) = (read(made)?, read(take(logits, outputs)?)?);
        Ok(Some(agree(&made, &logits_read, outputs, self.precision([features, logits]))))
    }
}

/// Whether both differ by a constant in each class. `rows` are the layer's outputs, `[rows, classes]`.
fn agree(made: &[f32], logits: &[f32], classes: usize, (tolerance, spacing): (f64, f64)) -> bool {
    let largest = made.iter().fold(1.0f32, |largest, z| largest.max(z.abs()));
    let is_in_reach = |z: f32| z.is_finite() && z.abs() < 1e4 * largest;
    let (mut error, mut spread) = (0.0f64, 0.0f64);
    for class in 0..classes {
        let of_class = made.iter().zip(logits).skip(class).step_by(classes);
        let pairs: Vec<(f64, f64)> =
            of_class.filter(|(_, z)| is_in_reach(**z)).map(|(made, z)| (f64::from(*made), f64::from(*z))).collect();
        let mean = |of: &dyn Fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / pairs.len().max(1) as f64;
        let (mean_made, mean_difference) = (mean(&|pair| pair.0), mean(&|pair| pair.1 - pair.0));
        for (made, z) in &pairs {
            let rounding = 16.0 * spacing * made.abs().max(z.abs());
            error += ((z - made - mean_difference).abs() - rounding).max(0.0).powi(2);
            spread += (made - mean_made).powi(2);
        }
    }
    // NaN is no difference: losses say it.
    let (error, allowed) = (error.sqrt(), tolerance * spread.sqrt());
    error <= allowed || error.is_nan() || allowed.is_nan()
}

impl PassCore<'_> {
    /// Looks once in a while whether the declared last layer makes these logits. `hand_over` reports it. A look that
    /// fails says nothing.
    pub(super) fn look_at_head(&mut self, logits: &Tensor) {
        let (true, false, Some(features)) = (self.is_recorded(), self.is_check, &self.features) else { return };
        let Some(head) = self.recorder.state.as_mut().and_then(|state| state.head.as_mut()) else { return };
        if !head.count(self.kind) {
            return;
        }
        head.is_wrong = matches!(head.makes(features, logits), Ok(Some(false)));
        let name = &head.name;
        self.unlike_head = head.is_wrong.then(|| {
            format!(
                "the logits are not the output of `{name}` for the features of this pass, so the gradients of `{name}` would be \
                 wrong. Either something lies between `{name}` and the loss (a temperature or another scale, a cap such as tanh): \
                 tap the layer (`taps.tap`), which sees it. Or `pass.features` got other features than `{name}`: give its own \
                 input, as it is after dropout and norms. If other logits are added to its output, declare it under a name that \
                 no variable of the model has, and it is not compared"
            )
        });
    }

    /// Takes the complaint back if the variable's gradient is what would be recorded.
    pub(super) fn compare_head_gradient(&mut self, grads: &GradStore) {
        if self.unlike_head.is_none() || self.read_outputs().is_err() {
            return;
        }
        if matches!(self.has_recorded_gradient(grads), Ok(true)) {
            self.unlike_head = None;
            if let Some(head) = self.recorder.state.as_mut().and_then(|state| state.head.as_mut()) {
                head.is_wrong = false;
            }
        }
    }

    /// Whether `Σ_i c_i δ_i a_iᵀ`, which would be recorded, is the gradient of the last layer's weight.
    fn has_recorded_gradient(&self, grads: &GradStore) -> Result<bool> {
        let (Some(_), Some(features), Some(delta)) = (&self.unlike_head, &self.features, &self.output_delta) else {
            return Ok(false);
        };
        let Some(head) = self.recorder.state.as_ref().and_then(|state| state.head.as_ref()) else { return Ok(false) };
        let (Some(grad), Some(Later::Here((_, coefficients)))) = (grads.get(head.weight.as_tensor()), &self.outputs)
        else {
            return Ok(false);
        };
        let (outputs, inputs) = head.weight.dims2()?;
        let rows = features.elem_count() / inputs.max(1);
        if rows * inputs != features.elem_count() || rows * outputs != delta.elem_count() {
            return Ok(false);
        }
        let on_host = |tensor: &Tensor| tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32);
        let factor = self.upstream.get()?.unwrap_or(1.0) as f32;
        let positions = rows / coefficients.len().max(1);
        let factors: Vec<f32> = coefficients.iter().flat_map(|c| std::iter::repeat_n(c * factor, positions)).collect();
        let factors = Tensor::from_vec(factors, (rows, 1), &Device::Cpu)?;
        let weighted = on_host(delta)?.reshape((rows, outputs))?.broadcast_mul(&factors)?;
        let recorded = weighted.t()?.matmul(&on_host(features)?.reshape((rows, inputs))?)?;
        let squares = |tensor: Tensor| tensor.sqr()?.sum_all()?.to_scalar::<f32>();
        let (difference, whole) = (squares((on_host(grad)? - recorded)?)?, squares(on_host(grad)?)?);
        let (tolerance, _) = head.precision([features, grad]);
        Ok(f64::from(difference).sqrt() <= tolerance * f64::from(whole).sqrt())
    }
}
