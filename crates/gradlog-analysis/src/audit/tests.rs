//! The measures against models whose answers are known by hand.

use super::*;
use std::cell::RefCell;

const DATA: [f64; 6] = [1.0, 2.0, 4.0, 9.0, 5.0, 3.0];

fn weights(change: &Change<'_>) -> Vec<f64> {
    (0..DATA.len() as u64).map(|id| change.weight(id)).collect()
}

/// Two probes: the loss of the first falls with the sum of what is kept, that of the second rises. The first is right
/// while the sum is above 12.
fn sums(_seed: u64, change: &Change<'_>) -> Result<Trained, TrainingError> {
    let sum: f64 = weights(change).iter().zip(DATA).map(|(weight, x)| weight * x).sum();
    Ok(Trained { losses: vec![-sum, sum], right: vec![sum > 12.0, false] })
}

fn truth() -> Prediction {
    Prediction::new(&[0, 1, 2, 3, 4, 5], 2, DATA.iter().flat_map(|x| [*x, -x]).collect()).unwrap()
}

#[test]
fn leaving_one_out_is_the_loss_without_minus_that_with() {
    let found = LeaveOneOut::measure(3, &[3, 0], &mut sums).unwrap();
    assert_eq!(found.changes, [9.0, -9.0, 1.0, -1.0]);
    assert_eq!(found.base.losses, [-24.0, 24.0]);
    let paired = LeaveOneOut::measure(3, &[0, 1, 2, 3, 4, 5], &mut sums).unwrap().pair_with(&truth()).unwrap();
    let perfect = correlate(&[paired], Correlation::Pearson, Bootstrap::new(50));
    assert!((perfect.value - 1.0).abs() < 1e-12 && perfect.high <= 1.0 + 1e-12);
    // A probe whose prediction has the wrong sign takes its whole part away.
    let half = Prediction::new(&[0, 1, 2, 3, 4, 5], 2, DATA.iter().flat_map(|x| [*x, *x]).collect()).unwrap();
    let paired = LeaveOneOut::measure(3, &[0, 1, 2, 3, 4, 5], &mut sums).unwrap().pair_with(&half).unwrap();
    assert!(correlate(&[paired], Correlation::Spearman, Bootstrap::new(0)).value.abs() < 1e-12);
}

#[test]
fn the_ceiling_is_how_far_half_of_the_weight_changes_the_same() {
    let all = [0, 1, 2, 3, 4, 5];
    let found = LeaveOneOut::measure(3, &all, &mut sums).unwrap();
    assert_eq!((found.changes[6], found.half_changes[6]), (9.0, 4.5));
    assert_eq!(correlate(&[found.ceiling()], Correlation::Spearman, Bootstrap::new(0)).value, 1.0);
    // Half of the weight does the opposite of all of it: a training that no derivative describes.
    let mut bends = |seed: u64, change: &Change<'_>| {
        let mut trained = sums(seed, change)?;
        let halved = matches!(change, Change::Weighted { weight: 0.5, .. });
        trained.losses.iter_mut().for_each(|loss| *loss = if halved { -*loss } else { *loss });
        Ok(trained)
    };
    let found = LeaveOneOut::measure(3, &all, &mut bends).unwrap();
    assert_eq!(correlate(&[found.ceiling()], Correlation::Spearman, Bootstrap::new(0)).value, -1.0);
}

#[test]
fn a_group_is_left_out_as_one_and_its_scores_are_added() {
    let groups = [vec![3, 0], vec![1, 2, 4]];
    let found = LeaveGroupOut::measure(3, &groups, &mut sums).unwrap();
    assert_eq!(found.changes, [10.0, -10.0, 11.0, -11.0]);
    assert_eq!(found.half_changes, [5.0, -5.0, 5.5, -5.5]);
    let paired = found.pair_with(&truth()).unwrap();
    assert_eq!(paired.predicted, [10.0, -10.0, 11.0, -11.0]);
    assert_eq!(found.ceiling().predicted, found.half_changes);
    assert!(matches!(LeaveGroupOut::measure(0, &[vec![2], vec![]], &mut sums), Err(AuditError::Empty { .. })));
    let drawn = LeaveGroupOut::draw_groups(&[5, 6, 7, 8], 40, 3, 1);
    assert!(drawn.iter().all(|group| group.len() == 3 && group.windows(2).all(|pair| pair[0] < pair[1])));
    assert!([5, 6, 7, 8].iter().all(|id| drawn.iter().any(|group| !group.contains(id))));
}

