//! Probes: what taught the model its answer to each, and what lies nearest.

use super::{history_arrays, is_about_the_run, reason};
use crate::error::CliError;
use crate::frame::Asked;
use crate::page::arrays;
use crate::page::chosen::Chosen;
use crate::page::limits::{DETAILED_PROBES_MAX, DISTANCE_SCORES_MAX, ENDS};
use gradlog_analysis::{
    AnalysisError, DistanceQuestion, ExampleVisit, Histories, HistoryQuestion, InfluencePlan, InfluenceQuestion,
    Progress, Ranked, Run, SplitBy, Strongest,
};
use gradlog_format::run::ReadError;
use serde_json::{json, Value};
use std::collections::HashMap;

/// The probe sets of the first run.
pub(crate) struct Probes {
    pub part: Value,
    /// The probes of each set that are in the page, and their recorded labels.
    pub sets: Vec<(String, Vec<u64>, HashMap<u64, u32>)>,
}

/// Asks for the influence on up to `probes_max` probes of each set; names the examples at both ends.
pub(crate) fn probes_part(asked: &Asked<'_>, chosen: &mut Chosen, probes_max: usize) -> Result<Probes, CliError> {
    let (run, progress) = (asked.run(), asked.progress());
    let (mut parts, mut sets) = (Vec::new(), Vec::new());
    for name in set_names(run)? {
        let found = read_set(run, &name, probes_max, chosen, &progress);
        match found {
            Ok(Some((part, ids, labels))) => {
                parts.push(part);
                sets.push((name, ids, labels));
            }
            Ok(None) => {}
            Err(error) if is_about_the_run(&error) => {
                let mut part = reason(&error.to_string());
                part["set"] = json!(name);
                parts.push(part);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Probes { part: json!({ "sets": parts }), sets })
}

/// The sets that the run names, as far as it can be read.
pub(crate) fn set_names(run: &Run) -> Result<Vec<String>, ReadError> {
    match run.probe_sets() {
        Err(ReadError::Damaged(_)) => Ok(Vec::new()),
        other => other,
    }
}

type ReadSet = (Value, Vec<u64>, HashMap<u64, u32>);

fn read_set(
    run: &Run,
    set: &str,
    probes_max: usize,
    chosen: &mut Chosen,
    progress: &Progress,
) -> Result<Option<ReadSet>, AnalysisError> {
    let Some(Wall { mut part, ids, labels, probes: all }) = read_wall(run, set, probes_max)? else { return Ok(None) };
    // A probe without a gradient has a curve and no proponents.
    let question = match ids.len() == all {
        // Asked for by its id, a probe without a usable gradient is an error; among all it is left out.
        true => InfluenceQuestion::new(set),
        false => InfluenceQuestion::new(set).ids(ids.iter().copied()),
    };
    part["influence"] = match influence(run, (set, question.share_progress(progress)), &ids, chosen) {
        Err(error) if is_about_the_run(&error) => reason(&error.to_string()),
        other => other?,
    };
    Ok(Some((part, ids, labels)))
}

/// The probes of a set with their records: those with wrong answers first, then those with high losses.
pub(crate) struct Wall {
    pub part: Value,
    ids: Vec<u64>,
    /// The recorded labels.
    pub labels: HashMap<u64, u32>,
    /// Probes of the set, those that are left out among them.
    probes: usize,
}

/// Reads up to `probes_max` probes of a set; `None` if it has none.
pub(crate) fn read_wall(run: &Run, set: &str, probes_max: usize) -> Result<Option<Wall>, AnalysisError> {
    let mut histories = HistoryQuestion::probes(set).compute(run)?;
    let all = histories.histories.len();
    if all == 0 {
        // A set of curvature, or one that was never taken.
        return Ok(None);
    }
    let ids = choose(&histories, probes_max);
    histories.histories = in_order(&histories, &ids);
    let labels = histories.histories.iter().filter_map(|history| Some((history.id, history.visits.last()?.label?)));
    let labels = labels.collect();
    let part = json!({
        "set": set,
        "probes": all,
        "shown": ids.len(),
        "ids": arrays::ids(ids.iter().copied()),
        "history": history_arrays(&histories),
    });
    Ok(Some(Wall { part, ids, labels, probes: all }))
}

/// The probes with wrong answers first, then the others; of each the highest loss first.
fn choose(histories: &Histories, most: usize) -> Vec<u64> {
    // A share between 0 and 1 is that of several predictions, which are neither a right nor a wrong answer.
    let mut shares = histories.histories.iter().flat_map(|history| &history.visits).filter_map(|visit| visit.correct);
    let has_answers = shares.all(|share| share == 0.0 || share == 1.0);
    let key = |visit: Option<&ExampleVisit>| {
        let wrong = has_answers && visit.and_then(|visit| visit.correct).is_some_and(|correct| correct < 0.5);
        let loss = visit.and_then(|visit| visit.loss).filter(|loss| loss.is_finite()).unwrap_or(f32::MIN);
        (wrong, loss)
    };
    let mut order: Vec<(bool, f32, u64)> = histories
        .histories
        .iter()
        .map(|history| {
            let (wrong, loss) = key(history.visits.last());
            (wrong, loss, history.id)
        })
        .collect();
    order.sort_by(|a, b| b.0.cmp(&a.0).then(b.1.total_cmp(&a.1)).then(a.2.cmp(&b.2)));
    order.into_iter().take(most).map(|(_, _, id)| id).collect()
}

fn in_order(histories: &Histories, ids: &[u64]) -> Vec<gradlog_analysis::History> {
    let by_id: HashMap<u64, &gradlog_analysis::History> =
        histories.histories.iter().map(|history| (history.id, history)).collect();
    ids.iter().filter_map(|id| by_id.get(id).map(|history| (*history).clone())).collect()
}

/// The strongest examples of a probe.
struct Ends {
    helped: Vec<Named>,
    hurt: Vec<Named>,
}

/// An example and its score.
struct Named {
    example: u64,
    score: f64,
    error: f64,
}

fn influence(
    run: &Run,
    (set, question): (&str, InfluenceQuestion),
    ids: &[u64],
    chosen: &mut Chosen,
) -> Result<Value, AnalysisError> {
    let plan = question.sketch_errors().plan(run)?.keep_strongest();
    let detailed = &ids[..ids.len().min(DETAILED_PROBES_MAX)];
    let mut splits = [SplitBy::Epoch, SplitBy::Layer].map(Splits::new);
    let mut ends: HashMap<u64, Ends> = HashMap::new();
    let mut about = Vec::new();
    let (mut examples, mut visits) = (0, 0);
    for pass in 0..plan.passes() {
        let found = plan.strongest(pass, ENDS)?;
        if pass == 0 {
            about = vec![found.influence.variant(), found.influence.basis.to_string()];
        }
        (examples, visits) = (found.examples, found.influence.visits.max(visits));
        let own = ends_of(&found);
        let places = found.influence.probes.iter().enumerate().filter(|(_, probe)| detailed.contains(&probe.id));
        let places: Vec<(usize, u64)> = places.map(|(place, probe)| (place, probe.id)).collect();
        for split in &mut splits {
            split.add(&plan, pass, &places, &own)?;
        }
        ends.extend(own);
    }
    let none = Ends { helped: Vec::new(), hurt: Vec::new() };
    let ranked: Vec<&Ends> = ids.iter().map(|id| ends.get(id).unwrap_or(&none)).collect();
    chosen.name(ranked.iter().flat_map(|ends| ends.helped.iter().chain(&ends.hurt)).map(|named| named.example));
    let lists = || ranked.iter().flat_map(|ends| [&ends.helped, &ends.hurt]);
    let mut start = vec![0u32];
    lists().for_each(|list| start.push(start[start.len() - 1] + list.len() as u32));
    let named = || lists().flatten();
    let mut part = json!({
        "variant": about.first(),
        "basis": about.last(),
        "examples": examples,
        "visits": visits,
        "start": arrays::u32s(start),
        "example": arrays::ids(named().map(|named| named.example)),
        "score": arrays::f32s(named().map(|named| named.score as f32)),
        "error": arrays::f32s(named().map(|named| named.error as f32)),
    });
    part["detailed"] = json!(detailed.len());
    let [by_epoch, by_layer] = splits.map(|split| split.part(detailed));
    (part["by_epoch"], part["by_layer"]) = (by_epoch, by_layer);
    let most = DISTANCE_SCORES_MAX / (examples as usize).max(1);
    part["nearest"] = match nearest(run, set, (&detailed[..detailed.len().min(most)], &ends), chosen) {
        Err(error) if is_about_the_run(&error) => reason(&error.to_string()),
        other => other?,
    };
    Ok(part)
}

fn ends_of(found: &Strongest) -> HashMap<u64, Ends> {
    let named = |ranked: &Ranked| Named {
        example: found.influence.rows[ranked.row].example,
        score: ranked.score,
        error: ranked.error.unwrap_or(f64::NAN),
    };
    let list = |ranked: &[Ranked]| ranked.iter().map(named).collect();
    let ends = found.proponents.iter().zip(&found.opponents);
    let ends = ends.map(|(helped, hurt)| Ends { helped: list(helped), hurt: list(hurt) });
    found.influence.probes.iter().map(|probe| probe.id).zip(ends).collect()
}

/// The parts of the scores of some probes.
struct Splits {
    by: SplitBy,
    names: Vec<String>,
    scores: HashMap<u64, Vec<f32>>,
}

impl Splits {
    fn new(by: SplitBy) -> Self {
        Self { by, names: Vec::new(), scores: HashMap::new() }
    }

    /// Splits the scores of those probes of a pass that have these places and ids.
    fn add(
        &mut self,
        plan: &InfluencePlan<'_>,
        pass: usize,
        places: &[(usize, u64)],
        ends: &HashMap<u64, Ends>,
    ) -> Result<(), AnalysisError> {
        let mut pairs = Vec::new();
        let mut probes = Vec::new();
        for (place, id) in places {
            for named in ends.get(id).into_iter().flat_map(|ends| ends.helped.iter().chain(&ends.hurt)) {
                pairs.push((named.example, *place));
                probes.push(*id);
            }
        }
        if pairs.is_empty() {
            return Ok(());
        }
        let found = plan.split(pass, self.by, &pairs)?;
        self.names = found.parts.iter().map(ToString::to_string).collect();
        for (id, own) in probes.iter().zip(found.scores.chunks(found.parts.len().max(1))) {
            self.scores.entry(*id).or_default().extend(own.iter().map(|score| *score as f32));
        }
        Ok(())
    }

    /// In the order of the probes' lists.
    fn part(mut self, ids: &[u64]) -> Value {
        let ordered = ids.iter().flat_map(|id| self.scores.remove(id).unwrap_or_default());
        json!({ "parts": self.names, "scores": arrays::f32s(ordered) })
    }
}

/// The nearest training examples in feature space.
fn nearest(
    run: &Run,
    set: &str,
    (ids, ends): (&[u64], &HashMap<u64, Ends>),
    chosen: &mut Chosen,
) -> Result<Value, AnalysisError> {
    let asked = ids.iter().copied().filter(|id| ends.contains_key(id));
    if ids.is_empty() {
        return Ok(reason(
            "the run has too many examples to measure their distances here: ask `gradlog influence --nearest`",
        ));
    }
    let influence = InfluenceQuestion::new(set).ids(asked).compute(run)?;
    let found = DistanceQuestion::new(&influence).compute(run)?;
    let mut by_probe = HashMap::new();
    for distance in &found {
        let rows = distance.compare(&influence, ENDS)?.nearest;
        let list: Vec<(u64, f64)> =
            rows.iter().map(|row| (influence.rows[*row].example, distance.distances[*row])).collect();
        by_probe.insert(distance.probe, list);
    }
    let lists: Vec<Vec<(u64, f64)>> = ids.iter().map(|id| by_probe.remove(id).unwrap_or_default()).collect();
    chosen.name(lists.iter().flatten().map(|(example, _)| *example));
    let mut start = vec![0u32];
    lists.iter().for_each(|list| start.push(start[start.len() - 1] + list.len() as u32));
    Ok(json!({
        "layer": found.first().map(|distance| &distance.layer),
        "basis": found.first().map(|distance| distance.basis.to_string()),
        "start": arrays::u32s(start),
        "example": arrays::ids(lists.iter().flatten().map(|(example, _)| *example)),
        "distance": arrays::f32s(lists.iter().flatten().map(|(_, distance)| *distance as f32)),
    }))
}
