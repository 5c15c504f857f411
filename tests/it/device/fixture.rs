//! A run with layers that are projected from both sides, two of them tied, made once and kept in
//! `tests/data/v1-two-sided`: whatever becomes of the code, its sketches mean the same, and it can be added to.
//!
//! It was recorded by hand: `cargo test --release --test it -- --ignored make_the_fixture_of_two_sides`.

use super::*;
use candle_nn::Optimizer;
use gradlog_format::log::{LayerRecord, TwoSided};
use gradlog_format::sketch::Fold;
use std::path::PathBuf;

const SIDE: usize = 4;
const WIDTH: usize = 24;
const ROWS: usize = 60;
const LENGTH: usize = 5;
const FOLDED: usize = 64;
const COUNT: u64 = 3;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/v1-two-sided")
}

/// A table of tokens that is the head as well, with a bias, and a layer between.
struct Tokens {
    taps: Taps,
    variables: VarMap,
    forward: Forward,
}

impl Tokens {
    fn new() -> Self {
        let (taps, variables) = (Taps::new(), VarMap::new());
        let vb = builder(&variables);
        let table = embedding(ROWS, WIDTH, vb.pp("table")).unwrap();
        let bias = vb.get(ROWS, "head.bias").unwrap();
        let head = taps.tap("head", Linear::new(table.embeddings().clone(), Some(bias)));
        let (table, inner) =
            (taps.tap("table", table), taps.tap("inner", linear(WIDTH, WIDTH, vb.pp("inner")).unwrap()));
        for (name, variable) in variables.data().lock().unwrap().iter() {
            let seed = name.bytes().map(u64::from).sum();
            variable.set(&(noise(seed, variable.dims()) * 0.5).unwrap()).unwrap();
        }
        let forward = move |x: &Tensor| head.forward(&inner.forward(&table.forward(x)?)?.tanh()?);
        Self { taps, variables, forward: Box::new(forward) }
    }

    fn logits(&self, ids: &[u64]) -> Tensor {
        let of =
            |id: &u64| (0..LENGTH as u64).map(|place| ((id * 17 + place * place * 5) % ROWS as u64) as u32).collect();
        let tokens = ids.iter().flat_map(|id| -> Vec<u32> { of(id) }).collect::<Vec<u32>>();
        (self.forward)(&Tensor::from_vec(tokens, (ids.len(), LENGTH), &Device::Cpu).unwrap()).unwrap()
    }

    /// What is read next, by the same rule.
    fn next(&self, ids: &[u64]) -> Tensor {
        let tokens = ids.iter().flat_map(|id| (0..LENGTH as u64).map(move |place| ((id * 7 + place * 11) % 60) as u32));
        Tensor::from_vec(tokens.collect::<Vec<u32>>(), (ids.len(), LENGTH), &Device::Cpu).unwrap()
    }

    /// One pass over the examples without a change of weights.
    fn visit(&self, recorder: &mut Recorder) {
        let ids: Vec<u64> = (0..COUNT).collect();
        let mut pass = recorder.pass(&ids).unwrap();
        pass.cross_entropy(&self.logits(&ids), &self.next(&ids)).unwrap().backward().unwrap();
        pass.commit(0.1).unwrap();
    }

    /// By candle: the gradient of the example's loss by the table, the bias of the head, and the layer between.
    fn gradient(&self, id: u64) -> [Vec<f32>; 4] {
        let logits = self.logits(&[id]).flatten_to(1).unwrap();
        let loss = candle_nn::loss::cross_entropy(&logits, &self.next(&[id]).flatten_all().unwrap()).unwrap();
        let grads = loss.backward().unwrap();
        let named = self.variables.data().lock().unwrap();
        ["table.weight", "head.bias", "inner.weight", "inner.bias"]
            .map(|name| numbers(grads.get(&named[name]).unwrap()))
    }
}

fn config() -> Config {
    let mut config = Config { folding: Folding::TwoSided { side: SIDE as u32 }, ..hashed(Sketching::Auto) };
    (config.sketch.folded_min, config.sketch.folded_max) = (FOLDED as u32, FOLDED as u32);
    config
}

