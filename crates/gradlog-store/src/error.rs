//! What goes wrong with a store, where, and what to do about it.

use gradlog_format::run::ReadError;
use object_store::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a store, or a copy in it, cannot be used.
///
/// The text of an error includes its cause, so `source()` is always `None`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The address is none of a run.
    #[error("{}: {what}", address.display())]
    Address {
        /// The address.
        address: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The store refused, or did not answer.
    #[error("cannot {action} {}: {error}", path.display())]
    Request {
        /// What was to be done.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the store said, and what to do.
        error: io::Error,
    },
    /// A file of the run on this machine cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Local {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// The run on this machine cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Another run is at the address.
    #[error("{} holds another run: give a new address, or the run that is there", address.display())]
    OtherRun {
        /// The address.
        address: PathBuf,
    },
    /// A segment at the address is not the one of this machine. One of the two is damaged.
    #[error(
        "{} is there already and is not {}: {what}; nothing was replaced. One of the two is damaged: check both runs, \
         then copy to a new address",
        remote.display(), local.display()
    )]
    Differs {
        /// The file on this machine.
        local: PathBuf,
        /// The file in the store.
        remote: PathBuf,
        /// How they differ.
        what: String,
    },
    /// A file does not read back as it was sent.
    #[error("{} does not read back as it was sent: {what}; send it again", path.display())]
    Unsound {
        /// The file in the store.
        path: PathBuf,
        /// How it differs.
        what: String,
    },
    /// A file changed while it was sent.
    #[error("{} changed while it was sent: try again", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
}

impl StoreError {
    /// Whether the same may work later: the store did not answer, or refused for now.
    pub fn is_transient(&self) -> bool {
        matches!(self, StoreError::Request { .. } | StoreError::Unsound { .. } | StoreError::Changed { .. })
    }
}

/// What to do about a refusal of somebody whom the store knows, or does not know.
const NOT_PERMITTED: &str =
    "the credentials in environment variables do not permit it: they need to read and list (and to write, for a copy)";

/// The longest text of a server that is passed on.
const TEXT_MAX: usize = 400;

/// An error of a request in words, with what to do. Never of a kind that a reader takes for damage or for an absence.
pub(crate) fn refusal(error: &Error) -> io::Error {
    let (kind, next) = match error {
        Error::PermissionDenied { .. } => (io::ErrorKind::Other, NOT_PERMITTED),
        Error::Unauthenticated { .. } => (io::ErrorKind::Other, NOT_PERMITTED),
        _ if says_status(error, "401") || says_status(error, "403") => (io::ErrorKind::Other, NOT_PERMITTED),
        Error::NotFound { .. } => (io::ErrorKind::Other, "it was there a moment ago, or its bucket is not there"),
        Error::Precondition { .. } | Error::NotModified { .. } => {
            (io::ErrorKind::Other, "it was replaced while it was read: open the run again")
        }
        Error::NotSupported { .. } | Error::NotImplemented { .. } => {
            (io::ErrorKind::Unsupported, "this kind of store cannot do it")
        }
        _ if says_status(error, "5") => (io::ErrorKind::Other, "the store has a failure of its own: try again later"),
        _ if says_status(error, "4") => {
            (io::ErrorKind::Other, "the store refuses the request: check address and region")
        }
        _ => (io::ErrorKind::Other, "check the address, the network and the credentials, then try again"),
    };
    io::Error::new(kind, format!("{}; {next}", cut(&in_words(error))))
}

/// A request that took too long.
pub(crate) fn too_slow(after: Duration) -> io::Error {
    let seconds = after.as_secs_f32();
    io::Error::other(format!("no answer within {seconds:.1} s, with all attempts; check the network, then try again"))
}

/// Fewer or other bytes than were asked for.
pub(crate) fn wrong_answer(what: String) -> io::Error {
    io::Error::other(format!("{what}; the server, or something between, does not do what a store does: try again"))
}

/// The error and what caused it, each said once.
fn in_words(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Whether the server answered with a status that begins with these digits.
fn says_status(error: &Error, digits: &str) -> bool {
    let text = in_words(error);
    let status = text.split_once("status code: ").map(|(_, rest)| rest).unwrap_or_default();
    status.starts_with(digits)
}

/// The beginning of a text, on one line.
fn cut(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(TEXT_MAX) {
        Some((at, _)) => format!("{} ..", &line[..at]),
        None => line,
    }
}
