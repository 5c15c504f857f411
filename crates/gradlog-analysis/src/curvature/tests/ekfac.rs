//! EK-FAC against its formulas, written out in f64. Eigenvectors are found by Jacobi's rotations.

use super::{close, one, solve};
use crate::{
    AnalysisError, Curvature, Damping, EstimateQuestion, Influence, InfluenceQuestion, Method, Normalization, Window,
};
use gradlog_format::log::Column;
use gradlog_format::sketch::Encoding;
use gradlog_testing::{decoded, visits, Draws, Synthetic, Visit, Written};
use std::collections::BTreeMap;

type Matrix = Vec<Vec<f64>>;
/// Input and output gradient of a layer.
type Sides = (Vec<f64>, Vec<f64>);

const DAMPINGS: [Damping; 3] = [Damping::Relative(0.1), Damping::Absolute(0.02), Damping::Relative(3.0)];

/// Eigenvectors of a symmetric matrix, as rows.
fn eigenvectors(mut a: Matrix) -> Matrix {
    let n = a.len();
    let mut vectors: Matrix = (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    for _ in 0..60 {
        for p in 0..n {
            for q in p + 1..n {
                if a[p][q].abs() < 1e-300 {
                    continue;
                }
                let angle = 0.5 * f64::atan2(2.0 * a[p][q], a[p][p] - a[q][q]);
                let (s, c) = angle.sin_cos();
                for row in &mut a {
                    (row[p], row[q]) = (c * row[p] + s * row[q], c * row[q] - s * row[p]);
                }
                for matrix in [&mut a, &mut vectors] {
                    let (x, y) = (matrix[p].clone(), matrix[q].clone());
                    matrix[p] = x.iter().zip(&y).map(|(x, y)| c * x + s * y).collect();
                    matrix[q] = x.iter().zip(&y).map(|(x, y)| c * y - s * x).collect();
                }
            }
        }
    }
    vectors
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// `Σ w x xᵀ / Σ w`.
fn moment(rows: &[Vec<f64>], weights: &[f64]) -> Matrix {
    let total: f64 = weights.iter().sum();
    let at = |i: usize, j: usize| rows.iter().zip(weights).map(|(x, w)| w * x[i] * x[j]).sum::<f64>() / total;
    let n = rows[0].len();
    (0..n).map(|i| (0..n).map(|j| at(i, j)).collect()).collect()
}

/// Inputs and output gradients of `fc`, whose bias is a 1 behind its input, and of `head`; the folded vector of `conv`.
fn parts(visit: &Visit) -> ([Sides; 2], Vec<f64>) {
    let [mut a, d, b, e, folded]: [Vec<f64>; 5] =
        decoded(visit, Encoding::F32).map(|part| part.into_iter().map(f64::from).collect());
    a.push(1.0);
    ([(a, d), (b, e)], folded)
}

/// A layer's eigenvectors and fitted eigenvalues.
struct Fitted {
    inputs: Matrix,
    deltas: Matrix,
    values: Matrix,
}

/// What the curvature is, by rows and weights.
struct Model {
    layers: [Fitted; 2],
    folded: Matrix,
}

impl Model {
    fn new(rows: &[&Visit], weights: &[f64]) -> Self {
        let all: Vec<_> = rows.iter().map(|row| parts(row)).collect();
        let total: f64 = weights.iter().sum();
        let layers = [0, 1].map(|layer| {
            let a: Matrix = all.iter().map(|(sides, _)| sides[layer].0.clone()).collect();
            let d: Matrix = all.iter().map(|(sides, _)| sides[layer].1.clone()).collect();
            let (inputs, deltas) = (eigenvectors(moment(&a, weights)), eigenvectors(moment(&d, weights)));
            let value = |u: &Vec<f64>, v: &Vec<f64>| {
                let term = |((a, d), w): ((&Vec<f64>, &Vec<f64>), &f64)| w * (dot(u, d) * dot(v, a)).powi(2);
                a.iter().zip(&d).zip(weights).map(term).sum::<f64>() / total
            };
            let values = deltas.iter().map(|u| inputs.iter().map(|v| value(u, v)).collect()).collect();
            Fitted { inputs, deltas, values }
        });
        let folded: Matrix = all.iter().map(|(_, folded)| folded.clone()).collect();
        Self { layers, folded: moment(&folded, weights) }
    }

    /// What a damping adds in `fc`, `head` and `conv`.
    fn lambdas(&self, damping: Damping) -> [f64; 3] {
        let mean = |values: Vec<f64>| match damping {
            Damping::Relative(factor) => factor * values.iter().sum::<f64>() / values.len() as f64,
            Damping::Absolute(lambda) => lambda,
        };
        let trace = (0..self.folded.len()).map(|i| self.folded[i][i]).collect();
        [mean(self.layers[0].values.concat()), mean(self.layers[1].values.concat()), mean(trace)]
    }

    /// `gᵀ (H + λI)⁻¹ g'` of two weighted sums of gradients.
    fn product(&self, one: &[(&Visit, f64)], other: &[(&Visit, f64)], damping: Damping) -> f64 {
        let lambdas = self.lambdas(damping);
        let mut sum = 0.0;
        for (layer, fitted) in self.layers.iter().enumerate() {
            let at = |visits: &[(&Visit, f64)], u: &[f64], v: &[f64]| -> f64 {
                let sides = |visit: &Visit| parts(visit).0[layer].clone();
                let term = |(visit, w): &(&Visit, f64)| w * dot(u, &sides(visit).1) * dot(v, &sides(visit).0);
                visits.iter().map(term).sum()
            };
            for (u, values) in fitted.deltas.iter().zip(&fitted.values) {
                for (v, value) in fitted.inputs.iter().zip(values) {
                    sum += at(one, u, v) * at(other, u, v) / (value + lambdas[layer]);
                }
            }
        }
        let mut damped = self.folded.clone();
        damped.iter_mut().enumerate().for_each(|(i, row)| row[i] += lambdas[2]);
        let folded = |visits: &[(&Visit, f64)]| -> Vec<f64> {
            let all: Vec<(Vec<f64>, f64)> = visits.iter().map(|(visit, w)| (parts(visit).1, *w)).collect();
            (0..damped.len()).map(|i| all.iter().map(|(x, w)| w * x[i]).sum()).collect()
        };
        sum + dot(&solve(damped.clone(), folded(one)), &folded(other))
    }
}

/// Visits of four epochs with weights in the loss, probes at two times, and rows of curvature.
fn story() -> (Vec<Visit>, Vec<f64>, Vec<Visit>, Vec<Visit>, Written) {
    let mut draws = Draws(23);
    let mut all = visits(&mut draws, 10, 3, 5);
    let mut weights = Vec::new();
    for visit in &mut all {
        let weight = [0.5f32, 1.0, 2.0][draws.below(3) as usize];
        visit.coefficient *= weight;
        weights.push(f64::from(weight));
    }
    let probes: Vec<Visit> = [0, 6].iter().flat_map(|time| [900, 901].map(|id| draws.visit(id, *time, 0))).collect();
    let curvature = |id: u64| {
        let weight = Some(0.1 + 0.1 * (id % 4) as f32);
        Visit { set: 1, curvature_weight: weight, ..Draws(id + 70).visit(id + 2000, 6, 0) }
    };
    let curvature: Vec<Visit> = (0..40).map(curvature).collect();
    let mut run = Synthetic::new(Encoding::F32);
    run.set(0, "test");
    run.set(1, "fisher");
    run.probes(&probes);
    run.probes(&curvature);
    for rows in all.chunks(7) {
        run.visits(rows);
    }
    run.end();
    (all, weights, probes, curvature, run.finish())
}

fn asked() -> EstimateQuestion {
    EstimateQuestion::new(InfluenceQuestion::new("test"), Method::Ekfac).dampings(DAMPINGS)
}

/// The visits of each example with their weights.
fn by_example<'a>(visits: &[(&'a Visit, f64)]) -> BTreeMap<u64, Vec<(&'a Visit, f64)>> {
    let mut map: BTreeMap<u64, Vec<(&Visit, f64)>> = BTreeMap::new();
    for (visit, weight) in visits {
        map.entry(visit.example).or_default().push((visit, *weight));
    }
    map
}

