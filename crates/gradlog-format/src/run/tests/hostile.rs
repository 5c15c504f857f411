//! Lies with checksums that match: huge lengths, bombs, impossible counts. A typed error, and no memory to speak of.

use super::allocations::largest_allocation;
use super::forge::{bare_block, block, block_with, manifest_file, run, Forged};
use super::*;

/// What the bytes of a column may make the reader ask for, beside a little for everything else.
const SLACK: usize = 2 << 20;

fn u64s(column: Column, rows: usize) -> Forged {
    Forged::plain(column as u16, 3, vec![0; 8 * rows])
}

/// Reads a run whose last block is a lie; the one before it must come through.
#[track_caller]
fn assert_refused(what: &str, lie: Vec<u8>, says: &str) -> usize {
    let honest = block(1, 0, 2, &[u64s(Column::Example, 2)]);
    let dir = run(&[honest, lie]);
    let (reading, largest) = largest_allocation(|| read(dir.path()).unwrap());
    assert_eq!(reading.blocks.len(), 1, "{what}");
    assert_eq!(reading.report.visits, 2, "{what}: rows that are not there were counted");
    let told = reading.error.map(|e| e.to_string()).or(reading.damage.map(|d| d.to_string()));
    let told = told.unwrap_or_else(|| panic!("{what}: not told"));
    assert!(told.contains(says), "{what}: {told}");
    assert!(reading.report.damage.is_some(), "{what}: verify says all is well");
    largest
}

#[test]
fn counts_and_lengths_that_cannot_be_are_refused_before_anything_is_allocated() {
    let example = || u64s(Column::Example, 2);
    let wide = |width: u32, raw_bytes: u32| Forged { width, raw_bytes, ..example() };
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("all the rows there can be", block(1, 1, u32::MAX, &[example()]), "rows"),
        ("all the rows there can be, of nothing", block(1, 1, u32::MAX, &[]), "rows"),
        ("no rows", block(1, 1, 0, &[]), "0 rows"),
        ("kind 0", block(0, 1, 2, &[example()]), "kind 0"),
        ("column 0", block(1, 1, 2, &[Forged { column: 0, ..example() }]), "number 0"),
        ("more rows than bytes", block(1, 1, 3, &[example()]), "which take 24"),
        ("a row of 4 billion numbers", block(1, 1, 2, &[wide(u32::MAX, 16)]), "4294967295 numbers a row"),
        (
            "rows of nothing",
            block(1, 1, 2, &[Forged { width: 0, raw_bytes: 0, stored: vec![], ..example() }]),
            "0 numbers",
        ),
        ("rows of two numbers", block(1, 1, 1, &[wide(2, 16)]), "2 numbers"),
        ("a block of 2^64 bytes", block_with(1, 1, 2, &[example()], |h| h[16..24].fill(0xFF)), "cannot be"),
        (
            "a block of 2^63 bytes",
            block_with(1, 1, 2, &[example()], |h| h[16..24].copy_from_slice(&(1u64 << 63).to_le_bytes())),
            "the file ends",
        ),
        ("a block of no bytes", block_with(1, 1, 2, &[example()], |h| h[16..24].fill(0)), "cannot be"),
        ("a block of 65 bytes", block_with(1, 1, 2, &[example()], |h| h[16] += 1), "cannot be"),
        ("65,535 columns", block_with(1, 1, 2, &[example()], |h| h[6..8].fill(0xFF)), "cannot be"),
        ("another block's number", block(1, 7, 2, &[example()]), "block 7 where block 1 belongs"),
    ];
    for (what, lie, says) in cases {
        let largest = assert_refused(what, lie, says);
        assert!(largest < SLACK, "{what}: asked for {largest} bytes");
    }
    // Frames that pass the end of their block, into the one behind it.
    let mut long = example();
    long.stored = vec![0; 4096];
    let lie = block_with(7, 1, 512, &[Forged { raw_bytes: 4096, ..long }], |h| {
        h[16..24].copy_from_slice(&96u64.to_le_bytes())
    });
    assert!(assert_refused("frames longer than the block", lie, "longer than their block") < SLACK);
}

#[test]
fn a_small_frame_cannot_ask_for_much() {
    for codec in [1, 2] {
        small_frames(codec);
    }
    // Numbers of single bytes, and vectors, have no planes.
    let squeezed = zstd::bulk::compress(&[0u8; 100], 1).unwrap();
    for cells in [1, 18] {
        let column = Forged { codec: 2, raw_bytes: 100, cells, ..Forged::plain(999, cells, squeezed.clone()) };
        assert_refused("planes of bytes", block(1, 1, 100, &[column]), "which have none");
    }
}

