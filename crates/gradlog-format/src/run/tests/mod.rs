//! What the log does with bytes that are not as they were written, and with a disk that fails (FORMAT.md, "Recovery").
//!
//! Here is what all of these tests share: a small run with every kind of block, and a reading of everything in a run.
//! One file per kind of harm.

mod allocations;
mod cards;
mod checks;
mod damage;
mod edges;
mod events;
mod extensions;
mod faults;
mod fixture;
mod forge;
mod gap_columns;
mod growing;
mod hostile;
mod last_words;
mod places;
mod plane_columns;
mod power;
mod rans_columns;
mod recovery;
#[cfg(unix)]
mod refused_parts;
mod replayed;
mod resealed;
mod roundtrip;
mod seeds;
mod several_workers;
mod spec;
#[cfg(unix)]
mod system;
mod unknown;

use super::{Block, Damage, Origin, ReadError, Run, VerifyReport};
use crate::log::{
    BlockBuilder, BlockKind, Cells, Column, ColumnKey, LayerRecord, LogError, LogWriter, Manifest, MmapStorage,
    VariableRecord, WriterOptions,
};
use crate::sketch::{derive_seed, Encoding, Side, SketchConfig};
use std::path::Path;

thread_local! {
    /// What happens to the files the next time that a scan is about to look again.
    static BETWEEN_LOOKS: std::cell::RefCell<Option<Box<dyn FnOnce()>>> = const { std::cell::RefCell::new(None) };
}

/// Called by a scan that is about to look again at what may be half written.
pub(super) fn between_looks() {
    if let Some(happen) = BETWEEN_LOOKS.take() {
        happen();
    }
}

/// Number `index` of a stream of arbitrary but fixed numbers.
fn number(stream: u64, index: u32) -> u64 {
    derive_seed(stream, index, Side::Input)
}

