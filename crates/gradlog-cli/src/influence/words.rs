//! What is said of an answer beside its rows.

use super::answer::{Answer, Nearest};
use super::sweep::{value, Sweep};
use gradlog_analysis::{Basis, Concentration, Estimate, Influence, Method, Probe};

/// What the `answers`, of which there is at least one, stand on, what was left out, and what they come to.
pub(super) fn words(answers: &[Answer], sweep: Option<&Sweep>, probes: usize) -> Vec<String> {
    let answer = &answers[0];
    let influence = &answer.about;
    let variant = influence.variant();
    let variant = sweep.map_or(variant.clone(), |sweep| sweep.variant(&variant));
    let set = &influence.set;
    let about = match influence.probes.as_slice() {
        [probe] if !influence.group.is_empty() => {
            let of = probe.label.map_or_else(String::new, |label| format!(", all of label {label}"));
            format!("the mean of {} probes of `{set}`{of}", influence.group.len())
        }
        [probe] if probes == 1 => format!("probe {} of `{set}`{}", probe.id, says(probe)),
        _ => format!("{probes} probes of `{set}`"),
    };
    let (visits, examples) = (influence.visits, answer.examples);
    let on_sweeps = matches!(influence.basis, Basis::Sweeps { .. });
    let rows = if on_sweeps { "rows" } else { "visits" };
    let mut lines = vec![format!("{about}: {variant}; {visits} {rows} of {examples} examples")];
    if let Some((score, _)) = influence.probes.iter().find_map(|probe| probe.scored) {
        lines.push(format!("the influence is on the {score} of a class, not on a loss: positive raised it"));
    }
    if let repeated @ 1.. = influence.left_out.replaced {
        lines.push(format!("note: {repeated} rows replaced by a later one of the same example and checkpoint"));
    }
    let early = match on_sweeps {
        true => "rows left out: the probe has no record at their checkpoint",
        false => "visits left out: before the first probe time (--probe-time nearest takes them in)",
    };
    for answer in answers {
        let of = match answer.damping().filter(|_| sweep.is_some()) {
            Some(damping) => format!("damping {}: ", value(damping)),
            None => String::new(),
        };
        lines.extend(of_one(answer).into_iter().map(|line| format!("{of}{line}")));
    }
    lines.extend(sweep.iter().flat_map(|sweep| sweep.words()));
    let estimate = influence.estimate.as_ref();
    if let Some(adjoint) = estimate.filter(|estimate| estimate.method == Method::Adjoint) {
        let Estimate { momentum, weight_decay, growth, .. } = adjoint;
        lines.push(format!("the steps were recorded with momentum {momentum} and weight decay {weight_decay} at most"));
        if *growth > Estimate::GROWTH_MAX {
            lines.push(format!(
                "warning: the derivatives grew {growth:.1}-fold on the way back, so these scores are mostly of what grew: the curvature \
                 is too large for the learning rate; believe --curvature none, or --curvature set:NAME of recorded curvature, more numbers, or \
                 --by-layer where they are not warned of"
            ));
        }
    }
    let told = |of: fn(&Estimate) -> u64| estimate.map_or(0, of);
    let notes = [
        (influence.left_out.after_probes, "visits left out: at or after the last time of the probes"),
        (told(|e| e.steps_without_record), "steps without a record of momentum and weight decay, taken for 0"),
        (told(|e| e.dropped), "visits were dropped while recording: what they did is not unrolled"),
        (influence.left_out.before_first_probe + influence.left_out.without_probe, early),
        (not_finite(influence), "visits left out: a number was NaN or infinite"),
        (influence.left_out.without_gradient, "visits left out: recorded without gradients"),
        (
            influence.left_out.other_layers,
            "visits left out: their layers were recorded in another form than the probes'",
        ),
        (
            influence.left_out.probe_records,
            "probe records left out: not finite, without weight, in another form, or of another loss or class",
        ),
        (influence.left_out.probe_records_replaced, "probe records replaced by a later one of the same id and step"),
    ];
    lines.extend(notes.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("note: {count} {what}")));
    lines
}

/// Visits left out as not finite: for TracIn on sweeps with those that had no weight, as in every output so far.
pub(super) fn not_finite(influence: &Influence) -> u64 {
    let left_out = &influence.left_out;
    left_out.not_finite + if influence.estimate.is_none() { left_out.unseen } else { 0 }
}

/// What an answer on one probe comes to.
fn of_one(answer: &Answer) -> Vec<String> {
    let mut lines = Vec::new();
    if let ([_], Some(found)) = (answer.about.probes.as_slice(), first_concentration(&answer.about)) {
        let Concentration { top_hundredth, carriers, .. } = found;
        lines.push(format!(
            "the hundredth with the largest scores carries {:.1} %; as concentrated as {carriers:.0} examples of one size",
            100.0 * top_hundredth
        ));
    }
    lines.extend(answer.nearest.iter().flat_map(beside));
    lines
}

pub(super) fn first_concentration(influence: &Influence) -> Option<Concentration> {
    if influence.probes.is_empty() || influence.scores.is_empty() {
        return None;
    }
    influence.concentration(0)
}

/// How the nearest examples compare with the strongest.
fn beside(Nearest { distance, comparison }: &Nearest) -> Vec<String> {
    let share = |share: Option<f64>| share.map_or_else(|| "-".into(), |share| format!("{:.0} %", 100.0 * share));
    vec![
        format!(
            "nearest by the input of `{}` ({} numbers): of {} nearest, {} are among the proponents and {} among the opponents",
            distance.layer,
            distance.width,
            comparison.nearest.len(),
            comparison.also_proponents,
            comparison.also_opponents
        ),
        format!(
            "of the probe's label: {} of the proponents, {} of the opponents, {} of the nearest; rank correlation of score and distance {:.2}",
            share(comparison.same_label_proponents),
            share(comparison.same_label_opponents),
            share(comparison.same_label_nearest),
            distance.score
        ),
    ]
}

fn says(probe: &Probe) -> String {
    if let Some((score, class)) = probe.scored {
        return format!(" ({score} of class {class})");
    }
    match (probe.label, probe.prediction) {
        (Some(label), Some(prediction)) => format!(" (label {label}, last predicted {prediction})"),
        (Some(label), None) => format!(" (label {label})"),
        _ => String::new(),
    }
}
