//! Layers that are projected from both sides before they are folded.

use super::*;
use gradlog::RecordError;

/// A wide layer over positions, an embedding and a head, with deltas that are given.
fn record(dir: &Path, positions: usize, config: Config) -> Vec<Vec<f32>> {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let vb = builder(&variables);
    let table = taps.tap("table", embedding(200, 40, vb.pp("table")).unwrap());
    let wide = taps.tap("wide", linear(40, 60, vb.pp("wide")).unwrap());
    let ids: Vec<u32> = (0..COUNT * positions).map(|place| (place * place % 17) as u32).collect();
    let ids = Tensor::from_vec(ids, (COUNT, positions), &Device::Cpu).unwrap();
    let deltas = noise(4, &[COUNT, positions, 60]);
    let losses = |from: usize, count: usize| {
        let part = |t: &Tensor| t.narrow(0, from, count).unwrap();
        let y = wide.forward(&table.forward(&part(&ids)).unwrap().tanh().unwrap()).unwrap();
        (y * part(&deltas)).unwrap().flatten_from(1).unwrap().sum(1).unwrap()
    };
    variables.data().lock().unwrap().iter().for_each(|(name, variable)| {
        variable.set(&noise(name.len() as u64, variable.dims())).unwrap();
    });
    let mut recorder = Recorder::create(dir, &taps, config).unwrap();
    let names: Vec<u64> = (0..COUNT as u64).collect();
    let mut pass = recorder.probe("test", &names).unwrap();
    pass.losses(&losses(0, COUNT)).unwrap().backward().unwrap();
    pass.commit().unwrap();
    let mut pass = recorder.pass(&names).unwrap();
    pass.reduction(gradlog::Reduction::Sum);
    pass.losses(&losses(0, COUNT)).unwrap().backward().unwrap();
    pass.commit(1.0).unwrap();
    recorder.finish().unwrap();
    let gradient = |example: usize| {
        let grads = losses(example, 1).sum_all().unwrap().backward().unwrap();
        let vars = variables.all_vars();
        vars.iter().flat_map(|variable| numbers(grads.get(variable).unwrap())).collect()
    };
    (0..COUNT).map(gradient).collect()
}

const COUNT: usize = 4;

fn two_sided(side: u32, sketching: Sketching, seed: u64) -> Config {
    Config { folding: Folding::TwoSided { side }, seed, ..hashed(sketching) }
}

#[test]
fn both_ways_of_making_it_agree_and_the_manifest_says_so() {
    for positions in [2, 25] {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let exact = record(here.path(), positions, two_sided(10, Sketching::Auto, 0));
        record(there.path(), positions, two_sided(10, Sketching::OnDevice, 0));
        for (made, right) in folded(there.path()).iter().zip(folded(here.path())) {
            assert!(norm(&right) > 0.1 && relative_error(made, &right) < 1e-5);
        }
        for dir in [&here, &there] {
            let run = Run::open(dir.path()).unwrap();
            let projected = run.manifest().two_sided().unwrap();
            assert_eq!(projected.len(), 2);
            assert!(projected.values().all(|one| (one.rows, one.columns) == (10, 10)));
            assert!(run.manifest().fold_places().iter().all(|place| *place == u64::MAX));
            let flags = u8s(dir.path(), BlockKind::Visits, Column::Flags);
            // With 25 positions an exact norm of a weight of 40 x 60 costs more than the layer.
            let is_estimated = positions == 25;
            assert!(flags.iter().all(|flag| (flag & Column::FLAG_NORM_ESTIMATED != 0) == is_estimated), "{flags:?}");
            for (norm, exact) in squared_norms(dir.path()).iter().zip(&exact) {
                let ratio = f64::from(*norm) / dot(exact, exact);
                assert!((ratio - 1.0).abs() < if is_estimated { 0.6 } else { 1e-4 }, "{ratio}");
            }
        }
    }
}

/// Over the seeds, dot products are those of the whole gradients.
#[test]
fn dot_products_are_unbiased() {
    const SEEDS: u64 = 150;
    let mut sums = [[0f64; COUNT]; COUNT];
    let mut squares = sums;
    let mut exact = Vec::new();
    for seed in 0..SEEDS {
        let dir = tempfile::tempdir().unwrap();
        exact = record(dir.path(), 3, two_sided(8, Sketching::Auto, seed));
        let made = folded(dir.path());
        for (i, j) in (0..COUNT).flat_map(|i| (0..COUNT).map(move |j| (i, j))) {
            let product = dot(&made[i], &made[j]);
            sums[i][j] += product;
            squares[i][j] += product * product;
        }
    }
    for (i, j) in (0..COUNT).flat_map(|i| (0..COUNT).map(move |j| (i, j))) {
        let (mean, right) = (sums[i][j] / SEEDS as f64, dot(&exact[i], &exact[j]));
        let deviation = (squares[i][j] / SEEDS as f64 - mean * mean).sqrt();
        assert!((mean - right).abs() < 5.0 * deviation / (SEEDS as f64).sqrt(), "{i} {j}: {mean} {right}");
        // The stated variance: three terms of at most the product of the squared norms, by the side of 8.
        let bound = 3.0 * dot(&exact[i], &exact[i]) * dot(&exact[j], &exact[j]) / 8.0 + right * right;
        assert!(deviation * deviation < 1.3 * bound, "{i} {j}: {} {bound}", deviation * deviation);
    }
}

