//! Runs made up for tests, written with gradlog's own writer.

use crate::visits::{Visit, WIDTHS};
use gradlog_format::log::{
    segment_path, worker_folder, AllReduce, BlockBuilder, BlockKind, CardKind, Cells, Column, ColumnKey, EventKind,
    FindingKind, LayerRecord, LogError, LogWriter, Manifest, Mode, Preconditioner, ResumePlace, SegmentHeader, Totals,
    UpdateRule, WorkerRecord, WriterOptions, NO_LAYER,
};
use gradlog_format::run::Run;
use gradlog_format::sketch::{Encoding, SketchConfig};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use tempfile::TempDir;

/// Room for every run made up here in one segment.
const SEGMENT_BYTES: u64 = 16 << 20;

fn options() -> WriterOptions {
    WriterOptions { segment_bytes: SEGMENT_BYTES, zstd_level: 1 }
}

/// A column and where its numbers are.
type Reader<T> = (Column, fn(&Visit) -> T);

/// A run that is being written.
#[derive(Debug)]
pub struct Synthetic {
    /// The folder of the run.
    pub dir: Arc<TempDir>,
    writer: LogWriter,
    /// The folder that the writer writes to: that of the run or of a worker.
    folder: PathBuf,
    /// The encoding of vectors.
    pub encoding: Encoding,
    /// Columns that are not written.
    pub without: Vec<Column>,
    /// Where each block begins in the first segment.
    pub offsets: Vec<u64>,
}

fn layer(name: &str, inputs: usize, outputs: usize, bias: bool) -> LayerRecord {
    LayerRecord {
        name: name.into(),
        kind: "linear".into(),
        inputs: inputs as u32,
        outputs: outputs as u32,
        bias,
        parameters: ((inputs + usize::from(bias)) * outputs) as u64,
        shapes: Vec::new(),
        seed_input: 1,
        seed_delta: 2,
        seed_folded: 3,
    }
}

/// The layer and the columns of each part.
fn keys() -> [(ColumnKey, ColumnKey); 5] {
    let key = |column, layer| ColumnKey { column, layer };
    let input = |layer| (key(Column::Input, layer), key(Column::InputScale, layer));
    let delta = |layer| (key(Column::Delta, layer), key(Column::DeltaScale, layer));
    [input(0), delta(0), input(2), delta(2), (key(Column::Folded, NO_LAYER), key(Column::FoldedScale, NO_LAYER))]
}

impl Synthetic {
    /// A run in a temporary folder, whose vectors have this encoding.
    pub fn new(encoding: Encoding) -> Self {
        Self::with_seed(encoding, 3)
    }

    /// As [`Synthetic::new`], with the seed in the manifest that flat vectors draw from.
    pub fn with_seed(encoding: Encoding, seed: u64) -> Self {
        Self::in_folder(Arc::new(TempDir::new().unwrap()), None, encoding, seed)
    }

    /// The part of one worker, rank and number of all, of the run in `dir`.
    pub fn part(dir: Arc<TempDir>, worker: Option<(u32, u32)>, encoding: Encoding) -> Self {
        Self::in_folder(dir, worker, encoding, 3)
    }

