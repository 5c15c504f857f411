//! `forgetting(step, correct, loss)`: how often an example went from right to wrong, from rows in any order.
//!
//! Forgetting depends on the order of visits, and rows of SQL have none. So the state keeps step and correctness of
//! every visit, and the last node sorts them: 9 bytes a visit.

use crate::SqlError;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, UInt64Type};
use arrow_array::{Array, ArrayRef, BooleanArray, ListArray, UInt64Array};
use arrow_schema::{DataType, Field, FieldRef};
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::common::{exec_err, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{format_state_name, AggregateOrderSensitivity};
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, Signature, Volatility};
use gradlog_analysis::Presentations;
use std::mem::size_of_val;
use std::sync::Arc;

/// `forgetting(step, correct, loss)`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct ForgettingFunction {
    signature: Signature,
}

impl ForgettingFunction {
    pub fn new() -> Self {
        let types = vec![DataType::UInt64, DataType::Float32, DataType::Float32];
        Self { signature: Signature::exact(types, Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for ForgettingFunction {
    fn name(&self) -> &str {
        "forgetting"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn accumulator(&self, _: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Visits::default()))
    }

    fn state_fields(&self, arguments: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let list = |name, item| {
            Arc::new(Field::new_list(format_state_name(arguments.name, name), Field::new_list_field(item, true), true))
        };
        Ok(vec![list("steps", DataType::UInt64), list("correct", DataType::Boolean)])
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }
}

/// The visits of a group, in any order.
#[derive(Debug, Default)]
struct Visits {
    steps: Vec<u64>,
    correct: Vec<bool>,
}

impl Visits {
    fn score(&self) -> Result<Option<f64>, SqlError> {
        let mut visits: Vec<(u64, bool)> = self.steps.iter().copied().zip(self.correct.iter().copied()).collect();
        visits.sort_unstable();
        if let Some(pair) = visits.windows(2).find(|pair| pair[0].0 == pair[1].0 && pair[0].1 != pair[1].1) {
            return Err(SqlError::NoOrder { step: pair[0].0 });
        }
        let mut presentations = Presentations::default();
        visits.iter().for_each(|(_, correct)| presentations.add(*correct));
        Ok(presentations.forgetting())
    }
}

impl Accumulator for Visits {
    /// A visit without a prediction, or with a number that is not finite, tells nothing and is passed over.
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let steps = values[0].as_primitive::<UInt64Type>();
        let (correct, losses) = (values[1].as_primitive::<Float32Type>(), values[2].as_primitive::<Float32Type>());
        for row in 0..steps.len() {
            let finite = |numbers: &arrow_array::Float32Array| {
                (!numbers.is_null(row)).then(|| numbers.value(row)).filter(|number| number.is_finite())
            };
            let (false, Some(correct), Some(_)) = (steps.is_null(row), finite(correct), finite(losses)) else {
                continue;
            };
            if correct != 0.0 && correct != 1.0 {
                return exec_err!(
                    "forgetting: a visit with a share of {correct} right predictions is neither right nor wrong; \
                     take avg(correct) of examples with several predictions"
                );
            }
            self.steps.push(steps.value(row));
            self.correct.push(correct == 1.0);
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let (steps, correct): (&ListArray, &ListArray) = (states[0].as_list(), states[1].as_list());
        for row in 0..steps.len() {
            if steps.is_null(row) {
                continue;
            }
            self.steps.extend(steps.value(row).as_primitive::<UInt64Type>().values());
            self.correct.extend(correct.value(row).as_boolean().values());
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let list = |array: ArrayRef| SingleRowListArrayBuilder::new(array).build_list_scalar();
        let steps = Arc::new(UInt64Array::from(std::mem::take(&mut self.steps)));
        let correct = Arc::new(BooleanArray::from(std::mem::take(&mut self.correct)));
        Ok(vec![list(steps), list(correct)])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Float64(self.score()?))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.steps.capacity() * 8 + self.correct.capacity()
    }
}
