//! Flat vectors: the gradients of a run as plain rows of f32, for whatever works on vectors: neighbors, clusters, a
//! Fisher matrix, other tools.
//!
//! A gradient is stored as factors of layers and as folded sketches, whose dot products are products of dot products.
//! Here each becomes one vector of a chosen [`Shape`], with `E⟨v, v'⟩ = ⟨g, g'⟩`, and exactly so where the recorded
//! gradient has no more numbers than were asked for. What is stored as signs is the exception: see `lengths.rs`.

pub(crate) mod flatten;
pub(crate) mod lengths;
pub(crate) mod part;
#[cfg(feature = "curvature")]
pub(crate) mod places;
#[cfg(feature = "curvature")]
pub(crate) mod sides;
#[cfg(test)]
mod tests;
pub(crate) mod walk;

use crate::error::no_gradients;
use crate::rows::basis::Uses;
use crate::rows::gradient::Layout;
use crate::rows::layer_rates::LayerRates;
use crate::{AnalysisError, Basis, BasisRows, LeftOut, Progress, Window};
pub(crate) use flatten::Shape;
pub use flatten::VectorBlock;
use flatten::{Flat, Flattener};
use gradlog_format::log::BlockKind;
use gradlog_format::run::{Damage, Run};
use gradlog_kernels::simd::squared_norm_f64;
use lengths::Lengths;
use std::collections::HashMap;
use std::ops::Range;
use walk::{Visit, Walk};

/// What a vector stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Combine {
    /// Each visit has a vector of its own, its gradient `g(w_t)`.
    Visits,
    /// Each example has one: the mean of `g(w_t)` over its visits.
    #[default]
    Mean,
    /// Each example has one: `Σ_t η_t·clip_t·c_t·g(w_t)`, what its own steps took off the weights under plain SGD.
    /// Layers with learning rates of their own have these.
    Applied,
}

/// Asks for the gradients of a run as flat vectors `v` of f32, with `E⟨v, v'⟩ = ⟨g, g'⟩` over the seeds of the fold.
///
/// A gradient that has no more numbers than were asked for stays as it was recorded, and its dot products lose nothing.
/// A longer one is folded: its factored and its folded layers each to numbers of their own.
///
/// # Signs
/// By default the folded layers of a visit are recorded as signs. Of these,
///
/// * `⟨v, v'⟩` of two rows is `‖g‖‖g'‖·arcsin ρ` in the folded layers, `ρ` the cosine of the two gradients there. That
///   is within 5 % of the dot product up to `ρ = 0.5`, and 57 % too large at `ρ = 1`.
/// * `‖v‖²` of a single visit is π/2 times too large in the folded layers. [`FlatVectors::norms`] has the lengths of
///   the gradients, so the cosine of two rows is `⟨v, v'⟩ / (norm·norm')`.
///
/// [`UnitVectors`](crate::UnitVectors) corrects both. Exact and 8-bit sketches need no correction.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct VectorQuestion {
    pub(crate) shape: Shape,
    pub(crate) combine: Combine,
    pub(crate) bytes_max: u64,
    pub(crate) window: Window,
    progress: Progress,
}

window_options!(VectorQuestion);
progress_options!(VectorQuestion);

impl VectorQuestion {
    /// The longest block that can be asked for.
    pub const LENGTH_MAX: usize = Shape::LENGTH_MAX;

    /// The mean gradient of each example over the whole run, in at most `length` numbers and 4 GiB for all of them.
    pub fn new(length: usize) -> Self {
        Self {
            shape: Shape::whole(length),
            combine: Combine::Mean,
            bytes_max: 4 << 30,
            window: Window::default(),
            progress: Progress::default(),
        }
    }

    /// One block of at most `length` numbers for each factored layer and one for all folded ones, instead of one for
    /// the whole gradient.
    #[must_use]
    pub fn by_layer(mut self) -> Self {
        self.shape.by_layer = true;
        self
    }

