//! Convolutions, as in `candle_nn::conv`.

use super::batch_norm::BatchNorm;
use super::built::built_layer;
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
pub use candle_nn::{Conv1dConfig, Conv2dConfig, ConvTranspose1dConfig, ConvTranspose2dConfig};

built_layer! {
    /// A convolution over `[batch, channels, length]`. `candle_nn::Conv1d`, recorded.
    Conv1d(candle_nn::Conv1d)
}

built_layer! {
    /// A convolution over `[batch, channels, height, width]`. `candle_nn::Conv2d`, recorded.
    Conv2d(candle_nn::Conv2d)
}

built_layer! {
    /// A transposed convolution over `[batch, channels, length]`. `candle_nn::ConvTranspose1d`, recorded and with a
    /// backward.
    ConvTranspose1d(candle_nn::ConvTranspose1d)
}

built_layer! {
    /// A transposed convolution over `[batch, channels, height, width]`. `candle_nn::ConvTranspose2d`, recorded.
    ConvTranspose2d(candle_nn::ConvTranspose2d)
}

/// Constructor from tensors, and access to settings.
macro_rules! convolution {
    ($name:ident, $config:ty) => {
        impl $name {
            /// Makes a layer of a kernel, perhaps a bias, and settings.
            pub fn new(weight: Tensor, bias: Option<Tensor>, config: $config) -> Self {
                candle_nn::$name::new(weight, bias, config).into()
            }

            /// Stride, padding and the like.
            pub fn config(&self) -> &$config {
                self.inner().config()
            }

            /// The kernel, with the output channels first; a transposed one with the input channels first.
            pub fn weight(&self) -> &Tensor {
                self.inner().weight()
            }

            /// The bias, one number for each output channel.
            pub fn bias(&self) -> Option<&Tensor> {
                self.inner().bias()
            }
        }
    };
}

convolution!(Conv1d, Conv1dConfig);
convolution!(Conv2d, Conv2dConfig);
convolution!(ConvTranspose1d, ConvTranspose1dConfig);
convolution!(ConvTranspose2d, ConvTranspose2dConfig);

impl Conv2d {
    /// The convolution followed by `bn` in evaluation mode, as one convolution. Its kernel is computed and not trained.
    ///
    /// # Errors
    /// candle's error, for example if `bn` has no weight and bias.
    pub fn absorb_bn(&self, bn: &BatchNorm) -> Result<Self> {
        let absorbed = self.inner().absorb_bn(bn.inner())?;
        let (weight, bias) = (absorbed.weight().detach(), absorbed.bias().map(Tensor::detach));
        Ok(Self::new(weight, bias, *absorbed.config()))
    }
}

/// A function that makes a layer at a path.
macro_rules! constructor {
    ($(#[$doc:meta])* $name:ident -> $layer:ident($config:ty)) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// candle's error.
        pub fn $name(
            in_channels: usize,
            out_channels: usize,
            kernel_size: usize,
            cfg: $config,
            vb: VarBuilder<'_>,
        ) -> Result<$layer> {
            let layer = candle_nn::$name(in_channels, out_channels, kernel_size, cfg, vb.clone())?;
            Ok($layer::at(&vb, layer))
        }
    };
}

constructor! {
    /// A convolution over one dimension, with a bias.
    conv1d -> Conv1d(Conv1dConfig)
}
constructor! {
    /// A convolution over one dimension, without a bias.
    conv1d_no_bias -> Conv1d(Conv1dConfig)
}
constructor! {
    /// A convolution over two dimensions, with a bias.
    conv2d -> Conv2d(Conv2dConfig)
}
constructor! {
    /// A convolution over two dimensions, without a bias.
    conv2d_no_bias -> Conv2d(Conv2dConfig)
}
constructor! {
    /// A transposed convolution over one dimension, with a bias.
    conv_transpose1d -> ConvTranspose1d(ConvTranspose1dConfig)
}
constructor! {
    /// A transposed convolution over one dimension, without a bias.
    conv_transpose1d_no_bias -> ConvTranspose1d(ConvTranspose1dConfig)
}
constructor! {
    /// A transposed convolution over two dimensions, with a bias.
    conv_transpose2d -> ConvTranspose2d(ConvTranspose2dConfig)
}
constructor! {
    /// A transposed convolution over two dimensions, without a bias.
    conv_transpose2d_no_bias -> ConvTranspose2d(ConvTranspose2dConfig)
}
