//! The neural tangent kernel from recorded gradients of logits, against candle's own backward on each logit alone.

use crate::common::*;
use gradlog::{RecordError, Recorder, TangentRows};
use gradlog_analysis::{Velocity, VelocityKernel, VelocityQuestion};
use gradlog_format::run::Run;

const EXAMPLES: usize = 5;

fn velocity(run: &Run, kernel: VelocityKernel) -> Velocity {
    VelocityQuestion::new("ntk").kernel(kernel).compute(run).unwrap()
}

/// `1 − ⟨K, K'⟩ / (‖K‖‖K'‖)` of the Gram matrices of two lists of gradients.
fn turn(before: &[Vec<f32>], after: &[Vec<f32>]) -> f64 {
    let kernel = |rows: &[Vec<f32>]| -> Vec<f64> {
        rows.iter().flat_map(|a| rows.iter().map(|b| dot(a, b)).collect::<Vec<f64>>()).collect()
    };
    let (a, b) = (kernel(before), kernel(after));
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    1.0 - product(&a, &b) / (product(&a, &a) * product(&b, &b)).sqrt()
}

fn sum(rows: &[&Vec<f32>]) -> Vec<f32> {
    (0..rows[0].len()).map(|at| rows.iter().map(|row| row[at]).sum()).collect()
}

/// A factored network and one with a folded convolution, each at two sets of weights.
#[test]
fn the_velocity_of_the_tangent_kernel_is_that_of_candles_own_gradients() {
    for (name, classes) in [("mlp", 3), ("cnn", 4)] {
        let network = match name {
            "mlp" => Network::mlp(EXAMPLES, 1, false),
            _ => Network::cnn(2, classes, EXAMPLES, 1, false),
        };
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::create(dir.path(), &network.taps, exact()).unwrap();
        let ids: Vec<u64> = (0..EXAMPLES as u64).collect();
        // Gradients [time][example · classes + class], by candle alone.
        let mut own: Vec<Vec<Vec<f32>>> = Vec::new();
        let mut network = network;
        for seed in [5, 6] {
            network = network.fill(seed, 0.6);
            let pass = recorder.tangents("ntk", &ids).unwrap();
            let done = pass.logits(|_, ids| network.logits(&network.examples.select(ids).x)).unwrap();
            assert_eq!((done.examples, done.classes), (EXAMPLES as u64, classes as u64));
            let one = |row: usize| {
                let logit = |z: &candle_core::Tensor| z.narrow(1, row % classes, 1).unwrap().sum_all().unwrap();
                network.gradient(&network.examples.x, row / classes, logit)
            };
            own.push((0..EXAMPLES * classes).map(one).collect());
            network.record_pass(&mut recorder, &ids, None, 0.1);
        }
        recorder.finish().unwrap();
        let run = Run::open(dir.path()).unwrap();
        let group = |rows: &[Vec<f32>], of: &dyn Fn(usize) -> usize, groups: usize| -> Vec<Vec<f32>> {
            let member = |group: usize| (0..rows.len()).filter(move |row| of(*row) == group);
            (0..groups).map(|at| sum(&member(at).map(|row| &rows[row]).collect::<Vec<_>>())).collect()
        };
        let (by_example, by_class) = (|row: usize| row / classes, |row: usize| row % classes);
        let expected = [
            (VelocityKernel::Tangent, turn(&own[0], &own[1])),
            (
                VelocityKernel::MeanLogit,
                turn(&group(&own[0], &by_example, EXAMPLES), &group(&own[1], &by_example, EXAMPLES)),
            ),
            (
                VelocityKernel::MeanExample,
                turn(&group(&own[0], &by_class, classes), &group(&own[1], &by_class, classes)),
            ),
        ];
        for (kernel, expected) in expected {
            let found = velocity(&run, kernel);
            assert_eq!((found.times, found.logits), (2, classes as u64));
            let got = found.groups[0].steps[0].velocity;
            assert!((got - expected).abs() < 1e-4 && expected > 0.01, "{name}, {kernel}: {got} for {expected}");
        }
        // The command says the same, and of which kernel.
        let path = dir.path().to_str().unwrap();
        let json = gradlog(&["velocity", path, "--set", "ntk", "--kernel", "tangent", "--format", "json"]).json();
        assert!(json["kernel"].as_str().unwrap().contains("neural tangent kernel of all logits"), "{json}");
        let got = json["rows"][0]["velocity"].as_f64().unwrap();
        assert!((got - velocity(&run, VelocityKernel::Tangent).groups[0].steps[0].velocity).abs() < 1e-9, "{json}");
    }
}

#[test]
fn logits_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let network = Network::mlp(EXAMPLES, 1, false).fill(3, 0.5);
    let mut recorder = Recorder::create(dir.path(), &network.taps, exact()).unwrap();
    let logits = |ids: &[u64]| network.logits(&network.examples.select(ids).x);
    let refused = |result: Result<TangentRows, RecordError>| result.unwrap_err().to_string();
    assert!(recorder.tangents("ntk", &[] as &[u64]).unwrap_err().to_string().contains("no examples"));
    let error = refused(recorder.tangents("ntk", &[0, 1]).unwrap().logits(|_, _| logits(&[0])));
    assert!(error.contains("one row for each id"), "{error}");
    let error = refused(recorder.tangents("ntk", &[0, 1]).unwrap().logits(|_, ids| logits(ids)?.flatten_all()));
    assert!(error.contains("needs logits [2, classes]"), "{error}");
    let error = refused(recorder.tangents("ntk", &[0]).unwrap().classes([]).logits(|_, ids| logits(ids)));
    assert!(error.contains("no classes"), "{error}");
    let error = refused(recorder.tangents("ntk", &[0]).unwrap().classes([7]).logits(|_, ids| logits(ids)));
    assert!(error.contains("class 7"), "{error}");
    let done = recorder.tangents("some", &[0, 2]).unwrap().classes([2, 0, 2]).logits(|_, ids| logits(ids)).unwrap();
    assert_eq!((done.examples, done.classes), (2, 2));
    recorder.finish().unwrap();
    assert_eq!(Run::open(dir.path()).unwrap().probe_sets().unwrap().last().unwrap(), "some/2");
}
