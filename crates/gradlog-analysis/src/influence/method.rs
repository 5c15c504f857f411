//! The methods beside TracIn, their settings, and what an answer by one of them is made of. `curvature/` computes them.

use std::fmt;

/// By which method influence is estimated. All of them: positive helped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Method {
    /// `(w_z/N)·g_z'ᵀ (H + λI)⁻¹ ḡ_z` (Koh and Liang 2017, arXiv 1703.04730, §2.1): by how much the probe's loss would
    /// rise, were `z` not among the `N` examples and the model trained to its minimum again.
    ///
    /// `ḡ_z` is the mean gradient of `z` over its visits inside the window (the last epoch is the natural one), `H`
    /// the mean of `g gᵀ` over the rows of the chosen [`Curvature`], and `g_z'` the probe's gradient nearest to
    /// the window's end.
    ///
    /// The objective is `(1/N) Σ_i w_i ℓ_i`, with a mean of 1 over the weights. Each visit weighs `κ = c·B`, its
    /// coefficient in the loss times the visits of its step, and `κ = c` if the loss is a sum over its batch. So
    /// weights of classes and numbers of tokens count, and a short last batch does not. `w_i` is the sum of `κ` over
    /// the visits of `i`, relative to the mean: an example that is drawn three times as often weighs three times as
    /// much. All means are over visits by `κ`: the score is `Σ_v κ_v·g_z'ᵀ (H + λI)⁻¹ g_v / Σ κ`, with the visits `v`
    /// of `z` above and all below, and `H = Σ κ g gᵀ / Σ κ`. An absolute `λ` is the weight of `½‖w‖²` beside this
    /// objective, so relative to the mean weight of the loss. Of visits of a negative weight the curvature knows
    /// nothing.
    /// The paper's `H` is the Hessian at the minimum; with the visits' own gradients it is the
    /// empirical Fisher, which shrinks as the model fits.
    ///
    /// With [`Normalization::Relatif`](crate::Normalization::Relatif) it is ℓ-RelatIF (Barshan et al. 2020, arXiv
    /// 2003.11630): the score divided by `√(ḡ_zᵀ (H + λI)⁻¹ ḡ_z)`, the root of the example's self-influence under the
    /// same inverse. The sign stays. An example whose gradients are 0 scores 0. A cosine in the metric of the
    /// inverse would divide by a number of the probe's besides, and leave the order of the examples as it is.
    InfluenceFunction,
    /// As [`Method::InfluenceFunction`], with a curvature that is diagonal in the eigenbasis of Kronecker factors,
    /// layer by layer (EK-FAC; George et al. 2018, arXiv 1806.03884; Grosse et al. 2023, arXiv 2308.03296, §2.2
    /// and §3.1).
    ///
    /// For a layer with the input `a` (with a trailing 1 for a bias) and the gradient `δ` of the loss by its output:
    ///
    /// ```text
    /// A = E[a aᵀ] = V diag Vᵀ      S = E[δ δᵀ] = U diag Uᵀ      Λ_ij = E[(u_iᵀδ)² (v_jᵀa)²]
    /// score += Σ_ij (u_iᵀδ')(v_jᵀa') · (u_iᵀδ)(v_jᵀa) / (Λ_ij + λ)
    /// ```
    ///
    /// Expectations are over the rows of the chosen [`Curvature`], means over visits and weights as for
    /// [`Method::InfluenceFunction`]: the scores are those of kronfluence's `ekfac` divided by the number of examples.
    /// A relative damping is in means of `Λ`, layer by layer; kronfluence's default is 0.1 of it. The papers' Fisher
    /// matrix has labels sampled from the model, to which a recorded Gauss-Newton matrix comes closest.
    ///
    /// It needs both sides of a gradient, which the log has for layers with one position an example. The others are
    /// folded together into one vector: its own curvature matrix is inverted, as one more layer. A side that was
    /// projected when it was recorded, or that is folded here, has the factor of its projection.
    /// [`EstimateDetails::kronecker`] counts these layers. What rounding to signs adds to factors and eigenvalues is
    /// taken off.
    Ekfac,
    /// As [`Method::InfluenceFunction`], with the mean and the inverse exchanged (DataInf; Kwon et al. 2024, arXiv
    /// 2310.00902, eq. 5): `H⁻¹v ≈ (1/m)·Σ_i (λI + g_i g_iᵀ)⁻¹ v = (1/(λm))·Σ_i (v − (g_i·v)/(λ + ‖g_i‖²)·g_i)`. No
    /// matrix is held or inverted. Meant for many layers, each by itself. The mean is by `κ`, as that of `H`.
    DataInf,
    /// TRAK's estimator (Park et al. 2023, arXiv 2303.14186, §3) over the epochs of one run where the paper takes
    /// models of many: `[mean_m (1 − p_m(z))]·[mean_m φ_m(z')ᵀ (Φ_mᵀΦ_m + λI)⁻¹ φ_m(z)]`.
    ///
    /// `φ` is the gradient of the log-odds `f = log(p/(1 − p))` of the label, which is `−g/(1 − p)`, and `Φ_m` has
    /// those of the visits of epoch `m`. It needs a cross entropy over classes. The score is by how much `z`
    /// raises the probe's `f`.
    ///
    /// The paper has no weights of examples. Its Newton step with those of [`Method::InfluenceFunction`] has
    /// `Φ_mᵀWΦ_m`, and in each epoch the sum of `κ·φ` over the visits of `z`. Where `p` rounds to 1 the gradient of
    /// the log-odds is not known: it counts as 0, in
    /// [`LeftOut::without_log_odds`](crate::LeftOut::without_log_odds).
    ///
    /// Where vectors of the asked length would be folded, and the visits of each epoch are few enough, the inverse is
    /// solved by examples, `(ΦᵀΦ + λI)⁻¹Φᵀ = Φᵀ(ΦΦᵀ + λI)⁻¹`, with whole gradients. That needs rows without signs: the
    /// layers of an MLP. A relative damping still goes by the asked length.
    ///
    /// The paper's last step is a soft threshold λ on these scores, `sign(τ)·max(|τ| − λ, 0)`, with λ chosen on
    /// trained subsets: the question's soft threshold, which is left out if nothing is said. It
    /// makes 0 of what is small; nothing changes its place among the rest.
    Trak,
    /// The recorded steps unrolled: to first order, by how much the probe's loss at the end would rise if `z` had been
    /// left out of every step of this very run.
    ///
    /// For SGD with momentum, `v ← μv + clip·Σ c_i g_i + λw`, `w ← w − ηv`, walked from the last step to the first,
    /// with `a = g_z'(w_T)` and `b = 0` to begin with:
    ///
    /// ```text
    /// b ← b − η_t·a                                  b is the derivative of the final loss by v
    /// score_i −= clip_t·c_i·⟨g_i, b⟩                   for the visits i of the step
    /// a ← a + clip_t·H_t b + λ_t·b                     H_t = Σ_i c_i·∇²ℓ_i, by the curvature rows
    /// b ← μ_t·b
    /// ```
    ///
    /// With `μ = 0` and the visits' own gradients as curvature it is DVEmb (Wang et al. 2024, arXiv 2412.09538). The
    /// probe is taken at its last time, and visits from then on do not count.
    ///
    /// With Nesterov momentum, `w ← w − η(d + μv)` with `d = clip·Σ c_i g_i + λw`: then `b ← b − η_t μ_t·a`, and
    /// `b − η_t·a` stands for `b` in the two lines of the score and of `a`. Dampening is not modeled.
    ///
    /// With AdamW, or Adam without weight decay, the derivatives by both moments go along. With `G = clip·Σ c_i g_i`,
    /// `D = 1/(√v̂ + ε)` and `S = m̂/(2√v̂(√v̂ + ε)²)`, and `u = s = 0` to begin with:
    ///
    /// ```text
    /// u ← u − η_t·D a/(1 − β₁ᵗ)                      u is the derivative of the final loss by m
    /// s ← s + η_t·S a/(1 − β₂ᵗ)                      s is that by v
    /// q = (1 − β₁)·u + 2(1 − β₂)·G s                 score_i −= clip_t·c_i·⟨g_i, q⟩
    /// a ← (1 − η_t λ_t)·a + clip_t·H_t q
    /// u ← β₁·u,  s ← β₂·s
    /// ```
    ///
    /// The moments are made again from the recorded visits, so the recording must begin with the optimizer's first
    /// step. Where a number of the vectors stands for several parameters, because layers are folded or longer than the
    /// vectors, the mean of their second moments is taken for each. A layer that took no part in a step counts as one
    /// with the gradient 0.
    ///
    /// Parameter groups count with their own learning rates and weight decays, where no two groups share a number.
    /// Parameters that share one have the weight decay of the largest of them. Several workers count as one recorder.
    Adjoint,
}

