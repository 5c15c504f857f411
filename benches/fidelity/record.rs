//! The default configuration, really recorded: the recorder writes a run, the analysis reads it back.

use super::data::Examples;
use super::model::{Model, Watch};
use super::read::{read, Recorded};
use anyhow::{Context, Result};
use gradlog::{Config, Recorder};
use gradlog_format::run::Run;

/// Records the probes and then the visits at the weights that the model has.
pub fn record(
    model: &Model,
    train: &Examples,
    visits: &[usize],
    test: &Examples,
    probes: &[usize],
    batch: usize,
    config: Config,
) -> Result<Recorded> {
    let folder = tempfile::tempdir().context("a folder for the run")?;
    let dir = folder.path().join("run");
    let mut recorder = Recorder::create(&dir, &model.taps, config)?;
    let wide = |ids: &[usize]| ids.iter().map(|id| *id as u64).collect::<Vec<u64>>();
    for ids in probes.chunks(batch) {
        let (x, y) = test.batch(ids)?;
        let mut pass = recorder.probe("test", &wide(ids))?;
        pass.cross_entropy(&model.forward(&x, &Watch::default())?, &y)?.backward()?;
        pass.commit()?;
    }
    for ids in visits.chunks(batch) {
        let (x, y) = train.batch(ids)?;
        let mut pass = recorder.pass(&wide(ids))?;
        pass.cross_entropy(&model.forward(&x, &Watch::default())?, &y)?.backward()?;
        pass.commit(0.1)?;
    }
    recorder.finish()?;
    read(&Run::open(&dir)?, visits, probes)
}
