//! EL2N: the mean norm of the error of the predicted probabilities (Paul et al. 2021, arXiv 2107.07075, §2).
//!
//! `(1/T) Σ_t ‖p(w_t) − onehot(y)‖₂`, at most √2. The paper takes one early epoch (10 to 20), in test mode, and the
//! mean over initializations; here it is the mean over the visits inside the window, in training mode, or over the
//! sweeps inside it ([`Window::sweep_at`](crate::Window::sweep_at)): at one checkpoint, in evaluation mode, one term of
//! the paper's mean.

use crate::scores::per_example::{gathers_one_number, Mean, PerExample};
use gradlog_format::log::Column;

#[derive(Default)]
pub(super) struct El2n {
    mean: Mean,
}

impl PerExample for El2n {
    gathers_one_number!(mean, Column::El2n);

    fn score(&self) -> f64 {
        self.mean.mean()
    }
}