impl Method {
    /// Every method.
    pub const ALL: [Method; 5] =
        [Method::InfluenceFunction, Method::Ekfac, Method::DataInf, Method::Trak, Method::Adjoint];

    /// Its short name, which `FromStr` reads.
    pub fn name(self) -> &'static str {
        match self {
            Method::InfluenceFunction => "if",
            Method::Ekfac => "ekfac",
            Method::DataInf => "datainf",
            Method::Trak => "trak",
            Method::Adjoint => "adjoint",
        }
    }

    /// Its full name, with its source.
    pub fn title(self) -> &'static str {
        match self {
            Method::InfluenceFunction => "influence functions (Koh and Liang 2017)",
            Method::Ekfac => "EK-FAC (George et al. 2018, Grosse et al. 2023)",
            Method::DataInf => "DataInf (Kwon et al. 2024)",
            Method::Trak => "TRAK's estimator (Park et al. 2023), one run",
            Method::Adjoint => "adjoint of the recorded steps",
        }
    }

    /// How long flat vectors are if nothing is said. An inverse costs the cube of it, the others go by its first power,
    /// and the adjoint needs it: what a fold adds to the curvature is multiplied from step to step.
    /// [`EstimateDetails::growth`] of the CNN on the shipped digits (474 steps, a rate of 0.1) is 47 at 1,024 numbers,
    /// 3.3 at 16,384 and 5.3 at 65,536; 1.01 layer by layer.
    pub fn default_length(self) -> usize {
        match self {
            Method::InfluenceFunction | Method::Trak => 2048,
            Method::Ekfac => 4096,
            Method::DataInf | Method::Adjoint => 16_384,
        }
    }

    /// One line: what it is.
    pub fn description(self) -> &'static str {
        match self {
            Method::InfluenceFunction => {
                "influence functions (Koh and Liang 2017): damped inverse of the curvature, at the visits of the window; take the last epoch"
            }
            Method::Ekfac => {
                "EK-FAC (Grosse et al. 2023): influence functions by Kronecker factors of each layer, as kronfluence has them; take the last epoch"
            }
            Method::DataInf => "DataInf (Kwon et al. 2024): mean and inverse exchanged; take it by layer, at the last epoch",
            Method::Trak => "TRAK's estimator (Park et al. 2023) over the epochs of this one run; for classifiers",
            Method::Adjoint => {
                "the recorded steps of SGD or Adam unrolled backwards, with momentum and weight decay; what leaving the example out of this run would do"
            }
        }
    }
}

