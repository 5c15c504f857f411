//! Cards that the run itself holds.

use super::report;
use base64::Engine;
use gradlog_format::log::{encode_row, CardKind};
use gradlog_format::sketch::Encoding;
use gradlog_testing::{visits, Draws, Synthetic, Visit, Written};
use serde_json::{json, Value};

/// Training examples 100, 107, ..., and probes 3 to 5 of two sets.
fn run(cards: impl FnOnce(&mut Synthetic)) -> Written {
    let mut run = Synthetic::new(Encoding::Q8);
    run.set(0, "test");
    run.set(1, "other");
    let probes = |set: u32| -> Vec<Visit> { (3..6).map(|id| Visit { set, ..Draws(id).visit(id, 0, 0) }).collect() };
    run.probes(&probes(0));
    run.probes(&probes(1));
    run.visits(&visits(&mut Draws(1), 8, 2, 4));
    cards(&mut run);
    run.end();
    run.finish()
}

/// The pixels of a sheet of gray or colored pictures, as red, green and blue.
fn sheet(part: &Value) -> image::RgbImage {
    let png = base64::engine::general_purpose::STANDARD.decode(part["sheets"][0]["png"].as_str().unwrap()).unwrap();
    image::load_from_memory(&png).unwrap().to_rgb8()
}

/// The cards of ids that the page chose, in its own order: texts by id.
fn texts(part: &Value) -> std::collections::BTreeMap<String, Value> {
    let values = part["texts"]["values"].as_array().unwrap().iter().cloned();
    part["texts"]["ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).zip(values).collect()
}

#[test]
fn a_page_without_data_shows_what_was_recorded() {
    let wide: Vec<u8> = (0..200).collect();
    let written = run(|run| {
        run.cards(None, CardKind::Gray, 2, &[(100, &[1, 2, 3, 4]), (107, &[5, 6, 7, 8])]);
        run.cards(None, CardKind::Rgb, 1, &[(114, &[10, 20, 30])]);
        // Another program may record a larger picture than a page shows.
        run.cards(None, CardKind::Gray, 200, &[(121, &wide)]);
        run.cards(None, CardKind::Text, 0, &[(128, b"</script> a text"), (9_999, b"of an example that is not there")]);
        // The first card counts.
        run.cards(None, CardKind::Text, 0, &[(100, b"later")]);
        run.cards(Some(1), CardKind::Text, 0, &[(3, b"a probe of the other set")]);
    });
    let (code, part, words) = report(&[written.path()], &[]);
    assert_eq!(code, 0, "{words}");
    let cards = part("cards");
    assert_eq!(texts(&cards["train"]), [("128".to_owned(), json!("</script> a text"))].into());
    assert_eq!(texts(&cards["probe:other"]), [("3".to_owned(), json!("a probe of the other set"))].into());
    assert!(cards["probe:test"].is_null());
    let train = &cards["train"];
    assert_eq!(train["sheets"][0]["count"], 4);
    let cell =
        (train["sheets"][0]["cell"][0].as_u64().unwrap() as u32, train["sheets"][0]["cell"][1].as_u64().unwrap());
    assert_eq!(cell, (64, 2), "as wide as a page shows, as high as the highest");
    let ids = base64::engine::general_purpose::STANDARD.decode(train["ids"]["bytes"].as_str().unwrap()).unwrap();
    let size = if train["ids"]["kind"] == "u64" { 8 } else { 4 };
    let ids: Vec<u64> =
        ids.chunks(size).map(|bytes| bytes.iter().rev().fold(0, |id, byte| (id << 8) | u64::from(*byte))).collect();
    let (sheet, at) = (sheet(train), |id: u64| 64 * ids.iter().position(|known| *known == id).unwrap() as u32);
    let pixel = |id: u64, x: u32, y: u32| sheet.get_pixel(at(id) + x, y).0;
    assert_eq!((pixel(100, 1, 0), pixel(100, 0, 1), pixel(107, 1, 1)), ([2; 3], [3; 3], [8; 3]));
    assert_eq!(pixel(114, 0, 0), [10, 20, 30]);
    assert!(pixel(121, 0, 0)[0] < 4 && pixel(121, 63, 0)[0] > 195);
    assert!(words.contains("3 of 8 training examples have no card"), "{words}");
    assert!(words.contains("2 of 3 probes of `other` have no card"), "{words}");
}

#[test]
fn rows_of_unlike_columns_share_a_header() {
    let rows = [
        encode_row([("size", "3"), ("color", "red")]),
        encode_row([("color", "blue"), ("weight", "7"), ("color", "green")]),
    ];
    let many: Vec<(String, String)> = (0..300).map(|n| (format!("c{n}"), "x".into())).collect();
    let many = encode_row(many.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let written = run(|run| run.cards(None, CardKind::Row, 0, &[(100, &rows[0]), (107, &rows[1])]));
    let (_, part, words) = report(&[written.path()], &[]);
    let train = &part("cards")["train"];
    let columns: Vec<&str> = train["columns"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    let cell = |id: &str, column: &str, nth: usize| {
        let place = columns.iter().enumerate().filter(|(_, name)| **name == column).nth(nth).unwrap().0;
        texts(train)[id].get(place).cloned().unwrap_or(json!(""))
    };
    assert_eq!(columns.len(), 4, "{columns:?} {words}");
    assert_eq!((cell("100", "size", 0), cell("100", "color", 0)), (json!("3"), json!("red")));
    assert_eq!((cell("107", "size", 0), cell("107", "color", 0)), (json!(""), json!("blue")));
    assert_eq!((cell("107", "weight", 0), cell("107", "color", 1)), (json!("7"), json!("green")));
    let written = run(|run| run.cards(None, CardKind::Row, 0, &[(100, &many)]));
    let (_, part, words) = report(&[written.path()], &[]);
    assert_eq!(part("cards")["train"]["columns"].as_array().unwrap().len(), 256);
    assert!(words.contains("44 cells of rows are left out: a page has at most 256 columns"), "{words}");
}

#[test]
fn of_several_runs_the_first_with_a_card_gives_it_and_data_wins() {
    let one = run(|run| run.cards(None, CardKind::Text, 0, &[(100, b"first")]));
    let two = run(|run| run.cards(None, CardKind::Text, 0, &[(100, b"second"), (107, b"second")]));
    let (_, part, words) = report(&[one.path(), two.path()], &[]);
    let expected = [("100".to_owned(), json!("first")), ("107".to_owned(), json!("second"))].into();
    assert_eq!(texts(&part("cards")["train"]), expected, "{words}");
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().join("a.csv");
    std::fs::write(&csv, "id,a\n114,x\n").unwrap();
    let (_, part, _) = report(&[one.path()], &["--data", &format!("csv:{}", csv.display())]);
    assert_eq!(texts(&part("cards")["train"]), [("114".to_owned(), json!(["x"]))].into());
}
