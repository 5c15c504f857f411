//! Similarity of training examples by their unit gradients: neighbors, near-duplicates, clusters.
//!
//! Two examples whose gradients point the same way teach the model the same thing. The cosine of flat vectors
//! ([`crate::vectors`]) measures it; with folded vectors of `d` numbers it is off by about `1/√d`. Pruthi et al. 2020
//! (arXiv 2002.08484, §4 and appendix) cluster the same unit gradients to find subclasses.

mod clusters;
mod neighbors;
#[cfg(test)]
mod tests;
mod unit_vectors;

pub use clusters::{Cluster, Clusters};
pub use neighbors::{Neighbor, Pair};
pub use unit_vectors::UnitVectors;
