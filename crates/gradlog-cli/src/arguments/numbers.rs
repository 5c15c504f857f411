//! Numbers on the command line, each with the range in which it makes sense.

use gradlog_analysis::VectorQuestion;

/// A share between 0 and 1.
pub(crate) fn parse_share(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err(format!("`{text}` is not a share between 0 and 1")),
    }
}

/// A percentile between 0 and 100.
pub(crate) fn parse_percentile(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(percentile) if (0.0..=100.0).contains(&percentile) => Ok(percentile),
        _ => Err(format!("`{text}` is not a percentile between 0 and 100")),
    }
}

/// A number above 0.
pub(crate) fn parse_positive(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err(format!("`{text}` is not a number above 0")),
    }
}

/// A number of at least 0.
pub(crate) fn parse_not_negative(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
        _ => Err(format!("`{text}` is not a number of at least 0")),
    }
}

/// A cosine.
pub(crate) fn parse_cosine(text: &str) -> Result<f32, String> {
    match text.trim().parse::<f32>() {
        Ok(cosine) if (-1.0..=1.0).contains(&cosine) => Ok(cosine),
        _ => Err(format!("`{text}` is not a cosine between -1 and 1")),
    }
}

/// How many numbers a flat vector has.
pub(crate) fn parse_length(text: &str) -> Result<usize, String> {
    match text.trim().parse::<usize>() {
        Ok(length) if (1..=VectorQuestion::LENGTH_MAX).contains(&length) => Ok(length),
        _ => Err(format!("`{text}` is not a length: a vector has 1 to {} numbers", VectorQuestion::LENGTH_MAX)),
    }
}

/// How many there are, at least 1.
pub(crate) fn parse_count(text: &str) -> Result<usize, String> {
    match text.trim().parse::<usize>() {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(format!("`{text}` is not a number of examples")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_range_are_refused() {
        for (text, positive, not_negative, share) in [
            ("0.5", true, true, true),
            (" 1 ", true, true, true),
            ("0", false, true, true),
            ("-1", false, false, false),
            ("2", true, true, false),
            ("nan", false, false, false),
            ("inf", false, false, false),
            ("x", false, false, false),
            ("", false, false, false),
        ] {
            assert_eq!(parse_positive(text).is_ok(), positive, "{text}");
            assert_eq!(parse_not_negative(text).is_ok(), not_negative, "{text}");
            assert_eq!(parse_share(text).is_ok(), share, "{text}");
        }
        for (text, fits) in [("-1", true), ("1", true), ("1.01", false), ("nan", false)] {
            assert_eq!(parse_cosine(text).is_ok(), fits, "{text}");
        }
        for (text, fits) in [("1", true), ("65536", true), ("65537", false), ("0", false), ("-3", false)] {
            assert_eq!(parse_length(text).is_ok(), fits, "{text}");
        }
        assert!(parse_percentile("100").is_ok() && parse_percentile("101").is_err() && parse_count("0").is_err());
    }
}
