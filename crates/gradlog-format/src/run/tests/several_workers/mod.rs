//! Several workers' parts read as one run (FORMAT.md, "Several workers").

mod optimizer;
mod parts;

use super::*;
use crate::log::{worker_folder, AllReduce, ResumePlace, Totals, WorkerRecord};
use crate::run::Workers;
use std::fs::OpenOptions;

const WORKERS: u32 = 3;

fn record(rank: u32) -> WorkerRecord {
    WorkerRecord { rank, workers: WORKERS, reduction: AllReduce::Mean }
}

pub(super) fn part_manifest(rank: u32) -> Manifest {
    let mut run_id = *b"a part of a run!";
    run_id[0] = rank as u8;
    Manifest { run_id, created_ms: 1_700_000_000_000 + u64::from(rank), worker: Some(record(rank)), ..manifest() }
}

pub(super) fn writer(dir: &Path, manifest: &Manifest) -> LogWriter {
    let folder = worker_folder(dir, manifest.worker.unwrap().rank);
    LogWriter::create_on(Box::new(MmapStorage::default()), &folder, manifest, options()).unwrap()
}

/// Two visits a step; the example says who visited it when: rank, step and place.
pub(super) fn visits(rank: u32, steps: std::ops::Range<u64>) -> BlockBuilder {
    let mut block = BlockBuilder::new(BlockKind::Visits);
    for step in steps {
        block.u64s(Column::Example, (0..2).map(|i| u64::from(rank) * 1000 + 2 * step + i));
        block.u64s(Column::Step, [step; 2]);
        block.u32s(Column::Epoch, [step as u32 / 10; 2]);
        block.advance(2, step, step as u32 / 10);
    }
    block
}

pub(super) fn steps(rank: u32, steps: std::ops::Range<u64>) -> BlockBuilder {
    let mut block = BlockBuilder::new(BlockKind::Steps);
    for step in steps {
        block.u64s(Column::Step, [step]);
        block.u32s(Column::Epoch, [step as u32 / 10]);
        block.f32s(Column::LearningRate, [0.5 + rank as f32]);
        block.u32s(Column::BatchSize, [2 + rank]);
        block.u64s(Column::WallClock, [100 * step + u64::from(rank)]);
        block.advance(1, step, step as u32 / 10);
    }
    block
}

fn probes(set: u32, ids: &[u64], step: u64) -> BlockBuilder {
    let mut block = BlockBuilder::new(BlockKind::Probes);
    block.u64s(Column::Example, ids.iter().copied());
    block.u64s(Column::Step, ids.iter().map(|_| step));
    block.u32s(Column::Epoch, ids.iter().map(|_| 0));
    block.u32s(Column::ProbeSet, ids.iter().map(|_| set));
    block.advance(ids.len() as u32, step, 0);
    block
}

fn set(number: u32, name: &str) -> BlockBuilder {
    let mut block = BlockBuilder::new(BlockKind::ProbeSet);
    block.u32s(Column::ProbeSet, [number]);
    block.column(Column::Name, Cells::U8, name.len() as u32).extend(name.bytes());
    block.advance(1, 0, 0);
    block
}

fn end(visits: u64) -> BlockBuilder {
    let mut block = BlockBuilder::new(BlockKind::End);
    block.u64s(Column::Visits, [visits]);
    block.u64s(Column::Dropped, [1]);
    block.advance(1, 0, 0);
    block
}

/// Writes `count` steps as a recorder does, `size` of them to a block: rows of steps first, then visits.
pub(super) fn train(writer: &mut LogWriter, rank: u32, from: u64, count: u64, size: u64) {
    for start in (from..count).step_by(size as usize) {
        let range = start..count.min(start + size);
        writer.append(&mut steps(rank, range.clone())).unwrap();
        writer.append(&mut visits(rank, range)).unwrap();
    }
}

/// A run of three workers that have each recorded so many steps, in blocks of different lengths.
pub(super) fn run_of(counts: [u64; 3], finished: bool) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (rank, count) in (0..).zip(counts) {
        let mut writer = writer(dir.path(), &part_manifest(rank));
        train(&mut writer, rank, 0, count, 4 + 3 * u64::from(rank));
        if finished {
            writer.append(&mut end(2 * count)).unwrap();
        }
        writer.finish().unwrap();
    }
    dir
}

/// All rows of a kind: step and example, or step and batch size.
fn rows(run: &Run, kind: BlockKind) -> Vec<(u64, u64)> {
    let mut rows = Vec::new();
    for block in run.scan().filter(|block| block.kind() == Some(kind)) {
        let second = match kind {
            BlockKind::Steps => block.u32s(Column::BatchSize).unwrap().into_iter().map(u64::from).collect(),
            _ => block.u64s(Column::Example).unwrap(),
        };
        rows.extend(block.u64s(Column::Step).unwrap().into_iter().zip(second));
    }
    rows
}

