//! What questions cost in requests and bytes, for docs/remote.md. Run by hand:
//! `cargo test --release -p gradlog-store --test it -- --ignored --nocapture costs`.

use crate::support::{write_run, Bucket};
use gradlog_analysis::{InfluenceQuestion, Score, ScoreQuestion, SummaryQuestion};
use gradlog_format::run::Run;
use gradlog_store::Store;
use std::sync::Arc;

#[test]
#[ignore = "prints a table"]
fn costs_of_questions_about_a_hundred_thousand_visits() {
    let bucket = Bucket::new();
    let run = write_run(25, 32 << 20);
    let report = bucket.sync(run.path(), "run").unwrap();
    let bytes: u64 = report.sent_bytes;
    println!(
        "{} visits, {bytes} bytes, {} files",
        Run::open(run.path()).unwrap().verify().unwrap().visits,
        report.sent_files
    );
    println!("copy: {:?}", report.requests);
    type Ask = fn(&Run);
    let questions: [(&str, Ask); 4] = [
        ("info", |run| drop(SummaryQuestion::new().compute(run).unwrap())),
        ("one score", |run| drop(ScoreQuestion::new(Score::Aum).compute(run).unwrap())),
        ("one probe", |run| drop(InfluenceQuestion::new("test").id(31).compute(run).unwrap())),
        ("verify", |run| drop(run.verify().unwrap())),
    ];
    for (name, ask) in questions {
        let store = Arc::new(Store::open("s3://bucket/run", bucket.patient_options()).unwrap());
        let remote = Run::open_in(store.clone(), store.root()).unwrap();
        ask(&remote);
        assert!(store.requests().bytes_read < 2 * bytes);
        let asked = store.requests();
        println!("{name}: {} requests, {:.1} MB", asked.reads + asked.looks, asked.bytes_read as f64 / 1e6);
    }
}
