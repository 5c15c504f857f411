//! Records a custom layer: a low-rank adapter (LoRA) with `impl Tap`, checked against candle's own gradients.
//!
//!     cargo run --release --example custom_layer -- --out /tmp/adapter
//!
//! A small network learns the handwritten digits 0 to 7 and is frozen. Then adapters of rank 4 teach it 8 and 9 as
//! well, from images of which some have a wrong label. Only the adapters train, so only they are recorded. Their
//! gradients are enough to find the wrong labels. The run is in `OUT/run`.

#[path = "mnist/data.rs"]
#[allow(dead_code)] // this example uses only a part of it
mod data;
#[path = "support/mod.rs"]
mod support;

use anyhow::{ensure, Context, Result};
use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{linear, Init, Linear, Optimizer, VarBuilder, VarMap, SGD};
use clap::Parser;
use data::{Digits, SIDE, TO_ANOTHER};
use gradlog::taps::{LayerSpec, Parameter, PerExample, TapError};
use gradlog::{Config, Recorder, StepReport, Tap, Tapped, Taps};
use gradlog_analysis::{Score, ScoreQuestion, Window};
use gradlog_format::run::Run;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

const BATCH: usize = 32;
const RANK: usize = 4;
/// The first digit that only the adapters learn.
const NEW: u8 = 8;

// --- The layer ---

/// `y = base(x) + x Aᵀ Bᵀ`: a frozen linear layer and a trained correction of low rank (Hu et al. 2021, arXiv
/// 2106.09685, §4.1).
struct Lora {
    base: Linear,
    /// `A`, `[rank, inputs]`.
    down: Tensor,
    /// `B`, `[outputs, rank]`. Starts at zero, so that training starts from the frozen layer.
    up: Tensor,
}

impl Lora {
    fn new(base: Linear, rank: usize, vb: VarBuilder<'_>) -> candle_core::Result<Self> {
        let (outputs, inputs) = base.weight().dims2()?;
        let stdev = 1.0 / (inputs as f64).sqrt();
        let down = vb.get_with_hints((rank, inputs), "down", Init::Randn { mean: 0.0, stdev })?;
        let up = vb.get_with_hints((outputs, rank), "up", Init::Const(0.0))?;
        Ok(Self { base, down, up })
    }
}

impl Tap for Lora {
    /// The trained parameters, in the order in which `per_example` lays out the gradient.
    fn spec(&self) -> Result<LayerSpec, TapError> {
        let parameters = vec![Parameter::new("down", &self.down), Parameter::new("up", &self.up)];
        // The layer has two matrices, so its gradient is not one outer product: no `factors`.
        Ok(LayerSpec::new("lora", parameters))
    }

    fn plain_forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.base.forward(x)? + x.broadcast_matmul(&self.down.t()?)?.broadcast_matmul(&self.up.t()?)?
    }

    /// With δ the gradient of the output, u = x Aᵀ and v = δ B, example i has `∂ℓ/∂A = Σ_t v_it ⊗ x_it` and `∂ℓ/∂B =
    /// Σ_t δ_it ⊗ u_it`, summed over its positions t.
    fn per_example(&self, x: &Tensor, delta: &Tensor) -> candle_core::Result<PerExample> {
        let batch = x.dim(0)?;
        // Both `[batch, inputs]` and `[batch, positions, inputs]` become the latter.
        let positions = |t: &Tensor, width: usize| t.contiguous()?.reshape((batch, (), width));
        let x = positions(x, self.down.dim(1)?)?;
        let delta = positions(delta, self.up.dim(0)?)?;
        let u = x.broadcast_matmul(&self.down.detach().t()?)?;
        let v = delta.broadcast_matmul(&self.up.detach())?;
        let down = v.transpose(1, 2)?.matmul(&x)?.flatten_from(1)?;
        let up = delta.transpose(1, 2)?.matmul(&u)?.flatten_from(1)?;
        Ok(PerExample::Dense(Tensor::cat(&[down, up], 1)?))
    }
}

// --- The model and its training ---

#[derive(Parser)]
#[command(about = "Record a custom layer, check its gradients, and find wrong labels with them")]
struct Arguments {
    /// Folder for the run
    #[arg(long, default_value = "runs/custom_layer")]
    out: PathBuf,
    /// Passes over the images that the adapters learn from
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Share of their labels that is replaced by a wrong one
    #[arg(long, default_value_t = 0.1)]
    flip: f64,
    /// Seed of weights, order, wrong labels and sketches
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Use only the first N images
    #[arg(long)]
    limit: Option<usize>,
    /// First check on a few examples that the recorded gradients are each example's own
    #[arg(long)]
    check: bool,
}

