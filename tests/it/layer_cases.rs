//! Cases that people meet: frozen and derived parameters, parts of a batch, views, detached parts, first batches of one
//! position, a teacher. Each is right by candle's own backward on one example, or refused with advice that fits.

use crate::common::*;
use candle_core::{DType, Device, Module, Result, Tensor, Var};
use candle_nn::{linear, Linear};
use gradlog::taps::{LastLayer, Tapped, Taps};
use gradlog::{Config, RecordError, Recorder};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::Run;
use std::path::Path;

fn norms(dir: &Path) -> Vec<f32> {
    f32s(dir, BlockKind::Visits, Column::SquaredNorm)
}

fn flags(dir: &Path) -> Vec<u8> {
    u8s(dir, BlockKind::Visits, Column::Flags)
}

fn var(seed: u64, shape: &[usize]) -> Var {
    Var::from_tensor(&noise(seed, shape)).unwrap()
}

/// A loss that depends on the outputs: `Σ y³` of each example.
fn cubes(y: &Tensor) -> Tensor {
    y.powf(3.0).unwrap().flatten_from(1).unwrap().sum(1).unwrap()
}

/// By candle: the squared norm of the gradient of `loss(i)` by `variables`, of each example alone.
fn squared_norms(count: usize, variables: &[&Var], loss: impl Fn(usize) -> Tensor) -> Vec<f32> {
    let own = |i| {
        let grads = loss(i).sum_all().unwrap().backward().unwrap();
        let squares = variables.iter().filter_map(|v| grads.get(v)).map(numbers).map(|g| dot(&g, &g));
        squares.sum::<f64>() as f32
    };
    (0..count).map(own).collect()
}

#[test]
fn features_without_a_last_layer_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (number, taps) in [Taps::new(), one_layer(3).taps].into_iter().enumerate() {
        let mut recorder = Recorder::create(dir.path().join(number.to_string()), &taps, Config::default()).unwrap();
        let mut probe = recorder.probe("test", &[1, 2]).unwrap();
        probe.features(&noise(1, &[2, 4]));
        probe.cross_entropy(&noise(2, &[2, 3]), &labels(2)).unwrap();
        let error = probe.commit().unwrap_err().to_string();
        assert!(error.contains("no last layer is declared") && error.contains("declare_last_layer"), "{error}");
    }
}

#[test]
fn a_linear_layer_is_recorded_by_what_of_it_is_trained() {
    for positions in [1, 3] {
        for frozen in ["weight", "bias"] {
            let dir = tempfile::tempdir().unwrap();
            let (w, b, before) = (var(1, &[4, 5]), var(2, &[4]), var(3, &[5, 5]));
            let taps = Taps::new();
            let is_trained = |name: &str, var: &Var| match name == frozen {
                true => var.as_tensor().detach(),
                false => var.as_tensor().clone(),
            };
            // A trained layer before it needs its input's gradient.
            let first = taps.tap("first", Linear::new(before.as_tensor().clone(), None));
            let layer = taps.tap("fc", Linear::new(is_trained("weight", &w), Some(is_trained("bias", &b))));
            let trained = if frozen == "weight" { &b } else { &w };
            let model = |x: &Tensor| layer.forward(&first.forward(x).unwrap().tanh().unwrap()).unwrap();
            let shape: &[usize] = if positions == 1 { &[3, 5] } else { &[3, positions, 5] };
            let mut recorder = Recorder::create(dir.path(), &taps, exact()).unwrap();
            for step in 0..2 {
                let x = noise(10 + step, shape);
                let mut pass = recorder.pass(&[0, 1, 2]).unwrap();
                let loss = pass.losses(&cubes(&model(&x))).unwrap();
                let grads = loss.backward().unwrap();
                pass.commit(0.1).unwrap();
                assert!(grads.get(trained).is_some());
            }
            recorder.finish().unwrap();
            let recorded = norms(dir.path());
            for step in 0..2 {
                let x = noise(10 + step, shape);
                let right = squared_norms(3, &[&before, trained], |i| cubes(&model(&row(&x, i).unwrap())));
                let got = &recorded[3 * step as usize..][..3];
                assert!(relative_error(got, &right) < 1e-4, "{frozen} {positions}: {got:?} {right:?}");
            }
            let layer = &Run::open(dir.path()).unwrap().manifest().layers[1].clone();
            let names: Vec<&str> = layer.shapes.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, [if frozen == "weight" { "bias" } else { "weight" }]);
            assert!(!layer.bias);
        }
    }
}

