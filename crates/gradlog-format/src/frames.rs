//! Values one after another in a file, each with its length and its checksum: how gradlog writes files that are no log.
//!
//! ```text
//! file    = prefix(kind) frame* end
//! frame   = length crc payload
//! end     = length(0) crc
//! ```
//!
//! `prefix` is that of FORMAT.md, "File prefix". `length` is a u32, the bytes of the payload, at most 2^24. `crc` is
//! the CRC-32 of the frame's number (u64, from 0), its length and its payload, so that a frame that is lost, doubled or
//! moved is found. Payloads are encoded as those of the manifest. All integers are little-endian.

use crate::log::codec::{decode, encode};
use crate::log::prefix::{check_prefix, file_prefix, newer_version};
use serde::{de::DeserializeOwned, Serialize};
use std::io::{self, Read, Write};

/// The file kind of a part of an answer.
pub const PART_OF_ANSWER: u16 = 3;

/// The most bytes of a payload.
const PAYLOAD_BYTES_MAX: usize = 1 << 24;

/// Why the next value cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The file system refuses.
    #[error("cannot read")]
    Io(#[source] io::Error),
    /// The bytes are not what was written.
    #[error("{what}, at byte {offset}")]
    Damaged {
        /// Where the damaged frame begins.
        offset: u64,
        /// What is wrong.
        what: String,
    },
}

/// Writes frames.
#[derive(Debug)]
pub struct FrameWriter<W> {
    out: W,
    number: u64,
}

fn checksum(number: u64, length: u32, payload: &[u8]) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(&number.to_le_bytes());
    hash.update(&length.to_le_bytes());
    hash.update(payload);
    hash.finalize()
}

impl<W: Write> FrameWriter<W> {
    /// Begins a file of this kind.
    ///
    /// # Errors
    /// What `out` says; so it is for all of these.
    pub fn begin(mut out: W, kind: u16) -> io::Result<Self> {
        out.write_all(&file_prefix(kind))?;
        Ok(Self { out, number: 0 })
    }

    /// Adds a value.
    ///
    /// # Errors
    /// As [`FrameWriter::begin`], and for a value that is longer than a frame may be.
    pub fn write<T: Serialize>(&mut self, value: &T) -> io::Result<()> {
        let payload = encode(value).map_err(io::Error::other)?;
        if payload.is_empty() || payload.len() > PAYLOAD_BYTES_MAX {
            return Err(io::Error::other(format!("a value of {} bytes does not fit a frame", payload.len())));
        }
        self.frame(&payload)
    }

    /// Ends the file and gives the writer back, unflushed.
    ///
    /// # Errors
    /// As [`FrameWriter::begin`].
    pub fn end(mut self) -> io::Result<W> {
        self.frame(&[])?;
        Ok(self.out)
    }

    fn frame(&mut self, payload: &[u8]) -> io::Result<()> {
        let length = payload.len() as u32;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&checksum(self.number, length, payload).to_le_bytes())?;
        self.number += 1;
        self.out.write_all(payload)
    }
}

/// Reads frames. No bytes make it panic or ask for more memory than a few frames.
#[derive(Debug)]
pub struct FrameReader<R> {
    from: R,
    number: u64,
    offset: u64,
}

impl<R: Read> FrameReader<R> {
    /// Begins to read a file of this kind.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn begin(from: R, kind: u16) -> Result<Self, FrameError> {
        let mut reader = Self { from, number: 0, offset: 0 };
        let mut prefix = [0; 12];
        reader.fill(&mut prefix, 0)?;
        if let Some(version) = newer_version(&prefix) {
            let what = format!("it has version {version} of gradlog's files: install a newer gradlog to read it");
            return Err(FrameError::Damaged { offset: 0, what });
        }
        check_prefix(&prefix, kind).map_err(|error| FrameError::Damaged { offset: 0, what: error.to_string() })?;
        Ok(reader)
    }

    /// The next value; `None` at the end of the file.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn read<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let at = self.offset;
        let damaged = |what: String| FrameError::Damaged { offset: at, what };
        let mut head = [0; 8];
        self.fill(&mut head, at)?;
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (length, crc) = (word(0), word(4));
        if length as usize > PAYLOAD_BYTES_MAX {
            return Err(damaged(format!("a frame of {length} bytes, more than any has")));
        }
        let mut payload = vec![0; length as usize];
        self.fill(&mut payload, at)?;
        if checksum(self.number, length, &payload) != crc {
            return Err(damaged("the checksum does not match".into()));
        }
        self.number += 1;
        if payload.is_empty() {
            let mut more = [0; 1];
            return match self.from.read(&mut more).map_err(FrameError::Io)? {
                0 => Ok(None),
                _ => Err(damaged("bytes behind the end".into())),
            };
        }
        decode(&payload).map(Some).map_err(|error| damaged(error.to_string()))
    }

    /// The next value of a file that has not ended.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn expect<T: DeserializeOwned>(&mut self) -> Result<T, FrameError> {
        let offset = self.offset;
        self.read()?.ok_or_else(|| FrameError::Damaged { offset, what: "the file ends too early".into() })
    }

    /// Where the next frame begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    fn fill(&mut self, bytes: &mut [u8], at: u64) -> Result<(), FrameError> {
        self.offset += bytes.len() as u64;
        self.from.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => FrameError::Damaged { offset: at, what: "the file is cut".into() },
            _ => FrameError::Io(error),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Vec<u8> {
        let mut frames = FrameWriter::begin(Vec::new(), PART_OF_ANSWER).unwrap();
        frames.write(&(7u64, "seven".to_owned())).unwrap();
        frames.write(&(8u64, "eight".to_owned())).unwrap();
        frames.end().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Vec<(u64, String)>, FrameError> {
        let mut frames = FrameReader::begin(bytes, PART_OF_ANSWER)?;
        let mut all = Vec::new();
        while let Some(value) = frames.read()? {
            all.push(value);
        }
        Ok(all)
    }

    #[test]
    fn values_come_back() {
        assert_eq!(read(&file()).unwrap(), [(7, "seven".to_owned()), (8, "eight".to_owned())]);
        assert!(FrameReader::begin(file().as_slice(), 1).is_err());
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_an_error() {
        let whole = file();
        for end in 0..whole.len() {
            assert!(read(&whole[..end]).is_err(), "{end}");
        }
        for bit in 0..8 * whole.len() {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bytes).is_err(), "{bit}");
        }
        let mut longer = whole.clone();
        longer.push(0);
        assert!(read(&longer).is_err());
        // A frame twice, and one left out: each is as long as the other.
        let size = (whole.len() - 12 - 8) / 2;
        let (one, two) = (&whole[12..12 + size], &whole[12 + size..12 + 2 * size]);
        let tail = &whole[12 + 2 * size..];
        assert!(read(&[&whole[..12], one, one, tail].concat()).is_err());
        assert!(read(&[&whole[..12], two, one, tail].concat()).is_err());
        assert!(read(&[&whole[..12], one, tail].concat()).is_err());
    }
}
