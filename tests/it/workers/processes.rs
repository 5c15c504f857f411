//! Several workers, each a process with a recorder of its own, train one model and record one run.
//!
//! The test binary is its own worker: [`a_worker`] is started again for each rank, and the gradients are averaged
//! through files.

use super::{config, model, EXAMPLES, PROBES, RATE};
use crate::common::*;
use gradlog::{Recorder, Reduction, Worker};
use gradlog_analysis::{Influence, InfluenceQuestion, Score, ScoreQuestion};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::Run;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const WORKERS: u64 = 3;
const STEPS: u64 = 30;
/// The last step of the worker that is killed, and its rank.
const KILLED: (u64, u64) = (11, 2);

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

/// The gradient of the mean loss over some training examples.
fn batch_gradient(model: &Network, ids: &[u64]) -> Vec<f32> {
    let data = model.examples.select(ids);
    let loss = candle_nn::loss::cross_entropy(&model.logits(&data.x).unwrap(), &data.y).unwrap();
    model.flatten(&loss.backward().unwrap())
}

/// Goes down a gradient that is flattened in the order of the variables' names.
fn descend(model: &Network, gradient: &[f32]) {
    let mut rest = gradient.iter();
    let mut step = |weight: &f32| weight - RATE as f32 * rest.next().unwrap();
    let weights: Vec<Vec<f32>> = model.weights().iter().map(|var| var.iter().map(&mut step).collect()).collect();
    model.set_weights(&weights);
}

/// Records the probes that a worker has at a step, and its training pass. Returns the gradient of the pass.
fn record(
    model: &Network,
    recorder: &mut Recorder,
    step: u64,
    probes: &[u64],
    ids: &[u64],
    weights: Option<&[f32]>,
) -> Vec<f32> {
    recorder.set_epoch((step / 10) as u32);
    if !probes.is_empty() {
        model.record_probes(recorder, "test", probes);
    }
    model.flatten(&model.record_pass(recorder, ids, weights, RATE))
}

fn put(path: &Path, bytes: &[u8]) {
    let new = path.with_extension("new");
    std::fs::write(&new, bytes).unwrap();
    std::fs::rename(&new, path).unwrap();
}

