//! A long run of outputs alone, made up: examples of different difficulty that are learned, and some forgotten, over
//! the epochs.

use super::store::Store;
use anyhow::Result;
use gradlog_format::log::{BlockBuilder, BlockKind, Cells, Column};
use gradlog_format::sketch::draw;
use std::path::Path;

const BATCH: usize = 128;

/// `epochs` visits of each example, in another order each epoch.
pub fn record(dir: &Path, examples: usize, epochs: u64) -> Result<()> {
    let mut store = Store::create(dir, Vec::new())?;
    let mut block = BlockBuilder::new(BlockKind::Visits);
    let mut order: Vec<u64> = (0..examples as u64).collect();
    let mut step = 0;
    for epoch in 0..epochs {
        for i in (1..examples).rev() {
            order.swap(i, (draw(epoch, i as u64) % (i as u64 + 1)) as usize);
        }
        for ids in order.chunks(BATCH) {
            let uniform = |stream: u64, id: u64| (draw(stream, id) >> 40) as f32 / (1 << 24) as f32;
            // The margin grows with the epochs, later for the difficult, and is noisy.
            let margin = |id: &u64| {
                let noise = uniform(1 + epoch, *id) + uniform(1000 + epoch, *id) - 1.0;
                8.0 * (1.0 - (-(epoch as f32) / (1.0 + 40.0 * uniform(0, *id))).exp()) - 4.0 * uniform(0, *id)
                    + 3.0 * noise
            };
            let margins: Vec<f32> = ids.iter().map(margin).collect();
            let confidence = |margin: &f32| 1.0 / (1.0 + (-margin).exp());
            let count = ids.len();
            block.u64s(Column::Example, ids.iter().copied());
            block.u64s(Column::Step, std::iter::repeat_n(step, count));
            block.u32s(Column::Epoch, std::iter::repeat_n(epoch as u32, count));
            block.f32s(Column::Coefficient, std::iter::repeat_n(1.0 / count as f32, count));
            block.f32s(Column::LearningRate, std::iter::repeat_n(0.1, count));
            block.f32s(Column::Clip, std::iter::repeat_n(1.0, count));
            block.f32s(Column::Loss, margins.iter().map(|m| -confidence(m).ln()));
            block.f32s(Column::El2n, margins.iter().map(|m| 1.3 * (1.0 - confidence(m))));
            block.f32s(Column::Confidence, margins.iter().map(confidence));
            block.f32s(Column::Correct, margins.iter().map(|m| if *m > 0.0 { 1.0 } else { 0.0 }));
            let label = |id: &u64| (draw(7, *id) % 10) as u32;
            block.u32s(Column::Label, ids.iter().map(label));
            let prediction = |(id, m): (&u64, &f32)| if *m > 0.0 { label(id) } else { (label(id) + 1) % 10 };
            block.u32s(Column::Prediction, ids.iter().zip(&margins).map(prediction));
            block.f32s(Column::Margin, margins.iter().copied());
            block.column(Column::Flags, Cells::U8, 1).extend(std::iter::repeat_n(0, count));
            block.advance(count as u32, step, epoch as u32);
            step += 1;
            store.seal(&mut block, false)?;
        }
    }
    store.seal(&mut block, true)?;
    store.finish()
}
