//! The estimate of what a visit takes, against the columns of a block that a recorder wrote.

use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{VarBuilder, VarMap};
use gradlog::{Config, Recorder, Taps};
use gradlog_analysis::Run;
use gradlog_format::log::{BlockKind, Column, ColumnRole};

/// A column that the recorder writes and the estimate does not know would make it too small.
#[test]
fn the_estimate_counts_every_number_of_a_visit() {
    let dir = tempfile::tempdir().unwrap();
    let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
    let taps = Taps::new();
    let layer = taps.tap("fc", candle_nn::linear(4, 3, vb).unwrap());
    let mut recorder = Recorder::create(dir.path(), &taps, Config::default()).unwrap();
    let mut pass = recorder.pass(&[1, 2]).unwrap();
    let x = Tensor::ones((2, 4), DType::F32, &Device::Cpu).unwrap();
    let y = Tensor::new(&[0u32, 2], &Device::Cpu).unwrap();
    pass.cross_entropy(&layer.forward(&x).unwrap(), &y).unwrap().backward().unwrap();
    pass.commit(0.1).unwrap();
    let cost = recorder.cost();
    recorder.finish().unwrap();
    let run = Run::open(dir.path()).unwrap();
    let block = run.scan().find(|block| block.kind() == Some(BlockKind::Visits)).unwrap();
    let columns: Vec<Column> = block.sizes().map(|size| Column::from_code(size.column).unwrap()).collect();
    let is_number =
        |column: &&Column| matches!(column.role(), ColumnRole::Visit | ColumnRole::Outputs | ColumnRole::Norms);
    let bytes: u64 = columns.iter().filter(is_number).map(|column| column.cells().unwrap().row_bytes(1)).sum();
    assert_eq!(cost.output_bytes_per_visit, bytes, "{columns:?}");
}
