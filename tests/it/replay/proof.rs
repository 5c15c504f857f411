//! A replay proves what it replays: the variables are the tapped model's, the checkpoint is the run's, and recorded
//! losses come out again.

use super::*;
use candle_nn::VarMap;
use gradlog::Reproduction;

fn begin(model: &Network, dir: &Path) -> (Replay, Vec<gradlog::Checkpoint>) {
    let replay = Replay::open(dir, &model.taps, Config::default()).unwrap();
    let checkpoints = replay.checkpoints();
    (replay, checkpoints)
}

#[test]
fn variables_that_are_not_the_tapped_models_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let model = mlp(11);
    train(&model, dir.path());
    let other = mlp(77);
    let (mut replay, checkpoints) = begin(&model, dir.path());
    let before = (model.weights(), other.weights());
    let partial = VarMap::new();
    for (name, variable) in model.named().into_iter().filter(|(name, _)| name != "fc2.bias") {
        partial.data().lock().unwrap().insert(name, variable);
    }
    for (variables, said) in [
        (&VarMap::new(), "the map holds no variables; it lacks `fc1.weight`, `fc1.bias`, `fc2.weight`, `fc2.bias`"),
        (&other.variables, "holds 4 variables, and none is the tapped model's; it lacks `fc1.weight`"),
        (&partial, "holds 3 variables; it lacks `fc2.bias`"),
    ] {
        let error = replay.load(&checkpoints[1], variables).unwrap_err().to_string();
        assert!(error.contains(said) && error.contains("step 5") && error.contains("`VarMap`"), "{error}");
        assert!(replay.sweep(&[1]).is_err(), "nothing was loaded");
    }
    assert_eq!((model.weights(), other.weights()), before);
    // Under other names the variables are the model's, and the file lacks these names.
    let renamed = VarMap::new();
    for (name, variable) in model.named() {
        renamed.data().lock().unwrap().insert(format!("my.{name}"), variable);
    }
    let error = replay.load(&checkpoints[1], &renamed).unwrap_err().to_string();
    assert!(error.contains("it has no `my.fc1.weight`"), "{error}");
    replay.load(&checkpoints[1], &model.variables).unwrap();
}

/// Variables that no layer was tapped for count as well, if the model was declared.
#[test]
fn a_declared_model_is_loaded_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let model = mlp(11);
    let extra = builder(&model.variables).get_with_hints(3, "scale", candle_nn::init::ONE).unwrap();
    model.taps.declare_model(&model.variables);
    train(&model, dir.path());
    let (mut replay, checkpoints) = begin(&model, dir.path());
    let tapped = VarMap::new();
    for (name, variable) in model.named().into_iter().filter(|(name, _)| name != "scale") {
        tapped.data().lock().unwrap().insert(name, variable);
    }
    let error = replay.load(&checkpoints[1], &tapped).unwrap_err().to_string();
    assert!(error.contains("lacks `scale`"), "{error}");
    replay.load(&checkpoints[1], &model.variables).unwrap();
    assert_eq!(numbers(&extra), [1.0; 3]);
}

