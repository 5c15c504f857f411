//! What an answer rests on: one line, the same in every format and in the library.

use super::*;
use gradlog_analysis::{Basis, InfluenceQuestion, ScoreQuestion, SuspectQuestion, VectorQuestion, VelocityQuestion};

/// A run of 30 examples with labels of their ids, probes of twelve of them, steps, a gap, and a visit with a NaN.
fn full() -> Written {
    let mut all = visits(&mut Draws(1), 30, 3, 8);
    all.iter_mut().for_each(|visit| visit.label = visit.example as u32 % 5);
    all[9].squared_norm = f32::NAN;
    all[9].loss = f32::NAN;
    let mut run = Synthetic::new(Encoding::Q8);
    run.set(0, "train");
    let mut draws = Draws(100);
    for step in [0, 4, 9] {
        let probe = |id: u64| Visit { label: (100 + 7 * id) as u32 % 5, ..draws.visit(100 + 7 * id, step, 0) };
        run.probes(&(0..12).map(probe).collect::<Vec<Visit>>());
    }
    all.chunks(16).for_each(|rows| run.visits(rows));
    let steps = all.last().unwrap().step + 1;
    run.optimizer(&(0..steps).map(|step| (step, 0.1, 0.9, 0.0)).collect::<Vec<_>>());
    run.dropped(3);
    run.end();
    run.finish()
}

/// The line of each format: table, CSV, JSON.
fn lines(run: &Written, verb: &str, arguments: &[&str]) -> [String; 3] {
    let ask = |format: &str| {
        let (code, out, words) = gradlog(run, verb, &[arguments, &["--format", format]].concat());
        assert_eq!(code, 0, "{verb} {format}: {words}");
        out
    };
    let comment = |text: String| text.lines().next().unwrap().strip_prefix("# ").unwrap_or("none").to_owned();
    let json: Json = serde_json::from_str(&ask("json")).unwrap();
    [comment(ask("table")), comment(ask("csv")), json["basis"].as_str().unwrap_or("none").to_owned()]
}

#[test]
fn every_format_of_every_verb_has_the_line_of_the_library() {
    let written = full();
    let run = written.run();
    let score = |score| ScoreQuestion::new(score).compute(&run).unwrap().basis.to_string();
    let influence = InfluenceQuestion::new("train").id(100).sketch_errors().compute(&run).unwrap().basis.to_string();
    let flat = VectorQuestion::new(1024).compute(&run).unwrap().basis.to_string();
    let velocity = VelocityQuestion::new("train").compute(&run).unwrap().basis.to_string();
    let suspects = Basis::describe_all(&SuspectQuestion::new().compute(&run).unwrap().bases);
    let verbs: [(&str, &[&str], String); 9] = [
        ("scores", &["--score", "aum"], score(Score::Aum)),
        ("scores", &["--score", "grand"], score(Score::Grand)),
        ("scores", &["--score", "self-influence"], score(Score::SelfInfluence)),
        ("influence", &["--probe", "train", "--id", "100"], influence.clone()),
        ("influence", &["--probe", "train", "--id", "100", "--top", "3"], influence),
        ("similar", &["--example", "107"], flat.clone()),
        ("cluster", &["--clusters", "3"], flat),
        ("velocity", &["--set", "train"], velocity),
        ("suspects", &[], suspects),
    ];
    for (verb, arguments, expected) in verbs {
        assert_eq!(lines(&written, verb, arguments), [0; 3].map(|_| expected.clone()), "{verb} {arguments:?}");
    }
    for (verb, arguments) in [("map", &[][..]), ("example", &["--id", "107"])] {
        let [table, csv, json] = lines(&written, verb, arguments);
        assert!(table.starts_with("visits, training mode") && table == csv && csv == json, "{verb}: {table}");
    }
}

