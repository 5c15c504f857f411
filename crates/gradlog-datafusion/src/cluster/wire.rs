//! Plan nodes as bytes.
//!
//! | Bytes | Name | Description |
//! |---|---|---|
//! | 0–5 | magic | `GLNODE` |
//! | 6–7 | version | u16, little-endian: 1 |
//! | 8– | node | a [`Node`] as JSON, at most [`BYTES_MAX`] bytes |
//!
//! JSON, because a node is some hundred bytes beside megabytes of rows, and its parser takes hostile bytes. Only a
//! worker of the same version of gradlog gets any, so there is nothing to keep readable.

use crate::SqlError;
use serde::{Deserialize, Serialize};

const MAGIC: &[u8; 6] = b"GLNODE";
const VERSION: u16 = 1;
/// The longest node. A list of a million examples has 20 MB.
pub(super) const BYTES_MAX: usize = 32 << 20;

/// A run, and what the client found in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunAt {
    /// Its absolute path, or its address in an object store.
    pub place: String,
    pub run_id: [u8; 16],
    pub blocks: u64,
    /// Over the headers of all blocks, which hold the checksums of everything else.
    pub checksum: u32,
}

/// Blocks that are read one after another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Blocks {
    pub bucket: Option<u32>,
    pub first: u64,
    pub end: u64,
    pub rows: u64,
}

/// Shares of the examples, one a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Dealt {
    pub of: u32,
    pub own: Vec<Option<u32>>,
}

/// A plan node of gradlog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) enum Node {
    /// `RecordScanExec`.
    Records {
        run: RunAt,
        record: String,
        columns: Vec<String>,
        epochs: Option<(u32, u32)>,
        steps: Option<(u64, u64)>,
        examples: Option<Vec<u64>>,
        limit: Option<u64>,
        parts: Vec<Vec<Blocks>>,
    },
    /// `ScoresExec`.
    Scores { run: RunAt, score: String, options: Vec<(String, String)>, projection: Option<Vec<usize>>, shares: Dealt },
    /// `InfluenceExec`.
    Influence { run: RunAt, set: String, top: Option<u64>, options: Vec<(String, String)>, shares: Dealt },
    /// `StrongestExec`.
    Strongest { top: u64 },
    /// `PartsExec`.
    Parts { verb: String, runs: Vec<RunAt>, options: Vec<String>, shares: Dealt },
}

impl Node {
    /// Appends the node.
    pub fn write(&self, to: &mut Vec<u8>) -> Result<(), SqlError> {
        let json = serde_json::to_vec(self).map_err(|error| refusal(format!("cannot be written: {error}")))?;
        if json.len() > BYTES_MAX {
            return Err(refusal(format!("has {} bytes, and {BYTES_MAX} are allowed: name fewer ids", json.len())));
        }
        to.extend_from_slice(MAGIC);
        to.extend_from_slice(&VERSION.to_le_bytes());
        to.extend_from_slice(&json);
        Ok(())
    }

    /// Reads a node that is all of some bytes.
    pub fn read(bytes: &[u8]) -> Result<Self, SqlError> {
        let Some(rest) = bytes.strip_prefix(MAGIC) else { return Err(refusal("does not come from gradlog".into())) };
        let Some((version, json)) = rest.split_first_chunk::<2>() else { return Err(refusal("is cut".into())) };
        let version = u16::from_le_bytes(*version);
        if version != VERSION {
            return Err(refusal(format!("has version {version}, and this program knows {VERSION}")));
        }
        if json.len() > BYTES_MAX {
            return Err(refusal(format!("has {} bytes, and {BYTES_MAX} are allowed", json.len())));
        }
        serde_json::from_slice(json).map_err(|error| refusal(format!("cannot be read: {error}")))
    }
}

fn refusal(what: String) -> SqlError {
    SqlError::Cluster { what: format!("a node of a plan {what}") }
}
