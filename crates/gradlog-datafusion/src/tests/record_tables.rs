//! Tables against the tables of the library, in partitions, buckets and parts of workers.

use super::*;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, UInt32Type, UInt64Type};
use gradlog_arrow::{Record, RecordQuestion};

/// The whole table, as the library reads it.
fn read(run: &Run, record: Record) -> RecordBatch {
    let question = RecordQuestion::new(record);
    let mut batches = Vec::new();
    let read = question.read(run, |batch| {
        batches.push(batch);
        Ok(())
    });
    assert_eq!(read.unwrap().damage, None);
    concat_batches(&question.schema(run).unwrap(), &batches).unwrap()
}

#[test]
fn every_table_has_the_rows_of_the_log() {
    let written = plain_run();
    for partitions in [1, 2, 5, 64] {
        let asked = Asked::with(RunTables::new(written.run().clone()).unwrap(), partitions);
        for record in Record::ALL {
            let (found, plan) = asked.try_ask(&format!("select * from {record}")).unwrap();
            let expected = read(&written.run(), record);
            assert_eq!(found.schema().fields(), expected.schema().fields());
            assert_eq!(sorted(&found), sorted(&expected), "{record} in {partitions} partitions");
            if record == Record::Visits {
                assert!(found.num_rows() > 200);
                let parts = plan.properties().partitioning.partition_count();
                assert_eq!(parts, partitions.min(15), "15 blocks");
            }
        }
    }
}

#[test]
fn a_partition_is_in_the_order_of_the_run() {
    let written = plain_run();
    let asked = Asked::with(RunTables::new(written.run().clone()).unwrap(), 1);
    let (found, expected) = (asked.ask("select * from visits"), read(&written.run(), Record::Visits));
    assert_eq!(found["example"].as_ref(), expected["example"].as_ref());
    assert_eq!(found["loss"].as_ref(), expected["loss"].as_ref());
}

#[test]
fn columns_are_chosen_and_counted_without_reading() {
    let written = plain_run();
    let asked = Asked::new(written.run().clone());
    let (found, plan) = asked.try_ask("select loss, example from visits where epoch < 2").unwrap();
    assert_eq!(found.num_columns(), 2);
    let text = datafusion::physical_plan::displayable(plan.as_ref()).indent(false).to_string();
    assert!(text.contains("columns=[example, loss]"), "{text}");
    let (count, plan) = asked.try_ask("select count(*), min(step), max(epoch) from visits").unwrap();
    let all = read(&written.run(), Record::Visits);
    assert_eq!(count.column(0).as_primitive::<Int64Type>().value(0), all.num_rows() as i64);
    let steps = all["step"].as_primitive::<UInt64Type>();
    assert_eq!(count.column(1).as_primitive::<UInt64Type>().value(0), *steps.values().iter().min().unwrap());
    assert_eq!(count.column(2).as_primitive::<UInt32Type>().value(0), 5);
    assert_eq!(metric(&plan, "blocks_read"), 0, "headers alone");
}

#[test]
fn a_limit_ends_the_reading() {
    let written = plain_run();
    let asked = Asked::with(RunTables::new(written.run().clone()).unwrap(), 1);
    assert_eq!(asked.ask("select example from visits limit 20").num_rows(), 20);
    assert_eq!(asked.ask("select example from visits where step >= 3 limit 5 offset 2").num_rows(), 5);
    assert_eq!(asked.ask("select example from visits limit 0").num_rows(), 0);
}

#[test]
fn buckets_are_partitions() {
    let written = plain_run();
    let (_dir, run) = compacted(&written.run(), 7);
    for partitions in [1, 3, 16] {
        let asked = Asked::with(RunTables::new(run.clone()).unwrap(), partitions);
        for record in Record::ALL {
            let found = asked.ask(&format!("select * from {record}"));
            assert_eq!(sorted(&found), sorted(&read(&run, record)), "{record}");
        }
        let (found, expected) = (asked.ask("select * from visits"), read(&written.run(), Record::Visits));
        assert_eq!(sorted(&found), sorted(&expected), "nothing is lost by compaction");
    }
}

