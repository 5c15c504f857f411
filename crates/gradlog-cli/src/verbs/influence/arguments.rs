//! The arguments of `gradlog influence`, and the question that they ask.

use super::method::MethodArguments;
use crate::arguments::{OutputArguments, PartArguments, WindowArguments, EXIT_CODES};
use crate::choice::{choice, Choice};
use crate::cluster::ClusterArguments;
use clap::{ArgGroup, Args};
use gradlog_analysis::{InfluenceQuestion, Normalization, OptimizerChoice, ProbeTime, SplitBy, Window};
use std::path::PathBuf;

/// Find the training examples that taught the model its answer to a probe: TracIn, influence functions, the adjoint,
/// ...
///
/// A positive score helped (a proponent): the example's steps lowered the probe's loss. A negative one hurt (an
/// opponent). A table shows the strongest of both. CSV and JSON hold rows `example,visits,score,error` and, where they
/// were recorded, `label` and `prediction` of the last visit. They go from the strongest proponent to the strongest
/// opponent. Examples without a usable visit have score NaN and come last. With --checkpoints the gradients are those
/// of a replay's sweep over the training set at checkpoints (TracInCP), and the second column counts these:
/// `example,checkpoints,score,error`. With --all the rows are `example,probe,score,error`, probe after probe.
///
/// --by splits the strongest scores of both ends (10 of each without --top) into parts. A table gets a column for each
/// layer or epoch. CSV and JSON get a row for each: `example,layer,score,error,whole` or `example,epoch,...`, with
/// --all `probe` after `example`. The scores of an example's rows add up to `whole`.
///
/// With several dampings, as in `--method if --damping 0.01,0.1,1`, there are rows for each, from the smallest to the
/// largest. A first column `damping` says which. The command also says how far neighbors agree; JSON has it in the
/// lists `spearman_to_next` and `kept_to_next`, the share of the strongest that stay.
///
/// The error (± in a table) is one standard deviation of what projecting and rounding the gradients may have done to
/// the score, or an upper bound where an example has several visits. It does not cover layers that were not recorded,
/// probes taken at other steps than the visits, or what TracIn itself leaves out.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
#[command(group(ArgGroup::new("asked").required(true).args(["id", "ids", "class", "mean", "all"])))]
pub(crate) struct Arguments {
    /// Folder of the run
    pub(super) run: PathBuf,
    /// Name of the probe set
    #[arg(long, value_name = "SET")]
    pub(super) probe: String,
    /// Id of the probe
    #[arg(long, value_name = "ID")]
    pub(super) id: Option<u64>,
    /// These probes together: the influence on the mean of their losses
    #[arg(long, value_name = "ID,ID,..", value_delimiter = ',')]
    pub(super) ids: Vec<u64>,
    /// All probes with this label together
    #[arg(long, value_name = "LABEL")]
    pub(super) class: Option<u32>,
    /// All probes of the set together
    #[arg(long)]
    pub(super) mean: bool,
    /// Every probe of the set: the whole matrix
    #[arg(long)]
    pub(super) all: bool,
    /// Only the N strongest proponents and the N strongest opponents of each probe; by default 10 in a table, else all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) top: Option<u64>,
    /// What scores are divided by (tracin; relatif also if and ekfac)
    #[arg(long, value_name = "BY", default_value = "none", value_parser = choice::<Normalization>())]
    pub(super) normalize: Normalization,
    /// Count the gradients of these layers alone: the last one gives TracIn's last-layer form. Layers of several
    /// positions are folded into one vector and go by the name `folded` together (tracin)
    #[arg(long, value_name = "NAME,NAME,..", value_delimiter = ',')]
    pub(super) layers: Vec<String>,
    /// Show what the strongest scores are made of: a column, or in CSV and JSON a row, for each layer or each epoch
    /// (tracin)
    #[arg(long, value_name = "WHAT", conflicts_with_all = ["part", "cluster"], value_parser = choice::<SplitBy>())]
    pub(super) by: Option<SplitBy>,
    /// Show the K nearest training examples in feature space, too, and K proponents and opponents; each row then has a
    /// `role` and a `distance`
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..), conflicts_with_all = ["ids", "class", "mean", "all", "top", "by", "part", "cluster"])]
    pub(super) nearest: Option<u64>,
    /// The layer whose inputs are the features; by default the last one that keeps its factors
    #[arg(long, value_name = "LAYER", requires = "nearest")]
    pub(super) nearest_in: Option<String>,
    /// Which of a probe's records is taken for a step (tracin)
    #[arg(long, value_name = "RULE", default_value = "earlier", value_parser = choice::<ProbeTime>())]
    pub(super) probe_time: ProbeTime,
    /// What the steps are taken for (tracin)
    #[arg(long, value_name = "STEPS", default_value = "recorded", value_parser = choice::<OptimizerChoice>())]
    pub(super) optimizer: OptimizerChoice,
    /// TracInCP: take the sweeps at checkpoints instead of the visits; short for `--at sweep`
    #[arg(long, conflicts_with = "at")]
    pub(super) checkpoints: bool,
    #[command(flatten)]
    pub(super) method: MethodArguments,
    #[command(flatten)]
    pub(super) window: WindowArguments,
    #[command(flatten)]
    pub(super) part: PartArguments,
    #[command(flatten)]
    pub(super) cluster: ClusterArguments,
    #[command(flatten)]
    pub(super) output: OutputArguments,
}

