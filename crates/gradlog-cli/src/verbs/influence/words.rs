//! What is said of an answer, besides its rows.

use super::answer::{Answer, Nearest};
use super::damping_sweep::{damping_value, DampingSweep};
use crate::report::count;
use gradlog_analysis::{Concentration, EstimateDetails, Influence, Method, Probe};

/// What the `answers` are made of and what they come to. There is at least one.
pub(super) fn answer_words(answers: &[Answer], sweep: Option<&DampingSweep>, probes: usize) -> Vec<String> {
    let answer = &answers[0];
    let influence = &answer.about;
    let variant = influence.variant();
    let variant = sweep.map_or(variant.clone(), |sweep| sweep.variant(&variant));
    let set = &influence.set;
    let about = match influence.probes.as_slice() {
        [probe] if !influence.group.is_empty() => {
            let of = probe.label.map_or_else(String::new, |label| format!(", all of label {label}"));
            format!("the mean of {} of `{set}`{of}", count(influence.group.len(), "probe"))
        }
        [probe] if probes == 1 => format!("probe {} of `{set}`{}", probe.id, label_words(probe)),
        _ => format!("{probes} probes of `{set}`"),
    };
    let (visits, examples) = (influence.visits, answer.examples);
    let on_sweeps = influence.basis.is_sweeps();
    let rows = if on_sweeps { "rows" } else { "visits" };
    let mut lines = vec![format!("{about}: {variant}; {visits} {rows} of {examples} examples")];
    if let Some((score, _)) = influence.probes.iter().find_map(|probe| probe.scored) {
        lines.push(format!("the influence is on the {score} of a class, not on a loss: positive raised it"));
    }
    for answer in answers {
        let of = match answer.damping().filter(|_| sweep.is_some()) {
            Some(damping) => format!("damping {}: ", damping_value(damping)),
            None => String::new(),
        };
        lines.extend(probe_words(answer).into_iter().map(|line| format!("{of}{line}")));
    }
    lines.extend(sweep.iter().flat_map(|sweep| sweep.words()));
    let estimate = influence.estimate.as_ref();
    if estimate.and_then(|estimate| estimate.kronecker).is_some_and(|kronecker| kronecker.sign_layers > 0) {
        lines.push(
            "warning: sides of gradients were stored as signs, whose rounding drowns small eigenvalues: trust a ranking that stays the \
             same from --damping 10 to 100, or record with `SketchConfig::exact()`"
                .into(),
        );
    }
    if let Some(adjoint) = estimate.filter(|estimate| estimate.method == Method::Adjoint) {
        let growth = adjoint.growth;
        if growth > EstimateDetails::GROWTH_MAX {
            lines.push(format!(
                "warning: the derivatives grew {growth:.1}-fold on the way back, so these scores are mostly of what grew: the curvature \
                 is too large for the learning rate; use --by-layer, --curvature none, --curvature set:NAME of recorded curvature, or \
                 more --numbers, and take an answer without this warning"
            ));
        }
    }
    lines
}

/// What an answer on one probe comes to.
fn probe_words(answer: &Answer) -> Vec<String> {
    let mut lines = Vec::new();
    if let ([_], Some(found)) = (answer.about.probes.as_slice(), first_concentration(&answer.about)) {
        let Concentration { top_hundredth, carriers, .. } = found;
        lines.push(format!(
            "the hundredth with the largest scores carries {:.1} %; as concentrated as {carriers:.0} examples of one size",
            100.0 * top_hundredth
        ));
    }
    lines.extend(answer.nearest.iter().flat_map(nearest_words));
    lines
}

pub(super) fn first_concentration(influence: &Influence) -> Option<Concentration> {
    if influence.probes.is_empty() || influence.scores.is_empty() {
        return None;
    }
    influence.concentration(0)
}

/// How the nearest examples compare with the strongest.
fn nearest_words(Nearest { distance, comparison }: &Nearest) -> Vec<String> {
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

fn label_words(probe: &Probe) -> String {
    if let Some((score, class)) = probe.scored {
        return format!(" ({score} of class {class})");
    }
    match (probe.label, probe.prediction) {
        (Some(label), Some(prediction)) => format!(" (label {label}, last predicted {prediction})"),
        (Some(label), None) => format!(" (label {label})"),
        _ => String::new(),
    }
}
