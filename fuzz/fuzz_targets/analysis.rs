//! A whole run folder, as for the target `run`, behind a byte that says what is asked of it: everything that the
//! scores, which `run` computes, do not go through.

#![no_main]

use gradlog_format::run::Run;
use gradlog_fuzz::{analyses::ask, folder, unpack};
use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;
use std::sync::LazyLock;

static DIR: LazyLock<PathBuf> = LazyLock::new(|| folder("analysis"));

fuzz_target!(|input: &[u8]| {
    let [question, files @ ..] = input else { return };
    let dir = DIR.join("run");
    unpack(files, &dir);
    if let Ok(run) = Run::open(&dir) {
        ask(&run, *question);
    }
});
