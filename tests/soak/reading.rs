//! Reading a run bit by bit, and comparing it with the run that nobody cut.

use crate::training;
use anyhow::{ensure, Context, Result};
use gradlog::{Config, Recorder};
use gradlog_format::log::{BlockKind, Column, ColumnKey};
use gradlog_format::run::{Block, Origin, ReadError, Run};
use std::path::Path;

/// One visit: every number that the run holds of it, as bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub example: u64,
    pub step: u64,
    words: Vec<u32>,
}

/// All that a run holds, and what its checks say of it.
#[derive(Debug, Default)]
pub struct Reading {
    pub rows: Vec<Row>,
    /// Steps of the step blocks, in order.
    pub steps: Vec<u64>,
    /// Of each gap, its first step and its dropped visits.
    pub gaps: Vec<(u64, u64)>,
    /// Where the reader had to stop.
    pub damage: Option<String>,
    /// Whether the last block says that the run was finished.
    pub finished: bool,
    /// Preallocated bytes behind the last block.
    pub zero_tail_bytes: u64,
}

const FLOATS: [Column; 9] = [
    Column::LearningRate,
    Column::Clip,
    Column::Coefficient,
    Column::Loss,
    Column::El2n,
    Column::Margin,
    Column::Confidence,
    Column::Correct,
    Column::SquaredNorm,
];
const LOSS: usize = 3;
const INTEGERS: [Column; 3] = [Column::Epoch, Column::Label, Column::Prediction];

/// Reads everything there is in the run, and holds `verify` to it.
pub fn read(dir: &Path) -> Result<Reading> {
    let run = Run::open(dir)?;
    let mut reading = Reading::default();
    let mut scan = run.scan();
    for block in scan.by_ref() {
        match take(&block, &mut reading) {
            Ok(()) => {}
            // A column that is torn stops the reading there, as a torn header does.
            Err(ReadError::Damaged(damage)) => {
                reading.damage = Some(damage.to_string());
                break;
            }
            Err(error) => return Err(error.into()),
        }
    }
    reading.zero_tail_bytes = scan.zero_tail_bytes();
    if reading.damage.is_none() {
        reading.damage = scan.damage()?.map(|damage| damage.to_string());
    }
    let report = run.verify()?;
    let dropped: u64 = reading.gaps.iter().map(|gap| gap.1).sum();
    ensure!(
        report.visits == reading.rows.len() as u64,
        "verify counts {} visits, {} can be read",
        report.visits,
        reading.rows.len()
    );
    ensure!(
        report.steps == reading.steps.len() as u64,
        "verify counts {} steps, {} can be read",
        report.steps,
        reading.steps.len()
    );
    ensure!(report.dropped == dropped, "verify counts {} dropped visits, the gaps {dropped}", report.dropped);
    ensure!(report.finished == reading.finished, "verify is wrong about the run being finished");
    let damage = report.damage.map(|damage| damage.to_string());
    ensure!(damage == reading.damage, "verify says {damage:?}, the reader {:?}", reading.damage);
    Ok(reading)
}

fn take(block: &Block, reading: &mut Reading) -> Result<(), ReadError> {
    block.check()?;
    match block.kind() {
        Some(BlockKind::Visits) => reading.rows.extend(rows(block)?),
        Some(BlockKind::Steps) => reading.steps.extend(block.u64s(Column::Step)?),
        Some(BlockKind::Gaps) => {
            reading.gaps.extend(block.u64s(Column::Step)?.into_iter().zip(block.u64s(Column::Dropped)?));
        }
        Some(BlockKind::End) => reading.finished = true,
        _ => {}
    }
    Ok(())
}

