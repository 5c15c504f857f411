//! Layers that are stored as signs: lengths, cosines and clusters against the gradients themselves, by candle.

use crate::common::*;
use candle_core::{Module, Tensor};
use candle_nn::{conv2d, linear, Conv2dConfig, VarMap};
use gradlog::taps::Taps;
use gradlog::{Config, Recorder};
use gradlog_analysis::{
    Combine, Curvature, Damping, EstimateQuestion, InfluenceQuestion, Method, UnitVectors, VectorQuestion,
};
use gradlog_format::run::Run;
use std::collections::BTreeMap;
use std::path::Path;

const EXAMPLES: usize = 24;

/// A convolution of 3,620 parameters, of which alone the gradients are recorded, and a classifier behind it. Examples
/// come in pairs of equal ones.
fn network() -> Network {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let vb = builder(&variables);
    let config = Conv2dConfig { padding: 1, ..Conv2dConfig::default() };
    let first = conv2d(1, 20, 3, Conv2dConfig::default(), vb.pp("untapped")).unwrap();
    let conv = taps.tap("conv", conv2d(20, 20, 3, config, vb.pp("conv")).unwrap());
    let head = linear(20 * 16, 3, vb.pp("head")).unwrap();
    let forward = move |x: &Tensor, _| {
        let hidden = conv.forward(&first.forward(x)?.relu()?)?.relu()?;
        head.forward(&hidden.flatten_from(1)?)
    };
    let half = Data::noise(1, EXAMPLES / 2, &[1, 6, 6]);
    let ids: Vec<u64> = (0..EXAMPLES as u64).map(|id| id / 2).collect();
    Network::new(taps, variables, forward, half.select(&ids), Data::noise(3, 2, &[1, 6, 6])).fill(7, 0.3)
}

/// Three epochs; of each visit the gradient of the convolution, by candle.
fn train(dir: &Path, config: Config) -> BTreeMap<u64, Vec<Vec<f32>>> {
    let model = network();
    let mut recorder = Recorder::create(dir, &model.taps, config).unwrap();
    let mut gradients: BTreeMap<u64, Vec<Vec<f32>>> = BTreeMap::new();
    let conv: usize = model.named()["conv.weight"].elem_count() + model.named()["conv.bias"].elem_count();
    let steps = (0..12).map(|number| Step {
        number,
        epoch: (number / 4) as u32,
        ids: (0..6).map(|i| (number % 4) * 6 + i).collect(),
        rate: 0.05,
    });
    model.train(&mut recorder, steps, |_, step| {
        for id in &step.ids {
            let all = model.loss_gradient(&model.examples, *id as usize);
            // In the order of the names the convolution comes first.
            gradients.entry(*id).or_default().push(all[..conv].to_vec());
        }
    });
    model.record_probes(&mut recorder, "test", &[0, 1]);
    recorder.finish().unwrap();
    gradients
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    dot(a, b) / (norm(a) * norm(b))
}

fn mean(vectors: &[Vec<f32>]) -> Vec<f32> {
    let sum = |at: usize| vectors.iter().map(|vector| vector[at]).sum::<f32>() / vectors.len() as f32;
    (0..vectors[0].len()).map(sum).collect()
}

#[test]
fn lengths_cosines_and_clusters_are_those_of_the_gradients() {
    let dir = tempfile::tempdir().unwrap();
    let gradients = train(&dir.path().join("signs"), Config::default());
    let run = Run::open(dir.path().join("signs")).unwrap();
    for combine in [Combine::Visits, Combine::Mean] {
        let flat = VectorQuestion::new(1024).combine(combine).compute(&run).unwrap();
        let mut seen: BTreeMap<u64, usize> = BTreeMap::new();
        let truth: Vec<Vec<f32>> = flat
            .examples
            .iter()
            .map(|example| match combine {
                Combine::Mean => mean(&gradients[example]),
                _ => {
                    let visit = seen.entry(*example).or_default();
                    *visit += 1;
                    gradients[example][*visit - 1].clone()
                }
            })
            .collect();
        for (found, truth) in flat.norms.iter().zip(&truth) {
            // The length of 768 signs is off by 2 %, and the fold of 3,620 numbers to 1,024 by 3 %.
            assert!((found / norm(truth) - 1.0).abs() < 0.15, "{combine:?}: {found} for {}", norm(truth));
        }
        let unit = UnitVectors::new(flat);
        let (mut squares, mut count, mut worst_equal) = (0.0, 0, 1.0f64);
        for position in 0..unit.len() {
            for other in unit.neighbors(position, unit.len()) {
                let exact = cosine(&truth[position], &truth[other.position]);
                squares += (f64::from(other.cosine) - exact).powi(2);
                count += 1;
                if exact > 0.9999 {
                    worst_equal = worst_equal.min(f64::from(other.cosine));
                }
            }
        }
        // Of 768 signs a cosine near 0 is off by (π/2)/√768 = 0.057, one near 1 by less.
        let error = (squares / f64::from(count)).sqrt();
        assert!(error < 0.07, "{combine:?}: {error}");
        assert!(worst_equal > 0.999, "{combine:?}: {worst_equal}");
        // One cluster of all: its center is the mean of the unit gradients. Each has one that is equal to it, and
        // nearly parallel ones at its other visits, whose products with it are too large in a sum.
        let units: Vec<Vec<f32>> = truth.iter().map(|g| g.iter().map(|v| v / norm(g) as f32).collect()).collect();
        let cohesion = norm(&mean(&units));
        let found = unit.clusters(1, 10, 0).clusters[0].cohesion;
        assert!((found - cohesion).abs() < 0.06, "{combine:?}: {found} for {cohesion}");
    }
}

/// The mean eigenvalue of the curvature is `Σ‖g‖²/n` over the numbers of a vector, and a relative damping goes by it.
#[test]
fn the_trace_of_a_curvature_is_that_of_the_gradients() {
    let dir = tempfile::tempdir().unwrap();
    let gradients = train(&dir.path().join("signs"), Config::default());
    let run = Run::open(dir.path().join("signs")).unwrap();
    let all: Vec<&Vec<f32>> = gradients.values().flatten().collect();
    let trace = all.iter().map(|g| dot(g, g)).sum::<f64>() / all.len() as f64;
    for method in [Method::InfluenceFunction, Method::DataInf] {
        let question = EstimateQuestion::new(InfluenceQuestion::new("test"), method)
            .curvature(Curvature::Visits)
            .damping(Damping::Relative(1.0));
        let answer = &question.compute(&run).unwrap()[0];
        let details = answer.estimate.as_ref().unwrap();
        let found = details.lambdas[0] * details.length as f64;
        assert!((found / trace - 1.0).abs() < 0.12, "{method:?}: {found} for {trace}");
    }
}
