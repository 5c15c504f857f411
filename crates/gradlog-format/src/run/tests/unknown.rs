//! What a newer gradlog may add, and what this one makes of it (FORMAT.md, "Compatibility").

use super::forge::{block, manifest_file, put, run, segment, Forged};
use super::*;
use crate::run::RecoverError;

fn examples() -> Forged {
    Forged::plain(Column::Example as u16, 3, [5u64.to_le_bytes(), 6u64.to_le_bytes()].concat())
}

/// Whether a block holds these examples, the columns that every block of its kind has, and nothing else that is known.
fn only_examples(contents: &Contents) -> bool {
    let place = [Column::Step, Column::Epoch].map(ColumnKey::from);
    let columns: Vec<_> = contents.columns.iter().filter(|(key, _)| !place.contains(key)).collect();
    columns == [&(Column::Example.into(), Values::U64(vec![5, 6]))]
}

#[test]
fn kinds_columns_and_types_that_are_not_known_are_stepped_over() {
    let strange_column = Forged::plain(999, 3, vec![1; 16]);
    let strange_type = Forged { width: 3, raw_bytes: 77, ..Forged::plain(998, 200, vec![1; 9]) };
    let known_column_strange_type = Forged { raw_bytes: 2, ..Forged::plain(Column::Loss as u16, 201, vec![1; 2]) };
    let strange_both = Forged { codec: 99, ..strange_type.clone() };
    let dir = run(&[
        block(7, 0, 2, &[examples()]),
        block(0x8000, 1, 1, std::slice::from_ref(&strange_type)),
        block(1, 2, 2, &[strange_column, examples(), strange_type, strange_both, known_column_strange_type]),
        block(1, 3, 2, &[examples()]),
    ]);
    let reading = read(dir.path()).unwrap();
    assert!(!reading.complains(), "{reading:?}");
    assert_eq!(reading.blocks.len(), 4);
    assert_eq!(reading.blocks[0].kind, None);
    assert_eq!(reading.blocks[1].kind, None);
    assert!(only_examples(&reading.blocks[2]) && only_examples(&reading.blocks[3]));
    assert_eq!((reading.report.blocks, reading.report.visits), (4, 4));
    assert_eq!(reading.report.newer_columns, 1, "of a column that is not known, nobody misses the numbers");
    // Asked for by name, a known column of an unknown type is an error and no number.
    let run = Run::open(dir.path()).unwrap();
    let visits = run.scan().nth(2).unwrap();
    let error = visits.f32s(Column::Loss).unwrap_err();
    assert!(matches!(&error, ReadError::Newer(newer) if newer.block == Some(2)), "{error}");
    assert!(error.to_string().contains("column Loss has numbers of type 201"), "{error}");
    assert!(error.to_string().contains("not damaged: install a newer gradlog"), "{error}");
}

#[test]
fn bytes_of_an_unknown_type_are_still_checked() {
    let mut lie = block(7, 0, 1, &[Forged { raw_bytes: 8, ..Forged::plain(998, 200, vec![1; 8]) }]);
    *lie.last_mut().unwrap() ^= 1;
    let reading = read(run(&[lie]).path()).unwrap();
    assert!(reading.blocks.is_empty() && reading.report.damage.is_some());
}

#[test]
fn an_unknown_compression_hides_its_column_and_no_other() {
    let hidden = Forged { codec: 99, ..Forged::plain(Column::Loss as u16, 4, vec![0; 8]) };
    let dir = run(&[block(1, 0, 2, &[examples(), hidden])]);
    let run = Run::open(dir.path()).unwrap();
    let visits = run.scan().next().unwrap();
    assert_eq!(visits.u64s(Column::Example).unwrap(), [5, 6]);
    let error = visits.f32s(Column::Loss).unwrap_err();
    assert!(matches!(&error, ReadError::Damaged(damage) if damage.what.contains("unknown compression 99")), "{error}");
    assert!(run.verify().unwrap().damage.is_some());
}

