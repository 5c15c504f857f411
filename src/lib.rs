#![doc = "placeholder"]
#![warn(missing_docs)]
pub mod analysis;
pub mod cli;
pub mod log;
mod matmul;
#[cfg(feature = "candle")]
pub mod recorder;
pub mod report;
pub mod run;
pub mod sketch;
#[cfg(feature = "candle")]
pub mod taps;
