//! Real workers, as processes on the loopback address, against the same questions asked of one process.

mod workers;

use gradlog_format::sketch::Encoding;
use gradlog_testing::{visits, Draws, Synthetic, Visit, Written};
use std::ffi::OsString;
use std::path::Path;
use workers::{Dying, WorkerProcess};

/// A run of some hundred blocks, with probes at two times.
fn written() -> Written {
    let mut all = visits(&mut Draws(1), 200, 6, 8);
    // SQL cannot order two visits of one step.
    all.dedup_by_key(|visit| (visit.step, visit.example));
    let mut run = Synthetic::new(Encoding::Q8);
    run.set(0, "test");
    let probe = |id: u64, visit: &Visit| Visit { set: 0, ..Draws(id).visit(id, visit.step, visit.epoch) };
    run.probes(&(1..=5).map(|id| probe(id, &all[0])).collect::<Vec<_>>());
    let (first, second) = all.split_at(all.len() / 2 / 8 * 8);
    first.chunks(8).for_each(|rows| run.visits(rows));
    run.probes(&(1..=5).map(|id| probe(id, &second[0])).collect::<Vec<_>>());
    second.chunks(8).for_each(|rows| run.visits(rows));
    run.end();
    run.finish()
}

/// Exit code, stdout and stderr of `gradlog-sql`.
fn sql(run: &Path, query: &str, more: &[&str]) -> (u8, String, String) {
    let line = [&["gradlog-sql", run.to_str().unwrap(), query, "--format", "csv"], more].concat();
    let (mut out, mut words) = (Vec::new(), Vec::new());
    let code = gradlog_datafusion::command::execute(line.into_iter().map(Into::into), &mut out, &mut words, false);
    (code, String::from_utf8(out).unwrap(), String::from_utf8(words).unwrap())
}

/// Exit code, stdout and stderr of `gradlog VERB RUN ...`.
fn gradlog(verb: &str, run: &Path, more: &[&str]) -> (u8, String, String) {
    // The same value in every test.
    std::env::set_var("GRADLOG_SQL", env!("CARGO_BIN_EXE_gradlog-sql"));
    let line = [verb.into(), run.into()].into_iter().chain(more.iter().map(OsString::from));
    let ended = gradlog_cli::run_line(line);
    (ended.code, String::from_utf8(ended.data).unwrap(), ended.words)
}

const QUERIES: [&str; 8] = [
    "select count(*) n, min(step), max(step) from visits",
    "select epoch, count(*) n, min(loss), max(loss), sum(correct) from visits where epoch >= 1 group by epoch order by 1",
    "select * from visits where example in (114, 800) order by step, example",
    "select example, forgetting(step, correct, loss) f from visits group by example order by example",
    "select * from scores('aum') order by example",
    "select a.example, a.score, f.score from scores('aum') a join scores('forgetting') f on a.example = f.example \
     where a.label is not null order by a.example",
    "select * from influence('test', 3, 'ids=1,4') order by probe, score, example",
    "select * from influence('test') where probe = 2 order by example",
];

#[test]
fn workers_answer_as_one_process_does() {
    let (run, one, two) = (written(), WorkerProcess::start(), WorkerProcess::start());
    let cluster = format!("{},{}", one.url(), two.url());
    for query in QUERIES {
        let here = sql(run.path(), query, &[]);
        assert_eq!(here.0, 0, "{query}: {}", here.2);
        assert!(here.1.lines().count() > 1, "{query}");
        for more in [&["--cluster", &cluster][..], &["--cluster", &cluster, "--shares", "5", "--partitions", "3"]] {
            assert_eq!(sql(run.path(), query, more), here, "{query} {more:?}");
        }
    }
    let alone = WorkerProcess::start();
    for query in &QUERIES[1..] {
        assert_eq!(sql(run.path(), query, &["--cluster", alone.url()]), sql(run.path(), query, &[]), "{query}");
    }
    assert!(alone.has_begun("RecordScanExec") && alone.has_begun("ScoresExec") && alone.has_begun("InfluenceExec"));
    // Both had something to do.
    assert!(one.has_begun("RecordScanExec") && two.has_begun("RecordScanExec"));
    assert!(one.has_begun("InfluenceExec") && two.has_begun("InfluenceExec"));
}