#[test]
fn what_is_computed_from_variables_is_not_called_untrained() {
    let dir = tempfile::tempdir().unwrap();
    let refusal = |layer: Linear| {
        let taps = Taps::new();
        let _ = taps.tap("fc", layer);
        Recorder::create(dir.path().join("run"), &taps, Config::default()).err().unwrap().to_string()
    };
    // A weight norm, and another layer's weight transposed.
    let (v, g) = (var(1, &[4, 5]), var(2, &[4, 1]));
    let length = v.sqr().unwrap().sum_keepdim(1).unwrap().sqrt().unwrap();
    let normed = v.broadcast_div(&length).unwrap().broadcast_mul(g.as_tensor()).unwrap();
    for derived in [normed, var(3, &[5, 4]).t().unwrap()] {
        let error = refusal(Linear::new(derived, Some(var(4, &[4]).into_inner())));
        assert!(error.contains("computed from variables") && error.contains("`Tap`"), "{error}");
        assert!(error.contains("declare_variables") && !error.contains("not trained"), "{error}");
    }
    let error = refusal(Linear::new(noise(3, &[3, 4]), Some(noise(3, &[3]))));
    assert!(error.contains("nothing else in it is trained"), "{error}");
    // Other layers than linear ones say which parameter it is.
    let taps = Taps::new();
    let _ = taps.tap("norm", candle_nn::LayerNorm::new(var(1, &[4]).into_inner(), noise(2, &[4]), 1e-5));
    let error = Recorder::create(dir.path().join("run"), &taps, Config::default()).err().unwrap().to_string();
    assert!(error.contains("its bias is not a variable") && error.contains("its weight is trained"), "{error}");
}

#[test]
fn parts_and_multiples_of_a_batch_have_advice_that_fits() {
    let dir = tempfile::tempdir().unwrap();
    let model = one_layer(3);
    let mut recorder = Recorder::create(dir.path(), &model.taps, Config::default()).unwrap();
    let mut says = |rows: usize, words: &[&str]| {
        let mut pass = recorder.pass(&[1, 2, 3, 4]).unwrap();
        let sum = model.layer.forward(&noise(1, &[rows, 4])).unwrap().sum_all().unwrap();
        pass.losses(&sum.reshape(1).unwrap().repeat(4).unwrap()).unwrap().backward().unwrap();
        let error = pass.commit(0.1).unwrap_err().to_string();
        words.iter().for_each(|word| assert!(error.contains(word), "{word}: {error}"));
    };
    says(8, &["first dimension is 8 in a pass over 4 ids", "2 views", "an id for each row"]);
    says(3, &["an expert, a head", "`taps.tap_optional`"]);
    says(7, &["first dimension is 7", "[batch, positions, width]"]);
}

/// What the advice for views says: an id for each row. Two views are two visits of the example.
#[test]
fn two_views_of_each_example_are_two_visits() {
    let dir = tempfile::tempdir().unwrap();
    let model = one_layer(3);
    let mut recorder = Recorder::create(dir.path(), &model.taps, exact()).unwrap();
    let x = Tensor::cat(&[noise(1, &[2, 4]), noise(2, &[2, 4])], 0).unwrap();
    let losses = |x: &Tensor| cubes(&model.layer.forward(x).unwrap());
    let mut pass = recorder.pass(&[5, 6, 5, 6]).unwrap();
    pass.losses(&losses(&x)).unwrap().backward().unwrap();
    pass.commit(0.1).unwrap();
    recorder.finish().unwrap();
    let variables = model.variables.all_vars();
    let right = squared_norms(4, &variables.iter().collect::<Vec<_>>(), |i| losses(&row(&x, i).unwrap()));
    assert!(relative_error(&norms(dir.path()), &right) < 1e-4);
    assert_eq!(visited(dir.path()), [5, 6, 5, 6]);
}

