//! The predictions of every method, from the log of one recorded run.

use crate::task::{Architecture, Rule, Setting};
use anyhow::Result;
use gradlog_analysis::audit::Prediction;
use gradlog_analysis::{
    AnalysisError, Curvature, Damping, EstimateQuestion, Influence, InfluenceQuestion, Method, OptimizerChoice, Score,
    ScoreQuestion, SuspectQuestion, VectorQuestion, Window,
};
use gradlog_format::run::Run;
use std::path::{Path, PathBuf};

/// Longest gradient for the methods that invert curvature.
const INVERTED_LENGTH: usize = 4096;
/// The same for a model with at most this many parameters: its gradients are not folded.
const INVERTED_LENGTH_EXACT: usize = 7850;
/// The default, and the recipe for trainings on other subsets with other seeds: more damping, so that what this run
/// alone has counts less.
const TRAK_DAMPINGS: [Damping; 3] = [Damping::Relative(0.1), Damping::Relative(1.0), Damping::Relative(3.0)];

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
        found.extend(ask(&run, &ids, name, &question)?);
    }
    let all: Vec<u64> = (0..examples as u64).collect();
    found.push(("random".into(), Prediction::random(&all, probes, 1)));
    Ok(found)
}

/// Asks one question. If the method refuses this run, says so and gives nothing. With several dampings the answers are
/// named by them.
fn ask(run: &Run, ids: &[u64], name: &str, question: &EstimateQuestion) -> Result<Vec<(String, Prediction)>> {
    let start = std::time::Instant::now();
    let answers = match question.compute(run) {
        Ok(answers) => answers,
        Err(refused @ (AnalysisError::OutOfRange { .. } | AnalysisError::Diverged { .. })) => {
            println!("{name}: left out, because {refused}");
            return Ok(Vec::new());
        }
        Err(other) => return Err(other.into()),
    };
    eprintln!("{name}: {:.1} s", start.elapsed().as_secs_f64());
    let several = answers.len() > 1;
    let named = |answer: &Influence| {
        let damping = answer.estimate.as_ref().and_then(|estimate| estimate.damping).filter(|_| several);
        let name = damping.map_or(name.to_string(), |damping| format!("{name}, damping {damping}"));
        Ok((name, Prediction::from_influence(answer, ids)?))
    };
    answers.iter().map(named).collect()
}

/// TracIn with the optimizer as it was recorded, and taken as plain SGD.
fn tracin(run: &Run, ids: &[u64], suffix: &str) -> Result<Vec<(String, Prediction)>> {
    let mut found = Vec::new();
    for (name, optimizer) in [
        ("TracIn, AdamW as recorded", OptimizerChoice::Recorded),
        ("TracIn, taken as plain SGD", OptimizerChoice::PlainSgd),
    ] {
        let answer = InfluenceQuestion::new("test").optimizer(optimizer).compute(run)?;
        found.push((format!("{name}{suffix}"), Prediction::from_influence(&answer, ids)?));
    }
    Ok(found)
}

/// The methods that follow one run under AdamW to its end. `exact`: it was recorded without rounding and hashing.
pub fn under_adamw(folder: &Path, exact: bool, examples: usize, probes: usize) -> Result<Vec<(String, Prediction)>> {
    let run = Run::open(folder)?;
    let ids: Vec<u64> = (0..probes as u64).collect();
    let mut found = tracin(&run, &ids, if exact { ", exact" } else { "" })?;
    // Every number of the gradient has a place of its own, as the second moments of Adam need it.
    let adjoint = |curvature, optimizer| {
        EstimateQuestion::new(InfluenceQuestion::new("test").optimizer(optimizer), Method::Adjoint)
            .curvature(curvature)
            .length(VectorQuestion::LENGTH_MAX)
    };
    let gauss_newton = |optimizer| adjoint(Curvature::Set("curvature".into()), optimizer);
    let recorded = OptimizerChoice::Recorded;
    if exact {
        found.extend(ask(&run, &ids, "adjoint, exact", &gauss_newton(recorded))?);
        return Ok(found);
    }
    found.extend(ask(&run, &ids, "adjoint, Gauss-Newton", &gauss_newton(recorded))?);
    found.extend(ask(&run, &ids, "adjoint, without curvature", &adjoint(Curvature::Nothing, recorded))?);
    let plain = gauss_newton(OptimizerChoice::PlainSgd);
    found.extend(ask(&run, &ids, "adjoint, Gauss-Newton, taken as plain SGD", &plain)?);
    let all: Vec<u64> = (0..examples as u64).collect();
    found.push(("random".into(), Prediction::random(&all, probes, 1)));
    Ok(found)
}

