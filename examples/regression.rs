//! Regression: predicts the mass of a penguin. Some masses are wrong on purpose; the log finds them.
//!
//!     cargo run --release --example regression -- --out /tmp/penguins
//!
//! There are no classes, so there are no margins and no right or wrong predictions. Losses, errors and gradients are
//! enough. The run is in `OUT/run`. An example's id is its line in examples/data/penguins/penguins.csv.

#[path = "support/mod.rs"]
mod support;

use anyhow::{bail, ensure, Context, Result};
use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{linear, Linear, Optimizer, VarBuilder, VarMap, SGD};
use clap::Parser;
use gradlog::{Config, Recorder, StepReport, Tapped, Taps};
use gradlog_analysis::{InfluenceQuestion, Score, ScoreQuestion};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::Run;
use rand::{rngs::StdRng, seq::SliceRandom, Rng, SeedableRng};
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

const BATCH: usize = 16;
const LEARNING_RATE: f64 = 0.02;
const HELD_OUT: usize = 60;
const FEATURES: usize = 12;

#[derive(Parser)]
#[command(about = "Predict body mass with some wrong targets, record it, and find them from the log")]
struct Arguments {
    /// Folder for the run
    #[arg(long, default_value = "runs/regression")]
    out: PathBuf,
    /// Passes over the training penguins
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Share of the training targets that is raised or lowered by 40 %
    #[arg(long, default_value_t = 0.05)]
    corrupt: f64,
    /// Seed of weights, split, order, wrong targets and sketches
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Train on only N penguins
    #[arg(long)]
    limit: Option<usize>,
    /// First check on a few examples that the recorded gradients are each example's own
    #[arg(long)]
    check: bool,
}

#[derive(Clone, serde::Deserialize)]
struct Penguin {
    species: String,
    island: String,
    bill_length_mm: f32,
    bill_depth_mm: f32,
    flipper_length_mm: f32,
    body_mass_g: f32,
    sex: String,
    year: f32,
    /// The line in the file, counted from 1 as in an editor. The first line holds the column names.
    #[serde(skip)]
    line: u64,
}

impl Penguin {
    fn measurements(&self) -> [f32; 4] {
        [self.bill_length_mm, self.bill_depth_mm, self.flipper_length_mm, self.year]
    }

