//! Puts the parts of an answer together: rows are joined and sorted, counts are added, and what all parts have in
//! common is compared.

use super::answer::{Answered, AskedRun, PartialAnswer, Pass, PassAnswer};
use super::error::MergeError;
use crate::scores::over_runs::RunTables;
use crate::{Basis, Influence, LeftOut, OverRuns, Ranked, RunsTable, Score, ScoreTable, Strongest};
use gradlog_format::run::Damage;
use std::collections::BTreeMap;

/// The answer of all parts together.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct MergedAnswer {
    /// The runs that were asked.
    pub runs: Vec<AskedRun>,
    /// What they say: what the question alone would have said, but for the order of rows that are in no order.
    pub answer: WholeAnswer,
    question: Vec<(String, String)>,
}

/// What the runs say.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum WholeAnswer {
    /// A score of one run. It equals [`ScoreQuestion::compute`](crate::ScoreQuestion::compute) bit for bit.
    Scores(Box<ScoreTable>),
    /// A score of several runs. It equals [`ScoreQuestion::compute_over`](crate::ScoreQuestion::compute_over) bit for
    /// bit.
    ScoresOverRuns(RunsTable),
    /// Influence: an answer for the probes that were taken at the same times. Scores equal those of
    /// [`InfluencePlan::pass`](crate::InfluencePlan::pass) bit for bit. `totals` are empty: a sum over all visits in
    /// their order is no sum of the parts' sums.
    Influence(Vec<Influence>),
    /// The strongest of each probe, likewise.
    Strongest(Vec<Strongest>),
}

impl MergedAnswer {
    /// What was asked for, under one of the names that a [`MergeError::OtherQuestion`] has.
    pub fn asked(&self, what: &str) -> Option<&str> {
        self.question.iter().find(|(name, _)| name == what).map(|(_, value)| value.as_str())
    }
}

/// The names under which parts were handed in, in the order of the parts.
struct Names(Vec<String>);

impl Names {
    /// The answer that all parts give.
    fn common<T: PartialEq>(&self, what: &'static str, parts: impl IntoIterator<Item = T>) -> Result<(), MergeError> {
        let mut parts = parts.into_iter().zip(&self.0);
        let Some((first, name)) = parts.next() else { return Ok(()) };
        match parts.find(|(other, _)| *other != first) {
            Some((_, other)) => Err(MergeError::Differ { what, first: name.clone(), second: other.clone() }),
            None => Ok(()),
        }
    }
}

impl PartialAnswer {
    /// Puts the parts of an answer together. Each has a name for errors, such as that of its file. They may be in any
    /// order.
    ///
    /// # Errors
    /// [`MergeError`] if a part is missing or there twice, if parts are of different runs, of a run that has changed in
    /// between, or of different questions, and if they differ in what all have in common.
    pub fn merge(parts: Vec<(String, PartialAnswer)>) -> Result<MergedAnswer, MergeError> {
        let mut parts = parts;
        check(&parts)?;
        parts.sort_by_key(|(_, part)| part.share);
        let (names, parts): (Vec<String>, Vec<PartialAnswer>) = parts.into_iter().unzip();
        let names = Names(names);
        let Some(first) = parts.first() else { return Err(MergeError::NoParts) };
        let (runs, question) = (first.runs.clone(), first.question.clone());
        let (mut scores, mut influence) = (Vec::new(), Vec::new());
        let mut over_runs = None;
        for part in parts {
            match part.answer {
                Answered::Scores(tables, over) => {
                    over_runs = over;
                    scores.push(tables);
                }
                Answered::Influence(passes) => influence.push(passes),
            }
        }
        let answer = match (scores.is_empty(), influence.is_empty()) {
            (false, true) => merge_scores(&names, scores, over_runs, &runs)?,
            (true, false) => merge_influence(&names, influence)?,
            // Their questions have different names.
            _ => return Err(MergeError::NoParts),
        };
        Ok(MergedAnswer { runs, answer, question })
    }
}

