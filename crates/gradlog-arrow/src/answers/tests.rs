//! Tables of answers against the answers.

use super::{VectorNumbers, VectorTable};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float16Type, Float32Type, Float64Type, UInt32Type, UInt64Type};
use arrow_array::RecordBatch;
use arrow_select::concat::concat_batches;
use gradlog_analysis::{Combine, VectorQuestion};
use gradlog_testing::{run_of, visits, Draws};

#[test]
fn vectors_are_a_list_of_a_fixed_size() {
    let written = run_of(&visits(&mut Draws(1), 40, 3, 8), 20);
    let found = VectorQuestion::new(16).combine(Combine::Visits).compute(&written.run()).unwrap();
    let table = VectorTable::new(&found, VectorNumbers::F32).unwrap();
    let batches: Vec<RecordBatch> = table.batches().collect::<Result<_, _>>().unwrap();
    let whole = concat_batches(&table.schema(), &batches).unwrap();
    assert_eq!(whole.num_rows(), found.examples.len());
    assert_eq!(whole["example"].as_primitive::<UInt64Type>().values(), &found.examples[..]);
    assert_eq!(whole["step"].as_primitive::<UInt64Type>().values(), &found.steps[..]);
    assert_eq!(whole["norm"].as_primitive::<Float64Type>().values(), &found.norms[..]);
    assert_eq!(whole["label"].as_primitive::<UInt32Type>().iter().collect::<Vec<_>>(), found.labels);
    let vectors = whole["vector"].as_fixed_size_list();
    assert_eq!(vectors.value_length() as usize, found.length);
    for row in [0, 7, found.examples.len() - 1] {
        assert_eq!(vectors.value(row).as_primitive::<Float32Type>().values(), found.vector(row));
    }
    let table = VectorTable::new(&found, VectorNumbers::F16).unwrap();
    let batch = table.batches().next().unwrap().unwrap();
    let halves = batch["vector"].as_fixed_size_list().value(3);
    for (half, value) in halves.as_primitive::<Float16Type>().values().iter().zip(found.vector(3)) {
        assert!((half.to_f32() - value).abs() <= value.abs() / 2048.0 + 6e-8, "{half} for {value}");
    }
}
