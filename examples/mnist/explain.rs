//! Explains a run from its log: suspects, forgetting, and what taught the model an answer. No model and no training.

use crate::data::{Digits, SIDE};
use anyhow::{Context, Result};
use gradlog_analysis::{Extra, Influence, InfluenceQuestion, Score, ScoreQuestion, ScoreRow, ScoreTable};
use gradlog_format::run::Run;
use std::path::Path;

/// Number of test images in the last part.
const PROBES: usize = 200;

/// Reads the run in `run` and prints the answers. `truth` and the images only serve to check them.
pub fn explain(
    (run, data): (&Path, &Path),
    truth: &[u8],
    train: &Digits,
    test: &Digits,
    gradients: bool,
) -> Result<()> {
    let opened = Run::open(run)?;
    print_suspects(&opened, truth, train, gradients)?;
    print_forgetting(&opened, truth, train)?;
    if gradients {
        print_teachers(&opened, truth, train, test)?;
    }
    println!("\nAsk the run more:");
    println!("    gradlog info {}", run.display());
    println!("    gradlog scores {} --score aum --top 50", run.display());
    if gradients {
        println!("    gradlog influence {} --probe test --id 0", run.display());
    }
    println!("\nLook at it in a browser:");
    let page = run.with_file_name("report.html");
    println!("    gradlog report {} --data idx:{} --out {}", run.display(), data.display(), page.display());
    Ok(())
}

fn print_suspects(run: &Run, truth: &[u8], train: &Digits, gradients: bool) -> Result<()> {
    let wrong = |example: u64| truth[example as usize] != train.labels[example as usize];
    let flipped = (0..train.len() as u64).filter(|e| wrong(*e)).count();
    println!("== Which labels are wrong? ==");
    println!("score           ROC-AUC   wrong labels in the first {flipped}");
    let mut scores = vec![Score::Aum, Score::Loss, Score::El2n, Score::Forgetting];
    if gradients {
        scores.extend([Score::SelfInfluence, Score::Grand]);
    }
    let mut best: Option<ScoreTable> = None;
    for score in scores {
        let table = ScoreQuestion::new(score).compute(run)?;
        let hits: Vec<bool> = table.rows.iter().map(|row| wrong(row.example)).collect();
        let found = hits.iter().take(flipped).filter(|hit| **hit).count();
        println!("{:<15} {:>7}   {found}", score.name(), roc_auc(&hits).map_or("-".into(), |auc| format!("{auc:.4}")));
        best.get_or_insert(table);
    }
    let table = best.context("no score was computed")?;
    println!("\nthe ten most suspicious by {}:", table.score);
    println!("example   given   model says   truth");
    for row in table.rows.iter().take(10) {
        let example = row.example as usize;
        let verdict = if wrong(row.example) { "wrong label" } else { "label is right" };
        let says = row.prediction.map_or("-".into(), |p| p.to_string());
        println!("{example:>7}   {:>5}   {says:>10}   {} ({verdict})", train.labels[example], truth[example]);
    }
    Ok(())
}

fn print_forgetting(run: &Run, truth: &[u8], train: &Digits) -> Result<()> {
    let table = ScoreQuestion::new(Score::Forgetting).compute(run)?;
    let never_learned = |row: &&ScoreRow| row.extra("never_learned") == Some(Extra::Flag(true));
    let never: Vec<u64> = table.rows.iter().filter(never_learned).map(|row| row.example).collect();
    let mislabeled = never.iter().filter(|e| truth[**e as usize] != train.labels[**e as usize]).count();
    println!("\n== What was forgotten, and what was never learned? ==");
    println!("never learned: {} examples, {mislabeled} of them with a wrong label", never.len());
    for times in 0..4 {
        let count = table.rows.iter().filter(|row| row.score == f64::from(times)).count();
        println!("forgotten {times} times: {count}");
    }
    println!("forgotten more often: {}", table.rows.iter().filter(|r| r.score.is_finite() && r.score >= 4.0).count());
    Ok(())
}

