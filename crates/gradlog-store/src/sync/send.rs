//! Sends one file, and reads it back.

use super::files::local;
use crate::client::{Client, Version};
use crate::error::{refusal, StoreError};
use bytes::Bytes;
use futures_util::future::try_join_all;
use object_store::path::Path as Key;
use object_store::{Attribute, Attributes, MultipartUpload, PutMultipartOptions, PutPayload};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The attribute of a file in the store that has the SHA-256 of its bytes.
const CHECKSUM_ATTRIBUTE: &str = "gradlog-sha256";
/// Length of the parts of a long file. S3 takes none below 5 MiB.
const PART_BYTES: u64 = 8 << 20;
/// S3 takes 10,000 parts of a file.
const PARTS_MAX: u64 = 9_000;
/// How many parts are on their way, each held in memory.
const PARTS_IN_FLIGHT: usize = 4;
/// How much of a file is hashed at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Length and SHA-256 of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Digest {
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// A file on this machine, and where it belongs in the store.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) local: PathBuf,
    pub(super) key: Key,
    /// Its address.
    pub(super) remote: PathBuf,
}

fn hex(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a file of this machine for its length and checksum.
pub(super) fn digest(path: &Path) -> Result<Digest, StoreError> {
    let read = || -> io::Result<Digest> {
        let (mut file, mut hasher, mut bytes) = (File::open(path)?, Sha256::new(), 0);
        let mut chunk = vec![0u8; CHUNK_BYTES];
        loop {
            match file.read(&mut chunk) {
                Ok(0) => return Ok(Digest { bytes, sha256: hex(&hasher.finalize()) }),
                Ok(read) => {
                    hasher.update(&chunk[..read]);
                    bytes += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    };
    read().map_err(local(path))
}

/// What is at the address of a file: nothing, the same, or something else, and how that differs.
pub(super) enum There {
    Nothing,
    Same,
    Other(String),
}

impl Copy {
    fn request(&self, action: &'static str) -> impl FnOnce(io::Error) -> StoreError + '_ {
        move |error| StoreError::Request { action, path: self.remote.clone(), error }
    }

    /// Compares what is at the address with a file of this machine. Reads it where it has no checksum as attribute:
    /// somebody else put it there, or the store keeps no attributes.
    pub(super) fn look(&self, client: &Client, expected: &Digest) -> Result<There, StoreError> {
        let Some(about) = client.wait(client.look(&self.key)).map_err(self.request("look for"))? else {
            return Ok(There::Nothing);
        };
        if about.bytes != expected.bytes {
            return Ok(There::Other(format!("{} bytes, and {} here", about.bytes, expected.bytes)));
        }
        let noted = about.attributes.get(&Attribute::Metadata(CHECKSUM_ATTRIBUTE.into()));
        let found = match noted {
            Some(noted) => noted.to_string(),
            None => self.read_back(client, expected.bytes)?,
        };
        Ok(match found == expected.sha256 {
            true => There::Same,
            false => There::Other("its checksum is another one".into()),
        })
    }

    /// Sends the file, reads it back and compares.
    pub(super) fn send(&self, client: &Client, expected: &Digest) -> Result<(), StoreError> {
        let attributes: Attributes =
            [(Attribute::Metadata(CHECKSUM_ATTRIBUTE.into()), expected.sha256.clone())].into_iter().collect();
        let sent = match expected.bytes <= PART_BYTES {
            true => self.send_whole(client, attributes)?,
            false => self.send_parts(client, expected.bytes, attributes)?,
        };
        if sent != *expected {
            return Err(StoreError::Changed { path: self.local.clone() });
        }
        let unsound = |what: String| StoreError::Unsound { path: self.remote.clone(), what };
        match self.read_back(client, expected.bytes)? == expected.sha256 {
            true => Ok(()),
            false => Err(unsound("its checksum is another one".into())),
        }
    }

    fn send_whole(&self, client: &Client, attributes: Attributes) -> Result<Digest, StoreError> {
        let bytes = std::fs::read(&self.local).map_err(local(&self.local))?;
        let sent = Digest { bytes: bytes.len() as u64, sha256: hex(&Sha256::digest(&bytes)) };
        client.wait(client.write(&self.key, bytes.into(), attributes)).map_err(self.request("write"))?;
        Ok(sent)
    }

    fn send_parts(&self, client: &Client, bytes: u64, attributes: Attributes) -> Result<Digest, StoreError> {
        let options = PutMultipartOptions { attributes: attributes.clone(), ..Default::default() };
        let begun = client.wait(client.bounded(client.store.put_multipart_opts(&self.key, options)));
        let mut upload = match begun.map_err(self.request("write"))? {
            Ok(upload) => upload,
            // A server of plain HTTP takes a file in one piece.
            Err(object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. }) => {
                return self.send_whole(client, attributes);
            }
            Err(error) => return Err(self.request("write")(refusal(&error))),
        };
        let sent = self.send_each(client, upload.as_mut(), bytes);
        if sent.is_err() {
            // Parts that no file came of cost money until they are removed.
            let _ = client.wait(client.bounded(upload.abort()));
        }
        sent
    }

    fn send_each(&self, client: &Client, upload: &mut dyn MultipartUpload, bytes: u64) -> Result<Digest, StoreError> {
        let part_bytes = PART_BYTES.max(bytes.div_ceil(PARTS_MAX));
        let mut file = File::open(&self.local).map_err(local(&self.local))?;
        let (mut hasher, mut sent) = (Sha256::new(), 0);
        while sent < bytes {
            let mut parts = Vec::new();
            while parts.len() < PARTS_IN_FLIGHT && sent < bytes {
                let mut part = vec![0u8; part_bytes.min(bytes - sent) as usize];
                file.read_exact(&mut part).map_err(local(&self.local))?;
                hasher.update(&part);
                sent += part.len() as u64;
                client.count_write(part.len());
                let going = upload.put_part(PutPayload::from_bytes(part.into()));
                parts.push(async { client.bounded(going).await?.map_err(|error| refusal(&error)) });
            }
            client.wait(try_join_all(parts)).map_err(self.request("write"))?;
        }
        let read = Digest { bytes: sent, sha256: hex(&hasher.finalize()) };
        let ended = client.wait(client.bounded(upload.complete())).map_err(self.request("write"))?;
        ended.map_err(|error| self.request("write")(refusal(&error)))?;
        Ok(read)
    }

    /// The SHA-256 of the `bytes` bytes that are at the address.
    fn read_back(&self, client: &Client, bytes: u64) -> Result<String, StoreError> {
        let (version, mut hasher, mut from): (OnceLock<Version>, _, _) = (OnceLock::new(), Sha256::new(), 0);
        while from < bytes {
            let mut ranges = Vec::new();
            while ranges.len() < PARTS_IN_FLIGHT && from < bytes {
                let to = bytes.min(from + client.options.request_bytes);
                ranges.push(client.read(&self.key, from..to, &version, bytes));
                from = to;
            }
            let read: Vec<Bytes> = client.wait(try_join_all(ranges)).map_err(self.request("read back"))?;
            read.iter().for_each(|bytes| hasher.update(bytes));
        }
        Ok(hex(&hasher.finalize()))
    }
}
