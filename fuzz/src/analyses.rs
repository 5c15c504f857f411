//! Questions about a run beyond its scores: each must end in an answer or an error, whatever the bytes say.

use gradlog_analysis::{
    Combine, Curvature, Damping, DistanceQuestion, EstimateQuestion, InfluenceQuestion, MapQuestion, Method,
    Normalization, Score, ScoreQuestion, SplitBy, SuspectQuestion, UnitVectors, VectorQuestion, VelocityGroups,
    VelocityKernel, VelocityQuestion, Window,
};
use gradlog_format::run::Run;

/// Numbers of a flat vector: more would only be slower.
const LENGTH: usize = 24;

/// Asks one question, chosen by `which`.
pub fn ask(run: &Run, which: u8) {
    let sets = run.probe_sets().unwrap_or_default();
    let set = sets.get(usize::from(which / 64) % sets.len().max(1)).cloned().unwrap_or_default();
    let (variant, all) = (which / 16 % 4, InfluenceQuestion::new(&set));
    let windows = [Window::everything(), Window::epochs(1..3), Window::steps(1..20), Window::sweeps()];
    let window = windows[usize::from(variant)].clone();
    match which % 16 {
        0 => strongest(run, &all.window(window)),
        1 => {
            let normalization = Normalization::ALL[usize::from(variant) % Normalization::ALL.len()];
            strongest(run, &all.normalization(normalization))
        }
        2 => strongest(run, &all.mean()),
        3 => strongest(run, &all.sweeps()),
        4 => split(run, &all, SplitBy::Layer),
        5 => split(run, &all, SplitBy::Epoch),
        6 => estimates(run, all, Method::InfluenceFunction, variant, &sets),
        7 => estimates(run, all, if variant % 2 == 0 { Method::Ekfac } else { Method::DataInf }, variant, &sets),
        8 => estimates(run, all, Method::Trak, variant, &sets),
        9 => estimates(run, all, Method::Adjoint, variant, &sets),
        10 => similarity(run, window, variant),
        11 => {
            let (name, kernel) = (set.split('/').next().unwrap_or_default(), VelocityKernel::ALL[usize::from(variant)]);
            let _ = VelocityQuestion::new(name).kernel(kernel).groups(VelocityGroups::Whole).compute(run);
        }
        12 => {
            let _ = MapQuestion::new().window(window.clone()).share(0.3).compute(run).map(|map| map.counts());
        }
        13 => {
            let _ = SuspectQuestion::new().window(window.clone()).compute(run);
        }
        14 => {
            let score = Score::ALL[usize::from(which / 16) % Score::ALL.len()];
            let _ = ScoreQuestion::new(score).window(window.clone()).compute_over(&[run]);
        }
        _ => measure_distance(run, &all.window(window.clone()), window),
    }
}

/// What is found while visits stream by is what the whole matrix says.
fn strongest(run: &Run, question: &InfluenceQuestion) {
    let plan = || question.clone().sketch_errors().plan(run);
    let (Ok(whole), Ok(streamed)) = (plan(), plan()) else { return };
    let streamed = streamed.keep_strongest();
    if whole.passes() != 1 || streamed.passes() != 1 {
        return;
    }
    let (Ok(matrix), Ok(found)) = (whole.pass(0), streamed.strongest(0, 3)) else { return };
    for probe in 0..matrix.probes.len() {
        let best = matrix.proponents(probe, 3).into_iter().map(|row| matrix.rows[row].example);
        let named = found.proponents[probe].iter().map(|ranked| found.influence.rows[ranked.row].example);
        assert!(best.eq(named), "probe {probe} has other proponents while visits stream by");
    }
}

fn split(run: &Run, question: &InfluenceQuestion, by: SplitBy) {
    let Ok(plan) = question.plan(run) else { return };
    let Ok(matrix) = plan.pass(0) else { return };
    let pairs: Vec<(u64, usize)> = matrix.rows.iter().take(3).map(|row| (row.example, 0)).collect();
    let _ = plan.split(0, by, &pairs);
}

fn estimates(run: &Run, question: InfluenceQuestion, method: Method, variant: u8, sets: &[String]) {
    let mut asked = EstimateQuestion::new(question, method).length(LENGTH);
    if variant % 2 == 1 {
        asked = asked.by_layer();
    }
    if matches!(method, Method::InfluenceFunction | Method::Ekfac) {
        asked = asked.dampings([Damping::Relative(0.1), Damping::Relative(1.0)]);
    }
    if let (Some(last), true) = (sets.last(), variant >= 2) {
        asked = asked.curvature(Curvature::Set(last.clone()));
    }
    let _ = asked.compute(run);
}

fn similarity(run: &Run, window: Window, variant: u8) {
    let combine = [Combine::Visits, Combine::Mean, Combine::Applied, Combine::Mean][usize::from(variant)];
    let asked = VectorQuestion::new(LENGTH).window(window).combine(combine).bytes_max(64 << 20);
    let Ok(vectors) = asked.compute(run) else { return };
    let unit = UnitVectors::new(vectors);
    for near in (0..unit.len()).flat_map(|position| unit.neighbors(position, 3)) {
        assert!(near.position < unit.len() && near.cosine.abs() <= 1.001, "{near:?} of {}", unit.len());
    }
    let _ = (unit.near_duplicates(0.9, 10), unit.clusters(3, 4, 1));
}

fn measure_distance(run: &Run, question: &InfluenceQuestion, window: Window) {
    let Ok(plan) = question.plan(run) else { return };
    let Ok(matrix) = plan.pass(0) else { return };
    for found in DistanceQuestion::new(&matrix).window(window).compute(run).unwrap_or_default() {
        let _ = found.compare(&matrix, 3);
    }
}
