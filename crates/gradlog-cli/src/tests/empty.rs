//! Answers without rows: never exit 0 without a reason and what to do.

use super::*;
use gradlog_format::log::SEGMENT_HEADER_BYTES;
use gradlog_format::run::Run;

/// Probes when the training has ended, and at no other time.
fn probes_at_the_end() -> Written {
    let all = visits(&mut Draws(1), 30, 3, 8);
    let end = all.last().unwrap().step + 1;
    let mut run = Synthetic::new(Encoding::Q8);
    run.set(0, "test");
    all.chunks(16).for_each(|rows| run.visits(rows));
    run.probes(&[Draws(3).visit(3, end, 2)]);
    run.end();
    run.finish()
}

#[test]
fn influence_of_visits_that_all_came_before_the_first_probe_is_refused_with_the_remedy() {
    let run = probes_at_the_end();
    let out = run.path().join("out.csv");
    for more in
        [&[][..], &["--format", "csv"], &["--format", "json"], &["--top", "3"], &["--out", out.to_str().unwrap()]]
    {
        let (code, data, words) = gradlog(&run, "influence", &[&["--probe", "test", "--id", "3"], more].concat());
        assert_eq!((code, data.as_str()), (1, ""), "{more:?}: {words}");
        assert!(words.contains("visits left out: they came before the first probe"), "{words}");
        assert!(words.contains("or take the nearest probe time"), "{words}");
    }
    assert!(!out.exists());
    let nearest = ["--probe", "test", "--id", "3", "--probe-time", "nearest"];
    let (code, table, words) = gradlog(&run, "influence", &nearest);
    assert!(code == 0 && table.contains("proponent"), "{words}");
}

/// The reason is the one that it is: here all visits have a NaN.
#[test]
fn influence_of_no_usable_visit_says_why() {
    let mut all = visits(&mut Draws(1), 6, 2, 3);
    all.iter_mut().for_each(|visit| visit.learning_rate = f32::NAN);
    let mut run = Synthetic::new(Encoding::Q8);
    run.set(0, "test");
    run.probes(&[Draws(3).visit(3, 0, 0)]);
    run.visits(&all);
    run.end();
    let (code, _, words) = gradlog(&run.finish(), "influence", &["--probe", "test", "--id", "3"]);
    assert!(code == 1 && words.contains("a number was NaN or infinite") && !words.contains("probe time"), "{words}");
}

const VERBS: [(&str, &[&str]); 11] = [
    ("scores", &["--score", "el2n"]),
    ("suspects", &[]),
    ("map", &[]),
    ("prune", &["--score", "el2n", "--keep", "0.5"]),
    ("threshold", &["--class", "10"]),
    ("influence", &["--probe", "test", "--id", "3"]),
    ("influence", &["--probe", "test", "--id", "3", "--method", "if"]),
    ("similar", &["--example", "1"]),
    ("cluster", &[]),
    ("export", &["--out", "/nonexistent/x.npy"]),
    ("example", &["--id", "100"]),
];

#[test]
fn a_run_without_visits_is_no_run_without_gradients() {
    let mut run = Synthetic::new(Encoding::Q8);
    run.set(0, "test");
    run.probes(&[Draws(3).visit(3, 0, 0)]);
    let run = run.finish();
    for (verb, arguments) in VERBS {
        let (code, data, words) = gradlog(&run, verb, arguments);
        assert_eq!((code, data.as_str()), (1, ""), "{verb}: {words}");
        assert!(words.contains("there are no visits at all") && !words.contains("Taps::tap"), "{verb}: {words}");
        assert!(words.contains("`flush` or `finish`"), "{verb}: {words}");
    }
}

/// Damage in front of the first visit: it is named, and not the recording.
#[test]
fn a_run_that_is_damaged_before_its_first_visit_blames_the_damage() {
    let run = written(true);
    let opened = Run::open(run.path()).unwrap();
    let is_visits = |block: &gradlog_format::run::Block| block.kind() == Some(gradlog_format::log::BlockKind::Visits);
    let before: u64 = opened.scan().take_while(|block| !is_visits(block)).map(|block| block.bytes()).sum();
    let path = run.path().join("segment-00000.glog");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[SEGMENT_HEADER_BYTES + before as usize + 20] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    for (verb, arguments) in VERBS {
        let (code, data, words) = gradlog(&run, verb, arguments);
        assert_eq!((code, data.as_str()), (1, ""), "{verb}: {words}");
        assert!(words.contains("is damaged at byte") && !words.contains("Taps::tap"), "{verb}: {words}");
    }
}

