//! The loops that gradlog spends its time in.
//!
//! | module | holds |
//! |---|---|
//! | [`simd`] | loops compiled for the vector instructions of the machine, and sums of squares |
//! | [`matmul`] | products of `f32` matrices that lie in slices |
//! | [`fresh`] | vectors that are written in pieces without being cleared |
//! | [`hadamard`] | the Walsh–Hadamard transform |
//! | [`int8`] | exact products of matrices of 8-bit integers |
//! | [`rans`] | an entropy coder for bytes |
//!
//! Every crate of gradlog may use this one. It uses no other crate of gradlog.
//! All unsafe code of gradlog is here, except the memory map in `gradlog-format`.
//! So Miri and the address sanitizer have one small crate to check.

pub mod fresh;
pub mod hadamard;
pub mod int8;
pub mod matmul;
pub mod rans;
pub mod simd;
#[doc(hidden)]
pub mod stage;
