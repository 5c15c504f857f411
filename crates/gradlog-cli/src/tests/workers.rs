//! A run of several workers, whole and in parts.

use super::{gradlog, typed};
use gradlog_format::sketch::Encoding;
use gradlog_testing::{visits, Draws, Synthetic, Visit, Written};
use serde_json::Value as Json;
use std::sync::Arc;

/// Two of three workers' parts; the third is missing.
fn written_by_workers() -> Written {
    let dir = Arc::new(tempfile::TempDir::new().unwrap());
    let all = visits(&mut Draws(1), 30, 6, 8);
    let part = |rank: u32| {
        let mut part = Synthetic::part(dir.clone(), Some((rank, 3)), Encoding::Q8);
        let own: Vec<Visit> = all.iter().skip(rank as usize).step_by(2).cloned().collect();
        own.chunks(5 + rank as usize).for_each(|rows| part.visits(rows));
        part.end();
        part.finish()
    };
    part(0);
    part(1)
}

#[test]
fn several_workers_are_one_run_to_every_verb_and_what_is_wrong_with_them_is_said() {
    let run = written_by_workers();
    let total = visits(&mut Draws(1), 30, 6, 8).len() as u64;
    let missing = "worker 2 of 3 is missing";
    let (code, out, words) = gradlog(&run, "info", &["--format", "json"]);
    let info: Json = serde_json::from_str(&out).unwrap();
    assert!(code == 0 && words.contains(missing), "{words}");
    assert_eq!((info["visits"].as_u64(), info["finished"].as_bool()), (Some(total), Some(false)));
    assert_eq!(info["workers"]["count"], 3);
    assert_eq!(info["workers"]["reduction"], "mean");
    assert_eq!(info["workers"]["parts"].as_array().unwrap().len(), 2);
    assert_eq!(info["workers"]["parts"][1]["rank"], 1);
    assert_eq!(info["workers"]["parts"][1]["state"], "finished");
    assert!(info["workers"]["notes"][0].as_str().unwrap().starts_with(missing));
    let (code, out, words) = gradlog(&run, "scores", &["--score", "loss", "--format", "json"]);
    let scores: Json = serde_json::from_str(&out).unwrap();
    assert!(code == 0 && words.contains(missing) && scores["workers"].as_str().unwrap().starts_with(missing));
    let (code, out, _) = gradlog(&run, "verify", &[]);
    assert!(code == 0 && out.contains("sound, not finished"), "{out}");
    // Of one part alone it is said that it is one.
    let folder = run.path().join("worker-0001");
    let (code, out, words) = typed(&["info", folder.to_str().unwrap(), "--format", "json"]);
    let info: Json = serde_json::from_str(&out).unwrap();
    assert!(code == 0 && words.contains("the part of worker 1 of 3 alone"), "{words}");
    assert_eq!((info["visits"].as_u64(), info["worker"]["rank"].as_u64()), (Some(total / 2), Some(1)));

    let path = folder.join("segment-00000.glog");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let (code, out, words) = gradlog(&run, "verify", &[]);
    assert!(code == 3 && words.contains("worker-0001") && words.contains("gradlog recover"), "{words}");
    let count = |out: &str, name: &str| -> u64 {
        let line = out.lines().find(|line| line.trim_start().starts_with(name)).unwrap();
        line.split_whitespace().find_map(|word| word.parse().ok()).unwrap()
    };
    let (readable, behind, lost) = (count(&out, "visits"), count(&out, "behind it"), count(&out, "lost"));
    assert!(readable > 0 && behind > 0 && lost > 0 && readable + behind + lost == total, "{out}");
    let new = run.path().join("new");
    let (code, out, words) = gradlog(&run, "recover", &["--out", new.to_str().unwrap()]);
    assert!(code == 3 && count(&out, "visits") == total - lost, "{out} {words}");
    let (code, out, words) = typed(&["verify", new.to_str().unwrap()]);
    assert!(code == 0 && words.contains(missing) && count(&out, "visits") == total - lost, "{out} {words}");
}