    /// What a vector stands for; by default the mean over an example's visits.
    #[must_use]
    pub fn combine(mut self, combine: Combine) -> Self {
        self.combine = combine;
        self
    }

    /// The most bytes that the vectors may take; more is an error.
    #[must_use]
    pub fn bytes_max(mut self, bytes_max: u64) -> Self {
        self.bytes_max = bytes_max;
        self
    }

    /// Flat vectors of the examples or visits of a run, in the order of their first visits.
    ///
    /// # Errors
    /// [`AnalysisError::Missing`] if no visit inside the window has a gradient that can be used;
    /// [`AnalysisError::TooLarge`] if the vectors pass [`bytes_max`](Self::bytes_max);
    /// [`AnalysisError::OutOfRange`] if a block is to have 0 or too many numbers; [`AnalysisError::OnlyVisits`] for
    /// a window on sweeps; [`AnalysisError::OutsideRun`] for one without visits; [`AnalysisError::Read`] if the
    /// file system refuses. Damage is not an error.
    ///
    /// # Cost
    /// One pass over the gradients. For each visit and factored layer one addition for each number of its outer product
    /// whose `δ_j` is not 0. Memory: the result, `4·length` bytes a vector, and a few blocks.
    pub fn compute(&self, run: &Run) -> Result<FlatVectors, AnalysisError> {
        self.window.refuse_sweeps("a set of flat vectors")?;
        check_shape(self.shape)?;
        self.window.refuse_outside(&[run])?;
        flatten_visits(run, self)
    }
}

/// Flat vectors of examples or of their visits.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct FlatVectors {
    /// What a vector stands for.
    pub combine: Combine,
    /// The blocks of each vector, one after another.
    pub blocks: Vec<VectorBlock>,
    /// Of each vector, the example.
    pub examples: Vec<u64>,
    /// Of each vector, the step of its visit, or of the example's last one.
    pub steps: Vec<u64>,
    /// Of each vector, how many visits it is made of.
    pub visits: Vec<u64>,
    /// Of each vector, the label at its last visit, if labels were recorded.
    pub labels: Vec<Option<u32>>,
    /// Numbers in a vector: those of its blocks.
    pub length: usize,
    /// `[vectors, length]`, row by row.
    pub values: Vec<f32>,
    /// What they rest on.
    pub basis: Basis,
    /// Of each vector, the length of the gradient that it stands for. It is that of the row, unless the row is made of
    /// signs, which are too long: see [`VectorQuestion`].
    pub norms: Vec<f64>,
    /// What is made of signs, if anything is.
    pub(crate) signs: Option<Signs>,
    /// What was left out, by the reason. The form of the layers is that of the first visits.
    pub left_out: LeftOut,
    /// Where the run stopped being readable, if it did; the vectors are then those of what came before.
    pub damage: Option<Damage>,
}

/// Which numbers of flat vectors are made of signs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Signs {
    /// Their places in each vector.
    pub places: Range<usize>,
    /// Of each vector, `Σ |w_t|·‖x_t‖` over the visits that it is made of: the length that products of two are divided
    /// by to have an angle. 0 for one that is not made of signs.
    pub norms: Vec<f64>,
    /// `[vectors, places]`: what the numbers kept apart add, which are no signs. Empty if no number is kept apart.
    pub apart: Vec<f32>,
}

impl Signs {
    /// What the numbers kept apart add to a vector, if there are any.
    pub(crate) fn apart(&self, position: usize) -> Option<&[f32]> {
        row(&self.apart, self.places.len(), position)
    }

    /// The signs of a vector without what the numbers kept apart add.
    pub(crate) fn alone(vector: &[f32], apart: Option<&[f32]>) -> Vec<f32> {
        match apart {
            Some(apart) => vector.iter().zip(apart).map(|(value, apart)| value - apart).collect(),
            None => vector.to_vec(),
        }
    }
}

