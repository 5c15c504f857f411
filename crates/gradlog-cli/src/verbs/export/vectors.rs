//! Gradients as a matrix into a file.

use super::Kind;
use crate::error::CliError;
use crate::frame::{Content, Ending, Shown};
use crate::notes::Notes;
use crate::report::{write_npy, write_tensors, Numbers, Tensor};
use gradlog_analysis::FlatVectors;
use gradlog_arrow::{FileFormat, TableWriter, VectorNumbers, VectorTable};
use std::io::{self, Write};

pub(super) fn show<'run>(found: FlatVectors, kind: Kind, half: bool) -> Shown<'run> {
    Shown {
        words: vec![vector_words(&found)],
        basis: Some(found.basis.to_string()),
        left_out: vec![(String::new(), Notes::from(&found))],
        damage: found.damage.iter().cloned().collect(),
        content: Content::Written(Box::new(move |target| {
            match kind.columnar() {
                Some(format) => write_columns(&found, format, half, target)?,
                None => write_tensor_file(&found, kind, target)?,
            }
            Ok(Ending::default())
        })),
        ..Shown::default()
    }
}

fn write_columns(found: &FlatVectors, format: FileFormat, half: bool, target: &mut dyn Write) -> Result<(), CliError> {
    let numbers = if half { VectorNumbers::F16 } else { VectorNumbers::F32 };
    let table = VectorTable::new(found, numbers)?;
    let mut writer = TableWriter::begin(target, format, table.schema())?;
    for batch in table.batches() {
        writer.write(&batch?)?;
    }
    writer.finish()?;
    Ok(())
}

fn write_tensor_file(found: &FlatVectors, kind: Kind, target: &mut dyn Write) -> io::Result<()> {
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
    if kind == Kind::Npy {
        return write_npy(target, &tensors);
    }
    let blocks: Vec<String> = found.blocks.iter().map(|block| format!("{} {}", block.width, block.name)).collect();
    let about = [("variant", found.variant()), ("basis", found.basis.to_string()), ("blocks", blocks.join("; "))];
    write_tensors(target, &about, &tensors)
}

/// What the vectors are.
pub(in crate::verbs) fn vector_words(found: &FlatVectors) -> String {
    let visits: u64 = found.visits.iter().sum();
    format!("{}: {} rows over {visits} visits", found.variant(), found.examples.len())
}
