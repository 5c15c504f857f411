//! The table function `influence`: which training examples taught the model its answers.

mod asked;
mod exec;
mod strongest;

use crate::arguments::Arguments;
use crate::leaf::project;
use crate::shares::Shares;
use crate::RunTables;
use arrow_schema::SchemaRef;
pub(crate) use asked::AskedInfluence;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
pub(crate) use exec::InfluenceExec;
use std::sync::Arc;
pub(crate) use strongest::StrongestExec;

pub(crate) const NAME: &str = "influence";

/// `influence('test', 10)`, `influence('test', 10, 'ids=3,17', 'epochs=2..')`: TracIn, as `gradlog influence` has it.
#[derive(Debug)]
pub(crate) struct InfluenceFunction {
    tables: RunTables,
}

impl InfluenceFunction {
    pub fn new(tables: RunTables) -> Self {
        Self { tables }
    }
}

impl TableFunctionImpl for InfluenceFunction {
    fn call_with_args(&self, arguments: TableFunctionArgs<'_, '_>) -> Result<Arc<dyn TableProvider>> {
        let mut arguments = Arguments::new(NAME, arguments.exprs());
        let set = arguments.text("name of a probe set")?.to_owned();
        let top = arguments.number("the number of proponents and opponents")?;
        let asked = AskedInfluence::new(&self.tables, set, top, arguments.options()?)?;
        Ok(Arc::new(InfluenceTable { tables: self.tables.clone(), asked: Arc::new(asked) }))
    }
}

#[derive(Debug)]
struct InfluenceTable {
    tables: RunTables,
    asked: Arc<AskedInfluence>,
}

#[async_trait]
impl TableProvider for InfluenceTable {
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
        let is_shared = shares.of() > 1;
        let mut plan: Arc<dyn ExecutionPlan> =
            Arc::new(InfluenceExec::new(self.tables.clone(), self.asked.clone(), shares));
        if let (true, Some(top)) = (is_shared, self.asked.top) {
            plan = Arc::new(StrongestExec::new(plan, top));
        }
        project(plan, projection)
    }
}
