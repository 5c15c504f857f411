//! Several workers, each with a recorder of its own, train one model and record one run.

mod parts;
mod processes;

use crate::common::*;
use gradlog::{Config, Worker};

const EXAMPLES: u64 = 24;
const PROBES: u64 = 3;
const RATE: f64 = 0.3;

fn model() -> Network {
    Network::mlp(EXAMPLES as usize, PROBES as usize, false).fill(11, 0.6)
}

fn config(worker: Option<Worker>) -> Config {
    // Blocks that end at other steps in each part.
    let rank = worker.map_or(0, |worker| worker.rank);
    Config { worker, block_rows: 7 + 10 * rank, ..exact() }
}