/// The bytes of a file that another process makes, or `None` if the file `or` comes instead.
fn wait_for(what: &Path, or: &Path) -> Option<Vec<u8>> {
    wait_until(&format!("{} came", what.display()), || what.exists() || or.exists());
    // What was written before its worker died counts.
    what.exists().then(|| std::fs::read(what).unwrap())
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
    let model = model();
    let worker = Worker { rank: rank as u32, workers: WORKERS as u32, reduction: Reduction::Mean };
    let mut recorder = Recorder::create(dir.join("run"), &model.taps, config(Some(worker))).unwrap();
    for step in 0..STEPS {
        let own = record(&model, &mut recorder, step, &case.probes(rank), &case.batch(rank, step), None);
        let mean = all_reduce(&dir, step, rank, &own);
        if case == Case::Killed && (step, rank) == KILLED {
            recorder.flush().unwrap();
            put(&dir.join("ready"), b"");
            // Nothing ever comes: the one who started this process holds the other end, and kills it.
            let _ = std::io::stdin().read(&mut [0]);
            panic!("nobody has killed this worker");
        }
        descend(&model, &mean);
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
fn train_processes(case: Case) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let start = |rank: u64| {
        let words = format!("{} {rank} {}", case.name(), dir.path().display());
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "workers::processes::a_worker", "--ignored", "--nocapture"]).env(WORKER, words);
        Reaped(command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
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
    let model = model();
    let mut scores = vec![vec![0f32; PROBES as usize]; EXAMPLES as usize];
    let mut own = vec![0f32; EXAMPLES as usize];
    for step in 0..STEPS {
        let probes: Vec<Vec<f32>> = (0..PROBES as usize).map(|i| model.loss_gradient(&model.probes, i)).collect();
        let mut mean = vec![0f32; probes[0].len()];
        for batch in (0..WORKERS).map(|rank| case.batch(rank, step)).filter(|batch| !batch.is_empty()) {
            let weight = RATE / (WORKERS as f64 * batch.len() as f64);
            for id in &batch {
                let gradient = model.loss_gradient(&model.examples, *id as usize);
                own[*id as usize] += (weight * dot(&gradient, &gradient)) as f32;
                for (score, probe) in scores[*id as usize].iter_mut().zip(&probes) {
                    *score += (weight * dot(&gradient, probe)) as f32;
                }
            }
            let local = batch_gradient(&model, &batch);
            mean.iter_mut().zip(&local).for_each(|(mean, g)| *mean += g / WORKERS as f32);
        }
        descend(&model, &mean);
    }
    (scores, own)
}

/// The same training by one process, over the batches of all workers together.
fn alone(case: Case, dir: &Path) {
    let model = model();
    let probes: Vec<u64> = (0..PROBES).collect();
    let mut recorder = Recorder::create(dir, &model.taps, config(None)).unwrap();
    for step in 0..STEPS {
        let batches: Vec<Vec<u64>> = (0..WORKERS).map(|rank| case.batch(rank, step)).collect();
        let ids = batches.concat();
        // Under a mean over the workers, examples of a small batch weigh more.
        let weight = |batch: &Vec<u64>| ids.len() as f32 / (WORKERS as usize * batch.len()) as f32;
        let weights: Vec<f32> = batches.iter().flat_map(|batch| vec![weight(batch); batch.len()]).collect();
        let weights = (case != Case::Equal).then_some(weights.as_slice());
        let gradient = record(&model, &mut recorder, step, &probes, &ids, weights);
        descend(&model, &gradient);
    }
    recorder.finish().unwrap();
}

fn scores(result: &Influence, probe: usize) -> Vec<f32> {
    influence_by_example(result, probe, EXAMPLES as usize)
}

fn self_influence(run: &Run) -> Vec<f32> {
    score_by_example(&ScoreQuestion::new(Score::SelfInfluence).compute(run).unwrap(), EXAMPLES as usize)
}

#[track_caller]
fn assert_near(found: &[f32], expected: &[f32]) {
    let error = relative_error(found, expected);
    assert!(error < 1e-4, "{error}");
}

fn equals_brute_force(case: Case, run: &Run) {
    let (expected, own) = brute_force(case);
    let result = InfluenceQuestion::new("test").compute(run).unwrap();
    assert_eq!((result.probes.len() as u64, result.visits_at_probe_times), (PROBES, result.visits));
    for probe in 0..PROBES as usize {
        assert_near(&scores(&result, probe), &expected.iter().map(|row| row[probe]).collect::<Vec<_>>());
    }
    assert_near(&self_influence(run), &own);
}

fn equals_one_process(case: Case) {
    let dir = train_processes(case);
    let run = Run::open(dir.path().join("run")).unwrap();
    equals_brute_force(case, &run);
    alone(case, &dir.path().join("alone"));
    let one = Run::open(dir.path().join("alone")).unwrap();
    let (expected, found) =
        (InfluenceQuestion::new("test").compute(&one).unwrap(), InfluenceQuestion::new("test").compute(&run).unwrap());
    assert_eq!(found.visits, expected.visits);
    for probe in 0..PROBES as usize {
        assert_near(&scores(&found, probe), &scores(&expected, probe));
    }
    assert_near(&self_influence(&run), &self_influence(&one));
    // An order by visits is that of the steps, whichever worker saw the example.
    let forgetting = |run: &Run| {
        let mut rows = ScoreQuestion::new(Score::Forgetting).compute(run).unwrap().rows;
        rows.sort_by_key(|row| row.example);
        rows.into_iter()
            .map(|row| (row.example, row.visits, row.score, row.extras.values()[..5].to_vec()))
            .collect::<Vec<_>>()
    };
    assert_eq!(forgetting(&run), forgetting(&one));
    let sizes = |run: &Run| u32s(run.dir(), BlockKind::Steps, Column::BatchSize);
    let (found, expected) = (sizes(&run), sizes(&one));
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

/// The note of the command and the library on the worker that was killed.
const ENDED_EARLY: &str = "worker 2 of 3 ended at step 11, without finishing, the others at step 29";

#[test]
fn what_a_killed_worker_recorded_is_read() {
    let dir = train_processes(Case::Killed);
    let run = Run::open(dir.path().join("run")).unwrap();
    equals_brute_force(Case::Killed, &run);
    let workers = run.workers().unwrap().unwrap();
    let last: Vec<Option<u64>> = workers.parts.iter().map(|part| part.last_step).collect();
    assert_eq!(last, [Some(STEPS - 1), Some(STEPS - 1), Some(KILLED.0)]);
    assert_eq!(workers.notes(), [ENDED_EARLY]);
    let to = dir.path().join("recovered");
    let recovered = run.recover(&to).unwrap();
    assert_eq!(recovered.written.visits, run.verify().unwrap().visits);
    assert_eq!(Run::open(&to).unwrap().workers().unwrap().unwrap().notes(), [ENDED_EARLY]);
}

#[test]
fn every_verb_notes_a_worker_that_was_killed() {
    let dir = train_processes(Case::Killed);
    let path = dir.path().join("run").to_str().unwrap().to_owned();
    for verb in
        [&["info"][..], &["verify"], &["scores", "--score", "loss"], &["influence", "--probe", "test", "--id", "1"]]
    {
        let said = gradlog(&[verb, &[path.as_str()]].concat());
        assert!(said.code == Some(0) && said.err.contains(ENDED_EARLY), "{verb:?}: {:?} {}", said.code, said.err);
    }
    let json = gradlog(&["influence", "--probe", "test", "--id", "1", "--format", "json", &path]).out;
    assert!(json.contains(ENDED_EARLY), "{json}");
    let table = gradlog(&["info", &path]).out;
    assert!(table.contains("3 of 3, steps under the mean of their gradients"), "{table}");
}
