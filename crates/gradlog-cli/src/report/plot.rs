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
const SCORE_BAR: usize = 16;

/// A bar as long as a number's share of the largest: `+` for a positive one, `-` for a negative one.
pub fn score_bar(value: f64, most: f64) -> String {
    if value.is_nan() || most <= 0.0 {
        return String::new();
    }
    let length = ((value.abs() / most).min(1.0) * SCORE_BAR as f64).round() as usize;
    (if value > 0.0 { "+" } else { "-" }).repeat(length)
}

/// Where the bins of a histogram of numbers from `least` to `most` begin, and how wide they are. Bins of whole numbers
/// begin at whole numbers.
fn bins(values: &[f64], least: f64, most: f64) -> (usize, f64) {
    let are_whole = values.iter().all(|value| !value.is_finite() || value.fract() == 0.0);
    let span = most - least;
    if !are_whole {
        return (BINS, span / BINS as f64);
    }
    let width = ((span + 1.0) / BINS as f64).ceil();
    ((span / width) as usize + 1, width)
}

/// A histogram in lines: where a bin begins, a bar, and how many are in it. Infinities have bins of their own. Empty
/// without two different numbers.
pub fn histogram(values: &[f64]) -> Vec<String> {
    let finite = || values.iter().copied().filter(|value| value.is_finite());
    let (least, most) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
    let infinite = |sign: f64| values.iter().filter(|value| **value == sign * f64::INFINITY).count();
    let ends = [infinite(-1.0), infinite(1.0)];
    let mut counted: Vec<(f64, usize)> = Vec::new();
    if least < most {
        let (count, width) = bins(values, least, most);
        if !width.is_finite() || width <= 0.0 {
            return Vec::new();
        }
        counted.extend((0..count).map(|bin| (least + bin as f64 * width, 0)));
        for value in finite() {
            counted[(((value - least) / width) as usize).min(count - 1)].1 += 1;
        }
    } else if least == most {
        counted.push((least, finite().count()));
    }
    let lowest = (ends[0] > 0).then_some((f64::NEG_INFINITY, ends[0]));
    let highest = (ends[1] > 0).then_some((f64::INFINITY, ends[1]));
    let counted: Vec<(f64, usize)> = lowest.into_iter().chain(counted).chain(highest).collect();
    if counted.len() < 2 {
        return Vec::new();
    }
    let most = counted.iter().map(|(_, count)| *count).max().unwrap_or(1).max(1);
    let bar = |count: usize| "#".repeat((count * BAR).div_ceil(most));
    let line = |(from, count): &(f64, usize)| format!("{:>12} |{:<BAR$} {count}", significant(*from), bar(*count));
    counted.iter().map(line).collect()
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

    /// Forgetting counts events, and is infinite for examples that were never learned.
    #[test]
    fn whole_numbers_have_whole_bins_and_infinities_their_own() {
        let froms = |values: &[f64]| -> Vec<String> {
            let words = |line: &String| line.split_whitespace().next().unwrap_or_default().to_owned();
            histogram(values).iter().map(words).collect()
        };
        assert_eq!(froms(&[0.0, 0.0, 1.0, 3.0, f64::INFINITY]), ["0", "1.0000", "2.0000", "3.0000", "inf"]);
        assert_eq!(froms(&[5.0, 28.0, f64::NEG_INFINITY]).len(), 13);
        assert_eq!(froms(&[5.0, 29.0])[..2], ["5.0000", "8.0000"]);
        assert_eq!(froms(&[1.0, f64::INFINITY, f64::INFINITY]), ["1.0000", "inf"]);
        assert!(histogram(&[1.0, f64::INFINITY, f64::INFINITY])[1].ends_with(" 2"));
        assert!(froms(&[f64::INFINITY]).is_empty() && froms(&[f64::MIN, f64::MAX]).is_empty());
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
