//! A whole run folder: the input is files, each a byte for its name, two for its length and its bytes. It is read and recovered.

#![no_main]

use gradlog::run::Run;
use gradlog_fuzz::{folder, put, read, recover, seal_segment, sealed_manifest};
use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;
use std::sync::LazyLock;

static DIR: LazyLock<PathBuf> = LazyLock::new(|| folder("run"));

const NAMES: [&str; 8] = [
    "manifest",
    "segment-00000.glog",
    "segment-00001.glog",
    "segment-00002.glog",
    "segment-00003.glog",
    "segment-00007.glog",
    "lock",
    "manifest.new",
];

fuzz_target!(|input: &[u8]| {
    let dir = DIR.join("run");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir(&dir).expect("a folder to work in");
    let mut rest = input;
    while let [name, low, high, after @ ..] = rest {
        let (file, after) = after.split_at(after.len().min(usize::from(u16::from_le_bytes([*low, *high]))));
        rest = after;
        let mut bytes = file.to_vec();
        // The upper half of names: checksums are made to match.
        let (name, sealed) = (NAMES[usize::from(name % 8)], *name >= 128);
        match name {
            "manifest" if sealed && bytes.len() >= 20 => bytes = sealed_manifest(&bytes[20..]),
            _ if sealed => seal_segment(&mut bytes),
            _ => {}
        }
        put(&dir, name, &bytes);
    }
    if let Ok(run) = Run::open(&dir) {
        read(&run);
        recover(&run, &DIR.join("new"));
    }
});
