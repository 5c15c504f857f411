//! Killed at any instant: a child trains and is killed, and what it left is held against what it had been promised.
//!
//! The promise: after `flush` has returned, everything committed before it is in the log, and after `finish`
//! everything; without either, a visit is in the log `flush_interval` after its commit, if the background thread is not
//! waiting for the disk. Random moments alone would seldom hit the short dangerous ones, so most kills are aimed: at
//! the making of a run, of a segment, at a flush, at a finish. Each comes a random moment after the child has announced
//! that it is about to.

use crate::child::{self, FLUSH_MS, STEPS_MAX};
use crate::command;
use crate::reading::{compare, read, reference, Reading, Row};
use crate::training::{mix, BATCH};
use anyhow::{bail, ensure, Context, Result};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{sync_channel, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Longest time that anything here is waited for: a machine that is slower is taken to hang.
const PATIENCE: Duration = Duration::from_secs(60);
/// A visit that is older than `flush_interval` by this much must be in the log, also on a machine with more work than
/// processors.
const GRACE: Duration = Duration::from_secs(5);

/// What the child is aimed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aim {
    /// Any moment.
    Anywhere,
    /// The making of a run.
    Create,
    /// The making of a segment.
    Segment,
    /// A flush.
    Flush,
    /// The end of a run.
    Finish,
    /// A child that has committed and does nothing: only the clock writes.
    Idle,
}

const AIMS: [Aim; 6] = [Aim::Anywhere, Aim::Create, Aim::Segment, Aim::Flush, Aim::Finish, Aim::Idle];

/// What all kills came to.
#[derive(Debug, Default)]
pub struct Figures {
    pub kills: u64,
    /// Runs that the children left, finished or not.
    pub runs: u64,
    pub visits_promised: u64,
    pub visits_read: u64,
    pub torn_accepted: u64,
    pub invented: u64,
    /// Age of the oldest visit that was lost with its child.
    pub oldest_lost_ms: f64,
    /// Kills by aim, in the order of `AIMS`.
    pub aims: [u64; 6],
    /// What the kills left: no manifest yet, a segment without a header, a zero tail, a cut run without its end, a
    /// finished run, a torn header that was reported as damage.
    pub unmade: u64,
    pub headless_segment: u64,
    pub zero_tail: u64,
    pub no_tail: u64,
    pub finished: u64,
    pub damage: u64,
    /// The first thing that was not as promised.
    pub broken: Option<String>,
}

impl Figures {
    pub fn json(&self) -> serde_json::Value {
        let aims: serde_json::Map<String, serde_json::Value> =
            AIMS.iter().zip(self.aims).map(|(aim, kills)| (format!("{aim:?}").to_lowercase(), kills.into())).collect();
        serde_json::json!({
            "kills": self.kills,
            "visits_promised": self.visits_promised,
            "visits_read": self.visits_read,
            "torn_accepted": self.torn_accepted,
            "invented": self.invented,
            "broken_promise": self.broken,
            "runs": self.runs,
            "flush_ms": FLUSH_MS,
            "oldest_lost_ms": self.oldest_lost_ms,
            "kills_by_aim": aims,
            "left_by_the_kill": {
                "no_manifest": self.unmade,
                "segment_without_header": self.headless_segment,
                "zero_tail": self.zero_tail,
                "cut_to_length_not_finished": self.no_tail,
                "finished": self.finished,
                "torn_header_reported": self.damage,
            },
        })
    }
}

/// What the child has said of its last run, and when of each commit.
#[derive(Debug, Default)]
struct Told {
    /// Runs that were finished, by their number of visits.
    finished: Vec<u64>,
    run: u64,
    created: bool,
    tried: u64,
    promised: u64,
    finishing: bool,
    commits: Vec<(u64, Instant)>,
}

impl Told {
    fn take(&mut self, word: &str, run: u64, visits: u64, now: Instant) -> Result<()> {
        match word {
            "creating" => *self = Told { finished: std::mem::take(&mut self.finished), run, ..Told::default() },
            "created" => self.created = true,
            "trying" => self.tried = visits,
            "committed" => self.commits.push((visits, now)),
            "flushed" => self.promised = visits,
            "finishing" => self.finishing = true,
            "finished" => {
                self.promised = visits;
                self.finished.push(visits);
            }
            "flushing" | "idle" => {}
            _ => bail!("the child said `{word}`"),
        }
        Ok(())
    }
}

struct Line {
    word: String,
    run: u64,
    visits: u64,
    at: Instant,
}

