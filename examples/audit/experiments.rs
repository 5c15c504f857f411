//! What the experiments share: the bench with its table, and the closures and lists for the library.

use crate::data::Digits;
use crate::images::{Images, Pixels};
use crate::task::{train, Setting};
use crate::Arguments;
use anyhow::Result;
use gradlog_analysis::audit::{
    correlate, Bootstrap, Change, Correlation, Finding, Paired, Prediction, Trained, TrainingError,
};
use indicatif::{ProgressBar, ProgressStyle};
use rand::rngs::StdRng;
use rand::SeedableRng;

/// Number of draws of every bootstrap interval.
const DRAWS: u32 = 500;

pub struct Bench<'a> {
    pub arguments: &'a Arguments,
    pub train: Digits,
    pub test: Digits,
    pub findings: Vec<Finding>,
}

impl Bench<'_> {
    pub fn seeds(&self) -> Vec<u64> {
        (0..self.arguments.seeds).collect()
    }

    pub fn limit_train(&self, count: usize) -> Digits {
        let mut digits = Digits { pixels: self.train.pixels.clone(), labels: self.train.labels.clone() };
        digits.truncate(count);
        digits
    }

    /// The first test images, as probes.
    pub fn probes(&self, count: usize, pixels: Pixels) -> Images {
        let mut digits = Digits { pixels: self.test.pixels.clone(), labels: self.test.labels.clone() };
        digits.truncate(count);
        Images::from_digits(&digits, pixels)
    }

    pub fn add(&mut self, finding: Finding) {
        let Finding { method, metric, value, low, high, .. } = &finding;
        println!("{method:<40} {metric:<34} {value:>8.4}  [{low:.4}, {high:.4}]");
        self.findings.push(finding);
    }

    /// Adds the correlations of every method with the results of retraining, over all seeds.
    pub fn correlations(&mut self, setting: &str, metric: &str, pairs: &Lists<Paired>, pearson: bool) {
        let (seeds, bootstrap) = (self.seeds(), make_bootstrap());
        for (method, parts) in pairs {
            let spearman = correlate(parts, Correlation::Spearman, bootstrap);
            self.add(Finding::new(setting, method, metric, spearman, &seeds));
            if pearson {
                let found = correlate(parts, Correlation::Pearson, bootstrap);
                self.add(Finding::new(setting, method, &format!("{metric}, Pearson"), found, &seeds));
            }
        }
    }
}

/// Makes the bootstrap of every interval.
pub fn make_bootstrap() -> Bootstrap {
    Bootstrap::new(DRAWS)
}

/// For each method, in order of appearance, one entry per seed.
pub type Lists<T> = Vec<(String, Vec<T>)>;

/// Adds the result of another seed to the list of its method.
pub fn add_to_list<T>(lists: &mut Lists<T>, method: &str, value: T) {
    match lists.iter_mut().find(|(name, _)| name == method) {
        Some((_, list)) => list.push(value),
        None => lists.push((method.into(), vec![value])),
    }
}

/// Prints the name of the next audit.
pub fn announce(name: String) -> String {
    println!("\n== {name} ==");
    name
}

/// Makes the closure that the library needs: it trains again, measures, and advances the bar.
pub fn make_retraining<'a>(
    setting: &'a Setting,
    images: &'a Images,
    probes: &'a Images,
    bar: &'a ProgressBar,
) -> impl FnMut(u64, &Change<'_>) -> Result<Trained, TrainingError> + 'a {
    move |seed, change| {
        let trained = train(setting, images, seed, change, None)?.measure(probes)?;
        bar.inc(1);
        Ok(trained)
    }
}

/// Pairs the measurements with every method's prediction.
pub fn gather(
    pairs: &mut Lists<Paired>,
    predictions: &[(String, Prediction)],
    against: impl Fn(&Prediction) -> Result<Paired>,
) -> Result<()> {
    predictions.iter().try_for_each(|(method, prediction)| {
        add_to_list(pairs, method, against(prediction)?);
        Ok(())
    })
}

/// Draws `count` of the training examples at random.
pub fn sample(examples: usize, count: usize, seed: u64) -> Vec<u64> {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x100);
    rand::seq::index::sample(&mut rng, examples, count.min(examples)).into_iter().map(|id| id as u64).collect()
}

pub fn make_bar(what: &str, length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:<26} {bar:40} {pos}/{len}, {eta} left");
    let bar = ProgressBar::new(length).with_message(what.to_string());
    style.map_or(bar.clone(), |style| bar.with_style(style))
}
