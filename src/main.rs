//! The command line of gradlog; see [`gradlog::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    gradlog::cli::run()
}