fn score(influence: &Influence, example: u64, probe: usize) -> f64 {
    influence.score(influence.rows.iter().position(|row| row.example == example).unwrap(), probe)
}

/// All examples and dampings, for the probes at the end of the run.
fn compare(found: &[Influence], model: &Model, used: &[(&Visit, f64)], probes: &[Visit], relatif: bool) {
    let examples = by_example(used);
    let total: f64 = used.iter().map(|(_, weight)| weight).sum();
    for (damping, found) in DAMPINGS.into_iter().zip(found) {
        assert_eq!(found.rows.len(), examples.len());
        for (number, probe) in probes.iter().filter(|probe| probe.step == 6).enumerate() {
            for (example, visits) in &examples {
                let mut expected = model.product(&[(probe, 1.0)], visits, damping) / total;
                if relatif {
                    let own = model.product(visits, visits, damping) / total.powi(2);
                    expected /= own.sqrt() * examples.len() as f64;
                }
                let got = score(found, *example, number);
                assert!(close(got, expected, 2e-5), "{damping}, {example}: {got} for {expected}");
            }
        }
        let about = found.estimate.as_ref().unwrap();
        assert!(about.by_layer && about.exact && about.length == 33, "{about:?}");
        let lambdas = model.lambdas(damping);
        assert!(about.lambdas.len() == 3 && about.lambdas.iter().zip(lambdas).all(|(a, b)| close(*a, b, 1e-6)));
    }
}

