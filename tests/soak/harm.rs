//! Disks that are full, folders that are read-only or gone, files that may not grow: a typed error, and a training that
//! does not notice.
//!
//! Each harm is done to a child, so that a signal would show as one. The child trains on to its last step whatever the
//! recorder says; its weights must be those of a training that was never recorded.

use crate::child::{say, wait_for_parent};
use crate::reading::{compare, read, reference};
use crate::training::{sketch, Training, BATCH};
use anyhow::{ensure, Context, Result};
use gradlog::{Config, LogError, OnFailure, RecordError, Recorder};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Steps that a child trains; recorded in full they take more than twice the small disk.
const STEPS: u64 = 600;
/// After this many steps the child lets its parent do the harm.
const GATE: u64 = 40;
/// The step whose batch is too large for a file under the limit, where there is one, and by how many times it is
/// larger.
const LARGE: (u64, u64) = (60, 64);
/// Bytes of the small disk.
const DISK_BYTES: u64 = 1 << 20;
/// Whom a child is made into where the parent is root, whom no folder is read-only for.
const NOBODY: u32 = 65_534;

/// The child: trains and tells what the recorder says.
pub fn child(dir: &Path, large: bool) -> Result<()> {
    let mut training = Training::new()?;
    // Every block at once, so that it is the next commit that hears of a failure.
    let config = Config {
        sketch: sketch(),
        segment_bytes: 1 << 16,
        flush_interval: std::time::Duration::from_millis(5),
        ..Config::default()
    };
    let mut recorder = match Recorder::create(dir, &training.taps, config) {
        Ok(recorder) => {
            say(format_args!("created"))?;
            Some(recorder)
        }
        Err(error) => {
            say(format_args!("refused {}", words(&error)))?;
            None
        }
    };
    let mut disabled = Recorder::disabled();
    let mut failed = false;
    while training.steps() < STEPS {
        let step = training.steps();
        let batches = if large && step == LARGE.0 { LARGE.1 } else { 1 };
        let (_, recorded) = training.step(recorder.as_mut().unwrap_or(&mut disabled), batches)?;
        match recorded {
            Ok(()) => ensure!(!failed, "a recorder that had failed took a pass at step {step}"),
            Err(error) if failed => ensure!(matches!(error, RecordError::Log(_)), "another error later: {error}"),
            Err(error) => {
                failed = true;
                say(format_args!("failed {}", words(&error)))?;
            }
        }
        let Some(recorder) = recorder.as_mut().filter(|_| !failed) else { continue };
        if step == GATE {
            recorder.flush()?;
            say(format_args!("flushed {}", (step + 1) * BATCH))?;
            say(format_args!("gate"))?;
            wait_for_parent()?;
        }
        // The first of these comes one step after the gate, when what there is still fits the segment that was there.
        if step > GATE && step % 10 == 1 {
            match recorder.flush() {
                Ok(()) => say(format_args!("flushed {}", (step + 1) * BATCH))?,
                Err(error) => say(format_args!("flush {}", words(&error)))?,
            }
        }
    }
    match recorder.map(Recorder::finish) {
        Some(Ok(_)) => say(format_args!("finish ok"))?,
        Some(Err(error)) => say(format_args!("finish {}", words(&error)))?,
        None => {}
    }
    say(format_args!("weights {:x}", weights(&training)?))
}

