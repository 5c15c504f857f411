//! The guard: what it tells, to whom, and what it leaves out of the training.

mod outliers;

use crate::common::{exact, gradlog, labels, noise, numbers, u64s};
use candle_core::{DType, Device, Module, Tensor, Var};
use candle_nn::{Linear, Optimizer, SGD};
use gradlog::{
    Committed, Config, EventAction, EventKind, Guard, GuardEvent, OnEvent, OnNonFinite, Overflow, RecordError,
    Recorder, Tapped, Taps, Worker,
};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::{EventRecord, Run};
use std::path::Path;

const BATCH: usize = 16;
const STEPS: u64 = 50;
/// The step with the outlier. The guard has seen 45 batches of 16 by then.
const ODD: u64 = 45;

struct Model {
    taps: Taps,
    fc1: Tapped<Linear>,
    fc2: Tapped<Linear>,
    variables: Vec<Var>,
    dtype: DType,
}

impl Model {
    fn new() -> Self {
        Self::of(DType::F32)
    }

    fn of(dtype: DType) -> Self {
        let var = |seed, shape: &[usize]| Var::from_tensor(&noise(seed, shape).to_dtype(dtype).unwrap()).unwrap();
        let variables = vec![var(1, &[8, 6]), var(2, &[8]), var(3, &[3, 8]), var(4, &[3])];
        let taps = Taps::new();
        let layer =
            |i: usize| Linear::new(variables[i].as_tensor().clone(), Some(variables[i + 1].as_tensor().clone()));
        let (fc1, fc2) = (taps.tap("fc1", layer(0)), taps.tap("fc2", layer(2)));
        Self { taps, fc1, fc2, variables, dtype }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        self.fc2.forward(&self.fc1.forward(&x.to_dtype(self.dtype).unwrap()).unwrap().relu().unwrap()).unwrap()
    }

    fn weights(&self) -> Vec<u64> {
        let bits =
            |var: &Var| numbers(&var.to_dtype(DType::F32).unwrap()).iter().map(|w| u64::from(w.to_bits())).collect();
        self.variables.iter().flat_map(|var| -> Vec<u64> { bits(var) }).collect()
    }

    /// Each layer's gradient norm of one example alone, by candle's own backward.
    fn norms_alone(&self, x: &Tensor, y: u32) -> [f64; 2] {
        let [w1, b1, w2, b2] = [0, 1, 2, 3].map(|i| self.variables[i].as_tensor());
        let h = x
            .to_dtype(self.dtype)
            .unwrap()
            .matmul(&w1.t().unwrap())
            .unwrap()
            .broadcast_add(b1)
            .unwrap()
            .relu()
            .unwrap();
        let logits = h.matmul(&w2.t().unwrap()).unwrap().broadcast_add(b2).unwrap();
        let loss = candle_nn::loss::cross_entropy(&logits, &Tensor::new(&[y], &Device::Cpu).unwrap()).unwrap();
        let grads = loss.backward().unwrap();
        let squared = |i: usize| -> f64 {
            let grad = grads.get(&self.variables[i]).unwrap().to_dtype(DType::F64).unwrap();
            grad.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap()
        };
        [(squared(0) + squared(1)).sqrt(), (squared(2) + squared(3)).sqrt()]
    }
}

fn ids(step: u64) -> Vec<u64> {
    (0..BATCH as u64).map(|i| 100 * step + i).collect()
}

/// A batch; example 3 of the odd step is 10,000 times as large.
fn inputs(step: u64, odd: Option<u64>) -> Tensor {
    let x = noise(1_000 + step, &[BATCH, 6]);
    if odd != Some(step) {
        return x;
    }
    let factors: Vec<f32> = (0..BATCH).map(|i| if i == 3 { 1e4 } else { 1.0 }).collect();
    x.broadcast_mul(&Tensor::from_vec(factors, (BATCH, 1), &Device::Cpu).unwrap()).unwrap()
}

fn config(on_event: OnEvent) -> Config {
    Config { guard: Guard::default().on_event(on_event), ..exact() }
}

/// Trains on the steps with `backward_step`. Returns what the commits said, and the error that ended it.
fn train(
    model: &Model,
    recorder: &mut Recorder,
    steps: impl Iterator<Item = u64>,
    odd: Option<u64>,
) -> (Vec<Committed>, Option<RecordError>) {
    let mut optimizer = SGD::new(model.variables.clone(), 1e-3).unwrap();
    let mut said = Vec::new();
    for step in steps {
        let mut pass = recorder.pass(&ids(step)).unwrap();
        let loss = pass.cross_entropy(&model.forward(&inputs(step, odd)), &labels(BATCH)).unwrap();
        match pass.backward_step(&mut optimizer, &loss) {
            Ok(committed) => said.push(committed),
            Err(error) => return (said, Some(error)),
        }
    }
    (said, None)
}

fn events(said: &[Committed]) -> Vec<GuardEvent> {
    said.iter().flat_map(|committed| committed.events.clone()).collect()
}

fn logged(dir: &Path) -> Vec<EventRecord> {
    Run::open(dir).unwrap().events().unwrap()
}