/// What the advice for experts says: all rows, and an output of 0 where the expert does not apply.
#[test]
fn an_expert_that_is_masked_has_the_gradient_of_its_examples() {
    let dir = tempfile::tempdir().unwrap();
    let model = one_layer(3);
    let expert = model.taps.tap_optional("expert", noise_linear(7, 3, 4));
    let mut recorder = Recorder::create(dir.path(), &model.taps, exact()).unwrap();
    let x = noise(1, &[4, 4]);
    let gate = Tensor::new(&[[1f32], [0.0], [1.0], [0.0]], &Device::Cpu).unwrap();
    let logits = |x: &Tensor, gate: &Tensor| {
        let own = expert.forward(x).unwrap().broadcast_mul(gate).unwrap();
        (model.layer.forward(x).unwrap() + own).unwrap()
    };
    let mut pass = recorder.pass(&[0, 1, 2, 3]).unwrap();
    pass.losses(&cubes(&logits(&x, &gate))).unwrap().backward().unwrap();
    pass.commit(0.1).unwrap();
    recorder.finish().unwrap();
    let right: Vec<f32> = (0..4)
        .map(|i| {
            let one = cubes(&logits(&row(&x, i).unwrap(), &row(&gate, i).unwrap())).sum_all().unwrap();
            let grads = one.backward().unwrap();
            let of = |t: &Tensor| grads.get(t).map_or(0.0, |g| dot(&numbers(g), &numbers(g)));
            (model.variables.all_vars().iter().map(|v| of(v.as_tensor())).sum::<f64>() + of(expert.inner().weight()))
                as f32
        })
        .collect();
    assert!(relative_error(&norms(dir.path()), &right) < 1e-4);
}

/// A body and a head, of which the body is detached at first.
struct Unfreezing {
    body: Tapped<Linear>,
    head: Tapped<Linear>,
    variables: candle_nn::VarMap,
}

impl Unfreezing {
    fn new(taps: &Taps, tap: impl Fn(&Taps, &str, Linear) -> Tapped<Linear>) -> Self {
        let variables = candle_nn::VarMap::new();
        let body = tap(taps, "body", linear(4, 5, builder(&variables).pp("body")).unwrap());
        let head = taps.tap("head", linear(5, 3, builder(&variables).pp("head")).unwrap());
        Self { body, head, variables }
    }

    fn logits(&self, x: &Tensor, frozen: bool) -> Result<Tensor> {
        let h = self.body.forward(x)?.tanh()?;
        let y = self.head.forward(&if frozen { h.detach() } else { h })?;
        if y.rank() == 3 {
            y.mean(1)
        } else {
            Ok(y)
        }
    }
}

