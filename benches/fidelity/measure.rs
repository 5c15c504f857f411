//! How near sketched scores come to the exact ones.

use rayon::prelude::*;

/// The ten strongest.
const TOP: usize = 10;

/// What is measured of a scheme.
#[derive(Debug, Clone, Copy)]
pub struct Fidelity {
    pub proponents: f64,
    pub opponents: f64,
    pub spearman: f64,
}

/// Exact scores `[visits, probes]` with what never changes of them.
pub struct Truth {
    probes: usize,
    proponents: Vec<Vec<usize>>,
    opponents: Vec<Vec<usize>>,
    ranks: Vec<f64>,
}

impl Truth {
    pub fn new(scores: &[f64], probes: usize) -> Self {
        Self {
            probes,
            proponents: strongest(scores, probes, 1.0),
            opponents: strongest(scores, probes, -1.0),
            ranks: ranks(scores),
        }
    }

    pub fn compare(&self, scores: &[f64]) -> Fidelity {
        let recall = |exact: &[Vec<usize>], found: &[Vec<usize>]| {
            let hits = exact.iter().zip(found).map(|(e, f)| e.iter().filter(|x| f.contains(x)).count()).sum::<usize>();
            hits as f64 / (TOP * self.probes) as f64
        };
        Fidelity {
            proponents: recall(&self.proponents, &strongest(scores, self.probes, 1.0)),
            opponents: recall(&self.opponents, &strongest(scores, self.probes, -1.0)),
            spearman: correlation(&self.ranks, &ranks(scores)),
        }
    }
}

/// For each probe the visits with the largest `sign · score`.
fn strongest(scores: &[f64], probes: usize, sign: f64) -> Vec<Vec<usize>> {
    (0..probes)
        .into_par_iter()
        .map(|probe| {
            let key = |visit: &usize| -sign * scores[visit * probes + probe];
            let mut order: Vec<usize> = (0..scores.len() / probes).collect();
            order.sort_by(|a, b| key(a).total_cmp(&key(b)));
            order.truncate(TOP);
            order
        })
        .collect()
}

/// Ranks from 0; equal values share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.par_sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0f64; values.len()];
    let mut first = 0;
    for same in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let mean = first as f64 + (same.len() - 1) as f64 / 2.0;
        same.iter().for_each(|i| ranks[*i] = mean);
        first += same.len();
    }
    ranks
}

pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    correlation(&ranks(a), &ranks(b))
}

fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let (ma, mb) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        ab += (x - ma) * (y - mb);
        aa += (x - ma) * (x - ma);
        bb += (y - mb) * (y - mb);
    }
    ab / (aa * bb).sqrt()
}
