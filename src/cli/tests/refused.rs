//! Arguments that a run has no answer to.

use super::{gradlog, written};

/// A window beside the run is a mistake in the command: no empty answer, and above all no empty keep-list.
#[test]
fn a_window_with_no_visit_in_it_is_an_error_that_says_what_there_is() {
    let run = written(true);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("keep.txt");
    let out = out.to_str().unwrap();
    let verbs: [(&str, &[&str]); 9] = [
        ("scores", &["--score", "el2n"]),
        ("suspects", &[]),
        ("map", &[]),
        ("prune", &["--score", "el2n", "--keep", "0.5", "--out", out]),
        ("influence", &["--probe", "test", "--id", "3"]),
        ("influence", &["--probe", "test", "--id", "3", "--method", "trak"]),
        ("similar", &["--example", "1"]),
        ("cluster", &[]),
        ("export", &["--out", out]),
    ];
    for (verb, arguments) in verbs {
        for (window, asked) in [
            (["--epochs", "9..12"], "`--epochs 9..12`"),
            (["--epochs", "4.."], "`--epochs 4..`"),
            (["--steps", "1000..=1001"], "`--steps 1000..1002`"),
        ] {
            let (code, data, words) = gradlog(&run, verb, &[arguments, &window].concat());
            let (has, says) = ("epochs 0 to 2 and steps 0 to 11", format!("no visit lies inside {asked}"));
            assert!(code == 1 && data.is_empty(), "{verb}: {code}, {data}");
            assert!(words.contains(&says) && words.contains(has), "{verb}: {words}");
        }
    }
    assert!(!folder.path().join("keep.txt").exists());
    let (code, _, words) = gradlog(&run, "scores", &["--score", "el2n", "--epochs", "2..100"]);
    assert_eq!(code, 0, "{words}");
}

/// A negative number is told from an argument, so that the error is about the number.
#[test]
fn negative_numbers_are_refused_as_numbers() {
    let run = written(true);
    let influence = ["--probe", "test", "--id", "3", "--method", "if", "--damping", "-1"];
    for (verb, arguments) in [("influence", &influence[..]), ("prune", &["--score", "el2n", "--keep", "-0.5"])] {
        let (code, _, words) = gradlog(&run, verb, arguments);
        assert!(code != 0 && !words.contains("unexpected"), "{verb}: {words}");
        assert!(words.contains("-1") || words.contains("-0.5"), "{verb}: {words}");
    }
}
