//! The blocks of one segment, under the manifest of the fixture. The first byte says whether checksums are made to
//! match.

#![no_main]

use gradlog_format::run::Run;
use gradlog_fuzz::{folder, put, read, seal_segment, segment_header, MANIFEST};
use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;
use std::sync::LazyLock;

static DIR: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = folder("segment");
    put(&dir, "manifest", MANIFEST);
    dir
});

fuzz_target!(|input: &[u8]| {
    let Some((mode, blocks)) = input.split_first() else { return };
    let mut bytes = segment_header();
    bytes.extend(blocks);
    match mode % 4 {
        // The segment's own header matches in any case.
        0 => seal_segment(&mut bytes[..64]),
        _ => seal_segment(&mut bytes),
    }
    put(&DIR, "segment-00000.glog", &bytes);
    read(&Run::open(&*DIR).expect("the fixture's manifest"));
});
