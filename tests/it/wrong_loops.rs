//! Loops whose log would be wrong: each is refused, and the right loop beside it is recorded right.

use crate::common::*;
use candle_core::backprop::GradStore;
use candle_core::{Device, Module, Result, Tensor, Var};
use candle_nn::{linear, Linear, Optimizer, VarMap, SGD};
use gradlog::optim::{Sgd, SgdConfig};
use gradlog::taps::LastLayer;
use gradlog::{RecordError, Recorder, StepInfo, StepReport, Taps};
use gradlog_analysis::InfluenceQuestion;
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::Run;
use std::path::Path;

/// The first half of a step.
fn accumulate(recorder: &mut Recorder, model: &impl Module, ids: &[u64]) -> GradStore {
    let mut pass = recorder.pass(ids).unwrap();
    let logits = model.forward(&noise(ids[0], &[ids.len(), 4])).unwrap();
    let grads = pass.cross_entropy(&logits, &labels(ids.len())).unwrap().backward().unwrap();
    pass.accumulate().unwrap();
    grads
}

/// The second half, by `backward_step`.
fn step<O: Optimizer + StepReport>(
    recorder: &mut Recorder,
    model: &impl Module,
    ids: &[u64],
    optimizer: &mut O,
) -> std::result::Result<(), RecordError> {
    let mut pass = recorder.pass(ids).unwrap();
    let logits = model.forward(&noise(ids[0], &[ids.len(), 4])).unwrap();
    let loss = pass.cross_entropy(&logits, &labels(ids.len())).unwrap();
    pass.backward_step(optimizer, &loss).map(drop)
}

fn weights(variables: &VarMap) -> Vec<f32> {
    let data = variables.data().lock().unwrap();
    let named: std::collections::BTreeMap<_, _> = data.iter().collect();
    named.values().flat_map(|var| numbers(var)).collect()
}

/// Nothing is stepped with half of a step's gradients, and none of its visits is credited with a step.
#[test]
fn backward_step_after_accumulate_is_refused_before_the_step() {
    for own in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let model = one_layer(3);
        let mut recorder = Recorder::create(dir.path(), &model.taps, exact()).unwrap();
        let mut candle = SGD::new(model.variables.all_vars(), 0.1).unwrap();
        let mut ours = Sgd::new(model.variables.all_vars(), SgdConfig::new(0.1)).unwrap();
        accumulate(&mut recorder, &model.layer, &[1, 2]);
        let before = weights(&model.variables);
        let refused = match own {
            true => step(&mut recorder, &model.layer, &[3, 4], &mut ours),
            false => step(&mut recorder, &model.layer, &[3, 4], &mut candle),
        };
        let error = refused.unwrap_err().to_string();
        for word in ["`backward_step`", "2 visits", "No step was taken", "`commit`", "`Pass::accumulate`"] {
            assert!(error.contains(word), "{word}: {error}");
        }
        assert_eq!(weights(&model.variables), before);
        // The next step is a step again.
        step(&mut recorder, &model.layer, &[5, 6], &mut candle).unwrap();
        assert_ne!(weights(&model.variables), before);
        let summary = recorder.finish().unwrap();
        assert_eq!((summary.visits, summary.dropped, summary.abandoned, summary.abandoned_steps), (2, 0, 4, 1));
        assert_eq!(visited(dir.path()), [5, 6]);
    }
}

/// Steps with the sum of what it was given since the last step, as an optimizer with `.grad` does.
struct Adding {
    inner: SGD,
    variables: Vec<Var>,
    waiting: Vec<Tensor>,
}

impl Optimizer for Adding {
    type Config = f64;

    fn new(variables: Vec<Var>, rate: f64) -> Result<Self> {
        let waiting = variables.iter().map(|var| var.zeros_like()).collect::<Result<_>>()?;
        Ok(Self { inner: SGD::new(variables.clone(), rate)?, variables, waiting })
    }

