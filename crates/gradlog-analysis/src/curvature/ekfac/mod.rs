//! EK-FAC (George et al. 2018, arXiv 1806.03884; Grosse et al. 2023, arXiv 2308.03296): influence functions whose
//! curvature is diagonal in the eigenbasis of Kronecker factors, layer by layer.
//!
//! The log has both sides of the gradient `δ·[a; 1]ᵀ` of a factored layer, so two passes over it make the curvature
//! (`factors.rs`): one for `A = E[a aᵀ]` and `S = E[δ δᵀ]`, one for the eigenvalues in their bases. A probe's gradient
//! becomes a matrix for each layer, and the score of a visit is `δᵀ M a` (`products.rs`).
//!
//! Folded layers have no factors: their gradient is a sum over positions, kept as one short vector. Its own curvature
//! matrix is inverted, as influence functions do.
//!
//! # Cost
//! With `m` and `n` numbers of the two sides of a layer: `2(m² + n²)` operations a curvature row for the factors,
//! `2(m² + n² + mn)` for the eigenvalues, the cube of `m` and `n` for the bases, `2mn(m + n)` a probe and damping, and
//! `2mn` a visit, probe and damping for the scores. All but the last are in f64.

mod factors;
mod own;
mod products;

use super::gram::{Gram, Inverse};
use super::influence_function::{find_end, mean_scores};
use super::probes::{nearest, ProbeRows};
use super::relatif::SelfInfluence;
use super::scores::dots;
use super::set::CurvatureSource;
use super::subject::{Subject, CURVATURE_BYTES_MAX};
use crate::influence::plan::index::Record;
use crate::rows::gradient::{Gradients, Layout};
use crate::vectors::sides::{FactoredSides, LayerRows, SideRows, SidedLayer};
use crate::vectors::walk::Tile;
use crate::Progress;
use crate::{AnalysisError, EstimateDetails, Influence, KroneckerDetails, Normalization};
use factors::{FactorSums, Kronecker};
use gradlog_format::log::Manifest;
use gradlog_format::run::Damage;
use std::sync::atomic::{AtomicBool, Ordering};

/// What is the same for all probes.
pub(super) struct Solver {
    pub sides: FactoredSides,
    kronecker: Kronecker,
    /// Of the folded layers.
    inverse: Inverse,
    /// If the scores are divided by it.
    own: Option<SelfInfluence>,
    rows: u64,
    damage: Option<Damage>,
}

/// The sides of the layers that have factors.
///
/// # Errors
/// [`AnalysisError::Missing`] if no layer has any.
pub(super) fn find_sides(layout: &Layout, manifest: &Manifest, length: usize) -> Result<FactoredSides, AnalysisError> {
    if !layout.factored.is_empty() {
        return Ok(FactoredSides::new(layout, manifest, length));
    }
    Err(AnalysisError::Missing {
        score: "influence by EK-FAC",
        what: "layers that keep both sides of their gradient: all layers have several positions an example, and are folded into one vector",
        how: "without Kronecker factors it would be influence functions: ask for these",
    })
}

/// What the curvature takes: of each layer the two factors, their eigenvectors and the eigenvalues; `of_folded` bytes
/// for the folded layers.
fn check_bytes(of_folded: u64, sides: &FactoredSides) -> Result<(), AnalysisError> {
    let square = |width: usize| (width as u64).saturating_mul(width as u64);
    let of_layer = |layer: &SidedLayer| {
        let squares = square(layer.inputs()).saturating_add(square(layer.outputs())).saturating_mul(2);
        squares.saturating_add((layer.inputs() as u64).saturating_mul(layer.outputs() as u64)).saturating_mul(8)
    };
    let bytes = sides.layers.iter().map(of_layer).fold(of_folded, u64::saturating_add);
    if bytes <= CURVATURE_BYTES_MAX {
        return Ok(());
    }
    Err(AnalysisError::TooLarge {
        what: "the Kronecker factors of all layers".into(),
        limit: CURVATURE_BYTES_MAX,
        how: "ask for shorter vectors: a side of a layer that has more numbers is folded",
    })
}

/// Makes the curvature, and what goes with `examples` alone.
pub(super) fn prepare(
    subject: &Subject<'_>,
    sides: FactoredSides,
    examples: &[u64],
    progress: &Progress,
) -> Result<Solver, AnalysisError> {
    check_bytes(subject.curvature_bytes(), &sides)?;
    let source = CurvatureSource::find(subject)?;
    let (mut sums, mut gram, mut rows) = (FactorSums::new(&sides), Gram::new(&subject.flattener), 0);
    let damage = source.walk(subject, progress, |tile, weights| {
        sums.add(&sides.decode(tile.gradients, tile.rows), weights);
        gram.add_weighted(&subject.flattener.flatten(tile.gradients, tile.rows), weights);
        rows += weights.iter().filter(|weight| **weight != 0.0).count() as u64;
    })?;
    let mut bases = sums.find_bases(&sides)?;
    // The same rows once more, in the bases that they have made.
    let _ = source.walk(subject, progress, |tile, weights| {
        bases.add(&sides.decode(tile.gradients, tile.rows), weights);
    })?;
    let kronecker = bases.fit(&sides, &subject.asked.dampings)?;
    let inverse = gram.invert(&subject.asked.dampings)?;
    let own = match subject.asked.question.normalization {
        Normalization::Relatif => Some(own::measure(subject, (&sides, &kronecker, &inverse), examples, progress)?),
        _ => None,
    };
    Ok(Solver { sides, kronecker, inverse, own, rows, damage })
}

