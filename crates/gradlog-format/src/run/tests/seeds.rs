//! The seed corpus of the fuzz targets, in `fuzz/seeds`: valid inputs made from the fixtures, the sample run and
//! made-up ones.

use super::*;
use gradlog_testing::{visits, Draws, Encoding, Synthetic, Visit};
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

fn put(target: &str, name: &str, bytes: &[u8]) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join(name), bytes).unwrap();
}

/// The files of a run, or of its workers, as one input of the target `run`; `sealed` asks it to make the checksums
/// match.
fn packed(dir: &Path, sealed: bool) -> Vec<u8> {
    let mut input = Vec::new();
    let workers = (0..3).map(|rank| crate::log::worker_folder(dir, rank));
    for (part, folder) in
        (0u8..).zip(std::iter::once(dir.to_owned()).chain(workers)).filter(|(_, folder)| folder.is_dir())
    {
        for (number, path) in (0u8..).zip(files(&folder).into_iter().filter(|path| path.is_file())) {
            let bytes = std::fs::read(path).unwrap();
            input.push((8 * part + number) | if sealed { 0x80 } else { 0 });
            input.extend(u16::try_from(bytes.len()).unwrap().to_le_bytes());
            input.extend(bytes);
        }
    }
    input
}

/// Visits, probes, sweeps and curvature with gradients, in three blocks of each worker, or of the one recorder.
fn with_gradients(encoding: Encoding, workers: u32) -> Arc<TempDir> {
    let dir = Arc::new(TempDir::new().unwrap());
    for rank in 0..workers.max(1) {
        let mut run = Synthetic::part(dir.clone(), (workers > 0).then_some((rank, workers)), encoding);
        let mut draws = Draws(7 + u64::from(rank));
        // Cross entropies, for TRAK.
        let plain = |visit: Visit| Visit { confidence: (-visit.loss).exp(), ..visit };
        let all: Vec<Visit> = visits(&mut draws, 5, 3, 2).into_iter().map(plain).collect();
        run.set(0, "test");
        run.set(1, "curvature");
        run.probes(&[1, 2].map(|id| plain(draws.visit(id, 0, 0))));
        let weighted = |id| Visit { set: 1, curvature_weight: Some(0.5), ..draws.visit(id, 0, 0) };
        run.probes(&[101, 102].map(weighted));
        let steps: std::collections::BTreeSet<u64> = all.iter().map(|visit| visit.step).collect();
        run.optimizer(&steps.into_iter().map(|step| (step, 0.9, 0.01, 1.0)).collect::<Vec<_>>());
        all.chunks(all.len().div_ceil(3)).for_each(|rows| run.visits(rows));
        // For the adjoint, which begins at the end.
        let after = all.last().map_or(0, |visit| visit.step + 1);
        run.probes(&[1, 2].map(|id| plain(draws.visit(id, after, 3))));
        if workers == 0 {
            run.sweeps(&[1, 2, 3].map(|id| draws.visit(id, 0, 0)));
        }
        run.end();
        run.finish();
    }
    dir
}

/// A life with every kind of block: a training with a checkpoint and a gap, resumed at an earlier step, and a replay
/// behind its end. With workers, each has such a life.
fn resumed(encoding: Encoding, workers: u32) -> Arc<TempDir> {
    let dir = Arc::new(TempDir::new().unwrap());
    for rank in 0..workers.max(1) {
        let mut run = Synthetic::part(dir.clone(), (workers > 0).then_some((rank, workers)), encoding);
        let mut draws = Draws(70 + u64::from(rank));
        let all = visits(&mut draws, 4, 3, 2);
        let last = all.last().map_or(0, |visit| visit.step);
        let steps: Vec<(u64, f32, f32, f32)> = (0..=last).map(|step| (step, 0.1, 0.9, 0.01)).collect();
        run.set(0, "test");
        run.probes(&[1, 2].map(|id| draws.visit(id, 0, 0)));
        run.checkpoint(0, 0);
        run.optimizer(&steps);
        run.visits(&all);
        run.dropped(2);
        let again = last / 2;
        let mut run = run.resume(again);
        run.set(1, "more");
        run.optimizer(&steps[again as usize..]);
        run.visits(&all.iter().filter(|visit| visit.step >= again).cloned().collect::<Vec<_>>());
        run.checkpoint(last + 1, 2);
        run.probes(&[1, 2].map(|id| Visit { set: 1, ..draws.visit(id, last + 1, 2) }));
        run.end();
        if workers == 0 {
            run = run.replay();
            run.set(2, "asked later");
            run.probes(&[8, 9].map(|id| Visit { set: 2, ..draws.visit(id, 0, 0) }));
            run.sweeps(&[1, 2, 3].map(|id| draws.visit(id, 0, 0)));
        }
        run.finish();
    }
    dir
}

