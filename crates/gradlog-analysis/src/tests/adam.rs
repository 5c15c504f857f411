//! Self-influence and RelatIF under Adam against their sums over visits: the metric is that of all rows or of none.

use super::close;
use crate::{InfluenceQuestion, Normalization, OptimizerChoice, Score, ScoreQuestion, ScoreTable, SuspectQuestion};
use gradlog_format::log::UpdateRule;
use gradlog_format::sketch::Encoding;
use gradlog_testing::{visits, Draws, Opened, Synthetic, Visit};
use std::collections::BTreeMap;

const BETA: f32 = 0.75;
const IN_METRIC: &str = "AdamW, second moments of at most 64 steps before";
const PLAIN: &str = "plain SGD: AdamW not modeled";

/// Visits that have norms in the metric from step 1 on.
fn story(seed: u64) -> Vec<Visit> {
    let mut draws = Draws(seed);
    let mut all = visits(&mut draws, 20, 4, 6);
    for visit in all.iter_mut().filter(|visit| visit.step > 0) {
        visit.preconditioned_squared_norm = Some(30.0 + 20.0 * draws.number());
    }
    all
}

fn last_step(all: &[Visit]) -> u64 {
    all[all.len() - 1].step
}

/// One block of visits a step: a block has one set of columns.
fn write(all: &[Visit], probes: &[Visit], also: impl Fn(&mut Synthetic)) -> Opened {
    let mut run = Synthetic::new(Encoding::F32);
    run.set(0, "test");
    if !probes.is_empty() {
        run.probes(probes);
        run.preconditioned_probes(probes);
    }
    also(&mut run);
    for rows in all.chunk_by(|a, b| a.step == b.step) {
        run.visits(rows);
    }
    let steps: Vec<_> = (0..=last_step(all)).map(|step| (step, rate(step), 0.0, step + 1)).collect();
    run.adam(&steps, (BETA, 0.999), 1e-8, UpdateRule::AdamW);
    run.finish().run()
}

fn rate(step: u64) -> f32 {
    0.1 / (1.0 + step as f32)
}

/// `Σ_{s≥t} η_s (1−β₁) β₁^(s−t) / (1−β₁^(s+1))`.
fn effective_rate(step: u64, last: u64) -> f64 {
    let beta = f64::from(BETA);
    let terms = (step..=last).map(|s| {
        let kept = beta.powi((s - step) as i32) / (1.0 - beta.powi(s as i32 + 1));
        f64::from(rate(s)) * (1.0 - beta) * kept
    });
    terms.sum()
}

fn sums(all: &[Visit], term: impl Fn(&Visit) -> Option<f64>) -> BTreeMap<u64, f64> {
    let mut sums = BTreeMap::new();
    for visit in all {
        if let Some(term) = term(visit) {
            *sums.entry(visit.example).or_insert(0.0) += term;
        }
    }
    sums
}

fn in_metric(all: &[Visit]) -> BTreeMap<u64, f64> {
    sums(all, |visit| {
        let factors = f64::from(visit.clip) * f64::from(visit.coefficient);
        let rate = f64::from(effective_rate(visit.step, last_step(all)) as f32);
        Some(rate * factors * f64::from(visit.preconditioned_squared_norm?))
    })
}

fn plain(all: &[Visit]) -> BTreeMap<u64, f64> {
    sums(all, |visit| {
        let rate = f64::from(visit.learning_rate) * f64::from(visit.clip);
        Some(rate * f64::from(visit.coefficient) * f64::from(visit.squared_norm))
    })
}

fn check(table: &ScoreTable, right: &BTreeMap<u64, f64>, said: &str) {
    assert!(table.basis.to_string().contains(said), "{}", table.basis);
    assert_eq!(table.rows.iter().filter(|row| !row.score.is_nan()).count(), right.len());
    for row in table.rows.iter().filter(|row| !row.score.is_nan()) {
        assert!(close(row.score, right[&row.example]), "{}: {} for {}", row.example, row.score, right[&row.example]);
    }
}

fn question() -> ScoreQuestion {
    ScoreQuestion::new(Score::SelfInfluence)
}

#[test]
fn self_influence_is_in_the_metric_of_adam() {
    let all = story(1);
    let run = write(&all, &[], |_| {});
    let table = question().compute(&run).unwrap();
    check(&table, &in_metric(&all), IN_METRIC);
    assert_eq!(table.left_out.without_moments, 6, "the visits of the optimizer's first step");
    check(&question().optimizer(OptimizerChoice::PlainSgd).compute(&run).unwrap(), &plain(&all), PLAIN);
    // Other scores of gradients are what they were.
    let grand = ScoreQuestion::new(Score::Grand).compute(&run).unwrap();
    assert_eq!((grand.left_out.without_moments, grand.visits), (0, all.len() as u64));
    let later = question().steps(3..).compute(&run).unwrap();
    assert_eq!(later.left_out.without_moments, 0);
    let list = SuspectQuestion::new().compute(&run).unwrap();
    assert!(list.bases[0].to_string().contains(IN_METRIC), "{}", list.bases[0]);
    let list = SuspectQuestion::new().optimizer(OptimizerChoice::PlainSgd).compute(&run).unwrap();
    assert!(list.bases[0].to_string().contains(PLAIN), "{}", list.bases[0]);
}