#[test]
fn the_line_says_rows_optimizer_layers_and_what_is_left_out() {
    let run = full();
    let [table, ..] = lines(&run, "scores", &["--score", "self-influence"]);
    assert_eq!(
        table,
        "visits, training mode; plain SGD: momentum up to 0.9 not modeled; gradients of 3 layers, 96.2 % of the \
         model's parameters; left out: 3 visits (dropped while recording), 1 visit (a number was NaN or infinite)"
    );
    let [table, ..] = lines(&run, "scores", &["--score", "aum"]);
    assert!(!table.contains("SGD") && !table.contains("gradients"), "{table}");
    let [table, ..] = lines(&run, "influence", &["--probe", "train", "--id", "100", "--layers", "head"]);
    assert!(table.contains("; gradients of 1 of 3 recorded layers, "), "{table}");
    let [table, ..] = lines(&run, "influence", &["--probe", "train", "--id", "100", "--method", "adjoint"]);
    assert!(
        table.contains("; SGD with momentum up to 0.9 and weight decay up to 0, the momentum taken to go on"),
        "{table}"
    );
    let [table, ..] = lines(&run, "influence", &["--probe", "train", "--id", "100", "--method", "if"]);
    assert!(!table.contains("SGD"), "{table}");
    // No optimizer told anything.
    let [table, ..] = lines(&written(true), "scores", &["--score", "self-influence"]);
    assert!(table.contains("plain SGD: the optimizer told nothing of momentum and weight decay"), "{table}");
}

/// What has no place for the line says it in words; a safetensors file has it in its header.
#[test]
fn a_keep_list_and_a_matrix_say_it_in_words() {
    let run = full();
    let (_, ids, words) = gradlog(&run, "prune", &["--score", "el2n", "--keep", "0.5"]);
    assert!(ids.lines().all(|line| line.parse::<u64>().is_ok()), "{ids}");
    assert!(words.contains("basis: visits, training mode"), "{words}");
    let out = run.path().join("v.safetensors");
    let (code, _, words) = gradlog(&run, "export", &["--out", out.to_str().unwrap(), "--rows", "applied"]);
    assert!(code == 0 && words.contains("basis: visits, training mode; plain SGD: momentum"), "{words}");
    let bytes = std::fs::read(&out).unwrap();
    assert!(String::from_utf8_lossy(&bytes).contains("\"basis\":\"visits, training mode; plain SGD"));
}

/// CSV of one verb is a list of ids for another, with its comment.
#[test]
fn a_csv_with_its_comment_is_read_back_as_ids() {
    let run = full();
    let keep = run.path().join("keep.csv");
    let keep = keep.to_str().unwrap();
    let (code, _, words) = gradlog(&run, "prune", &["--score", "el2n", "--keep", "0.5", "--out", keep]);
    assert_eq!(code, 0, "{words}");
    assert!(std::fs::read_to_string(keep).unwrap().starts_with("# visits, training mode"));
    let (code, _, words) = gradlog(&run, "threshold", &["--samples", keep]);
    assert!(code == 0 && words.contains("15 threshold samples"), "{words}");
}

/// JSON has no infinity. An example that was never learned has the score `inf`, one without a usable visit none.
#[test]
fn never_learned_and_unvisited_examples_are_told_apart() {
    let mut all = visits(&mut Draws(1), 4, 2, 2);
    for visit in &mut all {
        visit.correct = if visit.example == 100 { 0.0 } else { 1.0 };
        if visit.example == 107 {
            visit.loss = f32::NAN;
        }
    }
    let mut run = Synthetic::new(Encoding::Q8);
    run.visits(&all);
    run.end();
    let run = run.finish();
    let (_, json, _) = gradlog(&run, "scores", &["--score", "forgetting", "--format", "json"]);
    let json: Json = serde_json::from_str(&json).unwrap();
    let rows = json["rows"].as_array().unwrap();
    let row = |id: u64| rows.iter().find(|row| row["example"] == id).unwrap();
    assert_eq!((&row(100)["score"], &row(100)["never_learned"]), (&"inf".into(), &true.into()));
    assert_eq!((&row(107)["score"], &row(107)["never_learned"]), (&Json::Null, &Json::Null));
    let (header, rows) = records(&gradlog(&run, "scores", &["--score", "forgetting", "--format", "csv"]).1);
    let never = header.iter().position(|name| name == "never_learned").unwrap();
    let row = |id: &str| rows.iter().find(|row| row[0] == id).unwrap();
    assert_eq!((row("100")[2].as_str(), row("100")[never].as_str()), ("inf", "true"));
    assert_eq!((row("107")[2].as_str(), row("107")[never].as_str()), ("NaN", ""));
}
