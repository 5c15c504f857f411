//! A table of the log for DataFusion: what is pushed down to it.

use crate::record_scan::RecordScanExec;
use crate::wanted::Wanted;
use crate::{RunTables, SqlError};
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use gradlog_arrow::{Record, RecordQuestion};
use std::sync::Arc;

/// A table of the log.
///
/// Only columns that a query names are read. Comparisons of `step` and `epoch` with numbers, and ids of examples,
/// choose blocks and rows before a row leaves the table.
#[derive(Debug)]
pub(crate) struct RecordTable {
    tables: RunTables,
    record: Record,
    schema: SchemaRef,
}

impl RecordTable {
    pub fn new(tables: RunTables, record: Record) -> Result<Self, SqlError> {
        let schema = RecordQuestion::new(record).schema(tables.run())?;
        Ok(Self { tables, record, schema })
    }

    /// What is wanted by a condition, if the log can be asked it.
    fn wanted(&self, condition: &Expr) -> Option<Wanted> {
        // A list is short, and the last of all numbers is in no range of the reader.
        let is_last = |steps: (u64, u64), epochs: (u32, u32)| steps.1 == u64::MAX || epochs.1 == u32::MAX;
        let mut blocks = self.tables.outline().of(self.record);
        if self.record.is_listed() || blocks.any(|block| is_last(block.steps, block.epochs)) {
            return None;
        }
        Wanted::of_condition(self.record, condition)
    }
}

#[async_trait]
impl TableProvider for RecordTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// The reader leaves out exactly the rows that do not meet a condition.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let of = |condition: &&Expr| match self.wanted(condition) {
            Some(_) => TableProviderFilterPushDown::Exact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(of).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.tables.refuse_damage(self.tables.outline().damage.as_ref())?;
        let wanted = filters.iter().filter_map(|filter| self.wanted(filter)).fold(Wanted::default(), Wanted::and);
        let schema = match projection {
            Some(columns) => Arc::new(self.schema.project(columns)?),
            None => self.schema.clone(),
        };
        let parts = state.config().target_partitions();
        Ok(Arc::new(RecordScanExec::new(self.tables.clone(), self.record, schema, wanted, limit, parts)))
    }
}
