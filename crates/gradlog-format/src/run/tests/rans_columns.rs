//! Compression by rANS, which was added to version 1: a run of its own in `tests/data/v1-rans`, made once by hand
//! (`cargo test --no-default-features --lib -- --ignored make_the_fixture_of_rans`).

use super::forge::{block, segment, Forged};
use super::*;
use gradlog_kernels::rans::{Encoder, LANES};
use half::bf16;
use std::path::PathBuf;

const ROWS: u32 = 200;
const WIDTH: u32 = 16;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/v1-rans")
}

/// Bytes of codes, of which zero is the most frequent.
fn codes(stream: u64, bytes: u32) -> Vec<u8> {
    (0..u64::from(bytes)).map(|i| (crate::sketch::draw(stream, i) & crate::sketch::draw(7, i) & 0x33) as u8).collect()
}

fn frame(bytes: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    assert!(Encoder::default().encode(bytes, &mut frame));
    frame
}

/// One block whose Input is 8 bits a number and whose Delta is 4, and neither a whole number of goes.
fn blocks(input: Vec<u8>, delta: Vec<u8>) -> Vec<u8> {
    let numbers = |n: u32, bytes: fn(u64) -> Vec<u8>| (0..n).flat_map(|row| bytes(u64::from(row))).collect::<Vec<u8>>();
    let plain = |column: Column, cells, stored| Forged::plain(column as u16, cells, stored);
    let scales = |column: Column| {
        let stored = (0..ROWS).flat_map(|row| scale(row).to_le_bytes()).collect();
        Forged { layer: 0, ..plain(column, 5, stored) }
    };
    let vectors = |column: Column, cells, raw_bytes, stored| Forged {
        layer: 0,
        width: WIDTH + 1,
        codec: 3,
        raw_bytes,
        ..plain(column, cells, stored)
    };
    let block = block(
        1,
        0,
        ROWS,
        &[
            plain(Column::Example, 3, numbers(ROWS, |row| row.to_le_bytes().to_vec())),
            plain(Column::Step, 3, vec![0; 8 * ROWS as usize]),
            plain(Column::Epoch, 2, vec![0; 4 * ROWS as usize]),
            vectors(Column::Input, 18, ROWS * (WIDTH + 1), input),
            scales(Column::InputScale),
            vectors(Column::Delta, 19, ROWS * (WIDTH / 2 + 1), delta),
            scales(Column::DeltaScale),
        ],
    );
    segment(1, &[block])
}

fn scale(row: u32) -> bf16 {
    bf16::from_bits(0x3c00 + (row % 600) as u16)
}

/// The codes of both columns. The high half of the last byte of an odd row of 4-bit codes is 0.
fn both() -> [Vec<u8>; 2] {
    let mut halves = codes(2, ROWS * (WIDTH / 2 + 1));
    halves.chunks_exact_mut(WIDTH as usize / 2 + 1).for_each(|row| *row.last_mut().unwrap() &= 0xF);
    [codes(1, ROWS * (WIDTH + 1)), halves]
}

fn write(dir: &Path) {
    let [input, delta] = both();
    assert!(!input.len().is_multiple_of(LANES) && !delta.len().is_multiple_of(LANES));
    std::fs::create_dir_all(dir).unwrap();
    super::forge::put(dir, &blocks(frame(&input), frame(&delta)));
}

#[test]
#[ignore = "writes tests/data; run by hand, once"]
fn make_the_fixture_of_rans() {
    write(&fixture());
}

fn check(dir: &Path) {
    let run = Run::open(dir).unwrap();
    assert!(run.verify().unwrap().damage.is_none());
    let visits = run.scan().next().unwrap();
    for (column, codes) in [Column::Input, Column::Delta].into_iter().zip(both()) {
        let vectors = visits.vectors(ColumnKey { column, layer: 0 }, Origin::Whole).unwrap();
        for (row, codes) in codes.chunks_exact(codes.len() / ROWS as usize).enumerate() {
            assert_eq!(vectors.row(row), (codes, scale(row as u32)), "{column:?}, row {row}");
        }
    }
}

#[test]
fn codes_compressed_by_rans_are_read_as_they_were_written() {
    check(&fixture());
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    check(dir.path());
}

/// Bytes that are not a frame, under checksums that match.
#[test]
fn a_frame_that_lies_is_damage_of_its_column_alone() {
    let [input, delta] = both();
    let (whole, delta) = (frame(&input), frame(&delta));
    let mut other_frequency = whole.clone();
    other_frequency[33] ^= 1;
    let mut other_word = whole.clone();
    *other_word.last_mut().unwrap() ^= 0x80;
    let cases = [
        (Vec::new(), "cannot come out of 0"),
        (whole[..20].to_vec(), "ends too early"),
        (whole[..300].to_vec(), "ends too early"),
        (other_frequency, "do not add up"),
        (other_word, "do not fit"),
        (whole[..whole.len() - 2].to_vec(), "do not fit"),
        ([&whole[..], &[0, 0]].concat(), "do not fit"),
    ];
    for (input, words) in cases {
        let dir = tempfile::tempdir().unwrap();
        super::forge::put(dir.path(), &blocks(input, delta.clone()));
        let run = Run::open(dir.path()).unwrap();
        let visits = run.scan().next().unwrap();
        let error = visits.vectors(ColumnKey { column: Column::Input, layer: 0 }, Origin::Whole).unwrap_err();
        assert!(matches!(&error, ReadError::Damaged(damage) if damage.what.contains(words)), "{words}: {error}");
        assert!(visits.vectors(ColumnKey { column: Column::Delta, layer: 0 }, Origin::Whole).is_ok(), "{words}");
        assert!(run.verify().unwrap().damage.is_some(), "{words}");
    }
}
