//! What a file of verdicts may hold, and what is refused.

use super::*;

fn read(text: &[u8]) -> Result<Verdicts, VerdictsError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    Verdicts::read(file.path())
}

#[test]
fn each_verdict_is_read() {
    let text = "id,label,proposed,verdict\n4,1,7,relabel\n5,2,,keep\n18446744073709551615,,,drop\n";
    let found = read(text.as_bytes()).unwrap();
    let judgment = |verdict, label, line| Judgment { verdict, label, line };
    let expected = [
        (4, judgment(Verdict::Relabel(7), Some(1), 2)),
        (5, judgment(Verdict::Keep, Some(2), 3)),
        (u64::MAX, judgment(Verdict::Drop, None, 4)),
    ];
    assert_eq!(found.iter().map(|(id, row)| (id, *row)).collect::<Vec<_>>(), expected);
    assert_eq!(found.dropped().collect::<Vec<_>>(), [u64::MAX]);
    assert_eq!(found.relabeled().collect::<Vec<_>>(), [(4, 7)]);
    assert_eq!([4, 5, 6, u64::MAX].map(|id| found.label(id, 1)), [Some(7), Some(1), Some(1), None]);
    assert_eq!((found.len(), found.is_empty()), (3, false));
    assert_eq!(found.get(5).unwrap().verdict, Verdict::Keep);
}

#[test]
fn what_a_spreadsheet_writes_is_read() {
    // A byte order mark, lines that end as in DOS, quoted cells, another order, a column more, an empty line.
    let text =
        "\u{feff}\"verdict\",\"note\",\"proposed\",\"id\"\r\n\"relabel\",\"a, b\",\"7\",\"4\"\r\n\r\ndrop,,,5\r\n";
    let found = read(text.as_bytes()).unwrap();
    assert_eq!(found.relabeled().collect::<Vec<_>>(), [(4, 7)]);
    assert_eq!(found.dropped().collect::<Vec<_>>(), [5]);
    assert_eq!(found.get(5).unwrap().line, 4);
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    for (text, words) in [
        ("", "line 1: there is no column `id`"),
        ("id,label\n4,1\n", "line 1: there is no column `proposed`"),
        ("id;label;proposed;verdict\n4;1;;keep\n", "line 1: there is no column `id`"),
        ("id,id,proposed,verdict\n4,1,7,keep\n", "line 1: there are two columns `id`"),
        ("id,label,proposed,verdict\nx,1,7,keep\n", "line 2: `x` is no id"),
        ("id,label,proposed,verdict\n-1,1,7,keep\n", "line 2: `-1` is no id"),
        ("id,label,proposed,verdict\n4.0,1,7,keep\n", "line 2: `4.0` is no id"),
        ("id,label,proposed,verdict\n18446744073709551616,1,7,keep\n", "line 2: `18446744073709551616` is no id"),
        ("id,label,proposed,verdict\n3,1,7,keep\n4,1,7,burn\n", "line 3: `burn` is no verdict"),
        ("id,label,proposed,verdict\n4,1,7,\u{1b}[31m\n", "line 2: `\u{fffd}[31m` is no verdict"),
        ("id,label,proposed,verdict\n4,1,7,Drop\n", "line 2: `Drop` is no verdict"),
        ("id,label,proposed,verdict\n4,1,,relabel\n", "line 2: `` is no label"),
        ("id,label,proposed,verdict\n4,1,4294967295,relabel\n", "line 2: `4294967295` is no label"),
        ("id,label,proposed,verdict\n4,one,7,keep\n", "line 2: `one` is no label"),
        ("id,label,proposed,verdict\n4,1,keep\n", "line 2: it has 3 cells, and the header has 4"),
        ("id,label,proposed,verdict\n4,1,,keep\n4,1,,drop\n", "line 3: example 4 has a verdict in line 2 already"),
    ] {
        let error = read(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(words), "{text:?}: {error}");
        assert!(error.contains("the header is `id,label,proposed,verdict`"), "{error}");
    }
    let error = read(b"id,label,proposed,verdict\n4,1,,k\xffep\n").unwrap_err().to_string();
    assert!(error.contains("line 2: it is not text in UTF-8"), "{error}");
}

#[test]
fn files_that_cannot_be_read_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().join("absent.csv"), folder.path().to_owned()] {
        let error = Verdicts::read(&path).unwrap_err();
        assert!(matches!(error, VerdictsError::Io { .. }), "{error:?}");
    }
    // A file of a hole takes no space, and is not read.
    let long = folder.path().join("long.csv");
    std::fs::File::create(&long).unwrap().set_len(VERDICT_BYTES_MAX + 1).unwrap();
    let error = Verdicts::read(&long).unwrap_err().to_string();
    assert!(error.contains("the file is longer than 67108864 bytes"), "{error}");
}

#[test]
fn verdicts_on_other_data_are_refused() {
    let found = read(b"id,label,proposed,verdict\n2,1,7,relabel\n3,,,drop\n").unwrap();
    let check = |labels: &[u32]| found.check_labels(|id| labels.get(id as usize).copied()).map_err(|e| e.to_string());
    assert_eq!(check(&[0, 0, 1, 9]), Ok(()));
    let error = check(&[0, 0, 7, 9]).unwrap_err();
    assert!(error.contains("line 2: example 2 had the label 1 when it was judged, and has 7 in the data"), "{error}");
    let error = check(&[0, 0, 1]).unwrap_err();
    assert!(error.contains("line 3: example 3 is not in the data"), "{error}");
}
