//! SQL against the library, on made-up runs.

mod aggregates;
mod command;
mod damaged;
mod filters;
mod influence;
mod record_tables;
mod scores;

use crate::RunTables;
use arrow_array::RecordBatch;
use arrow_cast::display::array_value_to_string;
use arrow_select::concat::concat_batches;
use datafusion::error::Result;
use datafusion::physical_plan::{collect, ExecutionPlan};
use datafusion::prelude::{SessionConfig, SessionContext};
use gradlog_analysis::Compaction;
use gradlog_format::run::Run;
use gradlog_testing::{visits, Draws, Encoding, Synthetic, Visit, Written};
use std::sync::Arc;
use tempfile::TempDir;

/// A session with the tables of a run.
struct Asked {
    context: SessionContext,
    tables: RunTables,
    threads: tokio::runtime::Runtime,
}

impl Asked {
    fn new(run: Run) -> Self {
        Self::with(RunTables::new(run).unwrap(), 3)
    }

    fn with(tables: RunTables, partitions: usize) -> Self {
        let config = SessionConfig::new().with_target_partitions(partitions).with_information_schema(true);
        let context = SessionContext::new_with_config(config);
        tables.register(&context).unwrap();
        let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        Self { context, tables, threads }
    }

    /// The physical plan of a query.
    fn plan(&self, query: &str) -> Result<Arc<dyn ExecutionPlan>> {
        self.threads.block_on(async { self.context.sql(query).await?.create_physical_plan().await })
    }

    /// The rows of a query, and the plan that was run.
    fn try_ask(&self, query: &str) -> Result<(RecordBatch, Arc<dyn ExecutionPlan>)> {
        let plan = self.plan(query)?;
        let batches = self.threads.block_on(collect(plan.clone(), self.context.task_ctx()))?;
        Ok((concat_batches(&plan.schema(), &batches)?, plan))
    }

    fn ask(&self, query: &str) -> RecordBatch {
        self.try_ask(query).unwrap_or_else(|error| panic!("{query}: {error}")).0
    }

    /// The words of an error.
    fn refusal(&self, query: &str) -> String {
        self.try_ask(query).err().unwrap_or_else(|| panic!("{query} has an answer")).to_string()
    }
}

/// The sum of a metric over the nodes of a plan.
fn metric(plan: &Arc<dyn ExecutionPlan>, name: &str) -> usize {
    let own = plan.metrics().and_then(|all| all.sum_by_name(name)).map_or(0, |value| value.as_usize());
    own + plan.children().into_iter().map(|child| metric(child, name)).sum::<usize>()
}

/// Each row as words, sorted.
fn sorted(batch: &RecordBatch) -> Vec<String> {
    let cells = |row: usize| {
        let cells = batch.columns().iter().map(|column| array_value_to_string(column, row).unwrap());
        cells.collect::<Vec<String>>().join("|")
    };
    let mut rows: Vec<String> = (0..batch.num_rows()).map(cells).collect();
    rows.sort();
    rows
}

/// A run with rows of every table but events and cards.
fn run_with_all(all: &[Visit], rows: usize) -> Written {
    let mut draws = Draws(11);
    let mut run = Synthetic::new(Encoding::Q8);
    run.set(0, "test");
    run.set(1, "hard");
    let mut probes: Vec<Visit> = (1..=4).map(|id| draws.visit(id, 0, 0)).collect();
    probes[3].set = 1;
    run.probes(&probes);
    let middle = all.len() / 2 / rows * rows;
    all[..middle].chunks(rows).for_each(|block| run.visits(block));
    let step = all[middle].step;
    let mut later: Vec<Visit> = (1..=3).map(|id| draws.visit(id, step, all[middle].epoch)).collect();
    later.iter_mut().for_each(|probe| probe.set = 0);
    run.probes(&later);
    all[middle..].chunks(rows).for_each(|block| run.visits(block));
    run.steps(&[(0, 0, 0.1, 1_700_000_000_000), (1, 0, 0.2, 1_700_000_000_500)]);
    run.dropped(12);
    run.checkpoint(3, 0);
    run.sweeps(&(0..5).map(|id| draws.visit(id, 3, 0)).collect::<Vec<_>>());
    run.end();
    run.finish()
}

fn plain_run() -> Written {
    run_with_all(&visits(&mut Draws(1), 40, 6, 8), 17)
}

/// The same run, compacted.
fn compacted(run: &Run, buckets: u32) -> (TempDir, Run) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("compacted");
    Compaction::new(buckets).write(run, &path).unwrap();
    let run = Run::open(&path).unwrap();
    (dir, run)
}

/// A run of three workers, of the same visits.
fn workers(all: &[Visit]) -> Arc<TempDir> {
    let dir = Arc::new(TempDir::new().unwrap());
    for rank in 0..3u32 {
        let own: Vec<Visit> = all.iter().filter(|visit| visit.example % 3 == u64::from(rank)).cloned().collect();
        let mut part = Synthetic::part(dir.clone(), Some((rank, 3)), Encoding::Q8);
        part.set(0, "test");
        part.probes(&[Draws(u64::from(rank)).visit(1 + u64::from(rank), 0, 0)]);
        own.chunks([40, 3, 17][rank as usize]).for_each(|rows| part.visits(rows));
        part.end();
        part.finish();
    }
    dir
}
