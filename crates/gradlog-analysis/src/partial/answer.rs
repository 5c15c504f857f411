//! The answer for a share of the examples, with what tells whether others belong to it.

use crate::{
    AnalysisError, Basis, ExampleShare, Influence, InfluenceQuestion, OverRuns, ScoreQuestion, ScoreTable, Strongest,
    Window,
};
use gradlog_format::run::{Run, RunState};

/// The most of each end that are found while the visits stream by. For more, the whole matrix is held.
const STREAMED_MAX: usize = 1000;

/// The answer of one of several machines: the scores, or the influence, of a share of the examples.
///
/// ```
/// use gradlog_analysis::{ExampleShare, PartialAnswer, Score, ScoreQuestion, WholeAnswer};
/// # let written = gradlog_testing::run_of(&gradlog_testing::visits(&mut gradlog_testing::Draws(1), 30, 3, 8), 16);
/// # let run = written.run();
///
/// let question = ScoreQuestion::new(Score::Loss);
/// let part = |number| {
///     let question = question.clone().share(ExampleShare::new(number, 2)?);
///     PartialAnswer::of_scores(&question, &[&run], None)
/// };
/// let merged = PartialAnswer::merge(vec![("first".into(), part(1)?), ("second".into(), part(2)?)])?;
/// let WholeAnswer::Scores(table) = merged.answer else { panic!() };
/// assert_eq!(*table, question.compute(&run)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct PartialAnswer {
    pub(super) share: ExampleShare,
    pub(super) runs: Vec<AskedRun>,
    /// What was asked for, by name.
    pub(super) question: Vec<(String, String)>,
    pub(super) answer: Answered,
}

/// A run that was asked.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct AskedRun {
    /// Its folder.
    pub name: String,
    /// Its id.
    pub run_id: [u8; 16],
    /// Blocks that could be read.
    pub blocks: u64,
    pub(super) checksum: u32,
    /// What a reader should know of the workers that recorded it, if several did.
    pub worker_notes: Vec<String>,
    /// Which workers are missing, if any are.
    pub missing_workers: Option<String>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answered {
    /// A table for each run, and how they become one where several were asked for.
    Scores(Vec<ScoreTable>, Option<OverRuns>),
    /// An answer for the probes of each pass.
    Influence(Vec<Pass>),
}

/// The probes of one pass.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pass {
    /// When they were taken.
    pub times: Vec<u64>,
    /// How many of each end are kept, if not all scores are.
    pub kept: Option<usize>,
    pub answer: PassAnswer,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum PassAnswer {
    All(Influence),
    Strongest(Strongest),
}

impl PassAnswer {
    pub(super) fn about(&self) -> &Influence {
        match self {
            PassAnswer::All(influence) => influence,
            PassAnswer::Strongest(strongest) => &strongest.influence,
        }
    }

    pub(super) fn about_mut(&mut self) -> &mut Influence {
        match self {
            PassAnswer::All(influence) => influence,
            PassAnswer::Strongest(strongest) => &mut strongest.influence,
        }
    }
}

impl PartialAnswer {
    /// Answers a question for a score, for the share that it names: of one run, or with `over`, or of several runs,
    /// over all of them.
    ///
    /// # Errors
    /// As [`ScoreQuestion::compute`] and [`ScoreQuestion::compute_over`], and [`AnalysisError::OutOfRange`] if the
    /// question names no share, or a run changes while it is read.
    pub fn of_scores(question: &ScoreQuestion, runs: &[&Run], over: Option<OverRuns>) -> Result<Self, AnalysisError> {
        let share = named_share(question.share)?;
        let asked = AskedRun::all(runs)?;
        let (tables, own, over) = match (runs, over) {
            ([run], None) => (vec![question.compute(run)?], "one run", None),
            (_, over) => (question.tables(runs)?, "several runs", Some(over.unwrap_or_default())),
        };
        let mut said = vec![pair("the score", question.score), pair("scores of", own)];
        said.extend(over.map(|over| pair("the way to join runs", over)));
        said.push(pair("the optimizer", question.optimizer));
        said.extend(window_words(&question.window));
        Self { share, runs: asked, question: said, answer: Answered::Scores(tables, over) }.checked(runs)
    }

