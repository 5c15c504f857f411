//! States: carried from pass to pass, given back as candle gives them, used in part, used twice.

use super::models::*;
use crate::common::*;
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Module, Result, Shape, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use gradlog::nn::rnn::{gru, lstm, GRUConfig, LSTMConfig, LSTMState, LSTM, RNN};
use gradlog::nn::{linear, Linear};
use gradlog::{BatchRows, FindingKind, Pass, Recorder, Taps};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::Run;
use std::collections::HashMap;

/// A tagger of sequences: an LSTM and a head on its last state.
struct Tagger {
    lstm: LSTM,
    head: Linear,
}

impl Tagger {
    fn new(vb: &VarBuilder<'_>) -> Result<Self> {
        let lstm = lstm(INPUTS, HIDDEN, LSTMConfig::default(), vb.pp("lstm"))?;
        Ok(Self { lstm, head: linear(HIDDEN, 3, vb.pp("head"))? })
    }

    fn collect() -> (Self, Taps, VarMap) {
        let variables = VarMap::new();
        let vb = builder(&variables);
        let (model, taps) = Taps::collect(|| Self::new(&vb)).unwrap();
        for (seed, variable) in (20..).zip(sorted(&variables)) {
            variable.set(&noise(seed, variable.dims())).unwrap();
        }
        (model, taps, variables)
    }

    fn run(&self, x: &Tensor, state: &LSTMState) -> Result<(Tensor, LSTMState)> {
        let state = self.lstm.seq_init(x, state)?.pop().unwrap();
        Ok((self.head.forward(state.h())?, state))
    }
}

fn sorted(variables: &VarMap) -> Vec<Var> {
    let mut named: Vec<(String, Var)> =
        variables.data().lock().unwrap().iter().map(|(name, var)| (name.clone(), var.clone())).collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    named.into_iter().map(|(_, var)| var).collect()
}

fn x(seed: u64) -> Tensor {
    noise(seed, &[2, 4, INPUTS])
}

fn detach(state: &LSTMState) -> LSTMState {
    LSTMState::new(state.h().detach(), state.c().detach())
}

/// By candle alone: the squared norm of example `i`'s gradient for `x`, from `state`.
fn squared_norm(variables: &VarMap, x: &Tensor, state: &LSTMState, i: usize) -> f64 {
    let vb = builder(variables);
    let plain = candle_nn::lstm(INPUTS, HIDDEN, LSTMConfig::default(), vb.pp("lstm")).unwrap();
    let head = candle_nn::linear(HIDDEN, 3, vb.pp("head")).unwrap();
    let own = |t: &Tensor| row(&t.detach(), i).unwrap();
    let state = LSTMState::new(own(state.h()), own(state.c()));
    let last = plain.seq_init(&own(x), &state).unwrap().pop().unwrap();
    let label = labels(2).narrow(0, i, 1).unwrap();
    let grads = candle_nn::loss::cross_entropy(&head.forward(last.h()).unwrap(), &label).unwrap().backward().unwrap();
    variables.all_vars().iter().map(|var| numbers(grads.get(var).unwrap())).map(|g| dot(&g, &g)).sum()
}

#[test]
fn a_state_of_the_pass_before_is_refused_and_a_detached_one_works() {
    let dir = tempfile::tempdir().unwrap();
    let (model, taps, variables) = Tagger::collect();
    let mut recorder = Recorder::create(dir.path(), &taps, exact()).unwrap();
    let mut pass = |seed: u64, state: &LSTMState| {
        let mut pass = recorder.pass(&[0, 1]).unwrap();
        let (logits, state) = model.run(&x(seed), state).unwrap();
        pass.cross_entropy(&logits, &labels(2)).unwrap().backward().unwrap();
        (state, pass.commit(0.0).map_err(|error| error.to_string()))
    };
    let (state, first) = pass(1, &model.lstm.zero_state(2).unwrap());
    first.unwrap();
    let error = pass(2, &state).1.unwrap_err();
    assert!(error.contains("`lstm.ih_l0`, `lstm.hh_l0` into a forward pass that was made before"), "{error}");
    assert!(error.contains("`detach`"), "{error}");
    // The cell alone carries the gradient on as well.
    let error = pass(2, &LSTMState::new(state.h().detach(), state.c().clone())).1.unwrap_err();
    assert!(error.contains("into a forward pass that was made before"), "{error}");
    pass(2, &detach(&state)).1.unwrap();
    let summary = recorder.finish().unwrap();
    assert_eq!((summary.visits, summary.dropped), (4, 4));
    let norms = f32s(dir.path(), BlockKind::Visits, Column::SquaredNorm);
    for i in 0..2 {
        let truth = squared_norm(&variables, &x(2), &state, i);
        assert!((f64::from(norms[2 + i]) - truth).abs() < 2e-4 * truth, "{i}: {} {truth}", norms[2 + i]);
    }
}

