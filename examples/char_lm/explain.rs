//! The run explained from its log: no model and no second pass over the text.

use super::text::{Passage, Text};
use anyhow::{Context, Result};
use gradlog::analysis::{influence, Influence, Question, Score, Window};
use gradlog::run::Run;
use std::path::Path;

/// Passages that are shown for each question.
const SHOWN: usize = 5;

pub struct Explained<'t> {
    pub text: &'t Text,
    pub train: &'t [Passage],
    /// Which training passages were scrambled: what the log does not know.
    pub scrambled: &'t [bool],
    pub test: &'t [Passage],
}

impl Explained<'_> {
    pub fn from(&self, run: &Path) -> Result<()> {
        let run = Run::open(run)?;
        self.odd(&run)?;
        let answer = influence(&run, &Question { window: Window::epochs(1..u32::MAX), ..Question::all(super::PROBE_SET) })?;
        self.teachers(&answer)?;
        self.balance(&answer);
        Ok(())
    }

    /// Which passages are not like the others?
    fn odd(&self, run: &Run) -> Result<()> {
        let window = Window::epochs(1..u32::MAX);
        println!("Which training passages are odd? The highest self-influences (a / is the end of a line):\n");
        let table = Score::SelfInfluence.compute(run, &window)?;
        for row in table.rows.iter().take(2 * SHOWN) {
            self.show(row.example, row.score);
        }
        let wrong = self.scrambled.iter().filter(|scrambled| **scrambled).count();
        println!("\nOf the {wrong} scrambled passages, so many are among the {wrong} most suspicious by");
        for score in [Score::SelfInfluence, Score::Grand, Score::Loss, Score::Confidence, Score::Aum] {
            let table = score.compute(run, &window)?;
            let found = table.rows.iter().take(wrong).filter(|row| self.scrambled[row.example as usize]).count();
            println!("  {:<14} {found:>4}", score.name());
        }
        Ok(())
    }

    /// Which training passages taught the model to continue one that it has never seen, and which misled it?
    fn teachers(&self, answer: &Influence) -> Result<()> {
        for (probe, about) in answer.probes.iter().enumerate() {
            let asked = self.test.get(about.id as usize).context("the log holds a probe that is no held-out passage")?;
            println!("\nWhat taught the model to read this held-out passage ({})?\n\n  {}\n", self.text.place(asked), asked.shown());
            println!("Helped most:");
            for row in answer.proponents(probe, SHOWN) {
                self.show(answer.rows[row].example, answer.score(row, probe));
            }
            println!("Hurt most:");
            for row in answer.opponents(probe, SHOWN) {
                self.show(answer.rows[row].example, answer.score(row, probe));
            }
        }
        Ok(())
    }

    /// Did the scrambled passages do harm?
    fn balance(&self, answer: &Influence) {
        let mut by_kind = [(0.0, 0usize, 0usize); 2];
        for (row, about) in answer.rows.iter().enumerate() {
            let total: f64 = (0..answer.probes.len()).map(|probe| answer.score(row, probe)).sum();
            let kind = &mut by_kind[usize::from(self.scrambled[about.example as usize])];
            *kind = (kind.0 + total, kind.1 + usize::from(total < 0.0), kind.2 + 1);
        }
        println!("\nOn all {} held-out passages together ({}):", answer.probes.len(), answer.variant());
        for (name, (total, harmful, count)) in ["intact", "scrambled"].iter().zip(by_kind) {
            let share = 100.0 * harmful as f64 / count.max(1) as f64;
            println!("  {name:<10} {count:>5} passages, mean influence {:>+9.4}, {share:>3.0} % of them harmful", total / count.max(1) as f64);
        }
    }

    fn show(&self, example: u64, score: f64) {
        let passage = &self.train[example as usize];
        let mark = if self.scrambled[example as usize] { "scrambled" } else { "" };
        println!("  {score:>8.3}  {:<17} {:<9}  {}", self.text.place(passage), mark, passage.shown());
    }
}
