//! Tied layers that are projected from both sides: a table of tokens that is the head as well.

use super::*;
use candle_nn::{Linear, Optimizer};
use gradlog_format::sketch::Fold;

const COUNT: usize = 3;
const ROWS: usize = 200;
const COLUMNS: usize = 40;
const SIDE: usize = 10;

/// Records two visits of each example and a probe between, of a table that two heads share with a bias each. Returns
/// each example's exact gradient of the table and of both biases, at its first visit and at its second.
fn record(dir: &Path, config: Config) -> [Vec<Vec<f32>>; 2] {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let vb = builder(&variables);
    let table = embedding(ROWS, COLUMNS, vb.pp("table")).unwrap();
    let head = |name: &str| {
        let bias = vb.get(ROWS, name).unwrap();
        taps.tap(name, Linear::new(table.embeddings().clone(), Some(bias)))
    };
    let heads = [head("first"), head("second")];
    let table = taps.tap("table", table);
    variables.data().lock().unwrap().iter().for_each(|(name, variable)| {
        variable.set(&noise(name.len() as u64, variable.dims())).unwrap();
    });
    let ids: Vec<u32> = (0..COUNT * 5).map(|place| (place * place % 17) as u32).collect();
    let ids = Tensor::from_vec(ids, (COUNT, 5), &Device::Cpu).unwrap();
    let deltas = [noise(4, &[COUNT, 5, ROWS]), noise(5, &[COUNT, 5, ROWS])];
    let losses = |from: usize, count: usize| {
        let part = |t: &Tensor| t.narrow(0, from, count).unwrap();
        let x = table.forward(&part(&ids)).unwrap().tanh().unwrap();
        let of = |at: usize| (heads[at].forward(&x).unwrap() * part(&deltas[at])).unwrap();
        (of(0) + of(1)).unwrap().flatten_from(1).unwrap().sum(1).unwrap()
    };
    let mut recorder = Recorder::create(dir, &taps, config).unwrap();
    let names: Vec<u64> = (0..COUNT as u64).collect();
    let data = variables.data().lock().unwrap().clone();
    let gradient = |example: usize| {
        let grads = losses(example, 1).sum_all().unwrap().backward().unwrap();
        ["table.weight", "first", "second"].iter().flat_map(|name| numbers(grads.get(&data[*name]).unwrap())).collect()
    };
    let mut exact = [Vec::new(), Vec::new()];
    let params = gradlog::optim::AdamConfig::new(1e-3);
    let mut optimizer = gradlog::optim::AdamW::new(variables.all_vars(), params).unwrap();
    for (step, exact) in exact.iter_mut().enumerate() {
        exact.extend((0..COUNT).map(gradient));
        if step > 0 {
            let mut pass = recorder.probe("test", &names).unwrap();
            pass.losses(&losses(0, COUNT)).unwrap().backward().unwrap();
            pass.commit().unwrap();
        }
        let mut pass = recorder.pass(&names).unwrap();
        pass.reduction(gradlog::Reduction::Sum);
        let loss = pass.losses(&losses(0, COUNT)).unwrap();
        pass.backward_step(&mut optimizer, &loss).unwrap();
    }
    recorder.finish().unwrap();
    exact
}

/// What FORMAT.md makes of a gradient, before it is rotated.
fn project(run: &Run, gradient: &[f32]) -> Vec<f32> {
    let first = &run.manifest().layers[0];
    let (rows, columns) = (Fold::new(first.seed_delta, ROWS, SIDE), Fold::new(first.seed_input, COLUMNS, SIDE));
    let (weight, biases) = gradient.split_at(ROWS * COLUMNS);
    let narrow: Vec<Vec<f32>> = weight.chunks_exact(COLUMNS).map(|row| columns.apply(row)).collect();
    let mut numbers = vec![0f32; SIDE * SIDE];
    for column in 0..SIDE {
        let folded = rows.apply(&narrow.iter().map(|row| row[column]).collect::<Vec<f32>>());
        folded.iter().enumerate().for_each(|(row, value)| numbers[row * SIDE + column] = *value);
    }
    numbers.extend(biases);
    Fold::new(first.seed_folded, numbers.len(), 512).apply(&numbers)
}