fn print_teachers(run: &Run, truth: &[u8], train: &Digits, test: &Digits) -> Result<()> {
    // The matrix of all training images by all test images may not fit into memory, so it takes some test images.
    let asked: Vec<u64> = (0..test.len().min(PROBES) as u64).collect();
    let all = InfluenceQuestion::new("test").ids(asked).compute(run)?;
    // The share of the most helpful examples that have the image's own class.
    let mut own_class = 0.0;
    for probe in 0..all.probes.len() {
        let label = test.labels[all.probes[probe].id as usize];
        let helped = all.proponents(probe, 10);
        let same = helped.iter().filter(|row| train.labels[all.rows[**row].example as usize] == label).count();
        own_class += same as f64 / helped.len().max(1) as f64 / all.probes.len() as f64;
    }
    println!("\n== What taught the model? ==");
    println!(
        "{}; {} visits, {} left out",
        all.variant(),
        all.visits,
        all.left_out.before_first_probe + all.left_out.not_finite
    );
    println!("of a test image's ten strongest proponents, {:.1} share its class on average", 10.0 * own_class);
    println!("(over the first {} test images)", all.probes.len());

    // The image to explain: the first one that the model gets wrong at the end, or else the first.
    let missed = |probe: &usize| all.probes[*probe].prediction != all.probes[*probe].label;
    let probe = (0..all.probes.len()).find(missed).unwrap_or(0);
    let id = all.probes[probe].id as usize;
    let says = all.probes[probe].prediction.map_or("-".into(), |p| p.to_string());
    println!("\ntest image {id} is a {}; the trained model says {says}", test.labels[id]);
    let (helped, hurt) = (all.proponents(probe, 10), all.opponents(probe, 10));
    print_list("the ten training images that helped most", &all, probe, &helped, truth, train);
    print_list("the ten that hurt most", &all, probe, &hurt, truth, train);
    let first_example = |rows: &[usize]| rows.first().map(|row| all.rows[*row].example as usize);
    let mut pictures = vec![(format!("test image {id}"), &test.pixels[id * SIDE * SIDE..])];
    for (title, example) in [("helped most", first_example(&helped)), ("hurt most", first_example(&hurt))] {
        if let Some(example) = example {
            pictures.push((format!("{title}: {example}"), &train.pixels[example * SIDE * SIDE..]));
        }
    }
    draw(&pictures);
    Ok(())
}

fn print_list(title: &str, all: &Influence, probe: usize, rows: &[usize], truth: &[u8], train: &Digits) {
    println!("\n{title}:");
    println!("example   TracIn      label");
    for &row in rows {
        let example = all.rows[row].example as usize;
        let (given, real) = (train.labels[example], truth[example]);
        let note = if given == real { String::new() } else { format!("   (wrong label, it is a {real})") };
        println!("{example:>7}   {:>+9.5}   {given}{note}", all.score(row, probe));
    }
}

/// Prints images side by side. Each line of text shows two rows of pixels.
fn draw(pictures: &[(String, &[u8])]) {
    let titles: String = pictures.iter().map(|(title, _)| format!("{title:<SIDE$}  ")).collect();
    println!("\n{}", titles.trim_end());
    for y in (0..SIDE).step_by(2) {
        let mut line = String::new();
        for (_, pixels) in pictures {
            for x in 0..SIDE {
                let ink = pixels[y * SIDE + x].max(pixels[(y + 1) * SIDE + x]);
                line.push([' ', '.', ':', 'o', '#'][usize::from(ink) * 5 / 256]);
            }
            line.push_str("  ");
        }
        println!("{}", line.trim_end());
    }
}

/// The probability that a wrong label ranks before a right one; `None` if either kind is missing.
fn roc_auc(ranking: &[bool]) -> Option<f64> {
    let wrong = ranking.iter().filter(|hit| **hit).count();
    let right = ranking.len() - wrong;
    let (mut ahead, mut seen) = (0usize, 0usize);
    for hit in ranking {
        match hit {
            true => seen += 1,
            false => ahead += seen,
        }
    }
    (wrong > 0 && right > 0).then(|| ahead as f64 / (wrong as f64 * right as f64))
}
