//! Several workers, each a process with a recorder of its own, train one model and record one run.
//!
//! The test binary is its own worker: `a_worker` is started again for each rank, and the gradients are averaged through
//! files.

use crate::common::*;
use candle_core::{DType, Device, Module, Result, Tensor, Var};
use candle_nn::{linear, Linear, VarBuilder, VarMap};
use gradlog::{Config, RecordError, Recorder, Reduction, SketchConfig, Tapped, Taps, Worker};
use gradlog_analysis::{influence, Influence, Question, Score, Window};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::Run;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const WORKERS: u64 = 3;
const EXAMPLES: u64 = 24;
const PROBES: u64 = 3;
const STEPS: u64 = 30;
const RATE: f64 = 0.3;
/// The last step of the worker that is killed, and its rank.
const KILLED: (u64, u64) = (11, 2);
const PATIENCE: Duration = Duration::from_secs(120);

/// What the tests vary.
#[derive(Clone, Copy, PartialEq)]
enum Case {
    Equal,
    Unequal,
    Killed,
}

impl Case {
    fn name(self) -> &'static str {
        match self {
            Case::Equal => "equal",
            Case::Unequal => "unequal",
            Case::Killed => "killed",
        }
    }

    /// The examples of a worker at a step. An example meets all workers in the course of the training.
    fn batch(self, rank: u64, step: u64) -> Vec<u64> {
        if !self.lives(rank, step) {
            return Vec::new();
        }
        let size = if self == Case::Equal { 4 } else { 2 + (rank + step) % 3 };
        (0..size).map(|i| (step * 7 + rank * 5 + i * 11) % EXAMPLES).collect()
    }

    fn lives(self, rank: u64, step: u64) -> bool {
        self != Case::Killed || rank != KILLED.1 || step <= KILLED.0
    }

    /// The probes that a worker records at each step: a share each, or all by one that lives.
    fn probes(self, rank: u64) -> Vec<u64> {
        match self {
            Case::Killed => (0..PROBES).filter(|_| rank == 0).collect(),
            _ => vec![rank],
        }
    }
}

/// The model, its data, and its weights as they go.
struct Model {
    taps: Taps,
    fc1: Tapped<Linear>,
    fc2: Tapped<Linear>,
    vars: Vec<Var>,
}

fn label(seed: u64, n: u64) -> Tensor {
    let y: Vec<u32> = numbers(&noise(seed, &[n as usize])).iter().map(|v| ((v + 1.0) * 1.499) as u32).collect();
    Tensor::from_vec(y, n as usize, &Device::Cpu).unwrap()
}

fn pick(from: &Tensor, ids: &[u64]) -> Tensor {
    let ids: Vec<u32> = ids.iter().map(|id| *id as u32).collect();
    from.index_select(&Tensor::new(ids.as_slice(), &Device::Cpu).unwrap(), 0).unwrap()
}

impl Model {
    fn new() -> Self {
        let (taps, variables) = (Taps::new(), VarMap::new());
        let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
        let fc1 = taps.tap("fc1", linear(6, 8, vb.pp("fc1")).unwrap());
        let fc2 = taps.tap("fc2", linear(8, 3, vb.pp("fc2")).unwrap());
        let of = |name: &str| variables.data().lock().unwrap()[name].clone();
        let vars: Vec<Var> = ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"].map(of).to_vec();
        for (seed, var) in (11..).zip(&vars) {
            var.set(&(noise(seed, var.dims()) * 0.6).unwrap()).unwrap();
        }
        Self { taps, fc1, fc2, vars }
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.fc2.forward(&self.fc1.forward(x)?.tanh()?)
    }

    /// Inputs and labels of training examples, or of probes.
    fn data(probes: bool, ids: &[u64]) -> (Tensor, Tensor) {
        let (seed, n) = if probes { (3, PROBES) } else { (1, EXAMPLES) };
        (pick(&noise(seed, &[n as usize, 6]), ids), pick(&label(seed + 1, n), ids))
    }

    /// The gradient of the mean loss over some examples.
    fn gradient(&self, probes: bool, ids: &[u64]) -> Vec<f32> {
        let (x, y) = Self::data(probes, ids);
        let loss = candle_nn::loss::cross_entropy(&self.forward(&x).unwrap(), &y).unwrap();
        self.flat(&loss.backward().unwrap())
    }

    fn flat(&self, grads: &candle_core::backprop::GradStore) -> Vec<f32> {
        self.vars.iter().flat_map(|var| numbers(grads.get(var).unwrap())).collect()
    }

