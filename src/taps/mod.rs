//! Taps: layers that give the gradient of each example of the batch, from one ordinary backward pass.
//!
//! A tapped layer computes what the plain layer computes. While a pass is armed it also keeps its input. When
//! `backward` runs, it keeps the gradient of its output. Each example's own gradient follows from these two (see
//! [`PerExample`]).
//!
//! Taps are explicit handles, not globals and not thread-locals. candle may run a closure on its own thread pool, where
//! a thread-local would record nothing without a warning. The one of `aside` only saves time.

mod aside;
mod batch_norm;
mod catch;
mod collected;
mod conv;
mod declared;
mod embedding;
mod exact;
mod fused;
mod gradient;
mod group_norm;
mod learned;
mod linear;
mod metric;
mod model;
mod names;
mod norm;
mod on_device;
pub(crate) mod parallel;
mod per_example;
mod placed;
mod prelu;
mod recurrent;
mod registry;
mod shared_fold;
mod slot;
mod spec;
mod tap;
mod tapped;
mod two_sided;
mod watch;

pub use batch_norm::FrozenBatchNorm;
pub use catch::Catch;
pub use learned::LearnedTensor;
pub use model::{LastLayer, Paused, Taps};
pub use per_example::PerExample;
pub use spec::{LayerSpec, Parameter};
pub use tap::{Tap, TapError};
pub use tapped::Tapped;

pub(crate) use aside::backward;
pub(crate) use batch_norm::KIND as BATCH_NORM;
pub(crate) use catch::{watch_scalar, Upstream};
pub(crate) use collected::{collecting, tap_built};
pub(crate) use declared::named_variables;
pub(crate) use exact::{read_row, ExactGradients};
pub(crate) use fused::{attach_backward, cpu_f32, needs_gradient, slice, with_slice};
pub(crate) use gradient::FoldedGradients;
pub(crate) use gradient::{add, add_uses, fold_uses, move_to_host, read_f32, read_i64, wide_squared_norm};
pub(crate) use group_norm::KnownGroupNorm;
pub(crate) use metric::{wide_weighted_norm, MetricWeights, NormMetric, SquaredNorms};
pub(crate) use names::{find_batch_norms, is_statistic, matching_variables};
pub(crate) use norm::{layer_norm, rms_norm};
pub(crate) use on_device::{sketch as sketch_on_device, DeviceSketch};
pub(crate) use placed::Placed;
pub(crate) use recurrent::{Cell, ElmanCell, GruCell, LstmCell, Product, Recurrent};
pub(crate) use registry::{Presence, Registered, Registry};
pub(crate) use shared_fold::{LazyFold, SharedFold};
pub(crate) use slot::{Captured, Taken};
pub(crate) use tapped::has_sound_backward;
pub(crate) use two_sided::{SideScales, Sides};
