//! The small steps between a gradient and its bytes, one at a time, each beside its floor.
//!
//!     cargo bench --bench micro -- [FILTER]
//!
//! `copy` is the floor of all: what one core copies, in bytes read and written. Criterion prints a rate (`thrpt`) of
//! the bytes that a step has to read and write once, so that rate / (rate of `copy`) is the share of the floor that it
//! reaches. What came out: `benches/results`.

use criterion::{criterion_group, criterion_main, Criterion, Throughput};
use faer::{Accum, MatMut, MatRef, Par};
use gradlog_format::log::parts::{ColumnEntry, Compressor, ENTRY_BYTES, HEADER_BYTES};
use gradlog_format::log::{BlockBuilder, BlockKind, Cells, Column, ColumnKey};
use gradlog_format::sketch::{choose_apart, derive_seed, rotate, Encoding, Fold, Magnitudes, Rest, Side};
use gradlog_kernels::matmul::{matmul, Matrix};
use std::hint::black_box;

/// Numbers in a row that fits the second-level cache.
const WIDTH: usize = 1024;
const ROWS: usize = 256;

/// Numbers with tails of which a half are zeros, as behind a ReLU.
fn numbers(count: usize) -> Vec<f32> {
    let draw = |i: usize| (derive_seed(1, i as u32, Side::Input) >> 40) as f32 / (1 << 24) as f32 - 0.5;
    (0..count).map(draw).map(|x| if x > 0.0 { x * x * x } else { 0.0 }).collect()
}

fn copy(c: &mut Criterion) {
    let (from, mut to) = (numbers(ROWS * WIDTH), vec![0f32; ROWS * WIDTH]);
    let mut group = c.benchmark_group("copy");
    group.throughput(Throughput::Bytes(2 * 4 * (ROWS * WIDTH) as u64));
    group.bench_function("1 MiB", |b| b.iter(|| to.copy_from_slice(black_box(&from))));
    group.finish();
}

/// Floor: each number is read once, with a byte for its sign, and the sketch stays in the first-level cache; one flip
/// of a sign and one addition a number, far below what a core adds. So `copy`, by 5 bytes a number.
fn fold(c: &mut Criterion) {
    let mut group = c.benchmark_group("fold");
    for (inputs, outputs) in [(9216, 1024), (ROWS * WIDTH, 1024), (ROWS * WIDTH, 4096)] {
        let (fold, values) = (Fold::new(1, inputs, outputs), numbers(inputs));
        let mut sketch = vec![0f32; outputs];
        group.throughput(Throughput::Bytes(5 * inputs as u64));
        group.bench_function(format!("{inputs} to {outputs}"), |b| {
            b.iter(|| fold.add(0, black_box(&values), &mut sketch))
        });
    }
    group.finish();
}

/// Floor: encoding reads 4 bytes a number twice (the largest magnitude, then the codes) and writes its bytes; decoding
/// reads those and writes 4. A division, a rounding and a clamp a number go with the first, a multiplication with the
/// second.
fn quantize(c: &mut Criterion) {
    let values = numbers(WIDTH);
    for (name, encoding) in
        [("f16", Encoding::F16), ("8 bit", Encoding::Q8), ("4 bit", Encoding::Q4), ("signs", Encoding::Signs)]
    {
        let stored = encoding.bytes(WIDTH);
        let mut bytes = Vec::with_capacity(stored);
        let mut group = c.benchmark_group("encode");
        group.throughput(Throughput::Bytes((8 * WIDTH + stored) as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                bytes.clear();
                encoding.encode(black_box(&values), &mut bytes)
            })
        });
        group.finish();
        bytes.clear();
        let scale = encoding.encode(&values, &mut bytes).scale;
        let mut out = vec![0f32; WIDTH];
        let mut group = c.benchmark_group("decode");
        group.throughput(Throughput::Bytes((4 * WIDTH + stored) as u64));
        group.bench_function(name, |b| b.iter(|| encoding.decode(black_box(&bytes), scale, &mut out)));
        group.finish();
    }
}