#[test]
fn a_newer_format_is_refused_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let newer = segment(2, &[block(1, 0, 2, &[examples()])]);
    put(dir.path(), &newer);
    let error = read(dir.path()).unwrap_err();
    assert!(matches!(error, ReadError::Newer(_)), "{error}");
    assert!(error.to_string().contains("version 2") && error.to_string().contains("install a newer"), "{error}");
    let to = tempfile::tempdir().unwrap();
    let error = Run::open(dir.path()).unwrap().recover(to.path().join("new")).unwrap_err();
    assert!(matches!(error, RecoverError::Read(ReadError::Newer(_))), "{error}");
    // A version that no checksum vouches for is a damaged byte.
    let mut hurt = segment(1, &[block(1, 0, 2, &[examples()])]);
    hurt[8] = 2;
    put(dir.path(), &hurt);
    assert!(read(dir.path()).unwrap().damage.is_some());
    let whole = manifest().to_bytes().unwrap();
    std::fs::write(dir.path().join("manifest"), manifest_file(2, &whole[20..])).unwrap();
    let error = read(dir.path()).unwrap_err().to_string();
    assert!(error.contains("version 2") && error.contains("install a newer one"), "{error}");
    std::fs::write(dir.path().join("manifest"), manifest_file(0, &whole[20..])).unwrap();
    assert!(read(dir.path()).is_err());
}

#[test]
fn bytes_between_the_last_frame_and_the_end_of_a_block_are_room_to_grow() {
    let mut longer = block(1, 0, 2, &[examples()]);
    longer.extend([7u8; 24]);
    let bytes = longer.len() as u64;
    longer[16..24].copy_from_slice(&bytes.to_le_bytes());
    let crc = crc32fast::hash(&longer[..60]);
    longer[60..64].copy_from_slice(&crc.to_le_bytes());
    let dir = run(&[longer, block(1, 1, 2, &[examples()])]);
    let reading = read(dir.path()).unwrap();
    assert!(!reading.complains() && reading.blocks.len() == 2 && reading.blocks.iter().all(only_examples));
}

/// What a recovery does not understand, it copies: the bytes of a block are the same but for its number and the
/// checksum over it.
#[test]
fn a_recovery_brings_along_what_is_not_known() {
    let strange = Forged { width: 3, raw_bytes: 77, ..Forged::plain(998, 200, vec![1; 9]) };
    let mut longer = block(0x8000, 4, 1, std::slice::from_ref(&strange));
    longer.extend([7u8; 24]);
    let bytes = longer.len() as u64;
    longer[16..24].copy_from_slice(&bytes.to_le_bytes());
    let crc = crc32fast::hash(&longer[..60]);
    longer[60..64].copy_from_slice(&crc.to_le_bytes());
    let flags = Forged::plain(Column::Flags as u16, 1, vec![0x80, 0xFF]);
    // Numbers 0 and 2 are missing, so that the others get new ones.
    let blocks = [block(7, 1, 1, &[strange]), block(1, 3, 2, &[examples(), flags]), longer];
    let dir = run(&blocks);
    let to = tempfile::tempdir().unwrap();
    let new = to.path().join("new");
    let report = Run::open(dir.path()).unwrap().recover(&new).unwrap();
    assert_eq!(report.survey.lost.iter().map(|lost| lost.blocks).collect::<Vec<_>>(), [Some(1), Some(1)]);
    let copied = std::fs::read(new.join("segment-00000.glog")).unwrap();
    let mut at = 64;
    for (sequence, block) in (0u64..).zip(blocks) {
        let copy = &copied[at..at + block.len()];
        assert_eq!(copy[24..32], sequence.to_le_bytes());
        assert!(copy[..24] == block[..24] && copy[32..60] == block[32..60] && copy[64..] == block[64..]);
        at += block.len();
    }
    assert_eq!(at, copied.len());
    // Flags that are not known are there for whoever knows them, and harm nobody else.
    let recovered = Run::open(&new).unwrap();
    assert_eq!(recovered.scan().nth(1).unwrap().u8s(Column::Flags).unwrap(), [0x80, 0xFF]);
}
