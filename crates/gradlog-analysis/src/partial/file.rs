//! The file of a partial answer (`docs/scale.md`, "The file of a part").
//!
//! A head, then for each answer its own head and its rows in frames of bounded length. Everything is checked when it is
//! read: no bytes make it panic.

use super::answer::{Answered, AskedRun, PartialAnswer, Pass, PassAnswer};
use super::error::PartFileError;
use crate::scores::Extras;
use crate::{
    Basis, ExampleShare, Extra, Influence, InfluenceRow, LeftOut, Mode, Normalization, OverRuns, Probe, ProbeTime,
    Ranked, Score, ScoreRow, ScoreTable, Strongest,
};
use gradlog_format::frames::{FrameReader, FrameWriter, PART_OF_ANSWER};
use gradlog_format::run::Damage;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};

/// This version. The layout of the frames belongs to it.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Rows of a frame.
const ROWS: usize = 1 << 14;
/// Scores of a frame.
const SCORES: usize = 1 << 19;

#[derive(Serialize, Deserialize)]
struct Head {
    /// In a frame of its own, before everything whose layout may change.
    share: ExampleShare,
    runs: Vec<AskedRun>,
    question: Vec<(String, String)>,
    over_runs: Option<OverRuns>,
    answers: u64,
}

#[derive(Serialize, Deserialize)]
enum AnswerHead {
    Scores(Box<ScoreHead>),
    Influence(Box<InfluenceHead>),
}

#[derive(Serialize, Deserialize)]
struct ScoreHead {
    score: Score,
    basis: Basis,
    visits: u64,
    left_out: LeftOut,
    estimated_norms: u64,
    damage: Option<Damage>,
    rows: u64,
}

#[derive(Serialize, Deserialize)]
struct InfluenceHead {
    times: Vec<u64>,
    set: String,
    time: ProbeTime,
    basis: Basis,
    normalization: Normalization,
    layers: Vec<String>,
    group: Vec<u64>,
    probe_modes: Vec<Mode>,
    probes: Vec<Probe>,
    visits: u64,
    visits_at_probe_times: u64,
    probe_times: u64,
    left_out: LeftOut,
    damage: Option<Damage>,
    has_errors: bool,
    rows: u64,
    /// Of the strongest alone, how many examples there are, and how many of each end are kept.
    strongest_of: Option<(u64, u64)>,
}

#[derive(Serialize, Deserialize)]
struct ScoredRow {
    example: u64,
    visits: u64,
    score: f64,
    extras: Vec<Extra>,
    not_finite: u64,
    label: Option<u32>,
    prediction: Option<u32>,
}

#[derive(Serialize, Deserialize)]
struct InfluenceRows {
    rows: Vec<InfluenceRow>,
    /// `[rows, probes]`; empty where the strongest alone are kept.
    scores: Vec<f64>,
    errors: Vec<f64>,
}

/// One end of a probe: row, score and error.
type End = Vec<(u64, f64, Option<f64>)>;

fn damaged(what: &str) -> PartFileError {
    PartFileError::Damaged { what: what.into() }
}

