//! Extension fields: what later versions and other programs add to a manifest, behind its known fields (FORMAT.md,
//! "Extension fields").

use super::codec::DecodeError;

/// The most extension fields that a manifest may have.
pub const EXTENSIONS_MAX: usize = 1_024;
/// The first private tag. Lower tags are reserved for the format.
pub const PRIVATE_TAG_MIN: u16 = 0x8000;
/// Bytes of a field before its value: tag and length.
const HEAD_BYTES: usize = 6;

/// A field behind the known ones. A program that does not know its tag keeps it as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// What the field says. 0 is invalid.
    pub tag: u16,
    /// Its value.
    pub bytes: Vec<u8>,
}

/// Appends the fields to a manifest's payload.
pub(super) fn append(payload: &mut Vec<u8>, extensions: &[Extension]) -> Result<(), DecodeError> {
    let mut last = 0;
    check_count(extensions.len())?;
    for Extension { tag, bytes } in extensions {
        check_tag(*tag, &mut last)?;
        let length =
            u32::try_from(bytes.len()).map_err(|_| DecodeError(format!("extension field {tag} is too long")))?;
        payload.extend(tag.to_le_bytes());
        payload.extend(length.to_le_bytes());
        payload.extend(bytes);
    }
    Ok(())
}

/// Reads the fields that make up all of `bytes`.
pub(super) fn parse(mut bytes: &[u8]) -> Result<Vec<Extension>, DecodeError> {
    let mut found = Vec::new();
    let mut last = 0;
    while !bytes.is_empty() {
        let Some((&[t0, t1, l0, l1, l2, l3], rest)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
            return Err(DecodeError(format!("{} bytes left over, fewer than an extension field has", bytes.len())));
        };
        let (tag, length) = (u16::from_le_bytes([t0, t1]), u32::from_le_bytes([l0, l1, l2, l3]));
        check_tag(tag, &mut last)?;
        let Some((value, behind)) = usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length))
        else {
            return Err(DecodeError(format!("extension field {tag} has {} bytes of {length}", rest.len())));
        };
        found.push(Extension { tag, bytes: value.to_vec() });
        check_count(found.len())?;
        bytes = behind;
    }
    Ok(found)
}

fn check_count(count: usize) -> Result<(), DecodeError> {
    match count {
        0..=EXTENSIONS_MAX => Ok(()),
        more => {
            Err(DecodeError(format!("{more} extension fields, more than the {EXTENSIONS_MAX} that the format allows")))
        }
    }
}

/// Checks that tags ascend from 1. So none is 0, and none occurs twice.
fn check_tag(tag: u16, last: &mut u16) -> Result<(), DecodeError> {
    if tag == 0 {
        return Err(DecodeError("an extension field with the invalid tag 0".into()));
    }
    if tag <= *last {
        return Err(DecodeError(format!("extension field {tag} after field {last}, where tags ascend")));
    }
    *last = tag;
    Ok(())
}
