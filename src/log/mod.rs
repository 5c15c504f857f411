//! The log: bytes <-> structs, and the writer that puts them into files. The specification is `FORMAT.md` beside this file.
//!
//! Owns the manifest, blocks, columns and segments. Knows neither candle nor scores nor threads: the writer is called
//! by one thread at a time, and whoever calls it decides which. Readers go through [`crate::run`].

#[cfg_attr(not(feature = "candle"), allow(dead_code))]
mod block;
mod codec;
mod column;
#[cfg_attr(not(feature = "candle"), allow(dead_code))]
mod compress;
mod manifest;
mod planes;
mod segment;
#[cfg_attr(not(feature = "candle"), allow(dead_code))]
mod storage;
mod terms;
mod worker;
#[cfg_attr(not(feature = "candle"), allow(dead_code))]
mod writer;

pub use block::BlockKind;
pub use column::{Column, ColumnKey, NO_LAYER};
pub use manifest::{LayerRecord, Manifest, VariableRecord};
pub use terms::{Mode, PredictionScore};
pub use worker::{AllReduce, WorkerRecord, WORKERS_MAX};
pub use writer::LogError;

#[cfg_attr(not(feature = "candle"), allow(unused_imports))]
pub(crate) use block::{
    BlockBuilder, BlockHeader, ColumnEntry, BLOCK_MAGIC, BLOCK_RAW_BYTES_MAX, ENTRY_BYTES, HEADER_BYTES,
};
pub(crate) use column::Cells;
pub(crate) use compress::Compressor;
pub(crate) use segment::{checkpoint_path, segment_path, SegmentHeader, SEGMENT_HEADER_BYTES};
#[cfg_attr(not(feature = "candle"), allow(unused_imports))]
pub(crate) use storage::{check_size_limit, make_folder, next_data, open_file, sync_folder};
#[cfg(test)]
pub(crate) use storage::{MmapStorage, Storage};
pub(crate) use worker::{worker_folder, worker_folders};
#[cfg_attr(not(feature = "candle"), allow(unused_imports))]
pub(crate) use writer::{io_error, LogWriter, ResumePlace, Totals, WriterOptions};

/// The version that this crate writes, and the newest that it reads.
pub const FORMAT_VERSION: u16 = 1;

/// Name of the manifest inside a run's folder.
pub(crate) const MANIFEST_FILE: &str = "manifest";
/// Name of the folder inside a run's folder that holds its checkpoints.
pub(crate) const CHECKPOINT_FOLDER: &str = "checkpoints";
/// Name of the file that a recorder holds locked while it writes.
pub(crate) const LOCK_FILE: &str = "lock";
