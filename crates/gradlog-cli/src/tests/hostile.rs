//! What other people have chosen, names and paths, on its way to a terminal and into JSON and CSV.

use super::{records, typed};
use gradlog_analysis::Score;
use gradlog_format::log::{Manifest, VariableRecord};
use gradlog_format::run::Run;
use gradlog_format::sketch::Encoding;
use gradlog_testing::{visits, Draws, Synthetic, Visit, Written};
use serde_json::Value as Json;
use std::path::PathBuf;

/// Clears the screen in two ways, ends the line, writes backwards, and breaks JSON, CSV and a table where it can.
const EVIL: &str = "\u{1b}[2J\u{9b}31m\r\n\u{7}\u{7f}\u{202e}\u{2066}\u{0}\",;'\\\t|\u{1b}]0;title\u{1b}\\";

/// A run of which every text is evil, in a folder of such a name.
pub(crate) fn evil() -> (tempfile::TempDir, PathBuf, Written) {
    let mut run = Synthetic::new(Encoding::Q8);
    run.set(0, EVIL);
    let probes: Vec<Visit> = [(3, 0), (4, 0)].map(|(id, step)| Draws(id).visit(id, step, 0)).to_vec();
    run.probes(&probes);
    for rows in visits(&mut Draws(1), 30, 3, 8).chunks(16) {
        run.visits(rows);
    }
    run.dropped(5);
    run.end();
    let written = run.finish();
    let mut manifest: Manifest = written.run().manifest().clone();
    manifest.version = EVIL.into();
    manifest.notes = vec![(EVIL.into(), EVIL.into())];
    manifest.untapped = vec![VariableRecord { name: EVIL.into(), shape: vec![] }];
    for layer in &mut manifest.layers {
        layer.name = EVIL.into();
        layer.kind = EVIL.into();
        layer.shapes.iter_mut().for_each(|(name, _)| *name = EVIL.into());
    }
    let parent = tempfile::tempdir().unwrap();
    // A name of a file holds neither of these two.
    let dir = parent.path().join(EVIL.replace(['/', '\0'], ""));
    std::fs::create_dir(&dir).unwrap();
    for entry in std::fs::read_dir(written.path()).unwrap() {
        let from = entry.unwrap().path();
        std::fs::copy(&from, dir.join(from.file_name().unwrap())).unwrap();
    }
    std::fs::write(dir.join("manifest"), manifest.to_bytes().unwrap()).unwrap();
    (parent, dir, written)
}

#[track_caller]
pub(crate) fn assert_tame(text: &str, what: &str) {
    let wild = |c: char| c != '\n' && (c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) || c == '\u{2066}');
    assert!(!text.contains(wild), "{what}: {text:?}");
}

#[test]
fn no_control_character_of_a_run_reaches_the_terminal() {
    let (parent, dir, written) = evil();
    let path = dir.to_str().unwrap();
    let mut calls: Vec<Vec<&str>> = vec![
        vec!["info"],
        vec!["info", "--format", "json"],
        vec!["verify"],
        vec!["watch", "--once"],
        // Its name is asked for, and one that is not there, which tells the others.
        vec!["influence", "--probe", "nope", "--id", "3"],
        vec!["influence", "--probe", EVIL, "--id", "999"],
    ];
    for format in ["table", "csv", "json"] {
        calls.push(vec!["influence", "--probe", EVIL, "--id", "3", "--format", format]);
        calls.push(vec!["influence", "--probe", EVIL, "--all", "--format", format]);
        calls.extend(Score::ALL.map(|score| vec!["scores", "--score", score.name(), "--format", format]));
    }
    let new = parent.path().join(format!("{}new", EVIL.replace(['/', '\0'], "")));
    calls.push(vec!["recover", "--out", new.to_str().unwrap()]);
    calls.push(vec!["recover", "--out", new.to_str().unwrap()]);
    for damaged in [false, true] {
        if damaged {
            let segment = dir.join("segment-00000.glog");
            let mut bytes = std::fs::read(&segment).unwrap();
            bytes[(written.offsets[4] + 70) as usize] ^= 1;
            std::fs::write(&segment, bytes).unwrap();
            std::fs::remove_dir_all(&new).unwrap();
        }
        for call in &calls {
            let line: Vec<&str> = [&call[..1], &[path], &call[1..]].concat();
            let (code, out, words) = typed(&line);
            let what = format!("{call:?} exits with {code}");
            assert_tame(&out, &what);
            assert_tame(&words, &what);
            assert!(code != 2, "{what}: {words}");
            if call.contains(&"json") {
                let json: Json = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{what}: {e}: {out}"));
                match call[0] {
                    "info" => {
                        assert_eq!(json["version"], EVIL);
                        assert_eq!(json["layers"][0]["name"], EVIL);
                        assert_eq!(json["probes"][0]["name"], EVIL);
                        assert_eq!(json["untapped"][0], EVIL);
                        assert_eq!(json["notes"][0], serde_json::json!([EVIL, EVIL]));
                    }
                    "influence" => assert_eq!(json["set"], EVIL),
                    _ => {}
                }
                assert_eq!(json["damage"].is_string(), damaged, "{what}");
            }
            if call.contains(&"csv") {
                let (header, rows) = records(&out);
                assert!(!rows.is_empty() && rows.iter().all(|row| row.len() == header.len()), "{what}");
            }
        }
    }
}

/// The command that `verify` proposes is one that a shell runs, whatever the folder is called.
#[cfg(unix)]
#[test]
fn the_proposed_command_can_be_typed() {
    let (_parent, dir, written) = evil();
    let segment = dir.join("segment-00000.glog");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[(written.offsets[4] + 70) as usize] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let words = typed(&["verify", dir.to_str().unwrap()]).2;
    let command = words.lines().last().unwrap().split_once("gradlog ").unwrap().1;
    let Ok(output) = std::process::Command::new("bash").args(["-c", &format!("printf '%s\\0' {command}")]).output()
    else {
        println!("skipped: there is no bash");
        return;
    };
    let arguments: Vec<&str> = std::str::from_utf8(&output.stdout).unwrap().split_terminator('\0').collect();
    assert_eq!(arguments[..3], ["recover", dir.to_str().unwrap(), "--out"]);
    assert_eq!(typed(&arguments).0, 3);
    assert_eq!(Run::open(arguments[3]).unwrap().verify().unwrap().damage, None);
}