#[test]
#[ignore = "writes tests/data; run by hand, once"]
fn make_the_fixture_of_two_sides() {
    let model = Tokens::new();
    let mut recorder = Recorder::create(fixture(), &model.taps, config()).unwrap();
    let params = gradlog::optim::AdamConfig::new(1e-2);
    let mut optimizer = gradlog::optim::AdamW::new(model.variables.all_vars(), params).unwrap();
    let ids: Vec<u64> = (0..COUNT).collect();
    for step in 0..2 {
        if step > 0 {
            let mut pass = recorder.probe("test", &[7]).unwrap();
            pass.cross_entropy(&model.logits(&[7]), &model.next(&[7])).unwrap().backward().unwrap();
            pass.commit().unwrap();
        }
        let mut pass = recorder.pass(&ids).unwrap();
        let loss = pass.cross_entropy(&model.logits(&ids), &model.next(&ids)).unwrap();
        pass.backward_step(&mut optimizer, &loss).unwrap();
    }
    recorder.finish().unwrap();
    std::fs::remove_file(fixture().join("lock")).unwrap();
}

/// What FORMAT.md makes of a weight's gradient and of the bias behind it, before the rotation.
fn project(layer: &LayerRecord, weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let rows = Fold::new(layer.seed_delta, weight.len() / WIDTH, SIDE);
    let columns = Fold::new(layer.seed_input, WIDTH, SIDE);
    let narrow: Vec<Vec<f32>> = weight.chunks_exact(WIDTH).map(|row| columns.apply(row)).collect();
    let mut made = vec![0f32; SIDE * SIDE];
    for column in 0..SIDE {
        let folded = rows.apply(&narrow.iter().map(|row| row[column]).collect::<Vec<f32>>());
        folded.iter().enumerate().for_each(|(row, value)| made[row * SIDE + column] = *value);
    }
    made.extend(bias);
    Fold::new(layer.seed_folded, made.len(), FOLDED).apply(&made)
}

/// All dot products of `a` with `b` are those of `right` with itself.
#[track_caller]
fn assert_products([a, b]: [&[Vec<f32>]; 2], right: &[Vec<f32>]) {
    let size = right.iter().map(|own| dot(own, own)).fold(0.0, f64::max);
    assert!(size > 1e-3 && a.len() == right.len() && b.len() == right.len());
    for (i, j) in (0..right.len()).flat_map(|i| (0..right.len()).map(move |j| (i, j))) {
        let (made, wanted) = (dot(&a[i], &b[j]), dot(&right[i], &right[j]));
        assert!((made - wanted).abs() < 1e-4 * size, "{i} {j}: {made} {wanted}");
    }
}

#[test]
fn its_sketches_are_what_the_page_makes_of_candles_gradients() {
    let run = Run::open(fixture()).unwrap();
    let report = run.verify().unwrap();
    assert!(report.damage.is_none() && report.finished);
    assert_eq!((report.visits, report.probes), (6, 1), "the probe in Adam's metric is the same probe");
    let mut projected: Vec<TwoSided> = run.manifest().two_sided().unwrap().into_values().collect();
    projected.sort_by_key(|one| one.layer);
    let said: Vec<_> = projected.iter().map(|one| (one.layer, one.rows, one.columns)).collect();
    assert_eq!(said, [(0, 4, 4), (1, 4, 4), (2, 4, 4)]);
    let layers = &run.manifest().layers;
    assert_eq!([0, 1, 2].map(|layer| layers[layer].name.as_str()), ["head", "table", "inner"]);
    assert_eq!(layers[0].seed_folded, layers[1].seed_folded, "tied");
    let model = Tokens::new();
    let right: Vec<Vec<f32>> = (0..COUNT)
        .map(|id| {
            let [table, bias, inner, inner_bias] = model.gradient(id);
            let (tied, own) = (project(&layers[0], &table, &bias), project(&layers[2], &inner, &inner_bias));
            tied.iter().zip(&own).map(|(a, b)| a + b).collect()
        })
        .collect();
    // The visits of the first step. The rotation keeps dot products.
    let first = &folded(&fixture())[..COUNT as usize];
    assert_products([first, first], &right);
    let blocks = blocks(&fixture(), BlockKind::Visits);
    let in_metric = blocks.iter().filter(|block| block.has(Column::PreconditionedSquaredNorm));
    assert_eq!(in_metric.map(|block| block.rows()).sum::<usize>(), 3);
}

#[test]
fn a_recorder_adds_sketches_that_fit_those_of_before() {
    for sketching in [Sketching::Auto, Sketching::OnDevice] {
        let dir = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(fixture()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
        let model = Tokens::new();
        let config = Config { sketching, ..config() };
        let mut recorder = Recorder::resume(dir.path(), &model.taps, config).unwrap();
        model.visit(&mut recorder);
        recorder.finish().unwrap();
        let all = folded(dir.path());
        assert_eq!(all.len(), 9);
        // The weights are those of the first step again.
        assert_products([&all[..3], &all[6..]], &all[..3]);
    }
}