    fn step(&mut self, grads: &GradStore) -> Result<()> {
        for (variable, waiting) in self.variables.iter().zip(&mut self.waiting) {
            let sum = (&*waiting + grads.get(variable).unwrap())?;
            variable.set(&(variable.as_tensor() - (sum * self.inner.learning_rate())?)?)?;
            *waiting = variable.zeros_like()?;
        }
        Ok(())
    }

    fn learning_rate(&self) -> f64 {
        self.inner.learning_rate()
    }

    fn set_learning_rate(&mut self, rate: f64) {
        self.inner.set_learning_rate(rate);
    }
}

impl StepReport for Adding {
    fn step_info(&self) -> StepInfo {
        StepInfo::new(self.learning_rate())
    }

    fn accumulates(&self) -> bool {
        true
    }
}

/// TracIn of a step of two passes is what a small step with the sum of their gradients changes.
#[test]
fn an_optimizer_that_accumulates_may_end_the_step() {
    let dir = tempfile::tempdir().unwrap();
    let model = one_layer(3);
    let mut recorder = Recorder::create(dir.path(), &model.taps, exact()).unwrap();
    let (x, y) = (noise(9, &[1, 4]), labels(1));
    let loss = || candle_nn::loss::cross_entropy(&model.layer.forward(&x).unwrap(), &y).unwrap();
    let mut probe = recorder.probe("test", &[9]).unwrap();
    probe.cross_entropy(&model.layer.forward(&x).unwrap(), &y).unwrap().backward().unwrap();
    probe.commit().unwrap();
    let before = loss().to_scalar::<f32>().unwrap();
    let mut optimizer = Adding::new(model.variables.all_vars(), 1e-3).unwrap();
    let first = accumulate(&mut recorder, &model.layer, &[1, 2]);
    for (waiting, variable) in optimizer.waiting.iter_mut().zip(&optimizer.variables) {
        *waiting = first.get(variable).unwrap().clone();
    }
    step(&mut recorder, &model.layer, &[3, 4], &mut optimizer).unwrap();
    let fell = before - loss().to_scalar::<f32>().unwrap();
    recorder.finish().unwrap();
    let found = InfluenceQuestion::new("test").compute(&Run::open(dir.path()).unwrap()).unwrap();
    let sum: f32 = influence_by_example(&found, 0, 5)[1..].iter().sum();
    assert!((sum - fell).abs() < 0.02 * fell.abs() + 1e-6, "{sum} {fell}");
}

/// How a loop may treat the loss of a pass before it commits.
const TREATMENTS: [(&str, &[f64]); 4] =
    [("once", &[1.0]), ("times three", &[3.0]), ("twice", &[1.0, 1.0]), ("half of it twice", &[0.5, 0.5])];

/// Records one pass and returns its coefficients.
fn treat(dir: &Path, depth: &str, factors: &[f64]) -> std::result::Result<Vec<f32>, RecordError> {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let layer: Linear = linear(4, 3, builder(&variables).pp("fc")).unwrap();
    let tapped = taps.tap("fc", layer.clone());
    let taps = match depth {
        "tapped" => taps,
        _ => Taps::new(),
    };
    match depth {
        "last layer" => taps.declare_last_layer("fc", LastLayer::new(4, 3)),
        "variables" => taps.declare_variables(&variables),
        _ => {}
    }
    let mut recorder = Recorder::create(dir, &taps, exact())?;
    let (x, y) = (noise(1, &[4, 4]), labels(4));
    let mut pass = recorder.pass(0u64..4)?;
    if depth == "last layer" {
        pass.features(&x);
    }
    let logits = if depth == "tapped" { tapped.forward(&x)? } else { layer.forward(&x)? };
    let loss = pass.cross_entropy(&logits, &y)?;
    if depth == "variables" {
        pass.per_example(|i| candle_nn::loss::cross_entropy(&layer.forward(&row(&x, i)?)?, &y.narrow(0, i, 1)?))?;
    }
    for factor in factors {
        (&loss * *factor)?.backward()?;
    }
    pass.commit(0.1)?;
    recorder.finish()?;
    Ok(f32s(dir, BlockKind::Visits, Column::Coefficient))
}

