//! Aggregate functions over visits.

mod forgetting;

#[cfg(feature = "cluster")]
use datafusion::error::Result;
#[cfg(feature = "cluster")]
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::logical_expr::AggregateUDF;
use datafusion::prelude::SessionContext;
#[cfg(feature = "cluster")]
use std::sync::Arc;

/// Adds the functions to a session.
pub(crate) fn register(context: &SessionContext) {
    context.register_udaf(AggregateUDF::from(forgetting::ForgettingFunction::new()));
}

/// Adds the functions to a session that is not there yet.
#[cfg(feature = "cluster")]
pub(crate) fn register_in(state: &mut SessionState) -> Result<()> {
    state.register_udaf(Arc::new(AggregateUDF::from(forgetting::ForgettingFunction::new()))).map(drop)
}
