//! From plan nodes to what travels of them, and back.

use super::parts::{PartsExec, PartsQuestion};
use super::runs::Runs;
use super::wire::{Blocks, Dealt, Node, RunAt};
use crate::arguments::Options;
use crate::influence::{AskedInfluence, InfluenceExec, StrongestExec};
use crate::outline::Stretch;
use crate::record_scan::RecordScanExec;
use crate::scores::{AskedScores, ScoresExec};
use crate::shares::Shares;
use crate::wanted::Wanted;
use crate::{influence, scores, RunTables, SqlError};
use arrow_schema::DataType;
use datafusion::error::Result;
use datafusion::physical_plan::ExecutionPlan;
use gradlog_analysis::{Score, Window};
use gradlog_arrow::{Record, RecordQuestion};
use std::path::Path;
use std::sync::Arc;

/// Which run some tables are of.
pub(super) fn run_at(tables: &RunTables) -> Result<RunAt, SqlError> {
    let state = tables.state()?;
    let (run_id, blocks, checksum) = (state.run_id, state.blocks, state.checksum);
    Ok(RunAt { place: place(tables.run().dir())?, run_id, blocks, checksum })
}

/// The path of a run as a worker can open it.
fn place(dir: &Path) -> Result<String, SqlError> {
    let found = |dir: &Path| dir.to_str().map(str::to_owned);
    let whole = match gradlog_cli::shared::is_address(dir) {
        true => found(dir),
        false => found(&std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned())),
    };
    whole.ok_or_else(|| refusal(format!("the path {} cannot be sent to a worker: it is no text", dir.display())))
}

/// What travels of a node; `None` for a node that is not of gradlog.
pub(super) fn encode(node: &dyn ExecutionPlan) -> Result<Option<Node>, SqlError> {
    if let Some(scan) = node.downcast_ref::<RecordScanExec>() {
        return records(scan).map(Some);
    }
    if let Some(ScoresExec { tables, asked, projection, shares, .. }) = node.downcast_ref::<ScoresExec>() {
        let (run, projection, shares) = (run_at(tables)?, projection.clone(), dealt(shares));
        let (score, options) = (asked.score.to_string(), asked.options.pairs().to_vec());
        return Ok(Some(Node::Scores { run, score, options, projection, shares }));
    }
    if let Some(InfluenceExec { tables, asked, shares, .. }) = node.downcast_ref::<InfluenceExec>() {
        let (run, set, shares) = (run_at(tables)?, asked.set.clone(), dealt(shares));
        let (top, options) = (asked.top.map(|top| top as u64), asked.options.pairs().to_vec());
        return Ok(Some(Node::Influence { run, set, top, options, shares }));
    }
    if let Some(strongest) = node.downcast_ref::<StrongestExec>() {
        return Ok(Some(Node::Strongest { top: strongest.top() as u64 }));
    }
    if let Some(parts) = node.downcast_ref::<PartsExec>() {
        let PartsQuestion { verb, runs, options } = parts.question().as_ref().clone();
        return Ok(Some(Node::Parts { verb, runs, options, shares: dealt(parts.shares()) }));
    }
    Ok(None)
}

fn records(scan: &RecordScanExec) -> Result<Node, SqlError> {
    let blocks = |stretch: &Stretch| {
        let Stretch { bucket, blocks, rows } = stretch.clone();
        Blocks { bucket, first: blocks.start, end: blocks.end, rows }
    };
    let Wanted { window, examples } = scan.wanted.clone();
    Ok(Node::Records {
        run: run_at(&scan.tables)?,
        record: scan.record.name().to_owned(),
        columns: scan.schema().fields().iter().map(|field| field.name().clone()).collect(),
        epochs: window.epochs.map(|epochs| (epochs.start, epochs.end)),
        steps: window.steps.map(|steps| (steps.start, steps.end)),
        examples,
        limit: scan.limit.map(|limit| limit as u64),
        parts: scan.parts.iter().map(|part| part.iter().map(blocks).collect()).collect(),
    })
}

