//! Asks a query: once, or of a damaged run again until it reads only what was written before the damage.

use super::print::Printer;
use super::Arguments;
use crate::{RunTables, SqlError};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SendableRecordBatchStream, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{SQLOptions, SessionConfig, SessionContext};
use futures_util::StreamExt;
use gradlog_analysis::AnalysisError;
use gradlog_cli::shared::Refusal;
use gradlog_format::run::Damage;
use std::error::Error;
use std::io::{self, Read, Seek};
use std::sync::Arc;
use tempfile::SpooledTempFile;

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
pub(super) fn ask(mut tables: RunTables, arguments: &Arguments) -> Result<Answer, Refusal> {
    let threads = tokio::runtime::Builder::new_multi_thread().enable_time().build();
    let threads = threads.map_err(|error| Refusal { code: 1, words: format!("cannot start threads: {error}") })?;
    let mut damage = Vec::new();
    loop {
        let failure = match threads.block_on(ask_once(&tables, arguments, &damage)) {
            Ok((mut spool, rows)) => {
                let rewound = spool.rewind();
                rewound.map_err(|error| explain(Failure::Write(error)))?;
                return Ok(Answer { data: Box::new(spool), rows, words: tables.take_words(), damage });
            }
            Err(failure) => failure,
        };
        let found = match &failure {
            Failure::Query(error) | Failure::Run(error) => SqlError::find(error),
            Failure::Write(_) => None,
        };
        let Some(SqlError::Damaged(found)) = found else { return Err(explain(failure)) };
        let Some(before) = tables.before(found) else { return Err(explain(failure)) };
        // The nearest to the beginning comes last, and is the one that counts.
        damage = vec![found.clone()];
        tables = before;
    }
}

async fn ask_once(
    tables: &RunTables,
    arguments: &Arguments,
    damage: &[Damage],
) -> Result<(SpooledTempFile, u64), Failure> {
    let context = session(tables, arguments).map_err(Failure::Run)?;
    // A run is read, never written.
    let only_reads = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    let asked = context.sql_with_options(&arguments.query, only_reads).await.map_err(Failure::Query)?;
    let is_plan = matches!(asked.logical_plan(), LogicalPlan::Explain(_) | LogicalPlan::Analyze(_));
    let mut batches: SendableRecordBatchStream = asked.execute_stream().await.map_err(Failure::Run)?;
    let spool = SpooledTempFile::new(SPOOL_BYTES);
    let format = arguments.output.format();
    let mut printer = Printer::begin(spool, format, &batches.schema(), is_plan, (&arguments.query, damage))
        .map_err(Failure::Write)?;
    while let Some(batch) = batches.next().await {
        printer.write(&batch.map_err(Failure::Run)?).map_err(Failure::Write)?;
    }
    printer.end().map_err(Failure::Write)
}

fn session(tables: &RunTables, arguments: &Arguments) -> Result<SessionContext> {
    let bytes = (arguments.memory as usize).saturating_mul(1_000_000_000);
    let runtime = RuntimeEnvBuilder::new().with_memory_limit(bytes, 1.0).build()?;
    let mut config = SessionConfig::new().with_information_schema(true);
    if let Some(partitions) = arguments.partitions {
        config = config.with_target_partitions(partitions as usize);
    }
    let state = SessionStateBuilder::new().with_config(config).with_runtime_env(Arc::new(runtime));
    let context = SessionContext::new_with_state(state.with_default_features().build());
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
