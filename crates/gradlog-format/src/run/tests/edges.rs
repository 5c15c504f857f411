//! The edges of FORMAT.md: what it says of blocks and files that no gradlog writes, and of such as a newer one will.

use super::forge::{block, block_with, put, run, segment, Forged};
use super::*;
use crate::log::{segment_path, AMENDS_ALL, AMENDS_VECTORS};

fn of(column: Column, cells: u8, bytes: &[u8]) -> Forged {
    Forged::plain(column as u16, cells, bytes.to_vec())
}

fn floats(column: Column) -> Forged {
    of(column, 4, &1f32.to_le_bytes())
}

/// A column that this version does not know.
fn strange(amends: u16, layer: u16) -> Forged {
    Forged { amends, layer, ..Forged::plain(700, 1, vec![0]) }
}

fn vectors(layer: u16) -> Vec<Forged> {
    let at = |column, cells, bytes: &[u8]| Forged { layer, ..of(column, cells, bytes) };
    vec![
        at(Column::Input, 18, &[5]),
        at(Column::InputScale, 5, &[0, 1]),
        at(Column::Delta, 18, &[7]),
        at(Column::DeltaScale, 5, &[0, 1]),
    ]
}

/// Of two losses, two layers and a folded vector: which can be read, and that all others are of a newer version.
fn readable(amending: &[Forged]) -> Vec<String> {
    let folded = [of(Column::Folded, 20, &[1]), of(Column::FoldedScale, 5, &[0, 1])];
    let plain = [floats(Column::Loss), floats(Column::Margin)];
    let columns = [amending, &plain, &vectors(0), &vectors(1), &folded].concat();
    let dir = run(&[block(1, 0, 1, &columns), block(1, 1, 1, &[])]);
    let reading = read(dir.path()).unwrap();
    let run = Run::open(dir.path()).unwrap();
    // Nothing is damaged, and what follows counts.
    let report = run.verify().unwrap();
    assert!(report.damage.is_none() && reading.damage.is_none() && report.visits == 2, "{report:?}");
    let visits = run.scan().next().unwrap();
    let mut names = Vec::new();
    let mut newer = 0;
    let mut note = |name: &str, answer: Result<(), ReadError>| match answer {
        Ok(()) => names.push(name.to_owned()),
        Err(ReadError::Newer(found)) => {
            assert!(found.what.contains("column 70"), "{found}");
            newer += 1;
        }
        Err(other) => panic!("{name}: {other}"),
    };
    note("loss", visits.f32s(Column::Loss).map(drop));
    note("margin", visits.f32s(Column::Margin).map(drop));
    for layer in [0, 1] {
        let at = |column| ColumnKey { column, layer };
        let input = visits.vectors(at(Column::Input), Origin::Whole);
        note(&format!("input {layer}"), input.map(drop));
        note(&format!("delta {layer}"), visits.vectors(at(Column::Delta), Origin::Whole).map(drop));
    }
    note("folded", visits.vectors(Column::Folded.into(), Origin::Rotated).map(drop));
    assert_eq!(names.len() + newer, 7);
    assert_eq!(report.newer_columns > 0, newer > 0);
    names
}

#[test]
fn a_column_that_is_not_known_hides_what_it_amends_and_nothing_else() {
    let all = ["loss", "margin", "input 0", "delta 0", "input 1", "delta 1", "folded"];
    let without = |hidden: &[&str]| all.iter().filter(|name| !hidden.contains(name)).copied().collect::<Vec<_>>();
    assert_eq!(readable(&[strange(0, 0xFFFF)]), all);
    assert_eq!(readable(&[strange(Column::Loss as u16, 0xFFFF)]), without(&["loss"]));
    assert_eq!(readable(&[strange(Column::Loss as u16, 0)]), all, "there is no loss of layer 0");
    assert_eq!(readable(&[strange(Column::Delta as u16, 1)]), without(&["delta 1"]));
    assert_eq!(readable(&[strange(Column::InputScale as u16, 0)]), without(&["input 0"]));
    assert_eq!(readable(&[strange(AMENDS_VECTORS, 0xFFFF)]), ["loss", "margin"]);
    assert!(readable(&[strange(AMENDS_ALL, 0xFFFF)]).is_empty());
    let two = [strange(Column::Loss as u16, 0xFFFF), Forged { column: 701, ..strange(AMENDS_VECTORS, 0xFFFF) }];
    assert_eq!(readable(&two), ["margin"]);
    // A column that is known is not amended by it.
    assert_eq!(readable(&[Forged { amends: Column::Loss as u16, ..floats(Column::Target) }]), all);
}

