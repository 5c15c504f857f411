//! Parts that are missing, damaged, resumed, or still recorded.

use super::*;

fn hold(dir: &Path, rank: u32) -> std::fs::File {
    let path = worker_folder(dir, rank).join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).unwrap();
    file.try_lock().unwrap();
    file
}

#[test]
fn a_worker_that_is_missing_and_one_that_ended_early_are_said() {
    let dir = run_of([20, 13, 20], true);
    let workers = |dir: &Path| -> Workers { Run::open(dir).unwrap().workers().unwrap().unwrap() };
    assert_eq!(workers(dir.path()).notes(), ["worker 1 of 3 ended at step 12, the others at step 19"]);
    assert!(Run::open(dir.path()).unwrap().verify().unwrap().finished, "it finished, only early");

    // Without its end it was cut off; the visits of the others count to the last.
    let dir = run_of([20, 13, 20], false);
    assert_eq!(
        workers(dir.path()).notes(),
        ["worker 1 of 3 ended at step 12, without finishing, the others at step 19"]
    );
    let run = Run::open(dir.path()).unwrap();
    assert_eq!(visited(&run), expected([20, 13, 20]));
    let sizes = |step| if step < 13 { 9 } else { 6 };
    assert_eq!(rows(&run, BlockKind::Steps), (0..20).map(|step| (step, sizes(step))).collect::<Vec<_>>());
    assert!(!run.verify().unwrap().finished && run.verify().unwrap().damage.is_none());

    let dir = run_of([20, 20, 20], true);
    std::fs::remove_dir_all(worker_folder(dir.path(), 2)).unwrap();
    let run = Run::open(dir.path()).unwrap();
    assert!(run.workers().unwrap().unwrap().notes()[0].starts_with("worker 2 of 3 is missing"));
    assert_eq!(run.workers().unwrap().unwrap().missing(), [2..=2]);
    assert!(!run.verify().unwrap().finished, "nobody knows what it would have held");
    assert_eq!(visited(&run), expected([20, 20, 0]));
    // Without rank 0 the others say the learning rate.
    std::fs::remove_dir_all(worker_folder(dir.path(), 0)).unwrap();
    let run = Run::open(dir.path()).unwrap();
    assert_eq!(run.workers().unwrap().unwrap().missing(), [0..=0, 2..=2]);
    let block = run.scan().find(|block| block.kind() == Some(BlockKind::Steps)).unwrap();
    assert_eq!(block.f32s(Column::LearningRate).unwrap()[0], 1.5);
}

#[test]
fn damage_in_one_part_ends_the_reading_of_all_and_recovery_saves_the_rest() {
    let dir = run_of([40, 40, 40], true);
    let path = worker_folder(dir.path(), 1).join("segment-00001.glog");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[64 + 20] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let run = Run::open(dir.path()).unwrap();
    let report = run.verify().unwrap();
    let damage = report.damage.clone().unwrap();
    assert_eq!(damage.path, path);
    assert!(!report.finished && report.visits > 0 && report.visits < 240);
    // What is read of each worker is the first of what it recorded, and nobody is far ahead of the damage.
    let last_of_damaged = rows(&run, BlockKind::Visits).iter().filter(|r| r.1 / 1000 == 1).map(|r| r.0).max().unwrap();
    let block = |rank: u64| 4 + 3 * rank;
    for rank in 0..3 {
        let own: Vec<u64> = rows(&run, BlockKind::Visits).iter().map(|r| r.1).filter(|e| e / 1000 == rank).collect();
        assert_eq!(own, (0..own.len() as u64).map(|i| 1000 * rank + i).collect::<Vec<_>>());
        assert!(own.len() as u64 / 2 <= last_of_damaged + 1 + block(rank), "{rank}");
    }
    // A step is shown with the batches of all workers or not at all.
    let shown = rows(&run, BlockKind::Steps);
    assert_eq!(shown, (0..shown.len() as u64).map(|step| (step, 9)).collect::<Vec<_>>());
    let survey = run.survey().unwrap();
    assert_eq!(survey.lost.len(), 1);
    assert_eq!(survey.before.visits + survey.behind.visits + survey.lost_visits().unwrap(), 240);

    let to = dir.path().join("recovered");
    let recovered = run.recover(&to).unwrap();
    assert_eq!(recovered.survey, survey);
    let sound = Run::open(&to).unwrap();
    assert_eq!(sound.parts().len(), 3);
    let written = sound.verify().unwrap();
    assert!(written.damage.is_none() && written.finished);
    assert_eq!(written, recovered.written);
    assert_eq!(written.visits, 240 - survey.lost_visits().unwrap());
    assert_eq!(sound.parts()[1].manifest().worker, Some(record(1)));
    assert!(
        sound.manifest().notes.iter().any(|(name, _)| name == "recovered (worker 1)"),
        "{:?}",
        sound.manifest().notes
    );
}