/// Kills `kills` children. The first promise that was not kept is in the figures, with the seed that shows it.
pub fn run(kills: u64, seed: u64) -> Result<Figures> {
    let whole = tempfile::tempdir()?;
    let expected = reference(&whole.path().join("reference"), STEPS_MAX)?;
    let mut figures = Figures::default();
    for number in 0..kills {
        let own = mix(seed ^ mix(number));
        let place = number as usize % AIMS.len();
        if let Err(error) = one(AIMS[place], own, &expected, &mut figures) {
            figures.broken.get_or_insert(format!("kill {number}, aimed at {:?}, seed {own}: {error:#}", AIMS[place]));
        }
        figures.kills += 1;
        figures.aims[place] += 1;
    }
    Ok(figures)
}

fn one(aim: Aim, seed: u64, expected: &[Row], figures: &mut Figures) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let role = if aim == Aim::Idle { "idle" } else { "train" };
    let mut child = Command::new(std::env::current_exe()?)
        .args([dir.path().as_os_str(), seed.to_string().as_ref()])
        .env(crate::ROLE, role)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let pipe = child.stdout.take().context("the child has no pipe")?;
    // The parent must go on reading, or the child would wait for the pipe and not for the disk; what the pipe holds
    // when the child dies was said before.
    let (lines, said) = sync_channel(1 << 16);
    let reader = std::thread::Builder::new().name("pipe".into()).spawn(move || -> Result<()> {
        for line in BufReader::new(pipe).lines() {
            let line = line?;
            let at = Instant::now();
            let mut words = line.split(' ');
            let mut next = || words.next().context("a short line");
            let (word, run, visits) = (next()?.to_owned(), next()?.parse()?, next()?.parse()?);
            lines.send(Line { word, run, visits, at })?;
        }
        Ok(())
    })?;
    let mut told = Told::default();
    let aimed = take_aim(aim, seed, dir.path(), &said, &mut told);
    let killed = Instant::now();
    child.kill()?;
    let status = child.wait()?;
    aimed?;
    for line in said.iter() {
        told.take(&line.word, line.run, line.visits, line.at)?;
    }
    reader.join().map_err(|_| anyhow::anyhow!("the reader of the pipe panicked"))??;
    ensure!(signal(&status) == Some(9), "the child ended by itself: {status}");
    judge(dir.path(), seed, &told, killed, expected, figures)
}

