//! Logits beside a loss that does not know them, and soft targets, against the definitions and candle's own backward.

use crate::common::*;
use candle_core::{DType, Device, Module, Result, Tensor, Var, D};
use candle_nn::ops::{log_softmax, softmax};
use gradlog::{Config, ProbePass, Recorder, Taps};
use gradlog_analysis::{Score, ScoreQuestion};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::Run;
use std::path::Path;

const CLASSES: usize = 3;
const BATCH: usize = 5;

/// A loss of each example from logits and class numbers, by candle's ops.
type Losses = fn(&Tensor, &Tensor) -> Result<Tensor>;

fn own(log_p: &Tensor, y: &Tensor) -> Result<Tensor> {
    log_p.gather(&y.unsqueeze(1)?, 1)?.squeeze(1)
}

fn label_smoothing(z: &Tensor, y: &Tensor) -> Result<Tensor> {
    let log_p = log_softmax(z, D::Minus1)?;
    (own(&log_p, y)? * -0.9)? - (log_p.mean(D::Minus1)? * 0.1)?
}

fn focal(z: &Tensor, y: &Tensor) -> Result<Tensor> {
    let log_p = own(&log_softmax(z, D::Minus1)?, y)?;
    (1.0 - log_p.exp()?)?.sqr()? * log_p.neg()?
}

fn distillation(z: &Tensor, _y: &Tensor) -> Result<Tensor> {
    let teacher = softmax(&(noise(9, &[BATCH, CLASSES]).narrow(0, 0, z.dim(0)?)? * 3.0)?, D::Minus1)?;
    (teacher * log_softmax(&(z / 2.0)?, D::Minus1)?)?.sum(D::Minus1)? * -4.0
}

/// What the definitions say of hard labels: EL2N, margin, confidence, correctness.
fn definitions(z: &[f32], label: usize) -> [f32; 4] {
    let p = numbers(&softmax(&Tensor::new(z, &Device::Cpu).unwrap(), 0).unwrap());
    let one = |k: usize| f32::from(u8::from(k == label));
    let el2n = (0..z.len()).map(|k| (p[k] - one(k)).powi(2)).sum::<f32>().sqrt();
    let rival = (0..z.len()).filter(|k| *k != label).map(|k| z[k]).fold(f32::MIN, f32::max);
    [el2n, z[label] - rival, p[label], f32::from(u8::from(z[label] > rival))]
}

fn close(a: f32, b: f32) -> bool {
    (a - b).abs() <= 1e-5 * b.abs().max(1.0)
}

const COLUMNS: [Column; 4] = [Column::El2n, Column::Margin, Column::Confidence, Column::Correct];

fn check_columns(dir: &Path, kind: BlockKind, z: &Tensor, labels: &[u32]) {
    let z = z.to_vec2::<f32>().unwrap();
    for (number, column) in COLUMNS.into_iter().enumerate() {
        let got = f32s(dir, kind, column);
        assert_eq!(got.len(), labels.len(), "{column:?}");
        for (i, got) in got.iter().enumerate() {
            let right = definitions(&z[i], labels[i] as usize)[number];
            assert!(close(*got, right), "{column:?} of example {i}: {got} {right}");
        }
    }
    assert_eq!(u32s(dir, kind, Column::Label), labels);
    let predictions = z.iter().map(|z| (0..z.len()).max_by(|a, b| z[*a].total_cmp(&z[*b])).unwrap() as u32);
    assert_eq!(u32s(dir, kind, Column::Prediction), predictions.collect::<Vec<_>>());
}

