//! Moving a training input (Koh and Liang 2017, §5.2): the pixels of one image a little along the sign of what raises a
//! probe's loss, as their attacks do, against training with the moved image.

use crate::exact::Regression;
use crate::experiments::{bar, sample, Bench};
use crate::task::{train, Images, Model, Setting};
use anyhow::Result;
use gradlog_analysis::audit::{Change, ExactInfluence, Paired};

/// How far each pixel is moved, of its range of 1: two and a half of 255 grey levels.
const STEP: f64 = 0.01;
/// The probes whose losses are raised in turn, and all of which are measured each time.
const PROBES: usize = 5;

impl Bench<'_> {
    /// For each of some images, drawn at random, the same run once more, same seed and same order, with the image moved
    /// against one of the probes: what it changes for all of them, beside what `solved` says to first order.
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
        let bar = bar("moving an input", chosen.len() as u64);
        let (mut measured, mut predicted) = (Vec::new(), Vec::new());
        for (number, example) in chosen.into_iter().enumerate() {
            let slopes: Vec<Vec<f64>> =
                solved.iter().map(|solved| solved.of_input(regression, example)).collect::<Result<_, _>>()?;
            let step: Vec<f64> = slopes[number % slopes.len()].iter().map(|slope| STEP * slope.signum()).collect();
            let along = |slope: &Vec<f64>| slope.iter().zip(&step).map(|(slope, step)| slope * step).sum::<f64>();
            predicted.extend(slopes.iter().map(along));
            let moved = images.with_moved(example, &step);
            let after = train(setting, &moved, seed, &Change::Nothing, None)?.measure(probes)?.losses;
            measured.extend(after.iter().zip(&before).take(solved.len()).map(|(after, before)| after - before));
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(Paired::new(solved.len(), measured, predicted)?)
    }
}