/// A second backward pass makes no second step, at whatever depth gradients are recorded.
#[test]
fn a_loss_is_differentiated_once_at_every_depth() {
    for depth in ["tapped", "last layer", "variables", "outputs"] {
        for (how, factors) in TREATMENTS {
            let dir = tempfile::tempdir().unwrap();
            let found = treat(dir.path(), depth, factors);
            if factors.len() > 1 {
                let error = found.expect_err(&format!("{depth}, {how}")).to_string();
                assert!(error.contains("more than once"), "{depth}, {how}: {error}");
            } else {
                // The derivative of what was differentiated by an example's own loss.
                assert_eq!(found.unwrap(), [factors[0] as f32 / 4.0; 4], "{depth}, {how}");
            }
        }
    }
}

/// `per_example` of a loss that is `of` times the pass's own, by example.
fn own_losses(dir: &Path, of: impl Fn(usize, f64) -> f64) -> std::result::Result<(), RecordError> {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let layer = linear(4, 3, builder(&variables).pp("fc")).unwrap();
    for variable in variables.all_vars() {
        variable.set(&noise(variable.elem_count() as u64, variable.dims())).unwrap();
    }
    taps.declare_variables(&variables);
    let mut recorder = Recorder::create(dir, &taps, exact())?;
    let (x, y) = (noise(1, &[8, 4]), labels(8));
    for at in [0usize, 4] {
        let mut pass = recorder.pass(at as u64..at as u64 + 4)?;
        let loss = pass.cross_entropy(&layer.forward(&x.narrow(0, at, 4)?)?, &y.narrow(0, at, 4)?)?;
        pass.per_example(|i| {
            let own = candle_nn::loss::cross_entropy(&layer.forward(&row(&x, at + i)?)?, &y.narrow(0, at + i, 1)?)?;
            let value = f64::from(own.to_scalar::<f32>()?);
            own * (of(at + i, value) / value)
        })?;
        loss.backward()?;
        pass.commit(0.1)?;
    }
    recorder.finish().map(drop)
}

/// A sum in the place of a mean is found, whatever the examples' lengths. Noise, such as dropout's, is not refused.
#[test]
fn per_example_takes_the_losses_of_its_pass() {
    let tried = |of: &dyn Fn(usize, f64) -> f64| own_losses(tempfile::tempdir().unwrap().path(), of);
    tried(&|_, loss| loss).unwrap();
    for factor in [7.0, 0.5, 1.2] {
        let error = tried(&|_, loss| factor * loss).unwrap_err().to_string();
        assert!(error.contains("`per_example`") && error.contains("example 0 has the loss"), "{error}");
        let said: Vec<f64> =
            error.split_whitespace().filter_map(|word| word.trim_end_matches(',').parse().ok()).collect();
        let both = said.windows(5).any(|five| five.iter().any(|b| five.iter().any(|a| (b / a - factor).abs() < 0.01)));
        assert!(both || said.iter().any(|b| said.iter().any(|a| (b / a - factor).abs() < 0.01)), "{error}");
    }
    let error = tried(&|i, loss| [3.0, 4.0, 5.0, 9.0][i % 4] * loss).unwrap_err().to_string();
    assert!(error.contains("`per_example`"), "{error}");
    // Dropout: each loss is another, around the recorded one.
    let dropped = [0.6, 1.5, 0.9, 1.1, 1.3, 0.8, 1.7, 0.55];
    tried(&|i, loss| dropped[i] * loss).unwrap();
    // Half precision.
    tried(&|i, loss| loss * (1.0 + 0.004 * (i as f64 - 3.5) / 3.5)).unwrap();
}

