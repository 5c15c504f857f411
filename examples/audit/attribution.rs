//! Experiments on influence: compares what every method predicts for training examples and probes with training without
//! them.

use crate::exact::Regression;
use crate::experiments::{
    add_to_list, announce, gather, make_bar, make_bootstrap, make_retraining, sample, Bench, Lists,
};
use crate::images::{Images, Pixels};
use crate::methods;
use crate::task::{train, Architecture, Model, Rule, Setting};
use anyhow::Result;
use gradlog_analysis::audit::{
    Brittleness, BrittlenessPlan, Change, Finding, LeaveOneOut, Paired, Prediction, Smoothness, SubsetsPlan,
};

/// The methods whose proponents are removed.
const BRITTLE: [&str; 5] =
    ["TracIn", "influence functions, Gauss-Newton", "adjoint, Gauss-Newton", "TRAK, one run", "random"];

impl Bench<'_> {
    /// Trains and records the run of a seed in a folder. Returns the model, and every method's predictions from the
    /// log.
    fn record_run(
        &self,
        folder: &str,
        setting: &Setting,
        images: &Images,
        probes: &Images,
        seed: u64,
    ) -> Result<(Model, Vec<(String, Prediction)>)> {
        let folder = self.arguments.out.join(format!("{folder}-{seed}"));
        let model = train(setting, images, seed, &Change::Nothing, Some((&folder, Some(probes))))?;
        let predictions = methods::influences(&folder, setting, images.len(), probes.len())?;
        Ok((model, predictions))
    }

    /// Logistic regression: leave-one-out compared with every method and with exact influence functions, and moved
    /// inputs compared with the latter.
    pub fn logistic(&mut self) -> Result<()> {
        let arguments = self.arguments;
        // Pixels and weight decay as in Koh and Liang's logistic regression. The rate falls to zero, so that the
        // weights reach the minimum that exact influence functions describe.
        let setting = Setting {
            architecture: Architecture::Dense(Vec::new()),
            epochs: arguments.logistic_epochs,
            batch: 100,
            learning_rate: 0.1,
            weight_decay: 0.01,
            cosine: true,
            probe_times: 1,
            // With so few rows the adjoint uses them directly: a matrix of 7,850 by 7,850 takes as long as some
            // thousand rows.
            curvature: (350, 5),
            exact: true,
            ..self.mlp_setting()
        };
        let images = Images::from_digits(&self.limit_train(arguments.logistic_train), Pixels::Unit);
        let probes = self.probes(arguments.probes, Pixels::Unit);
        let name = announce(setting.describe(images.len(), Pixels::Unit));
        let (mut pairs, mut moved) = (Vec::new(), Vec::new());
        for seed in self.seeds() {
            let (model, mut predictions) = self.record_run("logistic", &setting, &images, &probes, seed)?;
            let mut regression = Regression::from_model(&model, &images, &probes, setting.weight_decay)?;
            let bar = make_bar("exact influence functions", 0);
            let (solved, exactly) = regression.influence_functions(&bar)?;
            bar.finish_and_clear();
            let residual = solved.iter().map(|solved| solved.residual).fold(0.0, f64::max);
            println!(
                "conjugate gradients: largest relative residual {residual:.1e}, {:.1} s",
                bar.elapsed().as_secs_f64()
            );
            let exact = "influence functions, exact";
            predictions.push((exact.into(), exactly));
            self.leave_one_out(&setting, &images, &probes, seed, &predictions, &mut pairs)?;
            if arguments.moved > 0 {
                let from = (&mut regression, solved.as_slice());
                add_to_list(&mut moved, exact, self.moved_inputs(&setting, &images, (seed, &model), &probes, from)?);
            }
        }
        self.correlations(&name, "leave-one-out", &pairs, true);
        self.correlations(&name, "moved input", &moved, true);
        Ok(())
    }

    /// Leaves examples out of the run of one seed. Compares the result with every method's prediction, and with
    /// removing half of their weight.
    fn leave_one_out(
        &self,
        setting: &Setting,
        images: &Images,
        probes: &Images,
        seed: u64,
        predictions: &[(String, Prediction)],
        pairs: &mut Lists<Paired>,
    ) -> Result<()> {
        let left_out = sample(images.len(), self.arguments.left_out, seed);
        let bar = make_bar("leaving out", 2 * left_out.len() as u64 + 2);
        let truth = LeaveOneOut::measure(seed, &left_out, &mut make_retraining(setting, images, probes, &bar))?;
        bar.finish_and_clear();
        println!("seed {seed}: rounding changes the losses by {:.1e} of what leaving one out does", truth.noise);
        // The first row of the table: could anything predict this?
        println!("{}", Smoothness::measure(&[truth.ceiling()], make_bootstrap()));
        add_to_list(pairs, Smoothness::HALF_WEIGHT, truth.ceiling());
        gather(pairs, predictions, |prediction| Ok(truth.pair_with(prediction)?))?;
        Ok(())
    }

    /// An MLP whose training is smooth enough for leave-one-out to be predictable.
    pub fn loo(&mut self) -> Result<()> {
        let arguments = self.arguments;
        let setting = Setting {
            architecture: Architecture::Dense(arguments.loo_hidden.clone()),
            learning_rate: arguments.loo_rate,
            ..self.mlp_setting()
        };
        let images = Images::from_digits(&self.limit_train(arguments.train), Pixels::Unit);
        let probes = self.probes(arguments.probes, Pixels::Unit);
        let name = announce(setting.describe(images.len(), Pixels::Unit));
        let widths: Vec<String> = arguments.loo_hidden.iter().map(usize::to_string).collect();
        let folder = format!("loo-{}-{}", widths.join("-"), setting.learning_rate);
        let mut pairs = Vec::new();
        for seed in self.seeds() {
            let (_, predictions) = self.record_run(&folder, &setting, &images, &probes, seed)?;
            self.leave_one_out(&setting, &images, &probes, seed, &predictions, &mut pairs)?;
        }
        self.correlations(&name, "leave-one-out", &pairs, true);
        Ok(())
    }

    pub fn mlp_setting(&self) -> Setting {
        Setting {
            architecture: Architecture::mlp(),
            rule: Rule::Sgd,
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
        let images = Images::from_digits(&self.limit_train(arguments.train), Pixels::Standardized);
        let probes = self.probes(arguments.probes, Pixels::Standardized);
        let name = announce(setting.describe(images.len(), Pixels::Standardized));
        let all: Vec<u64> = (0..images.len() as u64).collect();
        // The subsets' models have their own seeds: the question is whether one run predicts other trainings.
        let seeds: Vec<u64> = (1000..1000 + arguments.subset_seeds).collect();
        let tick = make_bar("half subsets", (arguments.subsets as u64) * arguments.subset_seeds);
        let plan = SubsetsPlan::new(&all, arguments.subsets).draw_seed(7).seeds(&seeds);
        let halves = plan.measure(&mut make_retraining(&setting, &images, &probes, &tick))?;
        tick.finish_and_clear();
        let mut half: Lists<Paired> = Vec::new();
        if arguments.subset_seeds > 1 {
            println!("{}", Smoothness::measure(&[halves.ceiling()?], make_bootstrap()));
            half.push((Smoothness::TRAINED_AGAIN.into(), vec![halves.ceiling()?]));
        }
        let counts = [images.len() / 100, images.len() / 30, images.len() / 10];
        let mut brittle = Vec::new();
        for seed in self.seeds() {
            let (model, predictions) = self.record_run("mlp", &setting, &images, &probes, seed)?;
            gather(&mut half, &predictions, |prediction| Ok(halves.pair_with(prediction)?))?;
            if arguments.brittle > 0 {
                let parts = self.brittleness((&setting, seed), &model, &images, &probes, &counts, &predictions)?;
                parts.into_iter().for_each(|(method, part)| add_to_list(&mut brittle, &method, part));
            }
        }
        self.correlations(&name, "linear datamodeling score", &half, false);
        let seeds = self.seeds();
        for (method, parts) in &brittle {
            for count in counts {
                let metric = format!("flipped without {count} proponents");
                self.add(Finding::new(
                    &name,
                    method,
                    &metric,
                    Brittleness::share_flipped(parts, count, make_bootstrap()),
                    &seeds,
                ));
            }
        }
        Ok(())
    }

    /// Removes the strongest proponents of some probes from the run of one seed, by several methods.
    fn brittleness(
        &self,
        (setting, seed): (&Setting, u64),
        model: &Model,
        images: &Images,
        probes: &Images,
        counts: &[usize],
        predictions: &[(String, Prediction)],
    ) -> Result<Vec<(String, Brittleness)>> {
        let base = &model.measure(probes)?;
        // Takes those first that the model is least sure of. The others need most of a class to be removed.
        let mut asked: Vec<usize> = (0..probes.len()).filter(|probe| base.right[*probe]).collect();
        asked.sort_by(|a, b| base.losses[*b].total_cmp(&base.losses[*a]));
        asked.truncate(self.arguments.brittle);
        let all: Vec<u64> = (0..images.len() as u64).collect();
        let bar = make_bar("removing proponents", (BRITTLE.len() * asked.len() * counts.len()) as u64);
        let plan = BrittlenessPlan::new(seed, base, &all, counts).probes(&asked);
        let mut found = Vec::new();
        for (method, prediction) in predictions.iter().filter(|(method, _)| BRITTLE.contains(&method.as_str())) {
            let mut retrain = make_retraining(setting, images, probes, &bar);
            let part = plan.measure(prediction, &mut retrain)?;
            found.push((method.clone(), part));
        }
        bar.finish_and_clear();
        Ok(found)
    }
}