/// The node again, over runs that are opened here.
pub(super) fn decode(node: Node, inputs: &[Arc<dyn ExecutionPlan>], runs: &Runs) -> Result<Arc<dyn ExecutionPlan>> {
    let inputs_wanted = usize::from(matches!(node, Node::Strongest { .. }));
    if inputs.len() != inputs_wanted {
        return Err(refusal(format!("a node with {} inputs has {inputs_wanted}", inputs.len())).into());
    }
    Ok(match node {
        Node::Records { run, record, columns, epochs, steps, examples, limit, parts } => {
            let tables = runs.open(&run)?;
            let record = Record::ALL.into_iter().find(|known| known.name() == record);
            let record = record.ok_or_else(|| refusal("there is no table of this name".into()))?;
            let schema = RecordQuestion::new(record).schema(tables.run()).map_err(SqlError::from)?;
            let places = columns.iter().map(|name| schema.index_of(name)).collect::<Result<Vec<usize>, _>>()?;
            let schema = Arc::new(schema.project(&places)?);
            let mut window = Window::default();
            if let Some((first, end)) = epochs {
                window = window.with_epochs(first..end);
            }
            if let Some((first, end)) = steps {
                window = window.with_steps(first..end);
            }
            let stretch = |Blocks { bucket, first, end, rows }| Stretch { bucket, blocks: first..end, rows };
            let parts: Vec<Vec<Stretch>> =
                parts.into_iter().map(|part| part.into_iter().map(stretch).collect()).collect();
            let buckets = tables.run().buckets().map_or(0, |buckets| buckets.first_blocks.len().saturating_sub(1));
            let is_there = |stretch: &Stretch| stretch.bucket.is_none_or(|bucket| (bucket as usize) < buckets);
            if !parts.iter().flatten().all(is_there) {
                return Err(refusal("there is no such bucket".into()).into());
            }
            let (wanted, limit) = (Wanted { window, examples }, limit.map(whole));
            Arc::new(RecordScanExec::of_parts(tables, record, schema, (wanted, limit), parts))
        }
        Node::Scores { run, score, options, projection, shares } => {
            let tables = runs.open(&run)?;
            let score: Score = score.parse().map_err(|_| refusal("there is no such score".into()))?;
            let asked = AskedScores::new(score, Options::of_pairs(scores::NAME, options))?;
            Arc::new(ScoresExec::new(tables, Arc::new(asked), projection, shares_of(shares)?)?)
        }
        Node::Influence { run, set, top, options, shares } => {
            let tables = runs.open(&run)?;
            let asked = AskedInfluence::new(&tables, set, top, Options::of_pairs(influence::NAME, options))?;
            Arc::new(InfluenceExec::new(tables, Arc::new(asked), shares_of(shares)?))
        }
        Node::Strongest { top } => {
            let schema = inputs[0].schema();
            let of_influence = |name: &str, kind| schema.field_with_name(name).is_ok_and(|it| *it.data_type() == kind);
            let ids = of_influence("example", DataType::UInt64) && of_influence("probe", DataType::UInt64);
            if !ids || !of_influence("score", DataType::Float64) {
                return Err(refusal("a node merges rows that do not come from influence".into()).into());
            }
            Arc::new(StrongestExec::new(inputs[0].clone(), whole(top)))
        }
        Node::Parts { verb, runs: at, options, shares } => {
            at.iter().try_for_each(|run| runs.open(run).map(drop))?;
            let question = PartsQuestion { verb, runs: at, options };
            Arc::new(PartsExec::new(Arc::new(question), shares_of(shares)?)?)
        }
    })
}

fn whole(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn dealt(shares: &Shares) -> Dealt {
    Dealt { of: shares.of(), own: shares.numbers() }
}

fn shares_of(Dealt { of, own }: Dealt) -> Result<Shares, SqlError> {
    Shares::new(of, own)
}

fn refusal(what: String) -> SqlError {
    SqlError::Cluster { what }
}
