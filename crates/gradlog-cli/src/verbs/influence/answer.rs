//! What one pass says: scores, the strongest of each probe, and what these are made of or compared with.

use super::arguments::Arguments;
use super::method::Plan;
use crate::error::CliError;
use crate::report::Format;
use gradlog_analysis::{
    Comparison, Damping, DistanceQuestion, FeatureDistance, Influence, Ranked, Split, SplitBy, Strongest, Window,
};
use gradlog_format::run::Run;
use std::collections::HashMap;

/// Proponents and opponents in a table without `--top`.
const TABLE_ROWS: usize = 10;
/// Up to this many proponents and opponents are kept while the visits stream by. For more, all scores are held and
/// sorted.
const STREAMED_MAX: usize = 1000;

/// How much of the answer is wanted.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    top: Option<usize>,
    pub asked: bool,
    by: Option<SplitBy>,
    nearest: Option<usize>,
}

impl Wanted {
    pub(super) fn new(arguments: &Arguments) -> Self {
        let count = |number: Option<u64>| number.map(|number| usize::try_from(number).unwrap_or(usize::MAX));
        let asked = count(arguments.top).or(count(arguments.nearest));
        let (by, nearest) = (arguments.by, count(arguments.nearest));
        let top = Self::count(asked, if by.is_some() { Format::Table } else { arguments.output.format() });
        Self { top, asked: asked.is_some(), by, nearest }
    }

    /// How many of each end are shown in a format, if `asked` were asked for; `None` for all.
    pub(super) fn count(asked: Option<usize>, format: Format) -> Option<usize> {
        asked.or((format == Format::Table).then_some(TABLE_ROWS))
    }

    /// How many of the strongest are found while the visits stream by, if that is enough.
    pub(super) fn streamed(self, plan: &Plan<'_>) -> Option<usize> {
        // The scores of one column are few, and all of them say how concentrated its influence is.
        self.top.filter(|top| *top <= STREAMED_MAX && plan.columns() > 1)
    }

    /// How many passes over the run an answer takes.
    pub(super) fn passes(self) -> usize {
        1 + usize::from(self.by.is_some())
    }

    /// How many of the strongest of both ends are compared where there are several answers.
    pub(super) fn compared(self) -> usize {
        self.top.unwrap_or(TABLE_ROWS)
    }

    /// The answer for the probes of one pass, or one for each damping. All scores are held only if all are wanted.
    pub(super) fn answer(self, plan: &Plan<'_>, pass: usize) -> Result<Vec<Answer>, CliError> {
        let mut answers = self.scores(plan, pass)?;
        if let (Plan::TracIn(plan), Some(by), [answer]) = (plan, self.by, answers.as_mut_slice()) {
            let mut pairs = Vec::new();
            let mut positions = HashMap::new();
            for probe in 0..answer.about.probes.len() {
                let (proponents, opponents) = answer.ends(probe);
                for line in proponents.into_iter().chain(opponents.into_iter().flatten()) {
                    positions.insert((line.row, probe), pairs.len());
                    pairs.push((answer.about.rows[line.row].example, probe));
                }
            }
            let split = plan.split(pass, by, &pairs)?;
            answer.about.damage = answer.about.damage.take().or_else(|| split.damage.clone());
            answer.parts = Some(Parts { split, positions });
        }
        Ok(answers)
    }

    fn scores(self, plan: &Plan<'_>, pass: usize) -> Result<Vec<Answer>, CliError> {
        if let (Plan::TracIn(plan), Some(top)) = (plan, self.streamed(plan)) {
            return Ok(vec![Answer::of_strongest(plan.strongest(pass, top)?, top)]);
        }
        let answer = |about: Influence| {
            let examples = about.rows.len() as u64;
            Answer { about, examples, lists: Lists::All(self.top), parts: None, nearest: None }
        };
        Ok(plan.pass(pass)?.into_iter().map(answer).collect())
    }

