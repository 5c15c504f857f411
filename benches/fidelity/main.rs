//! How near the sketches come to the exact gradients, and for how many bytes.
//!
//!     cargo bench --bench fidelity -- [--model mlp|cnn|transformer] [--quick] [--all] [--data DIR] [--json FILE]
//!
//! Three models are trained a little on real data, a tenth of it spoilt (wrong labels, shuffled windows). At the state
//! reached, the exact dot products of whole gradients, visits x 100 test examples, are the truth. For each scheme: how
//! many of the ten strongest proponents and opponents of a test example it finds (mean over test examples), Spearman's
//! correlation over all pairs and of self-influence, and the bytes of a visit on disk, after compression, ids and
//! losses included.
//!
//! The row marked `default` is recorded: the recorder writes a run with the default configuration, the analysis reads
//! the run back, and the bytes are those of its blocks. In the other rows the sketches are made, stored and compressed
//! here, column by column and block by block as the crate does, and the rest of a visit (ids, losses, norm, headers) is
//! taken from that run. The default's lengths with rounding to the nearest, as it once was, are among them. How the
//! stated errors hold is what `cargo bench --bench trust` measures.
//!
//! `--two-sided` records runs whose layers with positions are projected from both sides, as on a device.
//! `--all` adds what was tried and did not pay. Notes and dated results: `benches/results`.

mod data;
mod exact;
mod measure;
mod model;
mod read;
mod record;
mod scheme;
mod store;

use anyhow::{Context, Result};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, SGD};
use clap::{Parser, ValueEnum};
use data::Examples;
use exact::Material;
use gradlog::{Config, Folding, SketchConfig};
use measure::{spearman, Fidelity, Truth};
use model::{Model, Watch};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::SeedableRng;
use scheme::{Scheme, Sketch};
use serde_json::{json, Value};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROBES: usize = 100;
/// Lengths of the folded vector that schemes ask for; the default's is added.
const LENGTHS: [usize; 5] = [512, 1024, 2048, 4096, 8192];

#[derive(Parser)]
#[command(about = "Fidelity of the sketches against exact gradients, by bytes per visit")]
struct Arguments {
    /// Only this model
    #[arg(long, value_enum)]
    model: Option<Name>,
    /// Fewer steps and visits: a look in a minute or two, not numbers to quote
    #[arg(long)]
    quick: bool,
    /// Also what was tried and did not pay
    #[arg(long)]
    all: bool,
    /// Also layers with positions that are projected from both sides, as on a device
    #[arg(long)]
    two_sided: bool,
    /// Folder of idx files for mlp and cnn (MNIST, Fashion-MNIST), gzipped or not, instead of the digits that come
    /// with gradlog
    #[arg(long)]
    data: Option<PathBuf>,
    /// Write the table as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Seed of weights, order and spoilt examples
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// What cargo passes to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    Mlp,
    Cnn,
    Transformer,
}

