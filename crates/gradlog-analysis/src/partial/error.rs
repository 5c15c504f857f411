//! Why parts of an answer cannot be read or put together.

use crate::{AnalysisError, ExampleShare};
use gradlog_format::frames::FrameError;
use std::io;

/// Why a file is no part of an answer that can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PartFileError {
    /// The file system refuses.
    #[error("cannot read")]
    Io(#[source] io::Error),
    /// The bytes are not those of a whole part.
    #[error("this is no part of an answer, or it is damaged ({what}): make it anew")]
    Damaged {
        /// What is wrong, and where.
        what: String,
    },
    /// Another version of gradlog made it.
    #[error("gradlog {made} made this part, and this is gradlog {own}: make and merge all parts with one version")]
    OtherVersion {
        /// The version that made it.
        made: String,
        /// This version.
        own: &'static str,
    },
}

impl From<FrameError> for PartFileError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Io(error) => Self::Io(error),
            other => Self::Damaged { what: other.to_string() },
        }
    }
}

/// Why parts do not make a whole. Parts go by the names that were handed in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// No part was given.
    #[error("there are no parts to merge")]
    NoParts,
    /// Two parts are of splits into different numbers.
    #[error("{first} is part {part} and {second} is part {other}: merge parts of one split")]
    OtherSplit {
        /// A part.
        first: String,
        /// Which it is.
        part: ExampleShare,
        /// Another.
        second: String,
        /// Which that is.
        other: ExampleShare,
    },
    /// A part is there twice.
    #[error("{first} and {second} are both part {part}: leave out one of them")]
    Twice {
        /// Which part.
        part: ExampleShare,
        /// A file.
        first: String,
        /// The other.
        second: String,
    },
    /// Parts are not there.
    #[error("of {of} parts {} {} missing: make {} with the same question", list(missing), if missing.len() == 1 { "is" } else { "are" }, if missing.len() == 1 { "it" } else { "them" })]
    Missing {
        /// Their numbers.
        missing: Vec<u32>,
        /// How many parts there are.
        of: u32,
    },
    /// Parts are of different runs.
    #[error("{first} is about {run} and {second} about {other}: merge parts of the same runs")]
    OtherRuns {
        /// A part.
        first: String,
        /// Its runs.
        run: String,
        /// Another.
        second: String,
        /// The runs of that.
        other: String,
    },
    /// A run had grown or changed when a later part was made.
    #[error(
        "{first} was made of {blocks} blocks of {run} and {second} of {other}, or of other ones: the run has changed \
         in between; make all parts anew once it does not change any more"
    )]
    RunChanged {
        /// The run.
        run: String,
        /// A part.
        first: String,
        /// Blocks that it saw.
        blocks: u64,
        /// Another part.
        second: String,
        /// Blocks that that saw.
        other: u64,
    },
    /// Parts answer different questions.
    #[error("{first} asks for {what} {given} and {second} for {other}: merge parts of one question")]
    OtherQuestion {
        /// In what the questions differ.
        what: String,
        /// A part.
        first: String,
        /// What it asks for.
        given: String,
        /// Another.
        second: String,
        /// What that asks for.
        other: String,
    },
    /// Parts differ in what is the same for all examples.
    #[error(
        "{first} and {second} differ in {what}, which all parts have in common: in a damaged run parts may end at \
         different places; recover the run and make all parts anew, or ask without parts"
    )]
    Differ {
        /// In what.
        what: &'static str,
        /// A part.
        first: String,
        /// Another.
        second: String,
    },
    /// The whole has no answer.
    #[error(transparent)]
    Analysis(#[from] AnalysisError),
}

/// The most numbers that an error lists.
const NUMBERS_MAX: usize = 20;

fn list(numbers: &[u32]) -> String {
    let first: Vec<String> = numbers.iter().take(NUMBERS_MAX).map(u32::to_string).collect();
    let more = numbers.len().saturating_sub(NUMBERS_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", first.join(", "))
}