struct Mlp<L> {
    fc1: L,
    fc2: L,
}

impl<L: Module> Module for Mlp<L> {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.fc2.forward(&self.fc1.forward(&x.flatten_from(1)?)?.relu()?)
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!((0.0..=1.0).contains(&arguments.flip), "--flip must be a share between 0 and 1, not {}", arguments.flip);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/mnist");
    let mut train = Digits::load(&folder, "train").context("the training images")?;
    let test = Digits::load(&folder, "t10k").context("the test images")?;
    train.truncate(arguments.limit.unwrap_or(usize::MAX));
    let base = train_base(&train, arguments.seed)?;
    report("frozen network", &base, &test)?;
    let truth = train.labels.clone();
    train.flip(arguments.flip, TO_ANOTHER, arguments.seed);

    let run = arguments.out.join("run");
    let checked = adapt(&arguments, &run, base, &train, &test)?;
    let run = Run::open(&run)?;
    check_gradients(&run, &checked)?;
    explain(&run, &truth, &train)
}

/// Trains an ordinary network on 0 to 7 in an ordinary loop, and freezes it.
fn train_base(digits: &Digits, seed: u64) -> Result<Mlp<Linear>> {
    let device = Device::Cpu;
    let variables = VarMap::new();
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &device);
    let model = Mlp { fc1: linear(SIDE * SIDE, 128, vb.pp("fc1"))?, fc2: linear(128, 10, vb.pp("fc2"))? };
    support::seed_weights(&variables, seed)?;
    let mut optimizer = SGD::new(variables.all_vars(), 0.1)?;
    let known: Vec<u64> = (0..digits.len() as u64).filter(|id| digits.labels[*id as usize] < NEW).collect();
    ensure!(!known.is_empty(), "there are no digits to learn: raise --limit");
    for epoch in 0..3 {
        for places in support::batches(known.len(), BATCH, seed, epoch) {
            let ids: Vec<u64> = places.iter().map(|place| known[*place as usize]).collect();
            let (x, y) = digits.batch(&ids, &device)?;
            let loss = candle_nn::loss::cross_entropy(&model.forward(&x)?, &y)?;
            optimizer.backward_step(&loss)?;
        }
    }
    let frozen = |layer: &Linear| Linear::new(layer.weight().detach(), layer.bias().map(Tensor::detach));
    Ok(Mlp { fc1: frozen(&model.fc1), fc2: frozen(&model.fc2) })
}

/// Gradient norms of single examples by candle's own backward, and the step that followed.
struct Checked {
    step: u64,
    norms: HashMap<u64, f64>,
}

/// Trains the adapters and records them.
fn adapt(arguments: &Arguments, run: &Path, base: Mlp<Linear>, train: &Digits, test: &Digits) -> Result<Checked> {
    let device = Device::Cpu;
    let variables = VarMap::new();
    let taps = Taps::new();
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &device);
    let lora = |name: &str, layer| Ok::<_, candle_core::Error>(taps.tap(name, Lora::new(layer, RANK, vb.pp(name))?));
    let model: Mlp<Tapped<Lora>> = Mlp { fc1: lora("fc1", base.fc1)?, fc2: lora("fc2", base.fc2)? };
    let mut optimizer = SGD::new(variables.all_vars(), 0.05)?;
    taps.declare_model(&variables);
    let mut recorder = Recorder::create(run, &taps, Config { seed: arguments.seed, ..Config::default() })?;

    if arguments.check {
        let ids: Vec<u64> = (0..train.len().min(8) as u64).collect();
        let (x, y) = train.batch(&ids, &device)?;
        let verdict = recorder.check_gradients(&variables, &ids, |pass, rows| {
            pass.cross_entropy(&model.forward(&rows.of(&x)?)?, &rows.of(&y)?)
        })?;
        println!("{verdict}\n");
        ensure!(verdict.agrees(), "the check failed, so nothing was trained");
    }

    let mut checked = Checked { step: 0, norms: HashMap::new() };
    let mut step = 0;
    for epoch in 0..arguments.epochs {
        recorder.set_epoch(epoch);
        for (number, ids) in support::batches(train.len(), BATCH, arguments.seed, epoch).iter().enumerate() {
            if epoch + 1 == arguments.epochs && number == 0 {
                // By now both A and B have moved. No pass is armed here, so the taps do nothing.
                checked.step = step;
                for id in ids {
                    checked.norms.insert(*id, norm_by_candle(&model, &variables, train, *id)?);
                }
            }
            let (x, y) = train.batch(ids, &device)?;
            let mut pass = recorder.pass(ids)?;
            let loss = pass.cross_entropy(&model.forward(&x)?, &y)?;
            let grads = loss.backward()?;
            pass.commit(optimizer.step_info())?;
            optimizer.step(&grads)?;
            step += 1;
        }
    }
    report("adapted network", &model, test)?;
    println!("recorded {}\n", recorder.finish()?);
    Ok(checked)
}

