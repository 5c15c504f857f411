//! The methods that training passes and probe passes share, written once: the settings of a loss, and the losses.

macro_rules! loss_methods {
    ($pass:ident) => {
        impl $pass<'_> {
            /// How the examples' losses become one; to be set before the loss. Default [`Reduction::Mean`].
            pub fn reduction(&mut self, reduction: Reduction) -> &mut Self {
                self.core.check_setting("reduction");
                self.core.weighing.reduction = reduction;
                self
            }

            /// A weight for each example's loss, `L = (1/N) Σ w_i ℓ_i` under a mean; to be set before the loss.
            /// The mean still divides by the number of predictions, not by the sum of the weights.
            pub fn weights(&mut self, weights: &[f32]) -> &mut Self {
                self.core.check_setting("weights");
                self.core.weighing.weights = Some(weights.to_vec());
                self
            }

            /// The target that marks a position at which nothing is to be predicted, for [`Self::cross_entropy`]; to be set before the loss.
            pub fn ignore_index(&mut self, target: i64) -> &mut Self {
                self.core.check_setting("ignore_index");
                self.core.ignored = Some(target);
                self
            }

            /// Which positions count, of the targets' shape, 0 for those that do not, for [`Self::cross_entropy`]; to be set before the loss.
            pub fn mask(&mut self, mask: &Tensor) -> &mut Self {
                self.core.check_setting("mask");
                self.core.mask = Some(mask.clone());
                self
            }

            /// The features that enter the last layer, `[batch, width]` or `[batch, positions, width]`, for a model whose last layer was
            /// declared by [`crate::Taps::last_layer`].
            pub fn features(&mut self, features: &Tensor) -> &mut Self {
                self.core.features = Some(features.detach());
                self
            }

            /// candle_nn's cross entropy, `L = mean_i −log softmax(z_i)_{y_i}`, and what it says of each example.
            ///
            /// Logits `[batch, classes]` with integer targets `[batch]`; or `[batch, positions, classes]` with `[batch, positions]`, where
            /// an example's loss is the mean over its counted positions and `L` the mean over all counted positions of the batch.
            /// Records loss, EL2N, margin, confidence, correctness, and for one position label and prediction.
            ///
            /// This is the loss that is to be differentiated, perhaps multiplied by a constant. What is recorded is the gradient of what is
            /// differentiated: a term added to the loss afterwards (a penalty, an auxiliary loss) would be in the gradients and not in the
            /// loss column. Make such a term part of each example's loss and use [`Self::losses`].
            ///
            /// # Errors
            /// [`RecordError::Candle`] for shapes that do not fit and labels that are no class.
            pub fn cross_entropy(&mut self, logits: &Tensor, targets: &Tensor) -> Result<Tensor, RecordError> {
                self.core.cross_entropy(logits, targets)
            }

            /// candle_nn's mean squared error, `L = mean_i mean_d (o_id − t_id)²`, for outputs and targets of one shape `[batch, ...]`.
            /// Records loss, error norm `‖o − t‖₂` (in the EL2N column), and for one output target and output.
            ///
            /// # Errors
            /// As [`Self::cross_entropy`].
            pub fn mse(&mut self, outputs: &Tensor, targets: &Tensor) -> Result<Tensor, RecordError> {
                self.core.mse(outputs, targets)
            }

            /// Binary cross entropy of logits, `L = mean_i mean_d softplus(z_id) − t_id z_id`, targets in 0..=1 of the logits' shape
            /// `[batch, ...]`. Unlike candle_nn's, which takes the logarithm of a rounded sigmoid, it stays finite for large logits.
            /// Records loss, EL2N `‖σ(z) − t‖₂`, margin `±z`, confidence, correctness, and for one output label and prediction.
            ///
            /// # Errors
            /// As [`Self::cross_entropy`].
            pub fn binary_cross_entropy_with_logits(
                &mut self,
                logits: &Tensor,
                targets: &Tensor,
            ) -> Result<Tensor, RecordError> {
                self.core.binary_cross_entropy_with_logits(logits, targets)
            }

            /// A loss of the caller's own: `losses` is `[batch]`, one for each example; the result is their mean or sum.
            ///
            /// # Errors
            /// [`RecordError::Candle`] for another shape.
            pub fn losses(&mut self, losses: &Tensor) -> Result<Tensor, RecordError> {
                self.core.losses(losses)
            }

            /// Each example's gradient by a backward pass of its own, for a model that cannot be tapped but whose variables were declared
            /// by [`crate::Taps::variables`]. `loss(i)` builds the loss of example `i` alone. Returns the losses, `[batch]`, detached.
            ///
            /// # Errors
            /// [`RecordError::Candle`] if `loss` or its backward fails; [`RecordError::Pass`] if no variables were declared.
            ///
            /// # Cost
            /// As many backward passes as there are examples.
            pub fn per_example(
                &mut self,
                loss: impl FnMut(usize) -> candle_core::Result<Tensor>,
            ) -> Result<Tensor, RecordError> {
                self.core.per_example(loss)
            }
        }
    };
}

pub(super) use loss_methods;
