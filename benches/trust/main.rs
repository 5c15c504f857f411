//! How often the exact score lies within the stated error of the recorded one.
//!
//!     cargo bench --bench trust -- [--only NAME] [--seeds N] [--skip-models] [--json FILE]
//!
//! Each family is one linear layer whose inputs and output gradients are given: the loss of an example is the product
//! of its outputs with its output gradient. They are recorded as a user records them, by the recorder's own taps, and
//! read back by an influence question with sketch errors. The exact score is their product in f64. The three models are
//! those of the fidelity benchmark, trained a little on real data, with exact scores from whole gradients.
//!
//! Of all pairs of a visit and a probe, over all seeds: the share within two and three stated deviations, the root mean
//! square of the error over that of the scores, and for the sums over all visits the root mean square of the error over
//! its stated deviation. The table `rivals` compares ways to round one vector.

#[path = "../fidelity/data.rs"]
#[allow(dead_code)]
mod data;
#[path = "../fidelity/exact.rs"]
#[allow(dead_code)]
mod exact;
mod families;
mod measured;
#[path = "../fidelity/model.rs"]
#[allow(dead_code)]
mod model;
mod models;
mod rivals;

use anyhow::{Context, Result};
use clap::Parser;
use families::Family;
use gradlog::SketchConfig;
use measured::Measured;
use serde_json::json;
use std::path::PathBuf;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(about = "Coverage of the stated errors, by input family and model")]
struct Arguments {
    /// Only the families whose name holds this
    #[arg(long)]
    only: Option<String>,
    /// Seeds of projections for each family
    #[arg(long, default_value_t = 12)]
    seeds: u64,
    /// Without the three models, which take two minutes
    #[arg(long)]
    skip_models: bool,
    /// Write the table as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// What cargo passes to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut table = Vec::new();
    let mut add = |input: &str, classes: Option<usize>, scheme: &str, is_default: bool, found: &Measured| {
        let Measured { bytes, within_2, within_3, relative_error, sum_over_stated, seeds } = *found;
        println!(
            "{input:<28} {scheme:<8} {bytes:>7.0}  {within_2:>6.3}  {within_3:>6.3}  {relative_error:>8.4}  \
             {sum_over_stated:>6.2}"
        );
        table.push(json!({
            "input": input, "classes": classes, "scheme": scheme, "is_default": is_default, "bytes_per_visit": bytes,
            "within_2": within_2, "within_3": within_3, "relative_error": relative_error,
            "sum_over_stated": sum_over_stated, "seeds": seeds,
        }));
    };
    println!(
        "{:<28} {:<8} {:>7}  {:>6}  {:>6}  {:>8}  {:>6}",
        "input", "scheme", "bytes", "in 2", "in 3", "error", "sum"
    );
    let wanted = |name: &str| arguments.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    for family in Family::all().into_iter().filter(|family| wanted(&family.name())) {
        let sides = family.draw()?;
        // Everything wider than 128 numbers is projected to 256 signs.
        let short = SketchConfig { input_cap: 128, delta_cap: 128, projected: 256, ..SketchConfig::default() };
        for (scheme, config) in [("default", SketchConfig::default()), ("256 signs", short)] {
            let found = measured::measure(&sides, &config, arguments.seeds)
                .with_context(|| format!("the family `{}`", family.name()))?;
            add(&family.name(), family.classes(), scheme, scheme == "default", &found);
        }
    }
    if !arguments.skip_models && arguments.only.is_none() {
        for name in ["mlp", "cnn", "transformer"] {
            add(name, None, "default", true, &models::measure(name).with_context(|| format!("the {name}"))?);
        }
    }
    let rivals = rivals::compare(&wanted)?;
    if let Some(path) = &arguments.json {
        let all = serde_json::to_string_pretty(&table)?;
        std::fs::write(path, all).with_context(|| format!("writing {}", path.display()))?;
        let path = path.with_extension("rivals.json");
        let all = serde_json::to_string_pretty(&rivals)?;
        std::fs::write(&path, all).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