#[test]
fn a_part_that_is_detached_for_a_while_has_the_gradient_zero_and_a_label() {
    for positions in [1, 2] {
        let dir = tempfile::tempdir().unwrap();
        let taps = Taps::new();
        let model = Unfreezing::new(&taps, |taps, name, layer| taps.tap_optional(name, layer));
        let mut recorder = Recorder::create(dir.path(), &taps, exact()).unwrap();
        let shape: &[usize] = if positions == 1 { &[2, 4] } else { &[2, positions, 4] };
        for step in 0..3 {
            let mut pass = recorder.pass(&[0, 1]).unwrap();
            let losses = cubes(&model.logits(&noise(step, shape), step < 2).unwrap());
            pass.losses(&losses).unwrap().backward().unwrap();
            pass.commit(0.1).unwrap();
        }
        recorder.finish().unwrap();
        let variables = model.variables.all_vars();
        for step in 0..3 {
            let x = noise(step, shape);
            let loss = |i| cubes(&model.logits(&row(&x, i).unwrap(), step < 2).unwrap());
            let right = squared_norms(2, &variables.iter().collect::<Vec<_>>(), loss);
            let got = &norms(dir.path())[2 * step as usize..][..2];
            assert!(relative_error(got, &right) < 1e-4, "{positions} {step}: {got:?} {right:?}");
        }
        let label = Column::FLAG_NO_GRADIENT;
        assert_eq!(flags(dir.path()), [label, label, label, label, 0, 0]);
        let info = gradlog(&["info", dir.path().to_str().unwrap()]);
        assert!(info.out.contains("a layer had no gradient in 4 visits"), "{}", info.out);
        // The form that the detached layer showed is the one that it keeps, so all visits can be compared.
        let blocks = blocks(dir.path(), BlockKind::Visits);
        let factored = |block: &gradlog_format::run::Block| {
            block.has(gradlog_format::log::ColumnKey { column: Column::Input, layer: 0 })
        };
        assert!(blocks.iter().all(|block| factored(block) == (positions == 1)));
    }
    // A layer that must be reached says what to do.
    let dir = tempfile::tempdir().unwrap();
    let taps = Taps::new();
    let model = Unfreezing::new(&taps, |taps, name, layer| taps.tap(name, layer));
    let mut recorder = Recorder::create(dir.path(), &taps, Config::default()).unwrap();
    let mut pass = recorder.pass(&[0, 1]).unwrap();
    pass.losses(&cubes(&model.logits(&noise(1, &[2, 4]), true).unwrap())).unwrap().backward().unwrap();
    let error = pass.commit(0.1).unwrap_err();
    assert!(matches!(&error, RecordError::Severed { layers, .. } if layers[..] == ["body".to_owned()]));
    assert!(error.to_string().contains("tap these layers with `taps.tap_optional`"), "{error}");
}

#[test]
fn a_teacher_inside_the_pass_is_told_where_it_belongs() {
    let dir = tempfile::tempdir().unwrap();
    let model = one_layer(3);
    let x = noise(1, &[2, 4]);
    let logits = || model.layer.forward(&x).unwrap();
    let mut recorder = Recorder::create(dir.path(), &model.taps, Config::default()).unwrap();
    let mut pass = recorder.pass(&[0, 1]).unwrap();
    let teacher = logits().detach();
    let losses = cubes(&(logits() - teacher).unwrap());
    pass.losses(&losses).unwrap().backward().unwrap();
    let error = pass.commit(0.1).unwrap_err().to_string();
    assert!(error.contains("of a teacher") && error.contains("run it before `recorder.pass`"), "{error}");
    let teacher = logits().detach();
    let mut pass = recorder.pass(&[0, 1]).unwrap();
    pass.losses(&cubes(&(logits() - teacher).unwrap())).unwrap().backward().unwrap();
    pass.commit(0.1).unwrap();
}

/// The first batch of a language model may have one token.
#[test]
fn a_layer_may_be_folded_from_the_first_pass_on() {
    for (number, optional) in [false, true].into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let taps = Taps::new();
        let weight = var(1, &[3, 4]);
        let layer = Linear::new(weight.as_tensor().clone(), None);
        let layer = match optional {
            true => taps.tap_optional_folded("fc", layer),
            false => taps.tap_folded("fc", layer),
        };
        let other = taps.tap("other", noise_linear(2, 3, 4));
        let mut recorder = Recorder::create(dir.path(), &taps, exact()).unwrap();
        let positions = [1, 3, 1, 2];
        let losses = |x: &Tensor, step: usize| {
            let left_out = optional && step == 0;
            let own = (!left_out).then(|| layer.forward(x).unwrap().sum(1).unwrap());
            let sum = other.forward(&x.sum(1).unwrap()).unwrap();
            cubes(&own.map_or(sum.clone(), |own| (own + sum).unwrap()))
        };
        for (step, positions) in positions.into_iter().enumerate() {
            let mut pass = recorder.pass(&[0, 1]).unwrap();
            let loss = pass.losses(&losses(&noise(step as u64, &[2, positions, 4]), step)).unwrap();
            loss.backward().unwrap();
            pass.commit(0.1).unwrap();
        }
        recorder.finish().unwrap();
        let recorded = norms(dir.path());
        for (step, positions) in positions.into_iter().enumerate() {
            let x = noise(step as u64, &[2, positions, 4]);
            let right: Vec<f32> = (0..2)
                .map(|i| {
                    let one = losses(&row(&x, i).unwrap(), step).sum_all().unwrap().backward().unwrap();
                    let of = |t: &Tensor| one.get(t).map_or(0.0, |g| dot(&numbers(g), &numbers(g)));
                    (of(weight.as_tensor()) + of(other.inner().weight())) as f32
                })
                .collect();
            assert!(relative_error(&recorded[2 * step..][..2], &right) < 1e-4, "{optional} {step}");
        }
        let layouts: Vec<bool> =
            blocks(dir.path(), BlockKind::Visits).iter().map(|block| block.has(Column::Folded)).collect();
        assert!(layouts.iter().all(|folded| *folded), "{number}");
    }
    // Without it, the error names it.
    let dir = tempfile::tempdir().unwrap();
    let model = one_layer(3);
    let mut recorder = Recorder::create(dir.path(), &model.taps, Config::default()).unwrap();
    let mut record = |positions: usize| {
        let mut pass = recorder.pass(&[0, 1])?;
        let y = model.layer.forward(&noise(1, &[2, positions, 4]))?;
        pass.losses(&cubes(&y))?.backward()?;
        pass.commit(0.1)
    };
    record(1).unwrap();
    let error = record(2).unwrap_err().to_string();
    assert!(error.contains("`taps.tap_folded`"), "{error}");
}

