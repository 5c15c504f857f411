//! Leaving examples and groups out of a run under AdamW.

use crate::cache::Cache;
use crate::experiments::{announce, gather, make_bar, make_bootstrap, sample, Bench, Lists};
use crate::images::{Images, Pixels};
use crate::methods;
use crate::task::{train, Architecture, Rule, Setting};
use crate::write_table;
use anyhow::Result;
use gradlog_analysis::audit::{Change, LeaveGroupOut, LeaveOneOut, Paired, Prediction, Smoothness};
use std::path::PathBuf;

const IMAGES: usize = 2000;
const PROBES: usize = 20;
const LEFT_OUT: usize = 24;
const GROUP: usize = 32;

/// What is left out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Of {
    Examples,
    Groups,
}

/// A run under AdamW, its data, and what every method predicts, seed by seed.
struct Recorded {
    setting: Setting,
    images: Images,
    probes: Images,
    predictions: Vec<Vec<(String, Prediction)>>,
}

impl Bench<'_> {
    /// Leave-one-out in the same run under AdamW; at the customary rate of 0.001 groups as well.
    pub fn adamw_loo(&mut self) -> Result<()> {
        let slow = self.record_under_adamw(1e-4)?;
        self.leave_out_under_adamw("adamw-loo-mlp", &slow, Of::Examples)?;
        write_table(self)?;
        let customary = self.record_under_adamw(1e-3)?;
        self.leave_out_under_adamw("adamw-loo-mlp, learning rate 0.001", &customary, Of::Examples)?;
        self.leave_out_under_adamw("adamw-loo-mlp, learning rate 0.001, groups of 32", &customary, Of::Groups)
    }

    fn record_under_adamw(&self, learning_rate: f64) -> Result<Recorded> {
        // 256 steps of 64 images; the last of an epoch has 16.
        let setting = Setting {
            architecture: Architecture::Dense(vec![24]),
            rule: Rule::AdamW,
            epochs: 8,
            learning_rate,
            weight_decay: 0.01,
            probe_times: 4,
            curvature: (256, 1),
            ..self.mlp_setting()
        };
        let images = Images::from_digits(&self.limit_train(IMAGES), Pixels::Standardized);
        let probes = self.probes(PROBES, Pixels::Standardized);
        let of_seed = |seed: u64| -> Result<Vec<(String, Prediction)>> {
            let mut found = self.predict(&setting, false, &images, &probes, seed)?;
            found.extend(self.predict(&setting, true, &images, &probes, seed)?);
            Ok(found)
        };
        let predictions = self.seeds().into_iter().map(of_seed).collect::<Result<_>>()?;
        Ok(Recorded { setting, images, probes, predictions })
    }

    fn leave_out_under_adamw(&mut self, name: &str, recorded: &Recorded, of: Of) -> Result<()> {
        let Recorded { setting, images, probes, .. } = recorded;
        announce(format!("{name}: {}", setting.describe(images.len(), Pixels::Standardized)));
        let (mut pairs, mut ceilings): (Lists<Paired>, Vec<Paired>) = (Vec::new(), Vec::new());
        let seeds = self.seeds();
        for (seed, predictions) in seeds.iter().zip(&recorded.predictions) {
            let mut cache = Cache::open(self.arguments.cache.as_ref(), setting, images, probes)?;
            let bar = make_bar("leaving out", 2 * LEFT_OUT as u64 + 2);
            let mut retrain = |seed: u64, change: &Change<'_>| {
                bar.inc(1);
                cache.get(seed, change, || Ok(train(setting, images, seed, change, None)?.measure(probes)?))
            };
            let noise;
            match of {
                Of::Examples => {
                    let left_out = sample(images.len(), LEFT_OUT, *seed);
                    let truth = LeaveOneOut::measure(*seed, &left_out, &mut retrain)?;
                    ceilings.push(truth.ceiling());
                    noise = truth.noise;
                    gather(&mut pairs, predictions, |prediction| Ok(truth.pair_with(prediction)?))?;
                }
                Of::Groups => {
                    let all: Vec<u64> = (0..images.len() as u64).collect();
                    let groups = LeaveGroupOut::draw_groups(&all, LEFT_OUT, GROUP, *seed);
                    let truth = LeaveGroupOut::measure(*seed, &groups, &mut retrain)?;
                    ceilings.push(truth.ceiling());
                    noise = truth.noise;
                    gather(&mut pairs, predictions, |prediction| Ok(truth.pair_with(prediction)?))?;
                }
            }
            bar.finish_and_clear();
            cache.write()?;
            println!("seed {seed}: rounding changes the losses by {noise:.1e} of what leaving out does");
        }
        let smoothness = Smoothness::measure(&ceilings, make_bootstrap());
        println!("{smoothness}");
        self.add(smoothness.finding(name, Smoothness::HALF_WEIGHT, "spearman", &seeds));
        self.correlations(name, "spearman", &pairs, false);
        Ok(())
    }

    /// Every method's predictions, from a run that is recorded with default sketches or without rounding.
    fn predict(
        &self,
        setting: &Setting,
        exact: bool,
        images: &Images,
        probes: &Images,
        seed: u64,
    ) -> Result<Vec<(String, Prediction)>> {
        let kind = if exact { "exact" } else { "default" };
        let folder: PathBuf = self.arguments.out.join(format!("adamw-loo-mlp-{}-{kind}-{seed}", setting.learning_rate));
        let setting = Setting { exact, ..setting.clone() };
        if !(self.arguments.cache.is_some() && folder.exists()) {
            train(&setting, images, seed, &Change::Nothing, Some((&folder, Some(probes))))?;
        }
        methods::under_adamw(&folder, exact, images.len(), probes.len())
    }
}
