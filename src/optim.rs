//! SGD with momentum and weight decay, in place.
//!
//! candle's own SGD has no momentum and takes three passes over newly allocated memory. [`Sgd`] takes one pass in
//! place. It also reports momentum and weight decay to the recorder. The adjoint estimate needs both.

use crate::step::{StepInfo, StepReport};
use crate::taps::{cpu_f32, parallel, slice};
use candle_core::backprop::GradStore;
use candle_core::{bail, CpuStorage, InplaceOp2, InplaceOp3, Layout, Result, Tensor, Var};
use candle_nn::Optimizer;
use gradlog_kernels::simd::vectorized;

/// Below this many numbers, handing a part to another thread costs more than it saves.
const PARALLEL_FROM: usize = 1 << 15;

/// Settings of [`Sgd`]. Each number must be finite and at least 0.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct SgdConfig {
    /// `η`, the learning rate.
    pub learning_rate: f64,
    /// `μ`, the momentum: the share of the last step's velocity that this step keeps. Default 0.
    pub momentum: f64,
    /// `λ`, the weight decay: the share of the weights that is added to their gradient. Default 0.
    pub weight_decay: f64,
}

impl SgdConfig {
    /// Plain SGD, without momentum and weight decay.
    #[must_use]
    pub fn new(learning_rate: f64) -> Self {
        Self { learning_rate, momentum: 0.0, weight_decay: 0.0 }
    }

    /// Sets the momentum.
    #[must_use]
    pub fn momentum(self, momentum: f64) -> Self {
        Self { momentum, ..self }
    }

    /// Sets the weight decay.
    #[must_use]
    pub fn weight_decay(self, weight_decay: f64) -> Self {
        Self { weight_decay, ..self }
    }
}

/// SGD as in PyTorch's `torch.optim.SGD`, without dampening and without Nesterov momentum: `v ← μ·v + (g + λ·w)`,
/// starting from `v = 0`, and `w ← w − η·v`.
///
/// Without momentum and weight decay the weights equal those of [`candle_nn::SGD`] bit for bit. For f32 in main memory
/// a step writes only into the weights and velocities. For other dtypes and devices it uses candle's ops.
///
/// `pass.commit(optimizer.step_info())` and [`Pass::backward_step`](crate::Pass::backward_step) record momentum and
/// weight decay. `pass.commit(optimizer.learning_rate())` records the learning rate alone.
///
/// ```
/// # use candle_core::{Device, Tensor, Var};
/// # use candle_nn::Optimizer;
/// use gradlog::optim::{Sgd, SgdConfig};
///
/// let weight = Var::new(&[1f32, -2.], &Device::Cpu)?;
/// let mut optimizer = Sgd::new(vec![weight.clone()], SgdConfig::new(0.5).momentum(0.9))?;
/// let grads = weight.sqr()?.sum_all()?.backward()?; // 2·w
/// // With a recorder: pass.commit(optimizer.step_info())?;
/// optimizer.step(&grads)?;
/// assert_eq!(weight.to_vec1::<f32>()?, [0., 0.]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub struct Sgd {
    /// Each variable with its velocity. The velocity is `None` without momentum and before the first gradient.
    variables: Vec<(Var, Option<Tensor>)>,
    config: SgdConfig,
}

/// Prints the settings and the number of variables, not their values.
impl std::fmt::Debug for Sgd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("Sgd");
        out.field("config", &self.config).field("variables", &self.variables.len()).finish_non_exhaustive()
    }
}

/// Reports learning rate, momentum and weight decay.
impl StepReport for Sgd {
    fn step_info(&self) -> StepInfo {
        let SgdConfig { learning_rate, momentum, weight_decay } = self.config;
        StepInfo::new(learning_rate).momentum(momentum).weight_decay(weight_decay)
    }
}

impl Optimizer for Sgd {
    type Config = SgdConfig;

