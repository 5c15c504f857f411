//! LoRA against its formula and candle's own backward on one example alone.

use crate::common::*;
use candle_core::{DType, Device, Module, Result, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use gradlog::nn::{self, lora_linear, lora_linear_no_bias, LoraConfig, LoraLinear};
use gradlog::{Recorder, Taps};
use gradlog_format::run::Run;
use std::collections::HashMap;

const CONFIG: (usize, f64) = (2, 6.0);

fn frozen() -> VarBuilder<'static> {
    let tensors = HashMap::from([
        ("up.weight".to_owned(), noise(2, &[7, 5])),
        ("up.bias".to_owned(), noise(3, &[7])),
        ("down.weight".to_owned(), noise(4, &[3, 7])),
    ]);
    VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu)
}

struct Pair {
    up: LoraLinear,
    down: LoraLinear,
}

impl Pair {
    fn new(variables: &VarMap) -> Result<Self> {
        let (config, adapter) = (LoraConfig::new(CONFIG.0, CONFIG.1), builder(variables));
        Ok(Self {
            up: lora_linear(5, 7, config, frozen().pp("up"), adapter.pp("up"))?,
            down: lora_linear_no_bias(7, 3, config, frozen().pp("down"), adapter.pp("down"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.down.forward(&self.up.forward(x)?.relu()?)
    }
}

fn fill(variables: &VarMap) {
    for (seed, var) in variables.all_vars().iter().enumerate() {
        var.set(&noise(10 + seed as u64, var.dims())).unwrap();
    }
}

/// The formula in candle's ops.
fn by_formula(x: &Tensor, get: impl Fn(&str) -> Tensor, layer: &str, bias: Option<&Tensor>) -> Result<Tensor> {
    let weight = frozen().get(
        get(&format!("{layer}.lora_b.weight")).dim(0).map(|n| (n, x.dims()[x.rank() - 1]))?,
        &format!("{layer}.weight"),
    )?;
    let (a, b) = (get(&format!("{layer}.lora_a.weight")), get(&format!("{layer}.lora_b.weight")));
    let correction = (x.broadcast_matmul(&a.t()?)?.broadcast_matmul(&b.t()?)? * (CONFIG.1 / CONFIG.0 as f64))?;
    let y = (x.broadcast_matmul(&weight.t()?)? + correction)?;
    bias.map_or(Ok(y.clone()), |bias| y.broadcast_add(bias))
}

#[test]
fn each_example_has_the_gradient_that_candle_gives_it_alone() {
    for positions in [1, 4] {
        let variables = VarMap::new();
        let (model, taps) = Taps::collect(|| Pair::new(&variables)).unwrap();
        fill(&variables);
        taps.declare_model(&variables);
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::create(dir.path(), &taps, exact()).unwrap();
        let shape: &[usize] = if positions == 1 { &[6, 5] } else { &[6, positions, 5] };
        let (x, ids) = (noise(1, shape), [1, 2, 3, 4, 5, 6]);
        let y = Tensor::cat(&[labels(3), labels(3)], 0).unwrap();
        let logits = |x: &Tensor| {
            let y = model.forward(x)?;
            if positions == 1 {
                Ok(y)
            } else {
                y.mean(1)
            }
        };
        let check = recorder
            .check_gradients(&variables, &ids, |pass, rows| pass.cross_entropy(&logits(&rows.of(&x)?)?, &rows.of(&y)?))
            .unwrap();
        assert!(check.agrees() && check.findings.is_empty(), "{check}");
        let mut pass = recorder.pass(&ids).unwrap();
        let loss = pass.cross_entropy(&logits(&x).unwrap(), &y).unwrap();
        let gradients = loss.backward().unwrap();
        pass.commit(0.1).unwrap();
        assert_eq!(gradients.get_ids().filter(|id| *id == &model.up.base().weight().id()).count(), 0);
        recorder.finish().unwrap();
        let manifest = Run::open(dir.path()).unwrap();
        let names: Vec<String> = manifest.manifest().layers.iter().map(|layer| layer.name.clone()).collect();
        assert_eq!(names, ["up.lora_a", "up.lora_b", "down.lora_a", "down.lora_b"]);
        // Outputs and gradients of the formula by candle's ops, on variables of its own.
        let data = variables.data().lock().unwrap();
        let own: HashMap<String, Var> =
            data.iter().map(|(name, var)| (name.clone(), Var::from_tensor(&var.copy().unwrap()).unwrap())).collect();
        let get = |name: &str| own[name].as_tensor().clone();
        let bias = noise(3, &[7]);
        let h = by_formula(&x, get, "up", Some(&bias)).unwrap().relu().unwrap();
        let right = by_formula(&h, get, "down", None).unwrap();
        assert!(relative_error(&numbers(&model.forward(&x).unwrap()), &numbers(&right)) < 1e-5);
        let right = if positions == 1 { right } else { right.mean(1).unwrap() };
        let right = candle_nn::loss::cross_entropy(&right, &y).unwrap().backward().unwrap();
        for (name, var) in data.iter() {
            let (made, right) = (gradients.get(var).unwrap(), right.get(&own[name]).unwrap());
            assert!(relative_error(&numbers(made), &numbers(right)) < 1e-4, "{name}, {positions} positions");
        }
    }
}

#[test]
fn the_backward_computes_nothing_for_the_base() {
    let variables = VarMap::new();
    let model = Pair::new(&variables).unwrap();
    fill(&variables);
    let loss = model.forward(&noise(1, &[4, 5])).unwrap().sqr().unwrap().sum_all().unwrap();
    let gradients = loss.backward().unwrap();
    for layer in [&model.up, &model.down] {
        assert!(gradients.get(layer.base().weight()).is_none(), "a gradient of the base's weight");
        assert!(gradients.get(layer.a()).is_some() && gradients.get(layer.b()).is_some());
    }
}

#[test]
fn a_new_layer_is_its_base_and_a_merged_one_is_itself() {
    let variables = VarMap::new();
    let model = Pair::new(&variables).unwrap();
    let x = noise(1, &[4, 3, 5]);
    let plain = candle_nn::linear(5, 7, frozen().pp("up")).unwrap();
    let base = numbers(&plain.forward(&x).unwrap());
    assert!(relative_error(&numbers(&model.up.forward(&x).unwrap()), &base) < 1e-6);
    let spread = numbers(model.up.a());
    let variance = spread.iter().map(|v| f64::from(v * v)).sum::<f64>() / spread.len() as f64;
    assert!(variance > 0.05 && variance < 2.0, "A is noise of variance 0.4, not {variance}");
    fill(&variables);
    let (merged, taps) = Taps::collect(|| model.up.merge()).unwrap();
    assert_eq!(format!("{taps:?}"), "Taps { layers: [], .. }");
    let adapted = numbers(&model.up.forward(&x).unwrap());
    assert!(relative_error(&numbers(&merged.forward(&x).unwrap()), &adapted) < 1e-5);
    assert!(relative_error(&adapted, &base) > 0.1);
    // Any linear layer is a base, also one of variables, which then stay as they are.
    let trained = VarMap::new();
    let bases: [candle_nn::Linear; 2] = [nn::linear(5, 7, builder(&trained).pp("fc")).unwrap().into(), plain];
    for (number, base) in bases.into_iter().enumerate() {
        let layer = LoraLinear::new(base, LoraConfig::new(1, 1.0), builder(&variables).pp(number)).unwrap();
        let gradients = layer.forward(&x).unwrap().sum_all().unwrap().backward().unwrap();
        assert!(trained.all_vars().iter().all(|var| gradients.get(var).is_none()));
    }
}

#[test]
fn a_rank_that_cannot_be_is_refused() {
    for (rank, alpha, words) in [(0, 1.0, "rank 0"), (6, 1.0, "between 1 and 5"), (2, f64::NAN, "alpha NaN")] {
        let base = candle_nn::Linear::new(noise(2, &[7, 5]), None);
        let error = LoraLinear::new(base, LoraConfig::new(rank, alpha), builder(&VarMap::new()).pp("fc"));
        let error = error.unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("`fc`"), "{error}");
    }
}
