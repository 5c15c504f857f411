//! `--verdicts FILE`: trains without and with the verdicts of the report's page, and compares the two.

use crate::data::Digits;
use crate::model::CLASSES;
use crate::{train_and_record, Arguments, TrainingSet};
use anyhow::{bail, Context, Result};
use gradlog::Verdicts;
use std::path::Path;

/// Trains twice from the same seed: on the labels as they are, and as the verdicts say. Prints the gain in accuracy.
pub fn compare(arguments: &Arguments, file: &Path, truth: &[u8], train: &Digits, test: &Digits) -> Result<()> {
    let verdicts = Verdicts::read(file)?;
    // The verdicts must be about these labels: the run was recorded with this --data, --seed, --flip and --flip-seed.
    verdicts
        .check_labels(|id| train.labels.get(id as usize).map(|label| u32::from(*label)))
        .context("give mnist the options with which it recorded the run that was judged")?;
    if let Some((id, label)) = verdicts.relabeled().find(|(_, label)| *label as usize >= CLASSES) {
        bail!("{}: example {id} is relabeled to {label}, but this model takes 0 to {}", file.display(), CLASSES - 1);
    }

    // All that a training program does with verdicts: which examples to leave out, which labels to change.
    let mut judged = TrainingSet::all(train.clone());
    judged.ids.retain(|id| {
        let label = &mut judged.digits.labels[*id as usize];
        verdicts.label(*id, u32::from(*label)).map(|new| *label = new as u8).is_some()
    });

    let wrong = |set: &TrainingSet| {
        let is_wrong = |id: &&u64| set.digits.labels[**id as usize] != truth[**id as usize];
        set.ids.iter().filter(is_wrong).count()
    };
    let before = TrainingSet::all(train.clone());
    let (dropped, relabeled) = (verdicts.dropped().count(), verdicts.relabeled().count());
    println!("{}: {dropped} dropped, {relabeled} relabeled, of {} verdicts", file.display(), verdicts.len());
    println!(
        "wrong labels: {} of {} without the verdicts, {} of {} with them\n",
        wrong(&before),
        before.ids.len(),
        wrong(&judged),
        judged.ids.len()
    );
    println!("== Without the verdicts ==");
    let without = train_and_record(arguments, &arguments.out.join("without-verdicts"), &before, test)?;
    println!("== With the verdicts ==");
    let with = train_and_record(arguments, &arguments.out.join("with-verdicts"), &judged, test)?;
    print_gain(&without, &with);
    let seed = arguments.flip_seed.unwrap_or(arguments.seed);
    println!("the order of the batches counts, too: with --flip-seed {seed} another --seed keeps these labels");
    Ok(())
}

/// Compares two models by the test images that only one of them gets right.
fn print_gain(without: &[bool], with: &[bool]) {
    let count = with.len() as f64;
    let percent = |right: &[bool]| 100.0 * right.iter().filter(|right| **right).count() as f64 / count;
    let only = |a: &[bool], b: &[bool]| a.iter().zip(b).filter(|(a, b)| **a && !**b).count();
    let (gained, lost) = (only(with, without), only(without, with));
    // McNemar's test: if the two were equally good, each of these images would fall to either side by chance.
    let gain = 100.0 * (gained as f64 - lost as f64) / count;
    let chance = 100.0 * ((gained + lost) as f64).sqrt() / count;
    let word = match gain {
        gain if gain > 0.0 => "a gain",
        gain if gain < 0.0 => "a LOSS",
        _ => "no difference",
    };
    println!("== Do the verdicts help? ==");
    println!("test accuracy without them {:.1} %, with them {:.1} %, same seed", percent(without), percent(with));
    println!("{word} of {gain:+.1} points: {gained} test images are right only with them, {lost} only without");
    if gain.abs() < 2.0 * chance {
        println!("this can be chance: two equally good models differ by {chance:.1} points (one standard deviation)");
    }
}
