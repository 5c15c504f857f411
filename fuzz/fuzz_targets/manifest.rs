//! A manifest: the first byte says whether the rest is a whole file, or a payload for a file whose checksum matches.
//!
//! A manifest that is read is also written back, and must come out byte for byte: a recovery keeps what it does not
//! know.

#![no_main]

use gradlog_format::log::Manifest;
use gradlog_format::run::Run;
use gradlog_fuzz::{folder, put, read, sealed_manifest};
use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;
use std::sync::LazyLock;

static DIR: LazyLock<PathBuf> = LazyLock::new(|| folder("manifest"));

fuzz_target!(|input: &[u8]| {
    let Some((mode, bytes)) = input.split_first() else { return };
    let file = match mode % 2 {
        0 => bytes.to_vec(),
        _ => sealed_manifest(bytes),
    };
    if let Ok(manifest) = Manifest::parse(&file) {
        assert_eq!(manifest.to_bytes().expect("what was read can be written"), file);
    }
    put(&DIR, "manifest", &file);
    if let Ok(run) = Run::open(&*DIR) {
        read(&run);
    }
});
