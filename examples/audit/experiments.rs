//! The experiments: each trains, asks the log, trains again, and hands back rows of the table.

use crate::data::Digits;
use crate::task::{train, Architecture, Images, Setting};
use crate::{exact, methods, Arguments};
use anyhow::Result;
use gradlog::analysis::{KeepRule, OverRuns, Score, Window};
use gradlog::audit::{
    agreement, Accuracy, Brittleness, Change, Correlation, Detection, Finding, LeaveOneOut, Paired, Prediction,
    Subsets, Trained, TrainingError,
};
use gradlog::run::Run;
use indicatif::{ProgressBar, ProgressStyle};
use rand::rngs::StdRng;
use rand::SeedableRng;

/// Draws of every bootstrap interval.
const DRAWS: u32 = 500;
/// The share of labels that is made wrong.
const FLIPPED: f64 = 0.1;

pub struct Bench<'a> {
    pub arguments: &'a Arguments,
    pub train: Digits,
    pub test: Digits,
    pub findings: Vec<Finding>,
}

impl Bench<'_> {
    fn seeds(&self) -> Vec<u64> {
        (0..self.arguments.seeds).collect()
    }

    fn limited(&self, count: usize) -> Digits {
        let mut digits = Digits { pixels: self.train.pixels.clone(), labels: self.train.labels.clone() };
        digits.truncate(count);
        digits
    }

    /// The first test images, as probes.
    fn probes(&self, count: usize) -> Images {
        let mut digits = Digits { pixels: self.test.pixels.clone(), labels: self.test.labels.clone() };
        digits.truncate(count);
        Images::of(&digits)
    }

    fn add(&mut self, finding: Finding) {
        let Finding { method, metric, value, low, high, .. } = &finding;
        println!("{method:<40} {metric:<34} {value:>8.4}  [{low:.4}, {high:.4}]");
        self.findings.push(finding);
    }

    /// Correlations of every method with what leaving out examples did, seed by seed.
    fn correlations(&mut self, setting: &str, metric: &str, pairs: &[(String, Vec<Paired>)], pearson: bool) {
        let seeds = self.seeds();
        for (method, parts) in pairs {
            let spearman = agreement(parts, Correlation::Spearman, DRAWS, 0);
            self.add(Finding::new(setting, method, metric, spearman, &seeds));
            if pearson {
                let found = agreement(parts, Correlation::Pearson, DRAWS, 0);
                self.add(Finding::new(setting, method, &format!("{metric}, Pearson"), found, &seeds));
            }
        }
    }

    /// Logistic regression: leave-one-out against every method and against exact influence functions.
    pub fn logistic(&mut self) -> Result<()> {
        let arguments = self.arguments;
        let setting = Setting {
            architecture: Architecture::Logistic,
            epochs: arguments.logistic_epochs,
            batch: 100,
            learning_rate: 0.02,
            momentum: 0.9,
            weight_decay: 0.01,
            cosine: true,
            probe_times: 1,
            fisher_rows: 1000,
            exact: true,
        };
        let images = Images::of(&self.limited(arguments.logistic_train));
        let probes = self.probes(arguments.probes);
        let name = format!(
            "logistic regression 784-10, {} images, {} epochs, batch 100, momentum 0.9, weight decay 0.01",
            images.len(),
            setting.epochs
        );
        println!("\n== {name} ==");
        let mut pairs: Pairs = Vec::new();
        for seed in self.seeds() {
            let folder = arguments.out.join(format!("logistic-{seed}"));
            let model = train(&setting, &images, seed, &Change::Nothing, Some((&folder, Some(&probes))))?;
            let mut predictions = methods::influences(&folder, &setting, images.len(), probes.len())?;
            let bar = bar("exact influence functions", 0);
            let (exactly, residual) = exact::influence_functions(&model, &images, &probes, setting.weight_decay, &bar)?;
            bar.finish_and_clear();
            println!("conjugate gradients: largest relative residual {residual:.1e}");
            predictions.push(("influence functions, exact".into(), exactly));
            let left_out = sample(images.len(), arguments.left_out, seed);
            let bar = crate::experiments::bar("leaving out", left_out.len() as u64 + 2);
            let truth = LeaveOneOut::measure(seed, &left_out, &mut again(&setting, &images, &probes, &bar))?;
            bar.finish_and_clear();
            println!(
                "seed {seed}: two runs with all examples differ by {:.2e} of what leaving one out changes",
                truth.noise
            );
            gather(&mut pairs, &predictions, |prediction| Ok(truth.against(prediction)?))?;
        }
        self.correlations(&name, "leave-one-out", &pairs, true);
        Ok(())
    }

    /// The MLP of the benchmarks: leave-one-out, linear datamodeling score and brittleness, from one recorded run for each seed.
    pub fn mlp(&mut self) -> Result<()> {
        let arguments = self.arguments;
        let setting = Setting {
            architecture: Architecture::Mlp,
            epochs: arguments.epochs,
            batch: 64,
            learning_rate: 0.01,
            momentum: 0.9,
            weight_decay: 0.0,
            cosine: false,
            probe_times: 4,
            fisher_rows: 256,
            exact: false,
        };
        let images = Images::of(&self.limited(arguments.train));
        let probes = self.probes(arguments.probes);
        let name = format!(
            "MLP 784-128-64-10, {} images, {} epochs, batch 64, learning rate 0.01, momentum 0.9",
            images.len(),
            setting.epochs
        );
        println!("\n== {name} ==");
        let all: Vec<u64> = (0..images.len() as u64).collect();
        let (mut one, mut half): (Pairs, Pairs) = (Vec::new(), Vec::new());
        // The subsets' models have seeds of their own: what is asked is whether one run speaks for other trainings.
        let seeds: Vec<u64> = (1000..1000 + arguments.subset_seeds).collect();
        let tick = bar("half subsets", (arguments.subsets as u64) * arguments.subset_seeds);
        let halves =
            Subsets::measure(&all, 0.5, arguments.subsets, 7, &seeds, &mut again(&setting, &images, &probes, &tick))?;
        tick.finish_and_clear();
        for seed in self.seeds() {
            let folder = arguments.out.join(format!("mlp-{seed}"));
            train(&setting, &images, seed, &Change::Nothing, Some((&folder, Some(&probes))))?;
            let predictions = methods::influences(&folder, &setting, images.len(), probes.len())?;
            gather(&mut half, &predictions, |prediction| Ok(halves.against(prediction)?))?;
            let left_out = sample(images.len(), arguments.left_out, seed);
            let bar = bar("leaving out", left_out.len() as u64 + 2);
            let truth = LeaveOneOut::measure(seed, &left_out, &mut again(&setting, &images, &probes, &bar))?;
            bar.finish_and_clear();
            println!(
                "seed {seed}: two runs with all examples differ by {:.2e} of what leaving one out changes",
                truth.noise
            );
            gather(&mut one, &predictions, |prediction| Ok(truth.against(prediction)?))?;
            if seed == 0 && arguments.brittle > 0 {
                self.brittleness(&name, &setting, &images, &probes, &truth.base, &predictions)?;
            }
        }
        self.correlations(&name, "leave-one-out", &one, true);
        self.correlations(&name, "linear datamodeling score", &half, false);
        Ok(())
    }

    fn brittleness(
        &mut self,
        name: &str,
        setting: &Setting,
        images: &Images,
        probes: &Images,
        base: &Trained,
        predictions: &[(String, Prediction)],
    ) -> Result<()> {
        let counts = [images.len() / 100, images.len() / 30, images.len() / 10];
        // Those that the model is least sure of first: the others take most of a class.
        let mut asked: Vec<usize> = (0..probes.len()).filter(|probe| base.right[*probe]).collect();
        asked.sort_by(|a, b| base.losses[*b].total_cmp(&base.losses[*a]));
        asked.truncate(self.arguments.brittle);
        let all: Vec<u64> = (0..images.len() as u64).collect();
        for (method, prediction) in predictions {
            if !["TracIn", "adjoint, sampled Fisher", "TRAK, one run", "random"].contains(&method.as_str()) {
                continue;
            }
            let bar = bar("removing proponents", (asked.len() * counts.len()) as u64);
            let mut retrain = again(setting, images, probes, &bar);
            let found = Brittleness::measure((0, base), &all, &asked, &counts, prediction, &mut retrain)?;
            bar.finish_and_clear();
            for count in counts {
                let metric = format!("flipped without {count} proponents");
                self.add(Finding::new(name, method, &metric, found.share_flipped(count, DRAWS, 0), &[0]));
            }
        }
        Ok(())
    }

    fn labels_setting(&self) -> (Setting, String) {
        let (architecture, name) = match self.arguments.cnn {
            true => (Architecture::Cnn, "CNN"),
            false => (Architecture::Mlp, "MLP 784-128-64-10"),
        };
        let (epochs, learning_rate) = (self.arguments.epochs, 0.1);
        let setting = Setting {
            architecture,
            epochs,
            batch: 64,
            learning_rate,
            momentum: 0.0,
            weight_decay: 0.0,
            cosine: false,
            probe_times: 1,
            fisher_rows: 0,
            exact: false,
        };
        (
            setting,
            format!(
                "{name}, {} images, {epochs} epochs, batch 64, learning rate 0.1",
                self.arguments.train.min(self.train.len())
            ),
        )
    }

    /// Labels that are wrong on purpose: who finds them, and what training without the suspects is worth.
    pub fn labels(&mut self) -> Result<()> {
        let arguments = self.arguments;
        let (setting, name) = self.labels_setting();
        let name = format!("{name}, 10 % of labels flipped");
        println!("\n== {name} ==");
        let truth = self.limited(arguments.train);
        let test = self.probes(usize::MAX);
        let seeds = self.seeds();
        let mut rankings: Vec<(String, Vec<Vec<u64>>)> = Vec::new();
        let (mut data, mut wrong) = (Vec::new(), Vec::new());
        let tick = bar("recording", seeds.len() as u64);
        for seed in &seeds {
            let mut digits = self.limited(arguments.train);
            digits.flip(FLIPPED, *seed);
            wrong.push(
                digits.labels.iter().zip(&truth.labels).map(|(given, truth)| given != truth).collect::<Vec<bool>>(),
            );
            let images = Images::of(&digits);
            let folder = arguments.out.join(format!("labels-{seed}"));
            train(&setting, &images, *seed, &Change::Nothing, Some((&folder, None)))?;
            for (number, (method, ranking)) in
                methods::suspicions(&folder, images.len(), *seed)?.into_iter().enumerate()
            {
                if number == rankings.len() {
                    rankings.push((method, Vec::new()));
                }
                rankings[number].1.push(ranking);
            }
            data.push(images);
            tick.inc(1);
        }
        tick.finish_and_clear();
        for (method, rankings) in &rankings {
            let found = rankings.iter().zip(&wrong);
            let parts: Vec<Detection> = found
                .map(|(ranking, wrong)| Detection::new(ranking.iter().copied(), |id| wrong[id as usize]))
                .collect();
            self.add(Finding::new(&name, method, "ROC-AUC", Detection::roc_auc(&parts, DRAWS, 0), &seeds));
            for percent in [5, 10, 20, 30] {
                let recall = Detection::recall(&parts, f64::from(percent) / 100.0, DRAWS, 0);
                self.add(Finding::new(&name, method, &format!("recall at {percent} %"), recall, &seeds));
            }
        }
        // Trained again without the tenth that is most suspicious, by several lists; and without what is really wrong.
        let first = |ranking: &[u64]| ranking[..(FLIPPED * ranking.len() as f64).round() as usize].to_vec();
        let mut removed: Vec<(String, Option<Vec<Vec<u64>>>)> = vec![("keep all".into(), None)];
        for name in ["random", "aum", "self-influence", "suspects"] {
            let lists = rankings.iter().find(|(method, _)| method == name);
            removed.push((name.into(), lists.map(|(_, lists)| lists.iter().map(|list| first(list)).collect())));
        }
        let really = |wrong: &Vec<bool>| (0..wrong.len() as u64).filter(|id| wrong[*id as usize]).collect();
        removed.push(("the wrong ones".into(), Some(wrong.iter().map(really).collect())));
        let keeps = removed.into_iter().map(|(method, lists)| {
            let keep = move |seed: u64, count: usize| {
                let gone: std::collections::HashSet<u64> = lists.as_ref()?[seed as usize].iter().copied().collect();
                Some((0..count as u64).filter(|id| !gone.contains(id)).collect::<Vec<u64>>())
            };
            (method, Box::new(keep) as Keep)
        });
        self.accuracies(&name, "after cleaning", &setting, &data, &test, keeps.collect())
    }

    /// Half of the training set, chosen by an early score, against half chosen at random and against all.
    pub fn pruning(&mut self) -> Result<()> {
        let arguments = self.arguments;
        let (setting, name) = self.labels_setting();
        println!("\n== {name}, half of it kept ==");
        let images = Images::of(&self.limited(arguments.train));
        let test = self.probes(usize::MAX);
        let early = setting.epochs.div_ceil(3).max(1);
        let mut lists: Vec<(String, Vec<Option<Vec<u64>>>)> = Vec::new();
        let tick = bar("recording", self.arguments.seeds);
        for seed in self.seeds() {
            let folder = arguments.out.join(format!("pruning-{seed}"));
            train(&setting, &images, seed, &Change::Nothing, Some((&folder, None)))?;
            let run = Run::open(&folder)?;
            let mut add =
                |method: String, kept: Option<Vec<u64>>| match lists.iter_mut().find(|(name, _)| *name == method) {
                    Some((_, lists)) => lists.push(kept),
                    None => lists.push((method, vec![kept])),
                };
            add("keep all".into(), None);
            let rule = |skip_hardest, random| KeepRule { skip_hardest, random, ..KeepRule::hardest(0.5) };
            for (score, number) in [(Score::El2n, 0), (Score::Grand, 1)] {
                let table = score.compute_over(&[&run], &Window::epochs(0..early), OverRuns::Mean, &|_| {})?;
                let ids = |rule| anyhow::Ok(Some(table.keep(&rule)?.kept.iter().map(|kept| kept.example).collect()));
                if number == 0 {
                    add("random".into(), ids(rule(0.0, Some(seed)))?);
                }
                for skip in [0.0, 0.1, 0.2, 0.4] {
                    add(
                        format!("{score}, epochs 0..{early}, hardest {:.0} % skipped", 100.0 * skip),
                        ids(rule(skip, None))?,
                    );
                }
            }
            tick.inc(1);
        }
        tick.finish_and_clear();
        let data = vec![images];
        let keeps = lists.into_iter().map(|(method, lists)| {
            let keep = move |seed: u64, _: usize| lists[seed as usize].clone();
            (method, Box::new(keep) as Keep)
        });
        self.accuracies(&name, "with half of the data", &setting, &data, &test, keeps.collect())
    }

    /// Test accuracy of each way to choose, and by how much it is above that of random choice. `data` has one set of images for
    /// each seed, or one for all.
    fn accuracies(
        &mut self,
        name: &str,
        when: &str,
        setting: &Setting,
        data: &[Images],
        test: &Images,
        keeps: Vec<(String, Keep)>,
    ) -> Result<()> {
        let seeds = self.seeds();
        // The rate falls to zero: at a constant one the noise of the last steps is larger than the differences.
        let setting = &Setting { cosine: true, ..setting.clone() };
        let bar = bar("training again", (keeps.len() * seeds.len()) as u64);
        let mut found: Vec<(String, Accuracy)> = Vec::new();
        for (method, keep) in keeps {
            let mut retrain = |seed: u64, change: &Change<'_>| {
                let images = data.get(seed as usize).unwrap_or(&data[0]);
                let trained = train(setting, images, seed, change, None)?.measure(test)?;
                bar.inc(1);
                Ok::<Trained, TrainingError>(trained)
            };
            found.push((method, Accuracy::measure(&seeds, |seed| keep(seed, data[0].len()), &mut retrain)?));
        }
        bar.finish_and_clear();
        let random = found.iter().find(|(method, _)| method == "random").map(|(_, accuracy)| accuracy.clone());
        for (method, accuracy) in &found {
            let (accurate, above) = (format!("accuracy {when}"), format!("above random {when}"));
            self.add(Finding::new(name, method, &accurate, accuracy.share(DRAWS, 0), &seeds));
            if let Some(random) = random.as_ref().filter(|_| method != "random") {
                self.add(Finding::new(name, method, &above, accuracy.better_than(random, DRAWS, 0)?, &seeds));
            }
        }
        Ok(())
    }
}

