//! Structs to little-endian, fixed-width bytes and back. No other file uses bincode.
//!
//! bincode is pinned at 2.0.1, in its `legacy` configuration. FORMAT.md, "Manifest", specifies that layout in full. So
//! another serializer can replace bincode without a change of format.

use serde::{de::DeserializeOwned, Serialize};

/// The largest manifest that is read or written. Longer ones are refused before anything is allocated.
pub const DECODE_LIMIT_BYTES: usize = 64 << 20;

/// Bytes that are not what the format says, or a struct that is too large for it. Displays what is wrong.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub(crate) String);

/// The bytes of `value` in the file.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, DecodeError> {
    bincode::serde::encode_to_vec(value, bincode::config::legacy()).map_err(|e| DecodeError(e.to_string()))
}

/// Decodes all of `bytes`. Bytes left over are an error.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (value, read) = decode_front(bytes)?;
    if read != bytes.len() {
        return Err(DecodeError(format!("{} bytes left over", bytes.len() - read)));
    }
    Ok(value)
}

/// Decodes a value at the front of `bytes`. Also returns how many bytes it took.
///
/// bincode allocates the length that a string claims, up to a limit, before it reads the string. That limit is a
/// constant in its type. So each size of input has its own limit here: bincode never allocates 64 times the input.
pub fn decode_front<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), DecodeError> {
    if bytes.len() > DECODE_LIMIT_BYTES {
        return Err(DecodeError(format!("{} bytes, more than a header may have", bytes.len())));
    }
    let legacy = bincode::config::legacy();
    let decoded = match bytes.len() {
        0..=0x1000 => bincode::serde::decode_from_slice(bytes, legacy.with_limit::<0x1000>()),
        0x1001..=0x4_0000 => bincode::serde::decode_from_slice(bytes, legacy.with_limit::<0x4_0000>()),
        0x4_0001..=0x100_0000 => bincode::serde::decode_from_slice(bytes, legacy.with_limit::<0x100_0000>()),
        _ => bincode::serde::decode_from_slice(bytes, legacy.with_limit::<DECODE_LIMIT_BYTES>()),
    };
    decoded.map_err(|e| DecodeError(e.to_string()))
}
