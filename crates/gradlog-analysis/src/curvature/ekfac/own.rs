//! What ℓ-RelatIF divides by under EK-FAC: `ḡ_zᵀ (H + λI)⁻¹ ḡ_z`, with the mean gradient of an example over its visits.
//!
//! A mean of several visits is no outer product. So those of examples with several visits are gathered as matrices in
//! the eigenbases, as many examples as fit in a walk. For an example with one visit its two sides suffice.

use super::factors::Kronecker;
use crate::curvature::gram::Inverse;
use crate::curvature::relatif::SelfInfluence;
use crate::curvature::subject::{Subject, PROBE_BYTES_MAX};
use crate::vectors::sides::FactoredSides;
use crate::{AnalysisError, Progress};
use std::collections::HashMap;

/// Sums over the visits of an example.
struct Own {
    visits: u64,
    /// For each damping, `Σ κ²·gᵀ (H + λI)⁻¹ g` of the visits alone, as stored and less what rounding to signs adds.
    stored: Vec<f64>,
    clean: Vec<f64>,
    /// For each damping, the same of the sum of the visits, as stored.
    together: Option<Vec<f64>>,
}

/// Of all `examples` that have a usable visit.
pub(super) fn measure(
    subject: &Subject<'_>,
    (sides, kronecker, inverse): (&FactoredSides, &Kronecker, &Inverse),
    examples: &[u64],
    progress: &Progress,
) -> Result<SelfInfluence, AnalysisError> {
    let dampings = subject.asked.dampings.len();
    let mut owns: HashMap<u64, Own> = HashMap::new();
    let mut total = 0.0;
    let _ = subject.walk().walk_tiles(progress, |visits, _: &[()], tile| {
        let Some(tile) = tile else { return Ok(()) };
        let layers = sides.decode(tile.gradients, tile.rows);
        let found: Vec<_> = layers.iter().enumerate().map(|(at, rows)| kronecker.quadratics(at, rows)).collect();
        for (row, visit) in visits.iter().enumerate() {
            let weight = subject.weights.of(visit);
            total += weight.abs();
            let nothing = || vec![0.0; dampings];
            let own = owns.entry(visit.example).or_insert_with(|| Own {
                visits: 0,
                stored: nothing(),
                clean: nothing(),
                together: None,
            });
            own.visits += 1;
            for of_layer in &found {
                for (damping, (stored, clean)) in of_layer.iter().enumerate() {
                    own.stored[damping] += weight * weight * stored[row];
                    own.clean[damping] += weight * weight * clean[row];
                }
            }
        }
        Ok(())
    })?;
    let several: Vec<u64> =
        examples.iter().copied().filter(|id| owns.get(id).is_some_and(|own| own.visits > 1)).collect();
    let each = 4 * sides.coordinates().max(1);
    for ids in several.chunks((PROBE_BYTES_MAX / each).max(16)) {
        for (id, together) in ids.iter().zip(gather(subject, sides, kronecker, ids, progress)?) {
            if let Some(own) = owns.get_mut(id) {
                own.together = Some(together);
            }
        }
    }
    // What an example weighs in all of its visits, if it weighs as much as the mean.
    let mean = if total > 0.0 { total / examples.len().max(1) as f64 } else { 1.0 };
    let of = |own: Own| {
        let raw = own.together.unwrap_or_else(|| own.stored.clone());
        let each = raw.iter().zip(own.stored.iter().zip(&own.clean));
        // What is left by chance is at least a twentieth, as for influence functions.
        let less = |(raw, (stored, clean)): (&f64, (&f64, &f64))| {
            let excess = stored - clean;
            (if excess > 0.0 { (raw - excess).max(raw / 20.0) } else { *raw }) / (mean * mean)
        };
        each.map(less).collect::<Vec<f64>>()
    };
    let found: HashMap<u64, Vec<f64>> = owns.into_iter().map(|(id, own)| (id, of(own))).collect();
    let mut all = SelfInfluence::new(found);
    if !subject.flattener.blocks.is_empty() {
        all.add(SelfInfluence::compute(subject, inverse, examples, progress)?);
    }
    Ok(all)
}

/// `gᵀ (H + λI)⁻¹ g` for each damping, of the sum `g = Σ κ g_v` over the visits of each of the examples.
fn gather(
    subject: &Subject<'_>,
    sides: &FactoredSides,
    kronecker: &Kronecker,
    ids: &[u64],
    progress: &Progress,
) -> Result<Vec<Vec<f64>>, AnalysisError> {
    let slots: HashMap<u64, usize> = ids.iter().enumerate().map(|(slot, id)| (*id, slot)).collect();
    let sizes: Vec<usize> = sides.layers.iter().map(|layer| layer.inputs() * layer.outputs()).collect();
    let mut sums: Vec<Vec<f32>> = sizes.iter().map(|size| vec![0f32; size * ids.len()]).collect();
    let _ = subject.walk().walk_tiles(progress, |visits, _: &[()], tile| {
        let Some(tile) = tile else { return Ok(()) };
        if visits.iter().all(|visit| !slots.contains_key(&visit.example)) {
            return Ok(());
        }
        for (layer, rows) in sides.decode(tile.gradients, tile.rows).iter().enumerate() {
            let (deltas, inputs) = kronecker.turn(layer, rows);
            let size = sizes[layer];
            for (row, visit) in visits.iter().enumerate() {
                let Some(&slot) = slots.get(&visit.example) else { continue };
                let weight = subject.weights.of(visit);
                let sum = &mut sums[layer][slot * size..(slot + 1) * size];
                for (i, sum) in sum.chunks_mut(inputs.ncols().max(1)).enumerate() {
                    let scale = weight * deltas[(row, i)];
                    sum.iter_mut().enumerate().for_each(|(j, sum)| *sum += (scale * inputs[(row, j)]) as f32);
                }
            }
        }
        Ok(())
    })?;
    let of = |slot: usize| {
        let mut found = vec![0.0; subject.asked.dampings.len()];
        for (layer, size) in sizes.iter().enumerate() {
            let own = kronecker.quadratic(layer, &sums[layer][slot * size..(slot + 1) * size]);
            found.iter_mut().zip(own).for_each(|(sum, own)| *sum += own);
        }
        found
    };
    Ok((0..ids.len()).map(of).collect())
}
