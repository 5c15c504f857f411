//! `gradlog export`: gradients as a matrix, for other tools.

use super::arguments::{VectorArguments, WindowArguments};
use super::choice::{choice, Choice};
use super::error::CliError;
use super::output::{say_coverage, Console, Target};
use super::Outcome;
use crate::report::{write_npy, write_tensors, Numbers, Tensor};
use clap::{Args, ValueEnum};
use gradlog_analysis::{vectors, Combine, FlatVectors};
use gradlog_format::run::Run;
use std::path::PathBuf;

/// Write flat gradient vectors into a safetensors or an npy file
///
/// The file has the tensors (in npy the fields of one structured array) `vectors` (f32, [rows, numbers]), `example` and `step` (u64, [rows]), `visits` (u64, [rows]) and,
/// where they were recorded, `label` (i64, [rows], -1 where there is none). Python reads it with
/// `safetensors.numpy.load_file(FILE)` or `numpy.load(FILE)`, and `["vectors"]` is the matrix. The dot product of two rows is that of the two gradients: exactly where the recorded
/// gradient has no more than N numbers, else folded to N and right on the mean.
#[derive(Debug, Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct Arguments {
    /// Folder of the run
    run: PathBuf,
    /// What a row stands for
    #[arg(long, value_name = "WHAT", default_value = "mean", value_parser = choice::<Combine>())]
    rows: Combine,
    /// Write to this file, which appears when it is whole
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// How to write it; by default as the name of --out ends (.npy), else safetensors
    #[arg(long, value_name = "FORMAT")]
    format: Option<TensorFormat>,
    #[command(flatten)]
    vectors: VectorArguments,
    #[command(flatten)]
    window: WindowArguments,
}

/// The files that matrices are written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TensorFormat {
    /// Named tensors; the header says what they are
    Safetensors,
    /// NumPy's own: one structured array
    Npy,
}

impl Arguments {
    fn format(&self) -> TensorFormat {
        let npy = self.out.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("npy"));
        self.format.unwrap_or(if npy { TensorFormat::Npy } else { TensorFormat::Safetensors })
    }
}

impl Choice for Combine {
    fn all() -> &'static [Self] {
        &[Combine::Mean, Combine::Visits, Combine::Applied]
    }

    fn word(&self) -> &'static str {
        match self {
            Combine::Mean => "mean",
            Combine::Visits => "visits",
            Combine::Applied => "applied",
        }
    }

    fn help(&self) -> &'static str {
        match self {
            Combine::Mean => "an example: the mean of its gradients over its visits",
            Combine::Visits => "a visit: its gradient",
            Combine::Applied => "an example: what its own steps took off the weights, as plain SGD",
        }
    }
}

pub(super) fn run(arguments: &Arguments, console: &mut Console<'_>) -> Result<Outcome, CliError> {
    let run = Run::open(&arguments.run)?;
    let question = arguments.vectors.question(arguments.window.on(&[&run])?, arguments.rows);
    let bar = console.bar(&run, 1, "reading");
    let found = vectors(&run, &question, &|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let found = found?;
    say_vectors(console, &found);
    say_coverage(console, &run);
    let out = Some(arguments.out.as_path());
    let mut target = Target::open(out, console.out)?;
    let written = write(&found, arguments.format(), &mut target).and_then(|()| target.finish());
    written.map_err(|source| Target::failed(out, source))?;
    console.say_damage(found.damage.as_ref());
    Ok(if found.damage.is_some() { Outcome::Loss } else { Outcome::Done })
}

fn write(found: &FlatVectors, format: TensorFormat, target: &mut Target<'_>) -> std::io::Result<()> {
    let rows = found.examples.len();
    let tensor = |name, numbers| Tensor { name, shape: vec![rows], numbers };
    let mut tensors = vec![
        tensor("example", Numbers::U64(&found.examples)),
        tensor("step", Numbers::U64(&found.steps)),
        tensor("visits", Numbers::U64(&found.visits)),
    ];
    let labels: Vec<i64> = found.labels.iter().map(|label| label.map_or(-1, i64::from)).collect();
    if found.labels.iter().any(Option::is_some) {
        tensors.push(tensor("label", Numbers::I64(&labels)));
    }
    let shape = vec![rows, found.length];
    tensors.push(Tensor { name: "vectors", shape, numbers: Numbers::F32(&found.values) });
    if format == TensorFormat::Npy {
        return write_npy(target, &tensors);
    }
    let blocks: Vec<String> = found.blocks.iter().map(|block| format!("{} {}", block.width, block.name)).collect();
    write_tensors(target, &[("variant", found.variant()), ("blocks", blocks.join("; "))], &tensors)
}

/// Says what the vectors are and what was left out of them.
pub(super) fn say_vectors(console: &mut Console<'_>, found: &FlatVectors) {
    let visits: u64 = found.visits.iter().sum();
    console.say(format_args!("{}: {} rows over {visits} visits", found.variant(), found.examples.len()));
    for (count, what) in [
        (found.left_out.not_finite, "visits left out: a number was NaN or infinite"),
        (found.left_out.unseen, "visits left out: the example had no weight in the loss, so its gradient was not seen"),
        (found.left_out.without_gradient, "visits left out: recorded without gradients"),
        (found.left_out.other_layers, "visits left out: their layers were recorded in another form than the first"),
    ] {
        if count > 0 {
            console.say(format_args!("note: {count} {what}"));
        }
    }
}