impl PartialAnswer {
    /// Writes the file of the part.
    ///
    /// # Errors
    /// What `out` says.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        let mut frames = FrameWriter::begin(out, PART_OF_ANSWER)?;
        frames.write(&VERSION)?;
        let (answers, over_runs) = match &self.answer {
            Answered::Scores(tables, over_runs) => (tables.len(), *over_runs),
            Answered::Influence(passes) => (passes.len(), None),
        };
        let (runs, question) = (self.runs.clone(), self.question.clone());
        frames.write(&Head { share: self.share, runs, question, over_runs, answers: answers as u64 })?;
        match &self.answer {
            Answered::Scores(tables, _) => tables.iter().try_for_each(|table| write_table(&mut frames, table))?,
            Answered::Influence(passes) => passes.iter().try_for_each(|pass| write_pass(&mut frames, pass))?,
        }
        frames.end()?.flush()
    }

    /// Reads the file of a part.
    ///
    /// # Errors
    /// [`PartFileError`].
    pub fn read(from: impl Read) -> Result<Self, PartFileError> {
        let mut frames = FrameReader::begin(from, PART_OF_ANSWER)?;
        let made: String = frames.expect()?;
        if made != VERSION {
            return Err(PartFileError::OtherVersion { made, own: VERSION });
        }
        let head: Head = frames.expect()?;
        if !head.share.is_sound() || head.answers == 0 {
            return Err(damaged("it has an impossible part number, or no answer"));
        }
        let (mut tables, mut passes) = (Vec::new(), Vec::new());
        for _ in 0..head.answers {
            match frames.expect()? {
                AnswerHead::Scores(about) => tables.push(read_table(&mut frames, *about)?),
                AnswerHead::Influence(about) => passes.push(read_pass(&mut frames, *about)?),
            }
        }
        if frames.read::<u8>()?.is_some() {
            return Err(damaged("there is more than its answers"));
        }
        let answer = match (tables.len(), passes.len()) {
            (count, 0) if count == head.runs.len() && (head.over_runs.is_some() || count == 1) => {
                Answered::Scores(tables, head.over_runs)
            }
            (0, _) if head.runs.len() == 1 => Answered::Influence(passes),
            _ => return Err(damaged("its answers are not those of its runs")),
        };
        Ok(Self { share: head.share, runs: head.runs, question: head.question, answer })
    }
}

fn write_table<W: Write>(frames: &mut FrameWriter<W>, table: &ScoreTable) -> io::Result<()> {
    let ScoreTable { score, basis, visits, left_out, estimated_norms, rows, damage } = table;
    frames.write(&AnswerHead::Scores(Box::new(ScoreHead {
        score: *score,
        basis: basis.clone(),
        visits: *visits,
        left_out: left_out.clone(),
        estimated_norms: *estimated_norms,
        damage: damage.clone(),
        rows: rows.len() as u64,
    })))?;
    for rows in rows.chunks(ROWS) {
        let rows: Vec<ScoredRow> = rows.iter().map(ScoredRow::from).collect();
        frames.write(&rows)?;
    }
    Ok(())
}

impl From<&ScoreRow> for ScoredRow {
    fn from(row: &ScoreRow) -> Self {
        let ScoreRow { example, visits, score, extras, not_finite, label, prediction } = row;
        Self {
            example: *example,
            visits: *visits,
            score: *score,
            extras: extras.values().to_vec(),
            not_finite: *not_finite,
            label: *label,
            prediction: *prediction,
        }
    }
}

fn read_table<R: Read>(frames: &mut FrameReader<R>, about: ScoreHead) -> Result<ScoreTable, PartFileError> {
    let ScoreHead { score, basis, visits, left_out, estimated_norms, damage, rows: count } = about;
    let mut rows: Vec<ScoreRow> = Vec::new();
    while (rows.len() as u64) < count {
        let more: Vec<ScoredRow> = frames.expect()?;
        if more.is_empty() || more.iter().any(|row| row.extras.len() != score.extras().len()) {
            return Err(damaged("rows that are not those of its score"));
        }
        rows.extend(more.into_iter().map(|row| {
            let ScoredRow { example, visits, score: value, extras, not_finite, label, prediction } = row;
            let extras = Extras::new(score.extras(), extras);
            ScoreRow { example, visits, score: value, extras, not_finite, label, prediction }
        }));
    }
    if rows.len() as u64 != count {
        return Err(damaged("more rows than it says"));
    }
    Ok(ScoreTable { score, basis, visits, left_out, estimated_norms, rows, damage })
}

