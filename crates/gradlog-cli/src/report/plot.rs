//! Pictures of plain characters, for a terminal of 80 columns.

use gradlog_analysis::significant;

/// Bins of a histogram.
const BINS: usize = 12;
/// Characters of the longest bar.
const BAR: usize = 44;
/// Lines and columns of a map.
const LINES: usize = 16;
const COLUMNS: usize = 64;
/// From few to many.
const SHADES: [char; 6] = ['.', ':', 'o', 'O', '#', '@'];

/// Characters of the longest bar beside a score.
const SCORE_BAR: usize = 20;

/// A bar as long as a number's share of the largest: `+` for a positive one, `-` for a negative one.
pub fn score_bar(value: f64, most: f64) -> String {
    if value.is_nan() || most <= 0.0 {
        return String::new();
    }
    let length = ((value.abs() / most).min(1.0) * SCORE_BAR as f64).round() as usize;
    (if value > 0.0 { "+" } else { "-" }).repeat(length)
}

/// A histogram in lines: where a bin begins, a bar, and how many are in it. Empty without two different numbers.
pub fn histogram(values: &[f64]) -> Vec<String> {
    let finite = || values.iter().copied().filter(|value| value.is_finite());
    let (least, most) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
    let width = (most - least) / BINS as f64;
    if !(width > 0.0 && width.is_finite()) {
        return Vec::new();
    }
    let mut counts = [0usize; BINS];
    for value in finite() {
        counts[(((value - least) / width) as usize).min(BINS - 1)] += 1;
    }
    let highest = counts.iter().copied().max().unwrap_or(1).max(1);
    let bar = |count: usize| "#".repeat((count * BAR).div_ceil(highest));
    let line = |(bin, count): (usize, &usize)| {
        format!("{:>12} |{:<BAR$} {count}", significant(least + bin as f64 * width), bar(*count))
    };
    counts.iter().enumerate().map(line).collect()
}

/// Points of 0 to `x_max` and 0 to 1, as a map of how many lie where, the largest `y` on top.
pub fn scatter(points: impl Iterator<Item = (f64, f64)>, x_max: f64, (x_name, y_name): (&str, &str)) -> Vec<String> {
    let mut counts = vec![[0usize; COLUMNS]; LINES];
    let place = |share: f64, count: usize| ((share * count as f64) as usize).min(count - 1);
    for (x, y) in points.filter(|(x, y)| x.is_finite() && y.is_finite()) {
        counts[LINES - 1 - place(y.clamp(0.0, 1.0), LINES)][place((x / x_max).clamp(0.0, 1.0), COLUMNS)] += 1;
    }
    let highest = counts.iter().flatten().copied().max().unwrap_or(0).max(2) as f64;
    let shade = |count: usize| match count {
        0 => ' ',
        count => SHADES[place((count as f64).ln() / highest.ln(), SHADES.len())],
    };
    let mut lines = vec![y_name.to_owned()];
    for (line, counts) in counts.iter().enumerate() {
        let tick = match line {
            0 => "1",
            line if line == LINES / 2 => "0.5",
            line if line == LINES - 1 => "0",
            _ => "",
        };
        let cells: String = counts.iter().map(|count| shade(*count)).collect();
        lines.push(format!("{tick:>4} |{}", cells.trim_end()));
    }
    lines.push(format!("     +{}", "-".repeat(COLUMNS)));
    lines.push(format!("      0{:>width$}   {x_name}", x_max, width = COLUMNS - 1));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_counts() {
        let values: Vec<f64> = (0..12).flat_map(|bin| vec![f64::from(bin) + 0.5; 12 - bin as usize]).collect();
        let lines = histogram(&values);
        assert_eq!(lines.len(), BINS);
        let length = |line: &str| line.matches('#').count();
        assert_eq!((length(&lines[0]), length(&lines[6])), (BAR, BAR / 2));
        assert!(lines[0].ends_with(" 12") && lines[11].ends_with(" 1"), "{lines:?}");
        assert!(histogram(&[1.0, 1.0]).is_empty() && histogram(&[f64::NAN]).is_empty());
        assert!(lines.iter().all(|line| line.len() <= 80));
    }

    #[test]
    fn a_score_has_the_sign_in_its_bar() {
        assert_eq!(score_bar(2.0, 2.0), "+".repeat(SCORE_BAR));
        assert_eq!(score_bar(-1.0, 2.0), "-".repeat(SCORE_BAR / 2));
        assert_eq!((score_bar(f64::NAN, 2.0), score_bar(0.0, 0.0)), (String::new(), String::new()));
    }

    #[test]
    fn a_point_is_where_it_belongs() {
        let lines = scatter([(0.0, 1.0), (0.5, 0.0), (f64::NAN, 0.5)].into_iter(), 0.5, ("x", "y"));
        assert_eq!(lines[1], "   1 |.");
        assert_eq!(lines[LINES], format!("   0 |{}.", " ".repeat(COLUMNS - 1)));
        assert_eq!(lines.iter().map(|line| line.matches('.').count()).sum::<usize>(), 4); // two are in the ticks 0.5
        assert!(lines.iter().all(|line| line.len() <= 80), "{lines:?}");
    }
}
