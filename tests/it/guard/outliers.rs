//! What the guard says of large gradients: before the step where their norms are known, and otherwise afterwards.

use super::*;

/// What is told of passes whose outputs `forward` makes. The pass with the outlier is waited for.
fn told_with(on_event: OnEvent, taps: &Taps, forward: impl Fn(u64) -> Tensor) -> Vec<GuardEvent> {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(dir.path(), taps, config(on_event)).unwrap();
    let mut said = Vec::new();
    for step in 0..STEPS {
        let mut pass = recorder.pass(&ids(step)).unwrap();
        pass.cross_entropy(&forward(step), &labels(BATCH)).unwrap().backward().unwrap();
        said.push(pass.commit(0.1).unwrap());
        if step == ODD {
            recorder.flush().unwrap();
        }
    }
    events(&said)
}

#[test]
fn an_outlier_is_told_and_the_training_goes_on_as_without_a_recorder() {
    let dir = tempfile::tempdir().unwrap();
    let model = Model::new();
    let mut recorder = Recorder::create(dir.path(), &model.taps, config(OnEvent::GoOn)).unwrap();
    recorder.set_epoch(2);
    let (before, error) = train(&model, &mut recorder, 0..ODD, None);
    assert!(error.is_none() && events(&before).is_empty());
    let row = inputs(ODD, Some(ODD)).narrow(0, 3, 1).unwrap();
    let [norm1, norm2] = model.norms_alone(&row, 0);
    let norm = norm1.hypot(norm2);
    let layer = if norm1 > norm2 { "fc1" } else { "fc2" };
    let (at_once, error) = train(&model, &mut recorder, ODD..STEPS, Some(ODD));
    assert!(error.is_none());
    // The news is there once the background thread has seen the pass.
    recorder.flush().unwrap();
    let (later, _) = train(&model, &mut recorder, STEPS..STEPS + 1, None);
    let told = events(&[at_once, later].concat());
    let event = told.iter().find(|event| event.kind == EventKind::LargeGradient).unwrap();
    assert_eq!((event.step, event.examples.as_slice(), event.more), (ODD, &[4503][..], 0));
    assert_eq!((event.layer.as_deref(), event.action), (Some(layer), EventAction::WentOn));
    assert!((event.value / norm - 1.0).abs() < 1e-4, "{} {norm}", event.value);
    assert!(event.value > event.limit && (event.limit / event.reference - 10.0).abs() < 1e-4);
    recorder.finish().unwrap();

    let log = logged(dir.path());
    let first = log.iter().find(|event| event.kind == EventKind::LargeGradient).unwrap();
    assert_eq!((first.step, first.example, first.count), (ODD, Some(4503), 1));
    assert_eq!(first.layer, Some(u32::from(layer == "fc2")));
    assert_eq!((event.epoch, first.epoch), (2, 2));
    assert!((first.limit / first.reference - 10.0).abs() < 1e-4 && f64::from(first.limit) == event.limit);
    assert!((f64::from(first.value) / norm - 1.0).abs() < 1e-4);
    let said = gradlog(&["info", dir.path().to_str().unwrap()]);
    let sentence =
        format!("the gradient of example 4503 is {:.0} times the 99th percentile", event.value / event.reference);
    assert!(said.out.contains(&sentence) && said.out.contains(&event.to_string()), "{sentence}: {}", said.out);
    let said = gradlog(&["info", dir.path().to_str().unwrap(), "--format", "json"]).json();
    assert_eq!(said["events"]["first"][0]["example"], 4503);
    assert_eq!(said["events"]["counts"]["large-gradient"], log.iter().map(|event| event.count).sum::<u64>());

    // The weights are those of a guard that is off, and of no recorder.
    let dir = tempfile::tempdir().unwrap();
    let (off, none) = (Model::new(), Model::new());
    let mut recorder = Recorder::create(dir.path(), &off.taps, Config { guard: Guard::off(), ..exact() }).unwrap();
    let (said, _) = train(&off, &mut recorder, 0..STEPS + 1, Some(ODD));
    assert!(events(&said).is_empty());
    train(&none, &mut Recorder::disabled(), 0..STEPS + 1, Some(ODD));
    assert!(model.weights() == off.weights() && model.weights() == none.weights());
    recorder.finish().unwrap();
    assert!(logged(dir.path()).is_empty());
}