/// In blocks of a kind of which nothing is known: the others would lack columns.
fn small_frames(codec: u8) {
    let squeezed = zstd::bulk::compress(&vec![0u8; 8 << 20], 19).unwrap();
    let column = |rows: u32, stored: Vec<u8>| Forged {
        codec,
        raw_bytes: rows.saturating_mul(8),
        stored,
        ..Forged::plain(Column::Example as u16, 3, vec![])
    };
    // The largest column that the format allows, said to come from a few bytes.
    let largest =
        assert_refused("a lie", block(7, 1, 1 << 25, &[column(1 << 25, vec![7; 40])]), "cannot come out of 40");
    assert!(largest < SLACK, "asked for {largest} bytes");
    // A frame with more in it than the entry says: the buffer does not grow.
    let largest = assert_refused("a bomb", block(7, 1, 100, &[column(100, squeezed.clone())]), "does not inflate");
    assert!(largest < SLACK, "asked for {largest} bytes");
    // One with less in it.
    let rows = (8 << 20) / 8 + 1;
    let largest = assert_refused("a dud", block(7, 1, rows, &[column(rows, squeezed.clone())]), "where 8388616 belong");
    assert!(largest <= (8 << 20) + 8, "asked for {largest} bytes");
    assert_refused("rubbish", block(7, 1, 10, &[column(10, vec![7; 40])]), "does not inflate");
    // 2^32 bytes and more, which the entry has no room to say.
    let mut huge = Forged { column: 999, ..column(1 << 25, squeezed) };
    huge.width = 16;
    assert_refused("a column above the limit", block(7, 1, 1 << 25, &[huge]), "which take");
    let wide = Forged {
        column: 999,
        codec: 1,
        cells: 19,
        width: 1 << 24,
        raw_bytes: 1 << 29,
        stored: vec![7; 1 << 15],
        ..column(1, vec![])
    };
    let largest =
        assert_refused("a vector column above the limit", block(7, 1, 64, &[wide]), "more than the format allows");
    assert!(largest < SLACK, "asked for {largest} bytes");
}

/// A file of holes is as long as its maker likes, so that a length which fits the file is no bound.
#[test]
fn a_long_file_of_nothing_does_not_make_a_long_column() {
    for cells in [3, 200] {
        let mut lie = Forged::plain(Column::Example as u16, cells, vec![]);
        lie.raw_bytes = 16;
        let stored: u32 = (1 << 28) + 8;
        let bytes = 64 + 24 + u64::from(stored);
        let mut block = block_with(1, 0, 2, &[lie], |header| {
            header[16..24].copy_from_slice(&bytes.to_le_bytes());
        });
        block[64 + 12..64 + 16].copy_from_slice(&stored.to_le_bytes());
        let directory_crc = crc32fast::hash(&block[64..88]);
        block[56..60].copy_from_slice(&directory_crc.to_le_bytes());
        let header_crc = crc32fast::hash(&block[..60]);
        block[60..64].copy_from_slice(&header_crc.to_le_bytes());
        let dir = run(&[block]);
        let file = std::fs::OpenOptions::new().write(true).open(dir.path().join("segment-00000.glog")).unwrap();
        file.set_len(64 + bytes).unwrap();
        let (reading, largest) = largest_allocation(|| read(dir.path()).unwrap());
        assert!(reading.complains() && reading.blocks.is_empty());
        assert!(largest < SLACK, "type {cells}: asked for {largest} bytes");
        let to = tempfile::tempdir().unwrap();
        let recover = || Run::open(dir.path()).unwrap().recover(to.path().join("new")).unwrap();
        let (_, largest) = largest_allocation(recover);
        assert!(largest < SLACK, "type {cells}: recovery asked for {largest} bytes");
    }
}

