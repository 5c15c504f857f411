//! What the fuzz targets share: a folder in memory, checksums that match, and a reading of everything in a run.

pub mod analyses;

use gradlog_analysis::{Score, ScoreQuestion, SummaryQuestion};
use gradlog_format::log::{BlockKind, Column, ColumnKey, NO_LAYER};
use gradlog_format::run::{Block, Origin, ReadError, RecoverError, Run, VerifyReport};
use std::path::{Path, PathBuf};

/// The manifest under which the target `segment` reads: that of the fixture.
pub const MANIFEST: &[u8] = include_bytes!("../../tests/data/v1/manifest");

/// An empty folder of this process, in memory where the system has such a place.
pub fn folder(name: &str) -> PathBuf {
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let dir = base.join(format!("gradlog-fuzz-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("a folder to work in");
    dir
}

pub fn put(dir: &Path, name: &str, bytes: &[u8]) {
    std::fs::write(dir.join(name), bytes).expect("room to work in");
}

/// What a run's folder, or a worker's, may hold.
const FILES: [&str; 8] = [
    "manifest",
    "segment-00000.glog",
    "segment-00001.glog",
    "segment-00002.glog",
    "segment-00003.glog",
    "segment-00007.glog",
    "lock",
    "manifest.new",
];

/// The run's own folder and those of workers.
const PARTS: [&str; 4] = ["", "worker-0000", "worker-0001", "worker-0002"];

/// Makes the folder `dir` of files. Each is a byte for its name and folder, two bytes for its length, and its bytes.
pub fn unpack(input: &[u8], dir: &Path) {
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir(dir).expect("a folder to work in");
    let mut rest = input;
    while let [name, low, high, after @ ..] = rest {
        let (file, after) = after.split_at(after.len().min(usize::from(u16::from_le_bytes([*low, *high]))));
        rest = after;
        let mut bytes = file.to_vec();
        // The upper half of names: checksums are made to match.
        let (part, sealed) = (dir.join(PARTS[usize::from(name / 8 % 4)]), *name >= 128);
        let name = FILES[usize::from(name % 8)];
        match name {
            "manifest" if sealed && bytes.len() >= 20 => bytes = sealed_manifest(&bytes[20..]),
            _ if sealed => seal_segment(&mut bytes),
            _ => {}
        }
        std::fs::create_dir_all(&part).expect("a folder to work in");
        put(&part, name, &bytes);
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn seal(bytes: &mut [u8], from: usize, to: usize, at: usize) {
    if let Some(crc) = bytes.get(from..to).map(crc32fast::hash) {
        if let Some(place) = bytes.get_mut(at..at + 4) {
            place.copy_from_slice(&crc.to_le_bytes());
        }
    }
}

/// A manifest file around `payload`, with a length and a checksum that match.
pub fn sealed_manifest(payload: &[u8]) -> Vec<u8> {
    let mut bytes = MANIFEST[..12].to_vec();
    bytes.extend((payload.len() as u32).to_le_bytes());
    let crc = crc32fast::hash(&[&bytes, payload].concat());
    bytes.extend(crc.to_le_bytes());
    bytes.extend(payload);
    bytes
}

/// Makes the checksums of a segment match what is there, as far as its fields stay inside it. A fuzzer does not find
/// checksums by itself, and is to test what they guard.
pub fn seal_segment(bytes: &mut [u8]) {
    seal(bytes, 0, 60, 60);
    let mut at = 64;
    while bytes.get(at..at + 64).is_some_and(|header| header[..4] == *b"GBLK") {
        let columns = usize::from(u16::from_le_bytes([bytes[at + 6], bytes[at + 7]]));
        let mut frame = at + 64 + 24 * columns;
        for entry in (0..columns).map(|column| at + 64 + 24 * column) {
            let Some(stored) = u32_at(bytes, entry + 12) else { break };
            let end = frame.saturating_add(stored as usize);
            seal(bytes, frame, end, entry + 20);
            frame = end;
        }
        seal(bytes, at + 64, at + 64 + 24 * columns, at + 56);
        seal(bytes, at, at + 60, at + 60);
        let length = u32_at(bytes, at + 16).unwrap_or(0) as usize;
        at = match length {
            64.. => at.saturating_add(length),
            _ => return,
        };
    }
}

/// The header of segment 0 of the run of [`MANIFEST`].
pub fn segment_header() -> Vec<u8> {
    let mut bytes = MANIFEST[..8].to_vec();
    bytes.extend([1, 0, 2, 0]);
    bytes.extend(0u32.to_le_bytes());
    bytes.extend(&MANIFEST[20..36]);
    bytes.resize(64, 0);
    bytes
}

/// Asks a block for every column as every type.
fn read_block(block: &Block) {
    let _ = block.check();
    for size in block.sizes() {
        let Some(column) = Column::from_code(size.column) else { continue };
        let key = ColumnKey { column, layer: size.layer };
        assert!(block.has(key) && block.width(key).is_some());
        for length in [
            block.u8s(key).map(|all| all.len()),
            block.u32s(key).map(|all| all.len()),
            block.u64s(key).map(|all| all.len()),
            block.f32s(key).map(|all| all.len()),
        ] {
            let length = length.unwrap_or(block.rows());
            assert!(length == block.rows() || column.is_wide(), "{column:?}: {length} for {} rows", block.rows());
        }
        for origin in [Origin::Whole, Origin::Rotated, Origin::Projected { seed: 1, inputs: 5_000 }] {
            let Ok(vectors) = block.vectors(key, origin) else { continue };
            let mut numbers = vec![0.0; vectors.width()];
            for row in 0..vectors.rows() {
                vectors.decode(row, &mut numbers);
            }
        }
    }
}

/// What a reader found. `None` for a run of a newer version, which is refused and not called damaged.
///
/// # Panics
/// For any other error: damage is a finding, and no error.
fn unless_newer<T>(found: Result<T, ReadError>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(ReadError::Newer(_)) => None,
        Err(error) => panic!("damage is no error: {error:?}"),
    }
}

/// Reads everything in every way.
pub fn read(run: &Run) {
    let mut scan = run.scan();
    let (mut blocks, mut last) = (0, None);
    for block in scan.by_ref() {
        assert!(last < Some(block.sequence()), "blocks come in their order");
        last = Some(block.sequence());
        blocks += 1;
        read_block(&block);
    }
    let Some(damage) = unless_newer(scan.damage()) else { return };
    let damaged = damage.is_some();
    let Some(report) = unless_newer(run.verify()) else { return };
    // A scan leaves out blocks that a resumption superseded as a whole.
    let counted = report.blocks <= blocks || report.superseded > 0;
    assert!(counted && (!damaged || report.damage.is_some()), "{} of {blocks}", report.blocks);
    let Some(survey) = unless_newer(run.survey()) else { return };
    let saved = survey.before.blocks + survey.behind.blocks;
    assert!(saved >= sure(run, &report).0, "recovery sees less than a scan");
    let _ = run.probe_sets();
    // A file that a hostile log names is not there, or not what it says; neither is a reason to fail.
    for checkpoint in run.checkpoints().unwrap_or_default() {
        let _ = checkpoint.check();
    }
    let _ = SummaryQuestion::new().compute(run);
    // One score for each input, for speed.
    let question = ScoreQuestion::new(Score::ALL[survey.bytes as usize / 8 % Score::ALL.len()]);
    let _ = question.compute(run);
    let _ = question.sweeps().compute(run);
    let _ = (run.manifest().coverage(), run.manifest().recorded_parameters(), NO_LAYER);
}

/// How many of the blocks that a scan reads a recovery must save, and how many visits are in them.
///
/// A run may have been resumed in a segment that only a recovery sees, or whose header is damaged. Then nothing but its
/// steps says which rows of a block are superseded. So a recovery may leave out a block without steps.
fn sure(run: &Run, report: &VerifyReport) -> (u64, u64) {
    let has_no_steps = |block: &Block| {
        let kinds = [
            BlockKind::Visits,
            BlockKind::Steps,
            BlockKind::Probes,
            BlockKind::Gaps,
            BlockKind::Sweeps,
            BlockKind::Checkpoints,
            BlockKind::Checks,
            BlockKind::LayerRates,
            BlockKind::Events,
            BlockKind::Cards,
        ];
        !block.kind().is_some_and(|kind| kinds.contains(&kind))
    };
    let mut sure = (0, 0);
    for block in run.scan().take(report.blocks as usize) {
        if has_no_steps(&block) || block.u64s(Column::Step).is_ok() {
            sure.0 += 1;
            sure.1 += if block.kind() == Some(BlockKind::Visits) { block.rows() as u64 } else { 0 };
        }
    }
    sure
}

/// Recovers the run and holds the result to its promise.
pub fn recover(run: &Run, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    let Some(before) = unless_newer(run.verify()) else {
        let _ = (run.recover(to), std::fs::remove_dir_all(to));
        return;
    };
    match run.recover(to) {
        Ok(report) => {
            let after = Run::open(to).expect("a recovered run opens").verify().expect("and reads");
            assert!(after.damage.is_none(), "{after:?}");
            let sure = sure(run, &before).1;
            assert!(after.visits + after.superseded >= sure, "{before:?} {after:?}");
            assert!(report.survey.is_whole() || report.survey.lost.iter().any(|lost| !lost.is_nothing()));
        }
        Err(error @ RecoverError::Unsound { .. }) => panic!("{error}"),
        Err(_) => {}
    }
    let _ = std::fs::remove_dir_all(to);
}