    fn in_folder(dir: Arc<TempDir>, worker: Option<(u32, u32)>, encoding: Encoding, seed: u64) -> Self {
        let worker = worker.map(|(rank, workers)| WorkerRecord { rank, workers, reduction: AllReduce::Mean });
        let folder = worker.map_or(dir.path().to_owned(), |worker| worker_folder(dir.path(), worker.rank));
        // Runs have ids of their own: several are refused if they are the same one.
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let mut run_id = [7; 16];
        run_id[..8].copy_from_slice(&RUNS.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        let manifest = Manifest {
            run_id,
            created_ms: 1,
            version: "test".into(),
            seed,
            sketch: SketchConfig::exact(),
            layers: vec![layer("fc", 5, 3, true), layer("conv", 7, 3, true), layer("head", 4, 2, false)],
            untapped: Vec::new(),
            model_parameters: Some(52),
            notes: Vec::new(),
            worker,
            extensions: Vec::new(),
        };
        let writer = LogWriter::create(&folder, &manifest, options()).unwrap();
        Self { dir, writer, folder, encoding, without: Vec::new(), offsets: Vec::new() }
    }

    /// Ends the segment and resumes the run at `step` in a new one: rows of that step and later are superseded.
    pub fn resume(self, step: u64) -> Self {
        self.reopen(step, LogWriter::resume)
    }

    /// Ends the segment and begins one of a replay, which supersedes nothing.
    pub fn replay(self) -> Self {
        self.reopen(0, LogWriter::add_to)
    }

    fn reopen(mut self, step: u64, open: fn(&Path, ResumePlace, WriterOptions) -> Result<LogWriter, LogError>) -> Self {
        self.writer.finish().unwrap();
        let Self { dir, writer, folder, encoding, without, offsets } = self;
        drop(writer);
        let run = Run::open_one(&folder).unwrap();
        let mut scan = run.part_scan();
        scan.by_ref().for_each(drop);
        let (next_segment, sequence) = scan.place();
        let run_id = run.manifest().run_id;
        let place = ResumePlace { run_id, next_segment, sequence, step, totals: Totals::default() };
        let writer = open(&folder, place, options()).unwrap();
        Self { dir, writer, folder, encoding, without, offsets }
    }

    fn append(&mut self, mut builder: BlockBuilder) {
        // The segment's header is counted once it is there, with the first block.
        self.offsets.push(self.writer.written_bytes().max(64));
        self.writer.append(&mut builder).unwrap();
    }

    fn rows(&mut self, kind: BlockKind, rows: &[Visit]) {
        self.rows_beside(BlockBuilder::new(kind), kind, rows);
    }

    fn rows_beside(&mut self, mut b: BlockBuilder, kind: BlockKind, rows: &[Visit]) {
        let without = &self.without;
        let has = |column: Column| !without.contains(&column);
        b.u64s(Column::Example, rows.iter().map(|r| r.example));
        b.u64s(Column::Step, rows.iter().map(|r| r.step));
        b.u32s(Column::Epoch, rows.iter().map(|r| r.epoch));
        if kind == BlockKind::Visits {
            if has(Column::LearningRate) {
                b.f32s(Column::LearningRate, rows.iter().map(|r| r.learning_rate));
            }
            if has(Column::Clip) {
                b.f32s(Column::Clip, rows.iter().map(|r| r.clip));
            }
        } else if kind == BlockKind::Sweeps {
            b.f32s(Column::LearningRate, rows.iter().map(|r| r.learning_rate));
            b.column(Column::Mode, Cells::U8, 1).extend(rows.iter().map(|_| Mode::Evaluation.code()));
        } else {
            b.u32s(Column::ProbeSet, rows.iter().map(|r| r.set));
            if rows.iter().any(|r| r.scored.is_some()) {
                let scores = rows.iter().map(|r| r.scored.map_or(0, |(score, _)| score.code()));
                b.column(Column::PredictionScore, Cells::U8, 1).extend(scores);
                b.u32s(Column::ScoredClass, rows.iter().map(|r| r.scored.map_or(0, |(_, class)| class)));
            }
            if rows.iter().any(|r| r.curvature_weight.is_some()) {
                b.f32s(Column::CurvatureWeight, rows.iter().filter_map(|r| r.curvature_weight));
            }
        }
        let floats: [Reader<f32>; 7] = [
            (Column::Coefficient, |r| r.coefficient),
            (Column::Loss, |r| r.loss),
            (Column::El2n, |r| r.el2n),
            (Column::Margin, |r| r.margin),
            (Column::Confidence, |r| r.confidence),
            (Column::Correct, |r| r.correct),
            (Column::SquaredNorm, |r| r.squared_norm),
        ];
        for (column, of) in floats.into_iter().filter(|(column, _)| has(*column)) {
            b.f32s(column, rows.iter().map(of));
        }
        let in_metric: Vec<f32> = rows.iter().filter_map(|r| r.preconditioned_squared_norm).collect();
        if !in_metric.is_empty() {
            b.f32s(Column::PreconditionedSquaredNorm, in_metric);
        }
        let integers: [Reader<u32>; 3] = [
            (Column::Label, |r| r.label),
            (Column::Prediction, |r| r.prediction),
            (Column::Positions, |r| r.positions),
        ];
        for (column, of) in integers.into_iter().filter(|(column, _)| has(*column)) {
            b.u32s(column, rows.iter().map(of));
        }
        b.column(Column::Flags, Cells::U8, 1).extend(rows.iter().map(|r| r.flags));
        for (part, (values, scales)) in keys().into_iter().enumerate().filter(|(_, (values, _))| has(values.column)) {
            for row in rows {
                let codes = b.column(values, Cells::Vector(self.encoding), WIDTHS[part] as u32);
                let quantized = self.encoding.encode(&row.parts[part], codes);
                b.column(scales, Cells::Bf16, 1).extend(quantized.scale.to_le_bytes());
            }
        }
        for row in rows {
            b.advance(1, row.step, row.epoch);
        }
        self.append(b);
    }

    /// One block of visits.
    pub fn visits(&mut self, rows: &[Visit]) {
        self.rows(BlockKind::Visits, rows);
    }

    /// One block of probe visits.
    pub fn probes(&mut self, rows: &[Visit]) {
        self.rows(BlockKind::Probes, rows);
    }

    /// One block of probe visits whose vectors are in the metric of Adam.
    pub fn preconditioned_probes(&mut self, rows: &[Visit]) {
        let mut b = BlockBuilder::new(BlockKind::Probes);
        let code = Preconditioner::SecondMoments.code();
        b.column(Column::Preconditioner, Cells::U8, 1).extend(rows.iter().map(|_| code));
        self.rows_beside(b, BlockKind::Probes, rows);
    }

    /// A layer's learning rate divided by that of the step, from a step on.
    pub fn layer_rate(&mut self, step: u64, layer: u32, factor: f32) {
        let mut b = BlockBuilder::new(BlockKind::LayerRates);
        b.u64s(Column::Step, [step]);
        b.u32s(Column::Layer, [layer]);
        b.f32s(Column::RateFactor, [factor]);
        b.advance(1, step, 0);
        self.append(b);
    }

    /// One block of swept examples, in evaluation mode.
    pub fn sweeps(&mut self, rows: &[Visit]) {
        self.rows(BlockKind::Sweeps, rows);
    }

    /// One block that names a probe set.
    pub fn set(&mut self, number: u32, name: &str) {
        let mut b = BlockBuilder::new(BlockKind::ProbeSet);
        b.u32s(Column::ProbeSet, [number]);
        b.column(Column::Name, Cells::U8, name.len() as u32).extend(name.as_bytes());
        b.advance(1, 0, 0);
        self.append(b);
    }

    /// One block of steps: number, epoch, learning rate, milliseconds of the clock.
    pub fn steps(&mut self, steps: &[(u64, u32, f32, u64)]) {
        let mut b = BlockBuilder::new(BlockKind::Steps);
        b.u64s(Column::Step, steps.iter().map(|s| s.0));
        b.u32s(Column::Epoch, steps.iter().map(|s| s.1));
        b.f32s(Column::LearningRate, steps.iter().map(|s| s.2));
        b.u64s(Column::WallClock, steps.iter().map(|s| s.3));
        for step in steps {
            b.advance(1, step.0, step.1);
        }
        self.append(b);
    }

    /// Optimizer steps: number, learning rate, momentum, weight decay.
    pub fn optimizer(&mut self, steps: &[(u64, f32, f32, f32)]) {
        self.optimizer_counted(steps, None, &[]);
    }

    /// The same, with the rule of the steps, and with the optimizer's count of its steps if there are any counts.
    pub fn optimizer_counted(&mut self, steps: &[(u64, f32, f32, f32)], rule: Option<UpdateRule>, counts: &[u64]) {
        let mut b = BlockBuilder::new(BlockKind::Steps);
        b.u64s(Column::Step, steps.iter().map(|s| s.0));
        b.u32s(Column::Epoch, steps.iter().map(|_| 0));
        b.f32s(Column::LearningRate, steps.iter().map(|s| s.1));
        b.f32s(Column::Momentum, steps.iter().map(|s| s.2));
        b.f32s(Column::WeightDecay, steps.iter().map(|s| s.3));
        if let Some(rule) = rule {
            b.column(Column::UpdateRule, Cells::U8, 1).extend(steps.iter().map(|_| rule.code()));
        }
        if !counts.is_empty() {
            b.u64s(Column::StepsTaken, counts.iter().copied());
        }
        for step in steps {
            b.advance(1, step.0, 0);
        }
        self.append(b);
    }

    /// What Adam or AdamW did at some steps: step, learning rate, weight decay and count of its steps.
    pub fn adam(&mut self, steps: &[(u64, f32, f32, u64)], (beta1, beta2): (f32, f32), epsilon: f32, rule: UpdateRule) {
        let mut b = BlockBuilder::new(BlockKind::Steps);
        b.u64s(Column::Step, steps.iter().map(|s| s.0));
        b.u32s(Column::Epoch, steps.iter().map(|_| 0));
        b.f32s(Column::LearningRate, steps.iter().map(|s| s.1));
        b.f32s(Column::WeightDecay, steps.iter().map(|s| s.2));
        b.column(Column::UpdateRule, Cells::U8, 1).extend(steps.iter().map(|_| rule.code()));
        b.f32s(Column::Beta1, steps.iter().map(|_| beta1));
        b.f32s(Column::Beta2, steps.iter().map(|_| beta2));
        b.f32s(Column::Epsilon, steps.iter().map(|_| epsilon));
        b.u64s(Column::StepsTaken, steps.iter().map(|s| s.3));
        steps.iter().for_each(|step| b.advance(1, step.0, 0));
        self.append(b);
    }

    /// A checkpoint before a step, of which the log has the size and the checksum. No file is written.
    pub fn checkpoint(&mut self, step: u64, epoch: u32) {
        let mut b = BlockBuilder::new(BlockKind::Checkpoints);
        b.u64s(Column::Step, [step]);
        b.u32s(Column::Epoch, [epoch]);
        b.f32s(Column::LearningRate, [0.1]);
        b.u64s(Column::Bytes, [64]);
        b.u32s(Column::Checksum, [1]);
        b.advance(1, step, epoch);
        self.append(b);
    }

    /// A check of the gradients of four examples, with its findings and its text.
    pub fn check(&mut self, step: u64, findings: &[FindingKind], text: &str) {
        let mut b = BlockBuilder::new(BlockKind::Checks);
        b.u64s(Column::Step, [step]);
        b.u32s(Column::Epoch, [0]);
        b.u32s(Column::Checked, [4]);
        b.u32s(Column::Findings, [findings.iter().fold(0, |bits, kind| bits | kind.bit())]);
        b.column(Column::Text, Cells::U8, text.len() as u32).extend(text.bytes());
        b.advance(1, step, 0);
        self.append(b);
    }

    /// An event about the gradient of an example: step, kind, example, layer and norm. The percentile is 1.
    pub fn event(&mut self, (step, kind): (u64, EventKind), example: u64, layer: u32, value: f32) {
        let mut b = BlockBuilder::new(BlockKind::Events);
        b.u64s(Column::Step, [step]);
        b.u32s(Column::Epoch, [0]);
        b.column(Column::EventKind, Cells::U8, 1).push(kind.code());
        b.column(Column::EventAction, Cells::U8, 1).push(0);
        b.u64s(Column::Example, [example]);
        b.u32s(Column::Layer, [layer]);
        b.f32s(Column::Value, [value]);
        b.f32s(Column::Limit, [10.0]);
        b.f32s(Column::Reference, [1.0]);
        b.u64s(Column::Count, [1]);
        b.advance(1, step, 0);
        self.append(b);
    }

    /// Cards of one kind: number of the probe set, `None` for training examples, and for each example its bytes. Of
    /// pictures, the pixels in a row.
    pub fn cards(&mut self, set: Option<u32>, kind: CardKind, width: u32, cards: &[(u64, &[u8])]) {
        let mut b = BlockBuilder::new(BlockKind::Cards);
        let room = cards.iter().map(|(_, bytes)| bytes.len()).max().unwrap_or(1).max(1);
        for (example, bytes) in cards {
            b.u64s(Column::Example, [*example]);
            if let Some(set) = set {
                b.u32s(Column::ProbeSet, [set]);
            }
            b.column(Column::CardKind, Cells::U8, 1).push(kind.code());
            b.u32s(Column::PictureWidth, [width]);
            b.u32s(Column::CardBytes, [bytes.len() as u32]);
            b.u64s(Column::Count, [1]);
            let data = b.column(Column::CardData, Cells::U8, room as u32);
            data.extend(*bytes);
            data.extend(std::iter::repeat_n(0u8, room - bytes.len()));
            b.advance(1, 0, 0);
        }
        self.append(b);
    }

    /// One gap of `count` visits.
    pub fn dropped(&mut self, count: u64) {
        let mut b = BlockBuilder::new(BlockKind::Gaps);
        b.u64s(Column::Step, [0]);
        b.u32s(Column::Epoch, [0]);
        b.u64s(Column::Dropped, [count]);
        b.advance(1, 0, 0);
        self.append(b);
    }

    /// The End block.
    pub fn end(&mut self) {
        let mut b = BlockBuilder::new(BlockKind::End);
        b.u64s(Column::Visits, [0]);
        b.u64s(Column::Dropped, [0]);
        b.advance(1, 0, 0);
        self.append(b);
    }

    /// Closes the files.
    pub fn finish(mut self) -> Written {
        self.writer.finish().unwrap();
        Written { dir: self.dir, offsets: self.offsets }
    }
}

/// A run that is on disk.
#[derive(Debug)]
pub struct Written {
    dir: Arc<TempDir>,
    /// Where each block begins in the first segment.
    pub offsets: Vec<u64>,
}

/// An open run whose folder lives as long as it does.
#[derive(Debug)]
pub struct Opened {
    run: Run,
    _dir: Arc<TempDir>,
}

impl std::ops::Deref for Opened {
    type Target = Run;