/// A loss whose gradient is NaN where the output is 0: `sqrt(z²)`.
fn record_roots(
    recorder: &mut Recorder,
    model: &Tapped<Linear>,
    x: &Tensor,
    ids: &[u64],
) -> Result<Committed, RecordError> {
    let mut pass = recorder.pass(ids)?;
    let z = model.forward(x)?;
    let losses = z.sqr()?.sqrt()?.sum(1)?;
    pass.losses(&losses)?.backward()?;
    pass.commit(0.1)
}

#[test]
fn numbers_that_are_not_finite_are_told() {
    let layer =
        |taps: &Taps| taps.tap("fc", Linear::new(Var::from_tensor(&noise(1, &[2, 3])).unwrap().into_inner(), None));
    let with = |value: f32| Tensor::new(&[[1f32, 2., 3.], [value, value, value], [3., 1., 2.]], &Device::Cpu).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let taps = Taps::new();
    let model = layer(&taps);
    let mut recorder = Recorder::create(dir.path(), &taps, exact()).unwrap();
    // A loss: at once.
    let said = record_roots(&mut recorder, &model, &with(f32::NAN), &[5, 6, 7]).unwrap();
    assert_eq!(said.events.len(), 1);
    assert_eq!((said.events[0].kind, said.events[0].examples.as_slice()), (EventKind::NonFiniteLoss, &[6][..]));
    assert_eq!(said.events[0].to_string(), "step 0: the loss is NaN at example 6");
    // A gradient: from the background thread.
    assert!(record_roots(&mut recorder, &model, &with(0.0), &[5, 8, 7]).unwrap().events.is_empty());
    recorder.flush().unwrap();
    let said = record_roots(&mut recorder, &model, &with(1.0), &[5, 8, 7]).unwrap();
    assert_eq!(said.events.len(), 1);
    let sentence = "step 1: the gradient of example 8 is NaN or infinite, first in layer `fc`";
    assert_eq!(said.events[0].to_string(), sentence);
    recorder.finish().unwrap();
    let log: Vec<_> = logged(dir.path()).iter().map(|e| (e.step, e.kind, e.example, e.layer, e.action)).collect();
    let (loss, gradient) = (EventKind::NonFiniteLoss, EventKind::NonFiniteGradient);
    let (went_on, skipped) = (EventAction::WentOn, EventAction::Skipped);
    assert_eq!(log, [(0, loss, Some(6), None, went_on), (1, gradient, Some(8), Some(0), went_on)]);

    // Not at all, if nobody wants to know.
    let dir = tempfile::tempdir().unwrap();
    let taps = Taps::new();
    let model = layer(&taps);
    let config = Config { guard: Guard::default().non_finite(false), ..exact() };
    let mut recorder = Recorder::create(dir.path(), &taps, config).unwrap();
    for value in [f32::NAN, 0.0, 1.0] {
        assert!(record_roots(&mut recorder, &model, &with(value), &[5, 6, 7]).unwrap().events.is_empty());
        recorder.flush().unwrap();
    }
    recorder.finish().unwrap();
    assert!(logged(dir.path()).is_empty());

    // Before the step, if such steps are skipped.
    let dir = tempfile::tempdir().unwrap();
    let taps = Taps::new();
    let model = layer(&taps);
    let config = Config { on_nonfinite: OnNonFinite::Skip, ..exact() };
    let mut recorder = Recorder::create(dir.path(), &taps, config).unwrap();
    for (value, id) in [(f32::NAN, 6), (0.0, 8)] {
        assert!(record_roots(&mut recorder, &model, &with(value), &[5, id, 7]).unwrap_err().is_skipped_step());
    }
    let said = record_roots(&mut recorder, &model, &with(1.0), &[5, 8, 7]).unwrap();
    assert_eq!(said.events.len(), 2);
    assert!(said.events.iter().all(|event| event.action == skipped && event.step == 0));
    recorder.finish().unwrap();
    let log: Vec<_> = logged(dir.path()).iter().map(|e| (e.step, e.kind, e.example, e.layer, e.action)).collect();
    assert_eq!(log, [(0, loss, Some(6), None, skipped), (0, gradient, Some(8), Some(0), skipped)]);
}

/// A linear model of one batch, whose learning rate becomes absurd at step 100.
fn diverge(on_event: OnEvent) -> (Vec<Committed>, Option<RecordError>, Vec<f32>, Vec<f32>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let taps = Taps::new();
    let weight = Var::from_tensor(&noise(1, &[3, 6])).unwrap();
    let layer = taps.tap("fc", Linear::new(weight.as_tensor().clone(), None));
    let mut recorder = Recorder::create(dir.path(), &taps, config(on_event)).unwrap();
    let mut optimizer = SGD::new(vec![weight.clone()], 0.1).unwrap();
    let (mut said, mut error, mut before) = (Vec::new(), None, Vec::new());
    for step in 0..250 {
        if step == 100 {
            optimizer.set_learning_rate(500.0);
        }
        before = numbers(&weight);
        let mut pass = recorder.pass(&ids(0)).unwrap();
        let loss = pass.cross_entropy(&layer.forward(&noise(9, &[BATCH, 6])).unwrap(), &labels(BATCH)).unwrap();
        match pass.backward_step(&mut optimizer, &loss) {
            Ok(committed) => said.push(committed),
            Err(failed) => {
                error = Some(failed);
                break;
            }
        }
    }
    recorder.finish().unwrap();
    (said, error, before, numbers(&weight), dir)
}

