//! Tests that start themselves again as a child: limits and users hold for a whole process.
#![cfg(unix)]

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// The environment variable that tells the child where its run is.
pub const RUN: &str = "GRADLOG_TEST_RUN";

/// Runs the ignored test `test` of this test binary in a child with at most `files` open files, as `user` if given.
/// Returns `false` if the child could not be started.
pub fn play(test: &str, files: u32, run: &Path, user: Option<u32>) -> bool {
    let script = format!("ulimit -n {files}; exec \"$0\" --exact {test} --ignored --nocapture");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).arg(std::env::current_exe().unwrap()).env(RUN, run);
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    let output = command.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.code() == Some(126) {
        println!("skipped: {said}");
        return false;
    }
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    true
}