    fn descend(&self, gradient: &[f32]) {
        let mut from = 0;
        for var in &self.vars {
            let own = Tensor::from_slice(&gradient[from..from + var.elem_count()], var.dims(), &Device::Cpu).unwrap();
            var.set(&(var.as_tensor() - (own * RATE).unwrap()).unwrap().detach()).unwrap();
            from += var.elem_count();
        }
    }

    fn probe(&self, recorder: &mut Recorder, ids: &[u64]) {
        if !ids.is_empty() {
            let (x, y) = Self::data(true, ids);
            let mut probe = recorder.probe("test", ids).unwrap();
            probe.cross_entropy(&self.forward(&x).unwrap(), &y).unwrap().backward().unwrap();
            probe.commit().unwrap();
        }
    }

    /// Records a training pass, and returns its gradient.
    fn pass(&self, recorder: &mut Recorder, ids: &[u64], weights: Option<&[f32]>) -> Vec<f32> {
        let (x, y) = Self::data(false, ids);
        let mut pass = recorder.pass(ids).unwrap();
        if let Some(weights) = weights {
            pass.weights(weights);
        }
        let grads = pass.cross_entropy(&self.forward(&x).unwrap(), &y).unwrap().backward().unwrap();
        pass.commit(RATE).unwrap();
        self.flat(&grads)
    }
}

fn config(worker: Option<Worker>) -> Config {
    // Blocks that end at other steps in each part.
    let rank = worker.map_or(0, |worker| worker.rank);
    Config { sketch: SketchConfig::exact(), worker, block_rows: 7 + 10 * rank, ..Config::default() }
}

fn put(path: &Path, bytes: &[u8]) {
    let new = path.with_extension("new");
    std::fs::write(&new, bytes).unwrap();
    std::fs::rename(&new, path).unwrap();
}

fn wait_for(what: &Path, or: &Path) -> Option<Vec<u8>> {
    let start = Instant::now();
    while !what.exists() {
        if or.exists() && !what.exists() {
            return None;
        }
        assert!(start.elapsed() < PATIENCE, "{} did not come", what.display());
        std::thread::sleep(Duration::from_millis(1));
    }
    Some(std::fs::read(what).unwrap())
}

/// The mean over the workers of their gradients; one that is dead adds nothing.
fn all_reduce(dir: &Path, step: u64, rank: u64, own: &[f32]) -> Vec<f32> {
    let file = |rank: u64| dir.join(format!("gradient-{step}-{rank}"));
    put(&file(rank), &own.iter().flat_map(|g| g.to_le_bytes()).collect::<Vec<u8>>());
    let mut sum = vec![0.0; own.len()];
    for other in 0..WORKERS {
        let Some(bytes) = wait_for(&file(other), &dir.join(format!("dead-{other}"))) else { continue };
        for (sum, bytes) in sum.iter_mut().zip(bytes.chunks_exact(4)) {
            *sum += f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) / WORKERS as f32;
        }
    }
    sum
}

const WORKER: &str = "GRADLOG_TEST_WORKER";

#[test]
#[ignore = "one of the processes that the tests of this file start"]
fn a_worker() {
    let Ok(words) = std::env::var(WORKER) else { return };
    let mut words = words.splitn(3, ' ');
    let (case, rank) = (words.next().unwrap(), words.next().unwrap().parse::<u64>().unwrap());
    let dir = PathBuf::from(words.next().unwrap());
    let case = [Case::Equal, Case::Unequal, Case::Killed].into_iter().find(|c| c.name() == case).unwrap();
    let model = Model::new();
    let worker = Worker { rank: rank as u32, workers: WORKERS as u32, reduction: Reduction::Mean };
    let mut recorder = Recorder::create(dir.join("run"), &model.taps, config(Some(worker))).unwrap();
    for step in 0..STEPS {
        recorder.set_epoch((step / 10) as u32);
        model.probe(&mut recorder, &case.probes(rank));
        let own = model.pass(&mut recorder, &case.batch(rank, step), None);
        let mean = all_reduce(&dir, step, rank, &own);
        if case == Case::Killed && (step, rank) == KILLED {
            recorder.flush().unwrap();
            put(&dir.join("ready"), b"");
            std::thread::sleep(PATIENCE);
            panic!("nobody has killed this worker");
        }
        model.descend(&mean);
    }
    recorder.finish().unwrap();
}

struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Trains with three processes; returns the folder, with the run in `run`.
fn train(case: Case) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let start = |rank: u64| {
        let words = format!("{} {rank} {}", case.name(), dir.path().display());
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "workers::a_worker", "--ignored", "--nocapture"]).env(WORKER, words);
        Reaped(command.stdout(Stdio::null()).spawn().unwrap())
    };
    let mut children: Vec<Reaped> = (0..WORKERS).map(start).collect();
    if case == Case::Killed {
        wait_for(&dir.path().join("ready"), &dir.path().join("never")).unwrap();
        let mut killed = children.remove(KILLED.1 as usize);
        killed.0.kill().unwrap();
        killed.0.wait().unwrap();
        put(&dir.path().join(format!("dead-{}", KILLED.1)), b"");
    }
    for child in &mut children {
        assert!(child.0.wait().unwrap().success());
    }
    dir
}

/// Brute force: `Σ_t η c ⟨∇ℓ_z, ∇ℓ_probe⟩` with candle, `[example][probe]`, and each example's own.
fn brute_force(case: Case) -> (Vec<Vec<f32>>, Vec<f32>) {
    let model = Model::new();
    let mut scores = vec![vec![0f32; PROBES as usize]; EXAMPLES as usize];
    let mut own = vec![0f32; EXAMPLES as usize];
    for step in 0..STEPS {
        let probes: Vec<Vec<f32>> = (0..PROBES).map(|probe| model.gradient(true, &[probe])).collect();
        let mut mean = vec![0f32; probes[0].len()];
        for batch in (0..WORKERS).map(|rank| case.batch(rank, step)).filter(|batch| !batch.is_empty()) {
            let weight = RATE / (WORKERS as f64 * batch.len() as f64);
            for id in &batch {
                let gradient = model.gradient(false, &[*id]);
                own[*id as usize] += (weight * dot(&gradient, &gradient)) as f32;
                for (score, probe) in scores[*id as usize].iter_mut().zip(&probes) {
                    *score += (weight * dot(&gradient, probe)) as f32;
                }
            }
            let local = model.gradient(false, &batch);
            mean.iter_mut().zip(&local).for_each(|(mean, g)| *mean += g / WORKERS as f32);
        }
        model.descend(&mean);
    }
    (scores, own)
}

/// The same training by one process, over the batches of all workers together.
fn alone(case: Case, dir: &Path) {
    let model = Model::new();
    let mut recorder = Recorder::create(dir, &model.taps, config(None)).unwrap();
    for step in 0..STEPS {
        recorder.set_epoch((step / 10) as u32);
        model.probe(&mut recorder, &(0..PROBES).collect::<Vec<_>>());
        let batches: Vec<Vec<u64>> = (0..WORKERS).map(|rank| case.batch(rank, step)).collect();
        let ids = batches.concat();
        // Under a mean over the workers, examples of a small batch weigh more.
        let weight = |batch: &Vec<u64>| ids.len() as f32 / (WORKERS as usize * batch.len()) as f32;
        let weights: Vec<f32> = batches.iter().flat_map(|batch| vec![weight(batch); batch.len()]).collect();
        let weights = (case != Case::Equal).then_some(weights.as_slice());
        let gradient = model.pass(&mut recorder, &ids, weights);
        model.descend(&gradient);
    }
    recorder.finish().unwrap();
}

fn scores(result: &Influence, probe: usize) -> Vec<f32> {
    let mut scores = vec![0f32; EXAMPLES as usize];
    for (number, row) in result.rows.iter().enumerate() {
        scores[row.example as usize] = result.score(number, probe) as f32;
    }
    scores
}

fn self_influence(run: &Run) -> Vec<f32> {
    let mut scores = vec![0f32; EXAMPLES as usize];
    for row in Score::SelfInfluence.compute(run, &Window::everything()).unwrap().rows {
        scores[row.example as usize] = row.score as f32;
    }
    scores
}

#[track_caller]
fn assert_near(found: &[f32], expected: &[f32]) {
    let error = relative_error(found, expected);
    assert!(error < 1e-4, "{error}");
}

fn equals_brute_force(case: Case, run: &Run) {
    let (expected, own) = brute_force(case);
    let result = influence(run, &Question::all("test")).unwrap();
    assert_eq!((result.probes.len() as u64, result.visits_at_probe_times), (PROBES, result.visits));
    for probe in 0..PROBES as usize {
        assert_near(&scores(&result, probe), &expected.iter().map(|row| row[probe]).collect::<Vec<_>>());
    }
    assert_near(&self_influence(run), &own);
}

