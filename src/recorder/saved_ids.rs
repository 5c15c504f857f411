//! The map from ids to positions, a text file beside the run. No reader of the run needs it: it is for people, and for
//! joining results with the data.

use super::error::RecordError;
use super::handle::Recorder;
use crate::ids::IntoIds;
use gradlog_format::log::{io_error, LogError};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

/// The file's name in the run's folder.
const FILE: &str = "ids.csv";

impl Recorder {
    /// Writes which position of the data has which id: `ids.csv` in the run's folder, with the columns `id` and
    /// `position`. `ids` are those of the whole training set, in its order. Positions count from 0.
    ///
    /// Use it for ids that are not positions, such as [`content_id`](crate::ids::content_id). Results are then joined
    /// with the data by the column `id`, for example with `pandas.merge`. Examples with one id have a line each.
    ///
    /// A second call replaces the file. Each worker writes into its own part.
    ///
    /// # Errors
    /// [`RecordError::Pass`] for what gives no ids. [`RecordError::Start`] if the file cannot be written; the recording
    /// can go on.
    ///
    /// # Cost
    /// The training waits while the file is written: about 20 bytes for each id.
    pub fn save_ids(&self, ids: impl IntoIds) -> Result<(), RecordError> {
        let Some(state) = &self.state else { return Ok(()) };
        let ids = self.read_ids(ids)?;
        let failed = |cause: LogError| RecordError::Start(Arc::new(cause));
        let path = state.dir.join(FILE);
        write_ids(&path, &ids).map_err(|error| failed(io_error("write", &path)(error)))
    }

    /// The ids of a pass. A disabled recorder reads none.
    pub(super) fn read_ids(&self, ids: impl IntoIds) -> Result<Vec<u64>, RecordError> {
        if !self.is_enabled() {
            return Ok(Vec::new());
        }
        ids.into_ids().map_err(|error| RecordError::Pass { step: self.step(), what: error.to_string() })
    }
}

/// Writes under another name first, so that the file is whole or absent.
fn write_ids(path: &Path, ids: &[u64]) -> io::Result<()> {
    let unfinished = path.with_extension("csv.unfinished");
    let mut out = BufWriter::new(File::create(&unfinished)?);
    writeln!(out, "id,position")?;
    for (position, id) in ids.iter().enumerate() {
        writeln!(out, "{id},{position}")?;
    }
    out.into_inner()?.sync_all()?;
    std::fs::rename(&unfinished, path)
}