named!(Method, "the method");

/// What is added to each eigenvalue of a curvature before it is inverted.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Damping {
    /// So many times the mean eigenvalue of the block's curvature. For DataInf the mean is over all numbers of the
    /// recorded gradient, as in its paper.
    Relative(f64),
    /// So much.
    Absolute(f64),
}

impl Damping {
    /// The number that was given.
    pub fn value(self) -> f64 {
        match self {
            Damping::Relative(value) | Damping::Absolute(value) => value,
        }
    }
}

impl fmt::Display for Damping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damping::Relative(factor) => write!(f, "{factor} of the mean eigenvalue"),
            Damping::Absolute(lambda) => write!(f, "{lambda}"),
        }
    }
}

/// Whose gradients make the curvature `H`, as a mean of `g gᵀ`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Curvature {
    /// The visits' own: the empirical Fisher.
    #[default]
    Visits,
    /// Those of a set: rows that were recorded to be curvature by `Recorder::curvature`, with the weights that they
    /// were given, `H = Σ w g gᵀ / Σ w`: for a cross entropy the Gauss-Newton matrix. If they are of training
    /// examples, each has the weight of its example in the loss besides, but not its number of visits. The basis
    /// of an answer says where weights are left out. Probes of the set count with weight 1. The adjoint takes for
    /// each step those of the nearest earlier time.
    Set(String),
    /// None: the adjoint then knows momentum and schedule alone.
    Nothing,
}

impl fmt::Display for Curvature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Curvature::Visits => f.write_str("empirical Fisher of the visits"),
            Curvature::Set(name) => write!(f, "curvature rows of the probe set `{name}`"),
            Curvature::Nothing => f.write_str("no curvature"),
        }
    }
}

