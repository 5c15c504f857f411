//! The command `gradlog`. The library in this package holds all of it.

use std::process::ExitCode;

fn main() -> ExitCode {
    gradlog_cli::run()
}
