//! Questions about a run beyond its scores: each must end in an answer or an error, whatever the bytes say.

use gradlog_analysis::{
    clusters, influence_by_distance, near_duplicates, neighbours, suspects, vectors, Combine, Curvature, Damping,
    EstimatePlan, EstimateQuestion, InfluencePlan, Map, Method, Normalisation, OverRuns, Question, Score,
    Shape, SplitBy, UnitVectors, VectorQuestion, Velocity, VelocityGroups, Window,
};
use gradlog_format::run::Run;

/// Numbers of a flat vector: more would only be slower.
const LENGTH: usize = 24;

/// Asks one question, chosen by `which`.
pub fn ask(run: &Run, which: u8) {
    let sets = run.probe_sets().unwrap_or_default();
    let set = sets.get(usize::from(which / 64) % sets.len().max(1)).cloned().unwrap_or_default();
    let (variant, all) = (which / 16 % 4, Question::all(&set));
    let windows = [Window::everything(), Window::epochs(1..3), Window::steps(1..20), Window::sweeps()];
    let window = windows[usize::from(variant)].clone();
    match which % 16 {
        0 => strongest(run, &Question { window, ..all }),
        1 => {
            let normalise = Normalisation::ALL[usize::from(variant) % Normalisation::ALL.len()];
            strongest(run, &Question { normalise, ..all })
        }
        2 => strongest(run, &all.together()),
        3 => strongest(run, &all.at_checkpoints()),
        4 => split(run, &all, SplitBy::Layer),
        5 => split(run, &all, SplitBy::Epoch),
        6 => estimates(run, all, Method::InfluenceFunction, variant, &sets),
        7 => estimates(run, all, Method::DataInf, variant, &sets),
        8 => estimates(run, all, Method::Trak, variant, &sets),
        9 => estimates(run, all, Method::Adjoint, variant, &sets),
        10 => similarity(run, window, variant),
        11 => {
            let _ = Velocity::of(run, &set, VelocityGroups::Whole, &|_| {});
        }
        12 => {
            let _ = Map::of(&[run], &window, 0.3, &|_| {}).map(|map| map.counts());
        }
        13 => {
            let _ = suspects(&[run], &window, &|_| {});
        }
        14 => {
            let score = Score::ALL[usize::from(which / 16) % Score::ALL.len()];
            let _ = score.compute_over(&[run], &window, OverRuns::Mean, &|_| {});
        }
        _ => distance(run, &Question { window, ..all }),
    }
}

/// What is found while visits stream by is what the whole matrix says.
fn strongest(run: &Run, question: &Question) {
    let plan = || InfluencePlan::new(run, question, &|_| {}).map(InfluencePlan::with_errors);
    let (Ok(whole), Ok(streamed)) = (plan(), plan()) else { return };
    let streamed = streamed.only_strongest();
    if whole.passes() != 1 || streamed.passes() != 1 {
        return;
    }
    let (Ok(matrix), Ok(found)) = (whole.pass(0, &|_| {}), streamed.strongest(0, 3, &|_| {})) else { return };
    for probe in 0..matrix.probes.len() {
        let best = matrix.proponents(probe, 3).into_iter().map(|row| matrix.rows[row].example);
        let named = found.proponents[probe].iter().map(|ranked| found.about.rows[ranked.row].example);
        assert!(best.eq(named), "probe {probe} has other proponents while visits stream by");
    }
}

fn split(run: &Run, question: &Question, by: SplitBy) {
    let Ok(plan) = InfluencePlan::new(run, question, &|_| {}) else { return };
    let Ok(matrix) = plan.pass(0, &|_| {}) else { return };
    let pairs: Vec<(u64, usize)> = matrix.rows.iter().take(3).map(|row| (row.example, 0)).collect();
    let _ = plan.split(0, by, &pairs, &|_| {});
}

fn estimates(run: &Run, question: Question, method: Method, variant: u8, sets: &[String]) {
    let mut asked = EstimateQuestion::new(question, method);
    asked.shape = if variant % 2 == 0 { Shape::whole(LENGTH) } else { Shape::by_layer(LENGTH) };
    if method == Method::InfluenceFunction {
        asked.dampings = vec![Damping::Relative(0.1), Damping::Relative(1.0)];
    }
    if let (Some(last), true) = (sets.last(), variant >= 2) {
        asked.curvature = Curvature::Set(last.clone());
    }
    if let Ok(plan) = EstimatePlan::new(run, &asked, &|_| {}) {
        let _ = plan.whole(&|_| {});
    }
}

fn similarity(run: &Run, window: Window, variant: u8) {
    let combine = [Combine::Visits, Combine::Mean, Combine::Applied, Combine::Mean][usize::from(variant)];
    let asked = VectorQuestion { window, shape: Shape::whole(LENGTH), combine, bytes_max: 64 << 20 };
    let Ok(vectors) = vectors(run, &asked, &|_| {}) else { return };
    let unit = UnitVectors::new(vectors);
    for near in (0..unit.len()).flat_map(|position| neighbours(&unit, position, 3)) {
        assert!(near.position < unit.len() && near.cosine.abs() <= 1.001, "{near:?} of {}", unit.len());
    }
    let _ = (near_duplicates(&unit, 0.9, 10), clusters(&unit, 3, 4, 1));
}

fn distance(run: &Run, question: &Question) {
    let Ok(plan) = InfluencePlan::new(run, question, &|_| {}) else { return };
    let Ok(matrix) = plan.pass(0, &|_| {}) else { return };
    for found in influence_by_distance(run, &matrix, &question.window, None, &|_| {}).unwrap_or_default() {
        let _ = found.compare(&matrix, 3);
    }
}