/// FORMAT.md, "Checking a block": each rule broken alone, in a block whose checksums match. Every reader stops there.
#[test]
fn a_block_that_its_kind_cannot_be_is_damage_to_every_reader() {
    let of = |column: Column, cells: u8, bytes: Vec<u8>| Forged::plain(column as u16, cells, bytes);
    let at =
        |layer: u16, column: Column, cells: u8, bytes: usize| Forged { layer, ..of(column, cells, vec![0; bytes]) };
    let vectors = |layer| [at(layer, Column::Input, 18, 1), at(layer, Column::Delta, 18, 1)];
    let scales = |layer| [at(layer, Column::InputScale, 5, 2), at(layer, Column::DeltaScale, 5, 2)];
    let four = |layer| [vectors(layer), scales(layer)].concat();
    let less = |columns: Vec<Forged>, without: Column| -> Vec<Forged> {
        columns.into_iter().filter(|forged| forged.column != without as u16).collect()
    };
    let name = |bytes: usize| Forged { width: bytes as u32, ..of(Column::Name, 1, vec![b'x'; bytes]) };
    let number = || of(Column::ProbeSet, 2, vec![0; 4]);
    // Nothing is wrong with these.
    for (kind, columns) in [
        (1, four(1)),
        (1, vec![of(Column::Folded, 20, vec![0]), of(Column::FoldedScale, 5, vec![0; 2])]),
        (1, vec![at(1, Column::InputScale, 5, 2)]),
        (5, vec![number(), name(4096)]),
        (0x8000, vec![at(7, Column::Input, 4, 4)]),
    ] {
        let dir = run(&[block(kind, 0, 1, &columns)]);
        assert!(Run::open(dir.path()).unwrap().verify().unwrap().damage.is_none(), "{kind}");
    }
    let bare = |kind: u16, columns: &[Forged]| bare_block(kind, 1, 1, columns);
    let mut cases: Vec<(String, Vec<u8>, String)> = Vec::new();
    for (kind, columns) in [
        (1, vec![(Column::Example, 3), (Column::Step, 3), (Column::Epoch, 2)]),
        (2, vec![(Column::Step, 3), (Column::Epoch, 2)]),
        (3, vec![(Column::Example, 3), (Column::Step, 3), (Column::Epoch, 2), (Column::ProbeSet, 2)]),
        (4, vec![(Column::Step, 3), (Column::Epoch, 2), (Column::Dropped, 3)]),
        (5, vec![(Column::ProbeSet, 2), (Column::Name, 1)]),
        (6, vec![(Column::Visits, 3), (Column::Dropped, 3)]),
        (8, vec![(Column::Step, 3), (Column::Epoch, 2), (Column::Bytes, 3), (Column::Checksum, 2)]),
        (9, vec![(Column::Example, 3), (Column::Step, 3), (Column::Epoch, 2), (Column::Mode, 1)]),
    ] {
        let size = |cells: u8| [0, 1, 4, 8][usize::from(cells)];
        let whole: Vec<Forged> =
            columns.iter().map(|(column, cells)| of(*column, *cells, vec![0; size(*cells)])).collect();
        let dir = run(&[bare_block(kind, 0, 1, &whole)]);
        assert!(Run::open(dir.path()).unwrap().verify().unwrap().damage.is_none(), "kind {kind}");
        for (column, _) in &columns {
            let lie = bare(kind, &less(whole.clone(), *column));
            cases.push((format!("kind {kind}"), lie, format!("without {column:?}")));
        }
        if [5, 6, 8].contains(&kind) {
            let twice = |(column, cells): &(Column, u8)| of(*column, *cells, vec![0; 2 * size(*cells)]);
            let two: Vec<Forged> = columns.iter().map(twice).collect();
            cases.push((
                format!("kind {kind} twice"),
                bare_block(kind, 1, 2, &two),
                "2 rows, where one belongs".into(),
            ));
        }
    }
    let mut case = |what: &str, kind: u16, columns: Vec<Forged>, says: &str| {
        cases.push((what.into(), block(kind, 1, 1, &columns), says.into()));
    };
    case("a layer that is not there", 1, four(2), "of layer 2, and the run has 2 layers");
    case("no layer", 1, four(0xFFFF), "of layer 65535");
    case("a loss of a layer", 1, vec![at(0, Column::Loss, 4, 4)], "Loss of layer 0, and it belongs to none");
    case("input alone", 1, less(four(0), Column::Delta), "Input of layer 0 without Delta");
    case("delta alone", 1, less(four(0), Column::Input), "Delta of layer 0 without Input");
    case("no scale", 1, less(four(0), Column::DeltaScale), "Delta without DeltaScale");
    case("no scale", 1, vec![of(Column::Folded, 20, vec![0])], "Folded without FoldedScale");
    case("a loss of integers", 1, vec![of(Column::Loss, 2, vec![0; 4])], "Loss has numbers of type 2");
    case("a loss of vectors", 1, vec![of(Column::Loss, 16, vec![0; 4])], "Loss has numbers of type 16");
    case(
        "a vector of floats",
        1,
        [vec![at(0, Column::Input, 4, 4)], less(four(0), Column::Input)].concat(),
        "of type 4",
    );
    case("type 0", 1, vec![Forged::plain(999, 0, vec![])], "type 0");
    case("two losses a row", 1, vec![Forged { width: 2, ..of(Column::Loss, 4, vec![0; 8]) }], "2 numbers to a row");
    case("a long name", 5, vec![number(), name(4097)], "4097 bytes");
    for (what, lie, says) in cases {
        assert_refused(&what, lie, &says);
    }
}

