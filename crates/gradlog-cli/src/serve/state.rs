//! How far a run is: what the page asks now and then to learn whether there is more to see.

use super::limits::STATE_AGE;
use crate::error::CliError;
use gradlog_format::log::BlockKind;
use gradlog_format::run::Run;
use serde_json::{json, Value};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How far the runs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    /// A name of this state: as long as it is the same, so are all answers.
    pub name: String,
    /// Whether a recorder writes to one of the runs now.
    pub is_being_written: bool,
    /// Rows of visits that are in the log.
    pub visits: u64,
    /// The last step that one of them has.
    pub step: Option<u64>,
}

impl State {
    pub(crate) fn json(&self) -> Value {
        json!({
            "state": self.name,
            "recording": self.is_being_written,
            "visits": self.visits,
            "step": self.step,
        })
    }

    /// Reads the headers of all blocks.
    fn read(runs: &[PathBuf]) -> Result<Self, CliError> {
        let mut state = State { name: String::new(), is_being_written: false, visits: 0, step: None };
        for path in runs {
            let run = Run::open(path)?;
            // Asked before the scan: if the recorder ends in between, the next look sees it.
            state.is_being_written |= run.is_being_written();
            let (mut blocks, mut bytes) = (0u64, 0u64);
            for block in run.scan() {
                (blocks, bytes) = (blocks + 1, bytes + block.bytes());
                if block.kind() == Some(BlockKind::Visits) {
                    state.visits += block.rows() as u64;
                    state.step = state.step.max(Some(block.steps().1));
                }
            }
            state.name.push_str(&format!("{blocks:x}.{bytes:x}-"));
        }
        state.name.push_str(if state.is_being_written { "w" } else { "e" });
        Ok(state)
    }
}

/// The state as it was a moment ago.
#[derive(Default)]
pub(crate) struct StateCache(Mutex<Option<Known>>);

struct Known {
    state: Arc<State>,
    read: Instant,
    took: Duration,
}

impl StateCache {
    /// The state; it is read anew if it is too old.
    ///
    /// # Errors
    /// What cannot be read.
    pub(crate) fn look(&self, runs: &[PathBuf]) -> Result<Arc<State>, CliError> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Known { state, read, took }) = &*known {
            if read.elapsed() < STATE_AGE.max(10 * *took) {
                return Ok(state.clone());
            }
        }
        let start = Instant::now();
        let state = Arc::new(State::read(runs)?);
        *known = Some(Known { state: state.clone(), read: Instant::now(), took: start.elapsed() });
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gradlog_format::sketch::Encoding;
    use gradlog_testing::{run_of, visits, Draws, Synthetic};

    #[test]
    fn the_name_holds_every_run_and_whether_one_is_written() {
        let all = visits(&mut Draws(1), 20, 3, 5);
        let (few, many) = (run_of(&all[..10], 5), run_of(&all, 5));
        let read = |runs: [&gradlog_testing::Written; 2]| State::read(&runs.map(|run| run.path().to_owned())).unwrap();
        let both = read([&few, &many]);
        assert_eq!((both.visits, both.step), (10 + all.len() as u64, Some(all[all.len() - 1].step)));
        assert_eq!(both, read([&few, &many]));
        for other in [read([&many, &many]), read([&few, &few]), read([&many, &few])] {
            assert_ne!(both.name, other.name);
        }
        // A recorder that dies writes nothing more.
        let mut run = Synthetic::new(Encoding::Q8);
        run.visits(&all[..10]);
        let dir = run.dir.clone();
        let place = [dir.path().to_owned()];
        let before = State::read(&place).unwrap();
        let _ended = run.finish();
        let after = State::read(&place).unwrap();
        assert!(before.is_being_written && !after.is_being_written);
        assert_ne!(before.name, after.name);
    }
}
