//! Layers with learning rates of their own, and layers that no step changes, against sums by candle's own backward.

use crate::common::*;
use candle_nn::Optimizer;
use gradlog::optim::{ParameterGroup, Sgd, SgdConfig};
use gradlog::{Recorder, StepInfo};
use gradlog_analysis::{
    AnalysisError, Combine, EstimateQuestion, InfluenceQuestion, Method, Normalization, Score, ScoreQuestion,
    SummaryQuestion, UntrainedLayers, VectorQuestion, Window,
};
use gradlog_format::run::Run;
use std::path::Path;

const EXAMPLES: usize = 8;

/// The rate of a variable at a step: 0 for one that is not in the optimizer.
type Rates = fn(&str, u64) -> f64;

/// What is right: for each example, sums over its visits of products weighed by the rate of each variable.
struct Truth {
    influence: Vec<f64>,
    self_influence: Vec<f64>,
    norm: Vec<f64>,
    relatif: Vec<f64>,
    applied: Vec<Vec<f64>>,
}

/// Trains with SGD whose rate of each variable is `rates`, with one probe before each step. `told` makes what the loop
/// tells of a step.
fn train(dir: &Path, model: &Network, steps: u64, rates: Rates, told: impl Fn(u64) -> StepInfo) -> Truth {
    let mut recorder = Recorder::create(dir, &model.taps, exact()).unwrap();
    let truth = go_on(&mut recorder, model, 0..steps, rates, told);
    recorder.finish().unwrap();
    truth
}

fn go_on(
    recorder: &mut Recorder,
    model: &Network,
    steps: std::ops::Range<u64>,
    rates: Rates,
    told: impl Fn(u64) -> StepInfo,
) -> Truth {
    let names = model.named();
    let sizes: usize = names.values().map(|var| var.elem_count()).sum();
    let mut truth = Truth {
        influence: vec![0.0; EXAMPLES],
        self_influence: vec![0.0; EXAMPLES],
        norm: vec![0.0; EXAMPLES],
        relatif: vec![0.0; EXAMPLES],
        applied: vec![vec![0.0; sizes]; EXAMPLES],
    };
    let mut visits = vec![0.0; EXAMPLES];
    for step in steps {
        let of_numbers: Vec<f64> =
            names.iter().flat_map(|(name, var)| std::iter::repeat_n(rates(name, step), var.elem_count())).collect();
        let ids: Vec<u64> = (0..4).map(|i| (4 * step + i) % EXAMPLES as u64).collect();
        model.record_probes(recorder, "test", &[0]);
        let probe = model.loss_gradient(&model.probes, 0);
        for id in &ids {
            let (g, at) = (model.loss_gradient(&model.examples, *id as usize), *id as usize);
            for (number, rate) in of_numbers.iter().enumerate() {
                let (own, other) = (f64::from(g[number]), f64::from(probe[number]));
                truth.influence[at] += 0.25 * rate * own * other;
                truth.self_influence[at] += 0.25 * rate * own * own;
                truth.applied[at][number] += 0.25 * rate * own;
            }
            // A step at the rate 0 moves nothing, but no layer is frozen in it.
            let is_still = of_numbers.iter().all(|rate| *rate == 0.0);
            let moving = |(g, rate): (&f32, &f64)| if *rate > 0.0 || is_still { f64::from(*g).powi(2) } else { 0.0 };
            truth.norm[at] += g.iter().zip(&of_numbers).map(moving).sum::<f64>().sqrt();
            visits[at] += 1.0;
        }
        let data = model.examples.select(&ids);
        let mut pass = recorder.pass(&ids).unwrap();
        let loss = pass.cross_entropy(&model.logits(&data.x).unwrap(), &data.y).unwrap();
        let grads = loss.backward().unwrap();
        pass.commit(told(step)).unwrap();
        for (name, var) in &names {
            let rate = rates(name, step);
            if rate > 0.0 {
                let new = (var.as_detached_tensor() - (grads.get(var).unwrap() * rate).unwrap()).unwrap();
                var.set(&new).unwrap();
            }
        }
    }
    truth.norm.iter_mut().zip(&visits).for_each(|(sum, count)| *sum /= count);
    let own = truth.influence.iter().zip(&truth.self_influence);
    truth.relatif = own.map(|(score, own)| score / own.sqrt()).collect();
    truth
}