pub(super) fn pass(
    subject: &Subject<'_>,
    solver: &Solver,
    ids: &[u64],
    progress: &Progress,
) -> Result<Vec<Influence>, AnalysisError> {
    let end = find_end(subject, &subject.asked.question.window, progress)?;
    let chosen = ids.iter().filter_map(|id| subject.index.records.get(id));
    let records: Vec<Record> = chosen.filter_map(|records| nearest(records, end)).map(|(_, record)| record).collect();
    let probes = ProbeRows::load(&subject.index, &subject.flattener, ids, |records| nearest(records, end))?;
    let folded = solver.inverse.solve(&probes.flat);
    let factored = solver.kronecker.solve(&load_sides(subject, &solver.sides, &records)?);
    let columns = ids.len() * subject.asked.dampings.len();
    let is_signs: Vec<AtomicBool> = solver.sides.layers.iter().map(|_| AtomicBool::new(false)).collect();
    let of_tile = |tile: Tile<'_>| {
        let mut sums = dots(&subject.flattener.flatten(tile.gradients, tile.rows), &folded, columns);
        let layers = solver.sides.decode(tile.gradients, tile.rows);
        for ((layer, solutions), is_signs) in layers.iter().zip(&factored).zip(&is_signs) {
            products::add_dots(layer, solutions, columns, &mut sums);
            if !(layer.input.noise.is_empty() && layer.delta.noise.is_empty()) {
                is_signs.store(true, Ordering::Relaxed);
            }
        }
        sums
    };
    let (mut scores, walked) = mean_scores(subject, columns, progress, of_tile)?;
    if let Some(own) = &solver.own {
        // The columns are the probes, damping after damping.
        scores.map(|example, column, score| score / own.divisor(example, column / ids.len().max(1)));
    }
    let sign_layers = is_signs.iter().filter(|layer| layer.load(Ordering::Relaxed)).count() as u64;
    let details = KroneckerDetails { sign_layers, ..details(subject, &solver.sides) };
    let estimates = subject.asked.dampings.iter().enumerate();
    let estimates = estimates.map(|(number, damping)| EstimateDetails {
        curvature_rows: solver.rows,
        damping: Some(*damping),
        lambdas: solver.kronecker.lambdas(number).chain(solver.inverse.lambdas(number)).collect(),
        length: subject.flattener.length() + solver.sides.coordinates(),
        exact: subject.estimate().exact && solver.sides.is_exact(),
        by_layer: true,
        kronecker: Some(details),
        ..subject.estimate()
    });
    let estimates = estimates.collect();
    scores.finish(subject, ids, walked.left_out, walked.damage.or_else(|| solver.damage.clone()), estimates)
}

fn details(subject: &Subject<'_>, sides: &FactoredSides) -> KroneckerDetails {
    let layout = &subject.flattener.layout;
    let folded = match layout.folded {
        Some(_) => layout.layer_numbers(&subject.flattener.whole, &subject.run.manifest().layers).len(),
        None => layout.factored.len(),
    };
    KroneckerDetails {
        layers: sides.layers.len() as u64,
        lossy_layers: sides.layers.iter().filter(|layer| layer.is_lossy).count() as u64,
        sign_layers: 0,
        folded_layers: folded.saturating_sub(layout.factored.len()) as u64,
    }
}

/// The sides of some records, in their order.
fn load_sides(
    subject: &Subject<'_>,
    sides: &FactoredSides,
    records: &[Record],
) -> Result<Vec<LayerRows>, AnalysisError> {
    let mut positions: Vec<usize> = (0..records.len()).collect();
    positions.sort_by_key(|position| records[*position].block);
    let empty = |width: usize| SideRows { values: vec![0f32; width * records.len()], width, noise: Vec::new() };
    let layers = sides.layers.iter();
    let mut out: Vec<LayerRows> =
        layers.map(|layer| LayerRows { input: empty(layer.inputs()), delta: empty(layer.outputs()) }).collect();
    for positions in positions.chunk_by(|a, b| records[*a].block == records[*b].block) {
        let Some(&first) = positions.first() else { continue };
        let gradients = Gradients::read(&subject.index.blocks[records[first].block], &subject.flattener.layout)?;
        let rows: Vec<usize> = positions.iter().map(|position| records[*position].row).collect();
        for (out, found) in out.iter_mut().zip(sides.decode(&gradients, &rows)) {
            for (from, to) in positions.iter().enumerate() {
                out.input.set_row(*to, &found.input, from);
                out.delta.set_row(*to, &found.delta, from);
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::gradient::Factored;
    use gradlog_format::run::Origin;
    use gradlog_testing::run_of;

    /// Two sides of 12,000 numbers take 4.6 GB; folded to 1,000 they fit.
    #[test]
    fn factors_that_do_not_fit_are_refused() {
        let written = run_of(&[], 1);
        let (inputs, outputs, origin) = (12_000, 12_000, Origin::Whole);
        let layer = Factored { layer: 0, inputs, outputs, bias: true, input_origin: origin, delta_origin: origin };
        let layout = Layout { factored: vec![layer], folded: None };
        let of = |length| FactoredSides::new(&layout, written.run().manifest(), length);
        assert!(check_bytes(0, &of(1000)).is_ok());
        assert!(matches!(check_bytes(CURVATURE_BYTES_MAX, &of(1000)), Err(AnalysisError::TooLarge { .. })));
        let error = check_bytes(0, &of(12_000)).unwrap_err().to_string();
        assert!(error.contains("the Kronecker factors of all layers") && error.contains("shorter vectors"), "{error}");
    }
}
