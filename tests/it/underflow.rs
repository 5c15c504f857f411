//! Examples that the model is sure of: residuals whose squares f32 cannot hold, and logits that are masked.

use crate::common::*;
use candle_core::{DType, Device, Module, Tensor, Var};
use candle_nn::Linear;
use gradlog::{Config, Recorder, Taps};
use gradlog_analysis::{ExampleQuestion, InfluenceQuestion, Normalization, Score, ScoreQuestion};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::Run;

const X: [[f32; 2]; 3] = [[1.0, 0.0], [0.8, 0.1], [0.05, 1.0]];

/// A layer of two inputs whose first class leads by `margin` times the first input. Each example has `positions` equal
/// halves of its input.
fn weight(margin: f32) -> Var {
    Var::new(&[[margin, 0.3], [0.0, 0.1], [-1.0, 0.2]], &Device::Cpu).unwrap()
}

/// By definition, in f64: residuals `p − onehot(0)` as sums of positive terms.
fn residual(margin: f64, x: &[f32; 2]) -> [f64; 3] {
    let x = x.map(f64::from);
    let z = [margin * x[0] + f64::from(0.3f32) * x[1], f64::from(0.1f32) * x[1], -x[0] + f64::from(0.2f32) * x[1]];
    let e = [1.0, (z[1] - z[0]).exp(), (z[2] - z[0]).exp()];
    let sum: f64 = e.iter().sum();
    [-(e[1] + e[2]) / sum, e[1] / sum, e[2] / sum]
}

fn norm(v: &[f64]) -> f64 {
    v.iter().map(|v| v * v).sum::<f64>().sqrt()
}

#[test]
fn small_residuals_are_neither_zero_nor_rounded_away() {
    for margin in [20f32, 51.0, 60.0, 80.0] {
        for sequence in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let taps = Taps::new();
            let layer = taps.tap("fc", Linear::new(weight(margin).into_inner(), None));
            // One position is kept as factors, two are folded.
            let logits = |x: &[[f32; 2]]| {
                let x = Tensor::from_vec(x.concat(), (x.len(), 2), &Device::Cpu).unwrap();
                match sequence {
                    false => layer.forward(&x).unwrap(),
                    true => {
                        let halves = (Tensor::stack(&[&x, &x], 1).unwrap() * 0.5).unwrap();
                        layer.forward(&halves).unwrap().sum(1).unwrap()
                    }
                }
            };
            let y = Tensor::zeros(3, DType::U32, &Device::Cpu).unwrap();
            let mut recorder = Recorder::create(dir.path(), &taps, exact()).unwrap();
            let mut probe = recorder.probe("test", &[7]).unwrap();
            probe.cross_entropy(&logits(&X[..1]), &y.narrow(0, 0, 1).unwrap()).unwrap().backward().unwrap();
            probe.commit().unwrap();
            let mut pass = recorder.pass(&[0, 1, 2]).unwrap();
            pass.cross_entropy(&logits(&X), &y).unwrap().backward().unwrap();
            pass.commit(0.1).unwrap();
            recorder.finish().unwrap();
            let run = Run::open(dir.path()).unwrap();
            let scores = |score| {
                let table = ScoreQuestion::new(score).compute(&run).unwrap();
                [0, 1, 2].map(|id| table.row(id).unwrap().score)
            };
            let (el2n, grand, own) = (scores(Score::El2n), scores(Score::Grand), scores(Score::SelfInfluence));
            let close = |got: f64, right: f64, what: &str, i: usize| {
                assert!((got / right - 1.0).abs() < 1e-4, "{what} {i} at margin {margin}: {got} {right}");
            };
            let cosines = InfluenceQuestion::new("test").normalization(Normalization::Cosine).compute(&run).unwrap();
            let first = residual(f64::from(margin), &X[0]);
            for (i, x) in X.iter().enumerate() {
                let d = residual(f64::from(margin), x);
                let (length, wide) = (norm(&d), x.map(f64::from));
                close(el2n[i], length, "EL2N", i);
                close(grand[i], length * norm(&wide), "GraNd", i);
                close(own[i], 0.1 / 3.0 * (length * norm(&wide)).powi(2), "self-influence", i);
                let inner = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
                let cosine = inner(&first, &d) / (norm(&first) * length)
                    * (inner(&X[0].map(f64::from), &wide) / (norm(&X[0].map(f64::from)) * norm(&wide)));
                // A cosine score is weighed by the rate and the share of the step, as TracIn is.
                let score = cosines.score_of(i as u64, 7).unwrap();
                close(f64::from(score as f32), 0.1 / 3.0 * cosine, "cosine", i);
                let visit = &ExampleQuestion::new(i as u64).compute(&run).unwrap().visits[0];
                close(visit.squared_norm.unwrap(), (length * norm(&wide)).powi(2), "squared norm", i);
            }
        }
    }
}

