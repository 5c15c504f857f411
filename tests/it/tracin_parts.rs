//! TracIn normalized, of some layers, of a group and in parts, from the log of a real run against candle's dense
//! gradients.

use crate::common::*;
use gradlog::Recorder;
use gradlog_analysis::{Influence, InfluenceQuestion, Normalization, Part, Score, ScoreQuestion, SplitBy};
use gradlog_format::run::Run;
use std::path::Path;

const EXAMPLES: usize = 12;
const PROBES: usize = 4;
const EPOCHS: usize = 3;
const LAYERS: [&str; 2] = ["fc1", "fc2"];

/// One visit and what it says to each probe.
struct Visit {
    example: usize,
    epoch: usize,
    weight: f64,
    /// By layer.
    squared_norms: [f64; 2],
    /// Of each probe, by layer: the dot product and the probe's own squared norm.
    probes: Vec<[(f64, f64); 2]>,
}

/// The gradient of one example's loss by the parameters of each layer.
fn gradients(model: &Network, data: &Data, i: usize) -> [Vec<f32>; 2] {
    let logits = model.logits(&row(&data.x, i).unwrap()).unwrap();
    let loss = candle_nn::loss::cross_entropy(&logits, &data.y.narrow(0, i, 1).unwrap()).unwrap();
    let grads = loss.backward().unwrap();
    let named = model.named();
    LAYERS.map(|layer| {
        let own = named.iter().filter(|(name, _)| name.starts_with(layer));
        own.flat_map(|(_, var)| numbers(grads.get(var).unwrap())).collect()
    })
}

/// Trains an MLP of two layers with a probe before every step, and keeps the products of dense gradients.
fn train(dir: &Path) -> Vec<Visit> {
    let mut model = Network::mlp(EXAMPLES, PROBES, false).fill(9, 0.6);
    (model.examples.y, model.probes.y) = (labels(EXAMPLES), labels(PROBES));
    let probe_ids: Vec<u64> = (0..PROBES as u64).collect();
    // The last batch of an epoch is short, so that weights differ. Examples 10 and 11 miss an epoch each.
    let batch = |epoch: usize, number: u64| -> Vec<u64> {
        let all = (5 * number..EXAMPLES as u64).take(5);
        all.filter(|id| *id < 10 || *id as usize - 10 != epoch).collect()
    };
    let schedule = (0..EPOCHS).flat_map(|epoch| (0..3).map(move |number| (epoch, number))).map(|(epoch, number)| {
        Step { number: 3 * epoch as u64 + number, epoch: epoch as u32, ids: batch(epoch, number), rate: 0.3 }
    });
    let mut recorder = Recorder::create(dir, &model.taps, exact()).unwrap();
    let mut visits = Vec::new();
    model.train(&mut recorder, schedule, |recorder, step| {
        model.record_probes(recorder, "test", &probe_ids);
        let probes: Vec<[Vec<f32>; 2]> = (0..PROBES).map(|p| gradients(&model, &model.probes, p)).collect();
        for id in &step.ids {
            let own = gradients(&model, &model.examples, *id as usize);
            let with = |other: &[Vec<f32>; 2]| [0, 1].map(|l| (dot(&own[l], &other[l]), dot(&other[l], &other[l])));
            visits.push(Visit {
                example: *id as usize,
                epoch: step.epoch as usize,
                weight: step.rate / step.ids.len() as f64,
                squared_norms: [0, 1].map(|layer| dot(&own[layer], &own[layer])),
                probes: probes.iter().map(with).collect(),
            });
        }
    });
    recorder.finish().unwrap();
    visits
}

/// By epoch and layer, what an example's score on a probe is made of: the definition.
fn parts(visits: &[Visit], by: Normalization, layers: &[usize], example: usize, probe: usize) -> [[f64; 2]; EPOCHS] {
    let mut parts = [[0.0; 2]; EPOCHS];
    let norm = |visit: &Visit| layers.iter().map(|l| visit.squared_norms[*l]).sum::<f64>().sqrt();
    let own: f64 = visits.iter().filter(|v| v.example == example).map(|v| v.weight * norm(v).powi(2)).sum();
    for visit in visits.iter().filter(|visit| visit.example == example) {
        let of_probe = &visit.probes[probe];
        let divisor = match by {
            Normalization::None => 1.0,
            Normalization::Cosine => norm(visit) * layers.iter().map(|l| of_probe[*l].1).sum::<f64>().sqrt(),
            _ => own.sqrt(),
        };
        layers.iter().for_each(|l| parts[visit.epoch][*l] += visit.weight * of_probe[*l].0 / divisor);
    }
    parts
}

