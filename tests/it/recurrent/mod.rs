//! Recurrent layers: outputs and gradients against candle_nn's own layers over the same variables.

mod gradients;
mod models;
mod states;
