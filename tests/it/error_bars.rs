//! The stated errors of scores against the real ones: the same training on the shipped digits, recorded exactly and in
//! sketches.

#[allow(dead_code)]
#[path = "../../examples/mnist/data.rs"]
mod data;

use crate::common::*;
use candle_core::{Device, Module, Tensor};
use candle_nn::{conv2d, linear, Conv2dConfig, VarMap};
use data::Digits;
use gradlog::ops::relu;
use gradlog::{Config, Recorder, SketchConfig, Taps};
use gradlog_analysis::InfluenceQuestion;
use gradlog_format::run::Run;
use std::collections::HashMap;
use std::path::Path;

const EXAMPLES: u64 = 400;
const PROBES: u64 = 20;
const BATCH: u64 = 20;

/// A CNN over the digits: a folded layer, a layer whose input is projected, and one that is kept whole.
///
/// It has one folded layer only, so the exact recording folds nothing together.
fn network() -> Network {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let vb = builder(&variables);
    let strided = Conv2dConfig { stride: 2, ..Conv2dConfig::default() };
    let conv = taps.tap("conv", conv2d(1, 16, 10, strided, vb.pp("conv")).unwrap());
    let fc1 = taps.tap("fc1", linear(16 * 100, 40, vb.pp("fc1")).unwrap());
    let fc2 = taps.tap("fc2", linear(40, 10, vb.pp("fc2")).unwrap());
    let forward = move |x: &Tensor, _| {
        let x = relu(&conv.forward(x)?)?;
        fc2.forward(&relu(&fc1.forward(&x.flatten_from(1)?)?)?)
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data/mnist");
    let load = |part: &str, count: u64| {
        let ids: Vec<u64> = (0..count).collect();
        let (x, y) = Digits::load(&folder, part).unwrap().batch(&ids, &Device::Cpu).unwrap();
        Data { x, y }
    };
    let network = Network::new(taps, variables, forward, load("train", EXAMPLES), load("t10k", PROBES));
    network.fill_with(0, |var| 1.0 / (var.elem_count() as f64 / var.dims()[0] as f64).sqrt())
}

/// One epoch, with probes before each fifth step. Returns each pair's score with its error.
fn train(dir: &Path, sketch: SketchConfig, seed: u64) -> HashMap<(u64, u64), (f64, f64)> {
    let model = network();
    let probes: Vec<u64> = (0..PROBES).collect();
    let mut recorder = Recorder::create(dir, &model.taps, Config { sketch, seed, ..Config::default() }).unwrap();
    let ids = |step: u64| (step * BATCH..(step + 1) * BATCH).collect();
    let schedule = (0..EXAMPLES / BATCH).map(|n| Step { number: n, epoch: 0, ids: ids(n), rate: 0.05 });
    model.train(&mut recorder, schedule, |recorder, step| {
        if step.number % 5 == 0 {
            model.record_probes(recorder, "test", &probes);
        }
    });
    recorder.finish().unwrap();
    let run = Run::open(dir).unwrap();
    let plan = InfluenceQuestion::new("test").clone().sketch_errors().plan(&run).unwrap();
    assert_eq!(plan.passes(), 1);
    let found = plan.pass(0).unwrap();
    let pair = |row: usize, probe: usize| {
        let ids = (found.rows[row].example, found.probes[probe].id);
        (ids, (found.score(row, probe), found.sketch_error(row, probe).unwrap()))
    };
    (0..found.rows.len()).flat_map(|row| (0..found.probes.len()).map(move |probe| pair(row, probe))).collect()
}

#[test]
fn exact_scores_of_a_real_run_lie_within_the_stated_errors_as_often_as_they_should() {
    let dir = tempfile::tempdir().unwrap();
    let exact = train(&dir.path().join("exact"), SketchConfig::exact(), 0);
    assert_eq!(exact.len() as u64, EXAMPLES * PROBES);
    let short =
        SketchConfig { input_cap: 128, projected: 128, folded_min: 256, folded_max: 256, ..SketchConfig::default() };
    let mut sigmas = Vec::new();
    // Pairs share the projections of a run, so that a share over one run is of one draw.
    for seed in 1..=12 {
        let sketched = train(&dir.path().join(seed.to_string()), short.clone(), seed);
        for (pair, (score, error)) in sketched {
            let (truth, of_exact) = exact[&pair];
            assert!(of_exact == 0.0 && error > 0.0, "{pair:?}: {error}, of the exact one {of_exact}");
            sigmas.push((score - truth).abs() / error);
        }
    }
    let share = |limit: f64| sigmas.iter().filter(|sigma| **sigma <= limit).count() as f64 / sigmas.len() as f64;
    let rms = (sigmas.iter().map(|sigma| sigma * sigma).sum::<f64>() / sigmas.len() as f64).sqrt();
    println!("within one {:.3}, within two {:.3}, root of the mean square {rms:.3}", share(1.0), share(2.0));
    assert!((0.6..0.9).contains(&share(1.0)) && share(2.0) > 0.9, "{} {}", share(1.0), share(2.0));
    // Neither too small nor so large that it says nothing.
    assert!((0.8..1.2).contains(&rms), "{rms}");
}