/// An arbitrary float in -1..1.
fn float(stream: u64, index: u32) -> f32 {
    (number(stream, index) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

fn manifest() -> Manifest {
    let layer = |name: &str, number: u32| LayerRecord {
        name: name.into(),
        kind: "linear".into(),
        inputs: 5,
        outputs: 3,
        bias: true,
        parameters: 18,
        shapes: vec![("weight".into(), vec![3, 5]), ("bias".into(), vec![3])],
        seed_input: derive_seed(7, number, Side::Input),
        seed_delta: derive_seed(7, number, Side::Delta),
        seed_folded: derive_seed(7, number, Side::Folded),
    };
    Manifest {
        run_id: *b"a run of a test!",
        created_ms: 1_700_000_000_000,
        version: "0.1.0".into(),
        seed: 7,
        sketch: SketchConfig {
            input_cap: 512,
            delta_cap: 512,
            projected: 512,
            folded_min: 512,
            folded_max: 512,
            encoding: Encoding::Q4,
            projected_encoding: Encoding::Q4,
        },
        layers: vec![layer("fc1", 0), layer("fc2", 1)],
        untapped: vec![VariableRecord { name: "scale".into(), shape: vec![] }],
        model_parameters: Some(37),
        notes: vec![("host".into(), "ü".into())],
        worker: None,
        extensions: Vec::new(),
    }
}

/// Appends `rows` vectors of `width` numbers, and their scales, to the two columns of `layer`.
fn vectors(builder: &mut BlockBuilder, columns: (ColumnKey, ColumnKey), encoding: Encoding, width: u32, stream: u64) {
    let values: Vec<f32> = (0..width).map(|i| float(stream, i)).collect();
    let values_column = builder.column(columns.0, Cells::Vector(encoding), width);
    let scale = encoding.encode(&values, values_column).scale;
    builder.column(columns.1, Cells::Bf16, 1).extend(scale.to_le_bytes());
}

/// How many blocks the sample run has.
const SAMPLE_BLOCKS: u64 = 8;

/// Block `index` of the sample run: a probe set, visits, a step, visits of other columns, probes, a gap, more visits,
/// the end.
fn sample_block(index: u64) -> BlockBuilder {
    let kinds = [
        BlockKind::ProbeSet,
        BlockKind::Visits,
        BlockKind::Steps,
        BlockKind::Visits,
        BlockKind::Probes,
        BlockKind::Gaps,
        BlockKind::Visits,
        BlockKind::End,
    ];
    let kind = kinds[index as usize];
    let mut builder = BlockBuilder::new(kind);
    let rows = match kind {
        BlockKind::Visits => 4 + index as u32,
        BlockKind::Probes => 3,
        _ => 1,
    };
    for row in 0..rows {
        let stream = index << 32 | u64::from(row);
        match kind {
            BlockKind::Visits | BlockKind::Probes => {
                // Columns with few different numbers, so that some are stored compressed, beside such as do not
                // compress.
                builder.u64s(Column::Example, [number(stream, 0)]);
                builder.u64s(Column::Step, [index]);
                builder.u32s(Column::Epoch, [index as u32 / 2]);
                builder.u32s(Column::Label, [row % 2]);
                builder.f32s(Column::Loss, [float(stream, 1)]);
                builder.column(Column::Flags, Cells::U8, 1).push(row as u8);
                if kind == BlockKind::Probes {
                    builder.u32s(Column::ProbeSet, [0]);
                }
                let of = |column| ColumnKey { column, layer: 1 };
                let (input, delta) =
                    ((of(Column::Input), of(Column::InputScale)), (of(Column::Delta), of(Column::DeltaScale)));
                let folded = (Column::Folded.into(), Column::FoldedScale.into());
                if index != 3 {
                    vectors(&mut builder, input, Encoding::Q4, 5, stream + 2);
                    vectors(&mut builder, delta, Encoding::Q8, 3, stream + 3);
                } else {
                    vectors(&mut builder, input, Encoding::F32, 2, stream + 2);
                    vectors(&mut builder, delta, Encoding::F16, 3, stream + 3);
                    vectors(&mut builder, folded, Encoding::F16, 4, stream + 4);
                }
            }
            BlockKind::Steps => {
                builder.u64s(Column::Step, [index]);
                builder.u32s(Column::Epoch, [index as u32 / 2]);
                builder.f32s(Column::LearningRate, [0.1]);
            }
            BlockKind::Gaps => {
                builder.u64s(Column::Step, [index]);
                builder.u32s(Column::Epoch, [index as u32 / 2]);
                builder.u64s(Column::Dropped, [9]);
            }
            BlockKind::ProbeSet => {
                builder.u32s(Column::ProbeSet, [0]);
                builder.column(Column::Name, Cells::U8, 4).extend(b"test");
            }
            _ => {
                builder.u64s(Column::Visits, [22]);
                builder.u64s(Column::Dropped, [9]);
            }
        }
        builder.advance(1, index, index as u32 / 2);
    }
    builder
}

/// Segments so short that the sample run needs several.
fn options() -> WriterOptions {
    WriterOptions { segment_bytes: 900, zstd_level: 3 }
}

/// Writes the blocks `0..blocks` of the sample run into `dir`; the writer is returned unfinished.
fn write_sample(dir: &Path, blocks: u64) -> Result<LogWriter, LogError> {
    let mut writer = LogWriter::create_on(Box::new(MmapStorage::default()), dir, &manifest(), options())?;
    for index in 0..blocks {
        writer.append(&mut sample_block(index))?;
    }
    Ok(writer)
}

/// Every number of a column.
#[derive(Debug, Clone, PartialEq)]
enum Values {
    Bytes(Vec<u8>),
    U32(Vec<u32>),
    U64(Vec<u64>),
    F32(Vec<f32>),
    /// The stored bytes and the scale's bits of each row.
    Vectors(Encoding, usize, Vec<(Vec<u8>, u16)>),
}

/// Everything a block says, read through the public readers.
#[derive(Debug, Clone, PartialEq)]
struct Contents {
    kind: Option<BlockKind>,
    rows: usize,
    steps: (u64, u64),
    epochs: (u32, u32),
    columns: Vec<(ColumnKey, Values)>,
}

fn contents(block: &Block) -> Result<Contents, ReadError> {
    block.check()?;
    let mut columns = Vec::new();
    for entry in block.directory.entries() {
        let Some(column) = Column::from_code(entry.column) else { continue };
        let key = ColumnKey { column, layer: entry.layer };
        let values = match entry.cells() {
            Some(Cells::U8) => Values::Bytes(block.u8s(key)?),
            Some(Cells::U32) => Values::U32(block.u32s(key)?),
            Some(Cells::U64) => Values::U64(block.u64s(key)?),
            Some(Cells::F32) => Values::F32(block.f32s(key)?),
            Some(Cells::Vector(_)) => {
                let vectors = block.vectors(key, Origin::Whole)?;
                let mut numbers = vec![0.0; vectors.width()];
                let row = |row| {
                    vectors.decode(row, &mut numbers);
                    let (codes, scale) = vectors.row(row);
                    (codes.to_vec(), scale.to_bits())
                };
                Values::Vectors(vectors.encoding(), vectors.width(), (0..vectors.rows()).map(row).collect())
            }
            // Scales come with their vectors; numbers of an unknown type are nobody's to read.
            Some(Cells::Bf16) | None => continue,
        };
        columns.push((key, values));
    }
    let (kind, rows, steps, epochs) = (block.kind(), block.rows(), block.steps(), block.epochs());
    Ok(Contents { kind, rows, steps, epochs, columns })
}

/// All that can be read of a run.
#[derive(Debug)]
struct Reading {
    blocks: Vec<Contents>,
    /// What stopped the reading of columns, if it was that.
    error: Option<ReadError>,
    /// What stopped the scan, if it was that.
    damage: Option<Damage>,
    report: VerifyReport,
    probe_sets: Result<Vec<String>, ReadError>,
}

impl Reading {
    /// Whether the reader says that something is wrong or missing.
    fn complains(&self) -> bool {
        self.error.is_some() || self.damage.is_some() || self.report.damage.is_some()
    }
}

/// Reads everything in every way; an `Err` if the run does not open.
fn read(dir: &Path) -> Result<Reading, ReadError> {
    let run = Run::open(dir)?;
    let mut scan = run.scan();
    let (mut blocks, mut error) = (Vec::new(), None);
    for block in scan.by_ref() {
        match contents(&block) {
            Ok(rows) => blocks.push(rows),
            Err(e) => {
                error = Some(e);
                break;
            }
        }
    }
    let report = run.verify()?;
    Ok(Reading { blocks, error, damage: scan.damage()?.cloned(), report, probe_sets: run.probe_sets() })
}

/// Says that `reading` holds nothing but a prefix of `written`, and that `verify` counted just that.
#[track_caller]
fn assert_prefix(reading: &Reading, written: &[Contents], what: &str) {
    let read = &reading.blocks;
    assert!(read.len() <= written.len() && read[..] == written[..read.len()], "{what}: not what was written");
    assert_eq!(reading.report.blocks, read.len() as u64, "{what}: verify and the readers disagree");
    let visits: usize = read.iter().filter(|b| b.kind == Some(BlockKind::Visits)).map(|b| b.rows).sum();
    assert_eq!(reading.report.visits, visits as u64, "{what}");
    if let Ok(names) = &reading.probe_sets {
        let expected = read.iter().filter(|b| b.kind == Some(BlockKind::ProbeSet)).count();
        assert!(names.len() >= expected && names.iter().all(|name| name == "test"), "{what}: {names:?}");
    }
}

/// The files of a run that hold what was recorded, by name.
fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.file_name().is_some_and(|name| name != "lock"));
    paths.sort();
    paths
}

/// Copies the files of a run, as they are at this instant.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for path in files(from) {
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}
