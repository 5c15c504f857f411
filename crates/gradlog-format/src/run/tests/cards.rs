//! Cards, which were added to version 1: a run of its own in `tests/data/v1-cards`, made once by hand (`cargo test -p
//! gradlog-format --lib -- --ignored make_the_fixture_of_cards`).

use super::*;
use crate::log::{encode_row, CardKind};
use crate::run::CardContent;
use std::path::PathBuf;

/// Set, example, kind, width, bytes.
type Row = (Option<u32>, u64, u8, u32, Vec<u8>);

fn rows() -> Vec<Row> {
    vec![
        (None, 7, 1, 3, vec![0, 50, 100, 150, 200, 255]),
        (None, u64::MAX - 1, 2, 2, vec![255, 0, 0, 0, 0, 255]),
        (None, 8, 3, 0, "what a film é".into()),
        (None, 9, 4, 0, encode_row([("size", "3 cm"), ("", "")])),
        // Of a newer version, and an empty text.
        (None, 10, 200, 5, vec![1, 2]),
        (None, 11, 3, 0, Vec::new()),
        (Some(0), 7, 1, 1, vec![9]),
        (Some(1), 7, 3, 0, b"a probe".to_vec()),
    ]
}

fn block(rows: &[Row], without: Option<Column>) -> BlockBuilder {
    let mut b = BlockBuilder::new(BlockKind::Cards);
    let has = |column: Column| without != Some(column);
    let room = rows.iter().map(|row| row.4.len()).max().unwrap_or(1);
    for (set, example, kind, width, bytes) in rows {
        for (column, number) in [(Column::Example, *example), (Column::Count, 1)] {
            if has(column) {
                b.u64s(column, [number]);
            }
        }
        for (column, number) in [(Column::PictureWidth, *width), (Column::CardBytes, bytes.len() as u32)] {
            if has(column) {
                b.u32s(column, [number]);
            }
        }
        if let Some(set) = set {
            b.u32s(Column::ProbeSet, [*set]);
        }
        if has(Column::CardKind) {
            b.column(Column::CardKind, Cells::U8, 1).push(*kind);
        }
        if has(Column::CardData) {
            let data = b.column(Column::CardData, Cells::U8, room as u32);
            data.extend(bytes);
            data.extend(vec![0; room - bytes.len()]);
        }
        b.advance(1, 0, 0);
    }
    b
}

fn refused(count: u64) -> BlockBuilder {
    let mut b = BlockBuilder::new(BlockKind::Cards);
    b.u64s(Column::Example, [u64::MAX]);
    b.column(Column::CardKind, Cells::U8, 1).push(CardKind::Refused.code());
    b.u32s(Column::PictureWidth, [0]);
    b.u32s(Column::CardBytes, [0]);
    b.u64s(Column::Count, [count]);
    b.column(Column::CardData, Cells::U8, 1).push(0);
    b.advance(1, 0, 0);
    b
}

fn set(number: u32, name: &str) -> BlockBuilder {
    let mut b = BlockBuilder::new(BlockKind::ProbeSet);
    b.u32s(Column::ProbeSet, [number]);
    b.column(Column::Name, Cells::U8, name.len() as u32).extend(name.bytes());
    b.advance(1, 0, 0);
    b
}

fn write(dir: &Path, blocks: Vec<BlockBuilder>) {
    let options = WriterOptions { segment_bytes: 1 << 14, zstd_level: 1 };
    let mut writer = LogWriter::create_on(Box::new(MmapStorage::default()), dir, &manifest(), options).unwrap();
    for mut block in blocks {
        writer.append(&mut block).unwrap();
    }
    writer.finish().unwrap();
}

fn all() -> Vec<BlockBuilder> {
    let rows = rows();
    vec![block(&rows[..6], None), refused(3), set(0, "a"), set(1, "b"), block(&rows[6..], None)]
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/v1-cards")
}

#[test]
#[ignore = "writes tests/data; run by hand, once"]
fn make_the_fixture_of_cards() {
    write(&fixture(), all());
    std::fs::remove_file(fixture().join("lock")).unwrap();
}

fn read_cards(dir: &Path) {
    let run = Run::open(dir).unwrap();
    let report = run.verify().unwrap();
    assert!(report.damage.is_none(), "{:?}", report.damage);
    assert_eq!((report.cards, report.refused_cards), (7, 3));
    let cards = run.cards(|_, _| true).unwrap();
    let text = |text: &str| CardContent::Text(text.into());
    let gray = CardContent::Picture { width: 3, height: 2, is_color: false, pixels: vec![0, 50, 100, 150, 200, 255] };
    let color = CardContent::Picture { width: 2, height: 1, is_color: true, pixels: vec![255, 0, 0, 0, 0, 255] };
    let cells = vec![("size".to_owned(), "3 cm".to_owned()), (String::new(), String::new())];
    let dot = CardContent::Picture { width: 1, height: 1, is_color: false, pixels: vec![9] };
    let expected = [
        (None, 7, gray),
        (None, u64::MAX - 1, color),
        (None, 8, text("what a film é")),
        (None, 9, CardContent::Row(cells)),
        (None, 11, text("")),
        (Some(0), 7, dot),
        (Some(1), 7, text("a probe")),
    ];
    let seen: Vec<_> = cards.into_iter().map(|card| (card.set, card.example, card.content)).collect();
    assert_eq!(seen, expected, "a card of a newer kind is passed over");
    let some = run.cards(|set, example| set.is_some() && example == 7).unwrap();
    assert_eq!(some.len(), 2);
}

