//! The log: bytes <-> structs, and the writer that puts them into files. The specification is `FORMAT.md` beside this file.
//!
//! Owns the manifest, blocks, columns and segments. Knows neither candle nor scores nor threads: the writer is called
//! by one thread at a time, and whoever calls it decides which. Readers go through [`crate::run`].

mod block;
mod codec;
mod column;
mod compress;
mod extension;
mod manifest;
mod planes;
mod segment;
mod storage;
mod terms;
mod worker;
mod writer;

pub use block::{
    BlockBuilder, BlockHeader, BlockKind, ColumnEntry, BLOCK_MAGIC, BLOCK_RAW_BYTES_MAX, ENTRY_BYTES, HEADER_BYTES,
};
pub use column::{Cells, Column, ColumnKey, NO_LAYER};
pub use compress::Compressor;
pub use extension::{Extension, EXTENSIONS_MAX, PRIVATE_TAG_MIN};
pub use manifest::{LayerRecord, Manifest, VariableRecord};
pub use segment::{checkpoint_path, segment_path, SegmentHeader, SEGMENT_HEADER_BYTES};
pub use storage::{check_size_limit, make_folder, next_data, open_file, sync_folder, MmapStorage, Storage};
pub use terms::{Mode, PredictionScore};
pub use worker::{worker_folder, worker_folders, AllReduce, WorkerRecord, WORKERS_MAX};
pub use writer::{io_error, LogError, LogWriter, ResumePlace, Totals, WriterOptions};

/// The version that this crate writes, and the newest that it reads.
pub const FORMAT_VERSION: u16 = 1;

/// Name of the manifest inside a run's folder.
pub const MANIFEST_FILE: &str = "manifest";
/// Name of the folder inside a run's folder that holds its checkpoints.
pub const CHECKPOINT_FOLDER: &str = "checkpoints";
/// Name of the file that a recorder holds locked while it writes.
pub const LOCK_FILE: &str = "lock";
