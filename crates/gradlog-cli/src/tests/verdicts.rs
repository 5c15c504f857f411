//! Which verdicts `gradlog prune` applies, and what it does about the rest.

use super::*;

/// A run whose examples have the label `id % 3 + shift`.
fn labeled(seed: u64, shift: u32) -> Written {
    let mut all = visits(&mut Draws(seed), 12, 3, 8);
    all.iter_mut().for_each(|visit| visit.label = (visit.example % 3) as u32 + shift);
    let mut run = Synthetic::new(Encoding::Q8);
    all.chunks(16).for_each(|rows| run.visits(rows));
    run.end();
    run.finish()
}

/// Prunes by these verdicts alone: exit code, ids and labels that are kept, words.
fn prune(run: &Written, verdicts: &str) -> (u8, Vec<[String; 2]>, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("verdicts.csv");
    std::fs::write(&path, format!("id,label,proposed,verdict\n{verdicts}")).unwrap();
    let (code, text, words) = gradlog(run, "prune", &["--verdicts", path.to_str().unwrap(), "--format", "csv"]);
    if text.is_empty() {
        return (code, Vec::new(), words);
    }
    let (header, rows) = records(&text);
    let at = |name: &str| header.iter().position(|column| column == name).unwrap();
    let mut kept: Vec<[String; 2]> =
        rows.iter().map(|row| [row[at("example")].clone(), row[at("label")].clone()]).collect();
    kept.sort();
    (code, kept, words)
}

#[test]
fn verdicts_that_fit_act() {
    let run = labeled(1, 0);
    // 100 is of class 1, 107 of class 2, 114 of class 0.
    let (code, kept, words) = prune(&run, "100,1,,drop\n107,2,0,relabel\n114,0,,keep\n121,,2,relabel\n5,1,,drop\n");
    assert_eq!((code, kept.len()), (0, 11), "{words}");
    let label = |id: &str| kept.iter().find(|row| row[0] == id).map(|row| row[1].as_str());
    assert_eq!([label("100"), label("107"), label("114"), label("121")], [None, Some("0"), Some("0"), Some("2")]);
    assert!(words.contains("by the verdicts 1 example left out and 2 examples relabeled; 11 are kept"), "{words}");
    assert!(words.contains("note: 1 verdict to keep or drop examples that these runs do not have: nothing to do"));
    // A run that was trained with the new label has it already.
    let (code, kept, words) = prune(&run, "107,1,2,relabel\n");
    assert_eq!((code, kept.len()), (0, 12), "{words}");
    assert!(words.contains("note: 1 example with the new label already"), "{words}");
}

#[test]
fn verdicts_that_do_not_fit_are_named_and_change_nothing() {
    let run = labeled(1, 0);
    let whole = prune(&run, "114,0,,keep\n").1;
    assert_eq!(whole.len(), 12);
    for (verdict, words) in [
        ("100,2,,drop", "1 verdict skipped: the runs recorded another label than the judged one (100)"),
        ("100,2,0,relabel", "1 verdict skipped: the runs recorded another label than the judged one (100)"),
        ("100,1,99,relabel", "1 verdict skipped: no example of the runs has the new label (100 to 99)"),
        ("5,1,2,relabel", "1 verdict skipped: the runs do not have the example to relabel (5)"),
    ] {
        let (code, kept, said) = prune(&run, &format!("114,0,,keep\n{verdict}\n"));
        assert_eq!((code, &kept), (3, &whole), "{verdict}: {said}");
        assert!(said.contains(&format!("warning: {words}")), "{said}");
        // A file of which nothing fits is that of another run.
        let (code, kept, said) = prune(&run, &format!("{verdict}\n"));
        assert_eq!((code, kept.len()), (1, 0), "{verdict}: {said}");
        assert!(
            said.contains("no verdict of the file fits the runs, and no list was written: ") && said.contains(words)
        );
    }
    assert_eq!(prune(&run, "5,1,,drop\n6,1,,keep\n").0, 1, "of examples that are not there");
    assert_eq!(prune(&run, "").0, 0, "nobody judged anything");
    let many: String = (0..8).map(|n| format!("{},2,,drop\n", 100 + 21 * n)).collect();
    let (_, _, said) = prune(&run, &format!("114,0,,keep\n{many}"));
    assert!(
        said.contains("4 verdicts skipped: the runs recorded another label than the judged one (100, 121, 142, 163)")
    );
}

#[test]
fn runs_whose_labels_differ_are_named_by_the_page() {
    let folder = tempfile::tempdir().unwrap();
    let report = |runs: [&Written; 2]| {
        let out = folder.path().join("page.html");
        let paths = runs.map(|run| run.path().to_str().unwrap());
        let (code, _, words) = typed(&["report", paths[0], paths[1], "--out", out.to_str().unwrap()]);
        assert_eq!(code, 0, "{words}");
        (words, std::fs::read_to_string(out).unwrap())
    };
    let warning = "the runs recorded different labels for 12 examples (100, 107, 114, 121, 128, ...)";
    let (words, page) = report([&labeled(1, 0), &labeled(2, 1)]);
    assert!(words.contains(&format!("warning: {warning}")) && page.contains(warning), "{words}");
    let (words, page) = report([&labeled(1, 0), &labeled(2, 0)]);
    assert!(!words.contains("different labels") && !page.contains("the runs recorded different labels for"), "{words}");
}
