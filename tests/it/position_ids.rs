//! Position ids: with a batch dimension they are recorded, and without one they are refused, also where their number is
//! that of the examples.

use crate::common::*;
use candle_core::{Device, Module, Tensor, Var, D};
use candle_nn::{embedding, linear, Embedding, Linear};
use gradlog::taps::{Tapped, Taps};
use gradlog::{RecordError, Recorder};
use gradlog_format::log::{BlockKind, Column};
use std::path::Path;

const BATCH: usize = 4;

struct Model {
    tokens: Tapped<Embedding>,
    positions: Tapped<Embedding>,
    head: Tapped<Linear>,
    taps: Taps,
    variables: Vec<Var>,
}

impl Model {
    fn new() -> Self {
        let (taps, variables) = (Taps::new(), candle_nn::VarMap::new());
        let vb = builder(&variables);
        let tokens = taps.tap("tokens", embedding(7, 5, vb.pp("tokens")).unwrap());
        let positions = taps.tap("positions", embedding(9, 5, vb.pp("positions")).unwrap());
        let head = taps.tap("head", linear(5, 3, vb.pp("head")).unwrap());
        Self { tokens, positions, head, taps, variables: variables.all_vars() }
    }

    fn ids(length: usize) -> Tensor {
        let ids: Vec<u32> = (0..(BATCH * length) as u32).map(|i| (i * i + i / 3) % 7).collect();
        Tensor::from_vec(ids, (BATCH, length), &Device::Cpu).unwrap()
    }

    /// `positions` are of `[length]` or of `[batch, length]`.
    fn loss(&self, ids: &Tensor, positions: &Tensor) -> Tensor {
        let h = self.tokens.forward(ids).unwrap().broadcast_add(&self.positions.forward(positions).unwrap()).unwrap();
        let logits = self.head.forward(&h.tanh().unwrap()).unwrap().mean(1).unwrap();
        logits.powf(3.0).unwrap().sum(D::Minus1).unwrap()
    }

    fn record(&self, dir: &Path, ids: &Tensor, positions: &Tensor) -> Result<Vec<f32>, RecordError> {
        let mut recorder = Recorder::create(dir, &self.taps, exact())?;
        let mut pass = recorder.pass(&[0, 1, 2, 3])?;
        pass.losses(&self.loss(ids, positions))?.backward()?;
        pass.commit(0.1)?;
        recorder.finish()?;
        Ok(f32s(dir, BlockKind::Visits, Column::SquaredNorm))
    }

    /// By candle, of each example alone.
    fn right(&self, ids: &Tensor, positions: &Tensor) -> Vec<f32> {
        let own = |i: usize| {
            let grads = self.loss(&row(ids, i).unwrap(), positions).sum_all().unwrap().backward().unwrap();
            self.variables.iter().map(|v| numbers(grads.get(v).unwrap())).map(|g| dot(&g, &g)).sum::<f64>() as f32
        };
        (0..BATCH).map(own).collect()
    }
}

#[test]
fn position_ids_without_a_batch_dimension_are_refused_whatever_their_number() {
    let dir = tempfile::tempdir().unwrap();
    for (number, length) in [3, BATCH, 6].into_iter().enumerate() {
        // Some models begin behind the padding index.
        for offset in [0u32, 2] {
            let model = Model::new();
            let ids = Model::ids(length);
            let flat = Tensor::arange(offset, offset + length as u32, &Device::Cpu).unwrap();
            let folder = dir.path().join(format!("{number}-{offset}"));
            let error = model.record(&folder.join("flat"), &ids, &flat).unwrap_err().to_string();
            assert!(error.contains("`positions`") && error.contains("position ids"), "{error}");
            if length == BATCH {
                assert!(error.contains("`ids.unsqueeze(0)?.expand((batch, positions))?`"), "{error}");
            }
            // What the error advises is right.
            let wide = flat.unsqueeze(0).unwrap().expand((BATCH, length)).unwrap();
            let got = model.record(&folder.join("wide"), &ids, &wide).unwrap();
            let right = model.right(&ids, &flat);
            assert!(relative_error(&got, &right) < 1e-4, "{got:?} {right:?}");
        }
    }
}

/// One id for each example: a class, or a token at one step of a recurrent model.
#[test]
fn one_id_for_each_example_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    for (number, ids) in [[3u32, 1, 1, 0], [0, 1, 2, 3]].into_iter().enumerate() {
        let (taps, variables) = (Taps::new(), candle_nn::VarMap::new());
        let vb = builder(&variables);
        let classes = taps.tap("classes", embedding(5, 4, vb.pp("classes")).unwrap());
        let head = taps.tap("head", linear(4, 3, vb.pp("head")).unwrap());
        let loss = |ids: &Tensor| {
            let logits = head.forward(&classes.forward(ids).unwrap()).unwrap();
            logits.powf(3.0).unwrap().sum(D::Minus1).unwrap()
        };
        let ids = Tensor::new(&ids, &Device::Cpu).unwrap();
        let run = dir.path().join(number.to_string());
        let mut recorder = Recorder::create(&run, &taps, exact()).unwrap();
        let mut pass = recorder.pass(&[0, 1, 2, 3]).unwrap();
        pass.losses(&loss(&ids)).unwrap().backward().unwrap();
        pass.commit(0.1).unwrap();
        recorder.finish().unwrap();
        let right: Vec<f32> = (0..BATCH)
            .map(|i| {
                let grads = loss(&ids.narrow(0, i, 1).unwrap()).sum_all().unwrap().backward().unwrap();
                let all = variables.all_vars();
                all.iter().map(|v| numbers(grads.get(v).unwrap())).map(|g| dot(&g, &g)).sum::<f64>() as f32
            })
            .collect();
        let got = f32s(&run, BlockKind::Visits, Column::SquaredNorm);
        assert!(relative_error(&got, &right) < 1e-4, "{got:?} {right:?}");
    }
}
