//! Conditions that are pushed down give the rows that conditions on the whole table give, and read fewer blocks.

use super::*;
use datafusion::datasource::MemTable;

/// The same visits in memory, where nothing is pushed down.
fn beside(asked: &Asked, table: &str) {
    let all = asked.ask(&format!("select * from {table}"));
    let memory = MemTable::try_new(all.schema(), vec![vec![all]]).unwrap();
    asked.context.register_table("plain", Arc::new(memory)).unwrap();
}

const CONDITIONS: [&str; 22] = [
    "step = 5",
    "5 = step",
    "step < 4",
    "step <= 4",
    "step > 27",
    "step >= 27",
    "4 > step",
    "step between 6 and 9",
    "epoch = 3",
    "epoch >= 1 and epoch < 3",
    "epoch <> 2",
    "epoch in (0, 5)",
    "step > 8 and epoch = 1 and loss < 1.2",
    "step < 3 or epoch = 5",
    "step > 9 and step < 5",
    "example = 107",
    "example in (100, 114, 121, 128, 135, 9999)",
    "example = 100 or example = 121",
    "example in (100, 121) and epoch > 2",
    "example not in (100, 121)",
    "step > -1 and example > 200",
    "correct = 1 and example in (107, 114, 128, 135, 142) and step >= 11",
];

#[test]
fn conditions_choose_the_same_rows() {
    let written = plain_run();
    let (_dir, run) = compacted(&written.run(), 5);
    for run in [written.run().clone(), run] {
        let asked = Asked::new(run);
        beside(&asked, "visits");
        let mut rows = 0;
        for condition in CONDITIONS {
            let found = asked.ask(&format!("select * from visits where {condition}"));
            let expected = asked.ask(&format!("select * from plain where {condition}"));
            assert_eq!(sorted(&found), sorted(&expected), "{condition}");
            rows += found.num_rows();
        }
        assert!(rows > 1000, "{rows}");
    }
}

#[test]
fn conditions_hold_for_other_tables() {
    let written = plain_run();
    for table in ["probes", "sweeps", "steps", "gaps", "checkpoints"] {
        let asked = Asked::new(written.run().clone());
        beside(&asked, table);
        for condition in ["step = 0", "step > 0", "epoch = 0", "epoch > 0 and step < 100"] {
            let found = asked.ask(&format!("select * from {table} where {condition}"));
            let expected = asked.ask(&format!("select * from plain where {condition}"));
            assert_eq!(sorted(&found), sorted(&expected), "{table} {condition}");
        }
    }
    let asked = Asked::new(written.run().clone());
    assert_eq!(asked.ask("select * from probes where example = 2").num_rows(), 2);
    assert_eq!(asked.ask("select * from sweeps where example in (1, 2, 3, 4, 7)").num_rows(), 4);
}

/// Blocks of visits are of 17 rows.
#[test]
fn blocks_outside_are_not_read() {
    let all = visits(&mut Draws(1), 40, 6, 8);
    let written = run_with_all(&all, 17);
    let asked = Asked::new(written.run().clone());
    let touched = |inside: &dyn Fn(&Visit) -> bool| all.chunks(17).filter(|block| block.iter().any(inside)).count();
    assert_eq!(all.len().div_ceil(17), 15);
    let blocks = |condition: &str| {
        let (found, plan) = asked.try_ask(&format!("select loss from visits where {condition}")).unwrap();
        assert_eq!(metric(&plan, "blocks_read") > 0, found.num_rows() > 0);
        metric(&plan, "blocks_read")
    };
    assert_eq!(blocks("loss > -1"), 15);
    // Both ends of a block's header tell, so a block may be read that has none of the rows in between.
    assert_eq!(blocks("step >= 20"), touched(&|visit| visit.step >= 20));
    assert_eq!(blocks("step < 3"), touched(&|visit| visit.step < 3));
    assert_eq!(blocks("epoch = 2"), touched(&|visit| visit.epoch == 2));
    assert_eq!(blocks("epoch > 70"), 0);
    assert!(blocks("step < 3") < 4);
}

#[test]
fn an_id_reads_its_bucket_alone() {
    let written = run_with_all(&visits(&mut Draws(1), 200, 6, 8), 17);
    let (_dir, run) = compacted(&written.run(), 8);
    let asked = Asked::new(run);
    let (_, plan) = asked.try_ask("select loss from visits").unwrap();
    let all = metric(&plan, "blocks_read");
    assert!(all >= 8, "{all}");
    let (found, plan) = asked.try_ask("select loss from visits where example = 107").unwrap();
    assert_eq!(found.num_rows(), 3, "it is absent from odd epochs");
    assert!(metric(&plan, "blocks_read") * 4 <= all, "{} of {all}", metric(&plan, "blocks_read"));
}

#[test]
fn explain_shows_what_is_pushed_down() {
    let written = plain_run();
    let asked = Asked::new(written.run().clone());
    let query =
        "explain select avg(loss) from visits where step >= 8 and epoch < 3 and example in (107, 114, 121, 128)";
    let text = sorted(&asked.ask(query)).join("\n");
    assert!(text.contains("RecordScanExec: visits"), "{text}");
    assert!(text.contains("examples=4 [107, 114, 121, 128]"), "{text}");
    assert!(text.contains("window="), "{text}");
    assert!(!text.contains("FilterExec"), "{text}");
    let text = sorted(&asked.ask("explain select step from visits where loss > 1")).join("\n");
    assert!(text.contains("FilterExec: loss@"), "{text}");
}