fn close(what: &str, got: &[f32], want: &[f64]) {
    let want: Vec<f32> = want.iter().map(|value| *value as f32).collect();
    let error = relative_error(got, &want);
    assert!(error < 1e-4, "{what}: {error}: {got:?} for {want:?}");
}

fn check(run: &Run, truth: &Truth) {
    let score = |score| score_by_example(&ScoreQuestion::new(score).compute(run).unwrap(), EXAMPLES);
    close("self-influence", &score(Score::SelfInfluence), &truth.self_influence);
    close("GraNd", &score(Score::Grand), &truth.norm);
    let question = InfluenceQuestion::new("test");
    let found = influence_by_example(&question.compute(run).unwrap(), 0, EXAMPLES);
    close("TracIn", &found, &truth.influence);
    let relatif = question.normalization(Normalization::Relatif).compute(run).unwrap();
    close("RelatIF", &influence_by_example(&relatif, 0, EXAMPLES), &truth.relatif);
    let applied = VectorQuestion::new(1 << 14).combine(Combine::Applied).compute(run).unwrap();
    for (position, example) in applied.examples.iter().enumerate() {
        // In another order, and folded layers rotated: lengths and products are what counts.
        let want = truth.applied[*example as usize].iter().map(|value| value * value).sum::<f64>().sqrt();
        let got = norm(applied.vector(position));
        assert!((got - want).abs() < 1e-4 * want, "applied {example}: {got} for {want}");
    }
}

fn two_groups(name: &str, _: u64) -> f64 {
    if name.starts_with("fc1") || name.starts_with("conv") {
        0.001
    } else {
        0.1
    }
}

fn head_alone(name: &str, _: u64) -> f64 {
    match name {
        name if name.starts_with("fc1") || name.starts_with("conv") => 0.0,
        _ => 0.1,
    }
}

#[test]
fn layers_with_rates_of_their_own_have_them_in_every_score() {
    let dir = tempfile::tempdir().unwrap();
    for (number, (model, layer)) in
        [(Network::mlp(EXAMPLES, 1, false), "fc1"), (Network::cnn(3, 3, EXAMPLES, 1, false), "conv")]
            .into_iter()
            .enumerate()
    {
        let (model, dir) = (model.fill(5, 0.5), dir.path().join(number.to_string()));
        let truth = train(&dir, &model, 6, two_groups, |_| StepInfo::new(0.1).layer_rate(layer, 0.001));
        check(&Run::open(&dir).unwrap(), &truth);
    }
}

#[test]
fn layers_that_no_step_changes_are_left_out_and_named() {
    let dir = tempfile::tempdir().unwrap();
    for (number, (model, layer)) in
        [(Network::mlp(EXAMPLES, 1, false), "fc1"), (Network::cnn(3, 3, EXAMPLES, 1, false), "conv")]
            .into_iter()
            .enumerate()
    {
        // Fewer and more steps than there are between two looks.
        for steps in [3, 40] {
            let dir = dir.path().join(format!("{number}-{steps}"));
            let fresh =
                if layer == "fc1" { Network::mlp(EXAMPLES, 1, false) } else { Network::cnn(3, 3, EXAMPLES, 1, false) };
            let fresh = fresh.fill(5, 0.5);
            let truth = train(&dir, &fresh, steps, head_alone, |_| 0.1.into());
            let run = Run::open(&dir).unwrap();
            check(&run, &truth);
            assert_eq!(SummaryQuestion::new().compute(&run).unwrap().untrained_layers, [layer]);
            let found = UntrainedLayers::find(&run, &Window::everything()).unwrap();
            assert_eq!((found.left_out.as_slice(), found.counted.len()), ([layer.to_owned()].as_slice(), 0));
            assert!(found.to_string().contains(layer));
            // Methods with curvature work on what is left.
            let question = EstimateQuestion::new(InfluenceQuestion::new("test"), Method::InfluenceFunction);
            let answer = &question.compute(&run).unwrap()[0];
            let named = fresh.named();
            let head = named.iter().filter(|(name, _)| name.starts_with("fc") && !name.starts_with("fc1"));
            let numbers: usize = head.map(|(_, var)| var.elem_count()).sum();
            assert_eq!(answer.estimate.as_ref().unwrap().length, numbers.min(2048));
        }
        drop(model);
    }
}

