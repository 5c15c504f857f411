//! The methods that training passes and probe passes share: the settings of a loss, and the losses.

macro_rules! loss_methods {
    ($pass:ident, $begin:literal, $end:literal) => {
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

            /// Sets the target that marks a position without a prediction, for [`Self::cross_entropy`] and
            /// [`Self::logits`] with class numbers. Set it before them. Default none.
            pub fn ignore_index(&mut self, target: i64) -> &mut Self {
                self.core.check_position_setting("ignore_index");
                self.core.ignored = Some(target);
                self
            }

            /// Sets which positions count, for [`Self::cross_entropy`] and [`Self::logits`]: a tensor with a number for
            /// each prediction, `[batch]` or `[batch, positions]`, 0 at those that do not count and 1 at the others.
            /// Set it before them. The loss reports other numbers. Default all.
            pub fn mask(&mut self, mask: &Tensor) -> &mut Self {
                self.core.check_position_setting("mask");
                self.core.mask = Some(mask.clone());
                self
            }

            /// Sets the features that enter the last layer, `[batch, width]` or `[batch, positions, width]`. For a
            /// model whose last layer was declared with [`crate::Taps::declare_last_layer`]; `commit` reports features
            /// without one. Set it before the loss.
            ///
            /// The logits of the loss must be this layer's output. If the model is declared
            /// ([`crate::Taps::declare_model`]) and has the layer's variables by name and shape, they are compared with
            /// `features · Wᵀ + b`, on 64 rows of the first pass and of the 16th, 32nd, 64th, ... `commit` reports
            /// another output. A constant that is added to a class changes no gradient, and is not reported.
            pub fn features(&mut self, features: &Tensor) -> &mut Self {
                self.core.features = Some(features.detach());
                self
            }

            /// Computes candle_nn's cross entropy, `L = mean_i −log softmax(z_i)_{y_i}`, and each example's outputs.
            ///
            /// Takes f32 or f64 logits `[batch, classes]` with integer targets `[batch]`, or logits `[batch, positions,
            /// classes]` with targets `[batch, positions]`. Other dtypes are computed in f32. With positions, an
            /// example's loss is the mean over its counted positions. `L` is the mean over all counted positions of
            /// the batch. Records loss, EL2N, margin, confidence and correctness; for one position also label and
            /// prediction. [`Self::logits`] has their formulas.
            ///
            /// Targets may also be soft: probabilities of the classes, floats of the logits' shape, as label smoothing,
            /// mixup and distillation have them. Then `ℓ_i = −Σ_k t_ik log softmax(z_i)_k`. For other losses of logits
            /// use [`Self::losses`] with [`Self::logits`].
            ///
            /// Logits on another device than the CPU stay there, and so does the loss with its gradient: it is made of
            /// candle's ops ([`Sketching`](crate::Sketching)). For each position about 30 bytes leave the device. The
            /// background thread reads them, so the training does not wait. Then it is that thread that finds a wrong
            /// target: the loss is NaN, and a later call returns the error. The training waits for the numbers, and
            /// errors come at once, under [`OnNonFinite::Skip`](crate::OnNonFinite::Skip) and `Stop` and under a
            /// [`Guard`](crate::Guard) that leaves out steps. Losses and columns differ from those of the CPU by the
            /// rounding of f32: by 1e-6 of the number, and 4e-7 more for each unit of the largest logit. Of equal
            /// largest logits the CPU predicts the first; elsewhere that holds only for two.
            ///
            /// Differentiate the returned scalar, perhaps times a constant. The recorded gradient is that of what is
            /// differentiated. A term that is added afterwards (a penalty, an auxiliary loss) is then in the gradients
            /// but not in the loss column. Make such a term part of each example's loss and use [`Self::losses`].
            ///
            /// # Errors
            /// [`RecordError::Candle`] for shapes that do not fit, for labels that are no class, and for soft targets
            /// that are no probabilities; [`RecordError::Pass`] for a second loss, and for outputs or weights whose
            /// number is not that of the ids. For logits on another device, [`RecordError::Candle`] for labels and soft
            /// targets may come from a later call. With a disabled recorder the loss is then NaN, and nothing says why.
            pub fn cross_entropy(&mut self, logits: &Tensor, targets: &Tensor) -> Result<Tensor, RecordError> {
                self.core.cross_entropy(logits, targets)
            }

            /// Computes candle_nn's mean squared error, `L = mean_i mean_d (o_id − t_id)²`. Outputs and targets have
            /// one shape, `[batch, ...]`. Records the loss and the error norm `‖o − t‖₂` (in the EL2N column); for one
            /// output also target and output. Targets are constants: those with a gradient are refused.
            ///
            /// # Errors
            /// As [`Self::cross_entropy`].
            pub fn mse(&mut self, outputs: &Tensor, targets: &Tensor) -> Result<Tensor, RecordError> {
                self.core.mse(outputs, targets)
            }

            /// Computes the binary cross entropy of logits, `L = mean_i mean_d softplus(z_id) − t_id z_id`. Targets lie
            /// in 0..=1 and have the logits' shape, `[batch, ...]`. It stays finite for large logits; candle_nn's does
            /// not, because it takes the logarithm of a rounded sigmoid. Records loss, EL2N `‖σ(z) − t‖₂`, margin `±z`,
            /// confidence and correctness; for one output also label and prediction. The label is 1 for `t ≥ ½`, else
            /// 0.
            ///
            /// # Errors
            /// As [`Self::cross_entropy`]; [`RecordError::Candle`] also for targets outside 0..=1.
            pub fn binary_cross_entropy_with_logits(
                &mut self,
                logits: &Tensor,
                targets: &Tensor,
            ) -> Result<Tensor, RecordError> {
                self.core.binary_cross_entropy_with_logits(logits, targets)
            }

            /// Takes the caller's own losses, `[batch]`, one for each example, and returns their mean or sum. Records
            /// the loss. Give the logits to [`Self::logits`] as well, and the run has EL2N, margin, confidence,
            /// correctness, label and prediction too.
            ///
            /// Losses on another device than the CPU are read as in [`Self::cross_entropy`].
            ///
            /// The recorded gradient is that of the scalar that is differentiated, so it is right for any loss whose
            /// entry `i` depends on example `i` alone: label smoothing, distillation, focal loss, regression of any
            /// kind. Where entry `i` depends on other examples (contrastive losses, means over the batch), an example
            /// has no gradient of its own. The recorded one is then the share of the batch's gradient that flows
            /// through row `i` of the layer.
            ///
            /// The loss of an example should depend on no other example. Contrastive losses (InfoNCE, triplets) do.
            /// Then no example has a gradient of its own, and a row holds its share of the batch gradient: `(1/c_i)
            /// ∂L/∂W` through the activations of example `i` alone, where `L = Σ c_j ℓ_j`. The shares, times their
            /// `c_i`, add up to the batch gradient, and depend on the other examples.
            /// [`Recorder::check_gradients`](crate::Recorder::check_gradients) finds it, and `gradlog info` then says
            /// so.
            ///
            /// # Errors
            /// [`RecordError::Candle`] for another shape, and for losses that are no floats; [`RecordError::Pass`] for
            /// a second loss, and for losses or weights whose number is not that of the ids. `commit` reports losses
            /// that depend on no variable.
            pub fn losses(&mut self, losses: &Tensor) -> Result<Tensor, RecordError> {
                self.core.losses(losses)
            }

            /// Records what the logits `z` say of each example, beside a loss that does not know them: one from
            /// [`Self::losses`], [`Self::per_example`] or [`Self::mse`]. Call it before or after the loss. It changes
            /// neither the loss nor the gradients, which are those of the loss that is differentiated.
            ///
            /// Targets are class numbers (integers), `[batch]`, or probabilities of the classes (floats), `[batch,
            /// classes]`. For logits `[batch, positions, classes]` they are `[batch, positions]` or `[batch, positions,
            /// classes]`; an example then has the means over its counted positions, and no label. [`Self::mask`] and,
            /// for class numbers, [`Self::ignore_index`] say which positions count.
            ///
            /// Let `t` be the soft target, or one at the class, and `y` the class with the largest share of `t`, of
            /// equal ones the first. With `p = softmax(z)`:
            ///
            /// | column | value |
            /// |---|---|
            /// | label, prediction | `y`, `argmax z` |
            /// | EL2N | `‖p − t‖₂` |
            /// | margin | `z_y − max_{k≠y} z_k` |
            /// | confidence | `p_y` |
            /// | correctness | 1 if `argmax z = y`, else 0 |
            ///
            /// So AUM, forgetting and confidence judge the label. Under label smoothing or distillation give the class
            /// numbers here if that is the label to judge, and the soft targets only to the loss. Under mixup an
            /// example is the mixture, and its label the class with the larger share.
            ///
            /// ```
            /// # use candle_core::{DType, Device, Tensor, D};
            /// # use gradlog::{Config, Recorder, Taps};
            /// # let dir = std::env::temp_dir().join(format!("gradlog-doc-logits-{}", std::process::id()));
            /// # let mut recorder = Recorder::create(&dir, &Taps::new(), Config::default())?;
            /// # let logits = Tensor::zeros((2, 3), DType::F32, &Device::Cpu)?;
            /// # let labels = Tensor::new(&[0u32, 2], &Device::Cpu)?;
            /// // Label smoothing: a tenth of each target is spread over all classes.
            /// let log_p = candle_nn::ops::log_softmax(&logits, D::Minus1)?;
            /// let own = log_p.gather(&labels.unsqueeze(1)?, 1)?.squeeze(1)?;
            /// let losses = ((own * -0.9)? - (log_p.mean(D::Minus1)? * 0.1)?)?;
            #[doc = $begin]
            /// pass.logits(&logits, &labels)?;
            /// let loss = pass.losses(&losses)?;
            #[doc = $end]
            /// # std::fs::remove_dir_all(&dir)?;
            /// # Ok::<(), Box<dyn std::error::Error>>(())
            /// ```
            ///
            /// # Errors
            /// [`RecordError::Candle`] for shapes that do not fit, for labels that are no class, and for soft targets
            /// that are no probabilities; [`RecordError::Pass`] for a second call, for logits whose number is not that
            /// of the ids, and beside a loss that has its own logits ([`Self::cross_entropy`],
            /// [`Self::binary_cross_entropy_with_logits`]).
            pub fn logits(&mut self, logits: &Tensor, targets: &Tensor) -> Result<&mut Self, RecordError> {
                self.core.logits(logits, targets)?;
                Ok(self)
            }

            /// Takes each example's gradient from its own backward pass. For a model that cannot be tapped but whose
            /// variables were declared with [`crate::Taps::declare_variables`]. `loss(i)` builds the loss of example
            /// `i` alone. Returns the losses, `[batch]`, detached.
            ///
            /// If the pass has a loss, `loss(i)` must be its part `ℓ_i`, without the pass's weights. The first 16
            /// examples are compared. Their losses are refused if all differ by one factor, more than 5 % from 1. They
            /// are also refused if the median of the factors of at least eight is above 2 or below ½, in a model
            /// without BatchNorm. Dropout does neither.
            ///
            /// # Errors
            /// [`RecordError::Candle`] if `loss` or its backward fails; [`RecordError::Pass`] if no variables were
            /// declared, if the losses are not those of the pass, or if the recorder is disabled.
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
