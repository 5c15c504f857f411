//! Explains the run from its log: which labels are wrong, and which texts taught the model an answer.

use super::data::Review;
use crate::extremes::print_extremes;
use anyhow::Result;
use gradlog_analysis::{InfluenceQuestion, Score, ScoreQuestion};
use gradlog_format::run::Run;
use std::path::Path;

/// Number of texts to show for each answer.
const SHOWN: usize = 5;

/// The texts, which the log does not hold.
pub struct Explained<'t> {
    pub train: &'t [Review],
    /// Which training labels were replaced.
    pub flipped: &'t [bool],
    pub test: &'t [Review],
}

impl Explained<'_> {
    pub fn print(&self, run: &Path, asked: &[u64]) -> Result<()> {
        let run = Run::open(run)?;
        let wrong = self.flipped.iter().filter(|flipped| **flipped).count();
        println!(
            "Number of the {wrong} wrong labels among the {wrong} most suspicious of {}, by score",
            self.train.len()
        );
        for score in [Score::Aum, Score::Loss, Score::El2n, Score::SelfInfluence, Score::Grand] {
            let table = ScoreQuestion::new(score).compute(&run)?;
            let found = table.rows.iter().take(wrong).filter(|row| self.flipped[row.example as usize]).count();
            println!("  {:<14} {found:>4}", score.name());
        }
        println!("\nThe most suspicious labels by {}.", Score::Aum.name());
        for row in ScoreQuestion::new(Score::Aum).compute(&run)?.rows.iter().take(2 * SHOWN) {
            self.show(row.example, row.score);
        }
        let answer = InfluenceQuestion::new(super::PROBE_SET).ids(asked.iter().copied()).compute(&run)?;
        for (probe, about) in answer.probes.iter().enumerate() {
            let review = &self.test[about.id as usize];
            println!("\nWhat taught the model that test text {} is {}?", about.id, describe(review.label));
            println!("    {}", review.text);
            print_extremes(&answer, probe, SHOWN, |example, score| self.show(example, score));
        }
        println!("\n({}, over {} visits)", answer.variant(), answer.visits);
        Ok(())
    }

    fn show(&self, example: u64, score: f64) {
        let review = &self.train[example as usize];
        let mark = if self.flipped[example as usize] { "wrong" } else { "" };
        println!("  {score:>8.3}  {:<6} {mark:<5}  {}", describe(review.label), review.text);
    }
}

fn describe(label: u32) -> &'static str {
    if label == 1 {
        "praise"
    } else {
        "blame"
    }
}
