//! The command `gradlog`, built beside the tests that start it.

use std::process::ExitCode;

fn main() -> ExitCode {
    gradlog_cli::run()
}
