//! What is watched, in lines: the same on the terminal and in a file.

use super::curve::Sums;
use super::examples::{Low, EXAMPLES_MAX};
use super::pace::Pace;
use super::session::Session;
use crate::report::count;
use gradlog_analysis::significant;

/// Probe sets that have a line.
const SETS_SHOWN: usize = 3;

/// What was said of a queue before this many milliseconds is said to be old. A recorder says it once a second.
const QUEUE_AGE_MS: u64 = 3_000;

/// How a run stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum State {
    /// What was recorded so far is still being read.
    Reading,
    Recording {
        age_ms: Option<u64>,
        has_lock: bool,
    },
    /// A recorder holds the run and takes no steps.
    Silent {
        age_ms: u64,
    },
    /// Finished, and a program still holds the run.
    Held,
    Finished,
    /// Nobody records it, and it was not finished.
    Ended,
    Damaged {
        what: String,
        is_recorded: bool,
    },
    Unreadable(String),
}

impl State {
    /// In one word.
    pub(super) fn word(&self) -> &'static str {
        match self {
            State::Reading => "READING",
            State::Recording { .. } => "RECORDING",
            State::Silent { .. } => "SILENT",
            State::Held | State::Finished => "FINISHED",
            State::Ended => "ENDED",
            State::Damaged { .. } => "DAMAGED",
            State::Unreadable(_) => "UNREADABLE",
        }
    }

    /// In lines of up to 66 characters, but for what an error says.
    fn lines(&self) -> Vec<String> {
        match self {
            State::Reading => vec!["reading what was recorded so far".into()],
            State::Recording { age_ms, has_lock } => {
                let age = age_ms.map_or("no step yet".into(), |ms| format!("the last step was {} ago", duration(ms)));
                let lock = if *has_lock { "" } else { ", without a lock" };
                vec![format!("being recorded{lock}; {age}")]
            }
            State::Silent { age_ms } => vec![
                format!("no step for {}, but a recorder holds the run", duration(*age_ms)),
                "the training waits, evaluates or hangs".into(),
            ],
            State::Held => vec!["finished; a program still holds the run".into()],
            State::Finished => vec!["finished".into()],
            State::Ended => vec![
                "not finished, and nobody records it: killed, failed or stopped".into(),
                "`gradlog verify` says what is there".into(),
            ],
            State::Damaged { what, is_recorded } => {
                let still = if *is_recorded { "; it is still being recorded" } else { "" };
                vec![format!("damaged: the numbers are of what is before{still}"), what.clone()]
            }
            State::Unreadable(why) => vec!["cannot be read on: the numbers are of what was read".into(), why.clone()],
        }
    }
}

