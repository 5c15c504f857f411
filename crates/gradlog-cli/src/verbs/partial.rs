//! What the verbs say that can answer for a part of the examples.

use crate::error::CliError;
use crate::frame::{Content, Ending, Shown};
use crate::report::count;
use gradlog_analysis::{Damage, PartialAnswer};

/// What an answer for a part comes to: its file.
pub(super) fn show_part<'a>(part: PartialAnswer) -> Shown<'a> {
    let share = part.share();
    let examples = usize::try_from(part.examples()).unwrap_or(usize::MAX);
    let words = vec![format!("part {share}: {}", count(examples, "example"))];
    let (basis, damage): (String, Vec<Damage>) = (part.basis_words(), part.damage().cloned().into_iter().collect());
    let content = Content::Written(Box::new(move |target| {
        part.write(target).map_err(CliError::Write)?;
        let words = format!("when all {} are there: gradlog merge PART...", count(share.of() as usize, "part"));
        Ok(Ending { words: Some(words), damage: None })
    }));
    Shown { words, basis: Some(basis), content, damage, ..Shown::default() }
}
