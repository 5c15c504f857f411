//! The loops that gradlog spends its time in: vectorized sums, matrix products, products of 8-bit integers.
//!
//! Every crate of gradlog may use it; it uses none of them. Beside the memory map of `gradlog-format`, all unsafe code of
//! gradlog is here, so that one crate is checked by Miri and the address sanitizer.

#![warn(missing_docs)]
#![deny(unsafe_op_in_unsafe_fn)]

pub mod int8;
pub mod matmul;
pub mod simd;
