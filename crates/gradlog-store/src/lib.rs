//! Runs of gradlog in object stores: S3, Google Cloud Storage, Azure, and servers of plain HTTP.
//!
//! [`open_run`] opens a run by its address. It is a [`Run`](gradlog_format::run::Run) like one in a folder: the same
//! reader reads it, through a [`Place`](gradlog_format::run::Place) whose bytes come by requests ([`Store`]). [`Sync`]
//! copies a run to an address while it is recorded.
//!
//! What bounds memory, requests and waiting is in [`Options`]. Credentials come from environment variables, as the
//! crate `object_store` reads them.

// Bytes from a network must not panic.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::panic))]

mod address;
mod cache;
mod client;
mod connect;
mod error;
mod options;
mod remote_file;
mod store;
mod sync;

pub use address::{is_address, SCHEMES};
pub use client::Requests;
pub use error::StoreError;
pub use options::Options;
pub use store::{open_run, Store};
pub use sync::{Sync, SyncEvent, SyncReport};
