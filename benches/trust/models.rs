//! The three models of the fidelity benchmark: exact scores from whole gradients, and a recorded run.

use super::data::{self, Examples};
use super::exact::Material;
use super::measured::{Gathered, Measured};
use super::model::{Model, Watch};
use anyhow::{Context, Result};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, SGD};
use gradlog::{Config, Recorder};
use gradlog_analysis::InfluenceQuestion;
use gradlog_format::run::Run;
use std::path::Path;

const PROBES: usize = 50;
const VISITS: usize = 1_024;
const RATE: f64 = 0.1;

pub fn measure(name: &str) -> Result<Measured> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data");
    let (batch, steps) = if name == "transformer" { (16, 120) } else { (64, 160) };
    let (train, test) = match name {
        "transformer" => data::text(&root.join("text/paradise-lost.txt"), 0)?,
        _ => data::images(&root.join("mnist"), 0)?,
    };
    let model = Model::new(name, 0)?;
    train_a_little(name, &model, &train, steps, batch)?;
    let ids: Vec<usize> = (0..VISITS).collect();
    let probes: Vec<usize> = (0..PROBES).collect();
    let batches = ids.chunks(batch).map(|ids| train.batch(ids));
    let material = Material::collect(&model, test.batch(&probes)?, batches, &[512])?;
    let factor = RATE / batch as f64;
    let mut gathered = Gathered::default();
    for seed in 0..3 {
        let folder = tempfile::tempdir().context("a folder for the run")?;
        let dir = folder.path().join("run");
        let mut recorder = Recorder::create(&dir, &model.taps, Config { seed, ..Config::default() })?;
        let wide = |ids: &[usize]| ids.iter().map(|id| *id as u64).collect::<Vec<u64>>();
        for ids in probes.chunks(batch) {
            let (x, y) = test.batch(ids)?;
            let mut pass = recorder.probe("test", &wide(ids))?;
            pass.cross_entropy(&model.forward(&x, &Watch::default())?, &y)?.backward()?;
            pass.commit()?;
        }
        for ids in ids.chunks(batch) {
            let (x, y) = train.batch(ids)?;
            let mut pass = recorder.pass(&wide(ids))?;
            pass.cross_entropy(&model.forward(&x, &Watch::default())?, &y)?.backward()?;
            pass.commit(RATE)?;
        }
        let bytes = recorder.finish()?.bytes_per_visit;
        let found = InfluenceQuestion::new("test").sketch_errors().compute(&Run::open(&dir)?)?;
        gathered.add(&found, |visit, probe| factor * material.truth[visit * PROBES + probe], bytes)?;
    }
    Ok(gathered.finish())
}

fn train_a_little(name: &str, model: &Model, train: &Examples, steps: usize, batch: usize) -> Result<()> {
    let variables = model.variables.all_vars();
    let mut adam = None;
    let mut sgd = None;
    match name {
        "transformer" => adam = Some(AdamW::new(variables, ParamsAdamW { lr: 1e-3, ..Default::default() })?),
        "mlp" => sgd = Some(SGD::new(variables, 0.1)?),
        _ => sgd = Some(SGD::new(variables, 0.05)?),
    }
    for step in 0..steps {
        let first = step * batch % (train.len() - batch);
        let (x, y) = train.batch(&(first..first + batch).collect::<Vec<_>>())?;
        let loss = model.mean_loss(&x, &y, &Watch::default())?;
        if let Some(adam) = &mut adam {
            adam.backward_step(&loss)?;
        }
        if let Some(sgd) = &mut sgd {
            sgd.backward_step(&loss)?;
        }
    }
    Ok(())
}