fn equals_one_process(case: Case) {
    let dir = train(case);
    let run = Run::open(dir.path().join("run")).unwrap();
    equals_brute_force(case, &run);
    alone(case, &dir.path().join("alone"));
    let one = Run::open(dir.path().join("alone")).unwrap();
    let (expected, found) =
        (influence(&one, &Question::all("test")).unwrap(), influence(&run, &Question::all("test")).unwrap());
    assert_eq!(found.visits, expected.visits);
    for probe in 0..PROBES as usize {
        assert_near(&scores(&found, probe), &scores(&expected, probe));
    }
    assert_near(&self_influence(&run), &self_influence(&one));
    // An order by visits is that of the steps, whichever worker saw the example.
    let forgetting = |run: &Run| {
        let mut rows = Score::Forgetting.compute(run, &Window::everything()).unwrap().rows;
        rows.sort_by_key(|row| row.example);
        rows.into_iter().map(|row| (row.example, row.visits, row.score, row.extras[..5].to_vec())).collect::<Vec<_>>()
    };
    assert_eq!(forgetting(&run), forgetting(&one));
    let sizes =
        |dir: &Path| blocks(dir, BlockKind::Steps).iter().flat_map(|b| b.u32s(Column::BatchSize).unwrap()).collect();
    let (found, expected): (Vec<u32>, Vec<u32>) = (sizes(run.dir()), sizes(one.dir()));
    assert_eq!(found, expected);
    let report = run.verify().unwrap();
    assert!(report.finished && report.damage.is_none());
    assert_eq!((report.visits, report.steps), (u64::from(found.iter().sum::<u32>()), STEPS));
}

#[test]
fn three_processes_record_what_one_would_have() {
    equals_one_process(Case::Equal);
}

#[test]
fn three_processes_with_batches_of_different_sizes_record_what_one_would_have() {
    equals_one_process(Case::Unequal);
}

#[test]
fn a_worker_that_is_killed_leaves_what_it_recorded_and_is_told_of() {
    let dir = train(Case::Killed);
    let path = dir.path().join("run");
    let run = Run::open(&path).unwrap();
    equals_brute_force(Case::Killed, &run);
    let workers = run.workers().unwrap().unwrap();
    let last: Vec<Option<u64>> = workers.parts.iter().map(|part| part.last_step).collect();
    assert_eq!(last, [Some(STEPS - 1), Some(STEPS - 1), Some(KILLED.0)]);
    let words = "worker 2 of 3 ended at step 11, without finishing, the others at step 29";
    assert_eq!(workers.notes(), [words]);
    let gradlog = |arguments: &[&str]| {
        let command =
            Command::new(env!("CARGO_BIN_EXE_gradlog-under-test")).args(arguments).arg(&path).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (command.status.code(), text(command.stdout), text(command.stderr))
    };
    for verb in
        [&["info"][..], &["verify"], &["scores", "--score", "loss"], &["influence", "--probe", "test", "--id", "1"]]
    {
        let (code, _, said) = gradlog(verb);
        assert!(code == Some(0) && said.contains(words), "{verb:?}: {code:?} {said}");
    }
    let (_, json, _) = gradlog(&["influence", "--probe", "test", "--id", "1", "--format", "json"]);
    assert!(json.contains(words), "{json}");
    let (_, table, _) = gradlog(&["info"]);
    assert!(table.contains("3 of 3, steps under the mean of their gradients"), "{table}");
    let to = dir.path().join("recovered");
    let recovered = run.recover(&to).unwrap();
    assert_eq!(recovered.written.visits, run.verify().unwrap().visits);
    assert_eq!(Run::open(&to).unwrap().workers().unwrap().unwrap().notes(), [words]);
}

fn worker(rank: u32, workers: u32) -> Option<Worker> {
    Some(Worker { rank, workers, reduction: Reduction::Mean })
}

