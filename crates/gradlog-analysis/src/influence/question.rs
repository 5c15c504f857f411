//! What is asked: which probes, which visits, which layers, and how loud examples are weighed.

use crate::{ExampleShare, Progress, Window};

/// Which probe time stands for a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum ProbeTime {
    /// The nearest that is not later. Visits before the first probe time are left out and counted.
    #[default]
    Earlier,
    /// The nearest, earlier or later; of two equally near, the earlier.
    Nearest,
}

/// Which probes of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Probes {
    /// All of them.
    All,
    /// Those with these ids. An id that is said twice counts once.
    Ids(Vec<u64>),
    /// Those with this label at the last time at which they were taken.
    Label(u32),
}

/// What the steps are taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OptimizerChoice {
    /// As the optimizer told them, as far as TracIn can follow: steps of Adam and AdamW if the probes were recorded
    /// with its second moments. Other steps as plain SGD.
    #[default]
    Recorded,
    /// As steps of plain SGD.
    PlainSgd,
}

impl OptimizerChoice {
    /// All of them.
    pub const ALL: [OptimizerChoice; 2] = [OptimizerChoice::Recorded, OptimizerChoice::PlainSgd];

    /// `recorded`, `sgd`.
    pub fn name(self) -> &'static str {
        match self {
            OptimizerChoice::Recorded => "recorded",
            OptimizerChoice::PlainSgd => "sgd",
        }
    }
}

named!(OptimizerChoice, "the optimizer");

/// What a score is divided by, so that the examples with the largest gradients do not lead every list.
///
/// With `w_t = η_t·clip_t·c_t` (on sweeps `η_t`), and norms those of the layers that count:
///
/// ```text
/// None:     Σ_t w_t·⟨g_z(w_t), g_z'(w_c(t))⟩
/// Cosine:   Σ_t w_t·⟨g_z(w_t), g_z'(w_c(t))⟩ / (‖g_z(w_t)‖·‖g_z'(w_c(t))‖)
/// Relatif:  Σ_t w_t·⟨g_z(w_t), g_z'(w_c(t))⟩ / √(Σ_t |w_t|·‖g_z(w_t)‖²)
/// ```
///
/// Norms are the recorded ones, which carry no sketch error, where all layers count; else those of the sketches, which
/// are estimates where a layer was projected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum Normalization {
    /// TracIn itself.
    #[default]
    None,
    /// Each gradient at unit length: of each visit, and of the probe at each of its times. A gradient of zero has no
    /// direction and adds nothing. What is left is agreement of direction alone, so self-influence says nothing
    /// any more: the cosine of a gradient with itself is 1 for every example, the mislabeled ones with it.
    Cosine,
    /// Divided by the root of the example's own self-influence over the same visits: what it did to the probe for each
    /// unit that it did to itself. It is ℓ-RelatIF (Barshan et al. 2020, arXiv 2003.11630) in TracIn's metric,
    /// where a dot product of gradients stands in the place of the one with the inverse Hessian. Examples without
    /// any self-influence score 0. Influence functions ([`Method::InfluenceFunction`](crate::Method)) have the
    /// inverse, and divide by `√(ḡ_zᵀ (H + λI)⁻¹ ḡ_z)`, as the paper does.
    Relatif,
}

impl Normalization {
    /// All of them.
    pub const ALL: [Normalization; 3] = [Normalization::None, Normalization::Cosine, Normalization::Relatif];

    /// `none`, `cosine`, `relatif`.
    pub fn name(self) -> &'static str {
        match self {
            Normalization::None => "none",
            Normalization::Cosine => "cosine",
            Normalization::Relatif => "relatif",
        }
    }

    /// What it does, in a line.
    pub fn description(self) -> &'static str {
        match self {
            Normalization::None => "the scores themselves: what the steps took off the probe's loss, to first order",
            Normalization::Cosine => {
                "each visit's and each probe's gradient at unit length: directions alone (the self-influence of every \
                 example is then the same)"
            }
            Normalization::Relatif => {
                "divided by the root of the example's own self-influence, so that loud examples do not lead every list \
                 (Barshan et al. 2020)"
            }
        }
    }
}

named!(Normalization, "the normalization");