fn row(values: &[f32], width: usize, position: usize) -> Option<&[f32]> {
    values.get(position * width..(position + 1) * width).filter(|row| !row.is_empty())
}

impl FlatVectors {
    /// The vector at a position.
    ///
    /// # Panics
    /// If there is no such vector.
    pub fn vector(&self, position: usize) -> &[f32] {
        &self.values[position * self.length..(position + 1) * self.length]
    }

    /// Whether the vectors hold the recorded gradients number for number.
    pub fn is_exact(&self) -> bool {
        self.blocks.iter().all(VectorBlock::is_exact)
    }

    /// What the vectors are, in words.
    pub fn variant(&self) -> String {
        let what = match self.combine {
            Combine::Visits => "gradients of single visits",
            Combine::Mean => "mean gradients over the visits of each example",
            Combine::Applied => "what each example's own steps took off the weights, as plain SGD",
        };
        let how = if self.is_exact() { "as recorded" } else { "folded" };
        format!("{what}, {} numbers, {how}", self.length)
    }
}

/// The layout of the first visits inside the window that have gradients.
pub(super) fn first_layout(run: &Run, window: &Window) -> Option<Layout> {
    run.scan()
        .filter(|block| block.kind() == Some(BlockKind::Visits) && window.touches(block))
        .map(|block| Layout::read(&block, run.manifest()))
        .find(|layout| !layout.is_empty())
}

/// Checks a length that a caller gave.
pub(super) fn check_shape(shape: Shape) -> Result<(), AnalysisError> {
    if (1..=Shape::LENGTH_MAX).contains(&shape.length) {
        return Ok(());
    }
    Err(AnalysisError::OutOfRange {
        what: "the length of flat vectors",
        given: shape.length.to_string(),
        range: format!("1 to {}", Shape::LENGTH_MAX),
    })
}

/// The length of the gradient that a vector stands for, whose folded layers are at `places`. `apart` is what numbers
/// kept apart add there.
fn norm(vector: &[f32], places: &Range<usize>, apart: Option<&[f32]>, lengths: &Lengths) -> f64 {
    let folded = squared_norm_f64(&vector[places.clone()]);
    let signs = apart.map_or(folded, |_| squared_norm_f64(&Signs::alone(&vector[places.clone()], apart)));
    let others = squared_norm_f64(&vector[..places.start]) + squared_norm_f64(&vector[places.end..]);
    (lengths.squared_norm(signs, others) + folded - signs).max(0.0).sqrt()
}