#[test]
fn while_workers_record_a_reader_sees_the_steps_that_all_of_them_have() {
    let dir = run_of([20, 17, 40], false);
    let mut one = LogWriter::resume(
        &worker_folder(dir.path(), 1),
        {
            let part = Run::open(worker_folder(dir.path(), 1)).unwrap();
            let mut scan = part.part_scan();
            scan.by_ref().for_each(drop);
            let (next_segment, sequence) = scan.place();
            ResumePlace { run_id: part.manifest().run_id, next_segment, sequence, step: 17, totals: Totals::default() }
        },
        options(),
    )
    .unwrap();
    // Worker 1 records, and its log has the row of step 17 and not yet its visits.
    one.append(&mut steps(1, 17..18)).unwrap();
    let run = Run::open(dir.path()).unwrap();
    assert!(run.is_being_written());
    assert_eq!(visited(&run), expected([17, 17, 17]));
    assert_eq!(rows(&run, BlockKind::Steps), (0..17).map(|step| (step, 9)).collect::<Vec<_>>());
    assert!(run.workers().unwrap().unwrap().notes().iter().any(|note| note.contains("1 of 3 workers still record")));
    assert_eq!(run.verify().unwrap().superseded, 0, "what is left out is not superseded");
    one.append(&mut visits(1, 17..18)).unwrap();
    assert_eq!(visited(&run), expected([18, 18, 18]));
    // A second one that records and has come less far.
    let zero = hold(dir.path(), 0);
    train(&mut one, 1, 18, 30, 6);
    assert_eq!(visited(&run), expected([20, 20, 20]));
    drop(zero);
    assert_eq!(visited(&run), expected([20, 30, 30]), "who records no more holds nobody up");
    one.finish().unwrap();
    drop(one);
    assert_eq!(visited(&run), expected([20, 30, 40]));
}

#[test]
fn what_is_superseded_in_a_part_is_left_out_of_the_whole() {
    let dir = run_of([20, 20, 20], true);
    for rank in 0..3 {
        let folder = worker_folder(dir.path(), rank);
        let part = Run::open(&folder).unwrap();
        let mut scan = part.part_scan();
        scan.by_ref().for_each(drop);
        let (next_segment, sequence) = scan.place();
        let run_id = part.manifest().run_id;
        let totals = Totals { visits: 40, dropped: 1 };
        let place = ResumePlace { run_id, next_segment, sequence, step: 10, totals };
        let mut writer = LogWriter::resume(&folder, place, options()).unwrap();
        train(&mut writer, rank, 10, 15, 5);
        writer.append_end().unwrap();
        writer.finish().unwrap();
    }
    let run = Run::open(dir.path()).unwrap();
    assert_eq!(visited(&run), expected([15, 15, 15]));
    assert_eq!(rows(&run, BlockKind::Steps), (0..15).map(|step| (step, 9)).collect::<Vec<_>>());
    let report = run.verify().unwrap();
    assert_eq!((report.visits, report.superseded, report.finished), (90, 60, true));
    // The totals are those of all sessions of all workers, with what is superseded.
    let end = run.scan().last().unwrap();
    assert_eq!(end.kind(), Some(BlockKind::End));
    assert_eq!((end.u64s(Column::Visits).unwrap(), end.u64s(Column::Dropped).unwrap()), (vec![150], vec![3]));
    assert_eq!(run.workers().unwrap().unwrap().notes(), Vec::<String>::new());
    assert!(run.workers().unwrap().unwrap().parts.iter().all(|part| part.last_step == Some(14)));
}

/// No version writes a column of steps with the type of another. A recovery leaves the block out.
#[test]
fn rows_of_steps_with_numbers_of_another_columns_type_are_damage() {
    for foreign in [Column::LearningRate, Column::Step] {
        let dir = tempfile::tempdir().unwrap();
        for rank in 0..WORKERS {
            let mut writer = writer(dir.path(), &part_manifest(rank));
            let mut rows = steps(rank, 0..2);
            if rank == 0 {
                rows = BlockBuilder::new(BlockKind::Steps);
                match foreign {
                    Column::Step => rows.u32s(Column::Step, [0, 1]),
                    _ => rows.u64s(Column::Step, [0, 1]),
                }
                rows.u32s(Column::Epoch, [0; 2]);
                match foreign {
                    Column::Step => rows.f32s(Column::LearningRate, [7.0; 2]),
                    _ => rows.u32s(Column::LearningRate, [7; 2]),
                }
                rows.advance(2, 0, 0);
                rows.advance(0, 1, 0);
            }
            writer.append(&mut rows).unwrap();
            writer.append(&mut visits(rank, 0..2)).unwrap();
            writer.finish().unwrap();
        }
        let report = Run::open(dir.path()).unwrap().verify().unwrap();
        assert!(report.damage.is_some(), "{foreign:?}: {report:?}");
        let to = tempfile::tempdir().unwrap();
        let recovered = Run::open(dir.path()).unwrap().recover(to.path().join("new")).unwrap();
        let after = Run::open(to.path().join("new")).unwrap().verify().unwrap();
        assert!(after.damage.is_none(), "{foreign:?}: {after:?}");
        assert_eq!((recovered.written.visits, after.visits), (12, 12), "{foreign:?}");
    }
}