    /// Makes an optimizer of those `variables` that hold floating-point numbers.
    ///
    /// # Errors
    /// An error if a number in `config` is negative, infinite or NaN.
    fn new(variables: Vec<Var>, config: SgdConfig) -> Result<Self> {
        let SgdConfig { learning_rate, momentum, weight_decay } = config;
        for (what, value) in [("learning rate", learning_rate), ("momentum", momentum), ("weight decay", weight_decay)]
        {
            check_number(what, value)?;
        }
        let variables =
            variables.into_iter().filter(|variable| variable.dtype().is_float()).map(|v| (v, None)).collect();
        Ok(Self { variables, config })
    }

    /// Takes one step. A variable without a gradient in `grads` keeps its value and its velocity.
    ///
    /// # Errors
    /// An error if the learning rate is negative or not finite, or if a gradient has another shape than its variable or
    /// shares its memory. Variables before the faulty one are already updated then.
    ///
    /// # Cost
    /// One pass over weights, gradients and velocities, for f32 in main memory.
    fn step(&mut self, grads: &GradStore) -> Result<()> {
        let SgdConfig { learning_rate, momentum, weight_decay } = self.config;
        check_number("learning rate", learning_rate)?;
        for (variable, velocity) in &mut self.variables {
            let Some(gradient) = grads.get(variable) else { continue };
            if gradient.shape() != variable.shape() {
                bail!(
                    "a gradient of shape {:?} does not fit a variable of shape {:?}",
                    gradient.shape(),
                    variable.shape()
                );
            }
            if momentum == 0.0 {
                descend_weights(variable, gradient, learning_rate, weight_decay)?;
                continue;
            }
            let kept = match velocity {
                Some(kept) => kept,
                None => velocity.insert(variable.as_detached_tensor().zeros_like()?),
            };
            update_velocity(kept, gradient, variable, momentum, weight_decay)?;
            descend_weights(variable, kept, learning_rate, 0.0)?;
        }
        Ok(())
    }

    fn learning_rate(&self) -> f64 {
        self.config.learning_rate
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.config.learning_rate = learning_rate;
    }
}

fn check_number(what: &str, value: f64) -> Result<()> {
    if !(value >= 0.0 && value.is_finite()) {
        bail!("a {what} of {value} is not allowed: give 0 or a positive number");
    }
    Ok(())
}

/// `w ← w − η·(d + λ·w)`.
fn descend_weights(weights: &Var, direction: &Tensor, rate: f64, decay: f64) -> Result<()> {
    if cpu_f32(&[weights, direction]) {
        return weights
            .inplace_op2(&direction.contiguous()?, &DescendWeights { rate: rate as f32, decay: decay as f32 });
    }
    let before = weights.as_detached_tensor();
    let direction = if decay == 0.0 { direction.clone() } else { (direction + (&before * decay)?)? };
    weights.set(&(before - (direction * rate)?)?)
}

/// `v ← μ·v + (g + λ·w)`.
fn update_velocity(velocity: &mut Tensor, gradient: &Tensor, weights: &Var, momentum: f64, decay: f64) -> Result<()> {
    if cpu_f32(&[velocity, gradient, weights]) {
        let op = UpdateVelocity { momentum: momentum as f32, decay: decay as f32 };
        return velocity.inplace_op3(&gradient.contiguous()?, weights, &op);
    }
    let gradient = (gradient + (weights.as_detached_tensor() * decay)?)?;
    // A gradient can hold its graph. A velocity that kept it would keep the graphs of all steps so far.
    *velocity = (gradient + (&*velocity * momentum)?)?.detach();
    Ok(())
}

struct DescendWeights {
    rate: f32,
    decay: f32,
}

impl InplaceOp2 for DescendWeights {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn cpu_fwd(&self, w: &mut CpuStorage, wl: &Layout, d: &CpuStorage, dl: &Layout) -> Result<()> {
        let direction = slice(d, dl)?;
        let Self { rate, decay } = *self;
        share_numbers(
            w,
            wl,
            #[inline(always)]
            |weights, first| {
                let pairs = weights.iter_mut().zip(&direction[first..]);
                if decay == 0.0 {
                    // candle adds this zero. It turns `-0` into `+0`.
                    pairs.for_each(|(w, d)| *w -= d * rate + 0.0);
                } else {
                    pairs.for_each(|(w, d)| *w -= (d + *w * decay) * rate);
                }
            },
        )
    }
}