/// The child whose training goes on without recording: no call of a step may fail. With `leave`, it ends without
/// `finish`.
pub fn child_that_goes_on(dir: &Path, leave: bool) -> Result<()> {
    let mut training = Training::new()?;
    let config = Config {
        sketch: sketch(),
        segment_bytes: 1 << 16,
        flush_interval: std::time::Duration::from_millis(5),
        on_failure: OnFailure::GoOn,
        ..Config::default()
    };
    let mut recorder = Recorder::create(dir, &training.taps, config)?;
    let mut failed = false;
    while training.steps() < STEPS {
        let step = training.steps();
        training.step(&mut recorder, 1)?.1?;
        if step == GATE {
            recorder.flush()?;
            say(format_args!("flushed {}", (step + 1) * BATCH))?;
            say(format_args!("gate"))?;
            wait_for_parent()?;
        }
        if let (false, Some(error)) = (failed, recorder.failure()) {
            failed = true;
            say(format_args!("failed {}", words(&error)))?;
            let flushed = recorder.flush();
            ensure!(
                matches!(flushed, Err(RecordError::Unrecorded { .. })),
                "a flush of what is not recorded: {flushed:?}"
            );
        }
    }
    match (leave, recorder) {
        (true, recorder) => drop(recorder),
        (false, recorder) => match recorder.finish() {
            Err(RecordError::Unrecorded { step, visits, cause, .. }) => {
                say(format_args!("unrecorded {step} {visits}"))?;
                say(format_args!("finish {}", words(&cause)))?;
            }
            other => say(format_args!("finish {other:?}"))?,
        },
    }
    say(format_args!("weights {:x}", weights(&training)?))
}

/// The class of an error, and what it says.
fn words(error: &RecordError) -> String {
    let (class, log) = match error {
        RecordError::Log(log) => ("log", log),
        RecordError::Start(log) => ("start", log),
        _ => return format!("other: {error}"),
    };
    match &**log {
        LogError::Io { error: cause, .. } => format!("{class} {:?}: {error}", cause.kind()),
        _ => format!("{class}: {error}"),
    }
}

fn weights(training: &Training) -> Result<u64> {
    Ok(training.weights()?.into_iter().fold(0, |hash, bits| crate::training::mix(hash ^ u64::from(bits))))
}

/// The weights of the same training without a recorder.
fn unrecorded(large: bool) -> Result<u64> {
    let mut training = Training::new()?;
    while training.steps() < STEPS {
        let batches = if large && training.steps() == LARGE.0 { LARGE.1 } else { 1 };
        training.step(&mut Recorder::disabled(), batches)?.1?;
    }
    weights(&training)
}

/// What a child said.
#[derive(Debug, Default)]
struct Told {
    refused: Option<String>,
    failed: Option<String>,
    flush: Option<String>,
    finish: Option<String>,
    /// The first step that was not recorded, and the visits that were not.
    unrecorded: Option<(u64, u64)>,
    promised: u64,
}

/// Lets a child run through, does `harm` at its gate, and holds it to what must be true of every child.
fn watch(command: Command, large: bool, harm: impl FnOnce() -> Result<()>) -> Result<Told> {
    watch_as(if large { "harm-large" } else { "harm" }, command, large, harm)
}

/// As [`watch`], of a child that plays `role`.
fn watch_as(role: &str, mut command: Command, large: bool, harm: impl FnOnce() -> Result<()>) -> Result<Told> {
    let mut child = Reaped(command.env(crate::ROLE, role).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
    let mut stdin = child.0.stdin.take().context("no pipe")?;
    let stdout = child.0.stdout.take().context("no pipe")?;
    let (mut told, mut harm, mut own) = (Told::default(), Some(harm), None);
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match word {
            "refused" => told.refused = Some(rest.into()),
            "failed" => told.failed = Some(rest.into()),
            "flush" => told.flush = Some(rest.into()),
            "finish" => told.finish = Some(rest.into()),
            "unrecorded" => {
                let (step, visits) = rest.split_once(' ').context("two numbers")?;
                told.unrecorded = Some((step.parse()?, visits.parse()?));
            }
            "flushed" => told.promised = rest.parse()?,
            "weights" => own = Some(rest.to_owned()),
            "gate" => {
                harm.take().context("two gates")?()?;
                stdin.write_all(b".")?;
            }
            _ => {}
        }
    }
    let status = child.0.wait()?;
    ensure!(status.success(), "the child ended with {status} after {told:?}");
    ensure!(own == Some(format!("{:x}", unrecorded(large)?)), "recording has changed the training: {told:?}");
    Ok(told)
}

