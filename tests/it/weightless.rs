//! Visits that the loss gives no weight: what they add to TracIn is exactly 0, and their own gradient is unknown.

use crate::common::*;
use candle_core::{DType, Module, Tensor};
use candle_nn::{embedding, linear, VarMap};
use gradlog::{Recorder, Taps};
use gradlog_analysis::{InfluenceQuestion, Score, ScoreQuestion};
use gradlog_format::run::Run;

const EXAMPLES: usize = 6;

/// Example 0 has weight 0 in every visit, example 1 in some, and in step 3 all have.
fn weights(step: u64) -> [f32; 3] {
    match step {
        3 => [0.0; 3],
        step if step % 2 == 0 => [0.0, 1.0, 2.0],
        _ => [0.0, 0.0, 1.0],
    }
}

/// A table of words, a layer at each of four positions, and a head: the table is folded by the background thread, the
/// layer by the training thread, and both into the same vector.
fn text() -> Network {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let vb = builder(&variables);
    let words = taps.tap("words", embedding(11, 5, vb.pp("words")).unwrap());
    let mix = taps.tap("mix", linear(5, 5, vb.pp("mix")).unwrap());
    let head = taps.tap("head", linear(5, 3, vb.pp("head")).unwrap());
    let forward = move |x: &Tensor, _| {
        let ids = ((x.tanh()? + 1.0)? * 5.49)?.to_dtype(DType::U32)?;
        head.forward(&mix.forward(&words.forward(&ids)?)?.tanh()?.mean(1)?)
    };
    Network::new(taps, variables, forward, Data::noise(1, EXAMPLES, &[4]), Data::noise(3, 1, &[4]))
}

#[test]
fn a_visit_without_weight_adds_nothing() {
    check(Network::mlp(EXAMPLES, 1, false).fill(9, 0.6));
}

#[test]
fn weights_are_undone_once_in_a_vector_that_several_layers_share() {
    check(text().fill(9, 0.6));
}

fn check(model: Network) {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(dir.path(), &model.taps, exact()).unwrap();
    let (mut influence, mut own) = ([0f64; EXAMPLES], [0f64; EXAMPLES]);
    let mut norms: [Vec<f64>; EXAMPLES] = Default::default();
    for step in 0..6u64 {
        let ids = if step < 4 { [0, 1, 2] } else { [3, 4, 5] };
        let weights = weights(step);
        model.record_probes(&mut recorder, "test", &[0]);
        let probe = model.loss_gradient(&model.probes, 0);
        for (id, weight) in ids.iter().zip(weights) {
            let gradient = model.loss_gradient(&model.examples, *id as usize);
            // The loss is the mean of the weighted losses.
            let coefficient = f64::from(weight) / 3.0;
            influence[*id as usize] += 0.2 * coefficient * dot(&gradient, &probe);
            own[*id as usize] += 0.2 * coefficient * dot(&gradient, &gradient);
            if weight > 0.0 {
                norms[*id as usize].push(norm(&gradient));
            }
        }
        let grads = model.record_pass(&mut recorder, &ids, Some(&weights), 0.2);
        for var in model.named().values() {
            if let Some(gradient) = grads.get(var) {
                var.set(&(var.as_detached_tensor() - (gradient * 0.2).unwrap()).unwrap()).unwrap();
            }
        }
    }
    recorder.finish().unwrap();
    let run = Run::open(dir.path()).unwrap();
    let answer = InfluenceQuestion::new("test").compute(&run).unwrap();
    for (id, right) in influence.iter().enumerate() {
        let score = answer.score_of(id as u64, 0).unwrap();
        assert!((score - right).abs() < 1e-5, "influence of {id}: {score}, right {right}");
    }
    let table = ScoreQuestion::new(Score::SelfInfluence).compute(&run).unwrap();
    for (id, right) in own.iter().enumerate() {
        let score = table.row(id as u64).unwrap().score;
        assert!((score - right).abs() < 1e-5, "self-influence of {id}: {score}, right {right}");
    }
    let table = ScoreQuestion::new(Score::Grand).compute(&run).unwrap();
    for (id, own) in norms.iter().enumerate() {
        let row = table.row(id as u64);
        match own.as_slice() {
            [] => assert!(row.is_none_or(|row| row.score.is_nan()), "GraNd of {id} is unknown"),
            own => {
                let (score, right) = (row.unwrap().score, own.iter().sum::<f64>() / own.len() as f64);
                assert!((score - right).abs() < 1e-5, "GraNd of {id}: {score}, right {right}");
            }
        }
    }
    assert!(table.left_out.unseen > 0, "{:?}", table.left_out);
}
