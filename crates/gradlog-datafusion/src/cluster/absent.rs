//! What stands for workers in a program that was built without them.

use crate::SqlError;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionStateBuilder;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionConfig;
use std::sync::Arc;

/// No workers, ever.
#[derive(Debug, Clone)]
pub(crate) enum Cluster {}

impl Cluster {
    pub fn new(_: &[String]) -> Result<Self, SqlError> {
        let what = "this gradlog-sql was built without workers: build it with the feature `cluster`";
        Err(SqlError::Cluster { what: what.into() })
    }

    pub fn shares(&self) -> usize {
        match *self {}
    }

    pub async fn check(&self) -> Result<(), SqlError> {
        match *self {}
    }

    pub async fn ask_again(&mut self, _: &DataFusionError) -> Result<Option<String>, SqlError> {
        match *self {}
    }

    pub fn state(&self, _: SessionConfig, _: Option<usize>) -> Result<SessionStateBuilder> {
        match *self {}
    }

    pub async fn said(&self, _: Arc<dyn ExecutionPlan>) -> Vec<String> {
        match *self {}
    }
}
