//! Layers in a pass: severed from the loss, used by two losses, or left out.

use crate::common::*;
use candle_core::{DType, Device, Module, Tensor, Var};
use candle_nn::{layer_norm, linear, Conv1d, LayerNorm, VarMap};
use gradlog::taps::Taps;
use gradlog::{Config, RecordError, Recorder};
use gradlog_analysis::InfluenceQuestion;
use gradlog_format::run::Run;

#[test]
fn a_gradient_that_is_severed_is_named_with_its_cause() {
    let dir = tempfile::tempdir().unwrap();
    let model = one_layer(3);
    let norm_weight = Tensor::ones(3, DType::F32, &Device::Cpu).unwrap();
    let zero = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
    let head = model.taps.tap("head", noise_linear(5, 3, 3));
    let mut recorder = Recorder::create(dir.path().join("run"), &model.taps, Config::default()).unwrap();
    let mut go = |norm: &dyn Fn(&Tensor) -> Tensor| {
        let mut pass = recorder.pass(&[0, 1, 2, 3, 4]).unwrap();
        let hidden = norm(&model.layer.forward(&noise(1, &[5, 4])).unwrap());
        let loss = pass.cross_entropy(&head.forward(&hidden).unwrap(), &labels(5)).unwrap();
        loss.backward().unwrap();
        pass.commit(0.1)
    };
    // candle-nn 0.11's LayerNorm has no backward. Should a later version gain one, this test says that the words can
    // go.
    let severing = LayerNorm::new(norm_weight.clone(), zero.clone(), 1e-5);
    let error = go(&|x| Module::forward(&severing, x).unwrap()).unwrap_err();
    assert!(matches!(&error, RecordError::Severed { layers, .. } if layers[..] == ["fc".to_owned()]), "{error}");
    assert!(error.to_string().contains("LayerNorm"), "{error}");
    // The same norm tapped, here with taps of its own, lets the gradient through.
    let tapped = Taps::new().tap("norm", LayerNorm::new(norm_weight, zero, 1e-5));
    go(&|x| tapped.forward(x).unwrap()).unwrap();
    assert_eq!(recorder.finish().unwrap().visits, 5, "the refused pass recorded nothing, the next one all");
}

#[test]
fn a_tapped_layer_norm_trains_what_lies_before_it() {
    let variables = VarMap::new();
    let vb = builder(&variables);
    let first = linear(4, 3, vb.pp("fc")).unwrap();
    let norm = Taps::new().tap("norm", layer_norm(3, 1e-5, vb.pp("norm")).unwrap());
    let loss = norm.forward(&first.forward(&noise(1, &[5, 4])).unwrap()).unwrap().sqr().unwrap().mean_all().unwrap();
    let loss = (loss
        + norm
            .forward(&first.forward(&noise(2, &[5, 4])).unwrap())
            .unwrap()
            .narrow(1, 0, 1)
            .unwrap()
            .mean_all()
            .unwrap())
    .unwrap();
    assert!(loss.backward().unwrap().get(first.weight()).is_some());
}

#[test]
fn a_second_backward_is_refused_and_not_counted_twice() {
    let dir = tempfile::tempdir().unwrap();
    let model = one_layer(3);
    let mut recorder = Recorder::create(dir.path(), &model.taps, Config::default()).unwrap();
    for shape in [vec![3, 4], vec![3, 2, 4]] {
        let x = noise(1, &shape);
        let logits = |x: &Tensor| {
            let y = model.layer.forward(x).unwrap();
            if y.rank() == 3 {
                y.mean(1).unwrap()
            } else {
                y
            }
        };
        let mut pass = recorder.pass(&[1, 2, 3]).unwrap();
        let loss = pass.cross_entropy(&logits(&x), &labels(3)).unwrap();
        loss.backward().unwrap();
        loss.backward().unwrap();
        let error = pass.commit(0.1).unwrap_err().to_string();
        assert!(error.contains("more than once"), "{error}");
        let mut pass = recorder.pass(&[1, 2, 3]).unwrap();
        pass.cross_entropy(&logits(&x), &labels(3)).unwrap().backward().unwrap();
        logits(&x).sum_all().unwrap().backward().unwrap();
        // Used twice, once with each loss: for one position per example that is a sum of two uses, else it is refused.
        let second = pass.commit(0.1);
        assert_eq!(second.is_err(), shape.len() == 3);
    }
    assert_eq!(recorder.finish().unwrap().visits, 3);
}

#[test]
fn an_optional_layer_may_be_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let model = one_layer(3);
    let extra = model.taps.tap_optional("extra", noise_linear(3, 3, 4));
    let mut recorder = Recorder::create(&run, &model.taps, Config::default()).unwrap();
    for (number, with) in [true, false, false, true].into_iter().enumerate() {
        let mut pass = recorder.pass(&[number as u64, 9]).unwrap();
        let x = noise(1, &[2, 4]);
        let mut logits = model.layer.forward(&x).unwrap();
        if with {
            logits = (logits + extra.forward(&x).unwrap()).unwrap();
        }
        pass.cross_entropy(&logits, &labels(2)).unwrap().backward().unwrap();
        pass.commit(0.1).unwrap();
    }
    recorder.finish().unwrap();
    assert_eq!(visited(&run), [0, 9, 1, 9, 2, 9, 3, 9]);
    assert!(Run::open(&run).unwrap().verify().unwrap().damage.is_none());
}

/// One whose gradient is folded and no other's is: its visits stay comparable, whichever pass leaves it out.
#[test]
fn an_optional_layer_that_is_folded_has_the_gradient_zero_where_it_is_left_out() {
    for first in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let model = one_layer(3);
        let kernel = Var::from_tensor(&noise(3, &[3, 1, 2])).unwrap();
        let extra = model.taps.tap_optional("extra", Conv1d::new(kernel.as_tensor().clone(), None, Default::default()));
        let mut recorder = Recorder::create(dir.path(), &model.taps, Config::default()).unwrap();
        let logits = |x: &Tensor, with: bool| {
            let logits = model.layer.forward(x).unwrap();
            match with {
                true => (logits + extra.forward(&x.unsqueeze(1).unwrap()).unwrap().sum(2).unwrap()).unwrap(),
                false => logits,
            }
        };
        for step in 0..6 {
            let (with, x) = ((step % 2 == 0) == first, noise(step, &[2, 4]));
            let mut probe = recorder.probe("test", &[7]).unwrap();
            let one = logits(&x.narrow(0, 0, 1).unwrap(), with);
            probe.cross_entropy(&one, &labels(1)).unwrap().backward().unwrap();
            probe.commit().unwrap();
            let mut pass = recorder.pass(&[step, 100 + step]).unwrap();
            pass.cross_entropy(&logits(&x, with), &labels(2)).unwrap().backward().unwrap();
            pass.commit(0.1).unwrap();
        }
        recorder.finish().unwrap();
        let found = InfluenceQuestion::new("test").id(7).compute(&Run::open(dir.path()).unwrap()).unwrap();
        assert_eq!((found.visits, found.left_out.other_layers, found.left_out.probe_records), (12, 0, 0), "{first}");
    }
}