fn near(got: f64, want: f64) -> bool {
    // Both in f32, summed in another order.
    (got - want).abs() < 1e-4 * (0.1 + want.abs())
}

#[test]
fn scores_and_parts_equal_brute_force() {
    let dir = tempfile::tempdir().unwrap();
    let visits = train(&dir.path().join("run"));
    let run = Run::open(dir.path().join("run")).unwrap();
    let example_of = |found: &Influence, row: usize| found.rows[row].example as usize;
    for normalization in Normalization::ALL {
        for layers in [&[0, 1][..], &[1], &[0]] {
            let names = if layers.len() == 2 { Vec::new() } else { vec![LAYERS[layers[0]].to_owned()] };
            let asked = InfluenceQuestion::new("test").normalization(normalization).layers(names);
            let plan = asked.plan(&run).unwrap();
            let found = plan.pass(0).unwrap();
            assert_eq!((found.rows.len(), found.visits), (EXAMPLES, visits.len() as u64));
            let want = |example, probe| parts(&visits, normalization, layers, example, probe);
            for row in 0..EXAMPLES {
                for probe in 0..PROBES {
                    let sum: f64 = want(example_of(&found, row), probe).iter().flatten().sum();
                    let got = found.score(row, probe);
                    assert!(near(got, sum), "{normalization:?} {layers:?}: {got} {sum}");
                }
            }
            let pairs: Vec<(u64, usize)> = (0..EXAMPLES).map(|example| (example as u64, example % PROBES)).collect();
            let by_layer = plan.split(0, SplitBy::Layer, &pairs).unwrap();
            let by_epoch = plan.split(0, SplitBy::Epoch, &pairs).unwrap();
            assert_eq!(by_layer.parts.len(), layers.len());
            assert_eq!(by_epoch.parts, [0, 1, 2].map(Part::Epoch));
            for (pair, &(example, probe)) in pairs.iter().enumerate() {
                let want = want(example as usize, probe);
                for (epoch, got) in by_epoch.pair_scores(pair).iter().enumerate() {
                    assert!(near(*got, want[epoch].iter().sum()), "{normalization:?} {epoch}: {got} {want:?}");
                }
                for (layer, got) in layers.iter().zip(by_layer.pair_scores(pair)) {
                    assert!(
                        near(*got, want.iter().map(|layers| layers[*layer]).sum()),
                        "{normalization:?}: {got} {want:?}"
                    );
                }
            }
            let members = [1usize, 3];
            let group = asked.clone().ids(members.map(|id| id as u64)).mean().compute(&run).unwrap();
            for row in 0..EXAMPLES {
                let of = |probe| want(example_of(&group, row), probe).iter().flatten().sum::<f64>();
                let mean = members.map(of).iter().sum::<f64>() / 2.0;
                assert!(near(group.score(row, 0), mean), "{normalization:?}: {} {mean}", group.score(row, 0));
            }
        }
    }
}

/// What RelatIF divides by is the self-influence that `scores` shows.
#[test]
fn relatif_divides_by_the_root_of_self_influence() {
    let dir = tempfile::tempdir().unwrap();
    train(&dir.path().join("run"));
    let run = Run::open(dir.path().join("run")).unwrap();
    let own = ScoreQuestion::new(Score::SelfInfluence).compute(&run).unwrap();
    let plain = InfluenceQuestion::new("test").id(2).compute(&run).unwrap();
    let relatif = InfluenceQuestion::new("test").id(2).normalization(Normalization::Relatif).compute(&run).unwrap();
    for (row, about) in plain.rows.iter().enumerate() {
        let own = own.rows.iter().find(|row| row.example == about.example).unwrap().score;
        let want = plain.score(row, 0) / own.sqrt();
        assert!((relatif.score(row, 0) - want).abs() < 1e-6 * want.abs(), "{} {want}", relatif.score(row, 0));
    }
}