/// A model of which all is trained, and one that no step changes at all, say nothing.
#[test]
fn a_model_that_is_trained_as_a_whole_or_not_at_all_has_no_untrained_layers() {
    let dir = tempfile::tempdir().unwrap();
    let rates: [Rates; 2] = [|_, _| 0.1, |_, _| 0.0];
    for (number, rates) in rates.into_iter().enumerate() {
        let (dir, model) = (dir.path().join(number.to_string()), Network::mlp(EXAMPLES, 1, false).fill(5, 0.5));
        train(&dir, &model, 20, rates, |_| 0.1.into());
        let run = Run::open(&dir).unwrap();
        assert!(SummaryQuestion::new().compute(&run).unwrap().untrained_layers.is_empty());
        assert!(UntrainedLayers::find(&run, &Window::everything()).unwrap().is_empty());
    }
}

/// The steps change the bias of one layer and not its weight, and nobody tells: the layer counts whole, and every
/// answer says so. Its other layer is trained as a whole.
#[test]
fn a_layer_of_which_steps_change_a_part_is_labeled() {
    let dir = tempfile::tempdir().unwrap();
    for (number, steps) in [3, 40].into_iter().enumerate() {
        let (dir, model) = (dir.path().join(number.to_string()), Network::mlp(EXAMPLES, 1, false).fill(5, 0.5));
        train(&dir, &model, steps, |name, _| if name == "fc1.weight" { 0.0 } else { 0.1 }, |_| 0.1.into());
        let run = Run::open(&dir).unwrap();
        let found = UntrainedLayers::find(&run, &Window::everything()).unwrap();
        assert_eq!(found.in_part, ["fc1"], "{found:?}");
        assert!(found.left_out.is_empty() && found.partly.is_empty(), "{found:?}");
        let what = "trained in part, but counted whole: `fc1`";
        let influence = InfluenceQuestion::new("test").compute(&run).unwrap().basis.to_string();
        let own = ScoreQuestion::new(Score::SelfInfluence).compute(&run).unwrap().basis.to_string();
        assert!(influence.contains(what) && own.contains(what), "{influence}; {own}");
        let info = gradlog(&["info", dir.to_str().unwrap()]).out;
        assert!(info.contains("fc1") && info.contains("trained in part"), "{info}");
    }
}

/// The rest of a layer that begins to train at step 20 ends the label.
#[test]
fn a_layer_that_begins_to_train_as_a_whole_loses_its_label() {
    let dir = tempfile::tempdir().unwrap();
    let model = Network::mlp(EXAMPLES, 1, false).fill(5, 0.5);
    let late: Rates = |name, step| if name == "fc1.weight" && step < 20 { 0.0 } else { 0.1 };
    let run_dir = dir.path().join("run");
    train(&run_dir, &model, 64, late, |_| 0.1.into());
    let run = Run::open(&run_dir).unwrap();
    let in_part = |steps| UntrainedLayers::find(&run, &Window::steps(steps)).unwrap().in_part;
    assert_eq!((in_part(0..16), in_part(32..64)), (vec!["fc1".to_owned()], Vec::new()));
}

