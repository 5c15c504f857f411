//! Runs for the tests, and what is read of one.

use crate::server::Server;
use gradlog_analysis::{InfluenceQuestion, Score, ScoreQuestion, SummaryQuestion, SuspectQuestion};
use gradlog_format::log::{
    checkpoint_path, BlockBuilder, BlockKind, Cells, Column, ColumnKey, LogWriter, WriterOptions,
};
use gradlog_format::run::{Origin, ReadError, Run};
use gradlog_format::sketch::Encoding;
use gradlog_store::{open_run, Options, StoreError, Sync, SyncReport};
use gradlog_testing::*;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// A server with an empty bucket, and the folder it is in.
pub struct Bucket {
    pub server: Server,
    folder: TempDir,
}

impl Bucket {
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("bucket")).unwrap();
        Self { server: Server::start(folder.path()), folder }
    }

    /// The file that holds an object.
    pub fn file(&self, key: &str) -> PathBuf {
        self.folder.path().join("bucket").join(key)
    }

    /// Puts the files of a folder there, without the server.
    pub fn put(&self, from: &Path, prefix: &str) {
        let to = self.file(prefix);
        std::fs::create_dir_all(&to).unwrap();
        for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => self.put(&entry.path(), &format!("{prefix}/{name}")),
                false if name == "lock" => {}
                false => std::fs::copy(entry.path(), to.join(name)).map(|_| ()).unwrap(),
            }
        }
    }

    /// Bounds that make a failure show after a few seconds.
    pub fn options(&self) -> Options {
        let mut options = Options::default();
        options.connect_timeout = Duration::from_secs(2);
        options.request_timeout = Duration::from_millis(1500);
        options.retries = 2;
        options.give_up_after = Duration::from_secs(10);
        options.settings = self.server.settings();
        options
    }

    /// As [`Bucket::options`], for long files on a busy machine.
    pub fn patient_options(&self) -> Options {
        let mut options = self.options();
        (options.request_timeout, options.give_up_after) = (Duration::from_secs(30), Duration::from_secs(60));
        options
    }

    pub fn open(&self, prefix: &str) -> Result<Run, StoreError> {
        open_run(format!("s3://bucket/{prefix}"), self.patient_options())
    }

    /// As [`Bucket::open`], with bounds that make a failure show soon.
    pub fn open_hastily(&self, prefix: &str) -> Result<Run, StoreError> {
        open_run(format!("s3://bucket/{prefix}"), self.options())
    }

    pub fn sync(&self, run: &Path, prefix: &str) -> Result<SyncReport, StoreError> {
        Sync::new(run, format!("s3://bucket/{prefix}")).options(self.patient_options()).run(|_| {})
    }
}

/// A run with everything that questions need, in a segment for each block: two epochs, probes, steps, a checkpoint.
pub fn small_run(worker: Option<(u32, u32)>, dir: Arc<TempDir>) -> Written {
    let mut draws = Draws(7 + worker.map_or(0, |(rank, _)| u64::from(rank)));
    let mut run = Synthetic::part(dir, worker, Encoding::Q8);
    run.set(0, "test");
    let visits = visits(&mut draws, 40, 4, 8);
    let steps: Vec<(u64, u32, f32, u64)> =
        (0..=visits.last().unwrap().step).map(|step| (step, step as u32 / 5, 0.1, 10 * step)).collect();
    for (number, block) in visits.chunks(41).enumerate() {
        let probes: Vec<Visit> = (0..3).map(|id| draws.visit(id, block[0].step, block[0].epoch)).collect();
        run.probes(&probes);
        run.visits(block);
        if number == 1 {
            run.checkpoint(block[40].step, block[40].epoch);
        }
    }
    run.steps(&steps);
    run.end();
    run.finish()
}

/// A run in a folder of its own, in a segment for each block, with the file of its checkpoint.
pub fn segmented_run() -> TempDir {
    let dir = TempDir::new().unwrap();
    let whole = small_run(None, Arc::new(TempDir::new().unwrap()));
    whole.split(dir.path());
    // The log says what the file should be; this one is something else, which both readings report alike.
    std::fs::create_dir(dir.path().join("checkpoints")).unwrap();
    for checkpoint in whole.run().checkpoints().unwrap() {
        std::fs::write(checkpoint_path(dir.path(), checkpoint.step), b"weights").unwrap();
    }
    dir
}

/// A run of some 20 MB with folded gradients, in segments of 8 MB.
pub fn large_run() -> TempDir {
    write_run(10, 8 << 20)
}