/// The check runs the fused op in the batch and candle's ops for each example alone, and finds the same.
#[test]
fn the_check_of_gradients_agrees() {
    for dtype in [DType::F32, DType::F64] {
        for call in [Call::SeqInit, Call::Steps] {
            for kind in [Kind::Lstm, Kind::Gru, Kind::Tanh] {
                let dir = tempfile::tempdir().unwrap();
                let model = Model::new(Settings { dtype, layers: 2, ..Settings::new(kind, call) });
                let mut recorder = Recorder::create(dir.path(), &model.taps, exact()).unwrap();
                let input = |seed, shape: &[usize]| noise(seed, shape).to_dtype(dtype).unwrap();
                let (x, h, c) = (input(1, &[4, 3, INPUTS]), input(2, &[4, HIDDEN]), input(3, &[4, HIDDEN]));
                let run = |pass: &mut Pass<'_>, rows: &BatchRows| {
                    let y = (model.ours)(&rows.of(&x)?, &rows.of(&h)?, &rows.of(&c)?)?;
                    pass.losses(&y.sqr()?.sum(1)?)
                };
                let check = recorder.check_gradients(&model.variables, &[0, 1, 2, 3], run).unwrap();
                assert!(check.agrees() && check.findings.is_empty(), "{dtype:?} {call:?} {kind:?}: {check}");
                // A batch that is coupled is found all the same.
                let run = |pass: &mut Pass<'_>, rows: &BatchRows| {
                    let x = rows.of(&x)?;
                    let y = (model.ours)(&x.broadcast_sub(&x.mean_keepdim(0)?)?, &rows.of(&h)?, &rows.of(&c)?)?;
                    pass.losses(&y.sqr()?.sum(1)?)
                };
                let check = recorder.check_gradients(&model.variables, &[0, 1, 2, 3], run).unwrap();
                assert!(check.findings.iter().any(|found| found.kind == FindingKind::CoupledExamples), "{check}");
            }
        }
    }
}

/// Two backward passes over one graph, by another thread in between, and states of which few are used.
#[test]
fn backward_may_run_again_and_reach_few_states() {
    let model = Model::new(Settings::new(Kind::Lstm, Call::SeqInit));
    let (h, c) = (noise(2, &[3, HIDDEN]), noise(3, &[3, HIDDEN]));
    let x = noise(1, &[3, 5, INPUTS]);
    let (ours, plain) = ((model.ours)(&x, &h, &c).unwrap(), (model.plain)(&x, &h, &c).unwrap());
    let compare = |first: usize, count: usize, ours: &Tensor| {
        let part =
            |y: &Tensor| y.narrow(1, first, count).unwrap().sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let (ours, theirs) = (part(ours), part(&plain));
        for var in model.variables.all_vars() {
            let (ours, theirs) = (numbers(ours.get(&var).unwrap()), numbers(theirs.get(&var).unwrap()));
            assert!(relative_error(&ours, &theirs) < 1e-5, "{first} {count}");
        }
    };
    compare(0, 40, &ours);
    std::thread::scope(|scope| scope.spawn(|| compare(8, 8, &ours)).join()).unwrap();
    // The third `h` alone, the last `c` alone, then all.
    compare(16, 4, &ours);
    compare(36, 4, &ours);
    compare(0, 40, &ours);
}

/// The identity. candle's default is an op without a backward.
struct Broken;

impl CustomOp1 for Broken {
    fn name(&self) -> &'static str {
        "broken"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((storage.clone(), layout.shape().clone()))
    }
}

