//! The log: the bytes of a run, and the writer that puts them into files.
//!
//! The specification is `FORMAT.md` in the folder of this crate. [`LogWriter`] writes a run, [`BlockBuilder`] collects
//! the rows of a block, and [`Manifest`] describes the run. To read a run, use [`crate::run`].
//!
//! Nothing here starts a thread. One thread at a time calls the writer.

mod block;
mod bucket;
mod builder;
mod card;
pub(crate) mod codec;
mod column;
mod compress;
mod coupling;
mod error;
mod event;
mod extension;
mod finding;
mod lock;
mod manifest;
mod names;
mod planes;
pub(crate) mod prefix;
mod queue;
mod segment;
mod segment_writer;
mod storage;
mod terms;
mod two_sided;
mod worker;
mod writer;

pub use block::BlockKind;
pub use bucket::example_bucket;
pub use builder::BlockBuilder;
pub use card::{decode_row, encode_row, CardKind, CARD_BYTES_MAX};
pub use codec::DecodeError;
pub use column::{Cells, Column, ColumnKey, ColumnRole, NO_LAYER};
pub use coupling::{BatchNormHandling, BatchNormRecord, Coupling, CouplingKind};
pub use error::{io_error, LogError};
pub use event::{EventAction, EventKind, EventSentence};
pub use extension::{Extension, EXTENSIONS_MAX, PRIVATE_TAG_MIN};
pub use finding::FindingKind;
pub(crate) use lock::LogWriterLock;
pub use manifest::{LayerRecord, Manifest, VariableRecord};
pub use names::{
    checkpoint_path, segment_path, worker_folder, worker_folders, CHECKPOINT_FOLDER, LOCK_FILE, MANIFEST_FILE,
    QUEUE_FILE,
};
pub use prefix::FORMAT_VERSION;
pub use queue::{QueueFile, QueueFill};
pub use segment::{SegmentHeader, SEGMENT_HEADER_BYTES};
pub use storage::{check_size_limit, make_folder, sync_folder, MmapStorage, Storage};
pub use terms::{Mode, Preconditioner, PredictionScore, UpdateRule};
pub use two_sided::TwoSided;
pub use worker::{AllReduce, WorkerRecord, WORKERS_MAX};
pub use writer::{LogWriter, ResumePlace, Totals, WriterOptions};

pub(crate) use block::{
    BlockHeader, ColumnEntry, AMENDS_ALL, AMENDS_VECTORS, BLOCK_MAGIC, BLOCK_RAW_BYTES_MAX, ENTRY_BYTES, HEADER_BYTES,
};
pub(crate) use compress::Compressor;
pub(crate) use names::worker_rank;
pub(crate) use prefix::newer_version;
pub(crate) use queue::QUEUE_FILE_BYTES;
pub(crate) use storage::{next_data, open_file};

/// The parts of a block, for benchmarks that measure them one by one and tests that take blocks apart. No promises.
#[doc(hidden)]
pub mod parts {
    pub use super::block::{BlockHeader, ColumnEntry, BLOCK_MAGIC, ENTRY_BYTES, HEADER_BYTES};
    pub use super::compress::Compressor;
}