/// Nothing found is an answer, if it says so.
#[test]
fn nothing_found_is_said_with_what_finds_more() {
    let run = written(true);
    let (code, _, words) = gradlog(&run, "similar", &["--duplicates", "1"]);
    assert!(code == 0 && words.contains("no two examples have a cosine of at least 1; ask for a lower one"), "{words}");
    let mut all = visits(&mut Draws(1), 12, 2, 4);
    for visit in &mut all {
        // All threshold samples have the lowest margin.
        (visit.label, visit.margin) = if visit.example < 120 { (10, -5.0) } else { (1, 5.0) };
    }
    let mut run = Synthetic::new(Encoding::Q8);
    run.visits(&all);
    run.end();
    let (code, _, words) = gradlog(&run.finish(), "threshold", &["--class", "10", "--flagged"]);
    assert!(code == 0 && words.contains("leave out --flagged"), "{words}");
}

/// Scores of 0 are a result without a strongest.
#[test]
fn scores_that_are_all_0_say_so() {
    let mut all = visits(&mut Draws(1), 6, 2, 3);
    all.iter_mut().for_each(|visit| visit.learning_rate = 0.0);
    let mut run = Synthetic::new(Encoding::Q8);
    run.set(0, "test");
    run.probes(&[Draws(3).visit(3, 0, 0)]);
    run.visits(&all);
    run.end();
    let (code, _, words) = gradlog(&run.finish(), "influence", &["--probe", "test", "--id", "3"]);
    assert!(code == 0 && words.contains("every score is 0"), "{words}");
}

#[test]
fn arguments_that_never_fit_exit_with_2_before_a_run_is_opened() {
    let there = written(true);
    for run in [there.path().to_str().unwrap(), "/nonexistent/run"] {
        for line in [
            &["prune", run, "--score", "loss", "--keep", "0"][..],
            &["prune", run, "--score", "loss", "--keep", "0.9", "--skip-hardest", "0.2"],
            &["influence", run, "--probe", "test", "--id", "3", "--method", "if", "--damping", "-1"],
            &["influence", run, "--probe", "test", "--id", "3", "--method", "if", "--damping", "-1,0.1"],
            &["influence", run, "--probe", "test", "--id", "3", "--method", "if", "--numbers", "0"],
            &["influence", run, "--probe", "test", "--id", "3", "--method", "if", "--damping", "1,1"],
            &["influence", run, "--probe", "test", "--id", "3", "--method", "if", "--at", "sweep"],
            &["influence", run, "--probe", "test", "--id", "3", "--method", "if", "--by", "layer"],
            &["influence", run, "--probe", "test", "--id", "3", "--soft-threshold", "1"],
            &["similar", run, "--duplicates", "nan"],
            &["velocity", run, "--set", "test", "--epochs", "1"],
            &["threshold", run],
            &["map", run, "--share", "2"],
        ] {
            let (code, out, words) = typed(line);
            assert_eq!((code, out.as_str()), (2, ""), "{line:?}: {words}");
            assert!(words.starts_with("error: "), "{words}");
        }
    }
    let sweeps = gradlog(&there, "scores", &["--score", "forgetting", "--at", "sweep"]);
    assert!(sweeps.0 == 2 && sweeps.2.contains("leave out --at"), "{}", sweeps.2);
    assert_eq!(gradlog(&there, "suspects", &["--at", "sweep"]).0, 2);
}

/// Other examples under the ids of the training have no place in groups by the training's scores.
#[test]
fn velocity_by_a_score_refuses_probes_that_are_not_the_training_examples() {
    let of = |probe_label: fn(u64) -> u32| {
        let mut all = visits(&mut Draws(1), 30, 3, 8);
        all.iter_mut().for_each(|visit| visit.label = visit.example as u32 % 5);
        let mut run = Synthetic::new(Encoding::Q8);
        run.set(0, "some");
        for step in [0, 4] {
            let ids = (0..12).map(|id| 100 + 7 * id);
            let probes = ids.map(|id| Visit { label: probe_label(id), ..Draws(id).visit(id, step, 0) });
            run.probes(&probes.collect::<Vec<Visit>>());
        }
        run.visits(&all);
        run.end();
        run.finish()
    };
    let ask = |run: &Written| gradlog(run, "velocity", &["--set", "some", "--by", "loss", "--group-size", "6"]);
    let (code, _, words) = ask(&of(|id| (id as u32 + 1) % 5));
    assert!(code == 1 && words.contains("12 of 12 probes have another label") && words.contains("own ids"), "{words}");
    // Some true labels beside wrong ones of the training.
    let (code, _, words) = ask(&of(|id| if id == 107 { 9 } else { id as u32 % 5 }));
    assert!(code == 0 && words.contains("1 probes have another label"), "{words}");
    assert_eq!(ask(&of(|id| id as u32 % 5)).0, 0);
}
