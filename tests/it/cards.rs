//! What examples look like: recorded once, within limits, and shown by the page.

use crate::common::*;
use candle_core::{Device, Tensor};
use gradlog::{Card, CardLimits, Config, Overflow, RecordError, Recorder, Worker};
use gradlog_format::run::{CardContent, CardRecord, Run};
use serde_json::Value;
use std::path::Path;

fn read(dir: &Path) -> Vec<CardRecord> {
    Run::open(dir).unwrap().cards(|_, _| true).unwrap()
}

/// Cards by set and example.
fn keys(dir: &Path) -> Vec<(Option<u32>, u64)> {
    let mut keys: Vec<_> = read(dir).iter().map(|card| (card.set, card.example)).collect();
    keys.sort_unstable();
    keys
}

fn text(text: &str) -> Card {
    Card::Text(text.into())
}

/// A picture of one number.
fn gray(value: u8, width: u32, height: u32) -> Card {
    Card::Image { width, height, pixels: vec![value; (width * height) as usize] }
}

fn train(model: &Network, recorder: &mut Recorder, steps: std::ops::Range<u64>) {
    let step = |number: u64| Step { number, epoch: 0, ids: (0..4).map(|i| (number + i) % 12).collect(), rate: 0.1 };
    model.train(recorder, steps.map(step), |_, _| {});
}

fn page_part(dir: &Path, name: &str) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    let said = gradlog(&["report", dir.to_str().unwrap(), "--out", page.to_str().unwrap()]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let text = std::fs::read_to_string(&page).unwrap();
    let block = text.split_once(&format!("id=\"part-{name}\">")).unwrap().1;
    serde_json::from_str(block.split_once("</script>").unwrap().0).unwrap()
}