/// `‖g‖` of one example: a batch of one, and candle's backward.
fn norm_by_candle(model: &impl Module, variables: &VarMap, train: &Digits, id: u64) -> Result<f64> {
    let (x, y) = train.batch(&[id], &Device::Cpu)?;
    let grads = candle_nn::loss::cross_entropy(&model.forward(&x)?, &y)?.backward()?;
    let mut squared = 0.0;
    for variable in variables.all_vars() {
        let grad = grads.get(&variable).context("an adapter got no gradient")?;
        squared += f64::from(grad.sqr()?.sum_all()?.to_scalar::<f32>()?);
    }
    Ok(squared.sqrt())
}

/// Prints the share of right answers of a model, on 0 to 7 and on 8 and 9.
fn report(what: &str, model: &impl Module, digits: &Digits) -> Result<()> {
    let ids: Vec<u64> = (0..digits.len() as u64).collect();
    let (x, y) = digits.batch(&ids, &Device::Cpu)?;
    let (said, labels) = (model.forward(&x)?.argmax(1)?.to_vec1::<u32>()?, y.to_vec1::<u32>()?);
    let right = |new: bool| {
        let asked = labels.iter().zip(&said).filter(|(label, _)| (**label >= u32::from(NEW)) == new);
        let (right, all) =
            asked.fold((0, 0), |(right, all), (label, said)| (right + usize::from(label == said), all + 1));
        100.0 * right as f64 / f64::from(all.max(1))
    };
    println!(
        "{what:<15} right on {:>4.1} % of the test images of 0 to 7, on {:>4.1} % of 8 and 9",
        right(false),
        right(true)
    );
    Ok(())
}

// --- What the log says ---

/// Are the recorded gradients right? GraNd over a single step is the norm of each example's gradient at that step.
fn check_gradients(run: &Run, checked: &Checked) -> Result<()> {
    let table = ScoreQuestion::new(Score::Grand).window(Window::steps(checked.step..checked.step + 1)).compute(run)?;
    ensure!(
        table.rows.len() == checked.norms.len(),
        "the log has {} of {} examples",
        table.rows.len(),
        checked.norms.len()
    );
    // Where the model is sure, p − 1 is mostly rounding. A norm far below the others is compared with a floor.
    let floor = checked.norms.values().fold(0.0, |largest: f64, norm| largest.max(*norm)) / 1000.0;
    let mut worst: f64 = 0.0;
    println!(
        "Are the recorded gradients right? Their norms at step {}, and by candle's backward on that one example:\n",
        checked.step
    );
    for (place, row) in table.rows.iter().enumerate() {
        let expected = checked.norms[&row.example];
        worst = worst.max((row.score - expected).abs() / expected.max(floor));
        if place % 8 == 0 {
            println!("  example {:>4}   {:>12.7}   {expected:>12.7}", row.example, row.score);
        }
    }
    println!("\n  largest relative error over {} examples: {worst:.1e}", table.rows.len());
    ensure!(worst <= 1e-4, "the recorded gradients differ from candle's");
    Ok(())
}

/// Which labels are wrong?
fn explain(run: &Run, truth: &[u8], train: &Digits) -> Result<()> {
    let table = ScoreQuestion::new(Score::SelfInfluence).compute(run)?;
    let wrong = |example: u64| truth[example as usize] != train.labels[example as usize];
    println!("\nWhich labels are wrong? The ten highest self-influences, of the adapters alone:\n");
    println!("  image  given  model says  truth");
    for row in table.rows.iter().take(10) {
        let class = |class: Option<u32>| class.map_or("-".into(), |class| class.to_string());
        println!(
            "  {:>5} {:>6} {:>11} {:>6}",
            row.example,
            class(row.label),
            class(row.prediction),
            truth[row.example as usize]
        );
    }
    let planted = (0..train.len() as u64).filter(|example| wrong(*example)).count();
    let found = table.rows.iter().take(planted).filter(|row| wrong(row.example)).count();
    println!("\n  of {planted} wrong labels, {found} are among the {planted} highest");
    Ok(())
}
