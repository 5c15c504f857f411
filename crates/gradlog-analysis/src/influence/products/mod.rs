//! Products of many visits with many probes, layer by layer, from the numbers as they are stored.
//!
//! Vectors that are stored as integers on both sides are multiplied as integers ([`gradlog_kernels::int8`]) and scaled
//! afterwards, so a dot product of codes is exact. All others are decoded and multiplied in f32. Visits come in tiles
//! that stay in the cache; a tile's products with a panel of probes are added up layer by layer, `(⟨a,a'⟩ +
//! bias)·⟨δ,δ'⟩` or `⟨s,s'⟩`, with their variances where asked for, so that what is made of them (a sum, for TracIn) is
//! up to the caller.

mod apart;
mod layers;
mod probes;
mod scheme;
#[cfg(test)]
mod tests;
mod variance;
mod visits;

pub(super) use layers::{dots, stretches, Floats, Products, Variances, NO_INTEGERS};
pub(super) use probes::{ProbeSide, Stored};
pub(super) use scheme::{panels_of, Scheme, TILE_ROWS};
pub(super) use variance::{Error, ErrorSum};
pub(super) use visits::Unpacked;
