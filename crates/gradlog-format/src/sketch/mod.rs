//! Sketches: short vectors that stand for whole gradients.
//!
//! Owns the projection ([`Projection`]: a [`Fold`], then a rotation), the quantizers ([`Encoding`]) and the one seed function ([`derive_seed`]);
//! everything here is pure arithmetic on `&[f32]` and knows neither candle nor files nor threads.
//!
//! The invariant that the rest of the crate stands on: for gradients `g`, `h` sketched with the same seed,
//! `E⟨S g, S h⟩ = ⟨g, h⟩` over the seeds, with the variance stated at [`Fold`]. `FORMAT.md` ("Sketches")
//! gives the same arithmetic with test vectors, so that another language can recompute a record.

mod fold;
mod project;
mod quantize;
mod scheme;
mod seed;

pub use fold::Fold;
pub use project::{rotate, Projection};
pub use quantize::{Encoding, Quantized};
pub use scheme::{Form, SketchConfig};
pub use seed::{derive_seed, Side};

pub use quantize::row_bytes;
pub use seed::draw;
