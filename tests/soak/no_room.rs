//! A checkpoint that the disk has no room for: the training hears of it, and it costs the run nothing else.

use crate::harm::Mounted;
use crate::reading::{compare, read, reference};
use crate::training::{sketch, Training, BATCH};
use anyhow::{ensure, Context, Result};
use candle_core::{DType, Device, Tensor};
use gradlog::{Config, RecordError, Recorder};
use gradlog_format::run::Run;

/// Steps before each checkpoint and at the end.
const STEPS: u64 = 8;

/// Weights that fit the small disk, weights that do not, and weights that do again; visits before, between and behind
/// them.
pub fn checkpoint() -> Result<String> {
    let Some(disk) = Mounted::tmpfs()? else { return Ok("skipped: mounting is not permitted".into()) };
    let run = disk.0.path().join("run");
    let mut training = Training::new()?;
    let config = Config { sketch: sketch(), segment_bytes: 1 << 16, ..Config::default() };
    let mut recorder = Recorder::create(&run, &training.taps, config)?;
    let mut refused = String::new();
    for (step, numbers) in [(STEPS, 1 << 10), (2 * STEPS, 1 << 19), (3 * STEPS, 1 << 10)] {
        while training.steps() < step {
            training.step(&mut recorder, 1)?.1?;
        }
        let weights = Tensor::ones(numbers, DType::F32, &Device::Cpu)?;
        let saved = recorder.checkpoint_tensors([("weights".to_owned(), weights)]);
        if step != 2 * STEPS {
            saved.with_context(|| format!("the checkpoint of step {step}"))?;
            continue;
        }
        let Err(error @ RecordError::Checkpoint { .. }) = saved else {
            anyhow::bail!("two mebibytes on a disk of one: {saved:?}")
        };
        refused = error.to_string();
        ensure!(refused.contains("No space left"), "{refused}");
    }
    while training.steps() < 4 * STEPS {
        training.step(&mut recorder, 1)?.1?;
    }
    recorder.finish()?;

    let names = std::fs::read_dir(run.join("checkpoints"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<std::collections::BTreeSet<String>>>()?;
    let expected = [STEPS, 3 * STEPS].map(|step| format!("step-{step:08}.safetensors"));
    ensure!(names.iter().eq(expected.iter()), "the folder holds {names:?}");
    let told = Run::open(&run)?.checkpoints()?;
    ensure!(told.iter().map(|one| one.step).eq([STEPS, 3 * STEPS]), "the log tells of {told:?}");
    let reading = read(&run)?;
    let dir = tempfile::tempdir()?;
    let verdict = compare(&reading, &reference(&dir.path().join("run"), 4 * STEPS)?, 4 * STEPS * BATCH);
    ensure!(verdict == Default::default() && reading.finished && reading.damage.is_none(), "{verdict:?}");
    Ok(refused)
}