    /// Compares the answer on one probe with the examples that are nearest to it.
    pub(super) fn compare(
        self,
        run: &Run,
        arguments: &Arguments,
        window: &Window,
        answer: &mut Answer,
    ) -> Result<(), CliError> {
        let Some(count) = self.nearest else { return Ok(()) };
        let mut question = DistanceQuestion::new(&answer.about).window(window.clone());
        if arguments.checkpoints {
            question = question.sweeps();
        }
        if let Some(layer) = &arguments.nearest_in {
            question = question.layer(layer);
        }
        let mut found = question.compute(run)?;
        if let Some(distance) = found.pop() {
            answer.about.damage = answer.about.damage.take().or_else(|| distance.damage.clone());
            let comparison = distance.compare(&answer.about, count)?;
            answer.nearest = Some(Nearest { distance, comparison });
        }
        Ok(())
    }
}

/// What one pass says.
pub(super) struct Answer {
    pub about: Influence,
    pub examples: u64,
    pub lists: Lists,
    pub parts: Option<Parts>,
    pub nearest: Option<Nearest>,
}

pub(super) enum Lists {
    /// Of each probe the strongest proponents and opponents.
    Ends(Vec<(Vec<Line>, Vec<Line>)>),
    /// All scores are in `about`. This many of each end are wanted, or all.
    All(Option<usize>),
}

/// What the scores of the lines are made of.
pub(super) struct Parts {
    pub split: Split,
    /// Of a row and a probe, the number of the pair.
    positions: HashMap<(usize, usize), usize>,
}

impl Parts {
    /// The parts of a line's score, and their errors.
    pub(super) fn find_line(&self, row: usize, probe: usize) -> (&[f64], Option<&[f64]>) {
        match self.positions.get(&(row, probe)) {
            Some(&pair) => (self.split.pair_scores(pair), self.split.pair_errors(pair)),
            None => (&[], None),
        }
    }
}

/// The examples nearest to the probe in feature space.
pub(super) struct Nearest {
    pub distance: FeatureDistance,
    pub comparison: Comparison,
}

#[derive(Clone, Copy)]
pub(super) struct Line {
    pub row: usize,
    pub score: f64,
    pub error: Option<f64>,
}

impl Answer {
    /// The first `top` of each end.
    pub(super) fn of_strongest(found: Strongest, top: usize) -> Self {
        let Strongest { influence: about, examples, proponents, opponents, .. } = found;
        let line = |ranked: &Ranked| Line { row: ranked.row, score: ranked.score, error: ranked.error };
        let lines = |list: Vec<Ranked>| list.iter().take(top).map(line).collect();
        let ends = proponents.into_iter().zip(opponents).map(|(helped, hurt)| (lines(helped), lines(hurt)));
        Answer { about, examples, lists: Lists::Ends(ends.collect()), parts: None, nearest: None }
    }

    /// With which damping, if the method has one.
    pub(super) fn damping(&self) -> Option<Damping> {
        self.about.estimate.as_ref().and_then(|estimate| estimate.damping)
    }

    pub(super) fn lines(&self, probe: usize, rows: Vec<usize>) -> Vec<Line> {
        let (score, error) = (|row| self.about.score(row, probe), |row| self.about.sketch_error(row, probe));
        rows.into_iter().map(|row| Line { row, score: score(row), error: error(row) }).collect()
    }

    /// Proponents and opponents of a probe, or all examples in one list.
    pub(super) fn ends(&self, probe: usize) -> (Vec<Line>, Option<Vec<Line>>) {
        match &self.lists {
            Lists::Ends(ends) => (ends[probe].0.clone(), Some(ends[probe].1.clone())),
            Lists::All(None) => (self.lines(probe, self.about.ranking(probe)), None),
            Lists::All(Some(top)) => {
                let opponents = self.lines(probe, self.about.opponents(probe, *top));
                (self.lines(probe, self.about.proponents(probe, *top)), Some(opponents))
            }
        }
    }
}
