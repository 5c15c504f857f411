//! Parts of an answer of the command, each made by a worker: what `gradlog scores` and `gradlog influence` do with
//! `--cluster`.
//!
//! A part is the file that `--part I/N --out FILE` makes, so `gradlog merge` makes of all of them what the command
//! prints by itself.

use super::client::Cluster;
use super::wire::RunAt;
use crate::leaf::project;
use crate::shares::Shares;
use crate::{RunTables, SqlError};
use arrow_array::cast::AsArray;
use arrow_array::types::{UInt32Type, UInt64Type};
use arrow_array::{BinaryArray, RecordBatch, UInt32Array, UInt64Array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::internal_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, EmptyRecordBatchStream, ExecutionPlan, PlanProperties};
use futures_util::StreamExt;
use gradlog_analysis::ExampleShare;
use gradlog_cli::Ended;
use std::collections::btree_map::{BTreeMap, Entry};
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc::Sender;

/// Verbs that have parts.
const VERBS: [&str; 2] = ["scores", "influence"];
/// Options that are not for the question.
const NOT_TAKEN: [&str; 4] = ["--part", "--out", "--format", "--cluster"];
/// Bytes of a file in a row.
const CHUNK_BYTES: u64 = 1 << 20;

/// A question of the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartsQuestion {
    /// `scores` or `influence`.
    pub verb: String,
    pub runs: Vec<RunAt>,
    /// What follows the runs on the command line, each as `--name` or `--name=value`.
    pub options: Vec<String>,
}

impl PartsQuestion {
    /// The question about some runs, as they are now.
    pub fn new(verb: String, runs: &[PathBuf], options: Vec<String>) -> Result<Self, SqlError> {
        let at = |run: &PathBuf| {
            let run = gradlog_cli::shared::open_run(run);
            let run = run.map_err(|error| SqlError::Cluster { what: error.words })?;
            super::nodes::run_at(&RunTables::new(run)?)
        };
        Ok(Self { verb, runs: runs.iter().map(at).collect::<Result<_, _>>()?, options })
    }

    /// Refuses what would do something else than answer.
    fn check(&self) -> Result<(), SqlError> {
        let refusal = |what: String| Err(SqlError::Cluster { what });
        if !VERBS.contains(&self.verb.as_str()) {
            return refusal(format!("`{}` has no parts; {} have", self.verb, VERBS.join(" and ")));
        }
        for option in &self.options {
            let name = option.split_once('=').map_or(option.as_str(), |(name, _)| name);
            if !name.starts_with("--") || name.len() < 3 || NOT_TAKEN.contains(&name) {
                return refusal(format!("`{option}` is no option of a part"));
            }
        }
        Ok(())
    }

    /// The command line of a part.
    fn line(&self, share: ExampleShare, file: &Path) -> Vec<OsString> {
        let mut line: Vec<OsString> = vec![self.verb.clone().into()];
        line.extend(self.options.iter().map(OsString::from));
        line.extend([format!("--part={share}").into(), "--out".into(), file.into(), "--".into()]);
        line.extend(self.runs.iter().map(|run| OsString::from(&run.place)));
        line
    }

    /// Makes the file of a part, and stops as soon as nobody waits for it at `to`.
    pub(super) fn make(&self, share: ExampleShare, path: &Path, to: &Sender<Result<RecordBatch>>) -> Ended {
        let waiting = to.clone();
        gradlog_cli::run_line_until(self.line(share, path), move || waiting.is_closed())
    }

    /// Makes a part and sends its bytes. Ends early, with nothing, if nobody waits for them any more.
    pub(super) fn answer(&self, share: ExampleShare, to: &Sender<Result<RecordBatch>>) -> Result<()> {
        let schema = schema();
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("part");
        let ended = self.make(share, &path, to);
        if to.is_closed() {
            return Ok(());
        }
        if ended.code != 0 && ended.code != 3 {
            // Before the error is what the command says of any answer.
            let words = ended.words.split_once("error: ").map_or(ended.words.as_str(), |(_, why)| why).trim_end();
            // Of the two only one is about the arguments, and the kind of an error arrives.
            return Err(match ended.code {
                2 => DataFusionError::Plan(words.to_owned()),
                _ => DataFusionError::Execution(words.to_owned()),
            });
        }
        let mut file = File::open(&path)?;
        for number in 0.. {
            let mut bytes = Vec::new();
            (&mut file).take(CHUNK_BYTES).read_to_end(&mut bytes)?;
            if bytes.is_empty() {
                break;
            }
            let batch = RecordBatch::try_new(
                schema.clone(),
                vec![
                    Arc::new(UInt32Array::from(vec![share.number()])),
                    Arc::new(UInt64Array::from(vec![number])),
                    Arc::new(BinaryArray::from(vec![bytes.as_slice()])),
                ],
            )?;
            if to.blocking_send(Ok(batch)).is_err() {
                break;
            }
        }
        Ok(())
    }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("part", DataType::UInt32, false),
        Field::new("number", DataType::UInt64, false),
        Field::new("bytes", DataType::Binary, false),
    ]))
}

