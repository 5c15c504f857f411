mod data;
mod exact;
mod model;

use anyhow::{Context, Result};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use exact::Material;
use model::{Model, Watch};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::SeedableRng;
use std::path::Path;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    let name = std::env::args().nth(1).context("model")?;
    let steps: usize = std::env::args().nth(2).context("steps")?.parse()?;
    let count: usize = std::env::args().nth(3).context("visits")?.parse()?;
    let keep = std::env::args().nth(4).context("dir")?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let seed = 0;
    let (train, test) = if name == "transformer" {
        data::text(&root.join("examples/data/text/paradise-lost.txt"), seed)?
    } else {
        data::images(&root.join("examples/data/mnist"), seed)?
    };
    let model = Model::new(&name, seed)?;
    let batch = if name == "transformer" { 16 } else { 64 };
    let mut optimizer = AdamW::new(model.variables.all_vars(), ParamsAdamW { lr: 1e-3, ..Default::default() })?;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut order: Vec<usize> = Vec::new();
    let start = std::time::Instant::now();
    for step in 0..steps {
        if order.len() < batch {
            order = (0..train.len()).collect();
            order.shuffle(&mut rng);
        }
        let ids = order.split_off(order.len() - batch);
        let (x, y) = train.batch(&ids)?;
        let loss = model.mean_loss(&x, &y, &Watch::default())?;
        optimizer.backward_step(&loss)?;
        if step % 20 == 0 || step + 1 == steps {
            println!("{name} step {step}: {:.3}, {:.1?}", loss.to_scalar::<f32>()?, start.elapsed());
        }
    }
    let mut order: Vec<usize> = (0..train.len()).collect();
    order.shuffle(&mut rng);
    order.truncate(count);
    let lengths = [512, 1024, 2048, 4096, 8192];
    let probes = test.batch(&(0..100).collect::<Vec<_>>())?;
    let visits = order.chunks(batch).map(|ids| train.batch(ids));
    let material = Material::collect(&model, probes, visits, &lengths, |n| {
        if n % 512 == 0 {
            println!("{n} visits, {:.1?}", start.elapsed());
        }
    })?;
    std::fs::create_dir_all(&keep)?;
    let dump = |name: &str, v: &[f32]| {
        std::fs::write(format!("{keep}/{name}"), v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
    };
    let dump64 = |name: &str, v: &[f64]| {
        std::fs::write(format!("{keep}/{name}"), v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
    };
    dump64("truth.f64", &material.truth)?;
    dump64("norms.f64", &material.norms)?;
    for f in &material.factors {
        dump(&format!("a{}_{}.f32", f.site, f.inputs), &f.input)?;
        dump(&format!("d{}_{}.f32", f.site, f.outputs), &f.delta)?;
    }
    for (m, rows) in &material.folds {
        dump(&format!("fold_{m}.f32"), rows)?;
    }
    println!("{} visits, {} probes, {} folded layers, {:.1?}", material.visits, material.probes, material.folded_layers, start.elapsed());
    Ok(())
}
