//! Asks a query: once, or of a damaged run again until it reads only what was written before the damage.

use super::print::Printer;
use super::Arguments;
use crate::cluster::Cluster;
use crate::{RunTables, SqlError};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::SessionStateBuilder;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::{SQLOptions, SessionConfig, SessionContext};
use futures_util::StreamExt;
use gradlog_analysis::AnalysisError;
use gradlog_cli::shared::Refusal;
use gradlog_format::run::Damage;
use std::error::Error;
use std::io::{self, Read, Seek};
use std::sync::Arc;
use tempfile::SpooledTempFile;
use tokio::runtime::Runtime;

/// Rows in their format that are kept in memory; more lie in a temporary file.
const SPOOL_BYTES: usize = 64 << 20;

/// An answer that is whole.
pub(super) struct Answer {
    /// Its rows, as they are written.
    pub data: Box<dyn Read>,
    pub rows: u64,
    pub words: Vec<String>,
    pub damage: Vec<Damage>,
}

/// Why an answer was not made.
enum Failure {
    /// The query says what no run could answer.
    Query(DataFusionError),
    Run(DataFusionError),
    Write(io::Error),
}

/// Asks the query of these tables.
///
/// Nothing is written before the answer is whole: partitions read at the same time, so that rows from behind some
/// damage may come before it is found.
pub(super) fn ask(
    mut tables: RunTables,
    mut cluster: Option<Cluster>,
    arguments: &Arguments,
) -> Result<Answer, Refusal> {
    let threads = threads()?;
    if let Some(cluster) = &cluster {
        threads.block_on(cluster.check()).map_err(|error| refusal_of(&error))?;
    }
    let (mut damage, mut lost) = (Vec::new(), Vec::new());
    loop {
        let failure = match threads.block_on(ask_once(&tables, cluster.as_ref(), arguments, &damage)) {
            Ok((mut spool, rows)) => {
                let rewound = spool.rewind();
                rewound.map_err(|error| explain(Failure::Write(error)))?;
                let words = lost.into_iter().chain(tables.take_words()).collect();
                return Ok(Answer { data: Box::new(spool), rows, words, damage });
            }
            Err(failure) => failure,
        };
        if let (Failure::Run(error), Some(cluster)) = (&failure, &mut cluster) {
            let again = threads.block_on(cluster.ask_again(error)).map_err(|error| refusal_of(&error))?;
            if let Some(words) = again {
                lost.push(format!("warning: {words}"));
                tables.take_words();
                continue;
            }
        }
        let found = match &failure {
            Failure::Query(error) | Failure::Run(error) => SqlError::find(error),
            Failure::Write(_) => None,
        };
        let Some(SqlError::Damaged(found)) = found else { return Err(explain(failure)) };
        if cluster.is_some() {
            let next = "workers answer for whole runs alone: recover the run, or ask without --cluster";
            return Err(Refusal { code: 1, words: format!("{found}; {next}") });
        }
        let Some(before) = tables.before(found) else { return Err(explain(failure)) };
        // The nearest to the beginning comes last, and is the one that counts.
        damage = vec![found.clone()];
        tables = before;
    }
}

/// The threads that queries run on.
pub(super) fn threads() -> Result<Runtime, Refusal> {
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    threads.map_err(|error| Refusal { code: 1, words: format!("cannot start threads: {error}") })
}

async fn ask_once(
    tables: &RunTables,
    cluster: Option<&Cluster>,
    arguments: &Arguments,
    damage: &[Damage],
) -> Result<(SpooledTempFile, u64), Failure> {
    let context = session(tables, cluster, arguments).map_err(Failure::Run)?;
    // A run is read, never written.
    let only_reads = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    let asked = context.sql_with_options(&arguments.query, only_reads).await.map_err(Failure::Query)?;
    let is_plan = matches!(asked.logical_plan(), LogicalPlan::Explain(_) | LogicalPlan::Analyze(_));
    let context = Arc::new(asked.task_ctx());
    let plan = asked.create_physical_plan().await.map_err(Failure::Run)?;
    let mut batches = execute_stream(plan.clone(), context).map_err(Failure::Run)?;
    let spool = SpooledTempFile::new(SPOOL_BYTES);
    let format = arguments.output.format();
    let mut printer = Printer::begin(spool, format, &batches.schema(), is_plan, (&arguments.query, damage))
        .map_err(Failure::Write)?;
    while let Some(batch) = batches.next().await {
        printer.write(&batch.map_err(Failure::Run)?).map_err(Failure::Write)?;
    }
    if let Some(cluster) = cluster {
        tables.say(cluster.said(plan).await);
    }
    printer.end().map_err(Failure::Write)
}

fn session(tables: &RunTables, cluster: Option<&Cluster>, arguments: &Arguments) -> Result<SessionContext> {
    let bytes = (arguments.memory as usize).saturating_mul(1_000_000_000);
    let runtime = RuntimeEnvBuilder::new().with_memory_limit(bytes, 1.0).build()?;
    let config = SessionConfig::new().with_information_schema(true);
    let partitions = arguments.partitions.map(|partitions| partitions as usize);
    let state = match (cluster, partitions) {
        (Some(cluster), partitions) => cluster.state(config, partitions)?,
        (None, Some(partitions)) => SessionStateBuilder::new().with_config(config.with_target_partitions(partitions)),
        (None, None) => SessionStateBuilder::new().with_config(config),
    };
    let state = state.with_runtime_env(Arc::new(runtime)).with_default_features();
    let context = SessionContext::new_with_state(state.build());
    tables.register(&context)?;
    Ok(context)
}

/// The error of a run, with what caused it.
pub(super) fn refusal_of(error: &SqlError) -> Refusal {
    let is_about_arguments = match error {
        SqlError::Argument { .. } => true,
        SqlError::Analysis(error) => matches!(
            error,
            AnalysisError::NotOnSweeps { .. } | AnalysisError::OnlyVisits { .. } | AnalysisError::Rule { .. }
        ),
        _ => false,
    };
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !words.contains(&text) {
            words = format!("{words}: {text}");
        }
        source = cause.source();
    }
    Refusal { code: if is_about_arguments { 2 } else { 1 }, words }
}

fn explain(failure: Failure) -> Refusal {
    let (code, error) = match failure {
        Failure::Write(error) => return Refusal { code: 1, words: format!("cannot hold the answer: {error}") },
        Failure::Query(error) => (2, error),
        Failure::Run(error) => (1, error),
    };
    if let Some(found) = SqlError::find(&error) {
        return refusal_of(found);
    }
    let next = "; `show tables` lists the tables, and `describe visits` the columns of one";
    let next = if code == 2 { next } else { "" };
    Refusal { code, words: format!("{}{next}", error.strip_backtrace()) }
}
