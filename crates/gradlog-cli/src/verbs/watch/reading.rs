//! Reads what was appended to a run since the last look, and nothing twice.

use super::figures::Figures;
use gradlog_format::log::BlockKind;
use gradlog_format::run::{Block, Damage, PartScan, ReadError, Run};

/// One worker's part, or the run of one recorder.
#[derive(Debug)]
struct Part<'run> {
    scan: PartScan<'run>,
    /// A block that the file system refused to read.
    held: Option<Block>,
    /// Names of its probe sets, by number.
    sets: Vec<String>,
    last_step: u64,
    at_end: bool,
    finished: bool,
    /// Why it cannot be read on.
    failed: Option<Failed>,
}

#[derive(Debug)]
enum Failed {
    Damage(Damage),
    /// Only a newer version can read on.
    Other(String),
}

/// Where a look ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    /// At the end of what is recorded.
    End,
    /// There is more to read.
    More,
    /// The training resumed at an earlier step: the run must be opened and read anew.
    Outdated,
}

/// The readers of a run.
#[derive(Debug)]
pub(super) struct Reading<'run> {
    parts: Vec<Part<'run>>,
    /// What the file system refused at the last look.
    pub trouble: Option<String>,
}

impl<'run> Reading<'run> {
    pub(super) fn new(run: &'run Run) -> Self {
        let runs = if run.parts().is_empty() { std::slice::from_ref(run) } else { run.parts() };
        let part = |run: &'run Run| Part {
            scan: run.part_scan(),
            held: None,
            sets: Vec::new(),
            last_step: 0,
            at_end: false,
            finished: false,
            failed: None,
        };
        Self { parts: runs.iter().map(part).collect(), trouble: None }
    }

    /// How many recorders wrote the run.
    pub(super) fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Whether every recorder's `finish` returned.
    pub(super) fn is_finished(&self) -> bool {
        self.parts.iter().all(|part| part.finished)
    }

    /// Whether the training resumed at an earlier step since the run was opened.
    pub(super) fn is_outdated(&self) -> bool {
        self.parts.iter().any(|part| part.scan.is_outdated())
    }

    /// The damage at which reading stopped.
    pub(super) fn damage(&self) -> Option<&Damage> {
        self.parts.iter().find_map(|part| match &part.failed {
            Some(Failed::Damage(damage)) => Some(damage),
            _ => None,
        })
    }

    /// Why reading stopped, if it is no damage.
    pub(super) fn failure(&self) -> Option<&str> {
        self.parts.iter().find_map(|part| match &part.failed {
            Some(Failed::Other(why)) => Some(why.as_str()),
            _ => None,
        })
    }

    /// Adds to `figures` what was appended. Calls `progress` with the bytes of each block, and stops behind the block
    /// after which that says so.
    pub(super) fn look(&mut self, figures: &mut Figures, mut progress: impl FnMut(u64) -> bool) -> Reached {
        self.trouble = None;
        for part in self.parts.iter_mut().filter(|part| part.at_end && part.failed.is_none()) {
            part.at_end = !part.scan.look_again();
        }
        loop {
            if self.is_outdated() {
                return Reached::Outdated;
            }
            // Of several workers, the one that is behind comes next.
            let open = self.parts.iter_mut().enumerate().filter(|(_, part)| !part.at_end && part.failed.is_none());
            let Some((number, part)) = open.min_by_key(|(_, part)| part.last_step) else { return Reached::End };
            match part.next(number, figures) {
                Ok(Some(bytes)) => {
                    if progress(bytes) {
                        return Reached::More;
                    }
                }
                Ok(None) => {}
                Err(trouble) => self.trouble = Some(trouble),
            }
        }
    }
}

impl Part<'_> {
    /// Adds the next block and returns its bytes. `None` at the end.
    ///
    /// # Errors
    /// What the file system refused; the next look tries again.
    fn next(&mut self, number: usize, figures: &mut Figures) -> Result<Option<u64>, String> {
        let Some(block) = self.held.take().or_else(|| self.scan.next()) else {
            self.at_end = true;
            let stopped = match self.scan.damage() {
                Ok(None) => return Ok(None),
                Ok(Some(damage)) => ReadError::Damaged(damage.clone()),
                Err(error) => error,
            };
            return self.fail(stopped).map(|()| None);
        };
        match self.add(number, figures, &block) {
            Ok(()) => Ok(Some(block.bytes())),
            Err(error) => {
                self.at_end = true;
                let failed = self.fail(error);
                if failed.is_err() {
                    self.held = Some(block);
                }
                failed.map(|()| None)
            }
        }
    }

    fn add(&mut self, number: usize, figures: &mut Figures, block: &Block) -> Result<(), ReadError> {
        if block.kind() == Some(BlockKind::ProbeSet) {
            let (_, name) = block.probe_set()?;
            self.sets.push(name);
        }
        figures.add(number, &self.sets, block)?;
        match block.kind() {
            Some(BlockKind::End) => self.finished = true,
            Some(BlockKind::Visits | BlockKind::Steps) => {
                self.last_step = self.last_step.max(block.steps().1);
                self.finished = false;
            }
            _ => self.finished &= !block.reopens_run(),
        }
        Ok(())
    }

    /// Keeps why it cannot be read on, or returns what may be read the next time.
    fn fail(&mut self, error: ReadError) -> Result<(), String> {
        self.failed = Some(match error {
            ReadError::Io { .. } => return Err(error.to_string()),
            ReadError::Damaged(damage) => Failed::Damage(damage),
            other => Failed::Other(other.to_string()),
        });
        Ok(())
    }
}