#[test]
fn probe_sets_with_impossible_names_or_numbers_are_refused() {
    let number = |n: u32| Forged::plain(Column::ProbeSet as u16, 2, n.to_le_bytes().to_vec());
    let named =
        |name: &[u8]| Forged { width: name.len() as u32, ..Forged::plain(Column::Name as u16, 1, name.to_vec()) };
    let keep = run(&[block(5, 0, 1, &[number(0), named(&[b'x'; 4096])])]);
    assert_eq!(Run::open(keep.path()).unwrap().probe_sets().unwrap()[0].len(), 4096);
    // Names that no text can be would look alike.
    for lie in [block(5, 0, 1, &[number(1), named(b"test")]), block(5, 0, 1, &[number(0), named(b"te\xFFst")])] {
        let dir = run(&[lie]);
        let run = Run::open(dir.path()).unwrap();
        assert!(matches!(run.probe_sets(), Err(ReadError::Damaged(_))));
        assert!(run.verify().unwrap().damage.is_some());
        let to = tempfile::tempdir().unwrap();
        let report = run.recover(to.path().join("new")).unwrap();
        assert_eq!((report.written.blocks, report.survey.is_whole()), (0, false));
    }
}

/// Found by the fuzzer: a probe set of a high number behind a jump in the blocks' numbers made a recovery write a block
/// for each number below.
#[test]
fn numbers_that_jump_make_no_probe_sets_up() {
    let number = |n: u32| Forged::plain(Column::ProbeSet as u16, 2, n.to_le_bytes().to_vec());
    let name = Forged { width: 4, ..Forged::plain(Column::Name as u16, 1, b"test".to_vec()) };
    for (sequence, set, unnamed) in [(1 << 40, 1_000_000, 0), (1 << 40, u32::MAX, 0), (3, 3, 3), (2, 3, 0)] {
        let dir = run(&[block(5, sequence, 1, &[number(set), name.clone()])]);
        let to = tempfile::tempdir().unwrap();
        let report = Run::open(dir.path()).unwrap().recover(to.path().join("new")).unwrap();
        // A set that lost names cannot explain is no set.
        let kept = if unnamed > 0 { 1 + u64::from(unnamed) } else { 0 };
        assert_eq!((report.unnamed_probe_sets, report.written.blocks), (unnamed, kept), "{set}");
    }
}

#[test]
fn a_manifest_that_claims_much_gets_little() {
    let dir = tempfile::tempdir().unwrap();
    let whole = manifest().to_bytes().unwrap();
    let payload = whole[20..].to_vec();
    // Wherever a length may stand, and everywhere else too: eight bytes that claim 2^64, 2^62, 64 MB, 3 MB.
    let mut refused = 0;
    for claim in [u64::MAX, 1 << 62, 60 << 20, 3 << 20] {
        for at in 0..payload.len() - 8 {
            let mut lie = payload.clone();
            lie[at..at + 8].copy_from_slice(&claim.to_le_bytes());
            std::fs::write(dir.path().join("manifest"), manifest_file(1, &lie)).unwrap();
            let (opened, largest) = largest_allocation(|| Run::open(dir.path()));
            assert!(largest < SLACK, "{claim} at {at}: asked for {largest} bytes");
            refused += u32::from(opened.is_err());
        }
    }
    assert!(refused > 200, "{refused}");
    // Left-over and missing bytes of a payload whose checksum matches.
    for payload in [[&payload[..], &[0]].concat(), payload[..payload.len() - 1].to_vec(), vec![]] {
        std::fs::write(dir.path().join("manifest"), manifest_file(1, &payload)).unwrap();
        assert!(matches!(Run::open(dir.path()), Err(ReadError::NotARun { .. })));
    }
    // A file longer than any manifest is not read to its end.
    let file = std::fs::File::create(dir.path().join("manifest")).unwrap();
    file.set_len(1 << 40).unwrap();
    let (opened, largest) = largest_allocation(|| Run::open(dir.path()));
    assert!(matches!(opened, Err(ReadError::NotARun { .. })));
    // A buffer that doubles as it grows may be twice as long as the limit.
    assert!(largest <= 2 << 26, "asked for {largest} bytes");
}

