//! Replays a training of the reference through gradlog, and compares its visits and scores.

use super::{Reference, Table};
use crate::common::*;
use candle_nn::Optimizer;
use gradlog::optim::{Sgd, SgdConfig};
use gradlog::{Config, Recorder};
use gradlog_analysis::{EstimateQuestion, Influence, InfluenceQuestion, Method, Score, ScoreQuestion};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::Run;
use std::path::Path;

/// Trains as the reference did. Each epoch starts from the reference's weights: free-running trainings part by chaos,
/// PyTorch's from its own as well. Probes are taken before each epoch. Returns the weights after each epoch.
pub fn train(reference: &Reference, network: &Network, dir: &Path, config: Config) -> Vec<Vec<f32>> {
    let rates = reference.rates();
    let settings =
        SgdConfig::new(rates[0]).momentum(reference.number("momentum")).weight_decay(reference.number("weight_decay"));
    let mut optimizer = Sgd::new(network.variables.all_vars(), settings).unwrap();
    let mut recorder = Recorder::create(dir, &network.taps, config).unwrap();
    let probes: Vec<u64> = (0..reference.count("probes") as u64).collect();
    let mut ends = Vec::new();
    for (epoch, rate) in rates.into_iter().enumerate() {
        reference.set_weights(network, epoch);
        optimizer.set_learning_rate(rate);
        recorder.set_epoch(epoch as u32);
        network.record_probes(&mut recorder, "test", &probes);
        for ids in reference.batches(epoch) {
            let data = network.examples.select(&ids);
            let mut pass = recorder.pass(&ids).unwrap();
            let loss = pass.cross_entropy(&network.logits(&data.x).unwrap(), &data.y).unwrap();
            pass.backward_step(&mut optimizer, &loss).unwrap();
        }
        ends.push(network.weights().concat());
    }
    // The adjoint takes probes after the training.
    reference.set_weights(network, ends.len());
    network.record_probes(&mut recorder, "test", &probes);
    recorder.finish().unwrap();
    ends
}

/// A column of the visits, `[epochs, examples]`. Each example has one visit an epoch.
fn by_epoch<V: Into<f64>>(dir: &Path, examples: usize, values: Vec<V>) -> Vec<f32> {
    let epochs = u32s(dir, BlockKind::Visits, Column::Epoch);
    let places = epochs.iter().zip(visited(dir)).map(|(epoch, id)| *epoch as usize * examples + id as usize);
    let mut out = vec![f32::NAN; values.len()];
    places.zip(values).for_each(|(place, value)| out[place] = value.into() as f32);
    out
}

/// Influence on each probe, `[examples, probes]`.
pub fn all_influence(run: &Run, question: &InfluenceQuestion, examples: usize) -> Vec<f32> {
    by_example(&question.compute(run).unwrap(), examples)
}

fn by_example(answer: &Influence, examples: usize) -> Vec<f32> {
    let probes = answer.probes.len();
    let columns: Vec<Vec<f32>> = (0..probes as u64)
        .map(|id| influence_by_example(answer, answer.probe_position(id).unwrap(), examples))
        .collect();
    (0..examples).flat_map(|example| columns.iter().map(move |column| column[example])).collect()
}

/// Compares everything that the training recorded.
pub fn compare(reference: &Reference, table: &mut Table) {
    let dir = tempfile::tempdir().unwrap();
    let (dir, network) = (dir.path(), reference.network());
    let ends = train(reference, &network, dir, exact());
    let examples = reference.count("examples");
    let theirs: Vec<f32> = (1..=ends.len())
        .flat_map(|epoch| {
            let weights = reference.weights(epoch);
            network.named().into_keys().flat_map(|name| numbers(&weights[&name])).collect::<Vec<f32>>()
        })
        .collect();
    table.compare("weights after each epoch", "torch", &ends.concat(), &theirs);
    let columns = [
        ("loss of each visit", "loss", Column::Loss),
        ("margin of each visit", "margin", Column::Margin),
        ("EL2N of each visit", "el2n", Column::El2n),
        ("confidence of each visit", "confidence", Column::Confidence),
        ("correctness of each visit", "correct", Column::Correct),
        ("squared gradient norm of each visit", "squared_norm", Column::SquaredNorm),
    ];
    for (what, name, column) in columns {
        let ours = by_epoch(dir, examples, f32s(dir, BlockKind::Visits, column));
        table.compare(what, "torch", &ours, &reference.numbers(&format!("visit.{name}")));
    }
    let predictions = by_epoch(dir, examples, u32s(dir, BlockKind::Visits, Column::Prediction));
    table.compare("predicted class of each visit", "torch", &predictions, &reference.numbers("visit.prediction"));
    let run = Run::open(dir).unwrap();
    let tracin = all_influence(&run, &InfluenceQuestion::new("test"), examples);
    table.compare("TracIn over visits", "torch", &tracin, &reference.numbers("visit.tracin"));
    if reference.has("dattri.dvemb") {
        let adjoint = EstimateQuestion::new(InfluenceQuestion::new("test"), Method::Adjoint).length(1 << 14);
        let answers = adjoint.compute(&run).unwrap();
        let theirs = reference.numbers("dattri.dvemb");
        table.compare("adjoint, DVEmb", "dattri", &by_example(&answers[0], examples), &theirs);
    }
    let scores = [
        ("self-influence over visits", "torch", Score::SelfInfluence, "visit.self_influence"),
        ("GraNd, mean over visits", "torch", Score::Grand, "score.grand"),
        ("EL2N, mean over visits", "torch", Score::El2n, "score.el2n"),
        ("AUM", "aum", Score::Aum, "score.aum"),
        ("cartography: confidence", "torch", Score::Confidence, "score.confidence"),
        ("cartography: variability", "torch", Score::Variability, "score.variability"),
        ("cartography: correctness", "torch", Score::Correctness, "score.correctness"),
    ];
    for (what, package, score, name) in scores {
        let ours = score_by_example(&ScoreQuestion::new(score).compute(&run).unwrap(), examples);
        table.compare(what, package, &ours, &reference.numbers(name));
    }
    // Infinite where never learned, in both.
    let ours = score_by_example(&ScoreQuestion::new(Score::Forgetting).compute(&run).unwrap(), examples);
    let theirs = reference.numbers("score.forgetting");
    assert!(theirs.contains(&f32::INFINITY), "no example tests what was never learned");
    assert!(theirs.contains(&1.0), "no example was forgotten");
    let finite = |v: &[f32]| v.iter().map(|e| if e.is_infinite() { -1.0 } else { *e }).collect::<Vec<f32>>();
    table.compare("forgetting events", "torch", &finite(&ours), &finite(&theirs));
}