#[test]
fn other_projections_do_not_mix_and_wrong_sides_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let zoo = Zoo::new();
    zoo.record(dir.path(), two_sided(2, Sketching::Auto, 0));
    let run = Run::open(dir.path()).unwrap();
    let named: Vec<String> = run
        .manifest()
        .two_sided()
        .unwrap()
        .keys()
        .map(|layer| run.manifest().layers[*layer as usize].name.clone())
        .collect();
    assert!(named.contains(&"conv".to_owned()) && named.contains(&"table".to_owned()), "{named:?}");
    // Tied layers are projected alike. A norm has no matrix.
    let has = |name: &str| named.contains(&name.to_owned());
    assert!(has("first") && has("second") && !has("norm"), "{named:?}");
    for folding in [Folding::Whole, Folding::TwoSided { side: 3 }] {
        let config = Config { folding, ..hashed(Sketching::Auto) };
        let error = Recorder::resume(dir.path(), &zoo.taps, config).err().unwrap();
        assert!(matches!(error, RecordError::Differs { .. }), "{error}");
        let words = error.to_string();
        assert!(words.contains("from both sides") && words.contains("`table` to 2 x 2"), "{words}");
    }
    // Where it was made does not matter.
    let config = two_sided(2, Sketching::OnDevice, 0);
    Recorder::resume(dir.path(), &zoo.taps, config).unwrap().finish().unwrap();
    for side in [0, 4097] {
        let config = Config { folding: Folding::TwoSided { side }, ..Config::default() };
        let error = Recorder::create(dir.path().join("new"), &zoo.taps, config).err().unwrap().to_string();
        assert!(error.contains("1 to 4,096"), "{error}");
    }
}

#[test]
fn every_kind_of_layer_has_the_same_two_sided_sketch_wherever_it_is_made() {
    let zoo = Zoo::new();
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    zoo.record(here.path(), two_sided(3, Sketching::Auto, 0));
    zoo.record(there.path(), two_sided(3, Sketching::OnDevice, 0));
    for (made, right) in folded(there.path()).iter().zip(folded(here.path())) {
        assert!(relative_error(made, &right) < 1e-5, "{}", relative_error(made, &right));
    }
    // Norms of short sketches are rough, and of a table they are exact in main memory alone.
    for dir in [&here, &there] {
        let flags = u8s(dir.path(), BlockKind::Visits, Column::Flags);
        assert!(flags.iter().all(|flag| flag & Column::FLAG_NORM_ESTIMATED != 0));
    }
    assert!(relative_error(&squared_norms(there.path()), &squared_norms(here.path())) < 0.5);
}

#[test]
fn probes_are_recorded_in_the_metric_of_adam() {
    let dir = tempfile::tempdir().unwrap();
    let zoo = Zoo::new();
    let config = two_sided(3, Sketching::OnDevice, 0);
    let mut recorder = Recorder::create(dir.path(), &zoo.taps, config).unwrap();
    use candle_nn::Optimizer;
    let params = gradlog::optim::AdamConfig::new(1e-3);
    let mut optimizer = gradlog::optim::AdamW::new(zoo.variables.all_vars(), params).unwrap();
    for step in 0..3 {
        let ids = [3 * step, 3 * step + 1, 3 * step + 2];
        let (x, y) = (tokens(&ids), labels(3));
        // Before the first step there are no moments.
        if step > 0 {
            let mut pass = recorder.probe("test", &[7, 8, 9]).unwrap();
            pass.cross_entropy(&zoo.logits(&tokens(&[7, 8, 9])), &y).unwrap().backward().unwrap();
            pass.commit().unwrap();
        }
        let mut pass = recorder.pass(&ids).unwrap();
        let loss = pass.cross_entropy(&zoo.logits(&x), &y).unwrap();
        pass.backward_step(&mut optimizer, &loss).unwrap();
    }
    recorder.finish().unwrap();
    let answer = InfluenceQuestion::new("test").compute(&Run::open(dir.path()).unwrap()).unwrap();
    assert!(answer.variant().contains("AdamW, second moments"), "{}", answer.variant());
    // So are norms of visits. Those of the optimizer's first step come before all moments.
    let blocks = blocks(dir.path(), BlockKind::Visits);
    let with = blocks.iter().filter(|b| b.has(Column::PreconditionedSquaredNorm));
    assert_eq!(with.map(|b| b.rows()).sum::<usize>(), 6);
}
