//! `gradlog influence`: which examples taught the model its answer to a probe?

mod answer;
mod arguments;
mod damping_sweep;
mod merged;
mod method;
mod rows;
mod words;

use super::partial::show_part;
use crate::error::CliError;
use crate::frame::{missing_workers, no_rows, Asked, Content, Ending, Shown, Verb};
use crate::notes::Notes;
use crate::output::Destination;
use answer::{Answer, Wanted};
pub(crate) use arguments::Arguments;
use damping_sweep::DampingSweep;
use gradlog_analysis::{ExampleShare, PartialAnswer, Window};
pub(super) use merged::show_merged;
pub(crate) use method::influence_methods;
use method::Plan;
use rows::{Shape, Writer};
use std::path::PathBuf;
use std::slice;

/// A question that was looked up, and what its first pass says. Later passes are read while rows are written.
pub(crate) struct Asking<'run> {
    plan: Plan<'run>,
    wanted: Wanted,
    first: Vec<Answer>,
    sweep: Option<DampingSweep>,
}

/// What was found.
pub(crate) enum Found<'run> {
    Whole(Box<Asking<'run>>),
    Part(Box<PartialAnswer>),
}

/// What is shown of answers besides the answers.
pub(crate) struct Showing {
    pub shape: Shape,
    /// Probes of all passes.
    pub probes: usize,
    pub passes: usize,
    /// Which workers are missing.
    pub workers: Option<String>,
    /// How wide the terminal is, if there is one.
    pub terminal: Option<usize>,
}

impl Verb for Arguments {
    type Answer<'run> = Found<'run>;

    fn runs(&self) -> &[PathBuf] {
        slice::from_ref(&self.run)
    }

    fn window(&self) -> Window {
        self.window.window()
    }

    fn share(&self) -> Option<ExampleShare> {
        self.part.part
    }

    fn destination(&self) -> Destination<'_> {
        self.output.destination()
    }

    fn check(&self) -> Result<(), CliError> {
        if let Some(by) = self.by {
            self.method.check_tracin("--by", by)?;
        }
        self.method.check(&self.question(&self.window()))
    }

    fn ask<'run>(&self, asked: &Asked<'run>) -> Result<Found<'run>, CliError> {
        let question = self.question(&asked.window).share_progress(&asked.progress());
        if self.part.part.is_some() {
            let top = self.top.map(|top| usize::try_from(top).unwrap_or(usize::MAX));
            let part = asked.read("multiplying", 1, |_| PartialAnswer::of_influence(&question, asked.run(), top))?;
            return Ok(Found::Part(Box::new(part)));
        }
        let mut plan = asked.read("finding probes", 1, |_| self.method.plan(asked.run(), &question))?;
        let wanted = Wanted::new(self);
        if wanted.streamed(&plan).is_some() {
            plan = plan.keep_strongest();
        }
        asked.start("multiplying", plan.passes() * wanted.passes());
        let mut first = wanted.answer(&plan, 0)?;
        for answer in &mut first {
            wanted.compare(asked.run(), self, &asked.window, answer)?;
        }
        let sweep = DampingSweep::new(&first, wanted.compared())?;
        Ok(Found::Whole(Box::new(Asking { plan, wanted, first, sweep })))
    }

    fn show<'run>(&'run self, asked: &'run Asked<'run>, found: Found<'run>) -> Result<Shown<'run>, CliError> {
        let Asking { plan, wanted, first, sweep } = match found {
            Found::Whole(asking) => *asking,
            Found::Part(part) => return Ok(show_part(*part)),
        };
        if plan.passes() == 1 {
            asked.stop();
        }
        let shape = Shape {
            format: self.output.format(),
            all: self.all,
            asked: wanted.asked,
            by: self.by,
            nearest: self.nearest.is_some(),
        };
        let showing = Showing {
            shape,
            probes: plan.probes(),
            passes: plan.passes(),
            workers: missing_workers(asked.run())?,
            terminal: asked.terminal(&self.destination()),
        };
        Ok(show_answers(showing, first, sweep, move |number| wanted.answer(&plan, number)))
    }
}

/// What answers come to: the first are there, and `next` finds those of later passes while rows are written.
fn show_answers<'a>(
    showing: Showing,
    first: Vec<Answer>,
    sweep: Option<DampingSweep>,
    mut next: impl FnMut(usize) -> Result<Vec<Answer>, CliError> + 'a,
) -> Shown<'a> {
    let Showing { shape, probes, passes, workers, terminal } = showing;
    let words = words::answer_words(&first, sweep.as_ref(), probes);
    let left_out = Notes::from(&first[0].about);
    let basis = first[0].about.basis.to_string();
    if passes == 1 && first.iter().all(|answer| answer.about.visits == 0) {
        let damage: Vec<_> = first.into_iter().find_map(|answer| answer.about.damage).into_iter().collect();
        let failure = Some(no_rows(left_out.iter().cloned().collect(), &damage));
        return Shown { failure, damage, ..Shown::default() };
    }
    let content = Content::Streamed(Box::new(move |target, basis| {
        let mut damage = first.iter().find_map(|answer| answer.about.damage.clone());
        let mut writer = Writer::new(shape, &first, terminal);
        let mut rows = writer.begin(&first, sweep.as_ref(), (workers, basis), target)?;
        writer.write(&first, &mut rows)?;
        drop(first);
        for number in 1..passes {
            let part = next(number)?;
            writer.write(&part, &mut rows)?;
            damage = damage.or_else(|| part.into_iter().find_map(|answer| answer.about.damage));
        }
        let none =
            "no example helped or hurt: every score is 0; `gradlog info` says whether learning rates and gradients are";
        let words = if rows.written() == 0 { Some(none.to_owned()) } else { writer.hint() };
        rows.end()?;
        Ok(Ending { words, damage })
    }));
    let left_out = vec![(String::new(), left_out)];
    Shown { words, basis: Some(basis), left_out, content, ..Shown::default() }
}
