//! Losses and what they say of each example, against candle_nn and the definitions.

use crate::common::*;
use candle_core::{DType, Device, Result, Tensor, Var};
use gradlog::{Config, Pass, Recorder, Reduction, Taps};
use gradlog_analysis::{Score, ScoreQuestion, SuspectQuestion};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::Run;

/// Records one pass without taps; `f` makes the loss. Returns it and the run's folder.
fn record(ids: &[u64], f: impl FnOnce(&mut Pass<'_>) -> Tensor) -> (Tensor, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(dir.path().join("run"), &Taps::new(), Config::default()).unwrap();
    let mut pass = recorder.pass(ids).unwrap();
    let loss = f(&mut pass);
    loss.backward().unwrap();
    pass.commit(0.1).unwrap();
    recorder.finish().unwrap();
    (loss, dir)
}

fn column(dir: &tempfile::TempDir, column: Column) -> Vec<f32> {
    f32s(&dir.path().join("run"), BlockKind::Visits, column)
}

fn close(a: f32, b: f32) -> bool {
    (a - b).abs() <= 1e-5 * b.abs().max(1.0)
}

fn scalar(t: &Tensor) -> f32 {
    t.to_dtype(DType::F32).unwrap().to_scalar().unwrap()
}

fn gradient(loss: &Tensor, by: &Var) -> Vec<f32> {
    numbers(&loss.backward().unwrap().get(by).unwrap().to_dtype(DType::F32).unwrap())
}

fn logits(shape: &[usize], dtype: DType) -> Var {
    Var::from_tensor(&(noise(5, shape) * 4.0).unwrap().to_dtype(dtype).unwrap()).unwrap()
}

#[test]
fn cross_entropy_is_candles_with_the_gradient_of_candles() {
    let y = Tensor::new(&[2u32, 0, 3, 1, 2], &Device::Cpu).unwrap();
    for dtype in [DType::F32, DType::F64, DType::BF16] {
        let z = logits(&[5, 4], dtype);
        let (loss, _dir) = record(&[0, 1, 2, 3, 4], |pass| pass.cross_entropy(z.as_tensor(), &y).unwrap());
        // In half precision candle rounds at every step of the softmax; the closed form is computed in f32.
        let (plain, tolerance) = match dtype {
            DType::BF16 => (Var::from_tensor(&z.to_dtype(DType::F32).unwrap()).unwrap(), 1e-2),
            _ => (z.clone(), 1e-5),
        };
        let theirs = candle_nn::loss::cross_entropy(plain.as_tensor(), &y).unwrap();
        assert!((scalar(&loss) - scalar(&theirs)).abs() < tolerance, "{dtype:?}");
        assert!(relative_error(&gradient(&loss, &z), &gradient(&theirs, &plain)) < f64::from(tolerance), "{dtype:?}");
    }
}

#[test]
fn cross_entropy_says_of_each_example_what_the_definitions_say() {
    let z = logits(&[5, 4], DType::F32);
    let labels = [2u32, 0, 3, 1, 2];
    let y = Tensor::new(&labels, &Device::Cpu).unwrap();
    let (_, dir) = record(&[7, 7, 8, 9, 10], |pass| pass.cross_entropy(z.as_tensor(), &y).unwrap());
    let p = candle_nn::ops::softmax(z.as_tensor(), 1).unwrap().to_vec2::<f32>().unwrap();
    let z = z.to_vec2::<f32>().unwrap();
    for i in 0..5 {
        let label = labels[i] as usize;
        let others = || (0..4).filter(|k| *k != label);
        let el2n = (0..4).map(|k| (p[i][k] - f32::from(k == label)).powi(2)).sum::<f32>().sqrt();
        let margin = z[i][label] - others().map(|k| z[i][k]).fold(f32::MIN, f32::max);
        assert!(close(column(&dir, Column::Loss)[i], -p[i][label].ln()));
        assert!(close(column(&dir, Column::El2n)[i], el2n));
        assert!(close(column(&dir, Column::Margin)[i], margin));
        assert!(close(column(&dir, Column::Confidence)[i], p[i][label]));
        assert_eq!(column(&dir, Column::Correct)[i], f32::from(margin > 0.0));
        assert!(close(column(&dir, Column::Coefficient)[i], 0.2));
    }
    let run = dir.path().join("run");
    assert_eq!(u32s(&run, BlockKind::Visits, Column::Label), labels);
    assert_eq!(visited(&run), [7, 7, 8, 9, 10], "an id that occurs twice is two visits");
}

#[test]
fn sequences_with_positions_that_do_not_count() {
    // Targets of example 0: all count; of 1: one is ignored; of 2: none counts.
    let (b, t, v) = (3usize, 4usize, 5usize);
    let z = logits(&[b, t, v], DType::F32);
    let targets: [i64; 12] = [0, 1, 2, 3, 4, -100, 1, 2, -100, -100, -100, -100];
    let y = Tensor::from_slice(&targets, (b, t), &Device::Cpu).unwrap();
    let mask: Vec<u8> = targets.iter().map(|y| u8::from(*y >= 0)).collect();
    let mask = Tensor::from_vec(mask, (b, t), &Device::Cpu).unwrap();
    let clean = Tensor::from_vec(targets.map(|y| y.max(0)).to_vec(), (b, t), &Device::Cpu).unwrap();
    // Oracle: candle's loss on the positions that count, gathered by hand.
    let counted: Vec<u32> = (0..12).filter(|i| targets[*i as usize] >= 0).collect();
    let index = Tensor::new(counted.as_slice(), &Device::Cpu).unwrap();
    let rows = z.reshape((b * t, v)).unwrap().index_select(&index, 0).unwrap();
    let theirs =
        candle_nn::loss::cross_entropy(&rows, &clean.flatten_all().unwrap().index_select(&index, 0).unwrap()).unwrap();
    let (by_index, dir) = record(&[0, 1, 2], |pass| pass.ignore_index(-100).cross_entropy(z.as_tensor(), &y).unwrap());
    let (by_mask, _dir) = record(&[0, 1, 2], |pass| pass.mask(&mask).cross_entropy(z.as_tensor(), &clean).unwrap());
    for loss in [&by_index, &by_mask] {
        assert!(close(scalar(loss), scalar(&theirs)));
        assert!(relative_error(&gradient(loss, &z), &gradient(&theirs, &z)) < 1e-5);
    }
    assert_eq!(u32s(&dir.path().join("run"), BlockKind::Visits, Column::Positions), [4, 3, 0]);
    let coefficients = column(&dir, Column::Coefficient);
    assert!(close(coefficients[0], 4.0 / 7.0) && close(coefficients[1], 3.0 / 7.0) && coefficients[2] == 0.0);
    let losses = column(&dir, Column::Loss);
    assert!(close(coefficients[0] * losses[0] + coefficients[1] * losses[1], scalar(&theirs)));
}

#[test]
fn mean_squared_error_and_binary_cross_entropy_are_candles() {
    for shape in [vec![6], vec![6, 1], vec![6, 3]] {
        let o = logits(&shape, DType::F32);
        let t = noise(6, &shape);
        let ids = [0, 1, 2, 3, 4, 5];
        let (loss, dir) = record(&ids, |pass| pass.mse(o.as_tensor(), &t).unwrap());
        let theirs = candle_nn::loss::mse(o.as_tensor(), &t).unwrap();
        assert!(close(scalar(&loss), scalar(&theirs)));
        assert!(relative_error(&gradient(&loss, &o), &gradient(&theirs, &o)) < 1e-5);
        let own = ((o.as_tensor() - &t).unwrap().sqr().unwrap()).reshape((6, ())).unwrap().mean(1).unwrap();
        assert!(relative_error(&column(&dir, Column::Loss), &numbers(&own)) < 1e-5);
        let t = t.ge(0.0).unwrap().to_dtype(DType::F32).unwrap();
        let (loss, dir) = record(&ids, |pass| pass.binary_cross_entropy_with_logits(o.as_tensor(), &t).unwrap());
        let theirs = candle_nn::loss::binary_cross_entropy_with_logit(o.as_tensor(), &t).unwrap();
        assert!(close(scalar(&loss), scalar(&theirs)));
        assert!(relative_error(&gradient(&loss, &o), &gradient(&theirs, &o)) < 1e-4);
        let p = candle_nn::ops::sigmoid(o.as_tensor()).unwrap();
        let el2n = (p - &t).unwrap().sqr().unwrap().reshape((6, ())).unwrap().sum(1).unwrap().sqrt().unwrap();
        assert!(relative_error(&column(&dir, Column::El2n), &numbers(&el2n)) < 1e-4);
    }
}

#[test]
fn binary_cross_entropy_stays_finite_where_candles_does_not() {
    let z = Var::new(&[200f32, -200.0], &Device::Cpu).unwrap();
    let t = Tensor::new(&[0f32, 1.0], &Device::Cpu).unwrap();
    let (loss, _dir) = record(&[0, 1], |pass| pass.binary_cross_entropy_with_logits(z.as_tensor(), &t).unwrap());
    assert_eq!(scalar(&loss), 200.0);
    assert_eq!(gradient(&loss, &z), [0.5, -0.5]);
}

#[test]
fn reductions_and_weights() {
    let z = logits(&[4, 3], DType::F32);
    let y = Tensor::new(&[2u32, 0, 1, 1], &Device::Cpu).unwrap();
    let w = [0.5f32, 0.0, 2.0, 1.0];
    let nll = |i: usize| {
        let z = z.narrow(0, i, 1).unwrap();
        candle_nn::loss::cross_entropy(&z, &y.narrow(0, i, 1).unwrap()).unwrap()
    };
    let weighted = |divisor: f64| -> Result<Tensor> {
        let mut sum = (nll(0) * f64::from(w[0]))?;
        for (i, w) in w.iter().enumerate().skip(1) {
            sum = (sum + (nll(i) * f64::from(*w))?)?;
        }
        sum / divisor
    };
    for (reduction, divisor) in [(Reduction::Mean, 4.0), (Reduction::Sum, 1.0)] {
        let theirs = weighted(divisor).unwrap();
        let ids = [0, 1, 2, 3];
        let (closed, dir) =
            record(&ids, |p| p.reduction(reduction).weights(&w).cross_entropy(z.as_tensor(), &y).unwrap());
        let (own, _dir) = record(&ids, |p| {
            let losses: Vec<Tensor> = (0..4).map(nll).collect();
            p.reduction(reduction).weights(&w).losses(&Tensor::stack(&losses, 0).unwrap()).unwrap()
        });
        for loss in [&closed, &own] {
            assert!(close(scalar(loss), scalar(&theirs)));
            assert!(relative_error(&gradient(loss, &z), &gradient(&theirs, &z)) < 1e-5);
        }
        let coefficients = column(&dir, Column::Coefficient);
        for (c, w) in coefficients.iter().zip(w) {
            assert!(close(*c, w / divisor as f32));
        }
    }
}

#[test]
fn what_the_loss_is_multiplied_by_afterwards_is_in_the_coefficients() {
    let z = logits(&[2, 3], DType::F32);
    let y = Tensor::new(&[2u32, 0], &Device::Cpu).unwrap();
    let (_, dir) = record(&[0, 1], |pass| (pass.cross_entropy(z.as_tensor(), &y).unwrap() / 4.0).unwrap());
    assert_eq!(column(&dir, Column::Coefficient), [0.125, 0.125]);
}

#[test]
fn bad_targets_are_refused_with_words() {
    let z = logits(&[2, 3], DType::F32);
    let mut recorder = Recorder::disabled();
    for (y, words) in [
        (Tensor::new(&[3u32, 0], &Device::Cpu).unwrap(), "3 classes"),
        (Tensor::new(&[-1i64, 0], &Device::Cpu).unwrap(), "ignore_index"),
        (Tensor::new(&[0u32, 0, 0], &Device::Cpu).unwrap(), "[batch, classes]"),
        (Tensor::new(&[0f32, 0.0], &Device::Cpu).unwrap(), "integers"),
    ] {
        let error = recorder.pass(&[0, 1]).unwrap().cross_entropy(z.as_tensor(), &y).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    // All of them ignored, so that no label is too large.
    let (none, y) =
        (Tensor::zeros((2, 0), DType::F32, &Device::Cpu).unwrap(), Tensor::new(&[-100i64; 2], &Device::Cpu).unwrap());
    let mut pass = recorder.pass(&[0, 1]).unwrap();
    let error = pass.ignore_index(-100).cross_entropy(&none, &y).unwrap_err().to_string();
    assert!(error.contains("0 classes"), "{error}");
}

/// An example whose target is ignored at its last visit keeps the label and the prediction of the visit before.
#[test]
fn an_ignored_target_is_no_label() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(dir.path(), &Taps::new(), Config::default()).unwrap();
    let z = Tensor::new(&[[3f32, 0.0, 0.0], [0.0, 4.0, 0.0]], &Device::Cpu).unwrap();
    for y in [[1i64, 2], [1, -100]] {
        let y = Tensor::new(&y, &Device::Cpu).unwrap();
        let mut pass = recorder.pass(&[10, 11]).unwrap();
        pass.ignore_index(-100).cross_entropy(&z, &y).unwrap();
        pass.commit(0.1).unwrap();
    }
    let mut pass = recorder.pass(&[12]).unwrap();
    let y = Tensor::new(&[-100i64], &Device::Cpu).unwrap();
    pass.ignore_index(-100).cross_entropy(&z.narrow(0, 0, 1).unwrap(), &y).unwrap();
    pass.commit(0.1).unwrap();
    recorder.finish().unwrap();
    let run = Run::open(dir.path()).unwrap();
    let table = ScoreQuestion::new(Score::Loss).compute(&run).unwrap();
    let mut labels: Vec<_> = table.rows.iter().map(|row| (row.example, row.label, row.prediction)).collect();
    assert_eq!((table.visits, table.left_out.unseen, table.left_out.not_finite), (3, 2, 0));
    labels.sort_unstable();
    assert_eq!(labels, [(10, Some(1), Some(0)), (11, Some(2), Some(1)), (12, None, None)]);
    let list = SuspectQuestion::new().compute(&run).unwrap();
    assert!(list.rows.iter().all(|row| row.label.is_none_or(|label| label < 3)));
}

/// candle_nn's losses have a gradient by their targets. One that is left out would change the training.
#[test]
fn a_target_with_a_gradient_is_refused() {
    let mut recorder = Recorder::disabled();
    let (z, target) = (logits(&[2, 3], DType::F32), logits(&[2, 3], DType::F32));
    let probabilities = candle_nn::ops::softmax(target.as_tensor(), 1).unwrap();
    type Loss = fn(&mut gradlog::Pass<'_>, &Tensor, &Tensor) -> std::result::Result<Tensor, gradlog::RecordError>;
    let all: [Loss; 3] = [
        |pass, z, t| pass.mse(z, t),
        |pass, z, t| pass.cross_entropy(z, t),
        |pass, z, t| pass.binary_cross_entropy_with_logits(z, t),
    ];
    for loss in all {
        let error = loss(&mut recorder.pass(&[0, 1]).unwrap(), z.as_tensor(), &probabilities).unwrap_err().to_string();
        assert!(error.contains("targets.detach()"), "{error}");
        loss(&mut recorder.pass(&[0, 1]).unwrap(), z.as_tensor(), &probabilities.detach()).unwrap();
    }
}