/// What an answer is made of.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct EstimateDetails {
    /// By which method.
    pub method: Method,
    /// Whose gradients made the curvature.
    pub curvature: Curvature,
    /// How many gradients made the curvature. For the adjoint, those of all steps.
    pub curvature_rows: u64,
    /// Numbers of a flat vector.
    pub length: usize,
    /// Whether they are the recorded gradients number for number, or folded.
    pub exact: bool,
    /// Whether each layer was taken by itself.
    pub by_layer: bool,
    /// The damping that was asked for.
    pub damping: Option<Damping>,
    /// For EK-FAC, which layers have factors.
    pub kronecker: Option<KroneckerDetails>,
    /// For TRAK, the soft threshold of the scores, if there was one.
    pub soft_threshold: Option<f64>,
    /// What that came to, block by block. For TRAK, the mean over the epochs.
    pub lambdas: Vec<f64>,
    /// For TRAK, how many epochs stand for models.
    pub epochs: u64,
    /// For TRAK, whether the inverse was solved by examples, with whole gradients. [`EstimateDetails::length`] is then
    /// what a relative damping goes by.
    pub solved_by_examples: bool,
    /// For the adjoint, how many steps were unrolled.
    pub steps: u64,
    /// Of these, steps without a record of momentum and weight decay, taken for 0.
    pub steps_without_record: u64,
    /// For the adjoint under Adam, steps without a visit in the log: their gradient is taken as 0.
    pub steps_without_visits: u64,
    /// Steps of which the optimizer did not tell the momentum: the adjoint takes it as 0.
    pub steps_without_momentum: u64,
    /// Steps of which the optimizer did not tell the weight decay: the adjoint takes it as 0.
    pub steps_without_weight_decay: u64,
    /// Steps with momentum of which the optimizer did not tell its count. The adjoint then takes the velocity to go
    /// on.
    pub steps_without_count: u64,
    /// The largest momentum that these steps were recorded with.
    pub momentum: f32,
    /// The largest weight decay.
    pub weight_decay: f32,
    /// For the adjoint, how many times longer the derivative of a probe's final loss by the weights became on the way
    /// back than it had been at some point before: the largest over probes and steps. Without curvature and weight
    /// decay it is 1, and with the curvature of a training that was stable not much more. Beyond
    /// [`EstimateDetails::GROWTH_MAX`] the scores are mostly of what grew: the curvature is too large for the learning
    /// rate, as a Fisher matrix of few or of folded gradients is.
    pub growth: f64,
    /// For the adjoint, visits of the run that were dropped while recording: what they did is not unrolled.
    pub dropped: u64,
}

impl EstimateDetails {
    /// Above this [`EstimateDetails::growth`] the adjoint's scores are not to be believed. Where they agreed with
    /// retraining it was 1.0; where a few directions drowned them, at least 1.8 (`benches/results`, the audit). Below
    /// it they may still be wrong: a training that no derivative predicts had 1.1 to 1.5.
    pub const GROWTH_MAX: f64 = 1.5;
}

impl fmt::Display for EstimateDetails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.exact { "as recorded" } else { "folded" };
        let blocks = if self.by_layer { ", layer by layer" } else { "" };
        write!(f, "{}, {}", self.method.title(), self.curvature)?;
        match self.method {
            Method::Adjoint => {
                write!(f, " over {} steps", self.steps)?;
                if self.steps_without_visits > 0 {
                    write!(f, " ({} without visits, whose gradient is taken as 0)", self.steps_without_visits)?;
                }
            }
            Method::Trak => write!(f, " of {} epochs, {} rows", self.epochs, self.curvature_rows)?,
            Method::InfluenceFunction | Method::Ekfac | Method::DataInf => write!(f, ", {} rows", self.curvature_rows)?,
        }
        if let Some(damping) = self.damping {
            write!(f, ", damping {damping}")?;
        }
        if let Some(threshold) = self.soft_threshold {
            write!(f, ", soft threshold {threshold}")?;
        }
        if self.solved_by_examples {
            f.write_str(", whole gradients as recorded, solved by examples")?;
        } else {
            write!(f, ", gradients {how} in {} numbers{blocks}", self.length)?;
        }
        self.kronecker.map_or(Ok(()), |kronecker| write!(f, ", {kronecker}"))
    }
}

/// For EK-FAC, which layers have factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct KroneckerDetails {
    /// Layers that have Kronecker factors.
    pub layers: u64,
    /// Of these, layers of which a side was projected to fewer numbers, when it was recorded or for this answer. Their
    /// factors are those of the projection.
    pub lossy_layers: u64,
    /// Of these, layers of which a side of the visits was stored as signs. What rounding adds stays in the fitted
    /// eigenvalues: it is in the visits that are scored. At small dampings such scores are far from those of exact
    /// sides (a rank correlation of 0.5 at a tenth of the mean eigenvalue, 0.9 at a hundred times the mean).
    pub sign_layers: u64,
    /// Layers that were folded together into one vector when they were recorded, and have no factors: the curvature
    /// matrix of this vector is inverted.
    pub folded_layers: u64,
}

impl fmt::Display for KroneckerDetails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layers = |count: u64| if count == 1 { "1 layer".into() } else { format!("{count} layers") };
        write!(f, "Kronecker factors of {}", layers(self.layers))?;
        let kinds = [(self.lossy_layers, "with a projected side"), (self.sign_layers, "with a side stored as signs")];
        let kinds: Vec<String> =
            kinds.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        if !kinds.is_empty() {
            write!(f, " ({})", kinds.join(", "))?;
        }
        if self.folded_layers > 0 {
            write!(f, ", the inverse matrix of {} folded into one vector", layers(self.folded_layers))?;
        }
        Ok(())
    }
}