#[test]
fn ekfac_is_its_formula() {
    let (all, weights, probes, _, written) = story();
    let run = written.run();
    for window in [Window::everything(), Window::epochs(2..3)] {
        let used: Vec<(&Visit, f64)> = all.iter().zip(weights.clone()).collect();
        let used: Vec<(&Visit, f64)> =
            used.into_iter().filter(|(visit, _)| window == Window::everything() || visit.epoch == 2).collect();
        let (rows, of_rows): (Vec<&Visit>, Vec<f64>) = used.iter().copied().unzip();
        let model = Model::new(&rows, &of_rows);
        for relatif in [false, true] {
            let mut asked = asked();
            asked.question.window = window.clone();
            if relatif {
                asked.question.normalization = Normalization::Relatif;
            }
            let found = asked.compute(&run).unwrap();
            compare(&found, &model, &used, &probes, relatif);
            let said = found[0].variant();
            assert!(said.contains("EK-FAC") && said.contains("empirical Fisher of the visits"), "{said}");
            assert!(said.contains("Kronecker factors of 2 layers, the inverse matrix of 1 layer folded"), "{said}");
            assert!(found[0].basis.to_string().contains("weights of the loss"), "{}", found[0].basis);
            assert_eq!(found[0].estimate.as_ref().unwrap().curvature_rows, used.len() as u64);
        }
    }
}

#[test]
fn ekfac_takes_recorded_curvature() {
    let (all, weights, probes, curvature, written) = story();
    let rows: Vec<&Visit> = curvature.iter().collect();
    let of_rows: Vec<f64> = curvature.iter().map(|row| f64::from(row.curvature_weight.unwrap())).collect();
    let model = Model::new(&rows, &of_rows);
    let found = asked().curvature(Curvature::Set("fisher".into())).compute(&written.run()).unwrap();
    let used: Vec<(&Visit, f64)> = all.iter().zip(weights).collect();
    compare(&found, &model, &used, &probes, false);
    let said = found[0].variant();
    assert!(said.contains("curvature rows of the probe set `fisher`, 40 rows"), "{said}");
}

/// Sides that are longer than was asked for are folded, and the answer says so.
#[test]
fn long_sides_are_folded() {
    let (.., written) = story();
    let found = &asked().length(3).compute(&written.run()).unwrap()[0];
    let about = found.estimate.as_ref().unwrap();
    // fc: 3 numbers and a 1 by 3, head: 3 by 2, folded: 3.
    assert_eq!((about.exact, about.length), (false, 12 + 6 + 3));
    let said = found.variant();
    assert!(said.contains("folded in 21 numbers") && said.contains("2 layers (2 with a projected side)"), "{said}");
    assert!(found.scores.iter().all(|score| score.is_finite()));
}

#[test]
fn ekfac_refuses_what_has_no_factors() {
    let (.., written) = story();
    let run = written.run();
    let refused = |asked: EstimateQuestion| asked.compute(&run).unwrap_err();
    let error = refused(asked().curvature(Curvature::Nothing)).to_string();
    assert!(error.contains("influence functions and EK-FAC"), "{error}");
    assert!(matches!(refused(asked().curvature(Curvature::Set("nope".into()))), AnalysisError::NoSuchSet { .. }));
    assert!(matches!(refused(asked().dampings([])), AnalysisError::OutOfRange { .. }));
    assert!(matches!(refused(asked().damping(Damping::Absolute(-1.0))), AnalysisError::OutOfRange { .. }));
    let mut cosine = asked();
    cosine.question.normalization = Normalization::Cosine;
    assert!(refused(cosine).to_string().contains("relatif for influence functions and EK-FAC"));
    let mut sweeps = asked();
    sweeps.question.window = Window::sweeps();
    assert!(matches!(refused(sweeps), AnalysisError::OnlyVisits { .. }));

    // A run of folded layers alone.
    let mut draws = Draws(5);
    let mut folded = Synthetic::new(Encoding::F32);
    folded.without = vec![Column::Input, Column::Delta];
    folded.set(0, "test");
    folded.probes(&[draws.visit(900, 9, 0)]);
    folded.visits(&visits(&mut draws, 6, 1, 3));
    folded.end();
    let folded = folded.finish();
    let error = EstimateQuestion::new(one(900), Method::Ekfac).compute(&folded.run()).unwrap_err();
    assert!(matches!(error, AnalysisError::Missing { .. }), "{error}");
    assert!(error.to_string().contains("ask for these"), "{error}");

    // A layer whose output gradients are all 0, with a damping that goes by them.
    let dead = |visit: Visit| {
        let mut parts = visit.parts.clone();
        parts[3] = vec![0.0; parts[3].len()];
        Visit { parts, ..visit }
    };
    let mut run = Synthetic::new(Encoding::F32);
    run.set(0, "test");
    run.probes(&[draws.visit(900, 9, 0)]);
    run.visits(&visits(&mut draws, 6, 1, 3).into_iter().map(dead).collect::<Vec<Visit>>());
    run.end();
    let run = run.finish();
    let ask = |damping| EstimateQuestion::new(one(900), Method::Ekfac).damping(damping).compute(&run.run());
    let error = ask(Damping::Relative(0.1)).unwrap_err();
    assert!(matches!(&error, AnalysisError::Singular { block, .. } if block == "head"), "{error}");
    assert!(ask(Damping::Absolute(0.1)).is_ok());
}