/// A time in words of two digits or more.
fn duration(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{:.1} s", ms as f64 / 1000.0),
        10_000..120_000 => format!("{} s", ms / 1000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h {} min", ms / 3_600_000, ms / 60_000 % 60),
        _ => format!("{} days", ms / 86_400_000),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

/// A share in percent. A part is never rounded to the whole, nor something to nothing.
fn percent(part: f64, digits: usize) -> String {
    let least = 10f64.powi(-(digits as i32));
    let shown = match 100.0 * part {
        whole if part >= 1.0 => whole,
        nothing if part <= 0.0 => nothing,
        some => some.clamp(least, 100.0 - least),
    };
    format!("{shown:.digits$} %")
}

fn means(sums: &Sums) -> Option<String> {
    let loss = sums.loss().map(|loss| format!("loss {}", significant(loss)));
    let accuracy = sums.accuracy().map(|share| format!("accuracy {}", percent(share, 1)));
    let both: Vec<String> = loss.into_iter().chain(accuracy).collect();
    (!both.is_empty()).then(|| both.join(", "))
}

/// Names and what they are, a line each. A line without a name belongs to the one above it.
pub(super) fn overview(session: &Session<'_>) -> Vec<(&'static str, String)> {
    let figures = &session.figures;
    let mut pairs: Vec<(&'static str, String)> = Vec::new();
    let named = |name: &'static str, lines: Vec<String>| {
        lines.into_iter().enumerate().map(move |(at, line)| (if at == 0 { name } else { "" }, line))
    };
    pairs.extend(named("state", session.state().lines()));
    pairs.push(("step", step_line(session)));
    pairs.push(("speed", speed_line(session)));
    pairs.extend(named("training", training_lines(session)));
    pairs.extend(named("probes", probe_lines(session)));
    pairs.push(("recorded", recorded_line(session)));
    pairs.push(("missing", missing_line(session)));
    pairs.push(("log", log_line(session)));
    pairs.extend(named("queue", queue_lines(session)));
    pairs.push(("memory", memory_line(session)));
    if let Some((visits, first)) = figures.not_finite {
        let visits = count(visits as usize, "visit");
        pairs.push(("not finite", format!("{visits} with NaN or infinity, the first at step {first}")));
    }
    pairs.extend(named("guard", guard_lines(session)));
    pairs.extend(named("forgetting", forgetting_lines(session)));
    pairs.push(("suspects", suspects_line(session)));
    pairs
}

fn step_line(session: &Session<'_>) -> String {
    let figures = &session.figures;
    let Some(step) = figures.last_step else { return "none yet".into() };
    let epoch = figures.epoch.map_or(String::new(), |epoch| format!(", epoch {epoch}"));
    let span = figures.paces.iter().filter_map(|pace| pace.span_ms()).max();
    let span = span.map_or(String::new(), |ms| format!(", {} after the first recorded step", duration(ms)));
    format!("{step}{epoch}{span}")
}

fn speed_line(session: &Session<'_>) -> String {
    let speeds: Vec<_> = session.figures.paces.iter().filter_map(|pace| pace.speed()).collect();
    let Some(first) = speeds.first() else {
        return session.figures.paces.first().map_or_else(|| Pace::default().no_speed(), Pace::no_speed);
    };
    let visits = speeds.iter().try_fold(0.0, |sum, speed| Some(sum + speed.visits?));
    let visits = visits.map_or(String::new(), |visits| format!(", {} visits a second", significant_short(visits)));
    let (steps, seconds) = (significant_short(first.steps), significant_short(first.seconds));
    format!("{steps} steps a second{visits} (last {seconds} s)")
}

/// To three digits or more.
fn significant_short(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

fn training_lines(session: &Session<'_>) -> Vec<String> {
    let figures = &session.figures;
    let steps = figures.recent.steps();
    let Some(recent) = means(&figures.recent.sums()) else { return vec!["no losses so far".into()] };
    let mut lines = vec![format!("{recent} over the last {}", count(steps, "step"))];
    // Of a run that nobody records, nothing more will come.
    let is_over = matches!(session.state(), State::Held | State::Finished | State::Ended);
    let current = figures.epochs.last_key_value().map(|(epoch, _)| *epoch).filter(|_| !is_over);
    for (epoch, sums) in figures.epochs.iter().rev() {
        let so_far = if Some(*epoch) == current { " so far" } else { "" };
        lines.extend(means(sums).map(|means| format!("{means} in epoch {epoch}{so_far}")));
    }
    lines
}

fn probe_lines(session: &Session<'_>) -> Vec<String> {
    let probes = &session.figures.probes;
    let line = |set: &super::figures::Probes| {
        let means = means(&set.sums).unwrap_or("no losses".into());
        let step = set.step.unwrap_or_default();
        format!("`{}`: {means} ({} at step {step})", set.name, set.count)
    };
    let mut lines: Vec<String> = probes.iter().take(SETS_SHOWN).map(line).collect();
    if probes.len() > SETS_SHOWN || session.figures.more_sets > 0 {
        lines.push(format!("and more sets than the first {SETS_SHOWN}"));
    }
    lines
}

fn recorded_line(session: &Session<'_>) -> String {
    let (figures, manifest) = (&session.figures, session.run().manifest());
    let passed = figures.visits.saturating_add(figures.gaps.dropped);
    let visits = match passed {
        0 => "no visits yet".into(),
        passed => format!("{} of the visits", percent(figures.visits as f64 / passed as f64, 2)),
    };
    let parameters = manifest.layers.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.parameters));
    let share = manifest.model_parameters.filter(|all| *all > 0).map(|all| parameters as f64 / all as f64);
    let parameters = match share {
        Some(share) => format!("{} of the parameters", percent(share, 1)),
        None => "the model was not declared".into(),
    };
    format!("{visits} ({}), {parameters}", figures.visits)
}

fn missing_line(session: &Session<'_>) -> String {
    let gaps = &session.figures.gaps;
    let mut words = format!("{} dropped", count(gaps.dropped as usize, "visit"));
    if gaps.abandoned > 0 {
        words.push_str(&format!(", {} of steps that were not taken", gaps.abandoned));
    }
    if gaps.unknown_steps > 0 {
        words.push_str(&format!(", {} not in the log", count(gaps.unknown_steps as usize, "step")));
    }
    let workers = session.run().parts().first().and_then(|part| part.manifest().worker);
    if let Some(worker) = workers {
        let (parts, recording) = (session.run().parts().len(), session.outside.recorders);
        words.push_str(&format!("; {parts} of {} workers have a part, {recording} record", worker.workers));
    }
    words
}

fn log_line(session: &Session<'_>) -> String {
    let figures = &session.figures;
    let each = (figures.visits > 0).then(|| figures.bytes / figures.visits);
    let each = each.map_or(String::new(), |bytes| format!(", {bytes} bytes a visit with everything else"));
    format!("{}{each}", size(figures.bytes))
}

/// How full the queue of a recorder was at most in the last second; the fullest of several.
fn queue_lines(session: &Session<'_>) -> Vec<String> {
    let outside = &session.outside;
    let Some(fullest) = outside.queues.iter().max_by(|a, b| a.peak().total_cmp(&b.peak())) else {
        let why = if outside.recorders > 0 { "its recorder does not say" } else { "nobody records" };
        return vec![format!("not known: {why}")];
    };
    let age_ms = outside.now_ms.saturating_sub(fullest.wall_clock_ms);
    let when = if age_ms < QUEUE_AGE_MS { String::new() } else { format!(" {} ago", duration(age_ms)) };
    let of =
        if outside.queues.len() > 1 { format!(", the fullest of {}", outside.queues.len()) } else { String::new() };
    let peak = fullest.peak();
    let mut lines = if peak > 0.0 {
        vec![format!(
            "up to {} full{when}{of}: {} of {} passes, {} of {}",
            percent(peak, 0),
            fullest.passes_peak,
            fullest.passes_max,
            size(fullest.bytes_peak),
            size(fullest.bytes_max)
        )]
    } else {
        // An empty queue is not told again.
        vec![format!("empty{of}")]
    };
    let waited = outside.queues.iter().map(|queue| queue.waited_ms).max().unwrap_or_default();
    if waited > 0 {
        lines.push(format!("the training has waited {} for it", duration(waited)));
    }
    lines
}

fn memory_line(session: &Session<'_>) -> String {
    let outside = &session.outside;
    match outside.processes[..] {
        [] if outside.recorders > 0 => "not known: the recorder's process is not visible from here".into(),
        [] => "not known: nobody records".into(),
        [(pid, bytes)] => format!("{} in process {pid}, which records", size(bytes)),
        _ => {
            let bytes = outside.processes.iter().fold(0u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
            format!("{} in {} processes, which record", size(bytes), outside.processes.len())
        }
    }
}

/// What a guard told of, the last at the end. Without events no line: a run does not say whether a guard was on.
fn guard_lines(session: &Session<'_>) -> Vec<String> {
    let (figures, manifest) = (&session.figures, session.run().manifest());
    if figures.events.is_empty() {
        return Vec::new();
    }
    let count = count(figures.event_rows as usize, "event");
    let sentences = figures.events.iter().map(|event| event.sentence(manifest));
    std::iter::once(format!("{count}; the last:")).chain(sentences).collect()
}

/// Of which examples the numbers are, if not of all.
fn limit(session: &Session<'_>) -> &'static str {
    const _: () = assert!(EXAMPLES_MAX == 1_000_000);
    if session.figures.examples.passed_over > 0 {
        " of the first 1000000"
    } else {
        ""
    }
}

fn forgetting_lines(session: &Session<'_>) -> Vec<String> {
    let (figures, examples) = (&session.figures, &session.figures.examples);
    if figures.has_several_predictions {
        return vec!["not defined for examples with several predictions".into()];
    }
    if examples.predicted == 0 {
        return vec!["no predictions so far".into()];
    }
    let mut lines = vec![
        format!("{} so far; {} forgotten now", count(examples.forgotten as usize, "time"), examples.forgotten_now),
        format!("{} of {} examples{} never right so far", examples.never_right, examples.predicted, limit(session)),
    ];
    if examples.out_of_order > 0 {
        let visits = count(examples.out_of_order as usize, "visit");
        lines.push(format!("about: {visits} of other workers came out of order"));
    }
    lines
}

fn suspects_line(session: &Session<'_>) -> String {
    let (below, all, _) = session.figures.examples.lowest(0);
    if all == 0 {
        return "no margins so far".into();
    }
    format!("{below} of {all} examples{} have a mean margin below 0", limit(session))
}

/// The examples with the lowest mean margins below 0, a line each.
pub(super) fn suspects(session: &Session<'_>, most: usize) -> Vec<String> {
    let class = |class: Option<u32>| class.map_or("-".into(), |class| class.to_string());
    let line = |low: &Low| {
        format!(
            "{}: label {}, predicted {}, mean margin {} in {}",
            low.id,
            class(low.label),
            class(low.prediction),
            significant(low.margin),
            count(low.visits as usize, "visit")
        )
    };
    session.figures.examples.lowest(most).2.iter().map(line).collect()
}