/// Numbers that a newer version writes in an amended column break none of this version's rules.
#[test]
fn an_amended_column_may_look_as_it_likes() {
    let loss = Forged { width: 3, ..of(Column::Loss, 1, &[1, 2, 3]) };
    let dir = run(&[block(1, 0, 1, &[strange(Column::Loss as u16, 0xFFFF), loss.clone()])]);
    let report = Run::open(dir.path()).unwrap().verify().unwrap();
    assert_eq!((report.damage, report.newer_columns), (None, 1));
    let dir = run(&[block(1, 0, 1, &[strange(Column::Margin as u16, 0xFFFF), loss])]);
    assert!(Run::open(dir.path()).unwrap().verify().unwrap().damage.is_some());
    // So may the scales of vectors of a newer type: several for each, or none.
    let folded = || Forged { raw_bytes: 9, ..of(Column::Folded, 99, &[1, 2, 3]) };
    let scales = Forged { width: 2, ..of(Column::FoldedScale, 5, &[0; 4]) };
    for columns in [vec![folded(), scales], vec![folded()]] {
        let dir = run(&[block(1, 0, 1, &columns)]);
        let run = Run::open(dir.path()).unwrap();
        assert_eq!(run.verify().unwrap().damage, None);
        let visits = run.scan().next().unwrap();
        let found = visits.vectors(Column::Folded.into(), Origin::Rotated);
        assert!(matches!(found, Err(ReadError::Newer(_))));
    }
}

#[test]
fn rows_outside_of_their_headers_range_are_damage() {
    let step = |steps: [u64; 2]| of(Column::Step, 3, &steps.map(u64::to_le_bytes).concat());
    let epoch = |epochs: [u32; 2]| of(Column::Epoch, 2, &epochs.map(u32::to_le_bytes).concat());
    for (steps, epochs, says) in [
        ([5, 9], [1, 3], None),
        ([6, 6], [2, 1], None),
        ([4, 9], [1, 1], Some("a row of step 4 in a block of steps 5 to 9")),
        ([5, 10], [1, 1], Some("a row of step 10")),
        ([7, 6], [1, 1], Some("steps that fall")),
        ([5, 9], [1, 4], Some("a row of epoch 4 in a block of epochs 1 to 3")),
        ([5, 9], [0, 1], Some("a row of epoch 0")),
    ] {
        let lie = block_with(1, 0, 2, &[step(steps), epoch(epochs)], |header| {
            (header[32], header[40], header[48], header[52]) = (5, 9, 1, 3);
        });
        let dir = run(&[lie]);
        let run = Run::open(dir.path()).unwrap();
        let damage = run.verify().unwrap().damage;
        assert_eq!(damage.is_some(), says.is_some(), "{steps:?} {epochs:?}: {damage:?}");
        if let (Some(damage), Some(says)) = (damage, says) {
            assert!(damage.what.contains(says), "{damage}");
            let to = tempfile::tempdir().unwrap();
            assert_eq!(run.recover(to.path().join("new")).unwrap().written.visits, 0);
        }
    }
}

#[test]
fn a_column_is_one_zstd_frame_of_a_bounded_window() {
    let raw = [3u8; 64];
    let frame = zstd::bulk::compress(&raw, 1).unwrap();
    let halves = [zstd::bulk::compress(&raw[..40], 1).unwrap(), zstd::bulk::compress(&raw[40..], 1).unwrap()].concat();
    let skipped = [&frame[..], &[0x50, 0x2A, 0x4D, 0x18, 2, 0, 0, 0, 9, 9]].concat();
    let first_skipped = [&[0x50, 0x2A, 0x4D, 0x18, 2, 0, 0, 0, 9, 9], &frame[..]].concat();
    // A frame that states its window, with one raw block of 64 bytes. Windows of 2^28 bytes and of 1/8 more.
    let stated = |window: u8| [&[0x28, 0xB5, 0x2F, 0xFD, 0, window, 1, 2, 0], &raw[..]].concat();
    for (what, stored, says) in [
        ("one frame", frame.clone(), None),
        ("a window of 2^28", stated(18 << 3), None),
        ("a larger window", stated((18 << 3) | 1), Some("a larger window")),
        ("two frames", halves, Some("more follows")),
        ("a frame to skip", skipped, Some("more follows")),
        ("a frame to skip before", first_skipped, Some("more follows")),
        ("bytes behind", [&frame[..], &[0]].concat(), Some("more follows")),
    ] {
        let column = Forged { codec: 1, raw_bytes: 64, ..Forged::plain(900, 3, stored) };
        let dir = run(&[block(1, 0, 8, &[column])]);
        let damage = Run::open(dir.path()).unwrap().verify().unwrap().damage;
        match says {
            None => assert_eq!(damage, None, "{what}"),
            Some(says) => assert!(damage.is_some_and(|damage| damage.what.contains(says)), "{what}"),
        }
    }
}

