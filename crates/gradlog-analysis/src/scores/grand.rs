//! GraNd: the mean norm of an example's gradient (Paul et al. 2021, arXiv 2107.07075, §2).
//!
//! `(1/T) Σ_t ‖g(w_t)‖₂` over all recorded layers, not squared and before clipping. The paper takes the mean over ten
//! or more initializations at one epoch, in test mode, over all parameters; a window picks the epoch, and the coverage
//! of the run says what share of the parameters is in it. On a window of sweeps it is taken at checkpoints, as there.
//!
//! **At initialization it says little.** Paul et al. report that GraNd before training already prunes well. Kirsch 2023
//! (arXiv 2303.14753) could not replicate that: at initialization the norm mostly follows the norm of the input and
//! prunes no better than chance, and the original code had a bug in restoring checkpoints. Scores of later epochs do
//! replicate: leave the first steps out with a window.

use crate::rows::rule::{RowRule, UnseenGradient};
use crate::scores::per_example::{Mean, PerExample};
use gradlog_format::log::Column;

#[derive(Default)]
pub(super) struct Grand {
    mean: Mean,
}

impl PerExample for Grand {
    const RULE: RowRule = RowRule { unseen: UnseenGradient::LeftOut, ..RowRule::outputs(&[Column::SquaredNorm]) };

    fn add(&mut self, values: &[f32]) {
        self.mean.add(Column::decode_squared_norm(values[0]).sqrt());
    }

    fn visits(&self) -> u64 {
        self.mean.count()
    }

    fn score(&self) -> f64 {
        self.mean.mean()
    }
}