#[test]
fn the_smoothness_test_says_that_no_method_can_be_judged() {
    let all = [0, 1, 2, 3, 4, 5];
    let smooth = LeaveOneOut::measure(3, &all, &mut sums).unwrap();
    let found = Smoothness::measure(&[smooth.ceiling()], Bootstrap::new(20));
    assert!(found.suffices() && found.agreement.value == 1.0 && found.reachable() == 1.0);
    assert_eq!(
        found.to_string(),
        "smoothness: what is measured agrees with itself by 1.00 [1.00, 1.00]; a prediction without scatter can reach 1.00"
    );
    // What half of the weight does has nothing to do with what all of it does: a hash of the example decides.
    let mut chaos = |seed: u64, change: &Change<'_>| {
        let mut trained = sums(seed, change)?;
        let number = weights(change)
            .iter()
            .fold(7u64, |hash, weight| (hash ^ weight.to_bits()).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        trained.losses.iter_mut().for_each(|loss| *loss = f64::from((number >> 40) as u32));
        Ok(trained)
    };
    let many: Vec<u64> = (0..6).collect();
    let chaotic = LeaveOneOut::measure(3, &many, &mut chaos).unwrap();
    let found = Smoothness::measure(&[chaotic.ceiling()], Bootstrap::new(20));
    // Six examples agree by 0.37 here, by chance: the interval says so.
    assert!(found.agreement.value > Smoothness::LEAST && !found.suffices(), "{found}");
    assert!(found.to_string().contains("That may be chance: no method can be judged here"), "{found}");
    let row = found.finding("s", Smoothness::HALF_WEIGHT, "spearman", &[3]);
    assert_eq!((row.method.as_str(), row.value), ("half weight", found.agreement.value));
    // Of an agreement of r, a prediction without scatter reaches the root.
    let quarter = Smoothness::new(Measured { value: 0.25, low: 0.1, high: 0.4 });
    assert_eq!((quarter.reachable(), quarter.suffices()), (0.5, false));
    assert!(quarter.to_string().contains("below 0.3: no method can be judged here"), "{quarter}");
    let without_interval = Smoothness::new(Measured { value: 0.5, low: f64::NAN, high: f64::NAN });
    assert!(without_interval.suffices());
}

#[test]
fn trainings_with_other_seeds_show_the_noise_of_a_datamodeling_score() {
    // The loss is a sum over the subset and a number of the seed and the subset.
    let mut noisy = |seed: u64, change: &Change<'_>| {
        let sum: f64 = weights(change).iter().zip(DATA).map(|(weight, x)| weight * x).sum();
        Ok(Trained {
            losses: vec![sum * (1.0 + seed as f64), -sum * if seed == 2 { -1.0 } else { 1.0 }],
            right: vec![true; 2],
        })
    };
    let all = [0, 1, 2, 3, 4, 5];
    let found = SubsetsPlan::new(&all, 8).draw_seed(4).seeds(&[0, 1, 2]).measure(&mut noisy).unwrap();
    let sum = |subset: &[u64]| subset.iter().map(|id| DATA[*id as usize]).sum::<f64>();
    for (row, subset) in found.subsets.iter().enumerate() {
        assert_eq!(found.by_seed[1][2 * row], 2.0 * sum(subset));
        assert!((found.losses[2 * row] - 2.0 * sum(subset)).abs() < 1e-12);
    }
    let first = found.first_seeds(1);
    assert_eq!((&first.losses, &first.seeds[..]), (&found.by_seed[0], &[0][..]));
    assert!(matches!(first.ceiling(), Err(AuditError::Empty { .. })));
    // Of two seeds one beside the other; both probes agree in full.
    let two = correlate(&[found.first_seeds(2).ceiling().unwrap()], Correlation::Spearman, Bootstrap::new(0));
    assert!((two.value - 1.0).abs() < 1e-12);
    // Of three, the first beside the mean of the others: the second probe's cancel, which is constant and counts 0.
    let three = found.ceiling().unwrap();
    assert_eq!(three.measured[0], -found.by_seed[0][0]);
    assert!((three.predicted[0] + (found.by_seed[1][0] + found.by_seed[2][0]) / 2.0).abs() < 1e-12);
    assert!((correlate(&[three], Correlation::Spearman, Bootstrap::new(0)).value - 0.5).abs() < 1e-12);
}