#[test]
fn a_window_in_which_visits_lack_the_metric_is_plain_as_a_whole() {
    let mut all = story(2);
    all.iter_mut().filter(|visit| visit.step == 5).for_each(|visit| visit.preconditioned_squared_norm = None);
    let run = write(&all, &[], |_| {});
    check(&question().compute(&run).unwrap(), &plain(&all), PLAIN);
    let before: Vec<Visit> = all.iter().filter(|visit| visit.step < 5).cloned().collect();
    let part = question().steps(..5).compute(&run).unwrap();
    let right = in_metric(&all);
    assert!(part.basis.to_string().contains(IN_METRIC), "{}", part.basis);
    let alone = before.iter().find(|a| a.step > 0 && before.iter().filter(|b| b.example == a.example).count() == 1);
    let alone = alone.unwrap();
    let own = part.row(alone.example).unwrap().score;
    let factors = f64::from(alone.clip) * f64::from(alone.coefficient);
    let rate = f64::from(effective_rate(alone.step, last_step(&all)) as f32);
    assert!(close(own, rate * factors * f64::from(alone.preconditioned_squared_norm.unwrap())));
    assert!(right[&alone.example] > own);
}

#[test]
fn a_step_that_changes_the_rate_of_a_layer_is_left_out() {
    let all = story(3);
    let run = write(&all, &[], |run| {
        // The second is no change.
        [(0, 0.5), (4, 0.5), (7, 0.25)].iter().for_each(|(step, factor)| run.layer_rate(*step, 1, *factor));
    });
    let rest: Vec<Visit> = all.iter().filter(|visit| visit.step != 7).cloned().collect();
    let table = question().compute(&run).unwrap();
    assert_eq!(table.left_out.without_moments, 6 + (all.len() - rest.len()) as u64);
    check(&table, &in_metric(&rest), IN_METRIC);
}

#[test]
fn several_runs_are_in_one_metric() {
    let (one, mut other) = (story(4), story(5));
    let runs = [write(&one, &[], |_| {}), write(&other, &[], |_| {})];
    let both = question().compute_over(&[&runs[0], &runs[1]]).unwrap();
    assert!(both.basis_words().contains(IN_METRIC), "{}", both.basis_words());
    other.iter_mut().for_each(|visit| visit.preconditioned_squared_norm = None);
    let without = write(&other, &[], |_| {});
    let both = question().compute_over(&[&runs[0], &without]).unwrap();
    assert!(both.basis_words().contains(PLAIN) && !both.basis_words().contains("64 steps"), "{}", both.basis_words());
    let (a, b) = (plain(&one), plain(&other));
    for row in &both.rows {
        assert!(close(row.score, 0.5 * (a[&row.example] + b[&row.example])), "{}", row.example);
    }
}

#[test]
fn relatif_divides_in_the_metric_of_its_products() {
    let all = story(6);
    let probes: Vec<Visit> = (0..3).map(|id| Draws(60 + id).visit(id, 0, 0)).collect();
    let run = write(&all, &probes, |_| {});
    let ask = |normalization| InfluenceQuestion::new("test").normalization(normalization);
    // The divisor has no part of the visits of step 0, so neither has the sum.
    let sum = ask(Normalization::None).steps(1..).compute(&run).unwrap();
    let divided = ask(Normalization::Relatif).compute(&run).unwrap();
    let words = divided.basis.to_string();
    assert!(
        words.contains("AdamW, second moments of the probe's time, in norms of at most 64 steps before"),
        "{words}"
    );
    assert_eq!(divided.left_out.without_moments, 6);
    let own = in_metric(&all);
    for (number, row) in divided.rows.iter().enumerate() {
        let Some(plain) = sum.rows.iter().position(|other| other.example == row.example) else { continue };
        for probe in 0..3 {
            let right = sum.score(plain, probe) / own[&row.example].sqrt();
            let made = divided.score(number, probe);
            assert!((made - right).abs() < 1e-5 * right.abs().max(1e-3), "{}: {made} {right}", row.example);
        }
    }
    // Of single layers a log has no norm in the metric: products and divisor are plain.
    let layer = ask(Normalization::Relatif).layers(["fc"]);
    let plain = layer.clone().optimizer(OptimizerChoice::PlainSgd).compute(&run).unwrap();
    let layer = layer.compute(&run).unwrap();
    assert!(layer.basis.to_string().contains(PLAIN), "{}", layer.basis);
    assert_eq!(layer.score(0, 0), plain.score(0, 0));
    assert!(!ask(Normalization::None).layers(["fc"]).compute(&run).unwrap().basis.to_string().contains(PLAIN));
}
