//! The model file with swapped imports computes what candle-transformers' own computes.

use crate::{distilbert, model, trained_variables};
use candle_core::{DType, Device, Tensor};
use candle_transformers::models::distilbert as original;
use gradlog::nn::{VarBuilder, VarMap};
use gradlog::Taps;

/// The largest difference, as a share of the largest number.
fn difference(right: &Tensor, made: &Tensor) -> f32 {
    let largest = |tensor: &Tensor| tensor.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    largest(&(right - made).unwrap()) / largest(right)
}

#[test]
fn swapped_imports_change_no_output() {
    let (variables, device) = (VarMap::new(), Device::Cpu);
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &device);
    let config = model::config(20).unwrap();
    let theirs = serde_json::json!({
        "model_type": "distilbert", "vocab_size": 22, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128,
        "activation": "gelu", "max_position_embeddings": 41, "initializer_range": 0.02, "pad_token_id": 0,
    });
    let theirs: original::Config = serde_json::from_value(theirs).unwrap();
    let original = original::DistilBertForMaskedLM::load(vb.clone(), &theirs).unwrap();
    let swapped = distilbert::DistilBertForMaskedLM::load(vb, &config).unwrap();
    let x = Tensor::new(&[[3u32, 4, 9, 0], [19, 1, 0, 0], [7, 7, 5, 2]], &device).unwrap();
    let (x, hidden) = model::begin(&x, 20).unwrap();
    let (right, made) = (original.forward(&x, &hidden).unwrap(), swapped.forward(&x, &hidden).unwrap());
    assert_eq!(right.dims(), [3, 5, 22]);
    assert!(difference(&right, &made) < 1e-5, "{}", difference(&right, &made));
    // candle's own layers cut the gradient off at the first LayerNorm. Here it reaches every variable.
    let reached = |logits: &Tensor| {
        let gradients = logits.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        variables.all_vars().iter().filter(|variable| gradients.get(variable).is_some()).count()
    };
    assert_eq!(reached(&made), variables.all_vars().len());
    assert!(reached(&right) < variables.all_vars().len());
}

#[test]
fn all_layers_but_those_of_pretraining_are_recorded() {
    let (variables, config) = (VarMap::new(), model::config(20).unwrap());
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    distilbert::DistilBertForMaskedLM::load(vb.clone(), &config).unwrap();
    let (_, taps) = Taps::collect(|| model::Classifier::load(vb, &config)).unwrap();
    taps.trained(&trained_variables(&variables));
    let dir = tempfile::tempdir().unwrap();
    gradlog::Recorder::create(dir.path(), &taps, gradlog::Config::default()).unwrap().finish().unwrap();
    let run = gradlog_format::run::Run::open(dir.path()).unwrap();
    let names: Vec<&str> = run.manifest().layers.iter().map(|layer| layer.name.as_str()).collect();
    assert_eq!(names.len(), 20, "{names:?}");
    assert!(names.iter().all(|name| name.starts_with("distilbert.") || *name == "classifier"), "{names:?}");
}
