//! `gradlog prune`: which part of the training set to keep?

use super::judged::Judged;
use super::score_table::{OverRunsArguments, Standing};
use crate::arguments::{parse_share, OptimizerArguments, OutputArguments, WindowArguments, EXIT_CODES};
use crate::choice::choice;
use crate::error::CliError;
use crate::frame::{first_damage, prefixes, Asked, Content, Sheet, Shown, Verb};
use crate::output::Destination;
use crate::report::{Format, Value};
use clap::Args;
use gradlog_analysis::{KeepList, KeepRule, RunsTable, Score, ScoreQuestion, Window};
use gradlog_arrow::AnswerTable;
use gradlog_format::verdicts::Verdicts;
use std::path::PathBuf;

/// Write a keep-list: the part of the training set that a score says to keep (Paul et al. 2021)
///
/// Sorts the examples by difficulty, leaves out the hardest share that --skip-hardest says, and keeps the next --keep:
/// the sliding window. Which end of a score is hard is the end that `gradlog scores` prints first. As a table (and in
/// a file named .txt) the list is one id a line, ascending; CSV and JSON hold rows `example,rank,score,runs` and
/// `label` where it was recorded, the hardest first, `rank` counted from 0 over all scored examples. Examples that no
/// run visited inside the window are unknown here; those whose every visit was NaN or infinite are counted and not
/// kept.
///
/// --verdicts takes the file that the page of `gradlog report` saves. Examples with the verdict `drop` are left out,
/// and rows of those with `relabel` have the new label. Without --score every other example is kept. A verdict acts
/// only if it fits the runs: the example has the label that was judged, and the new label is one of the runs'. Others
/// are named and skipped, with exit code 3. If none fits, no list is written.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// Folder of the run, or of several runs on the same training set
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// By which score
    #[arg(long, value_name = "NAME", value_parser = choice::<Score>(), required_unless_present = "verdicts", requires = "keep")]
    score: Option<Score>,
    /// Share of the examples that is kept, such as 0.5
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, value_parser = parse_share, requires = "score")]
    keep: Option<f64>,
    /// Leave out what was judged `drop` in this file of the page of `gradlog report`, and relabel what was judged so
    #[arg(long, value_name = "FILE")]
    verdicts: Option<PathBuf>,
    /// Share of the examples that is left out at the hard end
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, default_value = "0", value_parser = parse_share, conflicts_with = "random", requires = "score")]
    skip_hardest: f64,
    /// Let each recorded label keep its share
    #[arg(long)]
    balance: bool,
    /// Keep as many drawn at random with this seed: the control for an experiment
    #[arg(long, value_name = "SEED", requires = "score")]
    random: Option<u64>,
    #[command(flatten)]
    over_runs: OverRunsArguments,
    #[command(flatten)]
    optimizer: OptimizerArguments,
    #[command(flatten)]
    window: WindowArguments,
    #[command(flatten)]
    output: OutputArguments,
}

impl Verb for Arguments {
    type Answer<'run> = (RunsTable, KeepList, Option<Judged>);

    fn runs(&self) -> &[PathBuf] {
        &self.runs
    }

    fn window(&self) -> Window {
        self.window.window()
    }

