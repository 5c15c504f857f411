//! The program `gradlog-sql`. The library in this package holds all of it.

use std::process::ExitCode;

fn main() -> ExitCode {
    gradlog_datafusion::command::run()
}
