//! Recorded curvature against the Gauss-Newton matrix in closed form.

use crate::common::*;
use candle_core::{Device, Module, Tensor};
use candle_nn::{linear, Linear, VarMap};
use gradlog::taps::{Tapped, Taps};
use gradlog::{CurvatureRows, RecordError, Recorder};
use gradlog_format::log::{BlockKind, Column, ColumnKey};
use gradlog_format::run::Origin;
use std::path::Path;

const FEATURES: usize = 4;
const CLASSES: usize = 3;
const EXAMPLES: usize = 6;

struct Setting {
    taps: Taps,
    model: Tapped<Linear>,
    x: Tensor,
}

impl Setting {
    fn new() -> Self {
        let (taps, variables) = (Taps::new(), VarMap::new());
        let vb = builder(&variables);
        let model = taps.tap("fc", linear(FEATURES, CLASSES, vb.pp("fc")).unwrap());
        for (seed, variable) in variables.all_vars().iter().enumerate() {
            variable.set(&noise(seed as u64 + 1, variable.dims())).unwrap();
        }
        Self { taps, model, x: noise(9, &[EXAMPLES, FEATURES]) }
    }

    fn inputs(&self, ids: &[u64]) -> Tensor {
        let places = Tensor::from_iter(ids.iter().map(|id| *id as u32 - 10), &Device::Cpu).unwrap();
        self.x.index_select(&places, 0).unwrap()
    }

    fn recorder(&self, dir: &Path) -> Recorder {
        Recorder::create(dir, &self.taps, exact()).unwrap()
    }

    fn probabilities(&self) -> Vec<Vec<f32>> {
        let logits = self.model.forward(&self.x).unwrap();
        candle_nn::ops::softmax(&logits, 1).unwrap().to_vec2().unwrap()
    }
}

fn ids() -> Vec<u64> {
    (10..10 + EXAMPLES as u64).collect()
}

/// What the rows of a run add up to, `Σ w g gᵀ`, with `g` the gradient by weights and bias; and `Σ w`.
fn matrix(dir: &Path) -> (Vec<f64>, f64) {
    let n = CLASSES * (FEATURES + 1);
    let (mut sum, mut total) = (vec![0.0; n * n], 0.0);
    for block in blocks(dir, BlockKind::Probes) {
        let key = |column| ColumnKey { column, layer: 0 };
        let inputs = block.vectors(key(Column::Input), Origin::Whole).unwrap();
        let deltas = block.vectors(key(Column::Delta), Origin::Whole).unwrap();
        for (row, w) in block.f32s(Column::CurvatureWeight).unwrap().into_iter().enumerate() {
            let (mut a, mut d) = (vec![0.0; FEATURES], vec![0.0; CLASSES]);
            inputs.decode(row, &mut a);
            deltas.decode(row, &mut d);
            a.push(1.0);
            let g: Vec<f32> = d.iter().flat_map(|d| a.iter().map(move |a| d * a)).collect();
            for (place, sum) in sum.iter_mut().enumerate() {
                *sum += f64::from(w) * f64::from(g[place / n]) * f64::from(g[place % n]);
            }
            total += f64::from(w);
        }
    }
    (sum, total)
}

/// `Σ_x (diag p − p pᵀ) ⊗ a aᵀ`.
fn gauss_newton(setting: &Setting) -> Vec<f64> {
    let (side, n) = (FEATURES + 1, CLASSES * (FEATURES + 1));
    let mut sum = vec![0.0; n * n];
    for (p, x) in setting.probabilities().iter().zip(setting.x.to_vec2::<f32>().unwrap()) {
        let a: Vec<f32> = x.into_iter().chain([1.0]).collect();
        for (place, sum) in sum.iter_mut().enumerate() {
            let (i, j) = (place / n, place % n);
            let (c, d) = (i / side, j / side);
            let h = if c == d { p[c] } else { 0.0 } - p[c] * p[d];
            *sum += f64::from(h) * f64::from(a[i % side]) * f64::from(a[j % side]);
        }
    }
    sum
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|v| v * v).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
}