    fn deref(&self) -> &Run {
        &self.run
    }
}

impl Written {
    /// The folder of the run.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Opens the run.
    pub fn run(&self) -> Opened {
        Opened { run: Run::open(self.path()).unwrap(), _dir: self.dir.clone() }
    }

    /// Writes the same run into `dir` with a segment for each block.
    pub fn split(&self, dir: &Path) {
        std::fs::copy(self.path().join("manifest"), dir.join("manifest")).unwrap();
        let run_id = self.run().manifest().run_id;
        let bytes = std::fs::read(segment_path(self.path(), 0)).unwrap();
        let ends = self.offsets[1..].iter().copied().chain([bytes.len() as u64]);
        for (index, (start, end)) in (0u32..).zip(self.offsets.iter().zip(ends)) {
            let header = SegmentHeader { run_id, index, resumed_step: None };
            let segment = [&header.to_bytes()[..], &bytes[*start as usize..end as usize]].concat();
            std::fs::write(segment_path(dir, index), segment).unwrap();
        }
    }

    /// Flips a bit at a distance from the beginning of a block.
    pub fn damage(&self, block: usize, distance: u64) {
        let path: PathBuf = self.path().join("segment-00000.glog");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[(self.offsets[block] + distance) as usize] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
}

/// Visits in blocks of `rows` rows, without probes.
pub fn run_of(visits: &[Visit], rows: usize) -> Written {
    let mut run = Synthetic::new(Encoding::F32);
    for block in visits.chunks(rows.max(1)) {
        run.visits(block);
    }
    run.end();
    run.finish()
}
