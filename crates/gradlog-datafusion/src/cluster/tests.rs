//! What travels of a node, and what a worker makes of bytes and of runs.

use super::nodes::{decode, encode, run_at};
use super::parts::PartsQuestion;
use super::runs::Runs;
use super::split;
use super::wire::{Blocks, Dealt, Node, RunAt};
use super::worker::refuse_files;
use crate::shares::{deal, Shares};
use crate::RunTables;
use datafusion::physical_plan::{displayable, ExecutionPlan, ExecutionPlanProperties};
use datafusion::prelude::{SessionConfig, SessionContext};
use gradlog_format::sketch::Encoding;
use gradlog_testing::{visits, Draws, Synthetic, Written};
use std::sync::Arc;

fn written() -> Written {
    let mut run = Synthetic::new(Encoding::Q8);
    run.set(0, "test");
    run.probes(&(1..=3).map(|id| Draws(id).visit(id, 0, 0)).collect::<Vec<_>>());
    visits(&mut Draws(1), 40, 6, 8).chunks(8).for_each(|rows| run.visits(rows));
    run.end();
    run.finish()
}

/// The leaves of gradlog in the plans of some queries.
fn leaves(tables: &RunTables) -> Vec<Arc<dyn ExecutionPlan>> {
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(3));
    tables.with_shares(5).register(&context).unwrap();
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut found = Vec::new();
    for query in [
        "select loss, step from visits where epoch >= 1 and step < 30 and example in (1, 2, 7)",
        "select * from steps limit 3",
        "select score from scores('el2n', 'epochs=1..4')",
        "select * from influence('test', 4, 'ids=1,3', 'normalize=cosine')",
    ] {
        let plan = threads.block_on(async { context.sql(query).await?.create_physical_plan().await }).unwrap();
        collect(&plan, &mut found);
    }
    assert_eq!(found.len(), 4);
    found
}

fn collect(plan: &Arc<dyn ExecutionPlan>, found: &mut Vec<Arc<dyn ExecutionPlan>>) {
    found.extend(split::deal(plan, 1).map(|_| plan.clone()));
    plan.children().into_iter().for_each(|child| collect(child, found));
}

fn words(plan: &Arc<dyn ExecutionPlan>) -> String {
    displayable(plan.as_ref()).one_line().to_string()
}

#[test]
fn nodes_come_back_as_they_were() {
    let run = written();
    let tables = RunTables::new(run.run().clone()).unwrap();
    let runs = Runs::default();
    for leaf in leaves(&tables) {
        for part in split::deal(&leaf, 2).unwrap().into_iter().chain([leaf]) {
            let node = encode(part.as_ref()).unwrap().unwrap();
            let mut bytes = Vec::new();
            node.write(&mut bytes).unwrap();
            assert_eq!(Node::read(&bytes).unwrap(), node);
            let again = decode(node.clone(), &[], &runs).unwrap();
            assert_eq!((words(&again), again.schema()), (words(&part), part.schema()));
            assert_eq!(again.output_partitioning().partition_count(), part.output_partitioning().partition_count());
            assert_eq!(encode(again.as_ref()).unwrap(), Some(node));
        }
    }
}

#[test]
fn hostile_bytes_are_errors() {
    let run = written();
    let tables = RunTables::new(run.run().clone()).unwrap();
    let runs = Runs::default();
    let mut draws = Draws(5);
    for leaf in leaves(&tables) {
        let mut whole = Vec::new();
        encode(leaf.as_ref()).unwrap().unwrap().write(&mut whole).unwrap();
        for end in 0..whole.len() {
            assert!(Node::read(&whole[..end]).is_err(), "{end}");
        }
        assert!(Node::read(&[&whole[..], b"x"].concat()).is_err());
        for _ in 0..2000 {
            let mut bytes = whole.clone();
            for _ in 0..=draws.below(2) {
                let place = draws.below(bytes.len() as u64) as usize;
                bytes[place] = draws.bits() as u8;
            }
            // Some of these are nodes: of other blocks, or of another run.
            if let Ok(node) = Node::read(&bytes) {
                let _ = decode(node, &[], &runs);
            }
        }
    }
    let mut newer = Vec::new();
    Node::Strongest { top: 3 }.write(&mut newer).unwrap();
    newer[6] = 2;
    assert!(Node::read(&newer).unwrap_err().to_string().contains("version 2"));
    assert!(decode(Node::Strongest { top: 3 }, &[], &runs).is_err(), "it needs an input");
}

