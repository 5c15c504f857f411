//! The linear datamodeling score: does one run predict trainings on other subsets, with other seeds?

use crate::cache::Cache;
use crate::experiments::{announce, gather, make_bar, make_bootstrap, Bench, Lists};
use crate::images::{Images, Pixels};
use crate::methods;
use crate::task::{train, Architecture, Rule, Setting};
use anyhow::Result;
use gradlog_analysis::audit::{Change, Paired, Prediction, Smoothness, Subsets, SubsetsPlan};

/// Two digits, or two kinds of clothes, that are easily mistaken for each other: 4 and 9; pullover and coat.
const CLASSES: ([u8; 2], [u8; 2]) = ([4, 9], [2, 4]);
/// Images of the two classes.
const TWO_CLASSES: usize = 2000;

impl Bench<'_> {
    /// The MLP of the benchmarks, under SGD with momentum.
    pub fn lds_mlp(&mut self) -> Result<()> {
        self.lds_of_mlp("lds-mlp", self.mlp_setting())
    }

    /// The same under AdamW.
    pub fn adamw_lds_mlp(&mut self) -> Result<()> {
        let setting = Setting { rule: Rule::AdamW, learning_rate: 1e-3, weight_decay: 0.01, ..self.mlp_setting() };
        self.lds_of_mlp("adamw-lds-mlp", setting)
    }

    fn lds_of_mlp(&mut self, name: &str, setting: Setting) -> Result<()> {
        let images = Images::from_digits(&self.limit_train(self.arguments.train), Pixels::Standardized);
        let probes = self.probes(self.arguments.probes, Pixels::Standardized);
        self.lds(name, &setting, &images, &probes)
    }

    /// A CNN for two classes: pullovers and coats of Fashion-MNIST, or the digits 4 and 9.
    pub fn lds_cnn2(&mut self) -> Result<()> {
        let setting = Setting { architecture: Architecture::SmallCnn, ..self.mlp_setting() };
        let classes = if self.arguments.data.is_some() { CLASSES.1 } else { CLASSES.0 };
        println!("\nclasses {} and {}", classes[0], classes[1]);
        let images = Images::two_classes(&self.train, Pixels::Standardized, classes).truncate(TWO_CLASSES);
        let probes = Images::two_classes(&self.test, Pixels::Standardized, classes).truncate(self.arguments.probes);
        self.lds("lds-cnn2", &setting, &images, &probes)
    }

    fn lds(&mut self, name: &str, setting: &Setting, images: &Images, probes: &Images) -> Result<()> {
        let arguments = self.arguments;
        announce(format!("{name}: {}", setting.describe(images.len(), Pixels::Standardized)));
        let halves = self.train_on_halves(setting, images, probes)?;
        let one = halves.first_seeds(1);
        let (mut against_one, mut against_mean): (Lists<Paired>, Lists<Paired>) = (Vec::new(), Vec::new());
        let seeds = self.seeds();
        for seed in &seeds {
            let folder = arguments.out.join(format!("{name}-{seed}"));
            if !(arguments.cache.is_some() && folder.exists()) {
                train(setting, images, *seed, &Change::Nothing, Some((&folder, Some(probes))))?;
            }
            let mut predictions: Vec<(String, Prediction)> =
                methods::across_trainings(&folder, setting, images.len(), probes.len(), arguments.length)?;
            if arguments.explore {
                predictions.extend(methods::explore(&folder, setting, probes.len(), &predictions)?);
            }
            gather(&mut against_one, &predictions, |prediction| Ok(one.pair_with(prediction)?))?;
            gather(&mut against_mean, &predictions, |prediction| Ok(halves.pair_with(prediction)?))?;
        }
        let trainings = halves.seeds.len();
        let mean = format!("lds, mean of {trainings} trainings");
        for (metric, pairs, subsets) in
            [("lds", &against_one, halves.first_seeds(2)), (mean.as_str(), &against_mean, halves)]
        {
            if trainings > 1 {
                let smoothness = Smoothness::measure(&[subsets.ceiling()?], make_bootstrap());
                println!("{smoothness}");
                self.add(smoothness.finding(name, Smoothness::TRAINED_AGAIN, metric, &seeds));
            } else if metric != "lds" {
                continue;
            }
            self.correlations(name, metric, pairs, false);
        }
        Ok(())
    }

    /// Trains on half subsets. The models have seeds of their own: the question is whether one run predicts other
    /// trainings.
    fn train_on_halves(&self, setting: &Setting, images: &Images, probes: &Images) -> Result<Subsets> {
        let arguments = self.arguments;
        let all: Vec<u64> = (0..images.len() as u64).collect();
        let seeds: Vec<u64> = (1000..1000 + arguments.subset_seeds).collect();
        let bar = make_bar("half subsets", arguments.subsets as u64 * arguments.subset_seeds);
        let plan = SubsetsPlan::new(&all, arguments.subsets).draw_seed(7).seeds(&seeds);
        let mut cache = Cache::open(arguments.cache.as_ref(), setting, images, probes)?;
        let halves = plan.measure(&mut |seed, change| {
            bar.inc(1);
            cache.get(seed, change, || Ok(train(setting, images, seed, change, None)?.measure(probes)?))
        })?;
        cache.write()?;
        bar.finish_and_clear();
        Ok(halves)
    }
}
