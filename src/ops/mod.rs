//! ReLU, max-pooling and attention with one pass forward and one pass backward.
//!
//! candle's backward of each is a chain of five to ten ops. Each op writes a new tensor of the input's size. In a
//! convolutional network these cost more than the convolutions. No function has parameters, so there is nothing to
//! record.
//!
//! # Where PyTorch differs
//!
//! ReLU and max-pooling have a kink. At the kink the gradient is a convention, and candle, gradlog and PyTorch choose
//! differently. Elsewhere [`relu`] and [`max_pool2d`] have PyTorch's gradient.
//!
//! | at | gradlog | candle 0.11 | PyTorch |
//! |---|---|---|---|
//! | `relu`, slope at `x = 0` (and `x = -0`) | 1 | 1 | 0 |
//! | pool, `n` equal largest numbers in a window | `1 / n` each | `n / kernel²` each | all to the first, row-major |
//! | pool, one largest number | 1 | `1 / kernel²` | 1 |
//!
//! Equal numbers are common behind a ReLU, where many are 0. `x.mul(&x.gt(0.0)?.to_dtype(x.dtype())?)` is a ReLU with
//! PyTorch's slope at 0.

mod attention;
mod pool;
mod relu;
mod two_by_two;
mod windows;

pub use attention::attention;
pub use pool::{max_pool2d, max_pool2d_as_candle, MaxPool2d};
pub use relu::relu;

#[cfg(test)]
mod tests;