fn flatten_visits(run: &Run, question: &VectorQuestion) -> Result<FlatVectors, AnalysisError> {
    let layout = first_layout(run, &question.window).ok_or_else(|| AnalysisError::Missing {
        score: "flat vectors",
        what: "gradients inside the window",
        how: match first_layout(run, &Window::everything()) {
            Some(_) => "give a wider window",
            None => no_gradients(run.manifest()),
        },
    })?;
    let applied = question.combine == Combine::Applied;
    let factors = LayerRates::read(run)?.in_window(run, &question.window, &layout, applied)?;
    let trained = factors.trained(&layout, "flat vectors")?;
    let scaled = (applied && !factors.are_one()).then(|| factors.of(&trained));
    let flattener = Flattener::new(&trained, run.manifest(), question.shape).of_rows(&layout, scaled);
    let length = flattener.length();
    let mut out = FlatVectors {
        combine: question.combine,
        blocks: flattener.blocks.clone(),
        examples: Vec::new(),
        steps: Vec::new(),
        visits: Vec::new(),
        labels: Vec::new(),
        length,
        values: Vec::new(),
        basis: Basis::default(),
        norms: Vec::new(),
        signs: None,
        left_out: LeftOut::default(),
        damage: None,
    };
    let mut lengths: Vec<Lengths> = Vec::new();
    let places = flattener.folded_places().unwrap_or(0..0);
    let mut apart: Vec<f32> = Vec::new();
    let mut slots: HashMap<u64, usize> = HashMap::new();
    let each = |visits: &[Visit], _: &[()], flat: &Flat| {
        for (row, visit) in visits.iter().take(flat.rows).enumerate() {
            let fresh = out.examples.len();
            let slot = match question.combine {
                Combine::Visits => fresh,
                Combine::Mean | Combine::Applied => *slots.entry(visit.example).or_insert(fresh),
            };
            if slot == fresh {
                let numbers = if flat.apart.is_empty() && apart.is_empty() { length } else { length + places.len() };
                let bytes = 4 * numbers as u64 * (fresh as u64 + 1);
                if bytes > question.bytes_max {
                    return Err(AnalysisError::TooLarge {
                        what: format!("{} vectors of {length} numbers", fresh + 1),
                        limit: question.bytes_max,
                        how: "narrow the window, ask for shorter vectors, or raise the limit",
                    });
                }
                out.examples.push(visit.example);
                out.steps.push(visit.step);
                out.visits.push(0);
                out.labels.push(None);
                lengths.push(Lengths::default());
                out.values.resize(out.values.len() + length, 0.0);
            }
            out.visits[slot] += 1;
            out.steps[slot] = visit.step;
            out.labels[slot] = visit.label.or(out.labels[slot]);
            let weight = match question.combine {
                Combine::Visits | Combine::Mean => 1.0,
                Combine::Applied => visit.learning_rate * visit.clip * visit.coefficient,
            };
            let excess = |is_folded: bool| -> f64 {
                let regions = flattener.regions.iter().enumerate().filter(|(_, region)| region.is_folded == is_folded);
                regions.map(|(number, _)| flat.excess(number, row)).sum()
            };
            lengths[slot].add(f64::from(weight), excess(true), excess(false));
            if let Some(row) = self::row(&flat.apart, places.len(), row) {
                apart.resize(out.examples.len() * places.len(), 0.0);
                let sum = &mut apart[slot * places.len()..(slot + 1) * places.len()];
                sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += weight * value);
            }
            let mut rest = &mut out.values[slot * length..(slot + 1) * length];
            for (block, about) in flat.blocks.iter().zip(&flattener.blocks) {
                let (to, after) = rest.split_at_mut(about.width);
                for (slot, value) in to.iter_mut().zip(&block[row * about.width..(row + 1) * about.width]) {
                    *slot += weight * value;
                }
                rest = after;
            }
        }
        Ok(())
    };
    let walk = Walk { run, flattener: &flattener, window: &question.window, before: None };
    let walked = walk.walk_forwards(&question.progress, each)?;
    walked.check("flat vectors")?;
    if question.combine == Combine::Mean {
        for ((vector, lengths), &visits) in out.values.chunks_mut(length.max(1)).zip(&mut lengths).zip(&out.visits) {
            vector.iter_mut().for_each(|value| *value /= visits as f32);
            lengths.scale(1.0 / visits as f64);
        }
        for (apart, &visits) in apart.chunks_mut(places.len().max(1)).zip(&out.visits) {
            apart.iter_mut().for_each(|value| *value /= visits as f32);
        }
    }
    if !apart.is_empty() {
        apart.resize(out.examples.len() * places.len(), 0.0);
    }
    let uses = if question.combine == Combine::Applied { Uses::Steps } else { Uses::Gradients };
    let basis = Basis::of(run, &question.window, BasisRows::Visits, uses)?.with_left_out(&walked.left_out);
    let each = out.values.chunks(length.max(1)).zip(&lengths).enumerate();
    let norm = |(at, (vector, lengths))| norm(vector, &places, row(&apart, places.len(), at), lengths);
    out.norms = each.map(norm).collect();
    if lengths.iter().any(Lengths::is_signs) {
        let norms = lengths.iter().map(|lengths| if lengths.is_signs() { lengths.norms } else { 0.0 }).collect();
        out.signs = Some(Signs { places, norms, apart });
    }
    Ok(FlatVectors { basis, left_out: walked.left_out, damage: walked.damage, ..out })
}