#[test]
fn a_declared_last_layer_may_be_folded_from_the_first_pass_on() {
    let dir = tempfile::tempdir().unwrap();
    let head = Linear::new(var(1, &[3, 4]).into_inner(), None);
    let record = |declared: LastLayer, run: &str| {
        let taps = Taps::new();
        taps.declare_last_layer("head", declared.without_bias());
        let mut recorder = Recorder::create(dir.path().join(run), &taps, exact()).unwrap();
        for positions in [1, 2] {
            let features = noise(positions as u64, &[2, positions, 4]);
            let y = Tensor::zeros((2, positions), DType::U32, &Device::Cpu).unwrap();
            let mut pass = recorder.pass(&[0, 1])?;
            pass.features(&features);
            pass.cross_entropy(&head.forward(&features)?, &y)?.backward()?;
            pass.commit(0.1)?;
        }
        recorder.finish()
    };
    let error = record(LastLayer::new(4, 3), "a").unwrap_err().to_string();
    assert!(error.contains("LastLayer::folded"), "{error}");
    record(LastLayer::new(4, 3).folded(), "b").unwrap();
    let recorded = norms(&dir.path().join("b"));
    for positions in [1usize, 2] {
        let features = noise(positions as u64, &[2, positions, 4]);
        let weight = Var::from_tensor(head.weight()).unwrap();
        let head = Linear::new(weight.as_tensor().clone(), None);
        let right = squared_norms(2, &[&weight], |i| {
            let z = head.forward(&row(&features, i).unwrap()).unwrap().reshape((positions, 3)).unwrap();
            let y = Tensor::zeros(positions, DType::U32, &Device::Cpu).unwrap();
            candle_nn::loss::cross_entropy(&z, &y).unwrap()
        });
        assert!(relative_error(&recorded[2 * positions - 2..][..2], &right) < 1e-4);
    }
}

#[test]
fn a_loss_without_a_gradient_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let model = one_layer(3);
    let x = noise(1, &[2, 4]);
    let mut recorder = Recorder::create(dir.path(), &model.taps, Config::default()).unwrap();
    // candle prunes a product with the number 0 from the graph.
    let mut pass = recorder.pass(&[0, 1]).unwrap();
    let loss = pass.cross_entropy(&model.layer.forward(&x).unwrap(), &labels(2)).unwrap();
    (loss * 0.0).unwrap().backward().unwrap();
    let error = pass.commit(0.1).unwrap_err().to_string();
    assert!(error.contains("a product with the number 0") && error.contains("`pass.weights`"), "{error}");
    // What the text advises.
    let mut pass = recorder.pass(&[0, 1]).unwrap();
    pass.weights(&[0.0; 2]);
    pass.cross_entropy(&model.layer.forward(&x).unwrap(), &labels(2)).unwrap().backward().unwrap();
    pass.commit(0.1).unwrap();
    // Losses that were read out of the graph.
    let mut pass = recorder.pass(&[0, 1]).unwrap();
    let losses = cubes(&model.layer.forward(&x).unwrap()).detach();
    pass.losses(&losses).unwrap().backward().unwrap();
    let error = pass.commit(0.1).unwrap_err().to_string();
    assert!(error.contains("depends on no variable"), "{error}");
    recorder.finish().unwrap();
    assert_eq!(flags(dir.path()), [Column::FLAG_NO_WEIGHT; 2]);
}

