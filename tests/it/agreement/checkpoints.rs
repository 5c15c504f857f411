//! PyTorch's checkpoints, swept without a recorded training, against PyTorch, Captum and dattri.

use super::training::all_influence;
use super::{Reference, Table};
use crate::common::*;
use candle_core::{DType, Tensor};
use gradlog::{CheckpointInfo, Config, Replay};
use gradlog_analysis::{InfluenceQuestion, Normalization, Score, ScoreQuestion, Window};
use gradlog_format::run::Run;
use std::path::Path;

/// Number of steps before an epoch.
pub fn steps_before(reference: &Reference, epoch: usize) -> u64 {
    (epoch * reference.batches(0).len()) as u64
}

/// Writes the weights before and after each epoch as PyTorch would, and sweeps them. The first has the rate of the
/// first epoch, each other that of the epoch before it.
pub fn sweep(reference: &Reference, network: &Network, dir: &Path, config: Config) {
    let rates = reference.rates();
    let mut replay = Replay::create(dir.join("run"), &network.taps, config).unwrap();
    for checkpoint in 0..=rates.len() {
        let file = dir.join(format!("epoch-{checkpoint}.safetensors"));
        candle_core::safetensors::save(&reference.weights(checkpoint), &file).unwrap();
        let epoch = checkpoint.saturating_sub(1);
        let info = CheckpointInfo::new(steps_before(reference, checkpoint)).epoch(epoch as u32);
        replay.load_file(&file, &network.variables, info.learning_rate(rates[epoch])).unwrap();
        let all: Vec<u64> = (0..reference.count("examples") as u64).collect();
        for ids in all.chunks(16) {
            let data = network.examples.select(ids);
            let mut pass = replay.sweep(ids).unwrap();
            pass.cross_entropy(&network.logits(&data.x).unwrap(), &data.y).unwrap().backward().unwrap();
            pass.commit().unwrap();
        }
        let ids: Vec<u64> = (0..reference.count("probes") as u64).collect();
        let mut pass = replay.probe("test", &ids).unwrap();
        let logits = network.logits(&network.probes.x).unwrap();
        pass.cross_entropy(&logits, &network.probes.y).unwrap().backward().unwrap();
        pass.commit().unwrap();
    }
    replay.finish().unwrap();
}

/// The window of the checkpoints after each epoch.
pub fn after_epochs() -> Window {
    Window::sweeps().with_steps(1..u64::MAX)
}

/// What the bias of the last layer adds to TracInCP: `Σ_i η_i ⟨δ_z, δ_z'⟩`, `[examples, probes]`. By candle alone.
fn bias_part(reference: &Reference, network: &Network) -> Vec<f32> {
    let deltas = |data: &Data| {
        let p = candle_nn::ops::softmax(&network.logits(&data.x).unwrap(), 1).unwrap();
        let target = Tensor::eye(10, DType::F32, p.device()).unwrap().index_select(&data.y, 0).unwrap();
        (p - target).unwrap()
    };
    let mut sum: Option<Tensor> = None;
    for (epoch, rate) in reference.rates().into_iter().enumerate() {
        reference.set_weights(network, epoch + 1);
        let (train, probe) = (deltas(&network.examples), deltas(&network.probes));
        let part = (train.matmul(&probe.t().unwrap()).unwrap() * rate).unwrap();
        sum = Some(sum.map_or(part.clone(), |sum| (sum + part).unwrap()));
    }
    numbers(&sum.unwrap())
}

/// Compares everything at checkpoints.
pub fn compare(reference: &Reference, table: &mut Table) {
    let dir = tempfile::tempdir().unwrap();
    let network = reference.network();
    sweep(reference, &network, dir.path(), exact());
    let path = dir.path().join("run");
    let run = Run::open(&path).unwrap();
    let (examples, probes) = (reference.count("examples"), reference.count("probes"));
    let rates = reference.rates();

    let (mut dots, mut squares) = (Vec::new(), Vec::new());
    for checkpoint in 0..=rates.len() {
        let window = Window::sweep_at(steps_before(reference, checkpoint));
        let rate = rates[checkpoint.saturating_sub(1)] as f32;
        let at = InfluenceQuestion::new("test").window(window.clone());
        dots.extend(all_influence(&run, &at, examples).into_iter().map(|score| score / rate));
        let grand = ScoreQuestion::new(Score::Grand).window(window).compute(&run).unwrap();
        squares.extend(score_by_example(&grand, examples).into_iter().map(|norm| norm * norm));
    }
    table.compare("dot products at checkpoints", "torch", &dots, &reference.numbers("checkpoint.dots"));
    let theirs = reference.numbers("checkpoint.squared_norms");
    table.compare("squared gradient norms at checkpoints", "torch", &squares, &theirs);

    let question = InfluenceQuestion::new("test").window(after_epochs());
    let tracincp = all_influence(&run, &question, examples);
    table.compare("TracInCP", "captum", &tracincp, &reference.numbers("captum.tracincp"));
    table.compare("TracInCP", "dattri", &tracincp, &reference.numbers("dattri.tracin"));
    let own = ScoreQuestion::new(Score::SelfInfluence).window(after_epochs()).compute(&run).unwrap();
    let own = score_by_example(&own, examples);
    table.compare("self-influence at checkpoints", "captum", &own, &reference.numbers("captum.self_influence"));
    let cosine = all_influence(&run, &question.clone().normalization(Normalization::Cosine), examples);
    table.compare("TracInCP of cosines", "dattri", &cosine, &reference.numbers("dattri.cosin"));

    let last_name = if reference.name == "mlp" { "fc3" } else { "fc" };
    let last = all_influence(&run, &question.layers([last_name]), examples);
    table.compare("TracInCP, last layer", "dattri", &last, &reference.numbers("dattri.last_layer"));
    let fast = reference.numbers("captum.fast");
    if reference.has("captum.fast_with_bias") {
        let with_bias = reference.numbers("captum.fast_with_bias");
        table.compare("TracInCPFast, bias as a column of weights", "captum", &last, &with_bias);
        let part = bias_part(reference, &network);
        let without: Vec<f32> = last.iter().zip(part).map(|(score, part)| score - part).collect();
        table.compare("TracInCPFast, less the bias's part", "captum", &without, &fast);
        // It leaves out what it says that it leaves out, and that is not little.
        assert!(relative_error(&fast, &last) > 0.01);
    } else {
        table.compare("TracInCPFast", "captum", &last, &fast);
    }
    compare_command(&path, &tracincp, probes, examples);
}

/// The command answers from the same run.
fn compare_command(run: &Path, tracincp: &[f32], probes: usize, examples: usize) {
    let path = run.to_str().unwrap();
    let asked = ["influence", path, "--probe", "test", "--id", "3", "--at", "sweep", "--steps", "1..", "--format"];
    let json = gradlog(&[&asked[..], &["json", "--top", &examples.to_string()]].concat()).json();
    let rows = json["rows"].as_array().unwrap();
    assert!(rows.len() >= examples, "{json}");
    let mut said = vec![f32::NAN; examples];
    for row in rows {
        said[row["example"].as_u64().unwrap() as usize] = row["score"].as_f64().unwrap() as f32;
    }
    let want: Vec<f32> = tracincp.iter().skip(3).step_by(probes).copied().collect();
    assert!(relative_error(&said, &want) < 1e-6, "{}", relative_error(&said, &want));
}