/// A layer that begins to train at step 20 is left out before step 16 and counts from there on. The scores of single
/// visits go by their step; products with probes want a window in which nothing changes.
#[test]
fn a_layer_that_begins_to_train_late_counts_from_then_on() {
    let dir = tempfile::tempdir().unwrap();
    let model = Network::mlp(EXAMPLES, 1, false).fill(5, 0.5);
    let late: Rates = |name, step| if name.starts_with("fc1") && step < 20 { 0.0 } else { 0.1 };
    let mut recorder = Recorder::create(dir.path().join("run"), &model.taps, exact()).unwrap();
    let before = go_on(&mut recorder, &model, 0..16, late, |_| 0.1.into());
    let unseen = go_on(&mut recorder, &model, 16..20, late, |_| 0.1.into());
    let after = go_on(&mut recorder, &model, 20..64, late, |_| 0.1.into());
    recorder.finish().unwrap();
    drop(unseen);
    let run = Run::open(dir.path().join("run")).unwrap();
    let own = |steps: std::ops::Range<u64>| {
        score_by_example(&ScoreQuestion::new(Score::SelfInfluence).steps(steps).compute(&run).unwrap(), EXAMPLES)
    };
    close("before", &own(0..16), &before.self_influence);
    close("after", &own(20..64), &after.self_influence);
    let question = InfluenceQuestion::new("test");
    let error = question.compute(&run).unwrap_err();
    assert!(matches!(&error, AnalysisError::OutOfRange { .. }) && error.to_string().contains("fc1"), "{error}");
    assert_eq!(UntrainedLayers::find(&run, &Window::everything()).unwrap().partly, ["fc1"]);
    let found = question.steps(0..16).compute(&run).unwrap();
    close("TracIn before", &influence_by_example(&found, 0, EXAMPLES), &before.influence);
    assert!(SummaryQuestion::new().compute(&run).unwrap().untrained_layers.is_empty());
}

/// What an earlier session told and saw does not hold for a resumed one.
#[test]
fn a_resumed_run_begins_with_layers_that_are_trained_at_the_rate_of_the_step() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("run");
    let model = Network::mlp(EXAMPLES, 1, false).fill(5, 0.5);
    train(&dir, &model, 4, head_alone, |_| StepInfo::new(0.1).layer_rate("fc2", 0.1));
    let mut recorder = Recorder::resume(&dir, &model.taps, exact()).unwrap();
    let truth = go_on(&mut recorder, &model, 4..8, |_, _| 0.1, |_| 0.1.into());
    recorder.finish().unwrap();
    let run = Run::open(&dir).unwrap();
    let own = ScoreQuestion::new(Score::SelfInfluence).steps(4..8).compute(&run).unwrap();
    close("resumed", &score_by_example(&own, EXAMPLES), &truth.self_influence);
}

/// Steps at the rate 0 move nothing, so no layer has a ratio to the step's rate there.
fn warm_up(name: &str, step: u64) -> f64 {
    let rate = if step == 3 { 0.0 } else { 0.02 * step as f64 };
    if name.starts_with("fc1") {
        0.1 * rate
    } else {
        rate
    }
}