#[test]
fn examples_are_described_once_a_run_and_the_page_shows_them() {
    let dir = tempfile::tempdir().unwrap();
    let model = Network::mlp(12, 3, false).fill(11, 0.6);
    let mut recorder = Recorder::create(dir.path(), &model.taps, exact()).unwrap();
    assert_eq!(recorder.cost().card_bytes_max, 64 << 20);
    let large = Tensor::arange(0f32, 128.0 * 128.0, &Device::Cpu).unwrap().reshape((1, 128, 128)).unwrap();
    recorder.describe(0, Card::image(&(large / 16384.0).unwrap()).unwrap()).unwrap();
    for id in 1..10 {
        recorder.describe(id, gray(20 * id as u8, 8, 8)).unwrap();
    }
    recorder.describe_probe("test", 0, text("the first probe")).unwrap();
    assert!(recorder.is_described(3) && !recorder.is_described(11));
    assert!(recorder.is_probe_described("test", 0) && !recorder.is_probe_described("test", 3));
    assert!(!recorder.is_probe_described("other", 0));
    // The first card of an example stays.
    recorder.describe(3, text("another")).unwrap();
    model.record_probes(&mut recorder, "test", &[0, 1, 2]);
    train(&model, &mut recorder, 0..6);
    recorder.flush().unwrap();
    assert_eq!(read(dir.path()).len(), 11, "after a flush");
    let summary = recorder.finish().unwrap();
    assert_eq!((summary.cards, summary.refused_cards), (11, 0));

    let mut recorder = Recorder::resume(dir.path(), &model.taps, exact()).unwrap();
    assert!(recorder.is_described(3) && recorder.is_probe_described("test", 0));
    for id in 0..12 {
        recorder.describe(id, text("a later session")).unwrap();
    }
    recorder.describe_probe("test", 0, text("again")).unwrap();
    recorder.describe_probe("more", 0, text("of another set")).unwrap();
    train(&model, &mut recorder, 6..9);
    assert_eq!(recorder.finish().unwrap().cards, 14);

    let run = Run::open(dir.path()).unwrap();
    let report = run.verify().unwrap();
    assert!(report.damage.is_none() && report.cards == 14, "{report:?}");
    let expected: Vec<_> = (0..12).map(|id| (None, id)).chain([(Some(0), 0), (Some(1), 0)]).collect();
    assert_eq!(keys(dir.path()), expected);
    let content =
        |id| read(dir.path()).into_iter().find(|card| (card.set, card.example) == (None, id)).unwrap().content;
    let CardContent::Picture { width: 64, height: 64, is_color: false, pixels } = content(0) else { panic!() };
    // Each number is the mean of four neighbors: row r and column c of 128 hold (128 r + c) / 16384.
    for (r, c) in [(0, 0), (10, 63), (63, 63)] {
        let mean = (128.0 * (2.0 * r as f64 + 0.5) + 2.0 * c as f64 + 0.5) / 16384.0 * 255.0;
        assert!((f64::from(pixels[64 * r + c]) - mean).abs() <= 1.0, "{r} {c}: {} {mean}", pixels[64 * r + c]);
    }
    assert_eq!(content(3), CardContent::Picture { width: 8, height: 8, is_color: false, pixels: vec![60; 64] });
    assert_eq!(content(11), CardContent::Text("a later session".into()));

    let said = gradlog(&["info", dir.path().to_str().unwrap()]);
    assert!(said.out.contains("12 examples and 2 probes"), "{}", said.out);
    let cards = page_part(dir.path(), "cards");
    let train = &cards["train"];
    assert_eq!(
        (train["sheets"][0]["count"].as_u64(), &train["sheets"][0]["cell"]),
        (Some(10), &serde_json::json!([64, 64]))
    );
    assert_eq!(train["texts"]["values"], serde_json::json!(["a later session", "a later session"]));
    assert_eq!(cards["probe:test"]["texts"], serde_json::json!({"ids": ["0"], "values": ["the first probe"]}));
    // `--data` wins.
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().join("a.csv");
    std::fs::write(&csv, "id,a\n1,x\n").unwrap();
    let page = folder.path().join("page.html");
    let data = format!("csv:{}", csv.display());
    let said = gradlog(&["report", dir.path().to_str().unwrap(), "--out", page.to_str().unwrap(), "--data", &data]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(!std::fs::read_to_string(page).unwrap().contains("a later session"));
}

#[test]
fn beyond_the_limits_cards_are_refused_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let model = Network::mlp(12, 3, false).fill(11, 0.6);
    let limits = CardLimits::default().bytes_each(100).count(4).bytes_total(400);
    let config = Config { cards: limits, ..exact() };
    let mut recorder = Recorder::create(dir.path(), &model.taps, config.clone()).unwrap();
    assert_eq!(recorder.cost().card_bytes_max, 400);
    let refused = |result: Result<(), RecordError>, words: &str| {
        let error = result.unwrap_err();
        assert!(matches!(error, RecordError::Card { .. }) && error.to_string().contains(words), "{error}");
    };
    refused(recorder.describe(1, text(&"x".repeat(101))), "example 1 is not described: it has 101 bytes");
    refused(recorder.describe(1, Card::Image { width: 2, height: 2, pixels: vec![1; 5] }), "its picture has 5 bytes");
    // 132 bytes each with what is beside them: three of them fit.
    for id in 1..4 {
        recorder.describe(id, text(&"x".repeat(100))).unwrap();
    }
    refused(recorder.describe(4, text("x")), "more than `cards.bytes_total` leaves");
    train(&model, &mut recorder, 0..3);
    let summary = recorder.finish().unwrap();
    assert_eq!((summary.cards, summary.refused_cards), (3, 3));
    let said = gradlog(&["info", dir.path().to_str().unwrap()]);
    assert!(said.out.contains("3 examples and 0 probes; 3 cards were refused"), "{}", said.out);

    // The limits are those of the run, over all sessions.
    let config = Config { cards: limits.bytes_total(10_000), ..config };
    let mut recorder = Recorder::resume(dir.path(), &model.taps, config).unwrap();
    recorder.describe(4, text("x")).unwrap();
    refused(recorder.describe(5, text("x")), "4 examples are described, and `cards.count` allows no more");
    recorder.finish().unwrap();
    let report = Run::open(dir.path()).unwrap().verify().unwrap();
    assert_eq!((report.cards, report.refused_cards), (4, 4));

    let config = Config { cards: limits.bytes_each(2 << 20), ..exact() };
    let error = Recorder::create(dir.path().join("b"), &model.taps, config).unwrap_err();
    assert!(error.to_string().contains("`cards.bytes_each` is 2097152: give at most 2^20"), "{error}");
}

/// Ten thousand cards: more than one batch of a queue of one.
#[test]
fn many_cards_of_all_lengths_are_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let model = Network::mlp(12, 3, false).fill(11, 0.6);
    let mut recorder = Recorder::create(dir.path(), &model.taps, Config { queue_passes: 1, ..exact() }).unwrap();
    let word = |id: u64| format!("{id} {}", "é".repeat((id % 301) as usize));
    for id in 0..10_000 {
        let card = if id % 2 == 0 { text(&word(id)) } else { Card::Row(vec![(word(id), word(id + 1))]) };
        recorder.describe(id, card).unwrap();
    }
    recorder.finish().unwrap();
    let mut cards = read(dir.path());
    cards.sort_unstable_by_key(|card| card.example);
    assert_eq!(cards.len(), 10_000);
    for (id, card) in (0..).zip(cards) {
        assert_eq!((card.example, card.set), (id, None));
        match card.content {
            CardContent::Text(text) => assert_eq!(text, word(id)),
            CardContent::Row(cells) => assert_eq!(cells, [(word(id), word(id + 1))]),
            other => panic!("{other:?}"),
        }
    }
}