/// The methods for trainings on other subsets, with other seeds. None of them but TracIn and the adjoint asks how the
/// weights stepped.
pub fn across_trainings(
    folder: &Path,
    setting: &Setting,
    examples: usize,
    probes: usize,
    length: usize,
) -> Result<Vec<(String, Prediction)>> {
    let run = Run::open(folder)?;
    let ids: Vec<u64> = (0..probes as u64).collect();
    let question = InfluenceQuestion::new("test");
    let mut found = match setting.rule {
        Rule::AdamW => tracin(&run, &ids, "")?,
        Rule::Sgd => vec![("TracIn".into(), Prediction::from_influence(&question.compute(&run)?, &ids)?)],
    };
    let fisher = |question: &InfluenceQuestion, method| EstimateQuestion::new(question.clone(), method);
    let last_epoch = question.clone().epochs(setting.epochs - 1..setting.epochs);
    let influence = fisher(&last_epoch, Method::InfluenceFunction);
    found.extend(ask(&run, &ids, "influence functions, empirical Fisher", &influence)?);
    // The rows after the last step belong to the trained model, and there are many.
    let steps = (examples.div_ceil(setting.batch) * setting.epochs as usize) as u64;
    let at_the_end = question.clone().steps(steps - steps / u64::from(setting.epochs)..=steps);
    let kronecker = fisher(&at_the_end, Method::Ekfac).curvature(Curvature::Set("curvature".into()));
    found.extend(ask(&run, &ids, "EK-FAC, Gauss-Newton", &kronecker)?);
    // The damping of the recipe and the default one, which share a pass over the run.
    let trak = fisher(&question, Method::Trak).dampings(TRAK_DAMPINGS);
    found.extend(ask(&run, &ids, "TRAK, one run", &trak)?);
    if length != Method::Trak.default_length() {
        found.extend(ask(&run, &ids, &format!("TRAK, one run, {length} numbers"), &trak.length(length))?);
    }
    let all: Vec<u64> = (0..examples as u64).collect();
    found.push(("random".into(), Prediction::random(&all, probes, 1)));
    Ok(found)
}

/// The same with other dampings, lengths and windows.
pub fn explore(
    folder: &Path,
    setting: &Setting,
    probes: usize,
    known: &[(String, Prediction)],
) -> Result<Vec<(String, Prediction)>> {
    let run = Run::open(folder)?;
    let ids: Vec<u64> = (0..probes as u64).collect();
    let question = InfluenceQuestion::new("test");
    let relative = |values: &[f64]| values.iter().map(|value| Damping::Relative(*value)).collect::<Vec<_>>();
    let trak = |question: &InfluenceQuestion| {
        EstimateQuestion::new(question.clone(), Method::Trak).dampings(relative(&[0.3, 1.0, 3.0, 10.0, 100.0]))
    };
    let mut found = Vec::new();
    found.extend(ask(&run, &ids, "TRAK", &trak(&question))?);
    found.extend(ask(&run, &ids, "TRAK, 1024", &trak(&question).length(1024))?);
    found.extend(ask(&run, &ids, "TRAK by layer, 1024", &trak(&question).length(1024).by_layer())?);
    let half = setting.epochs / 2;
    found.extend(ask(&run, &ids, "TRAK, second half", &trak(&question.clone().epochs(half..)))?);
    let influence = EstimateQuestion::new(question.clone(), Method::InfluenceFunction);
    let influence = influence.dampings(relative(&[0.1, 1.0, 10.0]));
    found.extend(ask(&run, &ids, "IF, Fisher, all epochs", &influence)?);
    let gauss_newton = || Curvature::Set("curvature".into());
    let by_set = influence.curvature(gauss_newton());
    found.extend(ask(&run, &ids, "IF, Gauss-Newton, all epochs", &by_set)?);
    let adjoint = EstimateQuestion::new(question.clone(), Method::Adjoint).curvature(gauss_newton());
    found.extend(ask(&run, &ids, "adjoint, Gauss-Newton", &adjoint)?);
    let get = |name: &str| known.iter().chain(&found).find(|(known, _)| known == name).map(|(_, found)| found);
    let mut combined = Vec::new();
    for names in [
        ["TRAK, damping 1 of the mean eigenvalue", "adjoint, Gauss-Newton"],
        ["TRAK, damping 1 of the mean eigenvalue", "IF, Fisher, all epochs, damping 1 of the mean eigenvalue"],
        ["TRAK, damping 1 of the mean eigenvalue", "TracIn"],
    ] {
        let parts: Vec<&Prediction> = names.iter().filter_map(|name| get(name)).collect();
        if parts.len() == names.len() {
            combined.push((names.join(" + "), Prediction::combine(&parts)?));
        }
    }
    found.extend(combined);
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
/// Under AdamW, self-influence is also taken as that of plain SGD.
pub fn suspicions(folder: &Path, rule: Rule, examples: usize, seed: u64) -> Result<Vec<(String, Vec<u64>)>> {
    let run = Run::open(folder)?;
    let rank = |question: ScoreQuestion| -> Result<Vec<u64>> {
        Ok(question.compute(&run)?.rows.iter().map(|row| row.example).collect())
    };
    let mut found = Vec::new();
    for score in [Score::Aum, Score::Loss, Score::El2n, Score::SelfInfluence, Score::Grand, Score::Forgetting] {
        found.push((score.name().to_string(), rank(ScoreQuestion::new(score))?));
    }
    if rule == Rule::AdamW {
        let plain = ScoreQuestion::new(Score::SelfInfluence).optimizer(OptimizerChoice::PlainSgd);
        found.push(("self-influence, taken as plain SGD".into(), rank(plain)?));
    }
    // The sweep saw no optimizer, so its norms are plain.
    let at_checkpoints = ScoreQuestion::new(Score::SelfInfluence).window(Window::sweeps());
    found.push(("self-influence, five checkpoints".into(), rank(at_checkpoints)?));
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