#[test]
fn nodes_that_say_what_cannot_be_are_refused() {
    let run = written();
    let tables = RunTables::new(run.run().clone()).unwrap();
    let (runs, at) = (Runs::default(), run_at(&tables).unwrap());
    let records = |record: &str, columns: &[&str], bucket| Node::Records {
        run: at.clone(),
        record: record.into(),
        columns: columns.iter().map(|name| (*name).to_owned()).collect(),
        epochs: None,
        steps: None,
        examples: None,
        limit: None,
        parts: vec![vec![Blocks { bucket, first: 0, end: 9, rows: 3 }]],
    };
    let shares = |of, own: &[Option<u32>]| Dealt { of, own: own.to_vec() };
    let scores = |score: &str, shares| Node::Scores {
        run: at.clone(),
        score: score.into(),
        options: Vec::new(),
        projection: Some(vec![77]),
        shares,
    };
    let parts = |verb: &str, option: &str| Node::Parts {
        verb: verb.into(),
        runs: vec![at.clone()],
        options: vec![option.into()],
        shares: shares(1, &[Some(1)]),
    };
    for (node, why) in [
        (records("nothing", &["loss"], None), "no table"),
        (records("visits", &["nothing"], None), "nothing"),
        (records("visits", &["loss"], Some(3)), "no such bucket"),
        (scores("nothing", shares(1, &[Some(1)])), "no such score"),
        (scores("aum", shares(1, &[Some(1)])), "77"),
        (scores("aum", shares(2, &[Some(3)])), "3/2"),
        (parts("compact", "--buckets=3"), "has no parts"),
        (parts("scores", "--out=/etc/passwd"), "is no option of a part"),
        (parts("scores", "/etc"), "is no option of a part"),
        (parts("scores", "--"), "is no option of a part"),
    ] {
        let refusal = decode(node.clone(), &[], &runs).unwrap_err().to_string();
        assert!(refusal.contains(why), "{node:?}: {refusal}");
    }
}

#[test]
fn a_worker_opens_only_the_run_that_was_asked_about() {
    let run = written();
    let at = run_at(&RunTables::new(run.run().clone()).unwrap()).unwrap();
    let runs = Runs::new("10.0.0.7:7723".into());
    assert!(runs.open(&at).unwrap().are_of_worker());
    for (other, why) in [
        (RunAt { run_id: [7; 16], ..at.clone() }, "is another run here"),
        (RunAt { blocks: at.blocks + 1, ..at.clone() }, "differs here"),
        (RunAt { checksum: !at.checksum, ..at.clone() }, "differs here"),
        (RunAt { place: "/no/such/run".into(), ..at.clone() }, "/no/such/run"),
    ] {
        let refusal = runs.open(&other).unwrap_err().to_string();
        assert!(refusal.starts_with("worker 10.0.0.7:7723: ") && refusal.contains(why), "{refusal}");
    }
}

/// What the client read was whole: the copy of the worker is another one.
#[test]
fn damage_in_the_copy_of_a_worker_is_said_of_that_worker() {
    let run = written();
    let at = run_at(&RunTables::new(run.run().clone()).unwrap()).unwrap();
    // The header of a block, which is all that is read of it when a run is opened.
    run.damage(9, 20);
    let refusal = Runs::new("10.0.0.7:7723".into()).open(&at).unwrap_err().to_string();
    assert!(refusal.starts_with("worker 10.0.0.7:7723: ") && refusal.contains("(block 9)"), "{refusal}");
}

