//! Queries on several machines, by datafusion-distributed.
//!
//! A client plans a query and deals the partitions of its leaves out to workers ([`split`]). Plan nodes travel as bytes
//! ([`wire`], [`codec`]). A worker opens the run itself, and refuses one that is not the client's ([`runs`]). There is
//! no scheduler: the client leads its own query, and asks it again if a worker died meanwhile ([`client`]).
//!
//! Scores and influence that the command asks for are parts of examples, as `--part I/N` has them ([`parts`]).
//!
//! Invariants: no bytes from the network make the codec panic; a worker writes nothing but temporary files; an answer
//! rests on every partition, each of which one worker read.

mod caught;
mod channels;
mod client;
mod codec;
mod nodes;
mod parts;
mod runs;
mod split;
#[cfg(test)]
mod tests;
mod wire;
mod worker;

pub(crate) use client::Cluster;
pub(crate) use parts::{ask_parts, PartsQuestion};
pub(crate) use worker::serve;

/// What client and workers must have in common: plans of another version may mean something else.
pub(crate) const VERSION: &str = concat!("gradlog-sql ", env!("CARGO_PKG_VERSION"));
