//! Integration tests: gradlog as its users see it, against candle itself and against one-line oracles.

mod abandoned;
mod borrowed;
mod carried;
mod cli;
mod common;
mod connectivity;
mod curvature;
mod delivery;
mod error_bars;
mod going_on;
mod layers;
mod log_bytes;
mod losses;
mod passes;
mod refusals;
mod replay;
mod resume;
mod second_reader;
mod sketches;
mod step_report;
mod taps;
mod tracin;
mod tracin_parts;
mod values;
mod workers;