/// Of each method what was measured and what it predicted, seed by seed.
type Pairs = Vec<(String, Vec<Paired>)>;

/// Which examples to keep, by seed and number of examples; `None` for all.
type Keep = Box<dyn Fn(u64, usize) -> Option<Vec<u64>>>;

/// The closure that the library asks for: train again, measure, move the bar on.
fn again<'a>(
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

/// Puts what was measured beside every method's prediction.
fn gather(
    pairs: &mut Pairs,
    predictions: &[(String, Prediction)],
    against: impl Fn(&Prediction) -> Result<Paired>,
) -> Result<()> {
    for (number, (method, prediction)) in predictions.iter().enumerate() {
        if number == pairs.len() {
            pairs.push((method.clone(), Vec::new()));
        }
        pairs[number].1.push(against(prediction)?);
    }
    Ok(())
}

/// So many of the training examples, drawn at random.
fn sample(examples: usize, count: usize, seed: u64) -> Vec<u64> {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x100);
    rand::seq::index::sample(&mut rng, examples, count.min(examples)).into_iter().map(|id| id as u64).collect()
}

fn bar(what: &str, length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:<26} {bar:40} {pos}/{len}, {eta} left");
    let bar = ProgressBar::new(length).with_message(what.to_string());
    style.map_or(bar.clone(), |style| bar.with_style(style))
}
