//! The predictions of every method, from the log of one recorded run.

use crate::task::{Architecture, Setting};
use anyhow::Result;
use gradlog_analysis::audit::Prediction;
use gradlog_analysis::{
    Curvature, Damping, EstimateQuestion, InfluenceQuestion, Method, Score, ScoreQuestion, SuspectQuestion, Window,
};
use gradlog_format::run::Run;
use std::path::{Path, PathBuf};

/// Longest gradient for the methods that invert curvature.
const INVERTED_LENGTH: usize = 4096;
/// The same for a model with at most this many parameters: its gradients are not folded.
const INVERTED_LENGTH_EXACT: usize = 7850;

/// Influence of every training example on the probes `0..probes` of the set `test`, by every method.
pub fn influences(
    folder: &Path,
    setting: &Setting,
    examples: usize,
    probes: usize,
) -> Result<Vec<(String, Prediction)>> {
    let run = Run::open(folder)?;
    let ids: Vec<u64> = (0..probes as u64).collect();
    let question = InfluenceQuestion::new("test");
    let tracin = question.compute(&run)?;
    let mut found = vec![("TracIn".to_string(), Prediction::from_influence(&tracin, &ids)?)];

    let steps = (examples.div_ceil(setting.batch) * setting.epochs as usize) as u64;
    let last = steps - steps / u64::from(setting.epochs);
    let last_epoch = question.clone().steps(last..steps);
    // Weight decay is part of the objective, and so of its curvature.
    let damping = match setting.weight_decay {
        decay if decay > 0.0 => Damping::Absolute(decay),
        _ => Damping::Relative(0.1),
    };
    let logistic = setting.architecture == Architecture::Dense(Vec::new());
    let inverted = if logistic { INVERTED_LENGTH_EXACT } else { INVERTED_LENGTH };
    // The rows after the last step belong to the trained model, and there are many.
    let at_the_end = question.clone().steps(last..=steps);
    let asked = |question: &InfluenceQuestion, method, curvature| {
        let dampings = if method == Method::Adjoint { Vec::new() } else { vec![damping] };
        EstimateQuestion::new(question.clone(), method).dampings(dampings).curvature(curvature)
    };
    let gauss_newton = || Curvature::Set("curvature".into());
    let questions = [
        (
            "influence functions, empirical Fisher",
            asked(&last_epoch, Method::InfluenceFunction, Curvature::Visits).length(inverted),
        ),
        (
            "influence functions, Gauss-Newton",
            asked(&at_the_end, Method::InfluenceFunction, gauss_newton()).length(inverted),
        ),
        ("EK-FAC", asked(&last_epoch, Method::Ekfac, Curvature::Visits)),
        ("EK-FAC, Gauss-Newton", asked(&at_the_end, Method::Ekfac, gauss_newton())),
        ("DataInf", asked(&last_epoch, Method::DataInf, Curvature::Visits).by_layer()),
        ("TRAK, one run", asked(&question, Method::Trak, Curvature::Visits).damping(Damping::Relative(0.1))),
        ("adjoint, empirical Fisher", asked(&question, Method::Adjoint, Curvature::Visits)),
        ("adjoint, Gauss-Newton", asked(&question, Method::Adjoint, gauss_newton())),
    ];
    for (name, question) in questions {
        let start = std::time::Instant::now();
        let answers = question.compute(&run)?;
        found.push((name.to_string(), Prediction::from_influence(&answers[0], &ids)?));
        eprintln!("{name}: {:.1} s", start.elapsed().as_secs_f64());
    }
    let all: Vec<u64> = (0..examples as u64).collect();
    found.push(("random".into(), Prediction::random(&all, probes, 1)));
    Ok(found)
}

/// The same from several runs on the same labels, for the scores that find the most.
pub fn suspicions_over(folders: &[PathBuf]) -> Result<Vec<(String, Vec<u64>)>> {
    let runs: Vec<Run> = folders.iter().map(Run::open).collect::<Result<_, _>>()?;
    let runs: Vec<&Run> = runs.iter().collect();
    let count = runs.len();
    let mut found = Vec::new();
    for score in [Score::Aum, Score::Loss] {
        let table = ScoreQuestion::new(score).compute_over(&runs)?;
        found.push((format!("{}, {count} runs", score.name()), table.rows.iter().map(|row| row.example).collect()));
    }
    let list = SuspectQuestion::new().compute_over(&runs)?;
    found.push((format!("suspects, {count} runs"), list.rows.iter().map(|row| row.example).collect()));
    Ok(found)
}

/// All examples, the most suspicious first, by every score that may find wrong labels and by the combined list.
pub fn suspicions(folder: &Path, examples: usize, seed: u64) -> Result<Vec<(String, Vec<u64>)>> {
    let run = Run::open(folder)?;
    let mut found = Vec::new();
    for score in [Score::Aum, Score::Loss, Score::El2n, Score::SelfInfluence, Score::Grand, Score::Forgetting] {
        let table = ScoreQuestion::new(score).compute(&run)?;
        found.push((score.name().to_string(), table.rows.iter().map(|row| row.example).collect()));
    }
    let at_checkpoints = ScoreQuestion::new(Score::SelfInfluence).window(Window::sweeps()).compute(&run)?;
    found
        .push(("self-influence, five checkpoints".into(), at_checkpoints.rows.iter().map(|row| row.example).collect()));
    // The command orders equal counts by mean loss. Counts alone leave them in the order of the ids.
    for (name, never) in [("forgetting, ties by id", f64::INFINITY), ("forgetting counts, ties by id", 0.0)] {
        let table = ScoreQuestion::new(Score::Forgetting).compute(&run)?;
        let counted = |score: f64| if score.is_infinite() { never } else { score };
        let mut rows: Vec<(f64, u64)> = table.rows.iter().map(|row| (counted(row.score), row.example)).collect();
        rows.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        found.push((name.into(), rows.iter().map(|(_, example)| *example).collect()));
    }
    let list = SuspectQuestion::new().compute(&run)?;
    found.push(("suspects".into(), list.rows.iter().map(|row| row.example).collect()));
    let all: Vec<u64> = (0..examples as u64).collect();
    found.push(("random".into(), Prediction::random(&all, 1, seed).proponent_ids(0, examples)));
    Ok(found)
}
