//! The loop of the terminal view: look, draw, wait for a key.

use super::reading::Reached;
use super::session::Session;
use super::view::draw;
use super::Last;
use crate::error::CliError;
use gradlog_format::run::Run;
use ratatui::backend::Backend;
use ratatui::Terminal;
use std::io;
use std::path::Path;
use std::time::Duration;

/// What somebody typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Typed {
    /// To end.
    Quit,
    /// Anything else, or the window has another size.
    Other,
}

/// Where keys come from.
pub(super) trait Keys {
    /// Waits for a key, for at most `wait`.
    ///
    /// # Errors
    /// What the system says.
    fn next(&mut self, wait: Duration) -> io::Result<Option<Typed>>;
}

/// Follows the run in `dir` until somebody ends it. Returns the last state.
///
/// # Errors
/// [`CliError::Read`] if the run cannot be opened, [`CliError::Terminal`] if the terminal fails.
pub(super) fn follow<B: Backend>(
    terminal: &mut Terminal<B>,
    keys: &mut dyn Keys,
    dir: &Path,
    every: Duration,
) -> Result<Last, CliError> {
    loop {
        // Opened anew, and read anew, when the training has resumed at an earlier step.
        let run = Run::open(dir)?;
        let mut session = Session::new(&run);
        loop {
            let reached = session.refresh();
            if reached != Reached::Outdated {
                let drawn = terminal.draw(|frame| draw(frame, &session));
                drawn.map_err(|error| CliError::Terminal(io::Error::other(error.to_string())))?;
            }
            // A long run is caught up with at once, but a key is never waited out.
            let wait = if reached == Reached::More { Duration::ZERO } else { every };
            if keys.next(wait).map_err(CliError::Terminal)? == Some(Typed::Quit) {
                return Ok(session.last());
            }
            if reached == Reached::Outdated {
                break;
            }
        }
    }
}