#[test]
fn a_step_with_an_outlier_is_skipped_to_the_last_bit() {
    for dtype in [DType::F32, DType::F64] {
        let dir = tempfile::tempdir().unwrap();
        let (model, plain) = (Model::of(dtype), Model::of(dtype));
        let mut recorder = Recorder::create(dir.path(), &model.taps, config(OnEvent::Skip)).unwrap();
        // The percentile is that of the first 512 visits, whose norms are known before each step.
        let mut norms = Vec::new();
        for step in 0..ODD {
            for i in (0..BATCH).filter(|_| step < 512 / BATCH as u64) {
                let x = inputs(step, None).narrow(0, i, 1).unwrap();
                let [first, second] = model.norms_alone(&x, i as u32 % 3);
                norms.push(first.hypot(second));
            }
            train(&model, &mut recorder, step..step + 1, None);
        }
        norms.sort_by(f64::total_cmp);
        let norm = model.norms_alone(&inputs(ODD, Some(ODD)).narrow(0, 3, 1).unwrap(), 0);
        let (said, error) = train(&model, &mut recorder, ODD..STEPS, Some(ODD));
        assert!(error.is_none() && recorder.abandoned_steps() == 1);
        let event = said[0].events.first().unwrap();
        assert_eq!((event.step, event.examples.as_slice(), event.action), (ODD, &[4503][..], EventAction::Skipped));
        assert!((event.value / norm[0].hypot(norm[1]) - 1.0).abs() < 1e-4);
        assert!((event.reference / norms[506] - 1.0).abs() < 1e-4, "{} {}", event.reference, norms[506]);
        assert_eq!(event.layer.as_deref(), Some(if norm[0] > norm[1] { "fc1" } else { "fc2" }));
        assert_eq!(events(&said).len(), 1, "told once");
        train(&plain, &mut Recorder::disabled(), (0..STEPS).filter(|step| *step != ODD), None);
        assert!(model.weights() == plain.weights());
        let summary = recorder.finish().unwrap();
        assert_eq!((summary.abandoned, summary.dropped), (BATCH as u64, 0));
        assert_eq!(u64s(dir.path(), BlockKind::Steps, Column::Step), (0..STEPS - 1).collect::<Vec<_>>());
        assert!(!u64s(dir.path(), BlockKind::Visits, Column::Example).contains(&4503));
        let log = logged(dir.path());
        assert_eq!((log.len(), log[0].action, log[0].example), (1, EventAction::Skipped, Some(4503)));
    }
}

#[test]
fn commit_says_that_the_step_is_skipped_and_the_next_one_tells_it() {
    let dir = tempfile::tempdir().unwrap();
    let model = Model::new();
    let mut recorder = Recorder::create(dir.path(), &model.taps, config(OnEvent::Skip)).unwrap();
    train(&model, &mut recorder, 0..ODD, None);
    let mut pass = recorder.pass(&ids(ODD)).unwrap();
    let loss = pass.cross_entropy(&model.forward(&inputs(ODD, Some(ODD))), &labels(BATCH)).unwrap();
    loss.backward().unwrap();
    let error = pass.commit(0.1).unwrap_err();
    assert!(error.is_skipped_step() && error.to_string().contains("example 4503"), "{error}");
    let (said, _) = train(&model, &mut recorder, ODD..ODD + 1, None);
    assert_eq!(events(&said).len(), 1);
}

#[test]
fn an_outlier_stops_the_loop_before_the_step() {
    let dir = tempfile::tempdir().unwrap();
    let model = Model::new();
    let mut recorder = Recorder::create(dir.path(), &model.taps, config(OnEvent::Stop)).unwrap();
    train(&model, &mut recorder, 0..ODD, None);
    let before = model.weights();
    let (_, error) = train(&model, &mut recorder, ODD..STEPS, Some(ODD));
    let error = error.unwrap();
    assert!(matches!(error, RecordError::Guarded { skipped: false, .. }) && !error.is_skipped_step(), "{error}");
    assert!(error.to_string().contains("was told to stop. Do not take the optimizer's step"), "{error}");
    assert!(model.weights() == before);
    // Dropped without `finish`, the log has the event all the same.
    drop(recorder);
    let log = logged(dir.path());
    assert_eq!((log.len(), log[0].step, log[0].action), (1, ODD, EventAction::Stopped));
}

/// A layer that ran twice has no norm before the step: the guard then tells afterwards, and stops nothing.
#[test]
fn a_norm_that_is_not_known_before_the_step_is_told_afterwards() {
    let taps = Taps::new();
    let weight = Var::from_tensor(&noise(1, &[6, 6])).unwrap();
    let layer = taps.tap("twice", Linear::new(weight.as_tensor().clone(), None));
    let told = told_with(OnEvent::Stop, &taps, |step| {
        layer.forward(&layer.forward(&inputs(step, Some(ODD))).unwrap()).unwrap()
    });
    assert_eq!((told.len(), told[0].examples.as_slice(), told[0].action), (1, &[4503][..], EventAction::WentOn));
    assert_eq!(told[0].layer.as_deref(), Some("twice"));
}

