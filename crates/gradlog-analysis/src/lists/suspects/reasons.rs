//! Why an example is suspected, in words.

use super::list::Suspect;
use crate::{significant, Extra, Order, RunsRow, Score};

/// The scores that the list is made of, with their names in a sentence.
pub(super) const SIGNALS: [(Score, &str); 5] = [
    (Score::Aum, "AUM"),
    (Score::Loss, "mean loss"),
    (Score::El2n, "mean EL2N"),
    (Score::SelfInfluence, "self-influence"),
    (Score::Forgetting, "forgetting"),
];

/// A signal is a reason if it finds the example among this share of the most suspicious.
const SHARE: f64 = 0.1;

/// A confusion is worth a word if it is this many times rarer or commoner than chance.
const REMARKABLE: f64 = 2.0;

/// Of a row of forgetting over runs, how many runs never learned the example.
pub(super) fn never_learned(row: &RunsRow) -> u64 {
    match row.extra("never_learned") {
        Some(Extra::Count(runs)) => runs,
        _ => 0,
    }
}

/// The reasons, the strongest signal first.
pub(super) fn reasons(
    signals: &[Score],
    suspect: &Suspect,
    never_learned: u64,
    surprise: f64,
    labels_differ: bool,
) -> Vec<String> {
    let mut by_rank: Vec<(f64, String)> = Vec::new();
    for (&score, value) in signals.iter().zip(&suspect.values) {
        // Never learned is a reason even where a tenth of the examples and more never are: then none of them would be
        // in a share of the highest.
        let is_never_learned = score == Score::Forgetting && never_learned > 0;
        if value.rank.is_nan() || (value.rank < 1.0 - SHARE && !is_never_learned) {
            continue;
        }
        let name = SIGNALS.iter().find(|(signal, _)| *signal == score).map_or(score.name(), |(_, name)| name);
        let end = match score.order() {
            Order::HighestFirst => "highest",
            Order::LowestFirst => "lowest",
        };
        // At least 1 %: of 50 examples the first is among the highest 2 %, and of a million never among the highest 0
        // %.
        let percent = (100.0 * (1.0 - value.rank)).ceil().max(1.0);
        let words = match (score, never_learned) {
            (Score::Forgetting, 0) => format!("forgotten {} times, {end} {percent} %", significant(value.value)),
            (Score::Forgetting, runs) if suspect.runs > 1 => {
                format!("never learned in {runs} of {} runs", suspect.runs)
            }
            (Score::Forgetting, _) if suspect.visits == 1 => "never learned in 1 visit".to_owned(),
            (Score::Forgetting, _) => format!("never learned in {} visits", suspect.visits),
            _ => format!("{name} {}, {end} {percent} %", significant(value.value)),
        };
        by_rank.push((value.rank, words));
    }
    by_rank.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let mut reasons: Vec<String> = by_rank.into_iter().map(|(_, words)| words).collect();
    if let Some(rival) = suspect.rival {
        if 2 * rival.visits >= rival.predicted_visits {
            let (visits, of, label) = (rival.visits, rival.predicted_visits, rival.label);
            reasons.push(format!("another label predicted at {visits} of {of} visits: {label}"));
        }
        if let (Some(label), true) = (suspect.label, !reasons.is_empty()) {
            if surprise >= REMARKABLE.ln() {
                reasons.push(format!("{label} is seldom taken for {}", rival.label));
            } else if surprise <= -REMARKABLE.ln() {
                reasons.push(format!("but {label} is often taken for {}", rival.label));
            }
        }
    }
    if labels_differ {
        reasons.push("its recorded label differs between runs".into());
    }
    reasons
}