/// What a recorder does with a vector before it rounds it, and the rounding. Floor: 4 bytes a number are read, once.
fn recorded(c: &mut Criterion) {
    // As heavy in the tail as a ReLU's outputs often are, so that each vector is looked at for numbers to keep apart.
    let uniform = |place: usize| ((derive_seed(2, place as u32, Side::Input) >> 40) + 1) as f32 / (1 << 24) as f32;
    let values: Vec<f32> =
        (0..ROWS * WIDTH).map(|place| if place % 2 == 0 { 0.0 } else { -uniform(place).ln() }).collect();
    let rows: Vec<(&[f32], Magnitudes)> = values.chunks(WIDTH).map(|row| (row, Magnitudes::of(row))).collect();
    let (mut apart, mut bytes) = (Vec::new(), Vec::with_capacity(WIDTH));
    let mut group = c.benchmark_group("recorded");
    group.throughput(Throughput::Bytes(4 * values.len() as u64));
    group.bench_function("magnitudes", |b| {
        b.iter(|| values.chunks(WIDTH).map(|row| Magnitudes::of(row).squared_norm()).sum::<f64>())
    });
    group.bench_function("apart", |b| {
        b.iter(|| {
            for (row, magnitudes) in black_box(&rows) {
                choose_apart(row, magnitudes, Rest::Rounded, &mut apart);
                black_box(&apart);
            }
        })
    });
    for (name, encoding) in [("8 bit", Encoding::Q8), ("4 bit", Encoding::Q4)] {
        group.bench_function(format!("rounded to {name}"), |b| {
            b.iter(|| {
                for (number, (row, magnitudes)) in (0..).zip(black_box(&rows)) {
                    bytes.clear();
                    encoding.encode_stochastic_up_to(row, magnitudes.largest(), number, &mut bytes);
                    black_box(&bytes);
                }
            })
        });
    }
    group.finish();
}

/// Floor: a vector that fits the first-level cache, read and written once. It takes an addition of each number for each
/// doubling of the length.
fn rotation(c: &mut Criterion) {
    let mut group = c.benchmark_group("rotate");
    for length in [512, 1024, 4096] {
        let mut values = numbers(length);
        group.throughput(Throughput::Bytes(8 * length as u64));
        group.bench_function(format!("{length}"), |b| b.iter(|| rotate(black_box(&mut values), length)));
    }
    group.finish();
}

/// A block of factors, as a layer of an MLP fills it.
fn block() -> BlockBuilder {
    let mut block = BlockBuilder::new(BlockKind::Visits);
    let values = numbers(ROWS * WIDTH);
    block.u64s(Column::Example, (0..ROWS as u64).map(|i| i * 7919 % 5000));
    block.f32s(Column::Loss, values.iter().copied().take(ROWS));
    for row in values.chunks_exact(WIDTH) {
        let codes =
            block.column(ColumnKey { column: Column::Input, layer: 0 }, Cells::Vector(Encoding::Q4), WIDTH as u32);
        let scale = Encoding::Q4.encode(row, codes).scale;
        block.column(ColumnKey { column: Column::InputScale, layer: 0 }, Cells::Bf16, 1).extend(scale.to_le_bytes());
    }
    block.advance(ROWS as u32, 0, 0);
    block
}