    /// Answers a question about influence, for the share that it names. With `top`, only the strongest of both ends of
    /// each probe are kept where there are several columns of scores; all rows of a single column are.
    ///
    /// # Errors
    /// As [`InfluenceQuestion::compute`](crate::InfluenceQuestion::compute), and [`AnalysisError::OutOfRange`] if the
    /// question names no share, or the run changes while it is read.
    pub fn of_influence(question: &InfluenceQuestion, run: &Run, top: Option<usize>) -> Result<Self, AnalysisError> {
        let share = named_share(question.share)?;
        let asked = AskedRun::all(&[run])?;
        let mut plan = question.plan(run)?;
        let strongest = top.filter(|top| *top <= STREAMED_MAX && plan.columns() > 1);
        if strongest.is_some() {
            plan = plan.keep_strongest();
        }
        let mut passes = Vec::with_capacity(plan.passes());
        for number in 0..plan.passes() {
            let answer = match strongest {
                Some(count) => PassAnswer::Strongest(plan.strongest(number, count)?),
                None => PassAnswer::All(plan.pass(number)?),
            };
            passes.push(Pass { times: plan.pass_times(number)?, kept: strongest, answer });
        }
        // A sum over all visits in the order of the file is no sum of sums.
        passes.iter_mut().for_each(|pass| pass.answer.about_mut().totals.clear());
        let mut said = vec![pair("the probe set", &question.set), pair("the probes", question.probes_in_words())];
        said.push(pair(
            "the probe time",
            if question.time == crate::ProbeTime::Earlier { "earlier" } else { "nearest" },
        ));
        said.push(pair("the optimizer", question.optimizer));
        said.push(pair("the normalization", question.normalization));
        said.push(pair(
            "the layers",
            if question.layers.is_empty() { "all".into() } else { question.layers.join(", ") },
        ));
        said.push(pair("sketch errors", question.sketch_errors));
        said.push(pair("the strongest", top.map_or("all".into(), |top| top.to_string())));
        said.extend(window_words(&question.window));
        Self { share, runs: asked, question: said, answer: Answered::Influence(passes) }.checked(&[run])
    }

    /// Which share of the examples it is about.
    pub fn share(&self) -> ExampleShare {
        self.share
    }

    /// The runs that were asked.
    pub fn runs(&self) -> &[AskedRun] {
        &self.runs
    }

    /// How many examples it is about.
    pub fn examples(&self) -> u64 {
        match &self.answer {
            Answered::Scores(tables, _) => tables.iter().map(|table| table.rows.len() as u64).max().unwrap_or(0),
            Answered::Influence(passes) => passes.first().map_or(0, |pass| match &pass.answer {
                PassAnswer::All(influence) => influence.rows.len() as u64,
                PassAnswer::Strongest(strongest) => strongest.examples,
            }),
        }
    }

    /// What it rests on, in one line.
    pub fn basis_words(&self) -> String {
        match &self.answer {
            Answered::Scores(tables, _) => Basis::describe_all(tables.iter().map(|table| &table.basis)),
            Answered::Influence(passes) => {
                Basis::describe_all(passes.iter().map(|pass| &pass.answer.about().basis).take(1))
            }
        }
    }

    /// Where a run stopped being readable, if one did.
    pub fn damage(&self) -> Option<&crate::Damage> {
        match &self.answer {
            Answered::Scores(tables, _) => tables.iter().find_map(|table| table.damage.as_ref()),
            Answered::Influence(passes) => passes.iter().find_map(|pass| pass.answer.about().damage.as_ref()),
        }
    }

    /// Refuses an answer about a run that has grown in the meantime: nobody could say what it is made of.
    fn checked(self, runs: &[&Run]) -> Result<Self, AnalysisError> {
        for (run, before) in runs.iter().zip(&self.runs) {
            let now = run.state()?;
            if (now.blocks, now.checksum) != (before.blocks, before.checksum) {
                let given = format!("{}, which grows while it is read", before.name);
                let range = "one that does not change: make parts when the recording has ended".into();
                return Err(AnalysisError::OutOfRange { what: "the run of a partial answer", given, range });
            }
        }
        Ok(self)
    }
}

fn named_share(share: Option<ExampleShare>) -> Result<ExampleShare, AnalysisError> {
    share.ok_or_else(|| {
        let (given, range) = ("not given".to_owned(), "one, as 1/8".into());
        AnalysisError::OutOfRange { what: "the share of the examples", given, range }
    })
}

fn pair(name: &str, value: impl ToString) -> (String, String) {
    (name.to_owned(), value.to_string())
}

fn window_words(window: &Window) -> [(String, String); 2] {
    let rows = if window.is_on_sweeps() { "sweeps" } else { "visits" };
    [pair("rows:", rows), pair("the window", window)]
}

impl AskedRun {
    fn all(runs: &[&Run]) -> Result<Vec<Self>, AnalysisError> {
        runs.iter().map(|run| Self::read(run)).collect()
    }

    fn read(run: &Run) -> Result<Self, AnalysisError> {
        let RunState { run_id, blocks, checksum, .. } = run.state()?;
        let missing = run.workers()?.map(|workers| workers.notes()).filter(|notes| !notes.is_empty());
        Ok(Self {
            name: run.dir().display().to_string(),
            run_id,
            blocks,
            checksum,
            worker_notes: run.worker_notes()?,
            missing_workers: missing.map(|notes| notes.join("; ")),
        })
    }
}
