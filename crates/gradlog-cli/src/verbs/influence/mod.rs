//! `gradlog influence`: which examples taught the model its answer to a probe?

mod answer;
mod arguments;
mod damping_sweep;
mod method;
mod rows;
mod words;

use crate::error::CliError;
use crate::frame::{missing_workers, Asked, Content, Ending, Shown, Verb};
use crate::notes::Notes;
use crate::output::Destination;
use answer::{Answer, Wanted};
pub(crate) use arguments::Arguments;
use damping_sweep::DampingSweep;
use gradlog_analysis::Window;
use method::Plan;
use rows::Writer;
use std::path::PathBuf;
use std::slice;

/// A question that was looked up, and what its first pass says. Later passes are read while rows are written.
pub(crate) struct Asking<'run> {
    plan: Plan<'run>,
    wanted: Wanted,
    first: Vec<Answer>,
    sweep: Option<DampingSweep>,
}

impl Verb for Arguments {
    type Answer<'run> = Asking<'run>;

    fn runs(&self) -> &[PathBuf] {
        slice::from_ref(&self.run)
    }

    fn window(&self) -> Window {
        self.window.window()
    }

    fn destination(&self) -> Destination<'_> {
        self.output.destination()
    }

    fn uses_gradients(&self) -> bool {
        true
    }

    fn ask<'run>(&self, asked: &Asked<'run>) -> Result<Asking<'run>, CliError> {
        let question = self.question(&asked.window).share_progress(&asked.progress());
        if let Some(by) = self.by {
            self.method.check_tracin("--by", by)?;
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
        Ok(Asking { plan, wanted, first, sweep })
    }

    fn show<'run>(&'run self, asked: &'run Asked<'run>, asking: Asking<'run>) -> Result<Shown<'run>, CliError> {
        let Asking { plan, wanted, first, sweep } = asking;
        let words = words::answer_words(&first, sweep.as_ref(), plan.probes());
        let left_out = Notes::from(&first[0].about);
        let workers = missing_workers(asked.run())?;
        let content = Content::Written(Box::new(move |target| {
            let mut damage = first.iter().find_map(|answer| answer.about.damage.clone());
            let mut writer = Writer::new(self, wanted, &first);
            let mut rows = writer.begin(&first, sweep.as_ref(), workers, target)?;
            writer.write(&first, &mut rows)?;
            drop(first);
            for number in 1..plan.passes() {
                let part = wanted.answer(&plan, number)?;
                writer.write(&part, &mut rows)?;
                damage = damage.or_else(|| part.into_iter().find_map(|answer| answer.about.damage));
            }
            rows.end()?;
            Ok(Ending { words: writer.hint(), damage })
        }));
        Ok(Shown { words, left_out: vec![(String::new(), left_out)], content, ..Shown::default() })
    }
}
