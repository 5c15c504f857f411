//! A manifest: the first byte says whether the rest is a whole file, or a payload for a file whose checksum matches.

#![no_main]

use gradlog_format::run::Run;
use gradlog_fuzz::{folder, put, read, sealed_manifest};
use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;
use std::sync::LazyLock;

static DIR: LazyLock<PathBuf> = LazyLock::new(|| folder("manifest"));

fuzz_target!(|input: &[u8]| {
    let Some((mode, bytes)) = input.split_first() else { return };
    match mode % 2 {
        0 => put(&DIR, "manifest", bytes),
        _ => put(&DIR, "manifest", &sealed_manifest(bytes)),
    }
    if let Ok(run) = Run::open(&*DIR) {
        read(&run);
    }
});