#[test]
fn a_combination_is_the_mean_of_scores_in_units_of_their_deviation() {
    let of = |scores: [f64; 6]| Prediction::new(&[1, 2, 3], 2, scores.to_vec()).unwrap();
    // Column by column: deviations of the first are √(2/3) and 0, of the second 100·√(2/3) and √(8/3).
    let first = of([1.0, 5.0, 2.0, 5.0, 3.0, 5.0]);
    let second = of([300.0, 2.0, 200.0, 4.0, 100.0, 6.0]);
    let found = Prediction::combine(&[&first, &second]).unwrap();
    let unit = (2f64 / 3.0).sqrt();
    for (example, at) in [(1, 0), (2, 1), (3, 2)] {
        let (one, two) = ([1.0, 2.0, 3.0][at], [3.0, 2.0, 1.0][at]);
        assert!((found.score(example, 0).unwrap() - (one / unit + two / unit) / 2.0).abs() < 1e-12);
        // A constant prediction says nothing.
        assert!((found.score(example, 1).unwrap() - [1.0, 2.0, 3.0][at] / unit / 2.0).abs() < 1e-12);
    }
    // What one of them does not know, the combination does not.
    let less = Prediction::new(&[1, 3], 2, vec![1.0, 2.0, f64::NAN, 1.0]).unwrap();
    let found = Prediction::combine(&[&first, &less]).unwrap();
    assert!(found.score(1, 0).is_ok() && found.score(2, 0).is_err() && found.score(3, 1).is_err());
    let narrow = Prediction::new(&[1], 1, vec![1.0]).unwrap();
    assert!(matches!(Prediction::combine(&[&first, &narrow]), Err(AuditError::Probes { given: 1, expected: 2, .. })));
    assert!(matches!(Prediction::combine(&[]), Err(AuditError::Empty { .. })));
}

#[test]
fn the_false_negative_rate_is_what_is_missed_in_as_many_places_as_labels_are_wrong() {
    // Three of eight are wrong, and two of them are among the first three.
    let wrong = [4, 6, 1];
    let part = Detection::new([4, 0, 6, 2, 3, 1, 5, 7], |id| wrong.contains(&id));
    let rate = |parts: &[Detection]| Detection::false_negative_rate(parts, Bootstrap::new(0)).value;
    assert!((rate(std::slice::from_ref(&part)) - 1.0 / 3.0).abs() < 1e-12);
    let perfect = Detection::new([4, 6, 1, 0], |id| wrong.contains(&id));
    let none = Detection::new([0, 2, 3, 4, 6, 1], |id| wrong.contains(&id));
    assert_eq!((rate(std::slice::from_ref(&perfect)), rate(std::slice::from_ref(&none))), (0.0, 1.0));
    assert!((rate(&[part, perfect, none]) - 4.0 / 9.0).abs() < 1e-12);
}

#[test]
fn noise_is_what_a_training_makes_of_rounding() {
    // Of a smooth training it is the part of the weight that was taken away.
    let smooth = LeaveOneOut::measure(3, &[0], &mut sums).unwrap();
    assert_eq!(smooth.noise, 2f64.powi(-20));
    // 4 is what leaving the example out changes, and any other change of its weight, however small, changes 2.
    let mut leaps = |_: u64, change: &Change<'_>| {
        let loss = match change.weight(0) {
            0.0 => 5.0,
            1.0 => 1.0,
            _ => 3.0,
        };
        Ok(Trained { losses: vec![loss], right: vec![true] })
    };
    assert_eq!(LeaveOneOut::measure(3, &[0], &mut leaps).unwrap().noise, 0.5);
}

#[test]
fn every_training_has_the_seed_of_the_run_and_the_change_asked_for() {
    let seen = RefCell::new(Vec::new());
    let mut retrain = |seed: u64, change: &Change<'_>| {
        seen.borrow_mut().push((seed, weights(change)));
        sums(seed, change)
    };
    LeaveOneOut::measure(8, &[4], &mut retrain).unwrap();
    let at = |weight| (8, vec![1.0, 1.0, 1.0, 1.0, weight, 1.0]);
    assert_eq!(seen.take(), [at(1.0), at(0.0), at(0.5), at(1.0 - 2f64.powi(-20))]);
    Accuracy::measure(&[1, 2], |seed| (seed == 2).then(|| vec![0, 5]), &mut retrain).unwrap();
    assert_eq!(seen.take(), [(1, vec![1.0; 6]), (2, vec![1.0, 0.0, 0.0, 0.0, 0.0, 1.0])]);
}

