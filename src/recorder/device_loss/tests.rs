//! Losses by candle's ops against the closed forms of main memory: value, gradient, columns, coefficients, refusals.

use crate::recorder::loss::{self, Kind};
use crate::recorder::outputs::{Outputs, Weighing};
use crate::recorder::Reduction;
use crate::taps::Upstream;
use candle_core::{DType, Device, Result, Tensor, Var};
use gradlog_format::log::{Column, PredictionScore};

/// Numbers of a fixed sequence, from -1 to 1.
fn noise(seed: u64, shape: &[usize]) -> Tensor {
    let draw = |i: u64| {
        let state = (i + 1 + 1_000 * seed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        ((state ^ (state >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40) as f64 / (1u64 << 23) as f64 - 1.0
    };
    let numbers: Vec<f64> = (0..shape.iter().product::<usize>() as u64).map(draw).collect();
    Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

/// What one way says of a loss that is multiplied by 3 before backward.
struct Said {
    value: f64,
    gradient: Vec<f64>,
    outputs: Outputs,
    coefficients: Vec<f32>,
    delta: Vec<f64>,
    upstream: Option<f64>,
}

fn ask(kind: &Kind, output: &Tensor, target: &Tensor, weighing: &Weighing, on_device: bool) -> Result<Said> {
    let (var, upstream) = (Var::from_tensor(output)?, Upstream::default());
    let recorded = loss::closed_form(kind, (var.as_tensor(), target), weighing, &upstream, true, on_device)?;
    assert_eq!(recorded.loss.dtype(), output.dtype());
    assert_eq!(recorded.numbers.is_here(), !on_device);
    let grads = (&recorded.loss * 3.0)?.backward()?;
    let (gradient, delta) = (grads.get(&var).unwrap(), recorded.delta.unwrap());
    assert_eq!((gradient.shape(), gradient.dtype()), (output.shape(), output.dtype()));
    assert_eq!((delta.shape(), delta.dtype()), (output.shape(), DType::F32));
    let examples = recorded.examples;
    let (outputs, coefficients) = recorded.numbers.read()?;
    assert_eq!((outputs.loss.len(), outputs.describe_a_prediction()), (examples, recorded.predicts));
    Ok(Said {
        value: numbers(&recorded.loss)[0],
        gradient: numbers(gradient),
        outputs,
        coefficients,
        delta: numbers(&delta),
        upstream: upstream.get()?,
    })
}

/// What rounding may make of a number: so much of it, and so much of anything.
#[derive(Clone, Copy)]
struct Rounding(f64, f64);

impl Rounding {
    fn allows(self, made: f64, right: f64) -> bool {
        let Self(relative, absolute) = self;
        made == right || made.is_nan() && right.is_nan() || (made - right).abs() <= relative * right.abs() + absolute
    }
}

fn check(what: &str, made: &[f64], right: &[f64], rounding: Rounding) {
    assert_eq!(made.len(), right.len(), "{what}");
    for (i, (made, right)) in made.iter().zip(right).enumerate() {
        assert!(rounding.allows(*made, *right), "{what} {i}: {made} for {right}");
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

fn check_columns(what: &str, made: &Outputs, right: &Outputs, rounding: Rounding) {
    for ((column, made), (_, right)) in made.float_columns().into_iter().zip(right.float_columns()) {
        assert_eq!(made.is_some(), right.is_some(), "{what} {column:?}");
        if let (Some(made), Some(right)) = (made, right) {
            check(&format!("{what} {column:?}"), &wide(made), &wide(right), rounding);
        }
    }
    for ((column, made), (_, right)) in made.integer_columns().into_iter().zip(right.integer_columns()) {
        assert_eq!(made, right, "{what} {column:?}");
    }
    assert_eq!(made.scored, right.scored, "{what}");
}

/// What rounding makes of numbers, and of tensors of the outputs' type. A difference of two logits is rounded to a part
/// of the larger one, and its exponential carries that on. Differences from a soft target cancel.
fn roundings(output: &Tensor, target: &Tensor) -> [Rounding; 2] {
    let largest = numbers(output).into_iter().filter(|z| z.is_finite()).fold(0.0f64, |largest, z| largest.max(z.abs()));
    let relative = if output.dtype() == DType::F64 { 2.5e-7 } else { 1e-6 + 4e-7 * largest };
    let is_soft = target.dtype().is_float() && target.rank() == output.rank();
    let absolute = if is_soft { relative } else { 1e-37 };
    let (of_type, lost) = match output.dtype() {
        DType::F16 => (2e-3, 1e-7),
        DType::BF16 => (2e-2, 1e-37),
        DType::F64 => (1e-12, 1e-37),
        _ => (0.0, 0.0),
    };
    let of_tensors = if output.dtype() == DType::F64 { of_type } else { relative + of_type };
    [Rounding(relative, absolute), Rounding(of_tensors, absolute.min(of_tensors).max(lost))]
}

fn compare(what: &str, kind: &Kind, output: &Tensor, target: &Tensor, weighing: &Weighing) {
    let what = format!("{what} {:?} {weighing:?}", output.dtype());
    let right = ask(kind, output, target, weighing, false).unwrap_or_else(|e| panic!("{what}: {e}"));
    let made = ask(kind, output, target, weighing, true).unwrap_or_else(|e| panic!("{what}: {e}"));
    let [of_numbers, of_tensors] = roundings(output, target);
    check_columns(&what, &made.outputs, &right.outputs, of_numbers);
    check(&format!("{what} coefficient"), &wide(&made.coefficients), &wide(&right.coefficients), Rounding(2e-7, 0.0));
    check(&format!("{what} value"), &[made.value], &[right.value], of_tensors);
    check(&format!("{what} delta"), &made.delta, &right.delta, of_numbers);
    check(&format!("{what} gradient"), &made.gradient, &right.gradient, of_tensors);
    assert_eq!((made.upstream, right.upstream), (Some(3.0), Some(3.0)), "{what}");
}

const TYPES: [DType; 4] = [DType::F32, DType::F64, DType::BF16, DType::F16];

fn weighings(batch: usize) -> Vec<Weighing> {
    let weights: Vec<f32> = (0..batch).map(|i| [0.5, 0.0, 2.0, 1.0][i % 4]).collect();
    let all = [(Reduction::Mean, None), (Reduction::Sum, None), (Reduction::Mean, Some(weights.clone()))];
    let all = all.into_iter().chain([(Reduction::Sum, Some(weights))]);
    all.map(|(reduction, weights)| Weighing { reduction, weights }).collect()
}

fn cross_entropy(ignored: Option<i64>, mask: Option<&Tensor>) -> Kind {
    Kind::CrossEntropy { ignored, mask: mask.cloned() }
}

/// Logits of models that know nothing, something, and are sure to 1e-30.
fn logits(shape: &[usize], dtype: DType) -> Vec<Tensor> {
    [0.1, 4.0, 35.0].map(|scale| (noise(5, shape) * scale).unwrap().to_dtype(dtype).unwrap()).to_vec()
}

#[test]
fn cross_entropy_of_class_numbers() {
    let y = Tensor::new(&[2u32, 0, 3, 1, 2, 2], &Device::Cpu).unwrap();
    let mask = Tensor::new(&[1u8, 1, 0, 1, 1, 0], &Device::Cpu).unwrap();
    for z in TYPES.into_iter().flat_map(|dtype| logits(&[6, 4], dtype)) {
        for weighing in weighings(6) {
            compare("classes", &cross_entropy(None, None), &z, &y, &weighing);
            compare("mask", &cross_entropy(None, Some(&mask)), &z, &y, &weighing);
            let turned = z.t().unwrap().contiguous().unwrap().t().unwrap();
            compare("not contiguous", &cross_entropy(Some(2), None), &turned, &y, &weighing);
        }
    }
}

#[test]
fn cross_entropy_of_positions() {
    let targets: [i64; 12] = [0, 1, 2, 3, 4, -100, 1, 2, -100, -100, -100, -100];
    let y = Tensor::from_slice(&targets, (3, 4), &Device::Cpu).unwrap();
    let all = Tensor::from_slice(&targets.map(|y| y.max(0)), (3, 4), &Device::Cpu).unwrap();
    let mask = Tensor::from_slice(&[1f32, 0., 1., 1., 1., 1., 1., 1., 0., 0., 0., 0.], (3, 4), &Device::Cpu).unwrap();
    for z in TYPES.into_iter().flat_map(|dtype| logits(&[3, 4, 5], dtype)) {
        for weighing in weighings(3) {
            compare("all", &cross_entropy(None, None), &z, &all, &weighing);
            compare("ignored", &cross_entropy(Some(-100), None), &z, &y, &weighing);
            compare("mask", &cross_entropy(None, Some(&mask)), &z, &all, &weighing);
            compare("both", &cross_entropy(Some(-100), Some(&mask)), &z, &y, &weighing);
        }
    }
}

#[test]
fn cross_entropy_of_soft_targets() {
    let shares = |shape: &[usize], sharp: f64| {
        candle_nn::ops::softmax(&(noise(9, shape) * sharp).unwrap(), shape.len() - 1).unwrap()
    };
    let smooth = Tensor::new(&[[0.1f64, 0.8, 0.1], [0.0, 0.0, 1.0], [0.4, 0.2, 0.4], [1.0, 0.0, 0.0]], &Device::Cpu);
    let smooth = smooth.unwrap();
    let mask = Tensor::new(&[[1u8, 1], [1, 0], [0, 0]], &Device::Cpu).unwrap();
    for dtype in TYPES {
        let compute = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        for weighing in weighings(4) {
            for z in logits(&[4, 3], dtype) {
                compare("smooth", &cross_entropy(None, None), &z, &smooth.to_dtype(compute).unwrap(), &weighing);
                let shares = shares(&[4, 3], 1.5).to_dtype(compute).unwrap();
                compare("shares", &cross_entropy(None, None), &z, &shares, &weighing);
            }
        }
        for weighing in weighings(3) {
            let (z, t) = (&logits(&[3, 2, 5], dtype)[1], shares(&[3, 2, 5], 3.0).to_dtype(compute).unwrap());
            compare("positions", &cross_entropy(None, None), z, &t, &weighing);
            compare("masked positions", &cross_entropy(None, Some(&mask)), z, &t, &weighing);
        }
    }
}

#[test]
fn elementwise_losses() {
    for dtype in TYPES {
        for shape in [vec![5], vec![5, 1], vec![5, 3], vec![5, 2, 3]] {
            let t = noise(6, &shape).to_dtype(dtype).unwrap();
            let shares = ((noise(6, &shape) + 1.0).unwrap() / 2.0).unwrap().to_dtype(dtype).unwrap();
            let classes = t.ge(0.0).unwrap().to_dtype(DType::U8).unwrap();
            for o in logits(&shape, dtype) {
                for weighing in weighings(5) {
                    compare("squares", &Kind::MeanSquaredError, &o, &t, &weighing);
                    compare("shares", &Kind::BinaryCrossEntropy, &o, &shares, &weighing);
                    compare("classes", &Kind::BinaryCrossEntropy, &o, &classes, &weighing);
                }
            }
        }
    }
}

#[test]
fn errors_whose_squares_underflow_are_no_zeros() {
    let o = Tensor::new(&[[1e-25f32, 0.0], [3.0, 4.0], [0.0, 0.0]], &Device::Cpu).unwrap();
    let t = o.zeros_like().unwrap();
    let made = ask(&Kind::MeanSquaredError, &o, &t, &Weighing::default(), true).unwrap();
    check("norm", &wide(&made.outputs.el2n.unwrap()), &[1e-25, 5.0, 0.0], Rounding(1e-6, 0.0));
    let z = Tensor::new(&[[50f32, 50.0], [-50.0, 0.0]], &Device::Cpu).unwrap();
    let t = Tensor::new(&[[1f32, 1.0], [0.0, 0.5]], &Device::Cpu).unwrap();
    compare("sure", &Kind::BinaryCrossEntropy, &z, &t, &Weighing::default());
}

#[test]
fn scores_of_predictions() {
    let given = Tensor::new(&[2u32, 0, 3, 1, 2, 2], &Device::Cpu).unwrap();
    let predicted = Tensor::zeros(0, DType::U32, &Device::Cpu).unwrap();
    for z in TYPES.into_iter().flat_map(|dtype| logits(&[6, 4], dtype)) {
        for score in [PredictionScore::Logit, PredictionScore::Margin, PredictionScore::LogOdds] {
            for weighing in weighings(6) {
                compare("given", &Kind::PredictionScore(score), &z, &given, &weighing);
                compare("predicted", &Kind::PredictionScore(score), &z, &predicted, &weighing);
            }
        }
    }
}

#[test]
fn logits_beside_a_loss() {
    let y = Tensor::new(&[[2i64, -1], [0, 1], [-1, -1]], &Device::Cpu).unwrap();
    let soft = candle_nn::ops::softmax(&noise(3, &[3, 2, 4]), 2).unwrap();
    for dtype in TYPES {
        let z = &logits(&[3, 2, 4], dtype)[1];
        for (target, ignored) in [(&y, Some(-1)), (&soft, None)] {
            let [made, right] = [true, false].map(|on_device| {
                loss::describe_logits(z, target, ignored, None, on_device).and_then(|said| said.read()).unwrap()
            });
            check_columns("described", &made, &right, roundings(z, target)[0]);
        }
    }
}

/// Ties, one class, classes that cannot be, and logits that are no numbers.
#[test]
fn logits_at_the_edge() {
    let infinite = f32::NEG_INFINITY;
    let rows = [[1f32, 1.0, 1.0], [2.0, 2.0, 0.0], [0.0, 2.0, 2.0], [3.0, infinite, infinite], [0.0, infinite, 1.0]];
    let z = Tensor::new(&rows, &Device::Cpu).unwrap();
    for labels in [[0u32; 5], [1, 1, 2, 0, 0], [2, 0, 1, 0, 2]] {
        let y = Tensor::new(&labels, &Device::Cpu).unwrap();
        compare("edge", &cross_entropy(None, None), &z, &y, &Weighing::default());
    }
    let one = Tensor::new(&[[3f32], [-1.0]], &Device::Cpu).unwrap();
    compare(
        "one",
        &cross_entropy(None, None),
        &one,
        &Tensor::zeros(2, DType::U32, &Device::Cpu).unwrap(),
        &Weighing::default(),
    );
    // An infinite loss, and NaN.
    let z = Tensor::new(
        &[[infinite, 1.0, 0.0], [f32::NAN, 1.0, 0.0], [0.0, f32::NAN, 1.0], [0.0, f32::INFINITY, 1.0]],
        &Device::Cpu,
    );
    let y = Tensor::new(&[0u32, 1, 0, 0], &Device::Cpu).unwrap();
    for on_device in [false, true] {
        let said = ask(&cross_entropy(None, None), z.as_ref().unwrap(), &y, &Weighing::default(), on_device).unwrap();
        assert_eq!(said.outputs.loss[0], f32::INFINITY);
        assert!(said.outputs.loss[1..].iter().all(|loss| loss.is_nan()), "{:?}", said.outputs.loss);
        assert_eq!(said.outputs.prediction.as_ref().unwrap()[..3], [1, Column::NO_CLASS, Column::NO_CLASS]);
        assert!((0..4).all(|i| !said.outputs.is_finite(i)));
        assert!(said.value.is_nan() && said.gradient[3..].iter().all(|g| g.is_nan()));
    }
}

/// An example without weight, or a position that does not count, may hold anything.
#[test]
fn what_does_not_count_may_be_nan() {
    let nan = f32::NAN;
    let z = Tensor::new(&[[[1f32, 2.0], [nan, 0.0]], [[0.5, -1.0], [3.0, 1.0]]], &Device::Cpu).unwrap();
    let y = Tensor::new(&[[0i64, -1], [1, 1]], &Device::Cpu).unwrap();
    compare("position", &cross_entropy(Some(-1), None), &z, &y, &Weighing::default());
    let z = Tensor::new(&[[nan, 2.0], [0.5, -1.0]], &Device::Cpu).unwrap();
    let y = Tensor::new(&[0u32, 1], &Device::Cpu).unwrap();
    let weighing = Weighing { weights: Some(vec![0.0, 1.0]), ..Weighing::default() };
    compare("example", &cross_entropy(None, None), &z, &y, &weighing);
}

/// The words of an error, without a trace of where it was made.
fn first_line(error: candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// What is wrong is said in the same words, and the loss is NaN until then.
#[test]
fn wrong_targets_are_refused_in_the_same_words() {
    let z = noise(5, &[2, 3]).to_dtype(DType::F32).unwrap();
    let new = |numbers: &[f32], shape: &[usize]| Tensor::from_slice(numbers, shape, &Device::Cpu).unwrap();
    let classes = |numbers: [i64; 2]| Tensor::new(&numbers, &Device::Cpu).unwrap();
    let plain = || cross_entropy(None, None);
    let mask = new(&[1.0, 0.5], &[2]);
    let cases = [
        (plain(), classes([3, 0])),
        (plain(), classes([0, -1])),
        (plain(), classes([0, 1 << 40])),
        (cross_entropy(Some(-2), None), classes([-1, -2])),
        (cross_entropy(None, Some(&mask)), classes([0, 1])),
        (plain(), new(&[0.5, 0.25, 0.25, 0.5, 0.5, 0.5], &[2, 3])),
        (plain(), new(&[0.5, 0.25, 0.25, 1.5, -0.5, 0.0], &[2, 3])),
        (plain(), new(&[0.5, 0.25, 0.25, f32::NAN, 0.5, 0.5], &[2, 3])),
        (Kind::BinaryCrossEntropy, new(&[0.5, 0.0, 1.0, 1.5, 0.5, 0.0], &[2, 3])),
        (Kind::BinaryCrossEntropy, new(&[0.5, 0.0, 1.0, -0.5, 0.5, 0.0], &[2, 3])),
        (Kind::BinaryCrossEntropy, new(&[0.5, 0.0, 1.0, f32::NAN, 0.5, 0.0], &[2, 3])),
        (Kind::PredictionScore(PredictionScore::Margin), classes([0, 3])),
        (Kind::PredictionScore(PredictionScore::Logit), classes([0, -1])),
    ];
    for (place, (kind, target)) in cases.iter().enumerate() {
        let (weighing, upstream) = (Weighing::default(), Upstream::default());
        let refused = |on_device| ask(kind, &z, target, &weighing, on_device).err().map(first_line);
        let (right, made) = (refused(false), refused(true));
        assert!(right.is_some() && made == right, "{place}: {made:?} for {right:?}");
        let var = Var::from_tensor(&z).unwrap();
        let loss = loss::closed_form(kind, (var.as_tensor(), target), &weighing, &upstream, false, true).unwrap().loss;
        let grads = loss.backward().unwrap();
        assert!(numbers(&loss)[0].is_nan(), "{place}");
        assert!(numbers(grads.get(&var).unwrap()).iter().any(|g| g.is_nan()), "{place}");
    }
    // Shapes and types are refused at once.
    for (kind, target) in [
        (plain(), new(&[0.0, 1.0], &[2])),
        (plain(), Tensor::new(&[0u32, 0, 0], &Device::Cpu).unwrap()),
        (cross_entropy(Some(0), None), new(&[1.0, 0.0, 0.0, 0.0, 1.0, 0.0], &[2, 3])),
        (Kind::MeanSquaredError, new(&[0.0, 1.0], &[2])),
        (Kind::PredictionScore(PredictionScore::Logit), new(&[0.0, 1.0], &[2])),
    ] {
        let [made, right] = [true, false].map(|on_device| {
            let made =
                loss::closed_form(&kind, (&z, &target), &Weighing::default(), &Upstream::default(), false, on_device);
            made.err().map(first_line)
        });
        assert!(made.is_some() && made == right, "{made:?} for {right:?}");
    }
}

/// candle_nn's own losses and backward, which share nothing with the closed forms.
#[test]
fn losses_are_candles() {
    let (z, y) = (&logits(&[5, 4], DType::F64)[1], Tensor::new(&[2u32, 0, 3, 1, 2], &Device::Cpu).unwrap());
    let t = noise(2, &[5, 4]).ge(0.0).unwrap().to_dtype(DType::F64).unwrap();
    type Theirs = fn(&Tensor, &Tensor) -> Result<Tensor>;
    let cases: [(Kind, &Tensor, Theirs); 3] = [
        (cross_entropy(None, None), &y, candle_nn::loss::cross_entropy),
        (Kind::MeanSquaredError, &t, candle_nn::loss::mse),
        (Kind::BinaryCrossEntropy, &t, candle_nn::loss::binary_cross_entropy_with_logit),
    ];
    for (kind, target, theirs) in cases {
        let var = Var::from_tensor(z).unwrap();
        let theirs = theirs(var.as_tensor(), target).unwrap();
        let made = ask(&kind, z, target, &Weighing::default(), true).unwrap();
        check("value", &[made.value], &numbers(&theirs), Rounding(1e-9, 0.0));
        let gradient = numbers((theirs * 3.0).unwrap().backward().unwrap().get(&var).unwrap());
        let largest = gradient.iter().fold(0.0f64, |largest, g| largest.max(g.abs()));
        assert!(made.gradient.iter().zip(&gradient).all(|(made, right)| (made - right).abs() < 1e-9 * largest));
    }
}