#[test]
fn a_checkpoint_of_another_run_and_tensors_that_nothing_takes_are_refused() {
    let (dir, other_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let model = mlp(11);
    let mut recorder = Recorder::create(dir.path(), &model.taps, exact()).unwrap();
    let momentum = [("optimizer.momentum".to_owned(), noise(1, &[2])), ("backbone.weight".to_owned(), noise(2, &[2]))];
    let weights = model.named().into_iter().map(|(name, variable)| (name, variable.as_detached_tensor()));
    recorder.checkpoint_tensors(weights.chain(momentum)).unwrap();
    model.step(&mut recorder, &step(0));
    recorder.finish().unwrap();
    let other = mlp(77);
    train(&other, other_dir.path());
    let foreign = Run::open(other_dir.path()).unwrap().checkpoints().unwrap();
    let (mut replay, checkpoints) = begin(&model, dir.path());
    let error = replay.load(&foreign[0], &model.variables).unwrap_err().to_string();
    assert!(error.contains("not a checkpoint of this run"), "{error}");
    let error = replay.load(&checkpoints[0], &model.variables).unwrap_err().to_string();
    assert!(error.contains("it also holds `backbone.weight`, `optimizer.momentum`"), "{error}");
    replay.ignore_tensors("optimizer.");
    let error = replay.load(&checkpoints[0], &model.variables).unwrap_err().to_string();
    assert!(error.contains("it also holds `backbone.weight`,") && error.contains("ignore_tensors"), "{error}");
    replay.ignore_tensors("backbone.");
    replay.load(&checkpoints[0], &model.variables).unwrap();
}

/// Sweeps `ids` in training mode, with the dropout of the training.
fn sweep_as_trained(model: &Network, replay: &mut Replay, ids: &[u64]) {
    let data = model.examples.select(ids);
    replay.set_mode(Mode::Training);
    let mut pass = replay.sweep(ids).unwrap();
    pass.cross_entropy(&model.training_logits(&data.x).unwrap(), &data.y).unwrap().backward().unwrap();
    pass.commit().unwrap();
}

fn reproduction(model: &Network, dir: &Path, f: impl FnOnce(&mut Replay, &[gradlog::Checkpoint])) -> Reproduction {
    let (mut replay, checkpoints) = begin(model, dir);
    f(&mut replay, &checkpoints);
    replay.finish().unwrap().reproduction
}

#[test]
fn a_replay_of_a_recorded_step_in_training_mode_reproduces_its_losses_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let model = mlp(11);
    let weights = train(&model, dir.path());
    // The right weights, step after step.
    let found = reproduction(&model, dir.path(), |replay, checkpoints| {
        for checkpoint in &checkpoints[..3] {
            replay.load(checkpoint, &model.variables).unwrap();
            sweep_as_trained(&model, replay, &step(checkpoint.step).ids);
        }
    });
    assert_eq!((found.compared, found.equal, found.reproduces()), (12, 12, Some(true)), "{found:?}");
    assert!(found.largest_difference < 1e-5 && found.to_string().contains("all 12"), "{found}");
    // Weights of another step, under this step's name.
    let found = reproduction(&model, dir.path(), |replay, _| {
        model.set_weights(&weights[&9]);
        replay.set_weights_step(5, 1, 0.1).unwrap();
        sweep_as_trained(&model, replay, &step(5).ids);
    });
    assert_eq!((found.compared, found.reproduces()), (4, Some(false)), "{found:?}");
    assert!(found.to_string().contains("not those of the training"), "{found}");
    // The right weights without dropout: other losses, rightly.
    let found = reproduction(&model, dir.path(), |replay, checkpoints| {
        replay.load(&checkpoints[1], &model.variables).unwrap();
        sweep(&model, replay);
    });
    assert!(found.compared == 4 && found.equal < 4 && found.reproduces().is_none(), "{found:?}");
    // Examples that the step did not visit, and the weights after the last step.
    let found = reproduction(&model, dir.path(), |replay, checkpoints| {
        replay.load(&checkpoints[1], &model.variables).unwrap();
        let others: Vec<u64> = (0..EXAMPLES as u64).filter(|id| !step(5).ids.contains(id)).collect();
        sweep_as_trained(&model, replay, &others);
        replay.load(&checkpoints[3], &model.variables).unwrap();
        sweep_as_trained(&model, replay, &step(5).ids);
    });
    assert_eq!((found.compared, found.reproduces()), (0, None));
}

#[test]
fn a_learning_rate_that_cannot_be_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let model = mlp(11);
    train(&model, dir.path());
    let (mut replay, _) = begin(&model, dir.path());
    for rate in [-0.1, f64::INFINITY, 1e39] {
        let error = replay.set_weights_step(5, 0, rate).unwrap_err().to_string();
        assert!(error.contains("learning rate"), "{error}");
    }
    replay.set_weights_step(5, 0, f64::NAN).unwrap();
}