fn rows(block: &Block) -> Result<Vec<Row>, ReadError> {
    let mut rows: Vec<Row> = (block.u64s(Column::Example)?.into_iter().zip(block.u64s(Column::Step)?))
        .map(|(example, step)| Row { example, step, words: Vec::new() })
        .collect();
    let mut add =
        |values: &mut dyn Iterator<Item = u32>| rows.iter_mut().zip(values).for_each(|(row, v)| row.words.push(v));
    for column in INTEGERS {
        add(&mut block.u32s(column)?.into_iter());
    }
    for column in FLOATS {
        add(&mut block.f32s(column)?.into_iter().map(f32::to_bits));
    }
    add(&mut block.u8s(Column::Flags)?.into_iter().map(u32::from));
    for (layer, column) in [(0, Column::Input), (0, Column::Delta), (1, Column::Input), (1, Column::Delta)] {
        let vectors = block.vectors(ColumnKey { column, layer }, Origin::Whole)?;
        let mut numbers = vec![0.0; vectors.width()];
        for (index, row) in rows.iter_mut().enumerate() {
            vectors.decode(index, &mut numbers);
            row.words.extend(numbers.iter().map(|v| v.to_bits()));
        }
    }
    Ok(rows)
}

impl Row {
    fn epoch(&self) -> u32 {
        self.words[0]
    }

    fn float(&self, index: usize) -> f32 {
        f32::from_bits(self.words[INTEGERS.len() + index])
    }

    /// The input factor of the first layer.
    fn input(&self) -> impl Iterator<Item = f32> + '_ {
        self.words[INTEGERS.len() + FLOATS.len() + 1..].iter().take(training::INPUTS).map(|bits| f32::from_bits(*bits))
    }
}

/// The run that nobody cut: `steps` steps, recorded into `dir` and read back, its rows checked against what the loop
/// knows of them itself. Nothing that follows is worth more than this check.
pub fn reference(dir: &Path, steps: u64) -> Result<Vec<Row>> {
    let mut training = training::Training::new()?;
    let config = Config { sketch: training::sketch(), ..Config::default() };
    let mut recorder = Recorder::create(dir, &training.taps, config)?;
    let mut losses = Vec::new();
    for _ in 0..steps {
        let (loss, recorded) = training.step(&mut recorder, 1)?;
        recorded?;
        losses.push(loss);
    }
    recorder.finish()?;
    let reading = read(dir)?;
    ensure!(reading.finished && reading.damage.is_none(), "the reference run is not sound");
    ensure!(reading.steps.iter().copied().eq(0..steps), "the reference run does not hold each step once");
    ensure!(reading.rows.len() as u64 == steps * training::BATCH, "the reference run has {} rows", reading.rows.len());
    for (step, rows) in (0u64..).zip(reading.rows.chunks(training::BATCH as usize)) {
        let mut sum = 0.0;
        for (row, id) in rows.iter().zip(training::ids(step)) {
            ensure!((row.example, row.step) == (id, step), "row {row:?} where example {id} of step {step} belongs");
            ensure!(row.epoch() == training::epoch(step), "row {row:?} has another epoch");
            ensure!(
                row.float(0) == training::LEARNING_RATE as f32 && row.float(1) == 1.0,
                "row {row:?} has another step size"
            );
            ensure!(row.float(2) == 1.0 / training::BATCH as f32, "row {row:?} has another coefficient");
            ensure!(row.input().eq(training::input(id, step)), "row {row:?} has another input");
            sum += row.float(LOSS);
        }
        let mean = sum / training::BATCH as f32;
        let loss = losses.get(step as usize).copied().context("a step too many")?;
        ensure!((mean - loss).abs() < 1e-5, "step {step} had loss {loss}, its rows have {mean}");
    }
    Ok(reading.rows)
}

/// How a run that was cut off differs from the one that was not.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Rows of the right example and step with some other number.
    pub torn: u64,
    /// Rows that nobody committed, that are out of order, or that are there twice.
    pub invented: u64,
}

/// Compares, row by row, with the first rows of `reference`; rows from number `tried` on were never handed to the
/// recorder.
pub fn compare(reading: &Reading, reference: &[Row], tried: u64) -> Verdict {
    let mut verdict = Verdict::default();
    for (index, row) in reading.rows.iter().enumerate() {
        match reference.get(index) {
            Some(expected) if expected == row && (index as u64) < tried => {}
            Some(expected)
                if (expected.example, expected.step) == (row.example, row.step) && (index as u64) < tried =>
            {
                verdict.torn += 1;
            }
            _ => verdict.invented += 1,
        }
    }
    let steps = reading.steps.iter().zip(0u64..).filter(|(step, expected)| **step != *expected).count();
    verdict.invented += steps as u64;
    verdict
}