/// The recorder has failed at a commit and at `finish`, with an error of this kind, and kept all it had promised.
fn failed_as(told: &Told, kind: &str, run: Option<&Path>) -> Result<String> {
    let expected = |said: &Option<String>| said.as_ref().is_some_and(|words| words.starts_with(&format!("log {kind}")));
    ensure!(expected(&told.failed), "no error of kind {kind} at a commit: {told:?}");
    ensure!(expected(&told.finish), "no error of kind {kind} at `finish`: {told:?}");
    let mut kept = 0;
    if let Some(run) = run {
        let dir = tempfile::tempdir()?;
        let reading = read(run)?;
        kept = reading.rows.len() as u64;
        let verdict = compare(&reading, &reference(&dir.path().join("run"), STEPS)?, u64::MAX);
        ensure!(verdict == Default::default(), "{verdict:?}");
        ensure!(reading.damage.is_none() && !reading.finished, "{:?}", reading.damage);
        ensure!(kept >= told.promised && told.promised > 0, "{} visits promised, {kept} kept", told.promised);
    }
    Ok(format!("{} visits promised, {kept} kept; {}", told.promised, told.failed.as_deref().unwrap_or_default()))
}

fn command(dir: &Path) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(dir);
    Ok(command)
}

/// A real file system of one mebibyte that runs full.
pub fn disk_full() -> Result<String> {
    let Some(disk) = Mounted::tmpfs()? else { return Ok("skipped: mounting is not permitted".into()) };
    let run = disk.0.path().join("run");
    let told = watch(command(&run)?, false, || Ok(()))?;
    let words = failed_as(&told, "StorageFull", Some(&run))?;
    let used = 100 * space_used(disk.0.path())? / DISK_BYTES;
    Ok(format!("{words}; {used} % of the disk in use at the end"))
}

/// A file system that is full before the run begins.
pub fn disk_full_at_create() -> Result<String> {
    let Some(disk) = Mounted::tmpfs()? else { return Ok("skipped: mounting is not permitted".into()) };
    let full = std::fs::write(disk.0.path().join("ballast"), vec![1; 2 * DISK_BYTES as usize]);
    ensure!(full.is_err(), "the small disk is not small");
    let told = watch(command(&disk.0.path().join("run"))?, false, || Ok(()))?;
    // A folder and empty files may still fit; what needs a page does not.
    let refused = told.refused.clone().context("a run was made on a full disk")?;
    ensure!(refused.starts_with("start StorageFull"), "{told:?}");
    Ok(refused)
}

/// No file may grow beyond 176 KiB, and one block would (`ulimit -f`). The signal that comes with it is not ignored: a
/// recorder that brought it about would have ended the training.
pub fn file_size_limit() -> Result<String> {
    let dir = tempfile::tempdir()?;
    let limited = |blocks: u32, run: &Path| -> Result<Command> {
        let mut shell = Command::new("sh");
        let script = format!("ulimit -c 0; ulimit -f {blocks}; exec \"$0\" \"$1\"");
        shell.args(["-c", &script]).arg(std::env::current_exe()?).arg(run);
        Ok(shell)
    };
    let run = dir.path().join("run");
    let words = failed_as(&watch(limited(352, &run)?, true, || Ok(()))?, "FileTooLarge", Some(&run))?;
    let told = watch(limited(0, &dir.path().join("none"))?, false, || Ok(()))?;
    ensure!(told.refused.as_ref().is_some_and(|words| words.starts_with("start FileTooLarge")), "{told:?}");
    Ok(words)
}

/// A folder that may not be written to, from the start and from the middle of a run.
pub fn read_only() -> Result<String> {
    let dir = tempfile::tempdir()?;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
    let run = dir.path().join("run");
    std::fs::create_dir(&run)?;
    let root = std::os::unix::fs::MetadataExt::uid(&dir.path().metadata()?) == 0;
    let mode = |mode: u32| std::fs::set_permissions(&run, std::fs::Permissions::from_mode(mode));
    let guest = || -> Result<Command> {
        let mut command = command(&run)?;
        if root {
            command.uid(NOBODY).gid(NOBODY);
        }
        Ok(command)
    };
    mode(0o555)?;
    let told = watch(guest()?, false, || Ok(()))?;
    let refused = told.refused.clone().context("a run was made in a read-only folder")?;
    ensure!(refused.starts_with("start PermissionDenied"), "{told:?}");
    mode(0o777)?;
    let told = watch(guest()?, false, || Ok(mode(0o555)?))?;
    let words = failed_as(&told, "PermissionDenied", Some(&run));
    mode(0o755)?;
    words
}

