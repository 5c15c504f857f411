//! A place whose N-th answer is a refusal, for every N: what is read is right, or reading is refused. A refusal is
//! never damage, an absence or the end of a run.

use super::several_workers::{part_manifest, train, writer};
use super::*;
use crate::run::{Local, Place, ReadAt};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// Local files, with a refusal in place of one answer.
#[derive(Debug, Default)]
struct Refusing {
    answers: AtomicU64,
    refused: u64,
}

impl Refusing {
    fn answer(&self) -> io::Result<()> {
        match self.answers.fetch_add(1, Ordering::Relaxed) == self.refused {
            true => Err(io::Error::other("the network is down")),
            false => Ok(()),
        }
    }
}

#[derive(Debug)]
struct File {
    place: Arc<Refusing>,
    local: Arc<dyn ReadAt>,
}

impl ReadAt for File {
    fn bytes(&self) -> io::Result<u64> {
        self.place.answer()?;
        self.local.bytes()
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.place.answer()?;
        self.local.read_at(out, offset)
    }
}

#[derive(Debug)]
struct Remote(Arc<Refusing>);

impl Place for Remote {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>> {
        self.0.answer()?;
        Ok(Arc::new(File { place: self.0.clone(), local: Local.open(path)? }))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.0.answer()?;
        Local.exists(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.0.answer()?;
        Local.list(folder)
    }
}

/// What is read of a run in a place that refuses answer `refused`, and how many answers there were.
fn all(dir: &Path, refused: u64) -> (Result<String, ReadError>, u64) {
    let answers = Arc::new(Refusing { answers: AtomicU64::new(0), refused });
    let read = || {
        let run = Run::open_in(Arc::new(Remote(answers.clone())), dir)?;
        let mut scan = run.scan();
        let rows: Vec<(u64, usize)> = scan.by_ref().map(|block| (block.sequence(), block.rows())).collect();
        let damage = scan.damage()?.cloned();
        let (report, survey) = (run.verify()?, run.survey()?);
        Ok(format!("{rows:?} {damage:?} {report:?} {survey:?} {:?} {:?}", run.checkpoints()?, run.workers()?))
    };
    (read(), answers.answers.load(Ordering::Relaxed))
}

fn check_every_refusal(dir: &Path) {
    let (sound, answers) = all(dir, u64::MAX);
    let sound = sound.unwrap();
    assert!(answers > 100, "{answers}");
    let mut refusals = 0;
    for refused in 0..answers {
        match all(dir, refused).0 {
            // The report names a checkpoint that cannot be read.
            Ok(read) if read.contains("Unreadable(\"the network is down\")") => refusals += 1,
            Ok(read) => assert_eq!(read, sound, "answer {refused} of {answers}"),
            Err(ReadError::Io { error, .. }) => {
                assert_eq!(error.to_string(), "the network is down");
                refusals += 1;
            }
            Err(other) => panic!("answer {refused} of {answers}: {other}"),
        }
    }
    assert!(refusals * 10 > answers * 9, "{refusals} of {answers}");
}

#[test]
fn a_refusal_at_any_answer_is_an_error_or_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    write_sample(dir.path(), SAMPLE_BLOCKS).unwrap().finish().unwrap();
    check_every_refusal(dir.path());
}

#[test]
fn a_refusal_in_a_run_of_several_workers_is_an_error_or_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for rank in 0..3 {
        let mut writer = writer(dir.path(), &part_manifest(rank));
        train(&mut writer, rank, 0, 20 + u64::from(rank), 5);
        writer.finish().unwrap();
    }
    check_every_refusal(dir.path());
}
