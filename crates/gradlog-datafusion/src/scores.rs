//! The table function `scores`: a score of every example, as the analyzer computes it.

use crate::arguments::{Arguments, Options};
use crate::leaf::leaf_methods;
use crate::rows::{properties, stream, RowSink};
use crate::shares::{basis_words, Shares};
use crate::{RunTables, SqlError};
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::internal_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, EmptyRecordBatchStream, ExecutionPlan, PlanProperties};
use gradlog_analysis::{ExampleShare, Score, ScoreQuestion};
use gradlog_arrow::{AnswerTable, BatchBuilder, Value};
use std::fmt;
use std::sync::Arc;

pub(crate) const NAME: &str = "scores";

/// `scores('aum')`, `scores('el2n', 'epochs=2..5')`: the rows of `gradlog scores`.
#[derive(Debug)]
pub(crate) struct ScoresFunction {
    tables: RunTables,
}

impl ScoresFunction {
    pub fn new(tables: RunTables) -> Self {
        Self { tables }
    }
}

impl TableFunctionImpl for ScoresFunction {
    fn call_with_args(&self, arguments: TableFunctionArgs<'_, '_>) -> Result<Arc<dyn TableProvider>> {
        let mut arguments = Arguments::new(NAME, arguments.exprs());
        let name = arguments.text("name of a score")?;
        let score = name.parse::<Score>().map_err(|error| SqlError::argument(NAME, error.to_string()))?;
        let asked = AskedScores::new(score, arguments.options()?)?;
        Ok(Arc::new(ScoresTable { tables: self.tables.clone(), asked: Arc::new(asked) }))
    }
}

/// What is asked.
#[derive(Debug)]
pub(crate) struct AskedScores {
    question: ScoreQuestion,
    pub score: Score,
    pub options: Options,
    columns: Vec<&'static str>,
    schema: SchemaRef,
}

impl AskedScores {
    pub fn new(score: Score, options: Options) -> Result<Self, SqlError> {
        options.only(&["epochs", "steps", "at", "optimizer"])?;
        let window = options.window()?;
        let is_on_sweeps = window.source == gradlog_analysis::Source::Sweeps;
        let mut question = ScoreQuestion::new(score).window(window);
        if let Some(optimizer) = options.named("optimizer")? {
            question = question.optimizer(optimizer);
        }
        let mut columns = vec!["example", if is_on_sweeps { "checkpoints" } else { "visits" }, "score"];
        columns.extend(score.extras());
        columns.extend(["not_finite", "label", "prediction"]);
        let schema = BatchBuilder::new(&columns, []).schema();
        Ok(Self { question, score, options, columns, schema })
    }

    /// Hands over the rows of a share of the examples.
    fn answer(&self, tables: &RunTables, share: ExampleShare, sink: &mut RowSink) -> Result<(), SqlError> {
        let question = self.question.clone().share_progress(&sink.progress());
        let table = match share.of() {
            1 => question.compute(tables.run())?,
            of => {
                // Of a compacted run a share reads its own buckets alone.
                let run = tables.run().as_ref().clone().with_share(share.number() - 1, of);
                question.share(share).compute(&run)?
            }
        };
        tables.refuse_damage(table.damage.as_ref())?;
        let of_share = if share.of() == 1 { String::new() } else { format!("share {share}: ") };
        let notes = table.left_out.notes().into_iter().map(|note| format!("note: {of_share}{note}"));
        let basis = std::iter::once(basis_words(&table.basis, share)).filter(|_| share.number() == 1);
        sink.say(tables, basis.chain(notes));
        let is_on_sweeps = table.basis.is_sweeps();
        let rows = table.rows.into_iter().map(Into::into).collect();
        let AnswerTable { columns, rows, .. } = AnswerTable::of_scores(self.score, rows, false, is_on_sweeps);
        // Labels and predictions are columns of every answer here, and null in a run without them.
        let places: Vec<Option<usize>> =
            self.columns.iter().map(|name| columns.iter().position(|known| known == name)).collect();
        for row in rows {
            let of_place = |place: &Option<usize>| place.map_or(Value::Nothing, |place| row[place].clone());
            sink.add(&places.iter().map(of_place).collect::<Vec<Value>>())?;
        }
        tables.refuse_change()
    }
}

#[derive(Debug)]
struct ScoresTable {
    tables: RunTables,
    asked: Arc<AskedScores>,
}

#[async_trait]
impl TableProvider for ScoresTable {
    fn schema(&self) -> SchemaRef {
        self.asked.schema.clone()
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
        let shares = Shares::all(self.tables.shares())?;
        Ok(Arc::new(ScoresExec::new(self.tables.clone(), self.asked.clone(), projection.cloned(), shares)?))
    }
}

/// The plan node: a partition scores a share of the examples.
#[derive(Debug)]
pub(crate) struct ScoresExec {
    pub tables: RunTables,
    pub asked: Arc<AskedScores>,
    /// The columns that are wanted, of all that there are.
    pub projection: Option<Vec<usize>>,
    pub shares: Shares,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl ScoresExec {
    pub fn new(
        tables: RunTables,
        asked: Arc<AskedScores>,
        projection: Option<Vec<usize>>,
        shares: Shares,
    ) -> Result<Self> {
        let schema = match &projection {
            Some(columns) => Arc::new(asked.schema.project(columns)?),
            None => asked.schema.clone(),
        };
        let properties = properties(schema, shares.partitions());
        Ok(Self { tables, asked, projection, shares, properties, metrics: ExecutionPlanMetricsSet::new() })
    }

    /// The same node for some processes, of which each has some of the shares.
    #[cfg(feature = "cluster")]
    pub fn deal(&self, tasks: usize) -> Vec<Self> {
        let of_task = |shares: Shares| {
            let (tables, asked, projection) = (self.tables.clone(), self.asked.clone(), self.projection.clone());
            let properties = properties(self.schema(), shares.partitions());
            Self { tables, asked, projection, shares, properties, metrics: ExecutionPlanMetricsSet::new() }
        };
        self.shares.deal(tasks).into_iter().map(of_task).collect()
    }
}

impl DisplayAs for ScoresExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (run, asked) = (self.tables.run().dir().display(), &self.asked);
        write!(f, "ScoresExec: {}, run={run}{}, shares={}", asked.score, asked.options, self.shares)
    }
}

impl ExecutionPlan for ScoresExec {
    leaf_methods!("ScoresExec");

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(share) = self.shares.get(partition) else { return internal_err!("no partition {partition}") };
        let Some(share) = share else { return Ok(Box::pin(EmptyRecordBatchStream::new(self.schema()))) };
        let of_node = (self.metrics.clone(), partition);
        let (tables, asked) = (self.tables.clone(), self.asked.clone());
        let columns = self.asked.columns.clone();
        let answer = move |sink: &mut RowSink| asked.answer(&tables, share, sink);
        Ok(stream(self.schema(), (&columns, self.projection.clone()), of_node, answer))
    }
}
