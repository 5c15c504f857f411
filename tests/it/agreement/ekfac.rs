//! EK-FAC from the log against kronfluence, on a trained MLP.
//!
//! The weights are loaded, and all examples are recorded in one pass without a step. Conventions:
//!
//! - Sign: both have `g_z'ᵀ (H + λI)⁻¹ g_z`. kronfluence's measurement is here the probe's loss, so positive helped.
//! - Sums and means: kronfluence's curvature is a mean over examples, its score has no `1/N`. Its self-influence is
//!   `g_zᵀ (H + λI)⁻¹ g_z`, what ℓ-RelatIF takes the root of.
//! - Damping: kronfluence's default is 0.1 of the mean of `Λ`, module by module; a given one is absolute.
//! - Labels: kronfluence draws labels from the model or takes those of the data. Its Gauss-Newton factors are fitted to
//!   a data set that has every label by its probability, so nothing is drawn on either side.

use super::{Reference, Table};
use crate::common::*;
use gradlog::Recorder;
use gradlog_analysis::{Curvature, Damping, EstimateQuestion, Influence, InfluenceQuestion, Method, Normalization};
use gradlog_format::run::Run;
use std::path::Path;

const DAMPINGS: [(&str, Damping); 3] =
    [("default", Damping::Relative(0.1)), ("1e-2", Damping::Absolute(1e-2)), ("1e-4", Damping::Absolute(1e-4))];

/// Records probes, curvature and all examples at the reference's weights.
fn record(reference: &Reference, dir: &Path) {
    let network = reference.network();
    reference.set_weights(&network, 0);
    let mut recorder = Recorder::create(dir, &network.taps, exact()).unwrap();
    let probes: Vec<u64> = (0..reference.count("probes") as u64).collect();
    let ids: Vec<u64> = (0..reference.count("examples") as u64).collect();
    network.record_probes(&mut recorder, "test", &probes);
    let pass = recorder.curvature("gauss-newton", &ids).unwrap().min_probability(0.0);
    pass.cross_entropy(|_, ids| network.logits(&network.examples.select(ids).x)).unwrap();
    let mut pass = recorder.pass(&ids).unwrap();
    let loss = pass.cross_entropy(&network.logits(&network.examples.x).unwrap(), &network.examples.y).unwrap();
    loss.backward().unwrap();
    pass.commit(0.1).unwrap();
    recorder.finish().unwrap();
}

/// Scores times the number of examples, `[examples, probes]`.
fn scores(answer: &Influence, examples: usize) -> Vec<f32> {
    let columns: Vec<Vec<f32>> =
        (0..answer.probes.len()).map(|probe| influence_by_example(answer, probe, examples)).collect();
    (0..examples).flat_map(|example| columns.iter().map(move |column| column[example] * examples as f32)).collect()
}

/// Compares scores and self-influence for each curvature and damping.
pub fn compare(reference: &Reference, table: &mut Table) {
    let dir = tempfile::tempdir().unwrap();
    record(reference, dir.path());
    let run = Run::open(dir.path()).unwrap();
    let examples = reference.count("examples");
    let ask = |curvature: &Curvature, normalization| {
        let question = InfluenceQuestion::new("test").normalization(normalization);
        let asked = EstimateQuestion::new(question, Method::Ekfac).curvature(curvature.clone());
        asked.dampings(DAMPINGS.map(|(_, damping)| damping)).compute(&run).unwrap()
    };
    let curvatures = [("empirical", Curvature::Visits), ("gauss_newton", Curvature::Set("gauss-newton".into()))];
    for (name, curvature) in curvatures {
        let (plain, relatif) = (ask(&curvature, Normalization::None), ask(&curvature, Normalization::Relatif));
        let words = name.replace('_', "-");
        for (number, (label, _)) in DAMPINGS.into_iter().enumerate() {
            assert!(plain[number].estimate.as_ref().unwrap().exact);
            let ours = scores(&plain[number], examples);
            let theirs = reference.numbers(&format!("{name}.{label}"));
            table.compare(&format!("EK-FAC, {words}, damping {label}"), "kronfluence", &ours, &theirs);
            let own = reference.numbers(&format!("{name}.{label}.own"));
            let divided: Vec<f32> = theirs
                .chunks(plain[number].probes.len())
                .zip(own)
                .flat_map(|(row, own)| row.iter().map(move |v| v / own.sqrt()))
                .collect();
            let ours = scores(&relatif[number], examples);
            table.compare(&format!("EK-FAC, {words}, damping {label}, RelatIF"), "kronfluence", &ours, &divided);
        }
    }
}
