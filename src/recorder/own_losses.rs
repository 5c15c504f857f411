//! Whether the losses that `per_example` takes are those of its pass.
//!
//! A random model (dropout) gives each example another loss in each forward pass, so two losses of one example prove
//! nothing. A mistake, such as a sum in the place of a mean, changes all of them in one direction. So the first 16
//! examples are compared together, over several passes if need be. Let `r_i` be the loss from `per_example` divided by
//! that of the pass. They are refused if
//!
//! - all `r_i` are one factor, within 1 % (0.1 % as long as there are fewer than four), and it is off 1 by more than 5
//!   %;
//! - or their median, over at least eight, is above 2 or below ½. A model with BatchNorm is exempt: `per_example` runs
//!   it in evaluation mode.

/// Number of examples that are compared.
const COMPARED: usize = 16;
/// Examples from which the median counts.
const MANY: usize = 8;
/// Losses below this are mostly rounding.
const LOSS_MIN: f64 = 1e-4;

/// The ratios so far, of one kind of pass.
#[derive(Debug, Clone, Default)]
pub(super) struct OwnLosses(Vec<f64>);

impl OwnLosses {
    /// Compares the losses `own` of the examples `ids` with those of their pass. Says what is wrong, if the losses are
    /// others.
    pub(super) fn compare(
        &mut self,
        ids: &[u64],
        own: &[f32],
        of_pass: &[f32],
        has_batch_norm: bool,
    ) -> Option<String> {
        let before = self.0.len();
        let pairs = own.iter().zip(of_pass).map(|(own, of_pass)| (f64::from(*own), f64::from(*of_pass)));
        let is_usable =
            |(own, of_pass): &(f64, f64)| own.is_finite() && of_pass.is_finite() && of_pass.abs() > LOSS_MIN;
        let usable = ids.iter().zip(pairs).filter(|(_, pair)| is_usable(pair));
        let new: Vec<(u64, (f64, f64))> = usable.take(COMPARED - before).map(|(id, pair)| (*id, pair)).collect();
        let (id, (first, of_pass)) = *new.first()?;
        self.0.extend(new.iter().map(|(_, (own, of_pass))| own / of_pass));
        let why = self.find_fault(has_batch_norm)?;
        // The next pass is judged anew.
        self.0.truncate(before);
        Some(format!(
            "the losses of `per_example` are not those of its pass: example {id} has the loss {first} there, and {of_pass} in the \
             pass, and {why}. The gradients would be those of another loss. Compute the same loss for one example as the pass \
             does: cross entropy and squared error are means over an example's positions and outputs, without the pass's weights"
        ))
    }

    fn find_fault(&self, has_batch_norm: bool) -> Option<String> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let (count, median) = (sorted.len(), sorted[sorted.len() / 2]);
        let within = if count < 4 { 1e-3 } else { 1e-2 } * median.abs();
        if count > 1 && most - median <= within && median - least <= within && (median - 1.0).abs() > 0.05 {
            return Some(format!("all {count} that were compared differ by the factor {median:.4}"));
        }
        (count >= MANY && !has_batch_norm && !(0.5..=2.0).contains(&median))
            .then(|| format!("half of the {count} that were compared differ by more than the factor {median:.2}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of losses that are these multiples of those of the pass.
    fn judge(ratios: &[f32], has_batch_norm: bool) -> Option<String> {
        let ids: Vec<u64> = (0..ratios.len() as u64).collect();
        let of_pass: Vec<f32> = (1..=ratios.len()).map(|i| i as f32).collect();
        let own: Vec<f32> = ratios.iter().zip(&of_pass).map(|(ratio, loss)| ratio * loss).collect();
        OwnLosses::default().compare(&ids, &own, &of_pass, has_batch_norm)
    }

    #[test]
    fn a_common_factor_is_a_fault_and_noise_is_none() {
        assert!(judge(&[2.0, 2.0], false).is_some_and(|why| why.contains("the factor 2.0000")));
        assert_eq!(judge(&[2.0], false), None, "one example may be noise");
        assert_eq!(judge(&[2.0, 2.01], false), None, "two examples may agree by chance");
        assert!(judge(&[0.25, 0.251, 0.249, 0.25], true).is_some());
        assert_eq!(judge(&[1.04, 1.04, 1.04, 1.04], false), None, "half precision");
        let lengths = [2.5, 7.0, 3.0, 9.0, 4.0, 11.0, 2.2, 5.0];
        assert!(judge(&lengths, false).is_some());
        assert_eq!(judge(&lengths, true), None, "BatchNorm in evaluation mode");
        assert_eq!(judge(&lengths.map(|r| r / 5.0), false), None);
        assert_eq!(judge(&[f32::NAN; 8], false), None);
    }

    #[test]
    fn sixteen_examples_are_compared() {
        let mut losses = OwnLosses::default();
        assert_eq!(losses.compare(&[0; 20], &[1.0; 20], &[1.0; 20], false), None);
        assert_eq!(
            losses.compare(&[0; 20], &[3.0; 20], &[1.0; 20], false),
            None,
            "the model may have learned dropout by now"
        );
    }
}
