//! Explains the run from its log, without the model and without another pass over the text.

use super::text::{Passage, Text};
use crate::extremes::print_extremes;
use anyhow::{Context, Result};
use gradlog_analysis::{AnalysisError, Influence, InfluenceQuestion, Score, ScoreQuestion, Window};
use gradlog_format::run::Run;
use std::path::Path;

/// Number of passages to show for each answer.
const SHOWN: usize = 5;

/// The text, which the log does not hold.
pub struct Explained<'t> {
    pub text: &'t Text,
    pub train: &'t [Passage],
    /// Which training passages were scrambled.
    pub scrambled: &'t [bool],
    pub test: &'t [Passage],
}

impl Explained<'_> {
    /// Prints an explanation of the run in the folder `run`, and what taught the model the held-out passages `asked`.
    pub fn print(&self, run: &Path, asked: &[u64]) -> Result<()> {
        let run = Run::open(run)?;
        // In the first epoch the model learns what all English text shares, from the first passages it sees, with by
        // far the largest gradients. With that epoch, the passages of the first hundred steps would answer every
        // question.
        let later = ScoreQuestion::new(Score::Loss).epochs(1..).compute(&run);
        let window = match later {
            Err(AnalysisError::OutsideRun { .. }) => Window::everything(),
            Err(error) => return Err(error.into()),
            Ok(_) => Window::epochs(1..),
        };
        if window != Window::everything() {
            println!("The answers below are about the epochs after the first. A / marks the end of a line.\n");
        }
        self.print_odd(&run, &window)?;
        let question = InfluenceQuestion::new(super::PROBE_SET).ids(asked.iter().copied()).window(window);
        let answer = question.compute(&run)?;
        self.print_teachers(&answer)
    }

    /// Which passages are not like the others?
    fn print_odd(&self, run: &Run, window: &Window) -> Result<()> {
        println!("Which training passages are odd?");
        for (score, words) in [
            (Score::Loss, "Highest mean loss: the model cannot read them"),
            (Score::SelfInfluence, "Highest self-influence: the model had to change most to read them"),
        ] {
            println!("\n{words}.");
            for row in ScoreQuestion::new(score).window(window.clone()).compute(run)?.rows.iter().take(SHOWN) {
                self.show(row.example, row.score);
            }
        }
        let wrong = self.scrambled.iter().filter(|scrambled| **scrambled).count();
        println!(
            "\nNumber of the {wrong} scrambled passages among the {wrong} most suspicious of {}, by score",
            self.train.len()
        );
        for score in [Score::Loss, Score::Aum, Score::Confidence, Score::El2n, Score::Grand, Score::SelfInfluence] {
            let table = ScoreQuestion::new(score).window(window.clone()).compute(run)?;
            let found = table.rows.iter().take(wrong).filter(|row| self.scrambled[row.example as usize]).count();
            println!("  {:<14} {found:>4}", score.name());
        }
        Ok(())
    }

    /// Which training passages taught the model to read one that it has never seen, and which ones misled it?
    fn print_teachers(&self, answer: &Influence) -> Result<()> {
        for (probe, about) in answer.probes.iter().enumerate() {
            let asked =
                self.test.get(about.id as usize).context("the log has a probe that is not a held-out passage")?;
            println!("\nWhat taught the model to read held-out passage {}, {}?\n", about.id, self.text.locate(asked));
            println!("                                        {}\n", asked.to_line());
            print_extremes(answer, probe, SHOWN, |example, score| self.show(example, score));
        }
        println!("\n({}, over {} visits)", answer.variant(), answer.visits);
        Ok(())
    }

    fn show(&self, example: u64, score: f64) {
        let passage = &self.train[example as usize];
        let mark = if self.scrambled[example as usize] { "scrambled" } else { "" };
        println!("  {score:>7.3}  {:<16}  {mark:<9}  {}", self.text.locate(passage), passage.to_line());
    }
}
