//! Aggregate functions over visits.

mod forgetting;

use datafusion::logical_expr::AggregateUDF;
use datafusion::prelude::SessionContext;

/// Adds the functions to a session.
pub(crate) fn register(context: &SessionContext) {
    context.register_udaf(AggregateUDF::from(forgetting::ForgettingFunction::new()));
}
