//! Sketches: short vectors that stand for whole gradients.
//!
//! A [`Projection`] is a [`Fold`] followed by a rotation. An [`Encoding`] rounds its result. [`derive_seed`] gives
//! every sketch its seed. Everything here is arithmetic on `&[f32]`, without files or threads.
//!
//! The invariant: for gradients `g` and `h` sketched with the same seed, `E⟨S g, S h⟩ = ⟨g, h⟩` over the seeds.
//! [`Fold`] states the variance. `FORMAT.md` ("Sketches") has the same arithmetic with test vectors, so another
//! language can recompute a record.

mod apart;
mod fold;
mod magnitudes;
mod project;
mod quantize;
mod scheme;
mod seed;
mod table;

pub use apart::{choose_apart, Apart, Rest, APART_MAX};
pub use fold::{locate, Fold};
pub use magnitudes::Magnitudes;
pub use project::{read_rotated, rotate, rotate_back, Projection};
pub use quantize::{row_bytes, Encoding, Quantized, Rounding};
pub use scheme::{Form, SketchConfig};
pub use seed::{derive_seed, draw, Side};
pub use table::FoldTable;
