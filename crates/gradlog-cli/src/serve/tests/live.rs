//! A run that is still being written: the server sees what was committed, and says that there is more.

use super::with_server;
use gradlog_format::sketch::Encoding;
use gradlog_testing::{visits, Draws, Synthetic};
use std::time::{Duration, Instant};

#[test]
fn a_growing_run_is_followed_to_its_end() {
    let mut all = visits(&mut Draws(1), 20, 3, 5);
    all.iter_mut().for_each(|visit| visit.label = (visit.example % 3) as u32);
    let mut run = Synthetic::new(Encoding::Q8);
    run.visits(&all[..20]);
    let dir = run.dir.clone();
    with_server(&[dir.path()], &[], |client| {
        let first = client.get("state").json();
        assert_eq!((&first["recording"], &first["visits"]), (&true.into(), &20.into()));
        let visits_of = |path: &str| client.get(path).json()["runs"][0]["visits"].clone();
        assert_eq!(visits_of("head"), 20);
        // One example comes later. Labels are known anew for each state.
        let late = format!("examples?ids={}", all[20].example);
        assert_eq!(client.get(&late).json().as_array().unwrap().len(), 0);
        run.visits(&all[20..50]);
        let start = Instant::now();
        let next = loop {
            let state = client.get("state").json();
            if state["visits"] == 50 {
                break state;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "{state}");
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_ne!(first["state"], next["state"]);
        assert_eq!(visits_of("head"), 50);
        assert_eq!(client.get(&late).json().as_array().unwrap().len(), 1);
        // What was answered before stays what it was for who asks for that state.
        let old = first["state"].as_str().unwrap();
        assert_eq!(visits_of(&format!("head?state={old}")), 20);
        run.visits(&all[50..]);
        run.end();
        let _written = run.finish();
        let start = Instant::now();
        loop {
            let state = client.get("state").json();
            if state["recording"] == false {
                assert_eq!(state["visits"], all.len());
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "{state}");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(visits_of("head"), all.len());
        assert_eq!(client.get("head").json()["runs"][0]["finished"], true);
    });
}