/// Only a part of the gradient is known before the step: the rest is looked at afterwards.
#[test]
fn a_norm_that_is_known_in_part_is_looked_at_again() {
    let taps = Taps::new();
    let weight = |seed| Var::from_tensor(&noise(seed, &[6, 6])).unwrap();
    let (first, second) = (weight(1), weight(2));
    let once = taps.tap("once", Linear::new(first.as_tensor().clone(), None));
    let twice = taps.tap("twice", Linear::new(second.as_tensor().clone(), None));
    let told = told_with(OnEvent::Stop, &taps, |step| {
        // The outlier goes through the layer that runs twice alone.
        let odd = twice.forward(&twice.forward(&inputs(step, Some(ODD))).unwrap()).unwrap();
        (once.forward(&inputs(step, None)).unwrap() + odd).unwrap()
    });
    assert_eq!((told.len(), told[0].examples.as_slice(), told[0].action), (1, &[4503][..], EventAction::WentOn));
    assert_eq!(told[0].layer.as_deref(), Some("twice"));
}

/// A layer with several positions has its norm before the step, too.
#[test]
fn an_outlier_of_several_positions_is_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let taps = Taps::new();
    let weight = Var::from_tensor(&noise(1, &[3, 3])).unwrap();
    let layer = taps.tap("tokens", Linear::new(weight.as_tensor().clone(), None));
    let mut recorder = Recorder::create(dir.path(), &taps, config(OnEvent::Skip)).unwrap();
    let mut optimizer = SGD::new(vec![weight.clone()], 1e-3).unwrap();
    let mut said = Vec::new();
    for step in 0..STEPS {
        let mut pass = recorder.pass(&ids(step)).unwrap();
        let x = inputs(step, Some(ODD)).reshape((BATCH, 2, 3)).unwrap();
        let out = layer.forward(&x).unwrap().mean(1).unwrap();
        // The class that the outlier is not of: a right answer would have no gradient.
        let wrong: Vec<u32> = (0..BATCH as u32).map(|i| (i + 1) % 3).collect();
        let loss = pass.cross_entropy(&out, &Tensor::new(wrong.as_slice(), &Device::Cpu).unwrap()).unwrap();
        said.push(pass.backward_step(&mut optimizer, &loss).unwrap());
    }
    let told = events(&said);
    assert_eq!((told.len(), told[0].examples.as_slice(), told[0].action), (1, &[4503][..], EventAction::Skipped));
    assert_eq!((told[0].step, told[0].layer.as_deref()), (ODD, Some("tokens")));
    assert_eq!(recorder.abandoned_steps(), 1);
}

/// Norms of skipped steps count, so that a training whose norms all grow goes on: at most 41 visits lie beyond.
#[test]
fn norms_that_all_grow_are_soon_the_rule() {
    let dir = tempfile::tempdir().unwrap();
    let model = Model::new();
    let mut recorder = Recorder::create(dir.path(), &model.taps, config(OnEvent::Skip)).unwrap();
    train(&model, &mut recorder, 0..ODD, None);
    let mut optimizer = SGD::new(model.variables.clone(), 1e-6).unwrap();
    let mut skipped = Vec::new();
    for step in 0..100 {
        let mut pass = recorder.pass(&ids(1_000 + step)).unwrap();
        let x = (inputs(step, None) * 1e4).unwrap();
        let loss = pass.cross_entropy(&model.forward(&x), &labels(BATCH)).unwrap();
        let said = pass.backward_step(&mut optimizer, &loss).unwrap();
        if said
            .events
            .iter()
            .any(|event| event.action == EventAction::Skipped && event.kind == EventKind::LargeGradient)
        {
            skipped.push(step);
        }
    }
    // The percentile is brought up to date every 256 visits, which are 16 steps.
    assert!(!skipped.is_empty() && skipped.iter().all(|step| *step < 20), "{skipped:?}");
}

/// The first 50 steps have no verdict, however many passes they are made of.
#[test]
fn passes_of_a_step_are_one_step_for_the_guard() {
    let dir = tempfile::tempdir().unwrap();
    let model = Model::new();
    let mut recorder = Recorder::create(dir.path(), &model.taps, config(OnEvent::GoOn)).unwrap();
    let mut said = Vec::new();
    for step in 0..49 {
        for part in 0..3 {
            let mut pass = recorder.pass(&ids(3 * step + part)).unwrap();
            let factor = if step < 25 { 1.0 } else { 1e3 };
            let logits = (model.forward(&inputs(step, None)) * factor).unwrap();
            pass.cross_entropy(&logits, &labels(BATCH)).unwrap().backward().unwrap();
            said.push(if part < 2 { pass.accumulate().unwrap() } else { pass.commit(0.1).unwrap() });
        }
    }
    assert!(events(&said).iter().all(|event| event.kind != EventKind::Divergence), "{said:?}");
}
