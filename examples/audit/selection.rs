//! Experiments on which examples to keep: wrong labels are found and left out, and half of the data is pruned.

use crate::data::TO_ANOTHER;
use crate::experiments::{add_to_list, announce, make_bar, make_bootstrap, Bench, Lists};
use crate::images::{Images, Pixels};
use crate::methods;
use crate::task::{sweep, train, Architecture, Rule, Setting};
use anyhow::Result;
use gradlog_analysis::audit::{Accuracy, Change, Detection, Finding, Trained, TrainingError};
use gradlog_analysis::{KeepRule, Score, ScoreQuestion, Window};
use gradlog_format::run::Run;

/// The share of labels that is made wrong.
const FLIPPED: f64 = 0.1;

/// Which examples to keep, by seed and number of examples; `None` for all.
type Keep = Box<dyn Fn(u64, usize) -> Option<Vec<u64>>>;

impl Bench<'_> {
    fn labels_setting(&self) -> (Setting, String) {
        let setting = Setting {
            architecture: if self.arguments.cnn { Architecture::Cnn } else { Architecture::mlp() },
            rule: Rule::Sgd,
            epochs: self.arguments.epochs,
            batch: 64,
            learning_rate: 0.1,
            momentum: 0.0,
            weight_decay: 0.0,
            cosine: false,
            probe_times: 1,
            curvature: (0, 1),
            checkpoints: false,
            exact: false,
        };
        let name = setting.describe(self.arguments.train.min(self.train.len()), Pixels::Standardized);
        (setting, name)
    }

    /// Labels that are wrong on purpose: which scores find them, and what training without the suspects gains.
    pub fn labels(&mut self) -> Result<()> {
        let arguments = self.arguments;
        let (setting, _) = self.labels_setting();
        let (rule, learning_rate) =
            if arguments.adamw { (Rule::AdamW, 1e-3) } else { (setting.rule, setting.learning_rate) };
        let setting = Setting { checkpoints: true, rule, learning_rate, ..setting };
        let name = setting.describe(arguments.train.min(self.train.len()), Pixels::Standardized);
        let (by, how) = if arguments.any_class { (0..10, "drawn anew") } else { (TO_ANOTHER, "flipped") };
        let name = announce(format!("{name}, 10 % of labels {how}"));
        let truth = self.limit_train(arguments.train);
        let test = self.probes(usize::MAX, Pixels::Standardized);
        let seeds = self.seeds();
        let mut rankings: Lists<Vec<u64>> = Vec::new();
        let (mut data, mut wrong) = (Vec::new(), Vec::new());
        let tick = make_bar("recording", seeds.len() as u64);
        for seed in &seeds {
            let mut digits = self.limit_train(arguments.train);
            digits.flip(FLIPPED, by.clone(), *seed);
            wrong.push(
                digits.labels.iter().zip(&truth.labels).map(|(given, truth)| given != truth).collect::<Vec<bool>>(),
            );
            let images = Images::from_digits(&digits, Pixels::Standardized);
            let folder = arguments.out.join(format!("labels-{seed}"));
            train(&setting, &images, *seed, &Change::Nothing, Some((&folder, None)))?;
            sweep(&setting, &images, &folder)?;
            for (method, ranking) in methods::suspicions(&folder, setting.rule, images.len(), *seed)? {
                add_to_list(&mut rankings, &method, ranking);
            }
            let mut folders = vec![folder];
            for run in 1..arguments.runs {
                let folder = arguments.out.join(format!("labels-{seed}-{run}"));
                train(&setting, &images, seed + 100 * run, &Change::Nothing, Some((&folder, None)))?;
                folders.push(folder);
            }
            if folders.len() > 1 {
                for (method, ranking) in methods::suspicions_over(&folders)? {
                    add_to_list(&mut rankings, &method, ranking);
                }
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
            self.add(Finding::new(&name, method, "ROC-AUC", Detection::roc_auc(&parts, make_bootstrap()), &seeds));
            for percent in [5, 10, 20, 30] {
                let recall = Detection::recall(&parts, f64::from(percent) / 100.0, make_bootstrap());
                self.add(Finding::new(&name, method, &format!("recall at {percent} %"), recall, &seeds));
            }
            let missed = Detection::false_negative_rate(&parts, make_bootstrap());
            self.add(Finding::new(&name, method, "false negative rate at the noise rate", missed, &seeds));
        }
        if arguments.detection_only {
            return Ok(());
        }
        // Trains again without the most suspicious tenth, by several lists, and without the labels that are wrong.
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

    /// Half of the training set, chosen by an early score, compared with half chosen at random and with all.
    pub fn pruning(&mut self) -> Result<()> {
        let arguments = self.arguments;
        let (setting, name) = self.labels_setting();
        announce(format!("{name}, half of it kept"));
        let images = Images::from_digits(&self.limit_train(arguments.train), Pixels::Standardized);
        let test = self.probes(usize::MAX, Pixels::Standardized);
        let early = setting.epochs.div_ceil(3).max(1);
        let mut lists: Lists<Option<Vec<u64>>> = Vec::new();
        let tick = make_bar("recording", self.arguments.seeds);
        for seed in self.seeds() {
            let folder = arguments.out.join(format!("pruning-{seed}"));
            train(&setting, &images, seed, &Change::Nothing, Some((&folder, None)))?;
            let run = Run::open(&folder)?;
            add_to_list(&mut lists, "keep all", None);
            let half = KeepRule::hardest(0.5);
            for (score, number) in [(Score::El2n, 0), (Score::Grand, 1)] {
                let table = ScoreQuestion::new(score).window(Window::epochs(0..early)).compute_over(&[&run])?;
                let ids = |rule| anyhow::Ok(Some(table.keep(&rule)?.kept.iter().map(|kept| kept.example).collect()));
                if number == 0 {
                    add_to_list(&mut lists, "random", ids(KeepRule::random(0.5, seed))?);
                }
                for skip in [0.0, 0.1, 0.2, 0.4] {
                    let method = format!("{score}, epochs 0..{early}, hardest {:.0} % skipped", 100.0 * skip);
                    add_to_list(&mut lists, &method, ids(half.skip_hardest(skip))?);
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

    /// Test accuracy of each way to choose, and its gain over random choice. `data` has one set of images for each
    /// seed, or one for all.
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
        // The rate falls to zero: at a constant rate the noise of the last steps is larger than the differences.
        let setting = &Setting { cosine: true, ..setting.clone() };
        let bar = make_bar("training again", (keeps.len() * seeds.len()) as u64);
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
            self.add(Finding::new(name, method, &accurate, accuracy.share(make_bootstrap()), &seeds));
            if let Some(random) = random.as_ref().filter(|_| method != "random") {
                self.add(Finding::new(name, method, &above, accuracy.gain_over(random, make_bootstrap())?, &seeds));
            }
        }
        Ok(())
    }
}