/// A backward pass that fails has left gradients of some states. They do not enter the next one.
#[test]
fn a_backward_pass_that_failed_leaves_nothing_in_the_next() {
    let variables = VarMap::new();
    let layer = gru(INPUTS, HIDDEN, GRUConfig::default(), builder(&variables)).unwrap();
    let weight = variables.all_vars().remove(0);
    let mut refused = 0;
    for last_first in [true, false] {
        let states = layer.seq(&x(1)).unwrap();
        let gradient =
            || -> Result<Vec<f32>> { Ok(numbers(states[1].h().sqr()?.sum_all()?.backward()?.get(&weight).unwrap())) };
        let right = gradient().unwrap();
        let broken = states[0].h().apply_op1(Broken).unwrap().sum_all().unwrap();
        let last = states[3].h().sum_all().unwrap();
        let sum = if last_first { last + broken } else { broken + last };
        assert!(sum.unwrap().backward().is_err());
        match gradient() {
            Ok(found) => assert_eq!(found, right),
            Err(error) => {
                assert!(error.to_string().contains("an earlier backward pass over the same graph failed"), "{error}");
                refused += 1;
            }
        }
        assert_eq!(gradient().unwrap(), right);
    }
    assert!(refused > 0, "no order of the two leaves a gradient behind");
}

#[test]
fn names_states_and_errors_are_candles() {
    let variables = VarMap::new();
    let vb = builder(&variables);
    let second = LSTMConfig { layer_idx: 1, ..Default::default() };
    let ((layer, _, gates), taps) = Taps::collect(|| -> Result<_> {
        Ok((
            lstm(INPUTS, HIDDEN, LSTMConfig::default(), vb.pp("rnn"))?,
            lstm(HIDDEN, HIDDEN, second, vb.pp("rnn"))?,
            gru(INPUTS, HIDDEN, GRUConfig::default(), vb.pp("gru"))?,
        ))
    })
    .unwrap();
    let names = r#"["rnn.ih_l0", "rnn.hh_l0", "rnn.ih_l1", "rnn.hh_l1", "gru.ih_l0", "gru.hh_l0"]"#;
    assert_eq!(format!("{taps:?}"), format!("Taps {{ layers: {names}, .. }}"));
    let plain = candle_nn::lstm(INPUTS, HIDDEN, LSTMConfig::default(), vb.pp("rnn")).unwrap();
    let plain_gates = candle_nn::gru(INPUTS, HIDDEN, GRUConfig::default(), vb.pp("gru")).unwrap();
    assert_eq!(variables.all_vars().len(), 12, "the plain layers found the variables of the same names");

    let x = noise(1, &[2, 3, INPUTS]);
    let (states, plain_states) = (layer.seq(&x).unwrap(), plain.seq(&x).unwrap());
    let shape = |r: Result<Tensor>| r.unwrap().dims().to_vec();
    assert_eq!(shape(layer.states_to_tensor(&states)), shape(plain.states_to_tensor(&plain_states)));
    let (gates_states, plain_states) = (gates.seq(&x).unwrap(), plain_gates.seq(&x).unwrap());
    assert_eq!(shape(gates.states_to_tensor(&gates_states)), shape(plain_gates.states_to_tensor(&plain_states)));
    assert_eq!(layer.clone().config().layer_idx, 0);
    assert!(format!("{layer:?}").starts_with("LSTM {"), "{layer:?}");
    assert!(layer.seq(&noise(1, &[2, 0, INPUTS])).unwrap().is_empty());

    // What does not fit is candle's error.
    let states = layer.zero_state(2).unwrap();
    for shape in [vec![2, 3, INPUTS + 1], vec![3, 3, INPUTS], vec![2, INPUTS]] {
        let x = noise(1, &shape);
        assert!(layer.seq_init(&x, &states).is_err(), "{shape:?}");
        let theirs = LSTMState::new(states.h().clone(), states.c().clone());
        assert!(plain.seq_init(&x, &theirs).is_err(), "{shape:?}");
    }
    assert!(layer.step(&x, &states).is_err());
}

