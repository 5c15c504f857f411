//! The real terminal: raw while the run is followed, and as it was afterwards, whatever happens.

use super::follow::{self, Keys, Typed};
use super::Last;
use crate::error::CliError;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// Whether the terminal understands more than lines.
pub(super) fn can_draw() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Follows the run in `dir` on this terminal.
///
/// # Errors
/// As [`follow::follow`].
pub(super) fn follow(dir: &Path, every: Duration) -> Result<Last, CliError> {
    let mut keys = Keyboard { is_told_to_end: Arc::default() };
    keys.listen_to_signals().map_err(CliError::Terminal)?;
    let _restored = Restored;
    // It also restores the terminal in a panic, before the words of the panic.
    let mut terminal = ratatui::try_init().map_err(CliError::Terminal)?;
    follow::follow(&mut terminal, &mut keys, dir, every)
}

/// Gives the terminal back when it goes.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        // If the terminal is gone, there is nothing to give back.
        let _ = ratatui::try_restore();
        let _ = ratatui::crossterm::execute!(io::stdout(), ratatui::crossterm::cursor::Show);
    }
}

struct Keyboard {
    /// A signal asked to end.
    is_told_to_end: Arc<AtomicBool>,
}

impl Keyboard {
    /// `kill` and a closed window end the program as `q` does. Ctrl-C is a key while the terminal is raw.
    fn listen_to_signals(&mut self) -> io::Result<()> {
        #[cfg(unix)]
        for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP, signal_hook::consts::SIGINT] {
            signal_hook::flag::register(signal, self.is_told_to_end.clone())?;
        }
        Ok(())
    }
}

impl Keys for Keyboard {
    fn next(&mut self, wait: Duration) -> io::Result<Option<Typed>> {
        // A signal does not end the wait, so that is cut into pieces.
        const PIECE: Duration = Duration::from_millis(250);
        let mut left = wait;
        loop {
            if self.is_told_to_end.load(Ordering::Relaxed) {
                return Ok(Some(Typed::Quit));
            }
            let piece = left.min(PIECE);
            if event::poll(piece)? {
                return Ok(Some(typed(&event::read()?)));
            }
            left = left.saturating_sub(piece);
            if left.is_zero() {
                return Ok(None);
            }
        }
    }
}

pub(super) fn typed(event: &Event) -> Typed {
    let Event::Key(key) = event else { return Typed::Other };
    if key.kind == KeyEventKind::Release {
        return Typed::Other;
    }
    match key.code {
        KeyCode::Char('q' | 'Q') => Typed::Quit,
        KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => Typed::Quit,
        _ => Typed::Other,
    }
}