#[test]
fn a_warm_up_from_the_rate_0_changes_no_ratio() {
    let dir = tempfile::tempdir().unwrap();
    let rate = |step| warm_up("fc2", step);
    type Told<'a> = &'a dyn Fn(u64) -> StepInfo;
    // Parameter groups say nothing of layers at the rate 0, a loop may say 0 of them.
    let groups = |step| match rate(step) {
        0.0 => StepInfo::new(0.0),
        rate => StepInfo::new(rate).layer_rate("fc1", 0.1 * rate),
    };
    let by_hand = |step| StepInfo::new(rate(step)).layer_rate("fc1", 0.1 * rate(step));
    for (name, told) in [("groups", &groups as Told<'_>), ("by hand", &by_hand)] {
        let model = Network::mlp(EXAMPLES, 1, false).fill(5, 0.5);
        let truth = train(&dir.path().join(name), &model, 6, warm_up, told);
        check(&Run::open(dir.path().join(name)).unwrap(), &truth);
    }
}

#[test]
fn rates_that_fit_no_layer_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let model = Network::mlp(EXAMPLES, 1, false);
    let mut recorder = Recorder::create(dir.path().join("run"), &model.taps, exact()).unwrap();
    for (info, says) in [
        (StepInfo::new(0.1).layer_rate("fc3", 0.1), "the tapped layers are fc1, fc2"),
        (StepInfo::new(0.1).layer_rate("fc1", -0.1), "a learning rate of -0.1"),
        (StepInfo::new(0.0).layer_rate("fc1", 0.1), "must be above 0"),
    ] {
        let data = model.examples.select(&[0, 1]);
        let mut pass = recorder.pass(&[0, 1]).unwrap();
        pass.cross_entropy(&model.logits(&data.x).unwrap(), &data.y).unwrap().backward().unwrap();
        let error = pass.commit(info).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

/// Parameter groups of an optimizer of ours are what the loop would have told of its layers.
#[test]
fn parameter_groups_tell_their_rates() {
    let dir = tempfile::tempdir().unwrap();
    let record = |name: &str, by_hand: bool| {
        let model = Network::mlp(EXAMPLES, 1, false);
        for (seed, var) in model.named().values().enumerate() {
            var.set(&noise(seed as u64 + 20, var.dims())).unwrap();
        }
        let named = model.named();
        let layer = |prefix: &str| -> Vec<candle_core::Var> {
            named.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, var)| var.clone()).collect()
        };
        let groups = vec![ParameterGroup::new(layer("fc1")).rate_factor(0.01), ParameterGroup::new(layer("fc2"))];
        let mut optimizer = Sgd::with_groups(groups, SgdConfig::new(0.2)).unwrap();
        let mut recorder = Recorder::create(dir.path().join(name), &model.taps, exact()).unwrap();
        for step in 0..4 {
            model.record_probes(&mut recorder, "test", &[0]);
            optimizer.set_learning_rate(0.2 / (step + 1) as f64);
            let ids = [2 * step % 8, 2 * step % 8 + 1];
            let batch = model.examples.select(&ids);
            let mut pass = recorder.pass(&ids).unwrap();
            let loss = pass.cross_entropy(&model.logits(&batch.x).unwrap(), &batch.y).unwrap();
            if by_hand {
                let grads = loss.backward().unwrap();
                let rate = optimizer.learning_rate();
                let info = StepInfo::new(rate).momentum(0.0).weight_decay(0.0).layer_rate("fc1", 0.01 * rate);
                pass.commit(info).unwrap();
                optimizer.step(&grads).unwrap();
            } else {
                pass.backward_step(&mut optimizer, &loss).unwrap();
            }
        }
        recorder.finish().unwrap();
        let run = Run::open(dir.path().join(name)).unwrap();
        let self_influence = ScoreQuestion::new(Score::SelfInfluence).compute(&run).unwrap();
        self_influence.rows.iter().map(|row| row.score).collect::<Vec<_>>()
    };
    let (told, by_hand) = (record("groups", false), record("by hand", true));
    assert_eq!(told, by_hand);
    assert!(told.iter().all(|score| *score > 0.0));
    // A layer whose weight and bias are in different groups has no rate of its own.
    let model = Network::mlp(EXAMPLES, 1, false);
    let groups = model
        .named()
        .into_iter()
        .map(|(name, var)| ParameterGroup::new(vec![var]).rate_factor(if name == "fc1.bias" { 0.5 } else { 1.0 }));
    let mut optimizer = Sgd::with_groups(groups.collect(), SgdConfig::new(0.2)).unwrap();
    let mut recorder = Recorder::create(dir.path().join("split"), &model.taps, exact()).unwrap();
    let batch = model.examples.select(&[1, 2]);
    let mut pass = recorder.pass(&[1, 2]).unwrap();
    let loss = pass.cross_entropy(&model.logits(&batch.x).unwrap(), &batch.y).unwrap();
    let error = pass.backward_step(&mut optimizer, &loss).unwrap_err().to_string();
    assert!(error.contains("`fc1` have different learning rates"), "{error}");
}