struct UpdateVelocity {
    momentum: f32,
    decay: f32,
}

impl InplaceOp3 for UpdateVelocity {
    fn name(&self) -> &'static str {
        "sgd-momentum"
    }

    fn cpu_fwd(
        &self,
        v: &mut CpuStorage,
        vl: &Layout,
        g: &CpuStorage,
        gl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<()> {
        let (gradient, weights) = (slice(g, gl)?, slice(w, wl)?);
        let Self { momentum, decay } = *self;
        share_numbers(
            v,
            vl,
            #[inline(always)]
            |velocity, first| {
                let others = gradient[first..].iter().zip(&weights[first..]);
                velocity.iter_mut().zip(others).for_each(|(v, (g, w))| *v = (g + w * decay) + *v * momentum);
            },
        )
    }
}

/// Shares a tensor out to the threads: calls `work(part, first)` on each part. `first` is the offset of the part's
/// first number.
fn share_numbers(storage: &mut CpuStorage, layout: &Layout, work: impl Fn(&mut [f32], usize) + Sync) -> Result<()> {
    let (CpuStorage::F32(numbers), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
        bail!("the step in place needs a variable that is contiguous f32 in main memory");
    };
    let numbers = &mut numbers[start..end];
    let work = |first: usize, part: &mut [f32]| {
        vectorized(
            #[inline(always)]
            || work(part, first),
        )
    };
    if numbers.len() < PARALLEL_FROM {
        work(0, numbers);
    } else {
        parallel::share_rows(numbers, 1, work);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};
    use candle_nn::SGD;

    /// A small variable, one that is large enough to be shared out, and one in f64, which uses candle's ops. The first
    /// number is -0.
    fn variables(seed: f32) -> Vec<Var> {
        let make = |rows: usize, columns: usize, dtype: DType| {
            let number = |i| if i == 0 { -0.0 } else { (i as f32 * 0.37 + seed).sin() };
            let numbers: Vec<f32> = (0..rows * columns).map(number).collect();
            let tensor = Tensor::from_vec(numbers, (rows, columns), &Device::Cpu).unwrap();
            Var::from_tensor(&tensor.to_dtype(dtype).unwrap()).unwrap()
        };
        vec![make(3, 5, DType::F32), make(211, 307, DType::F32), make(7, 11, DType::F64)]
    }

    /// Gradients that depend on the weights. That of the second variable is not contiguous.
    fn gradients(variables: &[Var]) -> GradStore {
        let mut losses = variables.iter().map(|v| v.sqr().unwrap().sum_all().unwrap().to_dtype(DType::F64).unwrap());
        let first = losses.next().unwrap();
        let mut grads = losses.fold(first, |sum, loss| (sum + loss).unwrap()).backward().unwrap();
        let turned = grads.get(&variables[1]).unwrap().t().unwrap().contiguous().unwrap().t().unwrap();
        assert!(!turned.is_contiguous());
        grads.insert(&variables[1], turned);
        grads
    }

    fn bits(variables: &[Var]) -> Vec<Vec<u64>> {
        numbers(variables).into_iter().map(|own| own.into_iter().map(f64::to_bits).collect()).collect()
    }

    fn numbers(variables: &[Var]) -> Vec<Vec<f64>> {
        let all = |v: &Var| v.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
        variables.iter().map(all).collect()
    }

    #[test]
    fn plain_sgd_equals_candles_bit_for_bit() {
        let (ours, candles) = (variables(1.0), variables(1.0));
        let mut sgd = Sgd::new(ours.clone(), SgdConfig::new(0.03)).unwrap();
        let mut reference = SGD::new(candles.clone(), 0.03).unwrap();
        // A weight of -0 with a gradient of -0, which candle's own backward does not make.
        let with_zero = |variables: &[Var]| {
            let mut grads = gradients(variables);
            grads.insert(&variables[0], variables[0].copy().unwrap());
            grads
        };
        for step in 0..4 {
            sgd.step(&with_zero(&ours)).unwrap();
            reference.step(&with_zero(&candles)).unwrap();
            assert_eq!(bits(&ours), bits(&candles), "step {step}");
            sgd.set_learning_rate(0.01);
            reference.set_learning_rate(0.01);
        }
        assert_eq!(sgd.learning_rate(), 0.01);
    }

    /// Compares with the definition in f64.
    #[test]
    fn momentum_and_decay_follow_pytorchs_definition() {
        for (momentum, decay) in [(0.9, 0.0), (0.0, 0.1), (0.9, 0.1)] {
            let ours = variables(2.0);
            let config = SgdConfig::new(0.05).momentum(momentum).weight_decay(decay);
            let mut sgd = Sgd::new(ours.clone(), config).unwrap();
            let mut weights = numbers(&ours);
            let mut velocity: Vec<Vec<f64>> = weights.iter().map(|w| vec![0.0; w.len()]).collect();
            for _ in 0..5 {
                sgd.step(&gradients(&ours)).unwrap();
                for (w, v) in weights.iter_mut().flatten().zip(velocity.iter_mut().flatten()) {
                    *v = momentum * *v + (2.0 * *w + decay * *w);
                    *w -= 0.05 * *v;
                }
            }
            for (got, expected) in numbers(&ours).iter().flatten().zip(weights.iter().flatten()) {
                assert!((got - expected).abs() < 1e-5, "{momentum}, {decay}: {got} for {expected}");
            }
            let info = sgd.step_info();
            assert_eq!((info.learning_rate, info.momentum, info.weight_decay), (0.05, Some(momentum), Some(decay)));
        }
    }

    /// The velocity does not keep the graph of a gradient alive. A gradient of a wrong shape is an error.
    #[test]
    fn velocities_do_not_keep_graphs() {
        for dtype in [DType::F32, DType::F64] {
            let ones =
                |rows, columns| Var::from_tensor(&Tensor::ones((rows, columns), dtype, &Device::Cpu).unwrap()).unwrap();
            let layers = [ones(3, 4), ones(4, 2)];
            let mut sgd = Sgd::new(layers.to_vec(), SgdConfig::new(0.01).momentum(0.9)).unwrap();
            for _ in 0..2 {
                let hidden = Tensor::ones((5, 3), dtype, &Device::Cpu).unwrap().matmul(&layers[0]).unwrap();
                let mut grads =
                    hidden.matmul(&layers[1]).unwrap().sqr().unwrap().sum_all().unwrap().backward().unwrap();
                assert!(grads.get(&layers[1]).unwrap().track_op(), "the test needs a gradient with a graph");
                sgd.step(&grads).unwrap();
                assert!(sgd.variables.iter().all(|(_, velocity)| !velocity.as_ref().unwrap().track_op()), "{dtype:?}");
                grads.insert(&layers[0], Tensor::ones((1, 4), dtype, &Device::Cpu).unwrap());
                let refused = sgd.step(&grads).unwrap_err().to_string();
                assert!(refused.contains("[1, 4]") && refused.contains("[3, 4]"), "{refused}");
            }
        }
    }

    #[test]
    fn a_variable_without_gradient_stays_and_wrong_settings_are_refused() {
        let ours = variables(3.0);
        let before = numbers(&ours);
        let mut sgd = Sgd::new(ours.clone(), SgdConfig::new(0.1).momentum(0.9).weight_decay(0.1)).unwrap();
        sgd.step(&ours[0].sqr().unwrap().sum_all().unwrap().backward().unwrap()).unwrap();
        let after = numbers(&ours);
        assert!(after[0] != before[0] && after[1..] == before[1..]);
        for config in [SgdConfig::new(-0.1), SgdConfig::new(f64::NAN), SgdConfig::new(0.1).momentum(f64::INFINITY)] {
            assert!(Sgd::new(vec![], config).is_err(), "{config:?}");
        }
        sgd.set_learning_rate(f64::NAN);
        assert!(sgd.step(&gradients(&ours)).unwrap_err().to_string().contains("learning rate of NaN"));
        assert_eq!(numbers(&ours), after);
    }
}