/// Floor of writing: the entropy coder over the raw bytes; the rest (CRC-32 over the stored ones) moves them at the
/// speed of `copy`. Floor of reading: inflating them again, beside which the CRC is small. Rates are of raw bytes.
/// `coder alone` is the first floor, measured; `zstd alone` what zstd's entropy coder takes for the same bytes.
fn blocks(c: &mut Criterion) -> Result<(), Box<dyn std::error::Error>> {
    let mut compressor = Compressor::new(1)?;
    let raw = block().raw_bytes() as u64;
    let mut body = Vec::new();
    let header = block().seal(0, &mut compressor, &mut body)?;
    let mut group = c.benchmark_group("block");
    group.throughput(Throughput::Bytes(raw));
    let mut again = Vec::new();
    group.bench_function("write", |b| {
        let seal = |mut block: BlockBuilder| block.seal(0, &mut compressor, &mut again).is_ok();
        b.iter_batched(block, seal, criterion::BatchSize::LargeInput)
    });

    let columns = usize::from(u16::from_le_bytes([header[6], header[7]]));
    let entries: Vec<ColumnEntry> =
        body.chunks_exact(ENTRY_BYTES).take(columns).map(ColumnEntry::parse).collect::<Result<_, _>>()?;
    assert!(entries.len() == 4 && body.len() + HEADER_BYTES < raw as usize);
    let read = || {
        let mut at = columns * ENTRY_BYTES;
        entries.iter().all(|entry| {
            let stored = body[at..at + entry.stored_bytes as usize].to_vec();
            at += stored.len();
            entry.inflate(stored, ROWS as u32).is_ok()
        })
    };
    assert!(read());
    group.bench_function("read", |b| b.iter(read));
    let codes = numbers(ROWS * WIDTH).chunks_exact(WIDTH).fold(Vec::new(), |mut bytes, row| {
        Encoding::Q4.encode(row, &mut bytes);
        bytes
    });
    let vector = Cells::Vector(Encoding::Q4);
    let mut packed = Vec::new();
    compressor.compress(vector, &codes, &mut packed)?;
    assert!(packed.len() < codes.len(), "half of the numbers are zero, and that compresses");
    let mut out = vec![0u8; codes.len()];
    group.bench_function("coder alone, write", |b| {
        b.iter(|| {
            again.clear();
            compressor.compress(vector, black_box(&codes), &mut again).is_ok()
        })
    });
    let mut decoder = gradlog_kernels::rans::Decoder::default();
    group.bench_function("coder alone, read", |b| b.iter(|| decoder.decode(black_box(&packed), &mut out)));
    let mut zstd = zstd::bulk::Compressor::new(-1000)?;
    zstd.set_parameter(zstd::zstd_safe::CParameter::LiteralCompressionMode(zstd::zstd_safe::ParamSwitch::Enable))?;
    let by_zstd = zstd.compress(&codes)?;
    let mut inflate = zstd::bulk::Decompressor::new()?;
    group.bench_function("zstd alone, write", |b| b.iter(|| zstd.compress(black_box(&codes))));
    group
        .bench_function("zstd alone, read", |b| b.iter(|| inflate.decompress_to_buffer(black_box(&by_zstd), &mut out)));
    println!("{} bytes become {} by rANS, {} by zstd's entropy coder", codes.len(), packed.len(), by_zstd.len());
    group.finish();
    Ok(())
}

fn all_blocks(c: &mut Criterion) {
    // Criterion has no way to return an error.
    assert!(blocks(c).map_err(|error| eprintln!("blocks: {error}")).is_ok(), "blocks failed");
}

/// Products of the shapes of the workloads of `benches/overhead`, by the crate that the layers use and by another, one
/// thread; the rate (`thrpt`) is of multiplications and additions. `flipped` is `(b^T a^T)^T`, transposed back.
fn products(c: &mut Criterion) {
    let mut group = c.benchmark_group("product");
    for (m, k, n, of_transpose, by_transpose) in [
        (64, 784, 512, false, true),
        (64, 512, 256, false, true),
        (512, 64, 784, true, false),
        (256, 784, 512, false, true),
        (512, 256, 784, true, false),
        (1024, 128, 512, false, true),
        (512, 1024, 128, true, false),
        (32, 288, 196, false, false),
        (1024, 1024, 1024, false, false),
    ] {
        let (a, b) = (numbers(m * k), numbers(k * n));
        let (mut out, mut flipped) = (vec![0f32; m * n], vec![0f32; m * n]);
        let left = if of_transpose { Matrix::new(&a, k, m).t() } else { Matrix::new(&a, m, k) };
        let right = if by_transpose { Matrix::new(&b, n, k).t() } else { Matrix::new(&b, k, n) };
        let name = format!("{m}x{k}x{n}");
        group.throughput(Throughput::Elements(2 * (m * k * n) as u64));
        group.bench_function(format!("gemm {name}"), |bench| bench.iter(|| matmul(&mut out, left, right, false, 1)));
        group.bench_function(format!("flipped {name}"), |bench| {
            bench.iter(|| {
                matmul(&mut flipped, right.t(), left.t(), false, 1);
                for (row, out) in out.chunks_exact_mut(n).enumerate() {
                    out.iter_mut().zip(flipped[row..].iter().step_by(m)).for_each(|(out, from)| *out = *from);
                }
            });
        });
        let view = |numbers, rows, columns, is_transposed: bool| match is_transposed {
            true => MatRef::from_row_major_slice(numbers, columns, rows).transpose(),
            false => MatRef::from_row_major_slice(numbers, rows, columns),
        };
        let (left, right) = (view(a.as_slice(), m, k, of_transpose), view(b.as_slice(), k, n, by_transpose));
        group.bench_function(format!("faer {name}"), |bench| {
            bench.iter(|| {
                let out = MatMut::from_row_major_slice_mut(&mut out, m, n);
                faer::linalg::matmul::matmul(out, Accum::Replace, left, right, 1f32, Par::Seq);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, copy, fold, quantize, recorded, rotation, all_blocks, products);
criterion_main!(benches);