/// Gradient checkpointing: the first forward keeps no graph, and each part runs forward again before its backward.
#[test]
fn a_part_that_is_computed_again_before_its_backward_has_the_whole_gradient() {
    for positions in [1, 3] {
        let dir = tempfile::tempdir().unwrap();
        let (taps, variables) = (Taps::new(), candle_nn::VarMap::new());
        let first = taps.tap("first", linear(4, 5, builder(&variables).pp("first")).unwrap());
        let second = taps.tap("second", linear(5, 3, builder(&variables).pp("second")).unwrap());
        let start = |x: &Tensor| first.forward(x).unwrap().tanh().unwrap();
        let mut recorder = Recorder::create(dir.path(), &taps, exact()).unwrap();
        let x = noise(1, &[2, positions, 4]);
        let mut pass = recorder.pass(&[0, 1]).unwrap();
        let h = {
            let _paused = taps.pause();
            Var::from_tensor(&start(&x).detach()).unwrap()
        };
        let loss = pass.losses(&cubes(&second.forward(&h).unwrap())).unwrap();
        let grads = loss.backward().unwrap();
        let by_h = grads.get(&h).unwrap().detach();
        (start(&x) * by_h).unwrap().sum_all().unwrap().backward().unwrap();
        pass.commit(0.1).unwrap();
        recorder.finish().unwrap();
        let all = variables.all_vars();
        let whole = |i| cubes(&second.forward(&start(&row(&x, i).unwrap())).unwrap());
        let right = squared_norms(2, &all.iter().collect::<Vec<_>>(), whole);
        let got = norms(dir.path());
        assert!(relative_error(&got, &right) < 1e-4, "{positions}: {got:?} {right:?}");
    }
}

/// Threads that train replicas of one model: each has its own taps and records its own part.
#[test]
fn threads_with_replicas_record_a_part_each() {
    let dir = tempfile::tempdir().unwrap();
    let model = one_layer(3);
    let weights = [model.layer.inner().weight(), model.layer.inner().bias().unwrap()];
    let taken: Vec<f32> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2u32)
            .map(|rank| {
                let folder = dir.path();
                scope.spawn(move || {
                    let copy = |t: &Tensor| Var::from_tensor(&t.detach().copy().unwrap()).unwrap().into_inner();
                    let taps = Taps::new();
                    let replica = taps.tap("fc", Linear::new(copy(weights[0]), Some(copy(weights[1]))));
                    let worker = gradlog::Worker { rank, workers: 2, reduction: gradlog::Reduction::Mean };
                    let mut recorder =
                        Recorder::create(folder, &taps, Config { worker: Some(worker), ..exact() }).unwrap();
                    let mut pass = recorder.pass(2 * u64::from(rank)..2 * u64::from(rank) + 2).unwrap();
                    let losses = cubes(&replica.forward(&noise(u64::from(rank), &[2, 4])).unwrap());
                    pass.losses(&losses).unwrap().backward().unwrap();
                    pass.commit(0.1).unwrap();
                    recorder.finish().unwrap();
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        norms(dir.path())
    });
    let all = model.variables.all_vars();
    let right = |rank| {
        let loss = |i| cubes(&model.layer.forward(&row(&noise(rank, &[2, 4]), i).unwrap()).unwrap());
        squared_norms(2, &all.iter().collect::<Vec<_>>(), loss)
    };
    assert!(relative_error(&taken, &[right(0), right(1)].concat()) < 1e-4);
    assert_eq!(visited(dir.path()), [0, 1, 2, 3]);
}
