//! Experiments on influence: what every method says of training examples and probes, against training without them.

use crate::experiments::{again, bar, gather, sample, Bench, Pairs, DRAWS};
use crate::task::{train, Architecture, Images, Pixels, Setting};
use crate::{exact, methods};
use anyhow::Result;
use gradlog::audit::{Brittleness, Change, Finding, LeaveOneOut, Prediction, Subsets};

impl Bench<'_> {
    /// Logistic regression: leave-one-out against every method and against exact influence functions.
    pub fn logistic(&mut self) -> Result<()> {
        let arguments = self.arguments;
        // Pixels and weight decay as Koh and Liang have them for their logistic regression. The rate falls to zero, so that the
        // weights come to the minimum which the exact influence functions are about.
        let setting = Setting {
            architecture: Architecture::Dense(Vec::new()),
            epochs: arguments.logistic_epochs,
            batch: 100,
            learning_rate: 0.1,
            momentum: 0.9,
            weight_decay: 0.01,
            cosine: true,
            probe_times: 1,
            // So few rows that the adjoint takes them as they are: a matrix of 7,850 numbers a side takes as long as some thousand rows.
            curvature: (350, 5),
            checkpoints: false,
            exact: true,
        };
        let images = Images::of(&self.limited(arguments.logistic_train), Pixels::Unit);
        let probes = self.probes(arguments.probes, Pixels::Unit);
        let name = format!(
            "{}, {} images in 0..1, {} epochs, batch 100, learning rate {} falling to 0, momentum 0.9, weight decay 0.01",
            setting.architecture,
            images.len(),
            setting.epochs,
            setting.learning_rate
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
            self.leave_one_out(&setting, &images, &probes, seed, &predictions, &mut pairs)?;
        }
        self.correlations(&name, "leave-one-out", &pairs, true);
        Ok(())
    }

    /// Leaves examples out of the run of one seed, and puts what came of it beside every method's prediction, and beside what half
    /// of their weight does.
    fn leave_one_out(
        &self,
        setting: &Setting,
        images: &Images,
        probes: &Images,
        seed: u64,
        predictions: &[(String, Prediction)],
        pairs: &mut Pairs,
    ) -> Result<()> {
        let left_out = sample(images.len(), self.arguments.left_out, seed);
        let bar = bar("leaving out", 2 * left_out.len() as u64 + 2);
        let truth = LeaveOneOut::measure(seed, &left_out, &mut again(setting, images, probes, &bar))?;
        bar.finish_and_clear();
        println!("seed {seed}: rounding changes the losses by {:.1e} of what leaving one out does", truth.noise);
        gather(pairs, predictions, |prediction| Ok(truth.against(prediction)?))?;
        let ceiling = "half of the weight";
        match pairs.iter_mut().find(|(method, _)| method == ceiling) {
            Some((_, parts)) => parts.push(truth.ceiling()),
            None => pairs.push((ceiling.into(), vec![truth.ceiling()])),
        }
        Ok(())
    }

    /// An MLP that is trained smoothly enough for leave-one-out to be predictable.
    pub fn loo(&mut self) -> Result<()> {
        let arguments = self.arguments;
        let setting = Setting {
            architecture: Architecture::Dense(arguments.loo_hidden.clone()),
            learning_rate: arguments.loo_rate,
            ..self.mlp_setting()
        };
        let images = Images::of(&self.limited(arguments.train), Pixels::Unit);
        let probes = self.probes(arguments.probes, Pixels::Unit);
        let name = format!(
            "{}, {} images in 0..1, {} epochs, batch 64, learning rate {}, momentum 0.9",
            setting.architecture,
            images.len(),
            setting.epochs,
            setting.learning_rate
        );
        println!("\n== {name} ==");
        let mut pairs: Pairs = Vec::new();
        for seed in self.seeds() {
            let widths: Vec<String> = arguments.loo_hidden.iter().map(usize::to_string).collect();
            let folder = arguments.out.join(format!("loo-{}-{}-{seed}", widths.join("-"), setting.learning_rate));
            train(&setting, &images, seed, &Change::Nothing, Some((&folder, Some(&probes))))?;
            let predictions = methods::influences(&folder, &setting, images.len(), probes.len())?;
            self.leave_one_out(&setting, &images, &probes, seed, &predictions, &mut pairs)?;
        }
        self.correlations(&name, "leave-one-out", &pairs, true);
        Ok(())
    }

    fn mlp_setting(&self) -> Setting {
        Setting {
            architecture: Architecture::mlp(),
            epochs: self.arguments.epochs,
            batch: 64,
            learning_rate: 0.01,
            momentum: 0.9,
            weight_decay: 0.0,
            cosine: false,
            probe_times: 4,
            curvature: (256, 1),
            checkpoints: false,
            exact: false,
        }
    }

    /// The MLP of the benchmarks: linear datamodeling score and brittleness, from one recorded run for each seed.
    pub fn mlp(&mut self) -> Result<()> {
        let arguments = self.arguments;
        let setting = self.mlp_setting();
        let images = Images::of(&self.limited(arguments.train), Pixels::Standardised);
        let probes = self.probes(arguments.probes, Pixels::Standardised);
        let name = format!(
            "{}, {} images, {} epochs, batch 64, learning rate 0.01, momentum 0.9",
            setting.architecture,
            images.len(),
            setting.epochs
        );
        println!("\n== {name} ==");
        let all: Vec<u64> = (0..images.len() as u64).collect();
        // The subsets' models have seeds of their own: what is asked is whether one run speaks for other trainings.
        let seeds: Vec<u64> = (1000..1000 + arguments.subset_seeds).collect();
        let tick = bar("half subsets", (arguments.subsets as u64) * arguments.subset_seeds);
        let halves =
            Subsets::measure(&all, 0.5, arguments.subsets, 7, &seeds, &mut again(&setting, &images, &probes, &tick))?;
        tick.finish_and_clear();
        let mut half: Pairs = Vec::new();
        for seed in self.seeds() {
            let folder = arguments.out.join(format!("mlp-{seed}"));
            train(&setting, &images, seed, &Change::Nothing, Some((&folder, Some(&probes))))?;
            let predictions = methods::influences(&folder, &setting, images.len(), probes.len())?;
            gather(&mut half, &predictions, |prediction| Ok(halves.against(prediction)?))?;
            if seed == 0 && arguments.brittle > 0 {
                self.brittleness(&name, &setting, &images, &probes, &predictions)?;
            }
        }
        self.correlations(&name, "linear datamodeling score", &half, false);
        Ok(())
    }

    fn brittleness(
        &mut self,
        name: &str,
        setting: &Setting,
        images: &Images,
        probes: &Images,
        predictions: &[(String, Prediction)],
    ) -> Result<()> {
        let base = &train(setting, images, 0, &Change::Nothing, None)?.measure(probes)?;
        let counts = [images.len() / 100, images.len() / 30, images.len() / 10];
        // Those that the model is least sure of first: the others take most of a class.
        let mut asked: Vec<usize> = (0..probes.len()).filter(|probe| base.right[*probe]).collect();
        asked.sort_by(|a, b| base.losses[*b].total_cmp(&base.losses[*a]));
        asked.truncate(self.arguments.brittle);
        let all: Vec<u64> = (0..images.len() as u64).collect();
        for (method, prediction) in predictions {
            if !["TracIn", "influence functions, Gauss-Newton", "adjoint, Gauss-Newton", "TRAK, one run", "random"]
                .contains(&method.as_str())
            {
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
}