/// A layer of which only weights or only biases are trained is recorded by these.
#[test]
fn a_layer_that_is_trained_in_part_is_recorded_in_part() {
    let parts = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"];
    for (trained, layers) in [("bias", 2), ("weight", 2), ("_hh_", 1), ("bias_hh", 1), ("weight_ih", 1)] {
        let mut variables = Vec::new();
        let tensor = |(seed, name): (u64, &str)| {
            let columns = if name.contains("ih") { INPUTS } else { HIDDEN };
            let shape = [4 * HIDDEN, columns];
            let values = noise(seed, if name.starts_with("bias") { &shape[..1] } else { &shape });
            let variable = Var::from_tensor(&values).unwrap();
            variables.extend(name.contains(trained).then(|| variable.clone()));
            (name.to_owned(), if name.contains(trained) { variable.into_inner() } else { values })
        };
        let tensors: HashMap<String, Tensor> = (1..).zip(parts).map(tensor).collect();
        let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        let (layer, taps) = Taps::collect(|| lstm(INPUTS, HIDDEN, LSTMConfig::default(), vb.clone())).unwrap();
        let plain = candle_nn::lstm(INPUTS, HIDDEN, LSTMConfig::default(), vb).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::create(dir.path(), &taps, exact()).unwrap();
        let mut pass = recorder.pass(&[0, 1]).unwrap();
        let losses = |states: &[LSTMState]| {
            let y = plain.states_to_tensor(states).unwrap();
            y.sqr().unwrap().flatten_from(1).unwrap().sum(1).unwrap()
        };
        pass.losses(&losses(&layer.seq(&x(1)).unwrap())).unwrap().backward().unwrap();
        pass.commit(0.1).unwrap();
        recorder.finish().unwrap();
        assert_eq!(Run::open(dir.path()).unwrap().manifest().layers.len(), layers, "{trained}");
        let norms = f32s(dir.path(), BlockKind::Visits, Column::SquaredNorm);
        for (i, norm) in norms.iter().enumerate() {
            let own = losses(&plain.seq(&row(&x(1), i).unwrap()).unwrap()).sum_all().unwrap().backward().unwrap();
            let truth: f64 = variables.iter().map(|var| numbers(own.get(var).unwrap())).map(|g| dot(&g, &g)).sum();
            assert!((f64::from(*norm) - truth).abs() < 2e-4 * truth, "{trained} {i}: {norm} {truth}");
        }
    }
}

/// A frozen layer is not recorded and lets gradients through.
#[test]
fn a_frozen_layer_lets_gradients_through() {
    let variables = VarMap::new();
    let frozen: HashMap<String, Tensor> = [
        ("rnn.weight_ih_l0", noise(1, &[4 * HIDDEN, INPUTS])),
        ("rnn.weight_hh_l0", noise(2, &[4 * HIDDEN, HIDDEN])),
        ("rnn.bias_ih_l0", noise(3, &[4 * HIDDEN])),
        ("rnn.bias_hh_l0", noise(4, &[4 * HIDDEN])),
    ]
    .into_iter()
    .map(|(name, tensor)| (name.to_owned(), tensor))
    .collect();
    let fixed = VarBuilder::from_tensors(frozen, DType::F32, &Device::Cpu);
    let trained = builder(&variables);
    let ((below, layer, head), taps) = Taps::collect(|| -> Result<_> {
        Ok((
            linear(INPUTS, INPUTS, trained.pp("below"))?,
            lstm(INPUTS, HIDDEN, LSTMConfig::default(), fixed.pp("rnn"))?,
            linear(HIDDEN, 3, trained.pp("head"))?,
        ))
    })
    .unwrap();
    assert_eq!(format!("{taps:?}"), r#"Taps { layers: ["below", "head"], .. }"#);
    let plain = candle_nn::lstm(INPUTS, HIDDEN, LSTMConfig::default(), fixed.pp("rnn")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(dir.path(), &taps, exact()).unwrap();
    let mut pass = recorder.pass(&[0, 1]).unwrap();
    let states = layer.seq(&below.forward(&x(1)).unwrap()).unwrap();
    let logits = head.forward(states.last().unwrap().h()).unwrap();
    let grads = pass.cross_entropy(&logits, &labels(2)).unwrap().backward().unwrap();
    pass.commit(0.1).unwrap();
    recorder.finish().unwrap();
    let norms = f32s(dir.path(), BlockKind::Visits, Column::SquaredNorm);
    let vars = variables.all_vars();
    let gradient = |x: &Tensor, y: &Tensor| {
        let states = plain.seq(&below.inner().forward(x).unwrap()).unwrap();
        let logits = head.inner().forward(states.last().unwrap().h()).unwrap();
        let grads = candle_nn::loss::cross_entropy(&logits, y).unwrap().backward().unwrap();
        vars.iter().flat_map(|var| numbers(grads.get(var).unwrap())).collect::<Vec<f32>>()
    };
    let ours: Vec<f32> = vars.iter().flat_map(|var| numbers(grads.get(var).unwrap())).collect();
    assert!(relative_error(&ours, &gradient(&x(1), &labels(2))) < 1e-5);
    for (i, norm) in norms.iter().enumerate() {
        let own = gradient(&row(&x(1), i).unwrap(), &labels(2).narrow(0, i, 1).unwrap());
        let truth = dot(&own, &own);
        assert!((f64::from(*norm) - truth).abs() < 2e-4 * truth, "{i}: {norm} {truth}");
    }
}
