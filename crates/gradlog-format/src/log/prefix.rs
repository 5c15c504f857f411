//! The first 12 bytes of every file: magic, version, kind of file (FORMAT.md, "File prefix").

use super::codec::DecodeError;

/// First bytes of every gradlog file. As in PNG, a transfer that changes line ends or strips the eighth bit breaks
/// them.
pub const MAGIC: [u8; 8] = *b"\x89GLOG\r\n\x1a";
/// The format version that this crate writes, and the newest that it reads.
pub const FORMAT_VERSION: u16 = 1;

/// The first 12 bytes of every file: magic, format version, file kind.
pub fn file_prefix(kind: u16) -> [u8; 12] {
    let mut bytes = [0u8; 12];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes[10..].copy_from_slice(&kind.to_le_bytes());
    bytes
}

/// The version of a file that begins with the magic of gradlog, if this crate does not read it because it is newer.
pub fn newer_version(bytes: &[u8]) -> Option<u16> {
    let (magic, version) = (bytes.get(..8)?, bytes.get(8..10)?);
    let version = u16::from_le_bytes([version[0], version[1]]);
    (*magic == MAGIC && version > FORMAT_VERSION).then_some(version)
}

/// What stands in front of a file, and what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix<'a> {
    /// The format version of the file. Whoever reads the rest chooses its layout by it.
    pub version: u16,
    /// The bytes behind the prefix.
    pub rest: &'a [u8],
}

/// Checks the 12 bytes of [`file_prefix`].
pub fn check_prefix(bytes: &[u8], kind: u16) -> Result<Prefix<'_>, DecodeError> {
    if bytes.len() < 12 || bytes[..8] != MAGIC {
        return Err(DecodeError("this is not a gradlog file".into()));
    }
    let version = u16::from_le_bytes([bytes[8], bytes[9]]);
    if version == 0 || version > FORMAT_VERSION {
        return Err(DecodeError(format!(
            "the file has format version {version}, this gradlog reads up to {}: install a newer one",
            FORMAT_VERSION
        )));
    }
    let found = u16::from_le_bytes([bytes[10], bytes[11]]);
    if found != kind {
        return Err(DecodeError(format!("file kind {found} where {kind} belongs")));
    }
    Ok(Prefix { version, rest: &bytes[12..] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_says_its_version_and_what_follows() {
        let bytes = [&file_prefix(7)[..], b"rest"].concat();
        assert_eq!(check_prefix(&bytes, 7).unwrap(), Prefix { version: FORMAT_VERSION, rest: b"rest" });
        let newer = [&bytes[..8], &(FORMAT_VERSION + 1).to_le_bytes(), &bytes[10..]].concat();
        assert!(check_prefix(&newer, 7).is_err_and(|error| error.to_string().contains("install a newer one")));
        assert!(check_prefix(&bytes, 8).is_err() && check_prefix(&bytes[..11], 7).is_err());
    }
}