/// Nobody took the step of a pass that is still open when the run ends.
#[test]
fn a_pass_that_is_open_at_the_end_is_abandoned() {
    for by_finish in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let model = one_layer(3);
        let mut recorder = Recorder::create(dir.path(), &model.taps, exact()).unwrap();
        for epoch in 0..2u32 {
            recorder.set_epoch(epoch);
            for number in 0..3u64 {
                let id = 3 * u64::from(epoch) + number;
                if number % 2 == 1 {
                    record_noise(&mut recorder, &model.layer, &[id]).unwrap();
                } else {
                    accumulate(&mut recorder, &model.layer, &[id]);
                }
            }
        }
        if by_finish {
            let summary = recorder.finish().unwrap();
            assert_eq!((summary.visits, summary.dropped, summary.abandoned, summary.abandoned_steps), (5, 0, 1, 1));
        } else {
            drop(recorder);
        }
        // `set_epoch` leaves a pass that is open: 2 belongs to the step that 4 ends.
        assert_eq!(visited(dir.path()), [0, 1, 2, 3, 4]);
        assert_eq!(f32s(dir.path(), BlockKind::Visits, Column::LearningRate), [0.1; 5]);
        let gaps = blocks(dir.path(), BlockKind::Gaps);
        let abandoned: u64 = gaps.iter().flat_map(|block| block.u64s(Column::Abandoned).unwrap()).sum();
        assert_eq!(abandoned, 1);
    }
}

/// A mask says which positions count, and nothing else.
#[test]
fn a_mask_is_zero_or_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(dir.path(), &Taps::new(), exact()).unwrap();
    let soft = Tensor::new(&[[0.5f32, 0.5, 0.0], [0.0, 0.5, 0.5]], &Device::Cpu).unwrap();
    for (number, counts) in [(0.0f32, true), (1.0, true), (0.5, false), (f32::NAN, false), (2.0, false), (-1.0, false)]
    {
        let mask = Tensor::new(&[1.0, number], &Device::Cpu).unwrap();
        for targets in [labels(2), soft.clone()] {
            let mut pass = recorder.pass(&[0, 1]).unwrap();
            let found = pass.mask(&mask).cross_entropy(&noise(1, &[2, 3]), &targets).map_err(|e| e.to_string());
            assert_eq!(found.is_ok(), counts, "{number}: {found:?}");
            assert!(counts || found.unwrap_err().contains(&format!("a number of the mask is {number}")));
        }
    }
}

/// Logits of NaN predict no class, so they are neither right nor wrong.
#[test]
fn logits_that_are_nan_have_no_prediction() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(dir.path(), &Taps::new(), exact()).unwrap();
    let nan = f32::NAN;
    let logits = Tensor::new(&[[2.0, 0.0], [nan, nan], [nan, 1.0], [1.0, nan]], &Device::Cpu).unwrap();
    let mut pass = recorder.pass(0u64..4).unwrap();
    pass.cross_entropy(&logits, &Tensor::new(&[0u32, 0, 1, 0], &Device::Cpu).unwrap()).unwrap();
    pass.commit(0.1).unwrap();
    let mut pass = recorder.pass(4u64..6).unwrap();
    let binary = Tensor::new(&[2.0, nan], &Device::Cpu).unwrap();
    pass.binary_cross_entropy_with_logits(&binary, &Tensor::new(&[1.0f32, 0.0], &Device::Cpu).unwrap()).unwrap();
    pass.commit(0.1).unwrap();
    recorder.finish().unwrap();
    let run = Run::open(dir.path()).unwrap();
    for id in 0..6 {
        let visit = gradlog_analysis::ExampleQuestion::new(id).compute(&run).unwrap().visits[0];
        let right = matches!(id, 0 | 4);
        assert_eq!(visit.prediction.is_some(), right, "{id}: {visit:?}");
        assert_eq!(visit.correct.unwrap().is_nan(), !right, "{id}: {visit:?}");
    }
}
