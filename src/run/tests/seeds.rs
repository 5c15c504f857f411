//! The seed corpus of the fuzz targets, in `fuzz/seeds`: valid inputs made from the fixture and the sample run.

use super::*;
use std::path::PathBuf;

fn put(target: &str, name: &str, bytes: &[u8]) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join(name), bytes).unwrap();
}

/// The files of a run as one input of the target `run`; `sealed` asks it to make the checksums match.
fn packed(dir: &Path, sealed: bool) -> Vec<u8> {
    let mut input = Vec::new();
    for (number, path) in (0u8..).zip(files(dir)) {
        let bytes = std::fs::read(path).unwrap();
        input.push(number | if sealed { 0x80 } else { 0 });
        input.extend(u16::try_from(bytes.len()).unwrap().to_le_bytes());
        input.extend(bytes);
    }
    input
}

#[test]
#[ignore = "writes fuzz/seeds; run by hand when the fixture or the targets change"]
fn make_the_fuzz_seeds() {
    let fixture: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/v1");
    let sample = tempfile::tempdir().unwrap();
    write_sample(sample.path(), SAMPLE_BLOCKS).unwrap().finish().unwrap();
    let alive = tempfile::tempdir().unwrap();
    let killed = tempfile::tempdir().unwrap();
    let writer = write_sample(alive.path(), SAMPLE_BLOCKS - 1).unwrap();
    copy(alive.path(), killed.path());
    drop(writer);
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
    // Damaged in the middle, and without its second segment, so that recovery has something to look for.
    let path = crate::log::segment_path(sample.path(), 0);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[200] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    put("run", "damaged", &packed(sample.path(), false));
    std::fs::write(crate::log::segment_path(sample.path(), 1), b"").unwrap();
    put("run", "emptied", &packed(sample.path(), false));
}
