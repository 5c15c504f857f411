//! `gradlog export`: gradients as a matrix, for other tools.

use crate::arguments::{VectorArguments, WindowArguments, EXIT_CODES};
use crate::choice::{choice, Choice};
use crate::error::CliError;
use crate::frame::{Asked, Content, Ending, Shown, Verb};
use crate::notes::Notes;
use crate::output::Destination;
use crate::report::{write_npy, write_tensors, Numbers, Tensor};
use clap::{Args, ValueEnum};
use gradlog_analysis::{Combine, FlatVectors, Window};
use std::io::{self, Write};
use std::path::PathBuf;
use std::slice;

/// Write flat gradient vectors into a safetensors or an npy file
///
/// The file has the tensors (in npy the fields of one structured array) `vectors` (f32, [rows, numbers]), `example`,
/// `step` and `visits` (u64, [rows]), `norm` (f32, [rows]) and, where they were recorded, `label` (i64, [rows], -1
/// without one).
/// Python reads it with `safetensors.numpy.load_file(FILE)` or `numpy.load(FILE)`, and `["vectors"]` is the matrix.
/// The dot product of two rows is that of the two gradients. It is exact where the recorded gradient has at most N
/// numbers. A longer gradient is folded to N, and the product is then right on the mean.
/// `norm` is the length of the gradient. Take the cosine of two rows as their dot product divided by both norms: where
/// visits are stored as signs, a row itself is up to 1.25 times longer. There products of nearly parallel gradients are
/// up to π/2 times too large, which `gradlog similar` and `gradlog cluster` correct.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// Folder of the run
    run: PathBuf,
    /// What a row holds
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
            _ => "applied",
        }
    }

    fn help(&self) -> &'static str {
        match self {
            Combine::Mean => "an example: the mean of its gradients over its visits",
            Combine::Visits => "a visit: its gradient",
            _ => "an example: what its own steps took off the weights, as plain SGD",
        }
    }
}

impl Verb for Arguments {
    type Answer<'run> = FlatVectors;

    fn runs(&self) -> &[PathBuf] {
        slice::from_ref(&self.run)
    }

    fn window(&self) -> Window {
        self.window.window()
    }

    fn destination(&self) -> Destination<'_> {
        Destination { out: Some(&self.out), ..Destination::stdout() }
    }

    fn ask<'run>(&self, asked: &Asked<'run>) -> Result<FlatVectors, CliError> {
        let question = self.vectors.question(&asked.window, self.rows);
        asked.read("reading", 1, |progress| question.share_progress(progress).compute(asked.run()))
    }

    fn show<'run>(&'run self, _asked: &'run Asked<'run>, found: FlatVectors) -> Result<Shown<'run>, CliError> {
        let format = self.format();
        Ok(Shown {
            words: vec![vector_words(&found)],
            basis: Some(found.basis.to_string()),
            left_out: vec![(String::new(), Notes::from(&found))],
            damage: found.damage.iter().cloned().collect(),
            content: Content::Written(Box::new(move |target| {
                write_vectors(&found, format, target)?;
                Ok(Ending::default())
            })),
            ..Shown::default()
        })
    }
}

fn write_vectors(found: &FlatVectors, format: TensorFormat, target: &mut dyn Write) -> io::Result<()> {
    let rows = found.examples.len();
    let tensor = |name, numbers| Tensor { name, shape: vec![rows], numbers };
    let mut tensors = vec![
        tensor("example", Numbers::U64(&found.examples)),
        tensor("step", Numbers::U64(&found.steps)),
        tensor("visits", Numbers::U64(&found.visits)),
    ];
    let norms: Vec<f32> = found.norms.iter().map(|norm| *norm as f32).collect();
    let labels: Vec<i64> = found.labels.iter().map(|label| label.map_or(-1, i64::from)).collect();
    if found.labels.iter().any(Option::is_some) {
        tensors.push(tensor("label", Numbers::I64(&labels)));
    }
    tensors.push(tensor("norm", Numbers::F32(&norms)));
    let shape = vec![rows, found.length];
    tensors.push(Tensor { name: "vectors", shape, numbers: Numbers::F32(&found.values) });
    if format == TensorFormat::Npy {
        return write_npy(target, &tensors);
    }
    let blocks: Vec<String> = found.blocks.iter().map(|block| format!("{} {}", block.width, block.name)).collect();
    let about = [("variant", found.variant()), ("basis", found.basis.to_string()), ("blocks", blocks.join("; "))];
    write_tensors(target, &about, &tensors)
}

/// What the vectors are.
pub(super) fn vector_words(found: &FlatVectors) -> String {
    let visits: u64 = found.visits.iter().sum();
    format!("{}: {} rows over {visits} visits", found.variant(), found.examples.len())
}