#[test]
fn the_coefficient_is_that_in_the_step_that_all_make() {
    for (reduction, divisor) in [(Reduction::Mean, 4.0), (Reduction::Sum, 1.0)] {
        let dir = tempfile::tempdir().unwrap();
        let model = Model::new();
        let worker = Worker { rank: 1, workers: 4, reduction };
        let mut recorder = Recorder::create(dir.path(), &model.taps, config(Some(worker))).unwrap();
        model.probe(&mut recorder, &[0, 1]);
        model.pass(&mut recorder, &[1, 2, 3, 4, 5], Some(&[1.0, 2.0, 1.0, 1.0, 1.0]));
        recorder.finish().unwrap();
        let own = |c: f32| c / 5.0 / divisor;
        let found = f32s(dir.path(), BlockKind::Visits, Column::Coefficient);
        let expected = [1.0, 2.0, 1.0, 1.0, 1.0].map(own);
        assert!(relative_error(&found, &expected) < 1e-6, "{found:?}");
        // A probe makes no step.
        assert_eq!(f32s(dir.path(), BlockKind::Probes, Column::Coefficient), [0.5, 0.5]);
        // The gradients are the examples' own all the same.
        let first = model.gradient(false, &[1]);
        let norm = f32s(dir.path(), BlockKind::Visits, Column::SquaredNorm)[0];
        assert!((f64::from(norm) / dot(&first, &first) - 1.0).abs() < 1e-4);
    }
}

#[test]
fn a_part_that_does_not_fit_is_refused_when_it_is_begun() {
    let dir = tempfile::tempdir().unwrap();
    let model = Model::new();
    let says = |dir: &Path, config: Config, words: &str| {
        let error = Recorder::create(dir, &Model::new().taps, config).err().unwrap();
        assert!(error.to_string().contains(words), "{error}");
        error
    };
    let run = dir.path().join("run");
    says(&run, config(worker(3, 3)), "worker 3 of 3");
    says(&run, config(worker(0, 0)), "worker 0 of 0");
    assert!(!run.exists(), "nothing was made");
    let first = Recorder::create(&run, &model.taps, config(worker(0, 3))).unwrap();
    says(&run, config(worker(0, 3)), "is being written by another recorder");
    let error = says(&run, config(worker(1, 2)), "the number of workers is 3");
    assert!(matches!(error, RecordError::Worker(_)));
    says(&run, Config { seed: 5, ..config(worker(1, 3)) }, "the seed is 0 in the part of worker 0 and 5");
    says(&run, config(None), "holds the parts of several workers");
    first.finish().unwrap();
    says(&run, config(worker(0, 3)), "holds a run already");
    let whole = dir.path().join("whole");
    Recorder::create(&whole, &model.taps, config(None)).unwrap().finish().unwrap();
    says(&whole, config(worker(0, 3)), "holds a run of one recorder");
}

#[test]
fn workers_go_on_at_one_step() {
    let dir = tempfile::tempdir().unwrap();
    let models = [Model::new(), Model::new()];
    let steps = |recorder: &mut Recorder, rank: usize, count: u64| {
        for i in 0..count {
            models[rank].pass(recorder, &[i, i + 1], None);
        }
    };
    let of = |rank: usize| config(worker(rank as u32, 2));
    for (rank, count) in [(0, 6), (1, 4)] {
        let mut recorder = Recorder::create(dir.path(), &models[rank].taps, of(rank)).unwrap();
        steps(&mut recorder, rank, count);
        recorder.finish().unwrap();
    }
    let error = Recorder::resume(dir.path(), &models[1].taps, of(1)).err().unwrap();
    assert!(matches!(error, RecordError::Resume(_)) && error.to_string().contains("worker 0 has 6"), "{error}");
    let error = Recorder::resume(dir.path(), &models[1].taps, config(worker(1, 3))).err().unwrap();
    assert!(error.to_string().contains("the number of workers is 2"), "{error}");
    // Back to a checkpoint before step 3; one is faster than the other.
    let mut zero = Recorder::resume_at(dir.path(), &models[0].taps, of(0), 3).unwrap();
    steps(&mut zero, 0, 2);
    zero.flush().unwrap();
    let mut one = Recorder::resume_at(dir.path(), &models[1].taps, of(1), 3).unwrap();
    steps(&mut one, 1, 2);
    zero.finish().unwrap();
    one.finish().unwrap();
    let run = Run::open(dir.path()).unwrap();
    let report = run.verify().unwrap();
    assert_eq!((report.visits, report.steps, report.superseded, report.finished), (20, 5, 8, true));
    // Both end at one step now, and the first to resume may record before the second comes.
    let mut zero = Recorder::resume(dir.path(), &models[0].taps, of(0)).unwrap();
    steps(&mut zero, 0, 3);
    zero.flush().unwrap();
    let mut one = Recorder::resume(dir.path(), &models[1].taps, of(1)).unwrap();
    steps(&mut one, 1, 3);
    zero.finish().unwrap();
    one.finish().unwrap();
    let report = Run::open(dir.path()).unwrap().verify().unwrap();
    assert_eq!((report.visits, report.steps), (32, 8));
}