fn write_pass<W: Write>(frames: &mut FrameWriter<W>, pass: &Pass) -> io::Result<()> {
    let about = pass.answer.about().clone();
    let strongest_of = match &pass.answer {
        PassAnswer::All(_) => None,
        PassAnswer::Strongest(strongest) => Some((strongest.examples, pass.kept.unwrap_or(0) as u64)),
    };
    let (has_errors, probes) = (!about.sketch_errors.is_empty(), about.probes.len());
    let Influence { rows, scores, sketch_errors, .. } = about;
    frames.write(&AnswerHead::Influence(Box::new(InfluenceHead {
        times: pass.times.clone(),
        set: about.set,
        time: about.time,
        basis: about.basis,
        normalization: about.normalization,
        layers: about.layers,
        group: about.group,
        probe_modes: about.probe_modes,
        probes: about.probes,
        visits: about.visits,
        visits_at_probe_times: about.visits_at_probe_times,
        probe_times: about.probe_times,
        left_out: about.left_out,
        damage: about.damage,
        has_errors,
        rows: rows.len() as u64,
        strongest_of,
    })))?;
    let at_a_time = (SCORES / probes.max(1)).clamp(1, ROWS);
    for (number, rows) in rows.chunks(at_a_time).enumerate() {
        let from = number * at_a_time * probes;
        let part = |all: &[f64]| all.get(from..from + rows.len() * probes).unwrap_or_default().to_vec();
        frames.write(&InfluenceRows { rows: rows.to_vec(), scores: part(&scores), errors: part(&sketch_errors) })?;
    }
    if let PassAnswer::Strongest(strongest) = &pass.answer {
        let end = |list: &Vec<Ranked>| -> End {
            list.iter().map(|ranked| (ranked.row as u64, ranked.score, ranked.error)).collect()
        };
        for list in strongest.proponents.iter().chain(&strongest.opponents) {
            frames.write(&end(list))?;
        }
    }
    Ok(())
}

fn read_pass<R: Read>(frames: &mut FrameReader<R>, about: InfluenceHead) -> Result<Pass, PartFileError> {
    let probes = about.probes.len();
    let mut influence = Influence {
        basis: about.basis,
        normalization: about.normalization,
        layers: about.layers,
        group: about.group,
        probe_modes: about.probe_modes,
        probes: about.probes,
        visits: about.visits,
        visits_at_probe_times: about.visits_at_probe_times,
        probe_times: about.probe_times,
        left_out: about.left_out,
        damage: about.damage,
        ..Influence::new(about.set, about.time)
    };
    let (scored, with_errors) = (about.strongest_of.is_none(), about.strongest_of.is_none() && about.has_errors);
    while (influence.rows.len() as u64) < about.rows {
        let InfluenceRows { rows, scores, errors } = frames.expect()?;
        let fits = |numbers: &[f64], there: bool| numbers.len() == if there { rows.len() * probes } else { 0 };
        if rows.is_empty() || !fits(&scores, scored) || !fits(&errors, with_errors) {
            return Err(damaged("rows that are not those of its probes"));
        }
        influence.rows.extend(rows);
        influence.scores.extend(scores);
        influence.sketch_errors.extend(errors);
    }
    if influence.rows.len() as u64 != about.rows {
        return Err(damaged("more rows than it says"));
    }
    let Some((examples, kept)) = about.strongest_of else {
        return Ok(Pass { times: about.times, kept: None, answer: PassAnswer::All(influence) });
    };
    let rows = influence.rows.len();
    let mut ends = Vec::new();
    for _ in 0..2 * probes {
        let end: End = frames.expect()?;
        let ranked = |(row, score, error): (u64, f64, Option<f64>)| {
            usize::try_from(row).ok().filter(|row| *row < rows).map(|row| Ranked { row, score, error })
        };
        let end: Option<Vec<Ranked>> = end.into_iter().map(ranked).collect();
        ends.push(end.ok_or_else(|| damaged("a list that names a row that is not there"))?);
    }
    let opponents = ends.split_off(probes);
    let strongest = Strongest { influence, examples, proponents: ends, opponents };
    let kept = usize::try_from(kept).ok();
    Ok(Pass { times: about.times, kept, answer: PassAnswer::Strongest(strongest) })
}
