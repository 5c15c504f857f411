//! Moves a training input (Koh and Liang 2017, §5.2): shifts the pixels of one image a little along the sign that
//! raises a probe's loss, as their attacks do. Compares the prediction with training on the moved image.

use crate::exact::Regression;
use crate::experiments::{make_bar, sample, Bench};
use crate::images::Images;
use crate::task::{train, Model, Setting};
use anyhow::Result;
use gradlog_analysis::audit::{Change, ExactInfluence, Paired};

/// The shift of each pixel, of its range of 1: two and a half of 255 gray levels.
const STEP: f64 = 0.01;
/// The probes whose losses are raised in turn. All of them are measured each time.
const PROBES: usize = 5;

impl Bench<'_> {
    /// Repeats the run for some images, drawn at random, with the same seed and order and the image moved against one
    /// of the probes. Compares the change for all probes with what `solved` predicts to first order.
    pub fn moved_inputs(
        &self,
        setting: &Setting,
        images: &Images,
        (seed, model): (u64, &Model),
        probes: &Images,
        (regression, solved): (&mut Regression, &[ExactInfluence]),
    ) -> Result<Paired> {
        let solved = &solved[..solved.len().min(PROBES)];
        let before = model.measure(probes)?.losses;
        let chosen = sample(images.len(), self.arguments.moved, seed ^ 0x40);
        let bar = make_bar("moving an input", chosen.len() as u64);
        let (mut measured, mut predicted) = (Vec::new(), Vec::new());
        for (number, example) in chosen.into_iter().enumerate() {
            let slopes: Vec<Vec<f64>> =
                solved.iter().map(|solved| solved.input_influence(regression, example)).collect::<Result<_, _>>()?;
            let step: Vec<f64> = slopes[number % slopes.len()].iter().map(|slope| STEP * slope.signum()).collect();
            let along = |slope: &Vec<f64>| slope.iter().zip(&step).map(|(slope, step)| slope * step).sum::<f64>();
            predicted.extend(slopes.iter().map(along));
            let moved = images.move_pixels(example, &step);
            let after = train(setting, &moved, seed, &Change::Nothing, None)?.measure(probes)?.losses;
            measured.extend(after.iter().zip(&before).take(solved.len()).map(|(after, before)| after - before));
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(Paired::new(solved.len(), measured, predicted)?)
    }
}
