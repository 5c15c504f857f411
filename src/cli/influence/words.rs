//! What is said of an answer beside its rows.

use super::answer::{Answer, Nearest};
use crate::analysis::{Basis, Concentration, Estimate, Influence, Probe};

/// What the answer stands on, what was left out of it, and what it comes to.
pub(super) fn words(answer: &Answer, probes: usize) -> Vec<String> {
    let influence = &answer.about;
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
    let mut lines = vec![format!("{about}: {}; {visits} {rows} of {examples} examples", influence.variant())];
    if let Some((score, _)) = influence.probes.iter().find_map(|probe| probe.scored) {
        lines.push(format!("the influence is on the {score} of a class, not on a loss: positive raised it"));
    }
    if let Basis::Sweeps { repeated, .. } = influence.basis {
        if repeated > 0 {
            lines.push(format!("note: {repeated} rows replaced by a later one of the same example and checkpoint"));
        }
    }
    let early = match on_sweeps {
        true => "rows left out: the probe has no record at their checkpoint",
        false => "visits left out: before the first probe time (--probe-time nearest takes them in)",
    };
    if let ([_], Some(found)) = (influence.probes.as_slice(), first_concentration(influence)) {
        let Concentration { top_hundredth, carriers, .. } = found;
        lines.push(format!(
            "the hundredth with the largest scores carries {:.1} %; as concentrated as {carriers:.0} examples of one size",
            100.0 * top_hundredth
        ));
    }
    if let Some(nearest) = &answer.nearest {
        lines.extend(beside(nearest));
    }
    let estimate = influence.estimate.as_ref();
    let told = |of: fn(&Estimate) -> u64| estimate.map_or(0, of);
    let notes = [
        (told(|e| e.after_probes), "visits left out: at or after the last time of the probes"),
        (told(|e| e.steps_without_record), "steps without a record of momentum and weight decay, taken for 0"),
        (told(|e| e.dropped), "visits were dropped while recording: what they did is not unrolled"),
        (influence.before_first_probe, early),
        (influence.not_finite, "visits left out: a number was NaN or infinite"),
        (influence.without_gradient, "visits left out: recorded without gradients"),
        (influence.other_layers, "visits left out: their layers were recorded in another form than the probes'"),
        (
            influence.probe_records_left_out,
            "probe records left out: not finite, without weight, in another form, or of another loss or class",
        ),
        (influence.probe_records_repeated, "probe records replaced by a later one of the same id and step"),
    ];
    lines.extend(notes.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("note: {count} {what}")));
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
