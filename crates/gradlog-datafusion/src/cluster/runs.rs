//! The runs that a worker has open.

use super::nodes::run_at;
use super::wire::RunAt;
use crate::{RunTables, SqlError};
use gradlog_format::run::Damage;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Runs that are kept open after a query.
const OPEN_MAX: usize = 8;

/// Opens runs for the plans of clients.
#[derive(Debug, Default)]
pub(super) struct Runs {
    /// What an error calls this worker.
    worker: String,
    open: Mutex<VecDeque<(RunAt, RunTables)>>,
}

impl Runs {
    pub fn new(worker: String) -> Self {
        Self { worker, open: Mutex::default() }
    }

    /// The tables of a run, if it is the one that the client sees.
    pub fn open(&self, at: &RunAt) -> Result<RunTables, SqlError> {
        let is_it = |(known, _): &&(RunAt, RunTables)| known == at;
        let known = self.lock().iter().find(is_it).map(|(_, tables)| tables.clone());
        if let Some(tables) = known {
            return Ok(tables);
        }
        let refusal = |what: String| SqlError::Cluster { what: format!("worker {}: {what}", self.worker) };
        let run = gradlog_cli::shared::open_run(Path::new(&at.place)).map_err(|error| refusal(error.words))?;
        let tables = RunTables::new(run).map_err(|error| refusal(error.to_string()))?.of_worker();
        if let Some(damage) = &tables.outline().damage {
            return Err(damaged(&self.worker, damage));
        }
        let found = run_at(&tables)?;
        if found.run_id != at.run_id {
            return Err(refusal(format!("{} is another run here than where it was asked about", at.place)));
        }
        if (found.blocks, found.checksum) != (at.blocks, at.checksum) {
            let (here, there) = (found.blocks, at.blocks);
            return Err(refusal(format!(
                "{} differs here: {here} blocks, and {there} where it was asked about. Ask when the recording has \
                 ended, or copy the run anew",
                at.place
            )));
        }
        let mut open = self.lock();
        open.truncate(OPEN_MAX - 1);
        open.push_front((at.clone(), tables.clone()));
        Ok(tables)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(RunAt, RunTables)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Damage in the copy of a worker, of which no rows go to the client.
pub(super) fn damaged(worker: &str, damage: &Damage) -> SqlError {
    let Damage { path, offset, block, what, .. } = damage;
    let block = block.map(|block| format!(" (block {block})")).unwrap_or_default();
    let path = path.display();
    SqlError::Cluster {
        what: format!(
            "worker {worker}: {path} is damaged at byte {offset}{block}: {what}; workers answer for whole runs alone: \
             copy the run anew, or recover it"
        ),
    }
}