/// A run of `blocks` blocks of 4,000 visits and some 2 MB, and one of probes, with folded gradients.
pub fn write_run(blocks: u64, segment_bytes: u64) -> TempDir {
    let dir = TempDir::new().unwrap();
    let small = small_run(None, Arc::new(TempDir::new().unwrap()));
    let manifest = small.run().manifest().clone();
    let mut writer = LogWriter::create(dir.path(), &manifest, WriterOptions { segment_bytes, zstd_level: 1 }).unwrap();
    let mut draws = Draws(3);
    let mut set = BlockBuilder::new(BlockKind::ProbeSet);
    set.u32s(Column::ProbeSet, [0]);
    set.column(Column::Name, Cells::U8, 4).extend(b"test");
    set.advance(1, 0, 0);
    writer.append(&mut set).unwrap();
    let mut probes = rows_of(BlockKind::Probes, 8, 0, &mut draws);
    probes.u32s(Column::ProbeSet, [0; 8]);
    writer.append(&mut probes).unwrap();
    for block in 0..blocks {
        writer.append(&mut rows_of(BlockKind::Visits, 4000, block, &mut draws)).unwrap();
    }
    writer.append_end().unwrap();
    writer.finish().unwrap();
    dir
}

fn rows_of(kind: BlockKind, rows: u64, block: u64, draws: &mut Draws) -> BlockBuilder {
    let mut b = BlockBuilder::new(kind);
    b.u64s(Column::Example, (0..rows).map(|row| row * 31 % 997));
    b.u64s(Column::Step, (0..rows).map(|row| block * 100 + row / 40));
    b.u32s(Column::Epoch, (0..rows).map(|_| block as u32));
    for column in [Column::Loss, Column::Margin, Column::Confidence, Column::SquaredNorm] {
        b.f32s(column, (0..rows).map(|_| draws.number().abs()));
    }
    for column in [Column::Coefficient, Column::LearningRate] {
        b.f32s(column, (0..rows).map(|_| 0.025));
    }
    let vectors = b.column(Column::Folded, Cells::Vector(Encoding::Q8), 512);
    vectors.extend((0..rows * 64).flat_map(|_| draws.bits().to_le_bytes()));
    b.column(Column::FoldedScale, Cells::Bf16, 1).extend((0..rows).flat_map(|_| [0x80u8, 0x3f]));
    (0..rows).for_each(|row| b.advance(1, block * 100 + row / 40, block as u32));
    b
}

/// Every cell of every block, and the answers to the common questions, with the run's address taken out of the words.
pub fn everything(run: &Run) -> Result<String, String> {
    let without_place = |text: String| text.replace(&run.dir().display().to_string(), "RUN");
    let read = || -> Result<String, String> {
        let mut text = cells(run).map_err(|error| error.to_string())?;
        let words = |error: &dyn std::error::Error| error.to_string();
        let _ = writeln!(text, "{:?}", run.verify().map_err(|error| words(&error))?);
        let _ = writeln!(text, "{:?}", run.survey().map_err(|error| words(&error))?);
        let _ = writeln!(text, "{:?}", SummaryQuestion::new().compute(run).map_err(|error| words(&error)));
        for score in Score::ALL {
            let _ = writeln!(text, "{:?}", ScoreQuestion::new(score).compute(run).map_err(|error| words(&error)));
        }
        let _ = writeln!(text, "{:?}", SuspectQuestion::new().compute(run).map_err(|error| words(&error)));
        let influence = InfluenceQuestion::new("test").sketch_errors().compute(run);
        let _ = writeln!(text, "{:?}", influence.map_err(|error| words(&error)));
        // An answer that says nothing of a refusal is none.
        match run.place().refusal() {
            Some(error) => Err(error.to_string()),
            None => Ok(text),
        }
    };
    read().map(without_place).map_err(without_place)
}

/// Every cell of every block that a scan yields, and where it ends.
pub fn cells(run: &Run) -> Result<String, ReadError> {
    let mut text = String::new();
    let mut scan = run.scan();
    for block in scan.by_ref() {
        let _ = write!(text, "{:?} {} {}", block.kind(), block.sequence(), block.rows());
        for size in block.sizes() {
            let Some(column) = Column::from_code(size.column) else { continue };
            let key = ColumnKey { column, layer: size.layer };
            // One of these is the column's type. The others say that they are not.
            let (bytes, words, longs) = (block.u8s(key), block.u32s(key), block.u64s(key));
            let (floats, vectors) = (block.f32s(key), block.vectors(key, Origin::Rotated));
            for refused in [bytes.as_ref().err(), floats.as_ref().err(), vectors.as_ref().err()].into_iter().flatten() {
                if let ReadError::Io { path, error } = refused {
                    let error = std::io::Error::new(error.kind(), error.to_string());
                    return Err(ReadError::Io { path: path.clone(), error });
                }
            }
            let _ = write!(text, " {size:?}");
            let values = [format!("{bytes:?}"), format!("{words:?}"), format!("{longs:?}"), format!("{floats:?}")];
            values.into_iter().chain([format!("{vectors:?}")]).for_each(|value| text.push_str(&value));
        }
        text.push('\n');
    }
    let _ = writeln!(text, "{:?}", scan.damage()?);
    Ok(text.replace(&run.dir().display().to_string(), "RUN"))
}