/// Asks a question of workers, a part each, and writes the parts into a folder. Returns their files.
pub(crate) async fn ask_parts(
    question: &PartsQuestion,
    cluster: &Cluster,
    of: u32,
    folder: &Path,
) -> Result<Vec<PathBuf>> {
    let context = cluster.context()?;
    let table = PartsTable { question: Arc::new(question.clone()), of };
    let mut rows = context.read_table(Arc::new(table))?.execute_stream().await?;
    let path = |part: u32| folder.join(format!("{part}.part"));
    let mut files: BTreeMap<u32, (File, u64)> = BTreeMap::new();
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        let parts = batch["part"].as_primitive::<UInt32Type>();
        let numbers = batch["number"].as_primitive::<UInt64Type>();
        let bytes = batch["bytes"].as_binary::<i32>();
        for row in 0..batch.num_rows() {
            let part = parts.value(row);
            let (file, next) = match files.entry(part) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert((File::create(path(part))?, 0)),
            };
            if numbers.value(row) != *next {
                return internal_err!("part {part} came in another order");
            }
            file.write_all(bytes.value(row))?;
            *next += 1;
        }
    }
    match (1..=of).find(|part| !files.contains_key(part)) {
        Some(part) => Err(io::Error::other(format!("no worker sent part {part}/{of}")).into()),
        None => Ok((1..=of).map(path).collect()),
    }
}

#[derive(Debug)]
struct PartsTable {
    question: Arc<PartsQuestion>,
    of: u32,
}

#[async_trait]
impl TableProvider for PartsTable {
    fn schema(&self) -> SchemaRef {
        schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        project(Arc::new(PartsExec::new(self.question.clone(), Shares::all(self.of)?)?), projection)
    }
}

/// The plan node: a partition makes a part.
#[derive(Debug)]
pub(super) struct PartsExec {
    question: Arc<PartsQuestion>,
    shares: Shares,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl PartsExec {
    pub fn new(question: Arc<PartsQuestion>, shares: Shares) -> Result<Self, SqlError> {
        question.check()?;
        Ok(Self::of(question, shares))
    }

    fn of(question: Arc<PartsQuestion>, shares: Shares) -> Self {
        let properties = crate::rows::properties(schema(), shares.partitions());
        Self { question, shares, properties, metrics: ExecutionPlanMetricsSet::new() }
    }

    pub fn question(&self) -> &Arc<PartsQuestion> {
        &self.question
    }

    pub fn shares(&self) -> &Shares {
        &self.shares
    }

    /// The same node for some workers, of which each makes some of the parts.
    pub fn deal(&self, tasks: usize) -> Vec<Self> {
        self.shares.deal(tasks).into_iter().map(|shares| Self::of(self.question.clone(), shares)).collect()
    }
}

impl DisplayAs for PartsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PartsQuestion { verb, runs, options } = self.question.as_ref();
        let runs: Vec<&str> = runs.iter().map(|run| run.place.as_str()).collect();
        write!(f, "PartsExec: {verb} {} {}, parts={}", runs.join(" "), options.join(" "), self.shares)
    }
}

impl ExecutionPlan for PartsExec {
    crate::leaf::leaf_methods!("PartsExec");

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(share) = self.shares.get(partition) else { return internal_err!("no partition {partition}") };
        let Some(share) = share else { return Ok(Box::pin(EmptyRecordBatchStream::new(self.schema()))) };
        let mut stream = RecordBatchReceiverStream::builder(self.schema(), 1);
        let (question, to) = (self.question.clone(), stream.tx());
        stream.spawn_blocking(move || question.answer(share, &to));
        Ok(stream.build())
    }
}