#[test]
fn any_loss_has_the_scores_of_its_logits_and_its_own_gradients() {
    let losses: [(&str, Losses); 3] =
        [("label smoothing", label_smoothing), ("focal", focal), ("distillation", distillation)];
    for (name, losses) in losses {
        let dir = tempfile::tempdir().unwrap();
        let model = one_layer(CLASSES);
        let (x, y) = (noise(1, &[BATCH, 4]), labels(BATCH));
        let ids: Vec<u64> = (0..BATCH as u64).collect();
        let mut recorder = Recorder::create(dir.path(), &model.taps, exact()).unwrap();
        // Probes: logits after the loss; training: before it.
        let z = {
            let mut probe = recorder.probe("test", &ids).unwrap();
            let z = model.layer.forward(&x).unwrap();
            let loss = probe.losses(&losses(&z, &y).unwrap()).unwrap();
            probe.logits(&z, &y).unwrap();
            loss.backward().unwrap();
            probe.commit().unwrap();
            z
        };
        let mut pass = recorder.pass(&ids).unwrap();
        let z_again = model.layer.forward(&x).unwrap();
        let loss = pass.logits(&z_again, &y).unwrap().losses(&losses(&z_again, &y).unwrap()).unwrap();
        loss.backward().unwrap();
        pass.commit(0.1).unwrap();
        recorder.finish().unwrap();
        for kind in [BlockKind::Visits, BlockKind::Probes] {
            check_columns(dir.path(), kind, &z, &y.to_vec1().unwrap());
            let (own, norms) = (f32s(dir.path(), kind, Column::Loss), f32s(dir.path(), kind, Column::SquaredNorm));
            for i in 0..BATCH {
                // candle, on the example alone; the teacher's row is its own.
                let one = losses(&model.layer.forward(&x).unwrap(), &y).unwrap().narrow(0, i, 1).unwrap();
                let grads = one.sum_all().unwrap().backward().unwrap();
                let gradients = model.variables.all_vars().into_iter().map(|v| numbers(grads.get(&v).unwrap()));
                let right: f64 = gradients.map(|g| dot(&g, &g)).sum();
                assert!((f64::from(norms[i]) / right - 1.0).abs() < 1e-4, "{name} {i}: {} {right}", norms[i]);
                assert!(close(own[i], numbers(&one)[0]), "{name} {i}");
            }
        }
        let run = Run::open(dir.path()).unwrap();
        for score in [Score::Aum, Score::El2n, Score::Forgetting, Score::Confidence, Score::Correctness] {
            let table = ScoreQuestion::new(score).compute(&run).unwrap();
            assert_eq!((table.visits, table.left_out.is_empty()), (BATCH as u64, true), "{name} {score:?}");
        }
    }
}

