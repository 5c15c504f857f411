//! `gradlog::nn` in the place of candle_nn: public shapes of models, each compiled once with each import.

// The shapes are compiled once with each import.
#![allow(clippy::duplicate_mod)]

mod built;
mod collect;
mod differentiable;
mod functions;
mod lora;
mod plain;
mod same;