#[test]
fn a_diverging_loss_is_told_once_by_the_commit_of_its_step() {
    let (said, error, ..) = diverge(OnEvent::GoOn);
    assert!(error.is_none());
    let told = |said: &[Committed]| -> Vec<(usize, GuardEvent)> {
        let all = said.iter().enumerate().flat_map(|(step, one)| one.events.iter().map(move |e| (step, e.clone())));
        all.filter(|(_, event)| event.kind == EventKind::Divergence).collect()
    };
    let found = told(&said);
    assert_eq!(found.len(), 1);
    let (step, event) = &found[0];
    assert_eq!((*step as u64, event.action, event.examples.len()), (event.step, EventAction::WentOn, 0));
    assert!((101..150).contains(step) && event.value > event.limit && event.limit > event.reference, "{event}");
    assert!(event.to_string().contains("the loss diverges: its running mean is"), "{event}");

    let (_, error, before, after, dir) = diverge(OnEvent::Stop);
    let error = error.unwrap();
    assert!(matches!(&error, RecordError::Guarded { event, .. } if event.step == *step as u64), "{error}");
    assert_eq!(before, after, "the step was not taken");
    let log: Vec<_> = logged(dir.path()).into_iter().filter(|e| e.kind == EventKind::Divergence).collect();
    assert_eq!((log.len(), log[0].action, log[0].example), (1, EventAction::Stopped, None));

    // Skipped once, and the training goes on.
    let (said, error, ..) = diverge(OnEvent::Skip);
    assert!(error.is_none());
    assert_eq!(told(&said).len(), 1);
}

#[test]
fn events_after_a_resumption_replace_those_that_it_supersedes() {
    let dir = tempfile::tempdir().unwrap();
    let model = Model::new();
    let mut recorder = Recorder::create(dir.path(), &model.taps, config(OnEvent::GoOn)).unwrap();
    train(&model, &mut recorder, 0..ODD + 1, Some(ODD));
    recorder.finish().unwrap();
    assert_eq!(logged(dir.path()).len(), 1);
    let model = Model::new();
    let mut recorder = Recorder::resume_at(dir.path(), &model.taps, config(OnEvent::GoOn), 20).unwrap();
    // The new guard begins without norms.
    train(&model, &mut recorder, 20..20 + ODD + 1, Some(20 + ODD));
    recorder.finish().unwrap();
    let log = logged(dir.path());
    assert_eq!((log.len(), log[0].step, log[0].example), (1, 20 + ODD, Some(100 * (20 + ODD) + 3)));
}

/// An event reaches the log even if its pass does not. Beyond 1,000 rows events are counted.
#[test]
fn dropped_passes_lose_no_event_and_a_flood_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let model = Model::new();
    let config = Config { overflow: Overflow::DropNewest, queue_passes: 1, ..exact() };
    let mut recorder = Recorder::create(dir.path(), &model.taps, config).unwrap();
    let (mut told, mut wrong) = (0, 0);
    for step in 0..400u64 {
        let mut pass = recorder.pass(&ids(step)).unwrap();
        let factor = if step % 2 == 0 { 1.0 } else { f64::NAN };
        wrong += BATCH as u64 * (step % 2);
        let logits = (model.forward(&inputs(step, None)) * factor).unwrap();
        pass.cross_entropy(&logits, &labels(BATCH)).unwrap().backward().unwrap();
        let said = pass.commit(0.1).unwrap();
        told += said.untold + said.events.iter().map(|event| event.examples.len() as u64 + event.more).sum::<u64>();
    }
    assert_eq!(told, wrong);
    recorder.finish().unwrap();
    let log = logged(dir.path());
    assert!(log.len() <= 1_004, "{}", log.len());
    let count: u64 = log.iter().filter(|e| e.kind == EventKind::NonFiniteLoss).map(|event| event.count).sum();
    assert_eq!(count, wrong);
    assert!(Run::open(dir.path()).unwrap().verify().unwrap().damage.is_none());
}

#[test]
fn one_of_several_workers_skips_no_step_alone() {
    let dir = tempfile::tempdir().unwrap();
    let config = |on_event| Config { worker: Some(Worker::new(0, 2)), ..config(on_event) };
    let error = Recorder::create(dir.path(), &Model::new().taps, config(OnEvent::Skip)).unwrap_err();
    assert!(error.to_string().contains("a worker that skips a step alone"), "{error}");
    assert!(Recorder::create(dir.path(), &Model::new().taps, config(OnEvent::Stop)).is_ok());
    let wrong = Config { guard: Guard::default().large_gradient(0.5), ..exact() };
    let error = Recorder::create(dir.path().join("b"), &Model::new().taps, wrong).unwrap_err();
    assert!(error.to_string().contains("`guard.large_gradient` is 0.5: give a finite number above 1"), "{error}");
}