#[test]
fn the_fixture_and_a_new_run_are_read() {
    read_cards(&fixture());
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), all());
    read_cards(dir.path());
    // A recovery keeps them.
    let saved = tempfile::tempdir().unwrap();
    Run::open(dir.path()).unwrap().recover(saved.path().join("run")).unwrap();
    read_cards(&saved.path().join("run"));
}

#[test]
fn a_recovery_names_the_probe_set_of_cards_whose_name_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), all());
    let path = dir.path().join("segment-00000.glog");
    let mut bytes = std::fs::read(&path).unwrap();
    // The second name, in a block of kind ProbeSet, is lost.
    let offset = Run::open(dir.path()).unwrap().scan().nth(3).unwrap().offset as usize;
    bytes[offset + 8] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let saved = tempfile::tempdir().unwrap();
    Run::open(dir.path()).unwrap().recover(saved.path().join("run")).unwrap();
    let run = Run::open(saved.path().join("run")).unwrap();
    assert!(run.verify().unwrap().damage.is_none());
    assert_eq!(run.probe_sets().unwrap(), ["a", "lost-name-1"]);
    assert_eq!(run.cards(|set, _| set == Some(1)).unwrap().len(), 1);
}

#[test]
fn a_resumption_supersedes_no_card_and_does_not_end_the_end() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), all());
    let place = {
        let run = Run::open(dir.path()).unwrap();
        let mut scan = run.part_scan();
        scan.by_ref().for_each(drop);
        let (next_segment, sequence) = scan.place();
        let run_id = run.manifest().run_id;
        crate::log::ResumePlace { run_id, next_segment, sequence, step: 0, totals: Default::default() }
    };
    let options = WriterOptions { segment_bytes: 1 << 14, zstd_level: 1 };
    let mut writer = LogWriter::resume(dir.path(), place, options).unwrap();
    writer.append_gap(0, 1, 1).unwrap();
    writer.append_end().unwrap();
    writer.append(&mut block(&[(None, 77, 3, 0, b"later".to_vec())], None)).unwrap();
    writer.finish().unwrap();
    let run = Run::open(dir.path()).unwrap();
    assert_eq!(run.cards(|_, _| true).unwrap().len(), 8);
    assert!(run.verify().unwrap().finished);
}

#[test]
fn what_is_no_card_is_damage() {
    use Column::{CardBytes, CardData, CardKind, Count, Example, PictureWidth};
    let assert_damaged = |blocks: Vec<BlockBuilder>, what: &str| {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), blocks);
        let run = Run::open(dir.path()).unwrap();
        let damage = run.verify().unwrap().damage.map(|damage| damage.to_string()).unwrap_or_default();
        assert!(damage.contains(what), "{what}: {damage}");
        assert!(run.cards(|_, _| true).map_or(true, |cards| cards.is_empty()), "{what}");
    };
    for column in [Example, CardKind, PictureWidth, CardBytes, Count, CardData] {
        assert_damaged(vec![block(&rows()[..3], Some(column))], &format!("without {column:?}"));
    }
    for (kind, width, bytes, what) in [
        (1, 0, &b"abc"[..], "a picture of 3 bytes, 0 pixels to a row, of example 5"),
        (1, 2, b"abc", "a picture of 3 bytes, 2 pixels to a row"),
        (2, 1, b"abcd", "a picture of 4 bytes"),
        (1, u32::MAX, b"abc", "a picture of 3 bytes"),
        (3, 0, b"\xff", "the text of example 5 is no UTF-8"),
        (4, 0, b"abc", "the row of example 5 is cut or no UTF-8"),
    ] {
        assert_damaged(vec![block(&[(None, 5, kind, width, bytes.to_vec())], None)], what);
    }
    let mut long = block(&rows()[..1], Some(CardBytes));
    long.u32s(CardBytes, [7]);
    assert_damaged(vec![long], "a card of 7 bytes, where 6 have room");
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), vec![block(&rows()[6..7], None)]);
    let damage = Run::open(dir.path()).unwrap().verify().unwrap().damage.unwrap();
    assert!(damage.to_string().contains("a card of probe set 0, which has no name"), "{damage}");
}