#[test]
fn sure_binary_predictions_keep_their_residuals() {
    for z in [20f32, 60.0, 80.0] {
        let dir = tempfile::tempdir().unwrap();
        let taps = Taps::new();
        let layer = taps.tap("fc", Linear::new(Var::new(&[[z]], &Device::Cpu).unwrap().into_inner(), None));
        let mut recorder = Recorder::create(dir.path(), &taps, exact()).unwrap();
        let mut pass = recorder.pass(&[0, 1]).unwrap();
        let logits = layer.forward(&Tensor::new(&[[1f32], [-1.0]], &Device::Cpu).unwrap()).unwrap();
        let t = Tensor::new(&[[1f32], [0.0]], &Device::Cpu).unwrap();
        pass.binary_cross_entropy_with_logits(&logits, &t).unwrap().backward().unwrap();
        pass.commit(0.1).unwrap();
        recorder.finish().unwrap();
        let right = (-f64::from(z)).exp() / (1.0 + (-f64::from(z)).exp());
        let run = Run::open(dir.path()).unwrap();
        for score in [Score::El2n, Score::Grand] {
            for row in &ScoreQuestion::new(score).compute(&run).unwrap().rows {
                assert!((row.score / right - 1.0).abs() < 1e-5, "{score:?} at {z}: {} {right}", row.score);
            }
        }
    }
}

/// An example for which every other class is masked has the loss 0 and no rival.
#[test]
fn a_label_without_rivals_counts_in_all_scores_but_the_margin() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(dir.path(), &Taps::new(), Config::default()).unwrap();
    let masked = f32::NEG_INFINITY;
    let z = Tensor::new(&[[5f32, masked, masked], [1.0, 0.0, masked], [1.0, masked, f32::NAN]], &Device::Cpu).unwrap();
    let mut pass = recorder.pass(&[0, 1, 2]).unwrap();
    pass.cross_entropy(&z, &Tensor::zeros(3, DType::U32, &Device::Cpu).unwrap()).unwrap();
    pass.commit(0.1).unwrap();
    recorder.finish().unwrap();
    assert_eq!(u8s(dir.path(), BlockKind::Visits, Column::Flags), [0, 0, Column::FLAG_NOT_FINITE]);
    let run = Run::open(dir.path()).unwrap();
    for score in [Score::Loss, Score::El2n, Score::Confidence, Score::Correctness, Score::Forgetting] {
        let table = ScoreQuestion::new(score).compute(&run).unwrap();
        assert_eq!((table.visits, table.left_out.not_finite), (2, 1), "{score:?}");
    }
    let loss = ScoreQuestion::new(Score::Loss).compute(&run).unwrap();
    assert_eq!(loss.row(0).unwrap().score, 0.0);
    let aum = ScoreQuestion::new(Score::Aum).compute(&run).unwrap();
    assert_eq!((aum.visits, aum.left_out.not_finite), (1, 2));
}