#[test]
fn the_rows_of_all_classes_add_up_to_the_gauss_newton_matrix() {
    let (dir, setting) = (tempfile::tempdir().unwrap(), Setting::new());
    let run = dir.path().join("run");
    let mut recorder = setting.recorder(&run);
    let pass = recorder.curvature("curvature", &ids()).unwrap().min_probability(0.0);
    let done = pass.cross_entropy(|_, ids| setting.model.forward(&setting.inputs(ids))).unwrap();
    assert_eq!((done.examples, done.rows), (6, 18));
    assert!(done.mass_left_out < 1e-6);
    recorder.finish().unwrap();
    let (sum, total) = matrix(&run);
    assert!((total - EXAMPLES as f64).abs() < 1e-5);
    assert!(distance(&sum, &gauss_newton(&setting)) < 1e-5);
}

#[test]
fn classes_that_are_left_out_are_counted_by_their_mass() {
    let (dir, setting) = (tempfile::tempdir().unwrap(), Setting::new());
    let run = dir.path().join("run");
    let mut recorder = setting.recorder(&run);
    let pass = recorder.curvature("curvature", &ids()).unwrap().min_probability(0.3);
    let done = pass.cross_entropy(|_, ids| setting.model.forward(&setting.inputs(ids))).unwrap();
    recorder.finish().unwrap();
    let p: Vec<f32> = setting.probabilities().concat();
    let least = |p: &&f32| **p < 0.3;
    let missing = p.iter().filter(least).map(|p| f64::from(*p)).sum::<f64>() / EXAMPLES as f64;
    assert!(missing > 0.05 && (done.mass_left_out - missing).abs() < 1e-6, "{done:?} {missing}");
    assert_eq!(done.rows as usize, p.len() - p.iter().filter(least).count());
    // The weights of the others stay what they are.
    let mut kept: Vec<f32> = p.iter().filter(|p| **p >= 0.3).copied().collect();
    let mut weights = f32s(&run, BlockKind::Probes, Column::CurvatureWeight);
    kept.sort_by(f32::total_cmp);
    weights.sort_by(f32::total_cmp);
    assert!(kept.iter().zip(&weights).all(|(p, w)| (p - w).abs() < 1e-6));
}

#[test]
fn drawn_labels_give_the_matrix_in_the_mean() {
    let (dir, setting) = (tempfile::tempdir().unwrap(), Setting::new());
    let run = dir.path().join("run");
    let mut recorder = setting.recorder(&run);
    let pass = recorder.curvature("curvature", &ids()).unwrap().draw_labels(400);
    let done = pass.cross_entropy(|_, ids| setting.model.forward(&setting.inputs(ids))).unwrap();
    assert_eq!(done.rows, 400 * EXAMPLES as u64);
    recorder.finish().unwrap();
    let (sum, total) = matrix(&run);
    assert!((total - EXAMPLES as f64).abs() < 1e-3);
    // 400 draws are about 1/√400 off.
    let off = distance(&sum, &gauss_newton(&setting));
    assert!(off < 0.15 && off > 1e-4, "{off}");
}

#[test]
fn what_makes_no_curvature_is_refused_with_words() {
    let (dir, setting) = (tempfile::tempdir().unwrap(), Setting::new());
    let mut recorder = setting.recorder(&dir.path().join("run"));
    let says = |error: RecordError, words: &str| {
        let said = error.to_string();
        assert!(said.contains(words), "{said}");
    };
    says(recorder.curvature("c", &[0u64; 0]).map(drop).unwrap_err(), "no examples");
    let forward = |ids: &[u64]| setting.model.forward(&setting.inputs(ids));
    let none = recorder.curvature("c", &ids()).unwrap().draw_labels(0).cross_entropy(|_, ids| forward(ids));
    says(none.unwrap_err(), "at least one");
    let all = recorder.curvature("c", &ids()).unwrap().min_probability(1.0).cross_entropy(|_, ids| forward(ids));
    says(all.unwrap_err(), "less than 1");
    let flat = recorder.curvature("c", &ids()).unwrap().cross_entropy(|_, ids| forward(ids)?.flatten_all());
    says(flat.unwrap_err(), "[6, classes]");
    // A model that has come apart gives no rows, and no error either.
    let lost = recorder.curvature("c", &ids()).unwrap().cross_entropy(|_, ids| forward(ids)? * f64::NAN).unwrap();
    assert_eq!((lost.rows, lost.mass_left_out), (0, 1.0));
    // A disabled recorder does not even call the model.
    let mut off = Recorder::disabled();
    let done = off.curvature("c", &ids()).unwrap().cross_entropy(|_, _| unreachable!()).unwrap();
    assert_eq!(done, CurvatureRows::default());
}
