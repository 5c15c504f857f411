//! The training examples that helped and hurt an answer, as lists.

use gradlog_analysis::Influence;

/// Prints the training examples that helped a probe most, and those that hurt it most. `show` prints one of them with
/// its score.
pub fn print_extremes(answer: &Influence, probe: usize, count: usize, show: impl Fn(u64, f64)) {
    for (title, rows) in
        [("Helped most (TracIn).", answer.proponents(probe, count)), ("Hurt most.", answer.opponents(probe, count))]
    {
        println!("{title}");
        rows.into_iter().for_each(|row| show(answer.rows[row].example, answer.score(row, probe)));
    }
}