    fn describe(&self) -> String {
        format!("{} {} of {}", self.species, self.sex, self.island)
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(
        (0.0..=1.0).contains(&arguments.corrupt),
        "--corrupt must be a share between 0 and 1, not {}",
        arguments.corrupt
    );
    let penguins = load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/penguins/penguins.csv"))?;
    let by_line: HashMap<u64, Penguin> = penguins.iter().map(|p| (p.line, p.clone())).collect();

    // The file is sorted by species: shuffle it, hold some out, and change some of the other masses.
    let mut rng = StdRng::seed_from_u64(arguments.seed ^ 0x9E06);
    let mut train = penguins;
    train.shuffle(&mut rng);
    let test = train.split_off(train.len() - HELD_OUT);
    train.truncate(arguments.limit.unwrap_or(usize::MAX));
    ensure!(!train.is_empty(), "--limit must be at least 1");
    let changed = (arguments.corrupt * train.len() as f64).round() as usize;
    for penguin in &mut train[..changed] {
        penguin.body_mass_g *= if rng.random() { 1.4 } else { 0.6 };
    }
    println!(
        "{} penguins to train on, {changed} of them with a wrong mass on purpose; {} held out",
        train.len(),
        test.len()
    );

    let run = arguments.out.join("run");
    let scale = Scale::from_penguins(&train);
    train_and_record(&arguments, &run, &scale, &train, &test)?;

    // From here on: the log, and the true masses to check the answers.
    let run = Run::open(&run)?;
    let truth = Truth { given: train.iter().map(|p| (p.line, p.body_mass_g)).collect(), by_line };
    print_suspects(&run, &truth, &scale)?;
    print_scores(&run, &truth)?;
    print_harm(&run, &truth)
}

fn load(path: &Path) -> Result<Vec<Penguin>> {
    let mut reader = csv::Reader::from_path(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut penguins: Vec<Penguin> =
        reader.deserialize().collect::<Result<_, _>>().with_context(|| format!("cannot read {}", path.display()))?;
    for (line, penguin) in (2..).zip(&mut penguins) {
        penguin.line = line;
    }
    if penguins.len() <= HELD_OUT {
        bail!(
            "{} has {} penguins, but more than {HELD_OUT} are needed, because {HELD_OUT} are held out",
            path.display(),
            penguins.len()
        );
    }
    Ok(penguins)
}

/// Mean and standard deviation of each measurement and of the mass, over the training penguins.
struct Scale {
    measured: [(f32, f32); 4],
    mass: (f32, f32),
}

impl Scale {
    fn from_penguins(train: &[Penguin]) -> Self {
        let moments = |value: &dyn Fn(&Penguin) -> f32| {
            let mean = train.iter().map(value).sum::<f32>() / train.len() as f32;
            let variance = train.iter().map(|p| (value(p) - mean).powi(2)).sum::<f32>() / train.len() as f32;
            (mean, variance.sqrt().max(1e-6))
        };
        let measured = [0, 1, 2, 3].map(|column| moments(&|p: &Penguin| p.measurements()[column]));
        Self { measured, mass: moments(&|p: &Penguin| p.body_mass_g) }
    }

    /// Features `[batch, 12]`: standardized numbers, then one-hot species, island and sex. Standardized masses `[batch,
    /// 1]`.
    fn batch(&self, penguins: &[&Penguin]) -> Result<(Tensor, Tensor)> {
        let mut x = Vec::with_capacity(penguins.len() * FEATURES);
        for penguin in penguins {
            x.extend(
                penguin.measurements().iter().zip(&self.measured).map(|(v, (mean, deviation))| (v - mean) / deviation),
            );
            let one_hot =
                |value: &str, names: &[&str]| names.iter().map(|n| f32::from(value == *n)).collect::<Vec<_>>();
            x.extend(one_hot(&penguin.species, &["Adelie", "Chinstrap", "Gentoo"]));
            x.extend(one_hot(&penguin.island, &["Biscoe", "Dream", "Torgersen"]));
            x.extend(one_hot(&penguin.sex, &["female", "male"]));
        }
        let y: Vec<f32> = penguins.iter().map(|p| (p.body_mass_g - self.mass.0) / self.mass.1).collect();
        let device = Device::Cpu;
        Ok((
            Tensor::from_vec(x, (penguins.len(), FEATURES), &device)?,
            Tensor::from_vec(y, (penguins.len(), 1), &device)?,
        ))
    }

    /// A standardized mass in grams.
    fn grams(&self, mass: f32) -> f32 {
        mass * self.mass.1 + self.mass.0
    }
}

struct Mlp {
    fc1: Tapped<Linear>,
    fc2: Tapped<Linear>,
}

impl Mlp {
    fn new(taps: &Taps, vb: VarBuilder<'_>) -> candle_core::Result<Self> {
        Ok(Self {
            fc1: taps.tap("fc1", linear(FEATURES, 32, vb.pp("fc1"))?),
            fc2: taps.tap("fc2", linear(32, 1, vb.pp("fc2"))?),
        })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.fc2.forward(&self.fc1.forward(x)?.relu()?)
    }
}

fn train_and_record(
    arguments: &Arguments,
    run: &Path,
    scale: &Scale,
    train: &[Penguin],
    test: &[Penguin],
) -> Result<()> {
    let variables = VarMap::new();
    let taps = Taps::new();
    let model = Mlp::new(&taps, VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu))?;
    support::seed_weights(&variables, arguments.seed)?;
    let mut optimizer = SGD::new(variables.all_vars(), LEARNING_RATE)?;
    taps.declare_model(&variables);
    let notes = vec![
        ("model".into(), "12-32-1".into()),
        ("optimizer".into(), format!("SGD, learning rate {LEARNING_RATE}, batch {BATCH}")),
        ("corrupted".into(), arguments.corrupt.to_string()),
    ];
    let mut recorder = Recorder::create(run, &taps, Config { seed: arguments.seed, notes, ..Config::default() })?;

    if arguments.check {
        let batch: Vec<&Penguin> = train.iter().take(8).collect();
        let ids: Vec<u64> = batch.iter().map(|penguin| penguin.line).collect();
        let (x, y) = scale.batch(&batch)?;
        let verdict = recorder
            .check_gradients(&variables, &ids, |pass, rows| pass.mse(&model.forward(&rows.of(&x)?)?, &rows.of(&y)?))?;
        println!("{verdict}\n");
        ensure!(verdict.agrees(), "the check failed, so nothing was trained");
    }

    let before = probe(&mut recorder, &model, scale, test)?;
    let mut after = before;
    for epoch in 0..arguments.epochs {
        recorder.set_epoch(epoch);
        for places in support::batches(train.len(), BATCH, arguments.seed, epoch) {
            let batch: Vec<&Penguin> = places.iter().map(|place| &train[*place as usize]).collect();
            let ids: Vec<u64> = batch.iter().map(|penguin| penguin.line).collect();
            let (x, y) = scale.batch(&batch)?;
            let mut pass = recorder.pass(&ids)?;
            let loss = pass.mse(&model.forward(&x)?, &y)?;
            let grads = loss.backward()?;
            pass.commit(optimizer.step_info())?;
            optimizer.step(&grads)?;
        }
        // The held-out penguins are the probes. The influence of a step on them is measured with their gradients from
        // before and after the epochs.
        after = probe(&mut recorder, &model, scale, test)?;
    }
    println!("held-out error: {before:.0} g before training, {after:.0} g after {} epochs", arguments.epochs);
    println!("recorded {}\n", recorder.finish()?);
    Ok(())
}

/// Records the held-out penguins as the probe set `test`. Returns the root mean squared error in grams.
fn probe(recorder: &mut Recorder, model: &Mlp, scale: &Scale, test: &[Penguin]) -> Result<f32> {
    let ids: Vec<u64> = test.iter().map(|penguin| penguin.line).collect();
    let (x, y) = scale.batch(&test.iter().collect::<Vec<_>>())?;
    let mut pass = recorder.probe("test", &ids)?;
    let loss = pass.mse(&model.forward(&x)?, &y)?;
    loss.backward()?;
    pass.commit()?;
    Ok(loss.to_scalar::<f32>()?.sqrt() * scale.mass.1)
}

/// The truth, which the log does not know.
struct Truth {
    /// The mass that the training was given, by line.
    given: HashMap<u64, f32>,
    /// The penguins as they were measured.
    by_line: HashMap<u64, Penguin>,
}

impl Truth {
    fn is_wrong(&self, line: u64) -> bool {
        self.given.get(&line).is_some_and(|given| *given != self.by_line[&line].body_mass_g)
    }

