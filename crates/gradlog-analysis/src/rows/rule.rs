//! Which rows count: the one rule, and the points in which scores differ on purpose.
//!
//! A row is a visit of the training, a row of a sweep, or a record of a probe. It counts if all numbers that the score
//! is made of are finite, if its gradient was seen where the score needs it, and if it has as many predictions as the
//! score is defined for. Everything else is a reason to leave it out, and [`LeftOut`](crate::LeftOut) counts the
//! reasons.

use gradlog_format::log::Column;

/// Whether a row counts, and if it does not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It counts.
    Counts,
    /// One of its numbers is NaN or infinite.
    NotFinite,
    /// The loss gave it no weight, so its gradient was not seen; or it ignored all its targets, so nothing was
    /// predicted.
    Unseen,
    /// It has several predictions, and the log keeps one of them.
    SeveralPredictions,
}

/// What a score makes of a row to which the loss gave no weight. The log holds zeros for its gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnseenGradient {
    /// The score uses no gradient, so the row counts.
    NotUsed,
    /// The score multiplies each visit by its coefficient, which is 0 here. The visit moved no weight and rightly adds
    /// zero. TracIn and self-influence are such scores. A sweep takes no step, so no score multiplies its rows by
    /// a coefficient: on sweeps the row is left out.
    ZeroByCoefficient,
    /// The gradient counts by itself, and the zeros are not it: the row is left out. GraNd, flat vectors and probes
    /// are such.
    LeftOut,
}

/// What a score makes of rows that have no prediction or several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Predictions {
    /// The score's numbers are not those of predictions. The counts of predictions are not read.
    NotUsed,
    /// The score takes the mean over however many predictions a row has. A row without any has no number: it is
    /// unseen, and not counted as not finite.
    AnyNumber,
    /// The score is not defined for several and refuses the run. Forgetting is such: a presentation is right or wrong.
    OneOrRefused,
    /// The score counts predicted classes, and the log keeps one class of several. The row is left out.
    OneOrLeftOut,
}

/// What a score makes of a block that lacks one of its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AbsentNumber {
    /// The rows of the block are left out as missing.
    LeftOut,
    /// The rows count without it. A summary counts what is there.
    Ignored,
}

/// What a row needs to count for a score.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowRule {
    /// The numbers that the score is made of, all f32. A block without [`Column::Clip`] has the clip factor 1, as the
    /// format says. On sweeps the clip factor and the coefficient are 1: an example counts in full there, whatever
    /// the batch of the replay was (Pruthi et al. 2020, TracInCP).
    pub numbers: &'static [Column],
    pub absent: AbsentNumber,
    pub unseen: UnseenGradient,
    pub predictions: Predictions,
}

impl RowRule {
    /// The rule of a score that is made of these numbers and of no gradient.
    pub(crate) const fn outputs(numbers: &'static [Column]) -> Self {
        Self {
            numbers,
            absent: AbsentNumber::LeftOut,
            unseen: UnseenGradient::NotUsed,
            predictions: Predictions::AnyNumber,
        }
    }

    /// The rule of what multiplies a gradient by these numbers.
    pub(crate) const fn gradients(numbers: &'static [Column], unseen: UnseenGradient) -> Self {
        Self { numbers, absent: AbsentNumber::LeftOut, unseen, predictions: Predictions::NotUsed }
    }

    /// Whether a row without weight is left out.
    pub(crate) fn leaves_out_unseen(&self, on_sweeps: bool) -> bool {
        match self.unseen {
            UnseenGradient::NotUsed => false,
            UnseenGradient::ZeroByCoefficient => on_sweeps,
            UnseenGradient::LeftOut => true,
        }
    }
}

/// Judges a row by its flags, by whether it has a prediction, and by whether its numbers are finite.
#[inline(always)]
pub(crate) fn verdict(flags: u8, has_prediction: bool, finite: bool, leaves_out_unseen: bool) -> Verdict {
    if flags & Column::FLAG_NOT_FINITE != 0 || has_prediction && !finite {
        Verdict::NotFinite
    } else if !finite || leaves_out_unseen && flags & Column::FLAG_NO_WEIGHT != 0 {
        Verdict::Unseen
    } else {
        Verdict::Counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_against_every_rule() {
        let (none, bad, light) = (0, Column::FLAG_NOT_FINITE, Column::FLAG_NO_WEIGHT);
        for (flags, predicted, finite, unseen, expected) in [
            (none, true, true, true, Verdict::Counts),
            (bad, true, true, false, Verdict::NotFinite),
            (bad | light, false, false, true, Verdict::NotFinite),
            (none, true, false, false, Verdict::NotFinite),
            (none, false, false, false, Verdict::Unseen),
            (light, true, true, true, Verdict::Unseen),
            (light, true, true, false, Verdict::Counts),
        ] {
            assert_eq!(verdict(flags, predicted, finite, unseen), expected, "{flags} {predicted} {finite} {unseen}");
        }
        let rule = |unseen| RowRule::gradients(&[], unseen);
        assert!(!rule(UnseenGradient::ZeroByCoefficient).leaves_out_unseen(false));
        assert!(rule(UnseenGradient::ZeroByCoefficient).leaves_out_unseen(true));
        assert!(rule(UnseenGradient::LeftOut).leaves_out_unseen(false));
        assert!(!RowRule::outputs(&[]).leaves_out_unseen(true));
    }
}