impl Choice for ProbeTime {
    fn all() -> &'static [Self] {
        &[ProbeTime::Earlier, ProbeTime::Nearest]
    }

    fn word(&self) -> &'static str {
        match self {
            ProbeTime::Earlier => "earlier",
            _ => "nearest",
        }
    }

    fn help(&self) -> &'static str {
        match self {
            ProbeTime::Earlier => "the last one taken up to the step; visits before the first are left out",
            _ => "the one taken nearest to the step, before or after",
        }
    }
}

impl Choice for OptimizerChoice {
    fn all() -> &'static [Self] {
        &OptimizerChoice::ALL
    }

    fn word(&self) -> &'static str {
        self.name()
    }

    fn help(&self) -> &'static str {
        match self {
            OptimizerChoice::Recorded => {
                "as the optimizer told them: of Adam and AdamW, if its second moments were recorded; else plain SGD"
            }
            _ => "steps of plain SGD",
        }
    }
}

impl Choice for Normalization {
    fn all() -> &'static [Self] {
        &Normalization::ALL
    }

    fn word(&self) -> &'static str {
        self.name()
    }

    fn help(&self) -> &'static str {
        self.description()
    }
}

impl Choice for SplitBy {
    fn all() -> &'static [Self] {
        &[SplitBy::Layer, SplitBy::Epoch]
    }

    fn word(&self) -> &'static str {
        match self {
            SplitBy::Layer => "layer",
            _ => "epoch",
        }
    }

    fn help(&self) -> &'static str {
        match self {
            SplitBy::Layer => "where the gradients agree; all folded layers are one part",
            _ => "when the example helped",
        }
    }
}

impl Arguments {
    /// The question to the run.
    pub(super) fn question(&self, window: &Window) -> InfluenceQuestion {
        let question = InfluenceQuestion::new(&self.probe)
            .window(window.clone())
            .probe_time(self.probe_time)
            .optimizer(self.optimizer)
            .normalization(self.normalize)
            .layers(&self.layers);
        let question = if self.method.is_tracin() { question.sketch_errors() } else { question };
        let question = if self.checkpoints { question.sweeps() } else { question };
        let question = match self.part.part {
            Some(share) => question.share(share),
            None => question,
        };
        match (self.id, self.ids.as_slice(), self.class) {
            (Some(id), _, _) => question.id(id),
            (_, [_, ..], _) => question.ids(self.ids.iter().copied()).mean(),
            (_, _, Some(label)) => question.label(label).mean(),
            _ if self.mean => question.mean(),
            _ => question,
        }
    }
}
