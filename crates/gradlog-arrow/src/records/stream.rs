//! A table as a stream of its own: a thread reads ahead, a few batches at most.

use super::read::{RecordQuestion, RecordsRead};
use crate::TableError;
use arrow_array::{RecordBatch, RecordBatchReader};
use arrow_schema::{ArrowError, SchemaRef};
use gradlog_format::run::Run;
use std::sync::mpsc::{sync_channel, Receiver};
use std::sync::Arc;
use std::thread::JoinHandle;

/// Batches that wait to be taken.
const AHEAD: usize = 2;

/// The batches of a table, which a thread reads. It holds the run, so it may outlive its caller. Dropping it ends the
/// thread.
///
/// It is an [`RecordBatchReader`], so whatever takes one takes it: Arrow's C stream, Parquet, DataFusion.
#[derive(Debug)]
pub struct RecordStream {
    schema: SchemaRef,
    batches: Option<Receiver<RecordBatch>>,
    thread: Option<JoinHandle<Result<RecordsRead, TableError>>>,
    read: Option<RecordsRead>,
}

impl RecordQuestion {
    /// The table as a stream.
    ///
    /// # Errors
    /// Those of [`RecordQuestion::schema`], and [`TableError::Io`] if no thread can be started. What fails later comes
    /// as the last item.
    pub fn stream(self, run: Arc<Run>) -> Result<RecordStream, TableError> {
        let plan = self.plan(&run)?;
        let schema = plan.schema.clone();
        let (sender, batches) = sync_channel(AHEAD);
        let path = run.dir().to_owned();
        let work = move || self.read_plan(&run, &plan, |batch| sender.send(batch).map_err(|_| TableError::Ended));
        let thread = std::thread::Builder::new()
            .name("gradlog-records".into())
            .spawn(work)
            .map_err(|error| TableError::Io { action: "start a thread for", path, error })?;
        Ok(RecordStream { schema, batches: Some(batches), thread: Some(thread), read: None })
    }
}

impl RecordStream {
    /// How the reading ended; `None` before the last batch was taken, and after an error.
    pub fn read(&self) -> Option<&RecordsRead> {
        self.read.as_ref()
    }

    /// Takes what the thread says at its end.
    fn end(&mut self) -> Option<Result<RecordBatch, ArrowError>> {
        self.batches = None;
        match self.thread.take()?.join() {
            Ok(Ok(read)) => {
                self.read = Some(read);
                None
            }
            Ok(Err(error)) => Some(Err(error.into())),
            Err(_) => Some(Err(ArrowError::ComputeError("the thread that reads the run panicked".into()))),
        }
    }
}

impl Iterator for RecordStream {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.batches.as_ref()?.recv() {
            Ok(batch) => Some(Ok(batch)),
            Err(_) => self.end(),
        }
    }
}

impl RecordBatchReader for RecordStream {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}

impl Drop for RecordStream {
    fn drop(&mut self) {
        // The thread's next batch finds nobody, and it ends.
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}
