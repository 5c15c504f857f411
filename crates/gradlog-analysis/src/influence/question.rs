//! What is asked: which probes, which visits, which layers, and how loud examples are weighed.

use crate::{Source, Window};

/// Which probe time stands for a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProbeTime {
    /// The nearest that is not later. Visits before the first probe time are left out and counted.
    #[default]
    Earlier,
    /// The nearest, earlier or later; of two equally near, the earlier.
    Nearest,
}

/// Which probes of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probes {
    /// All of them.
    All,
    /// Those with these ids. An id that is said twice counts once.
    Ids(Vec<u64>),
    /// Those with this label at the last time at which they were taken.
    Label(u32),
}

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
/// Norms are the recorded ones, which carry no sketch error, where all layers count; else those of the sketches, which are
/// estimates where a layer was projected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Normalisation {
    /// TracIn itself.
    #[default]
    None,
    /// Each gradient at unit length: of each visit, and of the probe at each of its times. A gradient of zero has no direction
    /// and adds nothing. What is left is agreement of direction alone, so self-influence says nothing any more: the cosine of a
    /// gradient with itself is 1 for every example, the mislabelled ones with it.
    Cosine,
    /// Divided by the root of the example's own self-influence over the same visits: what it did to the probe for each unit
    /// that it did to itself. It is ℓ-RelatIF (Barshan et al. 2020, arXiv 2003.11630) in TracIn's metric, where a dot
    /// product of gradients stands in the place of the one with the inverse Hessian. Examples without any self-influence
    /// score 0. Influence functions ([`Method::InfluenceFunction`](crate::Method)) have the inverse, and divide by
    /// `√(ḡ_zᵀ (H + λI)⁻¹ ḡ_z)`, as the paper does.
    Relatif,
}

impl Normalisation {
    /// All of them.
    pub const ALL: [Normalisation; 3] = [Normalisation::None, Normalisation::Cosine, Normalisation::Relatif];

    /// `none`, `cosine`, `relatif`.
    pub fn name(self) -> &'static str {
        match self {
            Normalisation::None => "none",
            Normalisation::Cosine => "cosine",
            Normalisation::Relatif => "relatif",
        }
    }

    /// What it does, in a line.
    pub fn about(self) -> &'static str {
        match self {
            Normalisation::None => "the scores themselves: what the steps took off the probe's loss, to first order",
            Normalisation::Cosine => {
                "each visit's and each probe's gradient at unit length: directions alone (the self-influence of every \
                 example is then the same)"
            }
            Normalisation::Relatif => {
                "divided by the root of the example's own self-influence, so that loud examples do not lead every list \
                 (Barshan et al. 2020)"
            }
        }
    }
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Name of the probe set.
    pub set: String,
    /// Which of its probes.
    pub probes: Probes,
    /// One column of scores for all these probes together: the mean of their scores, which is the influence on the mean of
    /// their losses. With [`Normalisation::Cosine`] every probe has the same say in it, however steep its loss. Where a probe has
    /// no time for a visit, the two add nothing to the mean.
    pub group: bool,
    /// Which visits count, or which sweeps. Probes count whenever they were taken.
    pub window: Window,
    /// Which probe time stands for a step.
    pub time: ProbeTime,
    /// What the scores are divided by.
    pub normalise: Normalisation,
    /// Names of the layers whose gradients count; empty for all. Layers that are folded share one vector and can only be named
    /// together, or by the name `folded`.
    pub layers: Vec<String>,
}

impl Question {
    /// Who taught the model its answer to example `id` of the probe set, over the whole run.
    pub fn one(set: impl Into<String>, id: u64) -> Self {
        Self { probes: Probes::Ids(vec![id]), ..Self::all(set) }
    }

    /// The same over sweeps at checkpoints: TracInCP.
    pub fn at_checkpoints(self) -> Self {
        Self { window: Window { source: Source::Sweeps, ..self.window }, ..self }
    }

    /// The same of every probe in the set.
    pub fn all(set: impl Into<String>) -> Self {
        Self {
            set: set.into(),
            probes: Probes::All,
            group: false,
            window: Window::everything(),
            time: ProbeTime::Earlier,
            normalise: Normalisation::None,
            layers: Vec::new(),
        }
    }

    /// The same of all these probes together.
    pub fn together(self) -> Self {
        Self { group: true, ..self }
    }
}
