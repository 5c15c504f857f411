//! Reading where a recorder may be writing at that moment: what does not check is looked at again.

use super::error::{io_error, Newer, ReadError};
use super::file::{is_damage, SegmentFile};
use super::handle::Run;
use super::look::{find_block, look, Found};
use crate::log::{newer_version, SegmentHeader, FORMAT_VERSION, SEGMENT_HEADER_BYTES};
use std::sync::Arc;
use std::time::Duration;

/// How long to wait before looking again, each time. Copying a header takes far less.
const WAITS_MS: [u64; 4] = [0, 1, 5, 20];

/// Why the header of a segment cannot be read.
pub(super) enum HeaderFault {
    /// Bytes are not what was written. The text says how.
    Damage(String),
    /// The file system refused, or a newer version wrote it.
    Refused(ReadError),
}

impl From<ReadError> for HeaderFault {
    fn from(error: ReadError) -> Self {
        HeaderFault::Refused(error)
    }
}

/// Whether the segment is there that is `ahead` places behind segment `index`.
///
/// # Errors
/// [`ReadError::Io`] if the system refuses to look. That is no end of a run.
pub(super) fn segment_exists(run: &Run, index: u32, ahead: u32) -> Result<bool, ReadError> {
    let path = run.segment_path(index.saturating_add(ahead));
    run.place().exists(&path).map_err(io_error(&path))
}

/// Whether one of the sixteen segments after segment `index` is there.
///
/// # Errors
/// As [`segment_exists`].
pub(super) fn later_segments(run: &Run, index: u32) -> Result<bool, ReadError> {
    for ahead in 1..=16 {
        if segment_exists(run, index, ahead)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads the header of a segment. `None` if the file is empty or begins with zeros.
pub(super) fn read_header(segment: &SegmentFile) -> Result<Option<SegmentHeader>, HeaderFault> {
    let mut bytes = [0u8; SEGMENT_HEADER_BYTES];
    let read = segment.bytes().and_then(|length| match length {
        0 => Ok(()),
        _ => segment.read_at(&mut bytes, 0),
    });
    match read {
        Ok(()) if bytes.iter().all(|b| *b == 0) => Ok(None),
        Ok(()) => match newer_segment(&bytes) {
            Some(what) => {
                Err(HeaderFault::Refused(ReadError::Newer(Newer { path: segment.path.clone(), block: None, what })))
            }
            None => SegmentHeader::parse(&bytes).map(Some).map_err(|e| HeaderFault::Damage(e.0)),
        },
        Err(error) if is_damage(&error) => Err(HeaderFault::Damage(error.to_string())),
        Err(error) => Err(HeaderFault::Refused(io_error(&segment.path)(error))),
    }
}

/// What is newer about a segment whose checksum matches, if its version is. A damaged header is not newer.
pub(super) fn newer_segment(header: &[u8; SEGMENT_HEADER_BYTES]) -> Option<String> {
    let (sealed, crc) = header.split_at(SEGMENT_HEADER_BYTES - 4);
    let version = newer_version(header).filter(|_| *crc == crc32fast::hash(sealed).to_le_bytes())?;
    Some(format!("it has format version {version}, and this gradlog reads up to {FORMAT_VERSION}"))
}

/// As [`read_header`], for segment `index` of a run that a recorder may be writing. Reads again what does not check.
///
/// A header that a live recorder left unfinished in the last segment is `None`: nothing is committed there yet.
pub(super) fn read_header_patiently(
    run: &Run,
    segment: &SegmentFile,
    index: u32,
) -> Result<Option<SegmentHeader>, HeaderFault> {
    let mut found = read_header(segment);
    for wait_ms in WAITS_MS {
        if !matches!(found, Err(HeaderFault::Damage(_))) || !run.lock_is_held()? {
            break;
        }
        std::thread::sleep(Duration::from_millis(wait_ms));
        found = read_header(segment);
    }
    match found {
        Err(HeaderFault::Damage(_)) if run.lock_is_held()? && !later_segments(run, index)? => Ok(None),
        other => other,
    }
}

/// As [`look`], in a run that a recorder may be writing. Looks again at what does not check. `next_segment` is the
/// number of the segment after this one.
pub(super) fn look_patiently(
    run: &Run,
    segment: &Arc<SegmentFile>,
    offset: u64,
    next_segment: u32,
) -> Result<Found, ReadError> {
    let mut found = look(segment, offset);
    let mut live = true;
    for wait_ms in WAITS_MS {
        if !live || !matches!(found, Found::Damage { transient: true, .. }) {
            break;
        }
        // Asks for the lock before it looks: if the recorder ends in between, all its blocks are committed.
        live = run.lock_is_held()?;
        std::thread::sleep(Duration::from_millis(if live { wait_ms } else { 0 }));
        #[cfg(test)]
        super::tests::between_looks();
        found = look(segment, offset);
    }
    Ok(match found {
        // A live recorder was stopped within the header, so nothing is committed here yet. Blocks are committed in
        // order: if a block follows, this one was committed and has been damaged since.
        Found::Damage { transient: true, .. }
            if live
                && !segment_exists(run, next_segment, 0)?
                && find_block(segment, offset + 8).map_err(io_error(&segment.path))?.is_none() =>
        {
            Found::End
        }
        Found::Refused { error, .. } => return Err(io_error(&segment.path)(error)),
        other => other,
    })
}
