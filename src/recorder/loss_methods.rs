//! The methods that training passes and probe passes share: the settings of a loss, and the losses.

macro_rules! loss_methods {
    ($pass:ident) => {
        impl $pass<'_> {
            /// Sets how the examples' losses become one. Set it before the loss. Default [`Reduction::Mean`].
            pub fn reduction(&mut self, reduction: Reduction) -> &mut Self {
                self.core.check_setting("reduction");
                self.core.weighing.reduction = reduction;
                self
            }

            /// Sets a weight for each example's loss: `L = (1/N) Σ w_i ℓ_i` under a mean. Set it before the loss. The
            /// mean divides by the number of predictions `N`, not by the sum of the weights. Default 1 each. The loss
            /// reports a wrong number of weights.
            pub fn weights(&mut self, weights: &[f32]) -> &mut Self {
                self.core.check_setting("weights");
                self.core.weighing.weights = Some(weights.to_vec());
                self
            }

            /// Sets the target that marks a position without a prediction, for [`Self::cross_entropy`]. Set it before
            /// the loss. Default none.
            pub fn ignore_index(&mut self, target: i64) -> &mut Self {
                self.core.check_setting("ignore_index");
                self.core.ignored = Some(target);
                self
            }

            /// Sets which positions count, for [`Self::cross_entropy`]: a tensor of the targets' shape, 0 at positions
            /// that do not count. Set it before the loss. Default all.
            pub fn mask(&mut self, mask: &Tensor) -> &mut Self {
                self.core.check_setting("mask");
                self.core.mask = Some(mask.clone());
                self
            }

            /// Sets the features that enter the last layer, `[batch, width]` or `[batch, positions, width]`. For a
            /// model whose last layer was declared with [`crate::Taps::declare_last_layer`]. Set it before the loss.
            pub fn features(&mut self, features: &Tensor) -> &mut Self {
                self.core.features = Some(features.detach());
                self
            }

            /// Computes candle_nn's cross entropy, `L = mean_i −log softmax(z_i)_{y_i}`, and each example's outputs.
            ///
            /// Takes f32 or f64 logits `[batch, classes]` with integer targets `[batch]`, or logits `[batch, positions,
            /// classes]` with targets `[batch, positions]`. Other dtypes and devices are computed in f32. With
            /// positions, an example's loss is the mean over its counted positions. `L` is the mean over all counted
            /// positions of the batch. Records loss, EL2N, margin, confidence and correctness; for one position also
            /// label and prediction.
            ///
            /// Differentiate the returned scalar, perhaps times a constant. The recorded gradient is that of what is
            /// differentiated. A term that is added afterwards (a penalty, an auxiliary loss) is then in the gradients
            /// but not in the loss column. Make such a term part of each example's loss and use [`Self::losses`].
            ///
            /// # Errors
            /// [`RecordError::Candle`] for shapes that do not fit and for labels that are no class;
            /// [`RecordError::Pass`] for a second loss, and for outputs or weights whose number is not that of the ids.
            pub fn cross_entropy(&mut self, logits: &Tensor, targets: &Tensor) -> Result<Tensor, RecordError> {
                self.core.cross_entropy(logits, targets)
            }

            /// Computes candle_nn's mean squared error, `L = mean_i mean_d (o_id − t_id)²`. Outputs and targets have
            /// one shape, `[batch, ...]`. Records the loss and the error norm `‖o − t‖₂` (in the EL2N column); for one
            /// output also target and output.
            ///
            /// # Errors
            /// As [`Self::cross_entropy`].
            pub fn mse(&mut self, outputs: &Tensor, targets: &Tensor) -> Result<Tensor, RecordError> {
                self.core.mse(outputs, targets)
            }

            /// Computes the binary cross entropy of logits, `L = mean_i mean_d softplus(z_id) − t_id z_id`. Targets lie
            /// in 0..=1 and have the logits' shape, `[batch, ...]`. It stays finite for large logits; candle_nn's does
            /// not, because it takes the logarithm of a rounded sigmoid. Records loss, EL2N `‖σ(z) − t‖₂`, margin `±z`,
            /// confidence and correctness; for one output also label and prediction.
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

            /// Takes the caller's own losses, `[batch]`, one for each example, and returns their mean or sum. Records
            /// the loss.
            ///
            /// # Errors
            /// [`RecordError::Candle`] for another shape; [`RecordError::Pass`] for a second loss, and for losses or
            /// weights whose number is not that of the ids.
            pub fn losses(&mut self, losses: &Tensor) -> Result<Tensor, RecordError> {
                self.core.losses(losses)
            }

            /// Takes each example's gradient from its own backward pass. For a model that cannot be tapped but whose
            /// variables were declared with [`crate::Taps::declare_variables`]. `loss(i)` builds the loss of example
            /// `i` alone. Returns the losses, `[batch]`, detached.
            ///
            /// # Errors
            /// [`RecordError::Candle`] if `loss` or its backward fails; [`RecordError::Pass`] if no variables were
            /// declared, or if the recorder is disabled.
            ///
            /// # Cost
            /// One forward and one backward pass for each example.
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