/// Returns at the moment to kill.
fn take_aim(aim: Aim, seed: u64, dir: &Path, said: &Receiver<Line>, told: &mut Told) -> Result<()> {
    let random = |bound: u64| mix(seed ^ 0xA1) % bound;
    let (word, times) = match aim {
        Aim::Anywhere => ("created", 1),
        Aim::Create => ("creating", 1 + random(4)),
        Aim::Segment => ("created", 1 + random(3)),
        Aim::Flush => ("flushing", 1 + random(20)),
        Aim::Finish => ("finishing", 1 + random(4)),
        Aim::Idle => ("idle", 1),
    };
    let mut left = times;
    while left > 0 {
        let line = said.recv_timeout(PATIENCE).map_err(|e| anyhow::anyhow!("nothing from the child: {e}"))?;
        told.take(&line.word, line.run, line.visits, line.at)?;
        left -= u64::from(line.word == word);
    }
    let micros = match aim {
        Aim::Anywhere => mix(seed ^ 0xA2) % 300_000,
        Aim::Create | Aim::Flush | Aim::Finish => mix(seed ^ 0xA2) % 6_000,
        Aim::Segment => {
            until_segment(&child::folder(dir, told.run), seed, said, told)?;
            mix(seed ^ 0xA2) % 400
        }
        Aim::Idle => {
            until_written(&child::folder(dir, told.run), child::steps(seed, 0) * BATCH)?;
            told.promised = child::steps(seed, 0) * BATCH;
            0
        }
    };
    let moment = Instant::now() + Duration::from_micros(micros);
    // A sleep ends late by more than the moments that are aimed at last.
    while Instant::now() < moment {
        if moment - Instant::now() > Duration::from_millis(2) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// Returns as soon as a segment exists that was not there, or when the run has ended without it.
fn until_segment(run: &Path, seed: u64, said: &Receiver<Line>, told: &mut Told) -> Result<()> {
    let segment = run.join(format!("segment-{:05}.glog", mix(seed ^ 0xA3) % 4));
    let start = Instant::now();
    while !segment.exists() {
        match said.recv_timeout(Duration::from_micros(1)) {
            Ok(line) => {
                told.take(&line.word, line.run, line.visits, line.at)?;
                if line.word == "finished" {
                    return Ok(());
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => bail!("the child is gone"),
        }
        ensure!(start.elapsed() < PATIENCE, "no segment");
    }
    Ok(())
}

/// Returns when a run that nobody flushes holds all its visits: the clock alone has to bring that about.
fn until_written(run: &Path, visits: u64) -> Result<()> {
    let start = Instant::now();
    loop {
        let run = gradlog_format::run::Run::open(run)?;
        let kind = |block: &gradlog_format::run::Block| block.kind() == Some(gradlog_format::log::BlockKind::Visits);
        let written: usize = run.scan().filter(kind).map(|block| block.rows()).sum();
        if written as u64 == visits {
            return Ok(());
        }
        ensure!(start.elapsed() < PATIENCE, "{written} of {visits} visits in the log after {PATIENCE:?}");
        std::thread::yield_now();
    }
}

fn signal(status: &std::process::ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(status)
}

/// Holds what a child left against what it had been promised.
fn judge(dir: &Path, seed: u64, told: &Told, killed: Instant, expected: &[Row], figures: &mut Figures) -> Result<()> {
    for (run, visits) in (0..).zip(&told.finished) {
        let reading = read(&child::folder(dir, run))?;
        count(&reading, expected, *visits, *visits, figures)?;
        ensure!(*visits == child::steps(seed, run) * BATCH, "the child miscounted");
        ensure!(
            reading.finished && reading.damage.is_none() && reading.zero_tail_bytes == 0,
            "run {run} is not finished"
        );
    }
    if told.finished.len() as u64 > told.run {
        figures.finished += 1;
        return Ok(()); // killed after a `finish` had returned, before the next run was announced
    }
    let folder = child::folder(dir, told.run);
    if !folder.join("manifest").exists() {
        ensure!(!told.created, "a run that had been created is not there");
        figures.unmade += 1;
        return Ok(());
    }
    let reading = read(&folder).context("the run that was cut off")?;
    count(&reading, expected, told.promised, told.tried, figures)?;
    ensure!(!reading.finished || told.finishing, "a run that nobody finished says that it was");
    if reading.finished {
        ensure!(reading.rows.len() as u64 == told.tried, "a finished run lacks visits");
    }
    if let Some((_, at)) = told.commits.iter().find(|(visits, _)| *visits > reading.rows.len() as u64) {
        let age = killed.saturating_duration_since(*at);
        figures.oldest_lost_ms = figures.oldest_lost_ms.max(age.as_secs_f64() * 1e3);
        ensure!(
            age < Duration::from_millis(FLUSH_MS) + GRACE,
            "a visit was lost that had been committed {age:?} before"
        );
    }
    if let Some(damage) = &reading.damage {
        // A header may be torn, one instruction copying a part of it; whatever a header vouches for was there before
        // it.
        ensure!(damage.contains("header"), "a block was committed before it was written: {damage}");
    }
    what_is_left(&folder, &reading, figures)?;
    command::verify(&folder, &reading)?;
    command::recover(&folder, &dir.join("recovered"), &reading)
}

fn count(reading: &Reading, expected: &[Row], promised: u64, tried: u64, figures: &mut Figures) -> Result<()> {
    let read = reading.rows.len() as u64;
    let verdict = compare(reading, expected, tried);
    figures.runs += 1;
    figures.visits_promised += promised;
    figures.visits_read += read;
    figures.torn_accepted += verdict.torn;
    figures.invented += verdict.invented;
    ensure!(verdict == Default::default(), "{verdict:?} in {read} rows");
    ensure!(read >= promised, "{promised} visits were promised, {read} can be read; damage: {:?}", reading.damage);
    let steps = reading.steps.len() as u64;
    ensure!(steps * BATCH >= promised, "{promised} visits were promised, of {steps} steps");
    Ok(())
}

fn what_is_left(folder: &Path, reading: &Reading, figures: &mut Figures) -> Result<()> {
    let mut segments: Vec<_> = std::fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    segments.retain(|entry| entry.file_name().to_string_lossy().starts_with("segment-"));
    segments.sort_by_key(|entry| entry.file_name());
    let last = segments.last().map(|entry| std::fs::read(entry.path())).transpose()?;
    let headless = last.is_some_and(|bytes| bytes.iter().take(64).all(|b| *b == 0));
    let place = match reading {
        _ if headless => &mut figures.headless_segment,
        Reading { damage: Some(_), .. } => &mut figures.damage,
        Reading { finished: true, zero_tail_bytes: 0, .. } => &mut figures.finished,
        Reading { zero_tail_bytes: 0, .. } => &mut figures.no_tail,
        _ => &mut figures.zero_tail,
    };
    *place += 1;
    Ok(())
}
