//! Damage under checksums that match: what the checks behind the checksums do when they are all that is left.
//! A short, repeatable stand-in for a fuzzer.

use super::allocations::largest_allocation;
use super::*;
use crate::log::{ENTRY_BYTES, HEADER_BYTES, SEGMENT_HEADER_BYTES};

/// Makes every checksum of the block at `at` match what is there, as far as its fields stay inside of the bytes.
fn reseal(bytes: &mut [u8], at: usize) {
    let u32_at = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let columns = usize::from(u16::from_le_bytes([bytes[at + 6], bytes[at + 7]]));
    let directory = at + HEADER_BYTES..at + HEADER_BYTES + columns * ENTRY_BYTES;
    let length = bytes.len();
    let mut frame = directory.end;
    for entry in directory.clone().step_by(ENTRY_BYTES).take_while(|entry| entry + ENTRY_BYTES <= length) {
        let end = frame.saturating_add(u32_at(bytes, entry + 12));
        if let Some(crc) = bytes.get(frame..end).map(crc32fast::hash) {
            bytes[entry + 20..entry + 24].copy_from_slice(&crc.to_le_bytes());
        }
        frame = end;
    }
    if let Some(crc) = bytes.get(directory).map(crc32fast::hash) {
        bytes[at + 56..at + 60].copy_from_slice(&crc.to_le_bytes());
    }
    let crc = crc32fast::hash(&bytes[at..at + 60]);
    bytes[at + 60..at + 64].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn fields_that_lie_under_good_checksums_neither_panic_nor_ask_for_much() {
    let dir = tempfile::tempdir().unwrap();
    write_sample(dir.path(), SAMPLE_BLOCKS).unwrap().finish().unwrap();
    let path = dir.path().join("segment-00000.glog");
    let original = std::fs::read(&path).unwrap();
    let blocks: Vec<(usize, usize)> = {
        let run = Run::open(dir.path()).unwrap();
        let found = run.scan().filter(|block| block.segment.path == path);
        found.map(|block| (block.offset as usize, block.bytes() as usize)).collect()
    };
    assert!(blocks.len() >= 2 && blocks[0].0 == SEGMENT_HEADER_BYTES);
    let (mut read_on, mut refused) = (0, 0);
    for seed in 0..4_000u64 {
        let mut bytes = original.clone();
        let (at, length) = blocks[number(seed, 0) as usize % blocks.len()];
        for change in 0..1 + number(seed, 1) as u32 % 3 {
            // Mostly the header and the first entries, where the fields are; sometimes anywhere.
            let reach = if number(seed, 10 + change) & 3 == 0 { length } else { length.min(160) };
            let place = at + number(seed, 20 + change) as usize % reach;
            let any = number(seed, 30 + change);
            bytes[place] = [0, 1, 0x7F, 0x80, 0xFF, any as u8, bytes[place] ^ 1, bytes[place].wrapping_add(1)]
                [(any >> 32) as usize % 8];
        }
        reseal(&mut bytes, at);
        std::fs::write(&path, &bytes).unwrap();
        let (reading, largest) = largest_allocation(|| read(dir.path()).unwrap());
        // No frame of this run is longer than a few hundred bytes, each of which can stand for 2^15.
        assert!(largest < 64 << 20, "seed {seed}: asked for {largest} bytes");
        if seed % 8 == 0 {
            let to = tempfile::tempdir().unwrap();
            let new = to.path().join("new");
            let recovered = Run::open(dir.path()).unwrap().recover(&new).unwrap();
            assert!(recovered.written.visits >= reading.report.visits, "seed {seed}: less than a scan reads");
            assert!(read(&new).unwrap().report.damage.is_none(), "seed {seed}");
        }
        match reading.complains() {
            true => refused += 1,
            false => read_on += 1,
        }
    }
    // Neither side may be empty: else the changes hit nothing, or nothing passes the checksums.
    assert!(read_on > 200 && refused > 1_000, "{read_on} {refused}");
}
