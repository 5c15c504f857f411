//! The bytes of the log, against a digest of what the recorder wrote when the format last changed. All numbers of the
//! run are exact in f32, so that the digest is the same on every machine.

use candle_core::{Device, Module, Tensor, Var};
use candle_nn::Linear;
use gradlog::{Config, Recorder, SketchConfig, StepInfo, Taps};
use gradlog_format::log::parts::{BlockHeader, ColumnEntry, BLOCK_MAGIC, ENTRY_BYTES, HEADER_BYTES};
use gradlog_format::log::{Column, SEGMENT_HEADER_BYTES};
use std::path::Path;

/// Over every column of every block: its entry and its numbers. The time of day is left out.
const DIGEST: u32 = 0x37744909;

fn tensor(numbers: impl Iterator<Item = i32>, shape: &[usize]) -> Tensor {
    let numbers: Vec<f32> = numbers.map(|number| number as f32).collect();
    Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
}

/// A run of a layer that sees one position and one that sees several, with probes, under an optimizer that tells
/// everything.
fn record(dir: &Path) {
    let variable = |shape: &[usize]| {
        let numbers = (0..shape.iter().product::<usize>() as i32).map(|i| (i * 5 + 1) % 7 - 3);
        Var::from_tensor(&tensor(numbers, shape)).unwrap()
    };
    let (taps, sketch) = (Taps::new(), SketchConfig { folded_min: 16, folded_max: 16, ..SketchConfig::default() });
    let layer = |name: &str, shape: &[usize]| {
        let (weight, bias) = (variable(shape), variable(&shape[..1]));
        taps.tap(name, Linear::new(weight.into_inner(), Some(bias.into_inner())))
    };
    let (one, many) = (layer("one", &[3, 4]), layer("many", &[2, 3]));
    let mut recorder = Recorder::create(dir, &taps, Config { sketch, ..Config::default() }).unwrap();
    let input = |seed: i32| {
        let x = tensor((0..8).map(|i| (i * seed + 3) % 5 - 2), &[2, 4]);
        let z = tensor((0..18).map(|i| (i * seed + 1) % 5 - 2), &[2, 3, 3]);
        let wanted = tensor((0..4).map(|i| (i * seed) % 3), &[2, 2]);
        (x, z, wanted)
    };
    for step in 0..6 {
        let (x, z, wanted) = input(step + 2);
        let output = || {
            let sums = many.forward(&z).unwrap().sum(1).unwrap();
            (one.forward(&x).unwrap().narrow(1, 0, 2).unwrap() + sums).unwrap()
        };
        if step == 3 {
            recorder.set_epoch(1);
            let mut probe = recorder.probe("held out", &[90, 91]).unwrap();
            probe.mse(&output(), &wanted).unwrap().backward().unwrap();
            probe.commit().unwrap();
        }
        let mut pass = recorder.pass(&[step as u64, 10 + step as u64]).unwrap();
        pass.mse(&output(), &wanted).unwrap().backward().unwrap();
        let told = StepInfo::new(0.25).momentum(0.5).weight_decay(0.125).clip(0.5);
        pass.commit(told).unwrap();
    }
    recorder.finish().unwrap();
}

fn digest(segment: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    let mut rest = &segment[SEGMENT_HEADER_BYTES..];
    while rest.len() >= HEADER_BYTES && rest[..4] == BLOCK_MAGIC.to_le_bytes() {
        let header = BlockHeader::parse(rest[..HEADER_BYTES].try_into().unwrap()).unwrap();
        let (steps, epochs) = ((header.first_step, header.last_step), (header.first_epoch, header.last_epoch));
        hasher.update(format!("{} {} {} {steps:?} {epochs:?}", header.kind, header.rows, header.sequence).as_bytes());
        let (directory, mut frames) = rest[HEADER_BYTES..].split_at(header.directory_bytes());
        for entry in directory.chunks(ENTRY_BYTES).map(|bytes| ColumnEntry::parse(bytes).unwrap()) {
            let (frame, others) = frames.split_at(entry.stored_bytes as usize);
            frames = others;
            hasher.update(format!("{} {} {} {}", entry.column, entry.layer, entry.cells, entry.width).as_bytes());
            if entry.column != Column::WallClock as u16 {
                hasher.update(&entry.inflate(frame.to_vec(), header.rows).unwrap());
            }
        }
        rest = &rest[header.bytes as usize..];
    }
    hasher.finalize()
}

#[test]
fn a_run_that_tells_everything_has_the_bytes_it_always_had() {
    let dir = tempfile::tempdir().unwrap();
    record(dir.path());
    let segment = std::fs::read(dir.path().join("segment-00000.glog")).unwrap();
    assert_eq!(format!("{:08x}", digest(&segment)), format!("{DIGEST:08x}"));
}