#[test]
fn a_linear_model_has_a_datamodeling_score_of_one() {
    let all = [0, 1, 2, 3, 4, 5];
    let found = SubsetsPlan::new(&all, 12).draw_seed(4).seeds(&[0, 1]).measure(&mut sums).unwrap();
    assert!(found.subsets.iter().all(|subset| subset.len() == 3));
    assert_eq!(found.losses[0], -found.subsets[0].iter().map(|id| DATA[*id as usize]).sum::<f64>());
    let score = |prediction: &Prediction| {
        correlate(&[found.pair_with(prediction).unwrap()], Correlation::Spearman, Bootstrap::new(20))
    };
    assert!((score(&truth()).value - 1.0).abs() < 1e-12);
    let upside_down = Prediction::new(&all, 2, DATA.iter().flat_map(|x| [-x, *x]).collect()).unwrap();
    assert!((score(&upside_down).value + 1.0).abs() < 1e-12);
    // A constant prediction sums to the same for every subset: it says nothing, and that is 0, not no number.
    assert_eq!(score(&Prediction::new(&all, 2, vec![1.0; 12]).unwrap()).value, 0.0);
}

#[test]
fn brittleness_counts_how_many_proponents_must_go() {
    let base = sums(0, &Change::Nothing).unwrap();
    let all = [0, 1, 2, 3, 4, 5];
    // Of 24 in all: without 9 it is 15, without 9 and 5 it is 10, at most 12.
    let found = BrittlenessPlan::new(0, &base, &all, &[4, 1, 2]).measure(&truth(), &mut sums).unwrap();
    assert_eq!((found.probes.as_slice(), found.flipped_at.as_slice()), (&[0][..], &[Some(2)][..]));
    let part = std::slice::from_ref(&found);
    assert_eq!(
        [1, 2, 4].map(|count| Brittleness::share_flipped(part, count, Bootstrap::new(10)).value),
        [0.0, 1.0, 1.0]
    );
    let upside_down = Prediction::new(&all, 2, DATA.iter().flat_map(|x| [-x, *x]).collect()).unwrap();
    let found = BrittlenessPlan::new(0, &base, &all, &[1, 2]).probes(&[0]).measure(&upside_down, &mut sums).unwrap();
    assert_eq!(found.flipped_at, [None]);
    // Over seeds every probe counts as much, however many a seed has.
    let several = Brittleness { probes: vec![0, 1, 2], flipped_at: vec![Some(1), None, None], ..found.clone() };
    let pooled = Brittleness::share_flipped(&[several.clone(), found.clone()], 2, Bootstrap::new(200));
    assert_eq!(pooled.value, 0.25);
    // Only the probes of the first differ among each other: of its three at most all are drawn as the one that flips.
    assert!(pooled.low == 0.0 && pooled.high == 0.75, "{pooled:?}");
    assert!(Brittleness::share_flipped(&[], 2, Bootstrap::new(10)).value.is_nan());
    let error = BrittlenessPlan::new(0, &base, &all, &[1]).probes(&[1]).measure(&truth(), &mut sums).unwrap_err();
    assert!(matches!(error, AuditError::Empty { .. }));
}

#[test]
fn detection_is_the_mean_over_seeds_of_area_and_recall() {
    let good = Detection::new([7, 2, 5, 1], |id| id == 7);
    let bad = Detection::new([7, 2, 5, 1], |id| id == 1);
    let both = [good.clone(), bad];
    assert_eq!(Detection::roc_auc(&both, Bootstrap::new(0)).value, 0.5);
    assert_eq!(Detection::recall(&both, 0.25, Bootstrap::new(0)).value, 0.5);
    assert_eq!(Detection::recall(&both, 1.0, Bootstrap::new(0)).value, 1.0);
    // Each part has places of its own: here half of the area, and 1 from the shorter one.
    let long = Detection::new(0..8, |id| id == 0 || id == 7);
    assert_eq!(Detection::roc_auc(&[good.clone(), long], Bootstrap::new(0)).value, 0.75);
    // Every draw of a perfect ranking is perfect; of a ranking with both, not.
    let perfect = Detection::roc_auc(&[good], Bootstrap::new(50).seed(1));
    assert_eq!((perfect.low, perfect.high), (1.0, 1.0));
    let mixed = Detection::roc_auc(&[Detection::new(0..40, |id| id % 3 == 0)], Bootstrap::new(200).seed(1));
    assert!(mixed.low < mixed.value - 0.05 && mixed.high > mixed.value + 0.05, "{mixed:?}");
}