#[test]
fn their_sketch_is_that_of_the_sum_of_their_gradients() {
    for sketching in [Sketching::Auto, Sketching::OnDevice] {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config { folding: Folding::TwoSided { side: SIDE as u32 }, ..hashed(sketching) };
        (config.sketch.folded_min, config.sketch.folded_max) = (512, 512);
        let [exact, _] = record(dir.path(), config);
        let run = Run::open(dir.path()).unwrap();
        assert_eq!(run.manifest().two_sided().unwrap().len(), 3);
        let mut torn = run.manifest().clone();
        let mut some: Vec<_> = torn.two_sided().unwrap().into_values().collect();
        some.sort_by_key(|one| one.layer);
        torn.extensions.retain(|field| field.tag != 4);
        torn.extensions.push(gradlog_format::log::Manifest::two_sided_field(&some[..2]).unwrap());
        assert!(torn.two_sided().unwrap_err().to_string().contains("is tied"));
        let made = folded(dir.path());
        let right: Vec<Vec<f32>> = exact.iter().map(|gradient| project(&run, gradient)).collect();
        assert!(dot(&right[0], &right[0]) > 1.0);
        for (i, j) in (0..COUNT).flat_map(|i| (0..COUNT).map(move |j| (i, j))) {
            // The rotation keeps dot products.
            let (made, wanted) = (dot(&made[i], &made[j]), dot(&right[i], &right[j]));
            let size = dot(&right[i], &right[i]).max(dot(&right[j], &right[j]));
            assert!((made - wanted).abs() < 1e-4 * size, "{sketching:?} {i} {j}: {made} {wanted}");
        }
        let answer = InfluenceQuestion::new("test").compute(&run).unwrap();
        assert!(answer.variant().contains("AdamW, second moments"), "{}", answer.variant());
        assert!(answer.scores.iter().all(|score| score.is_finite() && *score != 0.0), "{:?}", answer.scores);
    }
}

/// Only the sum of tied layers' gradients has a norm, so that of its sketch stands for it.
#[test]
fn their_norm_in_the_metric_of_adam_is_that_of_the_scaled_sketch() {
    for sketching in [Sketching::Auto, Sketching::OnDevice] {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config { folding: Folding::TwoSided { side: SIDE as u32 }, ..hashed(sketching) };
        (config.sketch.folded_min, config.sketch.folded_max) = (512, 512);
        let [first, second] = record(dir.path(), config);
        // After the first step the corrected moment is the square of the step's gradient.
        let moment = |k: usize| first.iter().map(|own| f64::from(own[k])).sum::<f64>().powi(2);
        let of_row = |row: usize| (0..COLUMNS).map(|column| moment(row * COLUMNS + column)).sum::<f64>();
        let of_column = |column: usize| (0..ROWS).map(|row| moment(row * COLUMNS + column)).sum::<f64>();
        let rows: Vec<f64> = (0..ROWS).map(of_row).collect();
        let columns: Vec<f64> = (0..COLUMNS).map(of_column).collect();
        let total: f64 = rows.iter().sum();
        let v = |k: usize| match k < ROWS * COLUMNS {
            true => rows[k / COLUMNS] * columns[k % COLUMNS] / total,
            false => moment(k),
        };
        let run = Run::open(dir.path()).unwrap();
        let blocks = blocks(dir.path(), BlockKind::Visits);
        let of_block = |b: &gradlog_format::run::Block| b.f32s(Column::PreconditionedSquaredNorm).unwrap();
        let with = blocks.iter().filter(|b| b.has(Column::PreconditionedSquaredNorm));
        let made: Vec<f32> = with.flat_map(of_block).collect();
        assert_eq!(made.len(), COUNT, "those of the second step");
        for (made, gradient) in made.iter().zip(&second) {
            let scaled: Vec<f32> =
                gradient.iter().enumerate().map(|(k, g)| (f64::from(*g) / v(k).sqrt().sqrt()) as f32).collect();
            let sketch = project(&run, &scaled);
            let (right, exact) = (dot(&sketch, &sketch), dot(&scaled, &scaled));
            assert!((f64::from(*made) / right - 1.0).abs() < 1e-3, "{sketching:?}: {made} {right}");
            assert!((right / exact - 1.0).abs() < 0.5, "{right} {exact}");
        }
        let flags = u8s(dir.path(), BlockKind::Visits, Column::Flags);
        assert!(flags.iter().all(|flag| flag & Column::FLAG_NORM_ESTIMATED != 0));
    }
}

/// Here no layer with positions is sketched during backward, so that `commit` decides how long the folded vector is.
#[test]
fn layers_that_commit_sketches_have_the_sketch_of_main_memory() {
    let run = |sketching| {
        let (taps, variables) = (Taps::new(), VarMap::new());
        let words = embedding(11, 4, builder(&variables).pp("words")).unwrap();
        variables.all_vars()[0].set(&noise(7, &[11, 4])).unwrap();
        let head = taps.tap("head", Linear::new(words.embeddings().clone(), None));
        let words = taps.tap("words", words);
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::create(dir.path(), &taps, Config { sketching, ..exact() }).unwrap();
        for _ in 0..2 {
            let mut pass = recorder.pass(&[0, 1, 2]).unwrap();
            let x = words.forward(&tokens(&[0, 1, 2])).unwrap().sum(1).unwrap().tanh().unwrap();
            pass.cross_entropy(&head.forward(&x).unwrap(), &labels(3)).unwrap().backward().unwrap();
            pass.commit(0.1).unwrap();
        }
        recorder.finish().unwrap();
        (folded(dir.path()), squared_norms(dir.path()))
    };
    let (right, made) = (run(Sketching::Auto), run(Sketching::OnDevice));
    for (made, right) in made.0.iter().zip(&right.0) {
        assert!(norm(right) > 0.1 && relative_error(made, right) < 1e-5, "{}", relative_error(made, right));
    }
    assert!(relative_error(&made.1, &right.1) < 1e-5);
}