/// A folder that somebody deletes while it is recorded into.
pub fn vanished() -> Result<String> {
    let dir = tempfile::tempdir()?;
    let run = dir.path().join("run");
    let told = watch(command(&run)?, false, || Ok(std::fs::remove_dir_all(&run)?))?;
    ensure!(
        told.promised == (GATE + 1) * BATCH,
        "a flush into a folder that was gone returned as if it had not been: {told:?}"
    );
    failed_as(&told, "NotFound", None)
}

/// A disk that runs full under a training that goes on: the log says from where it does not know, and how much.
pub fn disk_full_goes_on() -> Result<String> {
    let Some(disk) = Mounted::tmpfs()? else { return Ok("skipped: mounting is not permitted".into()) };
    let (run, left) = (disk.0.path().join("run"), disk.0.path().join("left"));
    let told = watch_as("harm-on", command(&run)?, false, || Ok(()))?;
    let (step, missing) = told.unrecorded.context("`finish` said nothing of what is missing")?;
    ensure!(told.finish.as_ref().is_some_and(|words| words.starts_with("log StorageFull")), "{told:?}");
    let reading = read(&run)?;
    let kept = reading.rows.len() as u64;
    let dir = tempfile::tempdir()?;
    let verdict = compare(&reading, &reference(&dir.path().join("run"), STEPS)?, u64::MAX);
    ensure!(verdict == Default::default() && reading.damage.is_none(), "{verdict:?}, {:?}", reading.damage);
    ensure!(kept == step * BATCH, "{kept} visits kept, but said to be missing from step {step} on");
    ensure!(kept + missing == STEPS * BATCH, "{kept} visits kept and {missing} missing of {}", STEPS * BATCH);
    let gaps: u64 = reading.gaps.iter().map(|gap| gap.1).sum();
    ensure!(reading.gaps.iter().all(|gap| gap.0 == step) && gaps == missing, "gaps {:?}", reading.gaps);
    ensure!(reading.finished && reading.gaps.len() == 2, "finished {}, {:?}", reading.finished, reading.gaps);
    // A child that does not come to `finish` has said from where already.
    std::fs::remove_dir_all(&run)?;
    let told = watch_as("harm-on-leave", command(&left)?, false, || Ok(()))?;
    ensure!(told.failed.is_some() && told.finish.is_none(), "{told:?}");
    let reading = read(&left)?;
    let first = reading.rows.len() as u64 / BATCH;
    ensure!(!reading.finished && reading.gaps.first().map(|gap| gap.0) == Some(first), "{:?}", reading.gaps);
    Ok(format!("{kept} visits kept, {missing} from step {step} on told of as missing"))
}

/// A folder that is deleted under a training that goes on: nothing can be written, and `finish` says from where.
pub fn vanished_goes_on() -> Result<String> {
    let dir = tempfile::tempdir()?;
    let run = dir.path().join("run");
    let told = watch_as("harm-on", command(&run)?, false, || Ok(std::fs::remove_dir_all(&run)?))?;
    ensure!(told.finish.as_ref().is_some_and(|words| words.starts_with("log NotFound")), "{told:?}");
    let expected = (GATE + 1, (STEPS - GATE - 1) * BATCH);
    ensure!(told.unrecorded == Some(expected), "{:?} unrecorded where {expected:?} are", told.unrecorded);
    Ok(told.finish.unwrap_or_default())
}

fn space_used(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { space_used(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

/// A small file system that is let go of at the end.
pub struct Mounted(pub tempfile::TempDir);

impl Mounted {
    /// `None` where mounting is not permitted.
    pub fn tmpfs() -> Result<Option<Self>> {
        let dir = tempfile::tempdir()?;
        let options = format!("size={DISK_BYTES}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir.path()).output();
        Ok(mounted.is_ok_and(|output| output.status.success()).then_some(Self(dir)))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).output();
    }
}

/// Ends a child however the function that started it ends.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
