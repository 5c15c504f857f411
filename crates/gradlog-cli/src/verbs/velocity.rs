//! `gradlog velocity`: how fast does the gradients' kernel of some examples still change?

use super::ids::read_ids;
use crate::arguments::{parse_count, OutputArguments, WindowArguments, EXIT_CODES};
use crate::choice::{choice, Choice};
use crate::error::CliError;
use crate::frame::{first_damage, Asked, Content, Sheet, Shown, Verb};
use crate::notes::Notes;
use crate::output::Destination;
use crate::report::{count, printable, Value};
use clap::Args;
use gradlog_analysis::{
    Basis, Score, ScoreQuestion, Velocity, VelocityGroup, VelocityGroups, VelocityKernel, VelocityQuestion, Window,
};
use gradlog_arrow::AnswerTable;
use std::path::PathBuf;
use std::slice;

/// What the Gram matrices are of.
fn describe_kernel(velocity: &Velocity) -> String {
    match (velocity.kernel, velocity.scored) {
        (VelocityKernel::Recorded, None) => {
            "Gram matrix of the recorded loss gradients, not the neural tangent kernel".into()
        }
        (VelocityKernel::Recorded, Some(score)) => {
            format!("Gram matrix of the recorded gradients of the {score} of one class, not the neural tangent kernel")
        }
        (kernel, _) => format!("{}, {}", kernel.description(), count(velocity.logits as usize, "logit")),
    }
}

impl Choice for VelocityKernel {
    fn all() -> &'static [Self] {
        &VelocityKernel::ALL
    }

    fn word(&self) -> &'static str {
        self.name()
    }

    fn help(&self) -> &'static str {
        self.description()
    }
}

/// Measure the kernel velocity of groups of probes between successive probe times (Paul et al. 2021)
///
/// The kernel is the Gram matrix of the group's gradients: of losses, unless --kernel asks for the neural tangent
/// kernel of logits that `recorder.tangents` recorded. Velocity 0 means that it stays the same, 1 that nothing of it is
/// left. Rows are `group,from_step,to_step,examples,velocity` and, with --by, `mean_score`. Without --groups and --by
/// the whole set is one group.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// Folder of the run
    run: PathBuf,
    /// Name of the probe set
    #[arg(long, value_name = "SET")]
    set: String,
    /// Of which gradients the kernel is
    #[arg(long, value_name = "NAME", default_value = "recorded", value_parser = choice::<VelocityKernel>())]
    kernel: VelocityKernel,
    /// A file of lines `id,group`, or of ids that are one group
    #[arg(long, value_name = "FILE", conflicts_with = "by")]
    groups: Option<PathBuf>,
    /// Group the set's examples by this score of their visits, hardest first: for a set of training examples
    #[arg(long, value_name = "NAME", value_parser = choice::<Score>())]
    by: Option<Score>,
    /// How many examples a group has, with --by
    #[arg(long, value_name = "N", default_value_t = 100, requires = "by", value_parser = parse_count)]
    group_size: usize,
    /// Which visits the score of --by counts
    #[command(flatten)]
    window: WindowArguments,
    #[command(flatten)]
    output: OutputArguments,
}

impl Verb for Arguments {
    type Answer<'run> = Velocity;

    fn runs(&self) -> &[PathBuf] {
        slice::from_ref(&self.run)
    }

    fn check(&self) -> Result<(), CliError> {
        if self.by.is_none() && self.window.is_given() {
            let why = "--epochs, --steps and --at choose the visits that the score of --by counts: give --by, or leave them out";
            return Err(CliError::Arguments(why.into()));
        }
        Ok(())
    }

    fn window(&self) -> Window {
        self.window.window()
    }

    fn destination(&self) -> Destination<'_> {
        self.output.destination()
    }

    fn ask<'run>(&self, asked: &Asked<'run>) -> Result<Velocity, CliError> {
        let run = asked.run();
        if let Some(score) = self.by {
            return asked.read("reading", 2, |progress| {
                let question = ScoreQuestion::new(score).window(asked.window.clone());
                let table = question.share_progress(progress).compute_over(&[run])?;
                let groups = VelocityGroups::Ranked { table: &table, size: self.group_size };
                self.question().groups(groups).share_progress(progress).compute(run)
            });
        }
        let given = self.groups.as_ref().map(|path| read_ids(path).map(into_groups)).transpose()?;
        let groups = given.as_ref().map_or(VelocityGroups::Whole, |groups| VelocityGroups::Given(groups));
        asked.read("reading", 1, |progress| self.question().groups(groups).share_progress(progress).compute(run))
    }

    fn show<'run>(&'run self, _asked: &'run Asked<'run>, velocity: Velocity) -> Result<Shown<'run>, CliError> {
        let kernel = describe_kernel(&velocity);
        let (groups, times, set) = (velocity.groups.len(), velocity.times, printable(&velocity.set));
        let basis = Basis::describe_all(std::iter::once(&velocity.basis).chain(&velocity.score_bases));
        let head = vec![
            ("measure", Value::from("kernel velocity")),
            ("kernel", kernel.as_str().into()),
            ("set", velocity.set.as_str().into()),
            ("probe_times", times.into()),
            ("groups", (groups as u64).into()),
            ("left_out", velocity.left_out.examples.into()),
            ("labels_differ", velocity.labels_differ.into()),
            ("records_left_out", velocity.left_out.probe_records.into()),
            ("damage", first_damage(&velocity.damage)),
        ];
        let table = AnswerTable::of_velocity(&velocity.groups);
        Ok(Shown {
            words: vec![format!("{} of `{set}` at {times} probe times; {kernel}", count(groups, "group"))],
            basis: Some(basis),
            left_out: vec![(String::new(), Notes::from(&velocity))],
            content: Content::Sheet(Sheet { head, table }),
            damage: velocity.damage.into_iter().collect(),
            ..Shown::default()
        })
    }
}

impl Arguments {
    fn question(&self) -> VelocityQuestion<'_> {
        VelocityQuestion::new(&self.set).kernel(self.kernel)
    }
}

/// Groups in the order of their first line.
fn into_groups(rows: Vec<(u64, String)>) -> Vec<VelocityGroup> {
    let mut groups: Vec<VelocityGroup> = Vec::new();
    for (id, name) in rows {
        let name = if name.is_empty() { "given".into() } else { name };
        match groups.iter_mut().find(|group| group.name == name) {
            Some(group) => group.ids.push(id),
            None => groups.push(VelocityGroup::new(name, [id])),
        }
    }
    groups
}