impl Name {
    fn text(self) -> &'static str {
        match self {
            Self::Mlp => "mlp",
            Self::Cnn => "cnn",
            Self::Transformer => "transformer",
        }
    }

    /// Steps of training, and visits that are scored.
    fn sizes(self, quick: bool) -> (usize, usize) {
        match (self, quick) {
            (Self::Mlp, false) => (400, 4096),
            (Self::Cnn, false) => (240, 4096),
            (Self::Transformer, false) => (300, 2048),
            (Self::Mlp, true) => (200, 2048),
            (Self::Cnn, true) => (80, 1024),
            (Self::Transformer, true) => (60, 512),
        }
    }

    fn batch(self) -> usize {
        if self == Self::Transformer {
            16
        } else {
            64
        }
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut table = Vec::new();
    for name in [Name::Mlp, Name::Cnn, Name::Transformer] {
        if arguments.model.is_none_or(|only| only == name) {
            table.extend(run(name, &arguments).with_context(|| format!("the {}", name.text()))?);
        }
    }
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(&table)?)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn run(name: Name, arguments: &Arguments) -> Result<Vec<Value>> {
    let start = Instant::now();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data");
    let (train, test) = match (name, &arguments.data) {
        (Name::Transformer, _) => data::text(&root.join("text/paradise-lost.txt"), arguments.seed)?,
        (_, Some(folder)) => data::images(folder, arguments.seed)?,
        (_, None) => data::images(&root.join("mnist"), arguments.seed)?,
    };
    let (steps, count) = name.sizes(arguments.quick);
    let model = Model::new(name.text(), arguments.seed)?;
    let loss = train_a_little(name, &model, &train, steps, arguments.seed)?;
    println!("\n{}: {steps} steps of training, loss {loss:.3} (mean of the last 20)", name.text());

    // Whole batches, so that every visit has the same weight in its batch's mean.
    let mut visits: Vec<usize> = (0..train.len()).collect();
    visits.shuffle(&mut StdRng::seed_from_u64(arguments.seed ^ 0x7E57));
    visits.truncate(count.min(train.len() / name.batch() * name.batch()));
    let probes: Vec<usize> = (0..PROBES.min(test.len())).collect();
    let config = SketchConfig::default();
    let batches = visits.chunks(name.batch()).map(|ids| train.batch(ids));
    let material = Material::collect(&model, test.batch(&probes)?, batches, &LENGTHS)?;
    let shares: Vec<String> = material.shares.iter().map(|share| format!("{:.1}", 100.0 * share)).collect();
    println!(
        "{} visits, {} probes; share of the squared norm by layer, %: {}",
        visits.len(),
        probes.len(),
        shares.join(" ")
    );

    let truth = Truth::new(&material.truth, probes.len());
    let own = &material.norms[..visits.len()];
    let mut table = Table { model: name.text(), rows: Vec::new() };
    table.head();

    let record = |config: Config| record::record(&model, &train, &visits, &test, &probes, name.batch(), config);
    let recorded = record(Config::default())?;
    let default = Scheme::Sketch(Sketch::of(&config, material.folded_parameters))
        .apply(&material)?
        .context("the default has nothing to sketch")?;
    table.row(
        "default, recorded",
        true,
        recorded.bytes,
        truth.compare(&recorded.scores),
        spearman(own, &recorded.norms),
    );
    for side in [16, 32, 64, 128].into_iter().filter(|_| arguments.two_sided) {
        let config = Config { folding: Folding::TwoSided { side }, ..Config::default() };
        let recorded = record(config)?;
        let label = format!("recorded, layers with positions projected from both sides to {side}");
        let fidelity = truth.compare(&recorded.scores);
        table.row(&label, false, recorded.bytes, fidelity, spearman(own, &recorded.norms));
    }
    // The scores are times the learning rate and 1/B.
    let factor = 0.1 / name.batch() as f64;
    let sigmas: Vec<f64> = (recorded.scores.iter().zip(&material.truth).zip(&recorded.deviations))
        .map(|((score, truth), deviation)| (score - factor * truth).abs() / deviation)
        .collect();
    let within = |limit: f64| sigmas.iter().filter(|sigma| **sigma <= limit).count() as f64 / sigmas.len() as f64;
    println!("within two stated deviations {:.3}, within three {:.3}", within(2.0), within(3.0));
    table.row(
        "rounded to the nearest, nothing kept apart",
        false,
        recorded.rest + default.bytes,
        truth.compare(&default.scores),
        1.0,
    );
    let mut seen = HashSet::new();
    for (label, scheme) in scheme::schemes(arguments.all) {
        let Some(outcome) = scheme.apply(&material)? else {
            continue;
        };
        // The exact norm stands beside every sketch of the crate's kind; the others have only what they keep.
        if !seen.insert(outcome.scores.iter().map(|s| s.to_bits()).fold(0u64, |h, b| h.rotate_left(5) ^ b)) {
            continue; // differs from an earlier one only in layers that this model has not
        }
        let own_rank = outcome.norms.as_ref().map_or(1.0, |norms| spearman(own, norms));
        table.row(label, false, recorded.rest + outcome.bytes, truth.compare(&outcome.scores), own_rank);
    }
    println!(
        "of the default's bytes, {:.0} are the first factored layer's input; {:.0} are ids, losses, norm and headers",
        default.first_input, recorded.rest
    );
    println!("{:.0} s", start.elapsed().as_secs_f64());
    Ok(table.rows)
}

/// Trains as the examples do, SGD for the images; the transformer by AdamW, under which it learns within few steps.
fn train_a_little(name: Name, model: &Model, train: &Examples, steps: usize, seed: u64) -> Result<f64> {
    let variables = model.variables.all_vars();
    match name {
        Name::Mlp => steps_of(SGD::new(variables, 0.1)?, name, model, train, steps, seed),
        Name::Cnn => steps_of(SGD::new(variables, 0.05)?, name, model, train, steps, seed),
        Name::Transformer => {
            let settings = ParamsAdamW { lr: 1e-3, ..Default::default() };
            steps_of(AdamW::new(variables, settings)?, name, model, train, steps, seed)
        }
    }
}

fn steps_of(
    mut optimizer: impl Optimizer,
    name: Name,
    model: &Model,
    train: &Examples,
    steps: usize,
    seed: u64,
) -> Result<f64> {
    let batch = name.batch();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut order: Vec<usize> = Vec::new();
    let mut losses = Vec::new();
    for _ in 0..steps {
        if order.len() < batch {
            order = (0..train.len()).collect();
            order.shuffle(&mut rng);
        }
        let (x, y) = train.batch(&order.split_off(order.len() - batch))?;
        let loss = model.mean_loss(&x, &y, &Watch::default())?;
        optimizer.backward_step(&loss)?;
        losses.push(f64::from(loss.to_scalar::<f32>()?));
    }
    let last = &losses[losses.len().saturating_sub(20)..];
    Ok(last.iter().sum::<f64>() / last.len().max(1) as f64)
}

/// Prints rows and keeps them.
struct Table {
    model: &'static str,
    rows: Vec<Value>,
}

impl Table {
    fn head(&self) {
        println!("{:>7}  {:>6}  {:>6}  {:>8}  {:>6}  scheme", "bytes", "top-10", "opp-10", "Spearman", "self");
    }

    fn row(&mut self, scheme: &str, is_default: bool, bytes: f64, fidelity: Fidelity, own: f64) {
        let Fidelity { proponents, opponents, spearman } = fidelity;
        println!("{bytes:>7.0}  {proponents:>6.3}  {opponents:>6.3}  {spearman:>8.4}  {own:>6.3}  {scheme}");
        self.rows.push(json!({
            "model": self.model, "scheme": scheme, "is_default": is_default, "bytes_per_visit": bytes,
            "top10_proponents": proponents, "top10_opponents": opponents, "spearman": spearman, "self_spearman": own,
        }));
    }
}
