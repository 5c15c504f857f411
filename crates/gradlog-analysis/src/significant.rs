//! Numbers in words.

/// Digits of a number in a table.
const DIGITS: i32 = 5;

/// A number to five significant digits, without an exponent where that is short.
///
/// ```
/// use gradlog_analysis::significant;
///
/// assert_eq!(significant(1234567.0), "1.2346e6");
/// assert_eq!(significant(0.000123456), "0.00012346");
/// assert_eq!(significant(-2.0), "-2.0000");
/// ```
pub fn significant(value: f64) -> String {
    if !value.is_finite() {
        return format!("{value:?}");
    }
    if value == 0.0 {
        return "0".into();
    }
    // The exponent after rounding: 99999.9 has five digits before the point once it is 1.0000e5.
    let scientific = format!("{value:.*e}", DIGITS as usize - 1);
    let exponent = scientific.rsplit_once('e').and_then(|(_, exponent)| exponent.parse::<i32>().ok()).unwrap_or(0);
    if (-5..DIGITS).contains(&exponent) {
        format!("{value:.*}", (DIGITS - 1 - exponent).max(0) as usize)
    } else {
        scientific
    }
}

#[cfg(test)]
mod tests {
    use crate::significant;

    #[test]
    fn five_significant_digits() {
        for (value, expected) in [
            (0.0, "0"),
            (1.0, "1.0000"),
            (99999.9, "1.0000e5"),
            (99999.4, "99999"),
            (9.99999, "10.000"),
            (0.00001, "0.000010000"),
            (0.0000012345678, "1.2346e-6"),
            (-1.5e300, "-1.5000e300"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(significant(value), expected);
        }
    }
}
