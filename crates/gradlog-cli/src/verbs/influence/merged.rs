//! Influence that was put together of parts, shown as the question alone would have been.

use super::answer::{Answer, Lists, Wanted};
use super::rows::Shape;
use super::{show_answers, Showing};
use crate::error::CliError;
use crate::frame::Shown;
use crate::report::Format;
use gradlog_analysis::{Influence, MergedAnswer, Strongest, WholeAnswer};

/// What merged answers come to, in the format that is wanted and with `top` of each end, if that was given.
pub(crate) fn show_merged<'a>(
    merged: MergedAnswer,
    (format, top): (Format, Option<usize>),
    terminal: Option<usize>,
) -> Result<Shown<'a>, CliError> {
    let all = merged.asked("the probes") == Some("all");
    let kept: Option<usize> = merged.asked("the strongest").and_then(|kept| kept.parse().ok());
    if let (Some(top), Some(kept)) = (top, kept.filter(|kept| top.is_some_and(|top| top > *kept))) {
        let why = format!("--top {top} is more than the {kept} that the parts were asked for: make them with more");
        return Err(CliError::Arguments(why));
    }
    let (asked, workers) = (top.or(kept), merged.runs.first().and_then(|run| run.missing_workers.clone()));
    let top = Wanted::count(asked, format);
    let answers: Vec<Answer> = match merged.answer {
        WholeAnswer::Influence(answers) => answers.into_iter().map(|about| whole(about, top)).collect(),
        WholeAnswer::Strongest(answers) => answers.into_iter().map(|found| ends(found, top)).collect(),
        _ => Vec::new(),
    };
    let probes = answers.iter().map(|answer| answer.about.probes.len()).sum();
    let shape = Shape { format, all, asked: asked.is_some(), by: None, nearest: false };
    let showing = Showing { shape, probes, passes: answers.len(), workers, terminal };
    let mut answers = answers.into_iter().map(|answer| vec![answer]);
    let none = || CliError::NoRows("the parts hold no answer".into());
    let first = answers.next().ok_or_else(none)?;
    Ok(show_answers(showing, first, None, move |_| answers.next().ok_or_else(none)))
}

fn whole(about: Influence, top: Option<usize>) -> Answer {
    let examples = about.rows.len() as u64;
    Answer { about, examples, lists: Lists::All(top), parts: None, nearest: None }
}

fn ends(found: Strongest, top: Option<usize>) -> Answer {
    Answer::of_strongest(found, top.unwrap_or(usize::MAX))
}