/// Examples of the visits before step `limits[rank]` of each worker, in order.
fn expected(limits: [u64; 3]) -> Vec<u64> {
    let of = |rank: u64, limit: u64| (0..2 * limit).map(move |i| 1000 * rank + i);
    (0..).zip(limits).flat_map(|(rank, limit)| of(rank, limit)).collect()
}

fn visited(run: &Run) -> Vec<u64> {
    let mut examples: Vec<u64> = rows(run, BlockKind::Visits).into_iter().map(|(_, example)| example).collect();
    examples.sort_unstable();
    examples
}

#[test]
fn the_parts_of_three_workers_are_one_run() {
    let dir = run_of([30, 30, 30], true);
    let run = Run::open(dir.path()).unwrap();
    assert_eq!((run.parts().len(), run.manifest().worker, run.manifest().seed), (3, None, 7));
    assert_eq!(visited(&run), expected([30, 30, 30]));
    let firsts: Vec<(u64, Option<u32>)> = (run.scan().filter(|b| b.kind() == Some(BlockKind::Visits)))
        .map(|block| (block.steps().0, block.worker()))
        .collect();
    assert!(firsts.is_sorted() && firsts.len() == 8 + 5 + 3, "{firsts:?}");
    // One row a step, with the batches of all: 2 + 3 + 4 visits.
    assert_eq!(rows(&run, BlockKind::Steps), (0..30).map(|step| (step, 9)).collect::<Vec<_>>());
    for block in run.scan().filter(|block| block.kind() == Some(BlockKind::Steps)) {
        assert!(block.f32s(Column::LearningRate).unwrap().iter().all(|rate| *rate == 0.5), "that of rank 0");
        assert!(block.u64s(Column::WallClock).unwrap().iter().all(|clock| clock % 100 == 0), "that of rank 0");
        let own = block.u64s(Column::Step).unwrap().into_iter().map(|step| step as u32 / 10);
        assert_eq!(block.u32s(Column::Epoch).unwrap(), own.collect::<Vec<_>>());
    }
    let sequences: Vec<u64> = run.scan().map(|block| block.sequence()).collect();
    assert_eq!(sequences, (0..sequences.len() as u64).collect::<Vec<_>>());
    let last = run.scan().last().unwrap();
    assert_eq!(last.kind(), Some(BlockKind::End));
    assert_eq!((last.u64s(Column::Visits).unwrap(), last.u64s(Column::Dropped).unwrap()), (vec![180], vec![3]));
    let report = run.verify().unwrap();
    assert!(report.finished && report.damage.is_none());
    assert_eq!((report.visits, report.steps, report.superseded), (180, 30, 0));
    let on_disk: u64 =
        run.parts().iter().flat_map(|part| part.scan().map(|block| block.bytes()).collect::<Vec<_>>()).sum();
    assert_eq!(report.bytes, on_disk, "what was put together counts for what it was put together from");
    assert_eq!(run.workers().unwrap().unwrap().notes(), Vec::<String>::new());
    // A part alone is a run as well.
    let part = Run::open(worker_folder(dir.path(), 1)).unwrap();
    assert_eq!((part.manifest().worker, part.verify().unwrap().visits), (Some(record(1)), 60));
    assert!(part.workers().unwrap().is_none());
}

#[test]
fn probe_sets_of_one_name_are_one_set() {
    let dir = tempfile::tempdir().unwrap();
    for rank in 0..3 {
        let mut writer = writer(dir.path(), &part_manifest(rank));
        // Each numbers its own; rank 1 has another set before the one that all have.
        let names: &[&str] = if rank == 1 { &["val", "test"] } else { &["test"] };
        for (number, name) in (0..).zip(names) {
            writer.append(&mut set(number, name)).unwrap();
            writer.append(&mut probes(number, &[u64::from(10 * rank + number)], 0)).unwrap();
        }
        train(&mut writer, rank, 0, 5, 5);
        writer.finish().unwrap();
    }
    let run = Run::open(dir.path()).unwrap();
    assert_eq!(run.probe_sets().unwrap(), ["test", "val"]);
    let mut found = Vec::new();
    for block in run.scan().filter(|block| block.kind() == Some(BlockKind::Probes)) {
        found.extend(block.u64s(Column::Example).unwrap().into_iter().zip(block.u32s(Column::ProbeSet).unwrap()));
    }
    assert_eq!(found, [(0, 0), (10, 1), (11, 0), (20, 0)]);
    assert!(run.verify().unwrap().damage.is_none());
}