    fn destination(&self) -> Destination<'_> {
        self.output.destination()
    }

    fn check(&self) -> Result<(), CliError> {
        Ok(self.rule().check()?)
    }

    fn ask<'run>(&self, asked: &Asked<'run>) -> Result<Self::Answer<'run>, CliError> {
        let verdicts = self.verdicts.as_ref().map(Verdicts::read).transpose()?;
        // Without a score everything is kept, and any score tells what there is.
        let question = ScoreQuestion::new(self.score.unwrap_or(Score::Loss))
            .window(asked.window.clone())
            .over_runs(self.over_runs.over_runs);
        let question = question.optimizer(self.optimizer.optimizer);
        let table = asked.read("reading", 1, |progress| question.share_progress(progress).compute_over(&asked.runs))?;
        let mut list = table.keep(&self.rule())?;
        let judged = verdicts.map(|verdicts| Judged::apply(&verdicts, &table, &mut list)).transpose()?;
        Ok((table, list, judged))
    }

    fn show<'run>(
        &'run self,
        asked: &'run Asked<'run>,
        (table, list, judged): Self::Answer<'run>,
    ) -> Result<Shown<'run>, CliError> {
        let mut standing = Standing::from(&table);
        let mut words = standing.words(&prefixes(&asked.names()));
        if self.score.is_none() {
            // Nobody asked for the score that was read, and the first line is about it.
            words.drain(..words.len().min(1));
        }
        let content = if list.kept.is_empty() {
            Content::Nothing
        } else {
            if self.score.is_some() {
                words.extend(list_words(&list));
            }
            words.extend(judged.iter().flat_map(|judged| judged.words(list.kept.len())));
            self.content(&standing, &table, &list)
        };
        Ok(Shown {
            words,
            basis: Some(standing.basis.clone()),
            left_out: standing.take_left_out(&prefixes(&asked.names())),
            damage: standing.damage(),
            loss: judged.as_ref().is_some_and(Judged::has_skipped),
            failure: list.kept.is_empty().then(|| CliError::NothingToKeep(why_empty(&list))),
            content,
            ..Shown::default()
        })
    }
}

/// Why nobody is kept.
fn why_empty(list: &KeepList) -> String {
    match list.scored {
        0 => "no example has a score".into(),
        scored => format!("a share of {} of {scored} examples is less than one example", list.rule.keep),
    }
}

fn list_words(list: &KeepList) -> Vec<String> {
    let (kept, scored) = (list.kept.len(), list.scored);
    let how = match list.rule.random {
        Some(seed) => format!("drawn at random with seed {seed}"),
        None => format!("after the hardest {} %, where hard is {}", 100.0 * list.rule.skip_hardest, list.score.hard()),
    };
    let mut lines = vec![format!("keeps {kept} of {scored} examples, {how}")];
    if list.rule.balance {
        let counts: Vec<String> = list
            .labels
            .iter()
            .map(|label| format!("{}: {}/{}", label.label.unwrap_or_default(), label.kept, label.examples))
            .collect();
        lines.push(format!("kept of each label: {}", counts.join(", ")));
    }
    if !list.unscored.is_empty() {
        let first: Vec<String> = list.unscored.iter().take(5).map(u64::to_string).collect();
        let more = if list.unscored.len() > 5 { ", ..." } else { "" };
        lines.push(format!(
            "note: {} examples have no usable visit and are not kept ({}{more})",
            list.unscored.len(),
            first.join(", ")
        ));
    }
    lines
}

impl Arguments {
    fn rule(&self) -> KeepRule {
        let keep = self.keep.unwrap_or(1.0);
        let rule = match self.random {
            Some(seed) => KeepRule::random(keep, seed),
            None => KeepRule::hardest(keep).skip_hardest(self.skip_hardest),
        };
        if self.balance {
            rule.balance()
        } else {
            rule
        }
    }

    fn content<'a>(&self, standing: &Standing, table: &RunsTable, list: &KeepList) -> Content<'a> {
        if self.output.format() == Format::Table {
            let mut ids: Vec<u64> = list.kept.iter().map(|kept| kept.example).collect();
            ids.sort_unstable();
            return Content::Numbers(ids);
        }
        let head = vec![
            ("score", Value::from(list.score.name())),
            ("hard", list.score.hard().to_string().into()),
            ("keep", list.rule.keep.into()),
            ("skip_hardest", list.rule.skip_hardest.into()),
            ("balance", list.rule.balance.into()),
            ("random", list.rule.random.into()),
            ("runs", (table.runs.len() as u64).into()),
            ("scored", list.scored.into()),
            ("unscored", (list.unscored.len() as u64).into()),
            ("partial", list.partial.into()),
            ("kept", (list.kept.len() as u64).into()),
            ("damage", first_damage(&standing.damage())),
        ];
        Content::Sheet(Sheet { head, table: AnswerTable::of_kept(list.kept.clone()) })
    }
}