#[test]
fn what_is_not_known_behind_the_end_leaves_a_run_finished() {
    for (kinds, finished) in [
        (&[1, 6][..], true),
        (&[1, 6, 7], true),
        (&[1, 6, 0x8000], true),
        (&[1, 6, 1], false),
        (&[1, 6, 1, 7], false),
        (&[1, 6, 7, 6], true),
    ] {
        let blocks: Vec<Vec<u8>> = (0..).zip(kinds).map(|(number, kind)| block(*kind, number, 1, &[])).collect();
        let dir = run(&blocks);
        let report = Run::open(dir.path()).unwrap().verify().unwrap();
        assert_eq!((report.finished, report.damage), (finished, None), "{kinds:?}");
    }
}

#[test]
fn a_segment_of_a_few_zeros_is_damage_and_one_of_none_or_many_is_the_end() {
    for (bytes, is_end) in [(0, true), (1, false), (63, false), (64, true), (5000, true)] {
        let dir = run(&[block(1, 0, 1, &[])]);
        std::fs::write(segment_path(dir.path(), 1), vec![0; bytes]).unwrap();
        let report = Run::open(dir.path()).unwrap().verify().unwrap();
        assert_eq!((report.damage.is_none(), report.visits), (is_end, 1), "{bytes} zeros");
    }
}

/// The training gave these steps up, whatever became of those that it made instead.
#[test]
fn a_resumption_behind_damage_supersedes_what_was_before() {
    let dir = tempfile::tempdir().unwrap();
    let step = |step: u64| of(Column::Step, 3, &step.to_le_bytes());
    let at = |number: u64, at: u64| {
        block_with(1, number, 1, &[step(at)], |header| (header[32], header[40]) = (at as u8, at as u8))
    };
    let mut hurt = at(3, 3);
    hurt[70] ^= 1;
    put(dir.path(), &segment(1, &[at(0, 0), at(1, 1), at(2, 2), hurt]));
    let header = crate::log::SegmentHeader { run_id: manifest().run_id, index: 1, resumed_step: Some(1) };
    std::fs::write(segment_path(dir.path(), 1), [&header.to_bytes()[..], &at(4, 1)].concat()).unwrap();
    let report = Run::open(dir.path()).unwrap().verify().unwrap();
    assert_eq!((report.visits, report.superseded), (1, 2));
    assert_eq!(report.damage.unwrap().block, Some(3));
    // One whose header does not check says nothing.
    let path = segment_path(dir.path(), 1);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[50] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(Run::open(dir.path()).unwrap().verify().unwrap().visits, 3);
}

#[test]
fn a_count_of_a_newer_type_does_not_make_a_run_damaged() {
    for (kind, column) in [(4, Column::Dropped), (8, Column::Checksum)] {
        let newer = Forged { raw_bytes: 4, ..of(column, 99, &[1; 4]) };
        let others = [(Column::Step, 3, 8), (Column::Epoch, 2, 4), (Column::Bytes, 3, 8), (Column::Checksum, 2, 4)];
        let others = others.iter().filter(|(other, _, _)| kind == 8 && *other != column);
        let columns: Vec<Forged> = others.map(|(other, cells, size)| of(*other, *cells, &vec![0; *size])).collect();
        let dir = run(&[block(kind, 0, 1, &[vec![newer], columns].concat()), block(1, 1, 1, &[])]);
        let run = Run::open(dir.path()).unwrap();
        let report = run.verify().unwrap();
        assert_eq!((report.damage, report.visits, report.newer_columns), (None, 1, 1), "{column:?}");
        let to = tempfile::tempdir().unwrap();
        let refused = run.recover(to.path().join("new")).unwrap_err();
        assert!(refused.to_string().contains("newer gradlog"), "{refused}");
    }
}