/// Some readers hold several columns of a block at once, so a limit for each column is none.
#[test]
fn a_block_of_many_large_columns_is_refused_as_a_whole() {
    let squeezed = zstd::bulk::compress(&vec![0u8; 1 << 28], 1).unwrap();
    let column = |column: u16| Forged { codec: 1, raw_bytes: 1 << 28, ..Forged::plain(column, 3, squeezed.clone()) };
    let four: Vec<Forged> = (900..904).map(column).collect();
    let dir = run(&[block(7, 0, 1 << 25, &four)]);
    assert_eq!(Run::open(dir.path()).unwrap().scan().count(), 1);
    let five: Vec<Forged> = (900..905).map(column).collect();
    let largest = assert_refused("five", block(7, 1, 1 << 25, &five), "the columns inflate to 1342177280 bytes");
    assert!(largest < SLACK, "asked for {largest} bytes");
}

/// Columns are found and placed without going through all the others: each has up to 65,534 of these.
#[test]
fn every_column_of_a_block_of_many_is_found() {
    let value = |i: u32| (u64::from(i) * 7919).to_le_bytes().to_vec();
    let layer = |i: u32| ((i * 40_503) % 65_536) as u16;
    let mut columns: Vec<Forged> = (0..60_000)
        .filter(|i| layer(*i) != 0xFFFF)
        .map(|i| Forged { layer: layer(i), ..Forged::plain(Column::Dropped as u16, 3, value(i)) })
        .collect();
    // Of two entries of the same column and layer the first counts.
    columns.push(Forged { layer: layer(1), ..Forged::plain(Column::Dropped as u16, 3, value(5)) });
    // Of a kind of which nothing is known.
    let dir = run(&[block(7, 0, 1, &columns)]);
    let run = Run::open(dir.path()).unwrap();
    let block = run.scan().next().unwrap();
    for i in (0..60_000).filter(|i| layer(*i) != 0xFFFF) {
        let key = ColumnKey { column: Column::Dropped, layer: layer(i) };
        assert_eq!(block.u64s(key).unwrap(), [u64::from(i) * 7919]);
    }
    assert!(!block.has(Column::Dropped) && !block.has(Column::Visits));
    let layers: Vec<u16> = block.layers(Column::Dropped).collect();
    assert!(layers.windows(2).all(|two| two[0] < two[1]));
    assert_eq!(layers.len() + 1, columns.len());
}

#[test]
fn more_layers_than_there_are_numbers_for_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("manifest");
    let layer =
        LayerRecord { name: String::new(), kind: String::new(), shapes: vec![], ..manifest().layers[0].clone() };
    let with = |layers: usize| Manifest { layers: vec![layer.clone(); layers], ..manifest() };
    let bytes = with(65_535).to_bytes().unwrap();
    std::fs::write(&path, &bytes).unwrap();
    let run = Run::open(dir.path()).unwrap();
    // All of one seed, so all tied; without a shape nothing is shared.
    assert_eq!(run.manifest().recorded_parameters(), 65_535 * 18);
    assert!(with(65_536).to_bytes().is_err(), "nor are they written");
    // The count stands behind the sketch: put one layer more where it and the records are.
    let payload = &bytes[20..];
    let count = payload.windows(8).position(|eight| eight == 65_535u64.to_le_bytes()).unwrap();
    let record = (payload.len() - with(0).to_bytes().unwrap()[20..].len()) / 65_535;
    let mut more = payload[..count].to_vec();
    more.extend(65_536u64.to_le_bytes());
    more.extend(&payload[count + 8..count + 8 + record]);
    more.extend(&payload[count + 8..]);
    std::fs::write(&path, manifest_file(1, &more)).unwrap();
    let error = Run::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("65536 layers, more than"), "{error}");
}

/// As many damaged places as blocks: each is looked at once, and the rest is saved.
#[test]
fn a_run_that_is_damaged_everywhere_is_recovered() {
    let blocks: Vec<Vec<u8>> = (0..20_000u64).flat_map(|i| [vec![0xA5; 8], block(0x8000, 2 * i, 1, &[])]).collect();
    let dir = run(&blocks);
    let to = tempfile::tempdir().unwrap();
    let report = Run::open(dir.path()).unwrap().recover(to.path().join("new")).unwrap();
    assert_eq!((report.written.blocks, report.survey.lost.len()), (20_000, 20_000));
    assert_eq!(report.survey.lost.iter().filter(|lost| lost.is_nothing()).count(), 1);
}
