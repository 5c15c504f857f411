//! Influence on a score of a prediction.

use super::*;
use gradlog::PredictionScore;

/// The score of a class by candle's ops.
fn score(z: &Tensor, class: usize, which: PredictionScore) -> Tensor {
    let own = z.narrow(1, class, 1).unwrap().sum_all().unwrap();
    let others: Vec<u32> = (0..3).filter(|k| *k != class as u32).collect();
    let others = z.index_select(&Tensor::new(others, &Device::Cpu).unwrap(), 1).unwrap();
    match which {
        PredictionScore::Logit => own,
        PredictionScore::Margin => (own - others.max(1).unwrap().sum_all().unwrap()).unwrap(),
        _ => (own - others.exp().unwrap().sum_all().unwrap().log().unwrap()).unwrap(),
    }
}

#[test]
fn influence_on_a_prediction_needs_no_label_and_says_what_raised_it() {
    let which = [PredictionScore::Logit, PredictionScore::Margin, PredictionScore::LogOdds];
    let dir = tempfile::tempdir().unwrap();
    let model = mlp(11);
    let weights = train(&model, dir.path());
    let classes = [2u32, 0, 1];
    let mut replay = Replay::open(dir.path(), &model.taps, Config::default()).unwrap();
    for checkpoint in replay.checkpoints() {
        replay.load(&checkpoint, &model.variables).unwrap();
        sweep(&model, &mut replay);
        for score in which {
            let mut probe = replay.probe(&score.to_string(), &[0, 1, 2]).unwrap();
            let logits = model.logits(&model.probes.x).unwrap();
            let classes = Tensor::new(&classes, &Device::Cpu).unwrap();
            probe.prediction_score(&logits, score, Some(&classes)).unwrap().backward().unwrap();
            probe.commit().unwrap();
        }
        let mut sweep = replay.sweep(&[1]).unwrap();
        let logits = model.logits(&row(&model.examples.x, 1).unwrap()).unwrap();
        assert!(sweep.prediction_score(&logits, PredictionScore::Margin, None).is_err());
    }
    replay.finish().unwrap();
    let run = Run::open(dir.path()).unwrap();
    for measured in which {
        let result = InfluenceQuestion::new(measured.to_string()).sweeps().steps(0..).compute(&run).unwrap();
        for (probe, class) in classes.iter().enumerate() {
            assert_eq!(result.probes[probe].scored, Some((measured, *class)));
            assert_eq!(result.probes[probe].label, None);
            let mut want = vec![0.0f32; EXAMPLES];
            for (step, weights) in &weights {
                model.set_weights(weights);
                let g = model.gradient(&model.probes.x, probe, |z| score(z, *class as usize, measured));
                for (i, want) in want.iter_mut().enumerate() {
                    // A step goes down the example's loss: what it does to the score is minus the product.
                    let z = model.loss_gradient(&model.examples, i);
                    *want -= (rate(step.saturating_sub(1)) * dot(&g, &z)) as f32;
                }
            }
            let got = influence_by_example(&result, probe, EXAMPLES);
            assert!(relative_error(&got, &want) < 1e-3, "{measured} {probe}: {}", relative_error(&got, &want));
        }
    }
    // The sign, by what happens: a small step on the strongest proponent raises the score, one on the strongest
    // opponent lowers it.
    let end = weights.last_key_value().unwrap().1;
    let question = InfluenceQuestion::new("log-odds").sweeps().steps(STEPS..=STEPS);
    let result = question.compute(&run).unwrap();
    for (probe, class) in classes.iter().enumerate() {
        let value = || -> f32 {
            let z = model.logits(&row(&model.probes.x, probe).unwrap()).unwrap();
            score(&z, *class as usize, PredictionScore::LogOdds).to_scalar().unwrap()
        };
        let after = |rows: Vec<usize>| {
            model.set_weights(end);
            let before = value();
            let i = result.rows[rows[0]].example as usize;
            let z = model.logits(&row(&model.examples.x, i).unwrap()).unwrap();
            let loss = candle_nn::loss::cross_entropy(&z, &model.examples.y.narrow(0, i, 1).unwrap()).unwrap();
            SGD::new(model.variables.all_vars(), 1e-2).unwrap().backward_step(&loss).unwrap();
            value() - before
        };
        assert!(after(result.proponents(probe, 1)) > 0.0 && after(result.opponents(probe, 1)) < 0.0, "{probe}");
    }
}

#[test]
fn records_of_another_class_or_of_a_loss_are_left_out_of_a_score() {
    let dir = tempfile::tempdir().unwrap();
    let model = mlp(11);
    train(&model, dir.path());
    let mut replay = Replay::open(dir.path(), &model.taps, Config::default()).unwrap();
    for (checkpoint, class) in replay.checkpoints().into_iter().zip([1u32, 2, 2, 2]) {
        replay.load(&checkpoint, &model.variables).unwrap();
        let logits = |probe: &[u64]| {
            let index = Tensor::new(probe.iter().map(|i| *i as u32).collect::<Vec<_>>(), &Device::Cpu).unwrap();
            model.logits(&model.probes.x.index_select(&index, 0).unwrap()).unwrap()
        };
        let mut probe = replay.probe("mixed", &[0]).unwrap();
        let classes = Tensor::new(&[class], &Device::Cpu).unwrap();
        let loss = probe.prediction_score(&logits(&[0]), PredictionScore::Margin, Some(&classes)).unwrap();
        loss.backward().unwrap();
        probe.commit().unwrap();
        let mut probe = replay.probe("mixed", &[1]).unwrap();
        probe.cross_entropy(&logits(&[1]), &model.probes.y.narrow(0, 1, 1).unwrap()).unwrap().backward().unwrap();
        probe.commit().unwrap();
    }
    replay.finish().unwrap();
    let run = Run::open(dir.path()).unwrap();
    let result = InfluenceQuestion::new("mixed").id(0).compute(&run).unwrap();
    assert_eq!((result.probe_times, result.left_out.probe_records), (3, 1));
    assert_eq!(result.probes[0].scored, Some((PredictionScore::Margin, 2)));
    let all = InfluenceQuestion::new("mixed").compute(&run).unwrap();
    assert_eq!((all.probes.len(), all.left_out.probe_records), (1, 5), "losses and scores are not added up");
    let loss = InfluenceQuestion::new("mixed").id(1).compute(&run).unwrap();
    assert_eq!((loss.probe_times, loss.probes[0].scored), (4, None));
}
