//! A whole run folder, or one of several workers: the input is files, each a byte for its name and folder, two for its
//! length and its bytes. It is read and recovered.

#![no_main]

use gradlog_format::run::Run;
use gradlog_fuzz::{folder, read, recover, unpack};
use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;
use std::sync::LazyLock;

static DIR: LazyLock<PathBuf> = LazyLock::new(|| folder("run"));

fuzz_target!(|input: &[u8]| {
    let dir = DIR.join("run");
    unpack(input, &dir);
    if let Ok(run) = Run::open(&dir) {
        read(&run);
        recover(&run, &DIR.join("new"));
    }
});