#[test]
#[ignore = "writes fuzz/seeds; run by hand when the fixture or the targets change"]
fn make_the_fuzz_seeds() {
    let fixture: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/v1");
    let sample = tempfile::tempdir().unwrap();
    write_sample(sample.path(), SAMPLE_BLOCKS).unwrap().finish().unwrap();
    let alive = tempfile::tempdir().unwrap();
    let killed = tempfile::tempdir().unwrap();
    let writer = write_sample(alive.path(), SAMPLE_BLOCKS - 1).unwrap();
    copy(alive.path(), killed.path());
    drop(writer);
    let extended = Manifest { extensions: super::extensions::fields(), ..manifest() }.to_bytes().unwrap();
    put("manifest", "extended-file", &[&[0], &extended[..]].concat());
    put("manifest", "extended-payload", &[&[1], &extended[20..]].concat());
    for (name, dir) in [("fixture", fixture.as_path()), ("sample", sample.path()), ("killed", killed.path())] {
        let manifest = std::fs::read(dir.join("manifest")).unwrap();
        put("manifest", &format!("{name}-file"), &[&[0], &manifest[..]].concat());
        put("manifest", &format!("{name}-payload"), &[&[1], &manifest[20..]].concat());
        for mode in [0u8, 1] {
            // The first segment is the only one whose blocks begin with number 0.
            let blocks = std::fs::read(dir.join("segment-00000.glog")).unwrap();
            put("segment", &format!("{name}-{mode}"), &[&[mode], &blocks[64..]].concat());
            put("run", &format!("{name}-{mode}"), &packed(dir, mode == 1));
        }
    }
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data");
    let several = super::several_workers::run_of([4, 3, 4], true);
    for (name, dir) in [
        ("replay", &*data.join("v1-replay")),
        ("planes", &data.join("v1-planes")),
        ("rans", &data.join("v1-rans")),
        ("workers", several.path()),
    ] {
        for mode in [0, 1] {
            put("run", &format!("{name}-{mode}"), &packed(dir, mode == 1));
        }
    }
    for (name, encoding, workers, questions) in [
        ("q4", Encoding::Q4, 0, 0..16u8),
        ("signs", Encoding::Signs, 0, 0..1),
        ("f32", Encoding::F32, 0, 6..10),
        ("workers", Encoding::Q8, 2, 0..1),
    ] {
        let dir = with_gradients(encoding, workers);
        for question in questions {
            put("analysis", &format!("{name}-{question}"), &[&[question], &packed(dir.path(), true)[..]].concat());
        }
    }
    for (name, workers) in [("resumed", 0), ("resumed-workers", 2)] {
        let dir = resumed(Encoding::Q8, workers);
        for mode in [0, 1] {
            put("run", &format!("{name}-{mode}"), &packed(dir.path(), mode == 1));
        }
        for question in [0, 3, 5, 9, 10, 14] {
            put("analysis", &format!("{name}-{question}"), &[&[question], &packed(dir.path(), true)[..]].concat());
        }
        if workers == 0 {
            let blocks = std::fs::read(dir.path().join("segment-00000.glog")).unwrap();
            put("segment", "resumed-1", &[&[1], &blocks[64..]].concat());
        }
    }
    // Damaged in the middle, and without its second segment, so that recovery has something to look for.
    let path = crate::log::segment_path(sample.path(), 0);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[200] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    put("run", "damaged", &packed(sample.path(), false));
    std::fs::write(crate::log::segment_path(sample.path(), 1), b"").unwrap();
    put("run", "emptied", &packed(sample.path(), false));
}