#[test]
fn the_command_prints_what_it_prints_without_workers() {
    let (run, one, two) = (written(), WorkerProcess::start(), WorkerProcess::start());
    let cluster = format!("{},{}", one.url(), two.url());
    for (verb, question) in [
        ("scores", &["--score", "aum", "--top", "7"][..]),
        ("scores", &["--score", "forgetting", "--epochs", "1..3", "--format", "csv"]),
        ("influence", &["--probe", "test", "--id", "3"]),
        ("influence", &["--probe", "test", "--mean", "--format", "json", "--top", "4"]),
        ("influence", &["--probe", "test", "--ids", "1,3", "--normalize", "cosine", "--format", "csv"]),
        ("influence", &["--probe", "test", "--all", "--top", "3", "--format", "csv"]),
        // Errors, of the arguments and of the run.
        ("influence", &["--probe", "nobody", "--all"]),
    ] {
        let here = gradlog(verb, run.path(), question);
        let there = gradlog(verb, run.path(), &[question, &["--cluster", &cluster]].concat());
        assert_eq!(there, here, "{verb} {question:?}");
    }
    assert!(one.has_begun("PartsExec: influence") && two.has_begun("PartsExec: influence"));
    let line = ["--probe", "test", "--all", "--method", "if", "--cluster", &cluster];
    let (code, _, words) = gradlog("influence", run.path(), &line);
    assert_eq!(code, 2, "{words}");
    assert!(words.contains("only TracIn can be shared out"), "{words}");
}

/// The worker is killed when the first bytes of its answer come, and they are kept back.
#[test]
fn a_query_is_asked_again_when_a_worker_is_killed() {
    let run = written();
    for query in QUERIES {
        let (stays, dies) = (WorkerProcess::start(), Dying::start());
        let cluster = format!("{},{}", stays.url(), dies.url());
        let here = sql(run.path(), query, &[]);
        let (code, out, words) = sql(run.path(), query, &["--cluster", &cluster]);
        let is_distributed = dies.was_killed();
        assert_eq!((code, &out), (0, &here.1), "{query}: {words}");
        // The count is in the headers, which the client has read.
        assert_eq!(is_distributed, !query.contains("count(*) n, min(step)"), "{query}");
        let warned = format!("warning: {}/ stopped answering; asked again of the other 1", dies.url());
        assert_eq!(words.contains(&warned), is_distributed, "{words}");
        // The other one answers, not this process.
        assert_eq!(stays.has_begun("Exec"), is_distributed, "{query}");
    }
    let (stays, dies) = (WorkerProcess::start(), Dying::start());
    let cluster = format!("{},{}", stays.url(), dies.url());
    let question = ["--probe", "test", "--all", "--top", "3", "--format", "csv"];
    let here = gradlog("influence", run.path(), &question);
    let (code, out, words) = gradlog("influence", run.path(), &[&question[..], &["--cluster", &cluster]].concat());
    assert!(dies.was_killed());
    assert_eq!((code, out), (0, here.1), "{words}");
    assert!(words.contains("stopped answering; asked again of the other 1"), "{words}");
}

#[test]
fn without_workers_there_is_an_error_that_names_them() {
    let run = written();
    let (one, two) = (Dying::start(), Dying::start());
    let cluster = format!("{},{}", one.url(), two.url());
    let (code, out, words) = sql(run.path(), QUERIES[4], &["--cluster", &cluster]);
    assert_eq!((code, out.as_str()), (1, ""), "{words}");
    assert!(one.was_killed() && two.was_killed());
    assert!(words.contains("error: no worker is left"), "{words}");
    let (code, _, words) = sql(run.path(), "select 1", &["--cluster", "127.0.0.1:1"]);
    assert_eq!(code, 1);
    assert!(words.contains("worker http://127.0.0.1:1/ does not answer"), "{words}");
    for (cluster, why) in [("ftp://here:1", "this is no address"), ("a:1,a:1", "it is there twice")] {
        let (code, _, words) = sql(run.path(), "select 1", &["--cluster", cluster]);
        assert_eq!(code, 1);
        assert!(words.contains(why), "{words}");
    }
}

#[test]
fn a_damaged_run_is_refused() {
    for distance in [20, 900] {
        let (run, worker) = (written(), WorkerProcess::start());
        run.damage(9, distance);
        let (code, out, words) = sql(run.path(), "select * from visits", &["--cluster", worker.url()]);
        assert_eq!((code, out.as_str()), (1, ""), "{words}");
        assert!(words.contains("block 9"), "{words}");
        // The client reads the headers of blocks, and the worker their columns.
        let of_worker = words.contains(&format!("worker {}: ", worker.url().replace("http://", "")));
        assert_eq!(of_worker, distance == 900, "{words}");
    }
}

/// An argument that DataFusion's function cannot take: it reserves memory by it.
#[test]
fn a_panic_in_a_worker_is_an_error() {
    let (run, one, two) = (written(), WorkerProcess::start(), WorkerProcess::start());
    let cluster = format!("{},{}", one.url(), two.url());
    let query = "select count(*) n, avg(loss), approx_percentile_cont(loss, 0.5, 18446744073709551615) from visits";
    let (code, out, words) = sql(run.path(), query, &["--cluster", &cluster]);
    assert_eq!((code, out.as_str()), (1, ""), "{words}");
    assert!(words.contains("the query panicked"), "{words}");
    // They go on.
    assert_eq!(sql(run.path(), QUERIES[1], &["--cluster", &cluster]).0, 0);
}
