//! Ways to round one vector to 4 bits, compared by what a dot product with an exact vector loses.

use super::families::{Family, PROBES, VISITS};
use anyhow::Result;
use gradlog_format::sketch::{choose_apart, Apart, Encoding, Magnitudes, Rest};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{json, Value};
use std::time::Instant;

/// A way to round.
#[derive(Debug, Clone, Copy)]
struct Rival {
    name: &'static str,
    stochastic: bool,
    /// Numbers that share a scale; 0 for all.
    group: usize,
    apart: Take,
}

/// Which numbers are kept apart.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Take {
    None,
    Largest(usize),
    /// As the crate chooses.
    Chosen,
}

const RIVALS: [Rival; 7] = [
    Rival { name: "nearest, one scale (before)", stochastic: false, group: 0, apart: Take::None },
    Rival { name: "stochastic, one scale", stochastic: true, group: 0, apart: Take::None },
    Rival { name: "stochastic, a scale for 32", stochastic: true, group: 32, apart: Take::None },
    Rival { name: "nearest, 8 largest apart", stochastic: false, group: 0, apart: Take::Largest(8) },
    Rival { name: "stochastic, the largest apart", stochastic: true, group: 0, apart: Take::Largest(1) },
    Rival { name: "stochastic, 8 largest apart", stochastic: true, group: 0, apart: Take::Largest(8) },
    Rival { name: "stochastic, as the crate chooses", stochastic: true, group: 0, apart: Take::Chosen },
];

/// Compares them on each family whose wide side is stored with 4 bits.
pub fn compare(wanted: &impl Fn(&str) -> bool) -> Result<Vec<Value>> {
    let mut table = Vec::new();
    println!(
        "\n{:<28} {:<34} {:>6} {:>8} {:>8} {:>6} {:>7}",
        "input", "rounding", "bytes", "bias %", "error %", "in 2", "ns"
    );
    for family in Family::all().into_iter().filter(|family| wanted(&family.name())) {
        let sides = family.draw()?;
        let rows = if family.classes().is_some() { sides.deltas } else { sides.inputs };
        if !(129..=1024).contains(&rows[0].len()) {
            continue;
        }
        for rival in RIVALS {
            let found = rival.measure(&rows);
            println!(
                "{:<28} {:<34} {:>6.0} {:>8.2} {:>8.2} {:>6.3} {:>7.0}",
                family.name(),
                rival.name,
                found.bytes,
                100.0 * found.bias,
                100.0 * found.error,
                found.within_2,
                found.nanoseconds
            );
            table.push(json!({
                "input": family.name(), "rounding": rival.name, "bytes": found.bytes, "relative_bias": found.bias,
                "relative_error": found.error, "within_2": found.within_2, "nanoseconds": found.nanoseconds,
            }));
        }
    }
    Ok(table)
}

struct Found {
    bytes: f64,
    bias: f64,
    error: f64,
    within_2: f64,
    nanoseconds: f64,
}

/// A vector as it comes back, and the variance of each number as a reader would state it.
struct Rounded {
    numbers: Vec<f32>,
    variances: Vec<f32>,
}

impl Rival {
    fn measure(self, rows: &[Vec<f32>]) -> Found {
        let mut rng = StdRng::seed_from_u64(3);
        let (mut codes, mut extra) = (Vec::new(), 0usize);
        let start = Instant::now();
        let rounded: Vec<Rounded> =
            rows[..VISITS].iter().map(|row| self.round(row, &mut codes, &mut extra, &mut rng)).collect();
        let nanoseconds = start.elapsed().as_nanos() as f64 / VISITS as f64;
        let stored = zstd::bulk::compress(&codes, 1).map_or(codes.len(), |c| c.len().min(codes.len()));
        let (mut signed, mut squared, mut sum, mut squares, mut within, mut pairs) = (0.0, 0.0, 0.0, 0.0, 0, 0);
        for (row, rounded) in rows.iter().zip(&rounded) {
            for probe in &rows[VISITS..VISITS + PROBES] {
                let dot = |a: &[f32]| a.iter().zip(probe).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
                let (exact, found) = (dot(row), dot(&rounded.numbers));
                let variance: f64 =
                    rounded.variances.iter().zip(probe).map(|(v, y)| f64::from(*v) * f64::from(*y).powi(2)).sum();
                signed += (found - exact) * exact.signum();
                squared += (found - exact).powi(2);
                sum += exact.abs();
                squares += exact * exact;
                within += u32::from((found - exact).abs() <= 2.0 * variance.sqrt() + 1e-6 * exact.abs());
                pairs += 1;
            }
        }
        Found {
            bytes: (stored + extra) as f64 / VISITS as f64,
            bias: signed / sum,
            error: (squared / squares).sqrt(),
            within_2: f64::from(within) / f64::from(pairs),
            nanoseconds,
        }
    }

    /// The codes and the bytes beside them are appended.
    fn round(self, row: &[f32], codes: &mut Vec<u8>, extra: &mut usize, rng: &mut StdRng) -> Rounded {
        let mut rest = row.to_vec();
        let mut apart: Vec<Apart> = Vec::new();
        match self.apart {
            Take::None => {}
            Take::Chosen => choose_apart(row, &Magnitudes::of(row), Rest::Rounded, &mut apart),
            Take::Largest(count) => {
                let mut order: Vec<usize> = (0..row.len()).collect();
                order.sort_by(|a, b| row[*b].abs().total_cmp(&row[*a].abs()));
                apart.extend(order.iter().take(count).map(|&at| Apart { place: at as u32, value: row[at] }));
            }
        }
        apart.iter().for_each(|apart| rest[apart.place as usize] = 0.0);
        *extra += 6 * apart.len();
        let (mut numbers, mut variances) = (vec![0f32; row.len()], vec![0f32; row.len()]);
        let group = if self.group == 0 { row.len() } else { self.group };
        let parts = rest.chunks(group).zip(numbers.chunks_mut(group)).zip(variances.chunks_mut(group));
        for ((rest, numbers), variances) in parts {
            let from = codes.len();
            let made = match self.stochastic {
                true => Encoding::Q4.encode_stochastic(rest, rng.random(), codes),
                false => Encoding::Q4.encode(rest, codes),
            };
            Encoding::Q4.decode(&codes[from..], made.scale, numbers);
            *extra += 2 + 2 * usize::from(self.stochastic);
            let step = made.scale.to_f32();
            let variance = if self.stochastic { made.rounding.variance() } else { 1.0 / 12.0 } * step * step;
            let zero = |at: usize| self.stochastic && rest[at] == 0.0;
            variances.iter_mut().enumerate().for_each(|(at, v)| *v = if zero(at) { 0.0 } else { variance });
        }
        apart.iter().for_each(|apart| numbers[apart.place as usize] += apart.value);
        Rounded { numbers, variances }
    }
}
