//! SQL over what gradlog recorded.
//!
//! [`RunTables`] adds the tables of a run, its scores and its influence to a session of DataFusion.
//! `docs/sql.md` describes tables and functions. [`command`] is the program `gradlog-sql`.

mod aggregates;
mod arguments;
#[cfg_attr(not(feature = "cluster"), path = "cluster/absent.rs")]
mod cluster;
pub mod command;
mod error;
mod influence;
mod leaf;
mod outline;
mod record_scan;
mod record_table;
mod rows;
mod scores;
mod shares;
mod tables;
#[cfg(test)]
mod tests;
mod wanted;

pub use error::SqlError;
pub use tables::RunTables;
