//! Damage is an error of a table, and the tables before it are those of a prefix.

use super::*;
use crate::SqlError;
use gradlog_arrow::{Record, RecordQuestion};
use gradlog_format::run::Damage;

/// Damage of a query.
fn damage_of(asked: &Asked, query: &str) -> Damage {
    let error = asked.try_ask(query).err().unwrap_or_else(|| panic!("{query} has an answer"));
    match SqlError::find(&error) {
        Some(SqlError::Damaged(damage)) => damage.clone(),
        _ => panic!("{error}"),
    }
}

/// The visits that the library reads before the damage.
fn before(run: &Run) -> Vec<String> {
    let question = RecordQuestion::new(Record::Visits);
    let mut batches = Vec::new();
    let read = question.read(run, |batch| {
        batches.push(batch);
        Ok(())
    });
    assert!(read.unwrap().damage.is_some());
    sorted(&concat_batches(&question.schema(run).unwrap(), &batches).unwrap())
}

#[test]
fn tables_end_before_the_damage() {
    // In the header of a block, and in a column.
    for (distance, partitions) in [(20, 1), (20, 4), (900, 1), (900, 4)] {
        let written = plain_run();
        written.damage(9, distance);
        let run = written.run();
        let asked = Asked::with(RunTables::new(run.clone()).unwrap(), partitions);
        let damage = damage_of(&asked, "select * from visits");
        assert_eq!(damage.block, Some(9), "{damage}");
        let tables = asked.tables.before(&damage).unwrap();
        assert!(tables.before(&damage).is_none(), "nothing more is known");
        let asked = Asked::with(tables, partitions);
        let found = asked.ask("select * from visits");
        assert!(found.num_rows() > 50);
        assert_eq!(sorted(&found), before(&run), "{distance} {partitions}");
        assert!(asked.ask("select * from scores('aum')").num_rows() > 10);
        assert!(asked.ask("select * from influence('test', 3)").num_rows() > 10);
    }
}

#[test]
fn scores_and_influence_name_the_damage() {
    let written = plain_run();
    written.damage(9, 20);
    let asked = Asked::new(written.run().clone());
    for query in ["select * from scores('aum')", "select * from influence('test', 3)", "select count(*) from visits"] {
        assert_eq!(damage_of(&asked, query).block, Some(9), "{query}");
    }
}

#[test]
fn every_block_may_be_damaged() {
    let blocks = plain_run().run().scan().count();
    for block in 0..blocks {
        let written = plain_run();
        written.damage(block, 40);
        let asked = Asked::new(written.run().clone());
        let damage = damage_of(&asked, "select example from visits");
        assert_eq!(damage.block, Some(block as u64));
        let asked = Asked::with(asked.tables.before(&damage).unwrap(), 3);
        assert_eq!(sorted(&asked.ask("select * from visits")), before(&written.run()), "{block}");
    }
}
