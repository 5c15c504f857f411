//! Gives some training examples a wrong label, trains, and finds them again in the recording.
//!
//!     cargo run --release --example minimal -- [FOLDER] [--check]
use anyhow::Result;
use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{linear, Optimizer, VarBuilder, VarMap, SGD};
use gradlog::{Config, Recorder, Taps};
use gradlog_analysis::{Score, ScoreQuestion};
use gradlog_format::run::Run;
use rand::{rngs::StdRng, seq::SliceRandom, Rng, SeedableRng};

fn main() -> Result<()> {
    // 900 points in the plane around three centers. The center is the class. Every 20th point gets a wrong label.
    let mut rng = StdRng::seed_from_u64(0);
    let is_wrong = |i: usize| i.is_multiple_of(20);
    let points: Vec<[f32; 2]> = (0..900)
        .map(|i| [[0.0, 1.0], [-1.0, -0.5], [1.0, -0.5]][i % 3].map(|center| center + rng.random_range(-0.75..0.75)))
        .collect();
    let labels: Vec<u32> = (0..900).map(|i| ((i + usize::from(is_wrong(i))) % 3) as u32).collect();

    // A small network. Recording needs one `taps.tap` for each layer.
    let (device, variables, taps) = (Device::Cpu, VarMap::new(), Taps::new());
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &device);
    let fc1 = taps.tap("fc1", linear(2, 32, vb.pp("fc1"))?);
    let fc2 = taps.tap("fc2", linear(32, 3, vb.pp("fc2"))?);
    let mut optimizer = SGD::new(variables.all_vars(), 0.2)?;

    // The usual training loop. Each batch is a pass: it gets the ids, computes the loss, and takes the step.
    let (check, arguments): (Vec<_>, Vec<_>) = std::env::args_os().skip(1).partition(|argument| argument == "--check");
    let fresh = || std::env::temp_dir().join(format!("gradlog-minimal-{}", std::process::id()));
    let folder = arguments.first().map_or_else(fresh, std::path::PathBuf::from);
    anyhow::ensure!(
        !folder.to_string_lossy().starts_with('-'),
        "give the folder of the new run, and --check to check the gradients"
    );
    let mut recorder = Recorder::create(&folder, &taps, Config::default())?;
    let mut order: Vec<u64> = (0..900).collect();
    let batch = |ids: &[u64]| -> candle_core::Result<(Tensor, Tensor)> {
        let x: Vec<f32> = ids.iter().flat_map(|i| points[*i as usize]).collect();
        let y: Vec<u32> = ids.iter().map(|i| labels[*i as usize]).collect();
        Ok((Tensor::from_vec(x, (ids.len(), 2), &device)?, Tensor::from_vec(y, ids.len(), &device)?))
    };
    let forward = |x: &Tensor| fc2.forward(&fc1.forward(x)?.relu()?);
    if !check.is_empty() {
        // Is every recorded gradient the example's own? The closure runs the batch, and each example alone.
        let (x, y) = batch(&order[..8])?;
        let verdict = recorder.check_gradients(&variables, &order[..8], |pass, rows| {
            pass.cross_entropy(&forward(&rows.of(&x)?)?, &rows.of(&y)?)
        })?;
        println!("{verdict}");
        anyhow::ensure!(verdict.agrees(), "the check failed, so nothing was trained");
    }
    for epoch in 0..10 {
        recorder.set_epoch(epoch);
        order.shuffle(&mut rng);
        for ids in order.chunks(30) {
            let (x, y) = batch(ids)?;
            let mut pass = recorder.pass(ids)?;
            let loss = pass.cross_entropy(&forward(&x)?, &y)?;
            pass.backward_step(&mut optimizer, &loss)?;
        }
    }
    println!("recorded {}", recorder.finish()?);

    // Training is over. Which labels look wrong? The most suspicious examples come first.
    let run = Run::open(&folder)?;
    for score in [Score::SelfInfluence, Score::Aum] {
        let table = ScoreQuestion::new(score).compute(&run)?;
        let found = table.rows[..45].iter().filter(|row| is_wrong(row.example as usize)).count();
        println!("of the 45 wrong labels, {found} are among the 45 most suspicious by {score}");
    }
    println!("the run is in {0}: try `gradlog info {0}`", folder.display());
    Ok(())
}