#[test]
fn accuracies_are_compared_probe_by_probe() {
    let of = |right: &[&[bool]]| Accuracy { seeds: vec![0, 1], right: right.iter().map(|r| r.to_vec()).collect() };
    let (a, b) = (of(&[&[true, true, false], &[true, true, true]]), of(&[&[true, false, false], &[true, false, true]]));
    assert!((a.share(Bootstrap::new(0)).value - 5.0 / 6.0).abs() < 1e-12);
    let better = a.gain_over(&b, Bootstrap::new(100)).unwrap();
    assert!((better.value - 1.0 / 3.0).abs() < 1e-12 && better.low >= 0.0);
    // Against itself the difference is 0 in every draw, however uncertain the accuracy is.
    let same = a.gain_over(&a, Bootstrap::new(100)).unwrap();
    assert_eq!((same.value, same.low, same.high), (0.0, 0.0, 0.0));
    let other = Accuracy { seeds: vec![0, 2], ..b };
    assert!(matches!(a.gain_over(&other, Bootstrap::new(0)), Err(AuditError::Probes { .. })));
}

#[test]
fn what_goes_wrong_is_named() {
    let mut fails = |_: u64, change: &Change<'_>| match change {
        Change::Nothing => sums(0, change),
        _ => Err("no memory".into()),
    };
    let error = LeaveOneOut::measure(5, &[2], &mut fails).unwrap_err();
    // The text includes the cause: a reporter that walks the sources must not print it twice.
    assert!(std::error::Error::source(&error).is_none());
    assert_eq!(error.to_string(), "training with seed 5 and example 2 left out failed: no memory");
    let half = Change::Weighted { examples: &[2, 3], weight: 0.5 };
    assert_eq!(half.words(), "2 examples at 0.5 of the weight");
    let mut diverges = |_: u64, _: &Change<'_>| Ok(Trained { losses: vec![0.0, f64::NAN], right: vec![true; 2] });
    let error = LeaveOneOut::measure(0, &[2], &mut diverges).unwrap_err();
    assert!(matches!(error, AuditError::NotFinite { probe: 1, .. }), "{error}");
    let mut shrinks = |seed: u64, change: &Change<'_>| {
        let mut trained = sums(seed, change)?;
        trained.losses.truncate(if *change == Change::Nothing { 2 } else { 1 });
        Ok(trained)
    };
    let error = LeaveOneOut::measure(0, &[2], &mut shrinks).unwrap_err();
    assert!(matches!(error, AuditError::Probes { given: 1, expected: 2, .. }), "{error}");
    assert!(matches!(LeaveOneOut::measure(0, &[], &mut sums), Err(AuditError::Empty { .. })));
    assert!(matches!(SubsetsPlan::new(&[0], 3).share(0.4).measure(&mut sums), Err(AuditError::Empty { .. })));

    let truth = LeaveOneOut::measure(0, &[2], &mut sums).unwrap();
    let narrow = Prediction::new(&[2], 1, vec![0.0]).unwrap();
    assert!(matches!(truth.pair_with(&narrow), Err(AuditError::Probes { given: 1, expected: 2, .. })));
    let unknown = Prediction::new(&[2], 2, vec![0.0, f64::NAN]).unwrap();
    assert!(matches!(truth.pair_with(&unknown), Err(AuditError::NoScore { example: 2, probe: 1 })));
    assert!(matches!(Prediction::new(&[2], 2, vec![0.0]), Err(AuditError::Scores { .. })));
    for (measured, predicted) in [(3, 4), (4, 3), (3, 3)] {
        let error = Paired::new(2, vec![0.0; measured], vec![0.0; predicted]).unwrap_err();
        assert!(matches!(error, AuditError::Pairs { probes: 2, .. }), "{error}");
    }
    assert!(Paired::new(0, Vec::new(), Vec::new()).is_err());
    assert_eq!(Paired::new(2, truth.changes.clone(), vec![1.0; 2]).unwrap().measured, truth.changes);
}

#[test]
fn findings_are_a_json_list_of_their_seven_fields() {
    let measured = Measured { value: 0.5, low: 0.25, high: f64::NAN };
    let findings = [Finding::new("s", "m \"x\"", "k", measured, &[0, 1]), Finding::new("t", "m", "k", measured, &[])];
    let mut out = Vec::new();
    write_json(&findings, &mut out).unwrap();
    let first = r#"{"setting":"s","method":"m \"x\"","metric":"k","value":0.5,"low":0.25,"high":null,"seeds":[0,1]}"#;
    let second = first.replace(r#"m \"x\""#, "m").replace(r#""s","#, r#""t","#).replace("[0,1]", "[]");
    assert_eq!(String::from_utf8(out).unwrap(), format!("[\n  {first},\n  {second}\n]\n"));
    let read: serde_json::Value = {
        let mut empty = Vec::new();
        write_json(&[], &mut empty).unwrap();
        serde_json::from_slice(&empty).unwrap()
    };
    assert_eq!(read, serde_json::json!([]));
}