    fn count_wrong(&self) -> usize {
        self.given.keys().filter(|line| self.is_wrong(**line)).count()
    }

    fn verdict(&self, line: u64) -> String {
        if self.is_wrong(line) {
            format!("wrong: it weighed {:.0} g", self.by_line[&line].body_mass_g)
        } else {
            "as measured".into()
        }
    }
}

/// Which masses look wrong? Those with large gradients, compared with what the model predicts.
fn print_suspects(run: &Run, truth: &Truth, scale: &Scale) -> Result<()> {
    // The log keeps the model's output at each visit. The last output of each penguin is the final prediction.
    let mut said: HashMap<u64, f32> = HashMap::new();
    for block in run.scan().filter(|block| block.kind() == Some(BlockKind::Visits)) {
        said.extend(block.u64s(Column::Example)?.into_iter().zip(block.f32s(Column::Output)?));
    }
    println!("Which masses are wrong? The ten highest self-influences:\n");
    println!("  line  penguin                        given   model says  self-influence  in truth");
    let table = ScoreQuestion::new(Score::SelfInfluence).compute(run)?;
    for row in table.rows.iter().take(10) {
        println!(
            "  {:>4}  {:<28} {:>5.0} g   {:>8.0} g  {:>14.3}  {}",
            row.example,
            truth.by_line[&row.example].describe(),
            truth.given[&row.example],
            scale.grams(said[&row.example]),
            row.score,
            truth.verdict(row.example)
        );
    }
    Ok(())
}

/// Which scores work without classes, and how well does each find the wrong masses?
fn print_scores(run: &Run, truth: &Truth) -> Result<()> {
    let wrong = truth.count_wrong();
    println!("\nWhat does each score find? Number of the {wrong} wrong masses in its top {wrong}:\n");
    let mut refused = Vec::new();
    for score in Score::ALL {
        match ScoreQuestion::new(score).compute(run) {
            Ok(table) => {
                let found = table.rows.iter().take(wrong).filter(|row| truth.is_wrong(row.example)).count();
                println!("  {:<15} {found:>2}   {}", score.name(), score.description());
            }
            Err(error) => refused.push(error),
        }
    }
    println!("\nThe other scores need predicted classes. The library refuses them:\n");
    for error in refused {
        println!("  {error}");
    }
    Ok(())
}

/// Which training penguins made the predictions for the held-out ones worse?
fn print_harm(run: &Run, truth: &Truth) -> Result<()> {
    let answer = InfluenceQuestion::new("test").compute(run)?;
    let mut total: Vec<(f64, u64)> = (answer.rows.iter().enumerate())
        .map(|(row, about)| ((0..answer.probes.len()).map(|probe| answer.score(row, probe)).sum(), about.example))
        .collect();
    total.sort_by(|a, b| a.0.total_cmp(&b.0));
    println!(
        "\nWhich training penguins hurt the {} held-out predictions most in total? (TracIn)\n",
        answer.probes.len()
    );
    for (score, line) in total.iter().take(10) {
        println!("  {line:>4}  {:<28} {score:>8.3}  {}", truth.by_line[line].describe(), truth.verdict(*line));
    }
    let harmful: BTreeSet<u64> = total.iter().filter(|(score, _)| *score < 0.0).map(|(_, line)| *line).collect();
    let caught = harmful.iter().filter(|line| truth.is_wrong(**line)).count();
    println!(
        "\n{} of {} did more harm than good; {caught} of the {} wrong ones are among these",
        harmful.len(),
        total.len(),
        truth.count_wrong()
    );
    Ok(())
}
