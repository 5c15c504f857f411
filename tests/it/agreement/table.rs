//! The table of `docs/agreement.md`: each comparison with its largest deviation.

use super::Reference;

/// No value may be further from the reference.
const LIMIT: f64 = 1e-4;

/// The comparisons of one training.
pub struct Table<'r> {
    reference: &'r Reference,
    /// What was compared, with which package, and the largest deviation.
    rows: Vec<(String, String, f64)>,
}

impl<'r> Table<'r> {
    pub fn new(reference: &'r Reference) -> Self {
        Self { reference, rows: Vec::new() }
    }

    /// Compares numbers with those of a package. The deviation is `max_i |a_i − b_i| / √(mean_i b_i²)`.
    pub fn compare(&mut self, what: &str, package: &str, ours: &[f32], theirs: &[f32]) {
        assert_eq!(ours.len(), theirs.len(), "{what}");
        let squares: f64 = theirs.iter().map(|b| f64::from(*b).powi(2)).sum();
        let scale = (squares / theirs.len() as f64).sqrt();
        let difference = |(a, b): (&f32, &f32)| match a == b {
            true => 0.0,
            false => (f64::from(*a) - f64::from(*b)).abs(),
        };
        let differences = ours.iter().zip(theirs).map(difference);
        // A NaN is no agreement, and `max` would hide it.
        let largest = differences.fold(0.0, |a: f64, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) });
        let relative = if largest == 0.0 { 0.0 } else { largest / scale };
        self.rows.push((what.into(), self.reference.version(package), relative));
    }

    /// Prints the rows, checks each, and checks that the page has a row for each.
    pub fn check(&self) {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/agreement.md")).unwrap();
        let mut wrong = Vec::new();
        for (what, peer, deviation) in &self.rows {
            let row = format!("| {} | {what} | {peer} |", self.reference.title());
            let said = if *deviation == 0.0 { "0".into() } else { format!("{deviation:.0e}") };
            println!("{row} {said} |");
            if deviation.is_nan() || *deviation >= LIMIT {
                wrong.push(format!("{row} deviates by {deviation:e}"));
            }
            if !page.contains(&row) {
                wrong.push(format!("{row} is not in docs/agreement.md"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