#[test]
fn workers_are_one_run() {
    let dir = workers(&visits(&mut Draws(4), 30, 5, 8));
    let run = Run::open(dir.path()).unwrap();
    let asked = Asked::with(RunTables::new(run.clone()).unwrap(), 4);
    for record in [Record::Visits, Record::Probes, Record::Steps] {
        let found = asked.ask(&format!("select * from {record}"));
        assert_eq!(sorted(&found), sorted(&read(&run, record)), "{record}");
    }
    let ranks = asked.ask("select distinct worker from visits");
    assert_eq!(sorted(&ranks), ["0", "1", "2"]);
}

#[test]
fn visits_that_a_resumption_took_again_are_there_once() {
    let all = visits(&mut Draws(2), 20, 4, 5);
    let (first, rest): (Vec<Visit>, Vec<Visit>) = all.iter().cloned().partition(|visit| visit.step < 10);
    let mut run = Synthetic::new(Encoding::F32);
    first.chunks(7).for_each(|rows| run.visits(rows));
    // It goes back three steps.
    let mut run = run.resume(7);
    first
        .iter()
        .filter(|visit| visit.step >= 7)
        .cloned()
        .collect::<Vec<_>>()
        .chunks(7)
        .for_each(|rows| run.visits(rows));
    rest.chunks(7).for_each(|rows| run.visits(rows));
    run.end();
    let written = run.finish();
    let asked = Asked::new(written.run().clone());
    let count = asked.ask("select count(*) from visits");
    assert_eq!(count.column(0).as_primitive::<Int64Type>().value(0), all.len() as i64);
    assert_eq!(sorted(&asked.ask("select * from visits")), sorted(&read(&written.run(), Record::Visits)));
    assert_eq!(asked.ask("select * from visits where step between 7 and 9").num_rows(), 15);
}

/// The headers of cut blocks do not say which steps count.
#[test]
fn ends_of_a_cut_block_are_not_taken_from_its_header() {
    let all = visits(&mut Draws(2), 20, 2, 5);
    let mut run = Synthetic::new(Encoding::F32);
    all.chunks(30).for_each(|rows| run.visits(rows));
    let mut run = run.resume(7);
    run.end();
    let written = run.finish();
    let asked = Asked::new(written.run().clone());
    let greatest = asked.ask("select max(step), count(*) from visits");
    assert_eq!(greatest.column(0).as_primitive::<UInt64Type>().value(0), 6);
    let left = all.iter().filter(|visit| visit.step < 7).count();
    assert_eq!(greatest.column(1).as_primitive::<Int64Type>().value(0), left as i64);
}

#[test]
fn a_run_that_grows_is_as_it_was_or_refused() {
    let all = visits(&mut Draws(3), 20, 2, 5);
    let dir = Arc::new(TempDir::new().unwrap());
    let mut run = Synthetic::part(dir.clone(), None, Encoding::F32);
    run.visits(&all[..10]);
    let asked = Asked::new(Run::open(dir.path()).unwrap());
    run.visits(&all[10..20]);
    assert_eq!(asked.ask("select * from visits").num_rows(), 10, "as it was when it was opened");

    let dir = Arc::new(TempDir::new().unwrap());
    let part = |rank| Synthetic::part(dir.clone(), Some((rank, 2)), Encoding::F32);
    let mut parts = [part(0), part(1)];
    // Steps are complete when visits follow their rows.
    let mut record = |visits: &[Visit]| {
        let steps: Vec<_> = (visits[0].step..=visits[9].step).map(|step| (step, 0, 0.1, 1)).collect();
        parts.iter_mut().for_each(|part| {
            part.steps(&steps);
            part.visits(visits);
        });
    };
    record(&all[..10]);
    let asked = Asked::new(Run::open(dir.path()).unwrap());
    assert_eq!(asked.ask("select * from visits").num_rows(), 20);
    record(&all[10..20]);
    // Blocks of several workers have other numbers now.
    let refusal = asked.refusal("select * from visits");
    assert!(refusal.contains("changed while it was read"), "{refusal}");
}

#[test]
fn an_empty_run_has_empty_tables() {
    let written = Synthetic::new(Encoding::F32).finish();
    let asked = Asked::new(written.run().clone());
    for record in Record::ALL {
        assert_eq!(asked.ask(&format!("select * from {record}")).num_rows(), 0, "{record}");
    }
    let count = asked.ask("select count(*) from visits");
    assert_eq!(count.column(0).as_primitive::<Int64Type>().value(0), 0);
    assert!(asked.refusal("select * from scores('aum')").contains("there are no visits at all"));
    assert!(asked.refusal("select * from influence('test')").contains("this run has no probe set `test`"));
}