#[test]
fn workers_may_name_other_sets_in_any_order() {
    let dir = tempfile::tempdir().unwrap();
    for (rank, names) in [(0, &["test", "third"][..]), (1, &["other"]), (2, &["third", "other"])] {
        let mut writer = writer(dir.path(), &part_manifest(rank));
        for (number, name) in (0..).zip(names) {
            writer.append(&mut set(number, name)).unwrap();
            writer.append(&mut probes(number, &[u64::from(10 * rank + number)], 0)).unwrap();
        }
        train(&mut writer, rank, 0, 2, 2);
        writer.append(&mut end(4)).unwrap();
        writer.finish().unwrap();
    }
    let run = Run::open(dir.path()).unwrap();
    let names = run.probe_sets().unwrap();
    let mut found = Vec::new();
    for block in run.scan().filter(|block| block.kind() == Some(BlockKind::Probes)) {
        let sets = block.u32s(Column::ProbeSet).unwrap();
        let rows = block.u64s(Column::Example).unwrap().into_iter().zip(sets);
        found.extend(rows.map(|(example, set)| (example, names[set as usize].as_str())));
    }
    found.sort_unstable();
    assert_eq!(found, [(0, "test"), (1, "third"), (10, "other"), (20, "third"), (21, "other")]);
}

#[test]
fn parts_that_are_not_of_one_run_are_refused_with_what_differs_and_where() {
    let refused = |change: &dyn Fn(&mut Manifest), words: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        drop(writer(dir.path(), &part_manifest(0)));
        let mut other = part_manifest(1);
        change(&mut other);
        drop(writer(dir.path(), &other));
        let error = Run::open(dir.path()).unwrap_err();
        assert!(matches!(error, ReadError::Workers { .. }), "{error}");
        let error = error.to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    refused(&|m| m.seed = 8, &["the seed is 7", "worker 0", "and 8", "worker 1"]);
    refused(&|m| m.sketch.folded_max = 9, &["sketches", "folded_max: 512", "folded_max: 9"]);
    refused(&|m| drop(m.layers.pop()), &["the number of layers is 2", "and 1"]);
    refused(&|m| m.layers[1].name = "other".into(), &["layer 1 is `fc2`", "`other`"]);
    refused(&|m| m.layers[0].shapes[0].1 = vec![9, 9], &["layer 0", "[3, 5]", "[9, 9]"]);
    refused(&|m| m.layers[0].seed_folded += 1, &["layer 0", "another `fc1`"]);
    refused(&|m| m.worker = Some(WorkerRecord { workers: 4, ..record(1) }), &["the number of workers is 3", "and 4"]);
    let sum = WorkerRecord { reduction: AllReduce::Sum, ..record(1) };
    refused(&|m| m.worker = Some(sum), &["reduction", "mean", "sum"]);

    let dir = run_of([2, 2, 2], true);
    std::fs::rename(worker_folder(dir.path(), 1), worker_folder(dir.path(), 5)).unwrap();
    assert!(Run::open(dir.path()).unwrap_err().to_string().contains("holds the part of worker 1 of 3"));
    let mut manifest = part_manifest(0);
    manifest.worker = None;
    let folder = worker_folder(dir.path(), 5);
    std::fs::write(folder.join("manifest"), manifest.to_bytes().unwrap()).unwrap();
    assert!(Run::open(dir.path()).unwrap_err().to_string().contains("a whole run and not the part"));
    // A manifest that cannot be read is named.
    std::fs::write(folder.join("manifest"), b"nonsense").unwrap();
    assert!(Run::open(dir.path()).unwrap_err().to_string().contains("worker-0005"));
    // Nor may many of them take all memory together.
    let dir = tempfile::tempdir().unwrap();
    for rank in 0..6 {
        let mut manifest = part_manifest(rank);
        manifest.worker = Some(WorkerRecord { rank, workers: 6, reduction: AllReduce::Mean });
        manifest.notes = vec![("zeros".into(), "\0".repeat(48 << 20))];
        std::fs::create_dir(worker_folder(dir.path(), rank)).unwrap();
        std::fs::write(worker_folder(dir.path(), rank).join("manifest"), manifest.to_bytes().unwrap()).unwrap();
    }
    assert!(Run::open(dir.path()).unwrap_err().to_string().contains("268435456 bytes together"));
    let mut manifest = part_manifest(0);
    manifest.worker = Some(WorkerRecord { rank: 3, ..record(0) });
    assert!(Manifest::parse(&manifest.to_bytes().unwrap()).is_err(), "rank 3 of 3");
}
