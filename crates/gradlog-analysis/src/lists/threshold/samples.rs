//! Threshold samples: drawn before the training, and known again in the runs.

use crate::AnalysisError;
use gradlog_format::sketch::draw;

/// Two disjoint sets of threshold samples, for two runs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ThresholdSamples {
    /// The extra class: the number of classes there are without it.
    pub class: u32,
    /// The samples of the first run and of the second, ascending.
    pub sets: [Vec<u64>; 2],
}

impl ThresholdSamples {
    /// Draws two sets of `N/(classes + 1)` examples each, rounded down.
    ///
    /// ```
    /// use gradlog_analysis::ThresholdSamples;
    ///
    /// let ids: Vec<u64> = (0..110).collect();
    /// let samples = ThresholdSamples::draw(&ids, 10, 7)?;
    /// assert_eq!((samples.class, samples.sets[0].len(), samples.sets[1].len()), (10, 10, 10));
    /// let first = samples.sets[0][0];
    /// assert_eq!((samples.label(0, first, 3), samples.label(1, first, 3)), (Some(10), Some(3)));
    /// # Ok::<(), gradlog_analysis::AnalysisError>(())
    /// ```
    ///
    /// # Errors
    /// [`AnalysisError::OutOfRange`] with fewer than `classes + 1` different examples, or without classes.
    pub fn draw(examples: &[u64], classes: u32, seed: u64) -> Result<Self, AnalysisError> {
        let mut drawn = examples.to_vec();
        drawn.sort_unstable();
        drawn.dedup();
        let count = (drawn.len() as u64 / (u64::from(classes) + 1)) as usize;
        if classes == 0 || count == 0 {
            let (examples, least) = (drawn.len(), u64::from(classes) + 1);
            let (what, given, range) = match classes {
                0 => ("the number of classes", 0, "at least 1".into()),
                _ => ("the number of examples", examples, format!("at least {least} for {classes} classes")),
            };
            return Err(AnalysisError::OutOfRange { what, given: given.to_string(), range });
        }
        drawn.sort_by_key(|&example| (draw(seed, example), example));
        let set = |from: usize| {
            let mut set = drawn[from..from + count].to_vec();
            set.sort_unstable();
            set
        };
        Ok(Self { class: classes, sets: [set(0), set(count)] })
    }

    /// The label to train with in run `run`, 0 or 1: the extra class for its threshold samples, else `label`.
    /// `None` if `run` is neither 0 nor 1.
    pub fn label(&self, run: usize, example: u64, label: u32) -> Option<u32> {
        let set = self.sets.get(run)?;
        Some(if set.binary_search(&example).is_ok() { self.class } else { label })
    }
}

/// How the threshold samples of a run are known.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ThresholdIds {
    /// By the label that they were recorded with: the extra class.
    Class(u32),
    /// By their ids, a set for each run.
    Sets(Vec<Vec<u64>>),
}

impl From<ThresholdSamples> for ThresholdIds {
    /// A set for each of the two runs, in the order in which they were drawn.
    fn from(samples: ThresholdSamples) -> Self {
        Self::Sets(samples.sets.into())
    }
}