/// Asks which training examples taught the model its answer to probes: TracIn (Pruthi et al. 2020, arXiv 2002.08484,
/// §3).
///
/// ```text
/// TracIn(z, z') = Σ_t η_t·clip_t·c_t·⟨g_z(w_t), g_z'(w_c(t))⟩
/// ```
///
/// over the visits `t` of the example `z` inside the window: `η_t` the learning rate of the step, `clip_t` the factor
/// that the whole gradient was multiplied by, `c_t` the weight of `z` in the loss (`1/B` under a mean), `c(t)` the
/// probe time that stands for step `t`. A positive score helped: the step lowered the probe's loss. The unit is that of
/// the loss.
///
/// **Adam.** If all steps were those of Adam or AdamW and the probes were recorded with its second moments, the metric
/// is Adam's, and the rate is that at which a gradient acts through the first moment:
///
/// ```text
/// TracIn(z, z') = Σ_t η_eff(t)·clip_t·c_t·⟨g_z(w_t), D_c g_z'(w_c(t))⟩,   D_c = 1/(√v̂_c + ε)
/// η_eff(t) = Σ_{s≥t} η_s (1−β₁) β₁^(s−t) / (1−β₁^s)
/// ```
///
/// `v̂_c` is that of the probe's time, which stands for the one of the step: it forgets in `1/(1−β₂)` steps. Visits
/// before the first moments take the first. [`optimizer`](Self::optimizer) chooses plain SGD instead.
/// [`Normalization::Relatif`] then divides by the root of the self-influence in Adam's metric, `Σ_t
/// |η_eff(t)·clip_t·c_t|·‖D^{1/2} g_z(w_t)‖²`, which the recorder measures of all layers together. For single layers,
/// and in a run without these norms, it takes the steps as plain SGD.
///
/// [`sweeps`](Self::sweeps) takes the sweeps at checkpoints instead of the visits: TracInCP,
/// `Σ_i η_i·⟨g_z(w_i), g_z'(w_i)⟩` over the checkpoints `i` at which the probe has a record too.
///
/// ```no_run
/// use gradlog_analysis::{InfluenceQuestion, Run};
///
/// let run = Run::open("runs/mnist")?;
/// let influence = InfluenceQuestion::new("test").id(3).sketch_errors().compute(&run)?;
/// for row in influence.proponents(0, 10) {
///     println!("{} {}", influence.rows[row].example, influence.score(row, 0));
/// }
/// # Ok::<(), gradlog_analysis::AnalysisError>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct InfluenceQuestion {
    /// Name of the probe set.
    pub(crate) set: String,
    /// Which of its probes.
    pub(crate) probes: Probes,
    /// Whether there is one column of scores for all these probes together.
    pub(crate) group: bool,
    /// Which visits count, or which sweeps. Probes count whenever they were taken.
    pub(crate) window: Window,
    /// Which probe time stands for a step.
    pub(crate) time: ProbeTime,
    /// What the steps are taken for.
    pub(crate) optimizer: OptimizerChoice,
    /// What the scores are divided by.
    pub(crate) normalization: Normalization,
    /// Names of the layers whose gradients count; empty for all.
    pub(crate) layers: Vec<String>,
    /// Whether each score has an error bar.
    pub(crate) sketch_errors: bool,
    /// The share of the examples that scores are wanted of.
    pub(crate) share: Option<ExampleShare>,
    pub(crate) progress: Progress,
}

window_options!(InfluenceQuestion);
source_options!(InfluenceQuestion);
share_options!(InfluenceQuestion);
progress_options!(InfluenceQuestion);

impl InfluenceQuestion {
    /// The influence on every probe of a set, over the whole run: a column of scores for each probe.
    pub fn new(set: impl Into<String>) -> Self {
        Self {
            set: set.into(),
            probes: Probes::All,
            group: false,
            window: Window::everything(),
            time: ProbeTime::Earlier,
            optimizer: OptimizerChoice::Recorded,
            normalization: Normalization::None,
            layers: Vec::new(),
            sketch_errors: false,
            share: None,
            progress: Progress::default(),
        }
    }

    /// Asks about the probe with this id alone. Of `id`, `ids` and `label` the last call counts.
    #[must_use]
    pub fn id(self, id: u64) -> Self {
        self.ids([id])
    }

    /// Asks about the probes with these ids. An id that is said twice counts once. Of `id`, `ids` and `label` the last
    /// call counts.
    #[must_use]
    pub fn ids(mut self, ids: impl IntoIterator<Item = u64>) -> Self {
        self.probes = Probes::Ids(ids.into_iter().collect());
        self
    }

    /// Asks about the probes with this label at the last time at which they were taken. Of `id`, `ids` and `label` the
    /// last call counts.
    #[must_use]
    pub fn label(mut self, label: u32) -> Self {
        self.probes = Probes::Label(label);
        self
    }

    /// Gives one column of scores for all these probes together: the mean of their scores, which is the influence on
    /// the mean of their losses. With [`Normalization::Cosine`] every probe has the same say in it, however steep
    /// its loss. Where a probe has no time for a visit, the two add nothing to the mean.
    #[must_use]
    pub fn mean(mut self) -> Self {
        self.group = true;
        self
    }

    /// Counts the gradients of these layers alone. Layers that are folded share one vector and can only be named
    /// together, or by the name `folded`.
    #[must_use]
    pub fn layers<Name: Into<String>>(mut self, layers: impl IntoIterator<Item = Name>) -> Self {
        self.layers = layers.into_iter().map(Into::into).collect();
        self
    }

    /// What the scores are divided by.
    #[must_use]
    pub fn normalization(mut self, normalization: Normalization) -> Self {
        self.normalization = normalization;
        self
    }

    /// What the steps are taken for.
    #[must_use]
    pub fn optimizer(mut self, optimizer: OptimizerChoice) -> Self {
        self.optimizer = optimizer;
        self
    }

    /// Which probes it is about, in words.
    pub(crate) fn probes_in_words(&self) -> String {
        let which = match &self.probes {
            Probes::All => "all".to_owned(),
            Probes::Ids(ids) => ids.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
            Probes::Label(label) => format!("of label {label}"),
        };
        format!("{which}{}", if self.group { ", their mean" } else { "" })
    }

    /// Which probe time stands for a step.
    #[must_use]
    pub fn probe_time(mut self, time: ProbeTime) -> Self {
        self.time = time;
        self
    }

    /// Gives an error bar for each score, which costs about as much again:
    /// [`Influence::sketch_errors`](crate::Influence::sketch_errors).
    #[must_use]
    pub fn sketch_errors(mut self) -> Self {
        self.sketch_errors = true;
        self
    }
}