#[test]
fn only_rows_of_influence_are_merged() {
    let run = written();
    let context = SessionContext::new();
    RunTables::new(run.run().clone()).unwrap().register(&context).unwrap();
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let runs = Runs::default();
    let over = |query: &str| {
        let input = threads.block_on(async { context.sql(query).await?.create_physical_plan().await }).unwrap();
        decode(Node::Strongest { top: 3 }, &[input], &runs)
    };
    over("select * from influence('test', 4, 'ids=1,3')").unwrap();
    for query in [
        "select probe, score from influence('test', 4, 'ids=1,3')",
        "select example, score from influence('test', 4, 'ids=1,3')",
        "select example, probe from influence('test', 4, 'ids=1,3')",
        "select cast(example as bigint) example, probe, score from influence('test', 4, 'ids=1,3')",
        "select example, probe, cast(score as real) score from influence('test', 4, 'ids=1,3')",
        "select 1",
    ] {
        let refusal = over(query).unwrap_err().to_string();
        assert!(refusal.contains("do not come from influence"), "{query}: {refusal}");
    }
}

#[test]
fn every_partition_goes_to_one_worker() {
    for count in 1..20 {
        for tasks in 1..6 {
            let all: Vec<Option<u32>> = (1..=count).map(Some).collect();
            let dealt = deal(&all, tasks);
            assert_eq!(dealt.len(), tasks);
            assert!(dealt.iter().all(|own| own.len() == dealt[0].len()));
            let mut numbers: Vec<u32> = dealt.into_iter().flatten().flatten().collect();
            numbers.sort_unstable();
            assert_eq!(numbers, (1..=count).collect::<Vec<_>>());
            let shares: Vec<String> = Shares::all(count).unwrap().deal(tasks).iter().map(Shares::to_string).collect();
            assert_eq!(shares.len(), tasks);
        }
    }
}

#[test]
fn plans_that_touch_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (csv, out) = (dir.path().join("a.csv"), dir.path().join("b.csv"));
    std::fs::write(&csv, "a,b\n1,2\n").unwrap();
    let context = SessionContext::new();
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let plan = |query: &str| threads.block_on(async { context.sql(query).await?.create_physical_plan().await });
    refuse_files(&plan("select * from (values (1), (2)) order by 1").unwrap()).unwrap();
    let list = format!("create external table t stored as csv location '{}'", csv.display());
    threads.block_on(async { context.sql(&list).await?.collect().await }).unwrap();
    for query in ["select a from t order by a".to_owned(), format!("copy (values (1)) to '{}'", out.display())] {
        let refusal = refuse_files(&plan(&query).unwrap()).unwrap_err().to_string();
        assert!(refusal.contains("writes nothing"), "{query}: {refusal}");
    }
}

/// A part that nobody waits for is not made: its reading is stopped, and nothing is sent.
#[test]
fn a_part_ends_when_its_client_is_gone() {
    let run = written();
    let question = PartsQuestion::new("scores".into(), &[run.path().to_owned()], vec!["--score=el2n".into()]).unwrap();
    let share = gradlog_analysis::ExampleShare::new(1, 2).unwrap();
    let path = run.path().join("part");
    for is_waited_for in [false, true] {
        let (to, mut from) = tokio::sync::mpsc::channel(9);
        if !is_waited_for {
            from.close();
        }
        let ended = question.make(share, &path, &to);
        assert_eq!((ended.code == 0, path.exists()), (is_waited_for, is_waited_for), "{}", ended.words);
        assert_eq!(ended.words.contains("the reading was stopped"), !is_waited_for, "{}", ended.words);
        question.answer(share, &to).unwrap();
        drop(to);
        assert_eq!(from.blocking_recv().is_some(), is_waited_for);
    }
}
