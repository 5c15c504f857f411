//! What other programs that ask runs share with the command: how a run is opened, how words become a window, and how
//! rows are written.

pub use crate::arguments::OutputArguments;
pub use crate::output::Target;
pub use crate::report::{printable, Format, Rows, Value};

use crate::arguments::read_window;
use crate::error::explain;
use crate::places;
use gradlog_analysis::Window;
use gradlog_format::run::Run;
use std::path::Path;

/// What the command says behind its help.
pub const EXIT_CODES: &str = crate::arguments::EXIT_CODES;

/// Why the command would end, and with which exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// 1 for what failed, 2 for bad arguments.
    pub code: u8,
    /// What, where, and what next.
    pub words: String,
}

/// Opens a run by the path of its folder, or with the feature `remote` by its address in an object store.
///
/// # Errors
/// What the command would say.
pub fn open_run(run: &Path) -> Result<Run, Refusal> {
    let refusal = |error| Refusal { code: crate::exit_code(&error), words: explain(&error) };
    places::open_run(run).map_err(refusal)
}

/// Whether the name of a run is an address in an object store, such as `s3://bucket/path`.
pub fn is_address(run: &Path) -> bool {
    places::is_address(run)
}

/// The error of a store that refused something on the way, after which an answer may lack rows.
///
/// # Errors
/// What the command would say.
pub fn check_place(run: &Run) -> Result<(), Refusal> {
    let refusal = |error| Refusal { code: crate::exit_code(&error), words: explain(&error) };
    places::check_places(&[run]).map_err(refusal)
}

/// A window of what would follow `--epochs`, `--steps` and `--at` on a command line.
///
/// # Errors
/// What is wrong with which of them.
pub fn parse_window(epochs: Option<&str>, steps: Option<&str>, at: Option<&str>) -> Result<Window, String> {
    read_window(epochs, steps, at)
}