/// Refuses parts that do not belong together.
fn check(parts: &[(String, PartialAnswer)]) -> Result<(), MergeError> {
    let Some((first, one)) = parts.first() else { return Err(MergeError::NoParts) };
    for (second, other) in &parts[1..] {
        let names = || (first.clone(), second.clone());
        if one.share.of() != other.share.of() {
            let (first, second) = names();
            return Err(MergeError::OtherSplit { first, part: one.share, second, other: other.share });
        }
        let ids = |part: &PartialAnswer| part.runs.iter().map(|run| run.run_id).collect::<Vec<_>>();
        if ids(one) != ids(other) {
            let (first, second) = names();
            let folders = |part: &PartialAnswer| {
                let named = |run: &AskedRun| format!("{} (run {})", run.name, hex(&run.run_id));
                part.runs.iter().map(named).collect::<Vec<_>>().join(" and ")
            };
            return Err(MergeError::OtherRuns { first, run: folders(one), second, other: folders(other) });
        }
        for (run, there) in one.runs.iter().zip(&other.runs) {
            if (run.blocks, run.checksum) != (there.blocks, there.checksum) {
                let (first, second) = names();
                let (run, blocks) = (run.name.clone(), run.blocks);
                return Err(MergeError::RunChanged { run, first, blocks, second, other: there.blocks });
            }
        }
        check_question(first, one, second, other)?;
    }
    let mut seen: BTreeMap<u32, &String> = BTreeMap::new();
    for (name, part) in parts {
        if let Some(first) = seen.insert(part.share.number(), name) {
            return Err(MergeError::Twice { part: part.share, first: first.clone(), second: name.clone() });
        }
    }
    let of = one.share.of();
    let missing: Vec<u32> = (1..=of).filter(|number| !seen.contains_key(number)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(MergeError::Missing { missing, of })
}

fn check_question(first: &str, one: &PartialAnswer, second: &str, other: &PartialAnswer) -> Result<(), MergeError> {
    let unlike = one.question.iter().zip(&other.question).find(|(one, other)| one != other);
    let (what, given, asked) = match unlike {
        None if one.question.len() == other.question.len() => return Ok(()),
        Some(((what, given), (name, other))) if what == name => (what.clone(), given.clone(), other.clone()),
        _ => {
            let kind = |part: &PartialAnswer| match part.answer {
                Answered::Scores(..) => "a score".to_owned(),
                Answered::Influence(_) => "influence".to_owned(),
            };
            ("the kind of answer".to_owned(), kind(one), kind(other))
        }
    };
    Err(MergeError::OtherQuestion { what, first: first.into(), given, second: second.into(), other: asked })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// What each part says of all examples: its basis without what is its own.
fn shared_basis(basis: &Basis) -> Basis {
    Basis { share: None, left_out: LeftOut::default(), ..basis.clone() }
}

fn merge_scores(
    names: &Names,
    mut parts: Vec<Vec<ScoreTable>>,
    over_runs: Option<OverRuns>,
    runs: &[AskedRun],
) -> Result<WholeAnswer, MergeError> {
    let mut tables = Vec::with_capacity(runs.len());
    for _ in runs {
        // The tables of a part are those of its runs, whose number has been compared.
        let of_run: Vec<ScoreTable> =
            parts.iter_mut().filter(|part| !part.is_empty()).map(|part| part.remove(0)).collect();
        tables.push(merge_tables(names, of_run)?);
    }
    let Some(over_runs) = over_runs else {
        let one = tables.pop().ok_or(MergeError::NoParts)?;
        return Ok(WholeAnswer::Scores(Box::new(one)));
    };
    let score = tables.first().map_or(Score::Loss, |table| table.score);
    let mut joined = RunTables::new(score, over_runs, false);
    runs.iter().zip(tables).for_each(|(run, table)| joined.add(run.name.clone(), table));
    Ok(WholeAnswer::ScoresOverRuns(joined.finish()?))
}

/// The table of one run.
fn merge_tables(names: &Names, parts: Vec<ScoreTable>) -> Result<ScoreTable, MergeError> {
    names.common("where the run is damaged", parts.iter().map(|part| &part.damage))?;
    names.common("what the scores rest on", parts.iter().map(|part| shared_basis(&part.basis)))?;
    let mut parts = parts.into_iter();
    let mut whole = parts.next().ok_or(MergeError::NoParts)?;
    for part in parts {
        whole.visits += part.visits;
        whole.estimated_norms += part.estimated_norms;
        whole.left_out.add_share(&part.left_out);
        whole.rows.extend(part.rows);
    }
    whole.basis = shared_basis(&whole.basis).with_left_out(&whole.left_out);
    whole.score.sort(&mut whole.rows);
    Ok(whole)
}

fn merge_influence(names: &Names, parts: Vec<Vec<Pass>>) -> Result<WholeAnswer, MergeError> {
    // A part with many examples takes fewer probes in a pass, so passes may be cut in other places in other parts.
    let mut by_times: BTreeMap<Vec<u64>, Vec<PassAnswer>> = BTreeMap::new();
    let kept = parts.iter().flatten().find_map(|pass| pass.kept).unwrap_or(usize::MAX);
    for part in parts {
        let mut own: BTreeMap<Vec<u64>, PassAnswer> = BTreeMap::new();
        for Pass { times, answer, .. } in part {
            match own.remove(&times) {
                None => own.insert(times, answer),
                Some(before) => own.insert(times, add_probes(before, answer)),
            };
        }
        own.into_iter().for_each(|(times, answer)| by_times.entry(times).or_default().push(answer));
    }
    let (mut all, mut strongest) = (Vec::new(), Vec::new());
    for parts in by_times.into_values() {
        if parts.len() != names.0.len() {
            let name = |at: usize| names.0.get(at).cloned().unwrap_or_default();
            let (first, second) = (name(0), name(1));
            return Err(MergeError::Differ { what: "the times of the probes", first, second });
        }
        match add_examples(names, parts, kept)? {
            PassAnswer::All(influence) => all.push(influence),
            PassAnswer::Strongest(found) => strongest.push(found),
        }
    }
    Ok(if strongest.is_empty() { WholeAnswer::Influence(all) } else { WholeAnswer::Strongest(strongest) })
}

/// Two passes of one part: other probes, the same examples.
fn add_probes(before: PassAnswer, more: PassAnswer) -> PassAnswer {
    match (before, more) {
        (PassAnswer::All(mut all), PassAnswer::All(more)) => {
            all.merge(more);
            PassAnswer::All(all)
        }
        (PassAnswer::Strongest(mut all), PassAnswer::Strongest(mut more)) => {
            shift_rows(&mut more, all.influence.rows.len());
            all.influence.rows.append(&mut more.influence.rows);
            all.influence.probes.append(&mut more.influence.probes);
            all.proponents.append(&mut more.proponents);
            all.opponents.append(&mut more.opponents);
            PassAnswer::Strongest(all)
        }
        // A part has passes of one kind.
        (before, _) => before,
    }
}

fn shift_rows(strongest: &mut Strongest, by: usize) {
    strongest.proponents.iter_mut().chain(&mut strongest.opponents).flatten().for_each(|ranked| ranked.row += by);
}

/// The answers of all parts on the same probes: other examples. Of the strongest, this many of each end are kept.
fn add_examples(names: &Names, parts: Vec<PassAnswer>, kept: usize) -> Result<PassAnswer, MergeError> {
    let about = || parts.iter().map(PassAnswer::about);
    let damage = |influence: &Influence| -> Option<Damage> { influence.damage.clone() };
    names.common("where the run is damaged", about().map(damage))?;
    names.common("the probes", about().map(|part| part.probes.clone()))?;
    names.common("what the scores rest on", about().map(|part| shared_basis(&part.basis)))?;
    let rest = |part: &Influence| {
        let records = (part.left_out.probe_records, part.left_out.probe_records_replaced);
        (part.layers.clone(), part.group.clone(), part.probe_modes.clone(), part.probe_times, records)
    };
    names.common("the records of the probes", about().map(rest))?;
    let is_all = |part: &PassAnswer| matches!(part, PassAnswer::All(_));
    names.common("the kind of answer", parts.iter().map(is_all))?;
    let mut parts = parts.into_iter();
    let mut whole = parts.next().ok_or(MergeError::NoParts)?;
    for mut part in parts {
        let (to, from) = (whole.about_mut(), part.about());
        to.visits += from.visits;
        to.visits_at_probe_times += from.visits_at_probe_times;
        to.left_out.add_share(&from.left_out);
        if let (PassAnswer::Strongest(to), PassAnswer::Strongest(from)) = (&mut whole, &mut part) {
            to.examples += from.examples;
            shift_rows(from, to.influence.rows.len());
            let lists = to.proponents.iter_mut().chain(&mut to.opponents);
            lists.zip(from.proponents.iter_mut().chain(&mut from.opponents)).for_each(|(to, from)| to.append(from));
        }
        let (to, from) = (whole.about_mut(), part.about_mut());
        to.rows.append(&mut from.rows);
        to.scores.append(&mut from.scores);
        to.sketch_errors.append(&mut from.sketch_errors);
    }
    let about = whole.about_mut();
    about.basis = shared_basis(&about.basis).with_left_out(&about.left_out);
    if let PassAnswer::Strongest(strongest) = whole {
        return Ok(PassAnswer::Strongest(strongest.cut(kept)));
    }
    Ok(whole)
}

impl Strongest {
    /// Sorts the lists and keeps `count` of each.
    fn cut(mut self, count: usize) -> Self {
        let rows = &self.influence.rows;
        let order = |a: &Ranked, b: &Ranked| {
            b.score.total_cmp(&a.score).then_with(|| rows[a.row].example.cmp(&rows[b.row].example))
        };
        for list in &mut self.proponents {
            list.sort_by(order);
            list.truncate(count);
        }
        for list in &mut self.opponents {
            list.sort_by(|a, b| order(b, a));
            list.truncate(count);
        }
        self.keep_named()
    }
}