/// Few cards do not fill a batch: they are on disk after the flush interval all the same.
#[test]
fn a_card_is_on_disk_soon_without_a_flush() {
    let dir = tempfile::tempdir().unwrap();
    let model = Network::mlp(12, 3, false).fill(11, 0.6);
    let config = Config { flush_interval: std::time::Duration::from_millis(20), ..exact() };
    let mut recorder = Recorder::create(dir.path(), &model.taps, config).unwrap();
    recorder.describe(5, text("five")).unwrap();
    let start = std::time::Instant::now();
    let mut step = 0;
    while read(dir.path()).is_empty() {
        assert!(start.elapsed().as_secs() < 20, "the card is not on disk");
        train(&model, &mut recorder, step..step + 1);
        step += 1;
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(keys(dir.path()), [(None, 5)]);
    recorder.finish().unwrap();
}

/// What the queue has no room for is refused and counted once, and may be described again.
#[test]
fn a_card_that_was_dropped_may_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let model = Network::mlp(12, 3, false).fill(11, 0.6);
    let config = Config { overflow: Overflow::DropNewest, queue_bytes_max: 1 << 10, ..exact() };
    let config = Config { cards: CardLimits::default().count(1 << 20).bytes_each(1 << 10), ..config };
    let mut recorder = Recorder::create(dir.path(), &model.taps, config).unwrap();
    // A message above the limit passes alone, so that the second batch finds no room if the first still waits.
    let mut round = 0;
    let lost = loop {
        for id in 0..20_000 {
            recorder.describe(20_000 * round + id, text(&"x".repeat(100))).unwrap();
        }
        let known = |id: &u64| !recorder.is_described(*id);
        if let Some(lost) = (20_000 * round..20_000 * (round + 1)).find(known) {
            break lost;
        }
        round += 1;
        assert!(round < 20, "nothing was dropped");
    };
    recorder.flush().unwrap();
    recorder.describe(lost, text("again")).unwrap();
    assert!(recorder.is_described(lost));
    recorder.flush().unwrap();
    let summary = recorder.finish().unwrap();
    assert_eq!(summary.cards + summary.refused_cards, 20_000 * (round + 1) + 1, "each is counted once");
    let there = keys(dir.path());
    assert!(there.contains(&(None, lost)) && there.len() as u64 == summary.cards);
    let report = Run::open(dir.path()).unwrap().verify().unwrap();
    assert_eq!((report.cards, report.refused_cards), (summary.cards, summary.refused_cards));
}

#[test]
fn workers_number_their_probe_sets_themselves() {
    let dir = tempfile::tempdir().unwrap();
    for rank in 0..2 {
        let model = Network::mlp(12, 3, false).fill(11, 0.6);
        let config = Config { worker: Some(Worker::new(rank, 2)), ..exact() };
        let mut recorder = Recorder::create(dir.path(), &model.taps, config).unwrap();
        let sets = if rank == 0 { ["a", "b"] } else { ["b", "a"] };
        for set in sets {
            recorder.describe_probe(set, u64::from(rank), text(&format!("{set} of worker {rank}"))).unwrap();
        }
        recorder.describe(5, text("both have it")).unwrap();
        train(&model, &mut recorder, 0..3);
        recorder.finish().unwrap();
    }
    let run = Run::open(dir.path()).unwrap();
    assert!(run.verify().unwrap().damage.is_none());
    let names = run.probe_sets().unwrap();
    let mut seen = Vec::new();
    for CardRecord { example, set, content, .. } in read(dir.path()) {
        let Some(set) = set else { continue };
        let CardContent::Text(text) = content else { panic!() };
        seen.push((names[set as usize].clone(), example, text));
    }
    seen.sort();
    let expected = [("a", 0), ("a", 1), ("b", 0), ("b", 1)];
    let expected: Vec<_> =
        expected.iter().map(|(set, rank)| (set.to_string(), *rank, format!("{set} of worker {rank}"))).collect();
    assert_eq!(seen, expected);
    assert_eq!(page_part(dir.path(), "cards")["train"]["texts"]["values"], serde_json::json!(["both have it"]));
}

#[test]
fn a_recorder_that_is_dropped_writes_its_cards_and_a_disabled_one_wants_none() {
    let dir = tempfile::tempdir().unwrap();
    let model = Network::mlp(12, 3, false).fill(11, 0.6);
    let mut recorder = Recorder::create(dir.path(), &model.taps, exact()).unwrap();
    recorder.describe(5, text("five")).unwrap();
    drop(recorder);
    assert_eq!(keys(dir.path()), [(None, 5)]);
    let mut recorder = Recorder::disabled();
    assert!(recorder.is_described(1) && recorder.is_probe_described("a", 1));
    recorder.describe(1, text("x")).unwrap();
    assert_eq!(recorder.cost().card_bytes_max, 0);
}