/// Records one pass of logits alone; `f` makes the loss.
fn record(ids: &[u64], f: impl FnOnce(&mut ProbePass<'_>)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(dir.path(), &Taps::new(), Config::default()).unwrap();
    let mut pass = recorder.probe("test", ids).unwrap();
    f(&mut pass);
    pass.commit().unwrap();
    recorder.finish().unwrap();
    dir
}

#[test]
fn soft_targets_are_judged_by_the_class_with_the_largest_share() {
    let z = (noise(5, &[BATCH, CLASSES]) * 4.0).unwrap();
    // Mixup of two classes, at several shares.
    let t = [[0.8f32, 0.2, 0.0], [0.3, 0.0, 0.7], [0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.2, 0.3, 0.5]];
    let (soft, label) = (Tensor::new(&t, &Device::Cpu).unwrap(), [0u32, 2, 0, 1, 2]);
    let y = Tensor::new(&label, &Device::Cpu).unwrap();
    let ids = [0, 1, 2, 3, 4];
    let p = softmax(&z, 1).unwrap();
    let el2n = numbers(&(p - &soft).unwrap().sqr().unwrap().sum(1).unwrap().sqrt().unwrap());
    let of_soft = record(&ids, |pass| {
        pass.losses(&label_smoothing(&z, &y).unwrap()).unwrap();
        pass.logits(&z, &soft).unwrap();
    });
    let of_cross_entropy = record(&ids, |pass| {
        pass.cross_entropy(&z, &soft).unwrap();
    });
    let of_hard = record(&ids, |pass| {
        pass.cross_entropy(&z, &y).unwrap();
    });
    for dir in [&of_soft, &of_cross_entropy] {
        assert!(relative_error(&f32s(dir.path(), BlockKind::Probes, Column::El2n), &el2n) < 1e-5);
        for column in [Column::Margin, Column::Confidence, Column::Correct] {
            let column = |dir: &tempfile::TempDir| f32s(dir.path(), BlockKind::Probes, column);
            assert!(relative_error(&column(dir), &column(&of_hard)) < 1e-6);
        }
        assert_eq!(u32s(dir.path(), BlockKind::Probes, Column::Label), label);
    }
}

#[test]
fn cross_entropy_takes_soft_targets() {
    let shares = softmax(&(noise(6, &[BATCH, CLASSES]) * 2.0).unwrap(), 1).unwrap();
    for dtype in [DType::F32, DType::F64, DType::BF16] {
        let z = Var::from_tensor(&(noise(5, &[BATCH, CLASSES]) * 4.0).unwrap().to_dtype(dtype).unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::create(dir.path(), &Taps::new(), Config::default()).unwrap();
        let mut pass = recorder.pass(&[0, 1, 2, 3, 4]).unwrap();
        let loss = pass.cross_entropy(z.as_tensor(), &shares.to_dtype(dtype).unwrap()).unwrap();
        let gradient = loss.backward().unwrap().get(&z).unwrap().to_dtype(DType::F32).unwrap();
        pass.commit(0.1).unwrap();
        recorder.finish().unwrap();
        // candle, in f64 from the same rounded numbers.
        let wide = Var::from_tensor(&z.to_dtype(DType::F64).unwrap()).unwrap();
        let t = shares.to_dtype(dtype).unwrap().to_dtype(DType::F64).unwrap();
        let own = (log_softmax(wide.as_tensor(), 1).unwrap() * t).unwrap().sum(1).unwrap().neg().unwrap();
        let theirs = own.mean_all().unwrap();
        let tolerance = if dtype == DType::BF16 { 1e-2 } else { 1e-5 };
        let right = theirs.backward().unwrap().get(&wide).unwrap().to_dtype(DType::F32).unwrap();
        assert!(relative_error(&numbers(&gradient), &numbers(&right)) < tolerance, "{dtype:?}");
        let recorded = f32s(dir.path(), BlockKind::Visits, Column::Loss);
        assert!(relative_error(&recorded, &numbers(&own.to_dtype(DType::F32).unwrap())) < 1e-5, "{dtype:?}");
    }
}

#[test]
fn positions_masks_and_ignored_targets_are_those_of_cross_entropy() {
    let (b, t) = (3, 4);
    let z = (noise(5, &[b, t, CLASSES]) * 3.0).unwrap();
    let targets: Vec<i64> = (0..12).map(|i| if i % 5 == 4 || i > 8 { -100 } else { i % 3 }).collect();
    let y = Tensor::from_vec(targets.clone(), (b, t), &Device::Cpu).unwrap();
    let counted: Vec<u8> = targets.iter().map(|y| u8::from(*y >= 0)).collect();
    let mask = Tensor::from_vec(counted, (b, t), &Device::Cpu).unwrap();
    let clean =
        Tensor::from_vec(targets.iter().map(|y| (*y).max(0)).collect::<Vec<_>>(), (b, t), &Device::Cpu).unwrap();
    let one_hot: Vec<f32> = targets.iter().flat_map(|y| (0..3).map(move |k| f32::from(u8::from(k == *y)))).collect();
    let soft = Tensor::from_vec(one_hot, (b, t, CLASSES), &Device::Cpu).unwrap();
    let (ids, losses) = ([0, 1, 2], noise(8, &[3]));
    let reference = record(&ids, |pass| {
        pass.ignore_index(-100).cross_entropy(&z, &y).unwrap();
    });
    let by_index = record(&ids, |pass| {
        pass.ignore_index(-100).logits(&z, &y).unwrap().losses(&losses).unwrap();
    });
    let by_mask = record(&ids, |pass| {
        pass.losses(&losses).unwrap();
        pass.mask(&mask).logits(&z, &clean).unwrap();
    });
    let by_soft_mask = record(&ids, |pass| {
        pass.mask(&mask).logits(&z, &soft).unwrap().losses(&losses).unwrap();
    });
    for dir in [&by_index, &by_mask, &by_soft_mask] {
        for column in COLUMNS {
            let of = |dir: &tempfile::TempDir| f32s(dir.path(), BlockKind::Probes, column);
            for (got, right) in of(dir).into_iter().zip(of(&reference)) {
                assert!(close(got, right) || got.is_nan() && right.is_nan(), "{column:?} {got} {right}");
            }
        }
        assert_eq!(u32s(dir.path(), BlockKind::Probes, Column::Positions), [4, 3, 1]);
        assert_eq!(f32s(dir.path(), BlockKind::Probes, Column::Loss), numbers(&losses));
    }
}

#[test]
fn logits_that_would_have_no_effect_or_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(dir.path(), &Taps::new(), Config::default()).unwrap();
    let (z, y, losses) = (noise(1, &[2, 3]), labels(2), noise(2, &[2]));
    let mut says = |words: &str, f: &dyn Fn(&mut ProbePass<'_>) -> std::result::Result<(), gradlog::RecordError>| {
        let mut pass = recorder.probe("test", &[1, 2]).unwrap();
        let error = f(&mut pass).and_then(|()| pass.commit()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    says("twice", &|pass| pass.logits(&z, &y)?.logits(&z, &y).map(drop));
    says("no loss", &|pass| pass.logits(&z, &y).map(drop));
    says("its own logits", &|pass| pass.logits(&z, &y)?.cross_entropy(&z, &y).map(drop));
    says("its own logits", &|pass| {
        pass.cross_entropy(&z, &y)?;
        pass.logits(&z, &y).map(drop)
    });
    says("3 examples for 2 ids", &|pass| pass.logits(&noise(1, &[3, 3]), &labels(3)).map(drop));
    says("`pass.logits`", &|pass| pass.cross_entropy(&z, &noise(1, &[2, 4])).map(drop));
    says("probabilities are floats", &|pass| {
        pass.logits(&z, &y.unsqueeze(1).unwrap().repeat((1, 3)).unwrap()).map(drop)
    });
    says("use `pass.mask`", &|pass| pass.ignore_index(9).logits(&z, &softmax(&z, 1).unwrap()).map(drop));
    says("have no effect on this loss", &|pass| pass.mask(&y).losses(&losses).map(drop));
    says("`mask` was set after", &|pass| pass.logits(&z, &y)?.mask(&y).losses(&losses).map(drop));
    says("must be floats", &|pass| pass.losses(&y).map(drop));
    let two = Tensor::new(&[[2f32, 0.0], [1.0, 1.0]], &Device::Cpu).unwrap();
    says("a target is 2", &|pass| pass.binary_cross_entropy_with_logits(&noise(3, &[2, 2]), &two).map(drop));
    drop(recorder);
    // A disabled recorder computes nothing and refuses nothing.
    let mut recorder = Recorder::disabled();
    let mut pass = recorder.pass(&[1, 2]).unwrap();
    pass.logits(&noise(1, &[3, 3]), &y).unwrap().losses(&losses).unwrap();
    pass.commit(0.1).unwrap();
}

/// A squared error on one-hot targets is a loss of logits too, and so is one from a backward pass for each example.
#[test]
fn squared_errors_and_loops_over_examples_take_logits() {
    let (z, y) = ((noise(5, &[BATCH, CLASSES]) * 2.0).unwrap(), labels(BATCH));
    let ids = [0, 1, 2, 3, 4];
    let dir = record(&ids, |pass| {
        pass.mse(&z, &noise(6, &[BATCH, CLASSES])).unwrap();
        pass.logits(&z, &y).unwrap();
    });
    check_columns(dir.path(), BlockKind::Probes, &z, &y.to_vec1().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let model = one_layer(CLASSES);
    let taps = Taps::new();
    taps.declare_variables(&model.variables);
    let x = noise(1, &[BATCH, 4]);
    let mut recorder = Recorder::create(dir.path(), &taps, exact()).unwrap();
    let mut pass = recorder.pass(&ids).unwrap();
    let z = model.layer.forward(&x).unwrap();
    let alone = |i: usize| focal(&model.layer.forward(&row(&x, i)?)?, &y.narrow(0, i, 1)?)?.sum_all();
    pass.logits(&z, &y).unwrap().per_example(alone).unwrap();
    pass.commit(0.1).unwrap();
    recorder.finish().unwrap();
    check_columns(dir.path(), BlockKind::Visits, &z, &y.to_vec1().unwrap());
}
