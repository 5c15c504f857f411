//! The schemes that are compared, and what each makes of the exact gradients.

use super::exact::{dots, Material};
use super::store::{Grid, Store, Stored};
use candle_core::Result;
use gradlog::{Encoding, SketchConfig};
use gradlog_format::sketch::{derive_seed, rotate, Fold, Side};
use rayon::prelude::*;

/// A way to write gradients down.
#[derive(Debug, Clone, Copy)]
pub enum Scheme {
    /// Two factors where there is one position, the rest folded into one vector: the crate's, and variations.
    Sketch(Sketch),
    /// Kronecker projections of 16 x 16 for each layer, f16 (LoGra's, Choe et al. 2024).
    Kronecker,
    /// A TensorSketch (Pham and Pagh 2013) of 1024 numbers for all factored layers together, 4 bit.
    TensorSketch,
    /// The last layer alone, 8 bit.
    LastLayer,
}

#[derive(Debug, Clone, Copy)]
pub struct Sketch {
    pub input_cap: usize,
    pub delta_cap: usize,
    pub input: Store,
    pub delta: Store,
    /// Vectors of no more numbers than this are stored with 8 bits.
    pub fine: usize,
    /// How inputs wider than the cap are kept, if not as their fold in `input`.
    pub projected: Option<Projected>,
    pub folded: usize,
    /// If not 0, the folded vector is rotated and so many numbers of it kept.
    pub folded_kept: usize,
    pub folded_store: Store,
    /// Whether probes are stored as visits are, or with 8 bits.
    pub fine_probes: bool,
}

/// Wide inputs, folded to `length`, rotated, and only the first `kept` numbers of that kept.
#[derive(Debug, Clone, Copy)]
pub struct Projected {
    pub length: usize,
    pub kept: usize,
    pub store: Store,
    /// Whether the mean of the first 64 visits is taken off before, and its dot product with the input stored beside.
    pub centerd: bool,
}

const Q4: Store = Store::Crate(Encoding::Q4);
const Q8: Store = Store::Crate(Encoding::Q8);

impl Sketch {
    /// What the crate does with `config`, where the folded layers have so many parameters together.
    pub fn of(config: &SketchConfig, folded_parameters: u64) -> Self {
        let whole = Store::Crate(config.encoding);
        let projected = Store::Crate(config.projected_encoding);
        let (wide, kept) = (config.projected as usize, config.folded_width(folded_parameters) as usize);
        Self {
            input_cap: config.input_cap as usize,
            delta_cap: config.delta_cap as usize,
            input: whole,
            delta: whole,
            fine: 128,
            projected: Some(Projected {
                length: wide.next_power_of_two(),
                kept: wide,
                store: projected,
                centerd: false,
            }),
            folded: kept.next_power_of_two(),
            folded_kept: kept,
            folded_store: projected,
            fine_probes: true,
        }
    }
}

/// Names and schemes. `all` adds those that did not pay.
pub fn schemes(all: bool) -> Vec<(&'static str, Scheme)> {
    let sketch = Scheme::Sketch;
    let four = |cap: usize, folded: usize| Sketch {
        input_cap: cap,
        delta_cap: cap,
        input: Q4,
        delta: Q4,
        fine: 0,
        projected: None,
        folded,
        folded_kept: 0,
        folded_store: Q4,
        fine_probes: false,
    };
    let eight = |cap, folded| Sketch { input: Q8, delta: Q8, folded_store: Q8, ..four(cap, folded) };
    let fine = |cap, folded| Sketch { fine: 128, fine_probes: true, ..four(cap, folded) };
    let wide = |kept: usize, store, centerd, folded_kept: usize| Sketch {
        projected: Some(Projected { length: kept.next_power_of_two(), kept, store, centerd }),
        folded_kept,
        folded_store: signs(),
        ..fine(1024, folded_kept.next_power_of_two())
    };
    let bits = |wide_kept, folded_kept| wide(wide_kept, signs(), false, folded_kept);
    let grid = |input, delta, base| Sketch { input: Store::Grid(input), delta: Store::Grid(delta), ..base };
    let mut list = vec![
        ("last layer, 8 bit", Scheme::LastLayer),
        ("Kronecker 16x16 a layer, f16", Scheme::Kronecker),
        ("TensorSketch 1024, 4 bit", Scheme::TensorSketch),
        ("4 bit, caps 256, folded 512", sketch(four(256, 512))),
        ("4 bit, caps 512, folded 512", sketch(four(512, 512))),
        ("4 bit, caps 1024, folded 1024", sketch(four(1024, 1024))),
        ("4 bit, caps 1024, folded 2048", sketch(four(1024, 2048))),
        ("8 bit, caps 1024, folded 1024", sketch(eight(1024, 1024))),
        ("fine: 4 bit, caps 1024, folded 1024; up to 128 numbers and probes 8 bit", sketch(fine(1024, 1024))),
        ("signs: as fine, wider inputs 2048 signs, folded 512 signs", sketch(bits(2048, 512))),
        ("signs: as fine, wider inputs 3072 signs, folded 512 signs", sketch(bits(3072, 512))),
        ("signs: as fine, wider inputs 2816 signs, folded 768 signs", sketch(bits(2816, 768))),
        ("signs: as fine, wider inputs 3072 signs, folded 4096 signs", sketch(bits(3072, 4096))),
        ("signs: as fine, wider inputs 3072 signs, folded 6144 signs", sketch(bits(3072, 6144))),
        ("signs: as fine, wider inputs 4096 signs, folded 7680 signs", sketch(bits(4096, 7680))),
        ("signs, wider inputs less their mean: 2048, folded 512", sketch(wide(2048, signs(), true, 512))),
        ("signs, wider inputs less their mean: 3072, folded 512", sketch(wide(3072, signs(), true, 512))),
        ("signs 2048, 512; inputs 2 bit", sketch(grid(Grid::fitted(3), Grid::plain(7), bits(2048, 512)))),
        (
            "signs 2048, 512; inputs 2 bit, deltas 3 bit",
            sketch(grid(Grid::fitted(3), Grid::fitted(3), bits(2048, 512))),
        ),
    ];
    if all {
        list.extend(tried(four(1024, 1024), bits(3072, 4096)));
    }
    list
}

fn signs() -> Store {
    Store::Grid(Grid::fitted(0))
}

/// Variations of plain 4 bits and of signs that did not pay, or that show what each part is worth.
fn tried(four: Sketch, bits: Sketch) -> Vec<(&'static str, Scheme)> {
    let all = |grid: Grid| {
        let store = Store::Grid(grid);
        Sketch { input: store, delta: store, folded_store: store, ..four }
    };
    let seven = Grid::plain(7);
    let exact = Store::Crate(Encoding::F32);
    let wide = |store, kept: usize| Projected { length: kept.next_power_of_two(), kept, store, centerd: false };
    let folded = |length, levels| Sketch {
        folded: length,
        folded_kept: length,
        folded_store: Store::Grid(Grid::fitted(levels)),
        ..bits
    };
    vec![
        ("tried, 4 bit 1024: step of least squared error", Scheme::Sketch(all(Grid { clip: true, ..seven }))),
        ("tried, 4 bit 1024: scale without bias", Scheme::Sketch(all(Grid { unbiased: true, ..seven }))),
        ("tried, 4 bit 1024: both", Scheme::Sketch(all(Grid::fitted(7)))),
        ("tried, 4 bit 1024: stochastic rounding", Scheme::Sketch(all(Grid { stochastic: true, ..seven }))),
        ("tried, 4 bit 1024: a scale for every 64 numbers", Scheme::Sketch(all(Grid { group: 64, ..seven }))),
        ("tried, 4 bit 1024: 3 bit", Scheme::Sketch(all(Grid::fitted(3)))),
        ("tried, 4 bit 1024: 2 bit", Scheme::Sketch(all(Grid::fitted(1)))),
        ("tried, 4 bit 1024: probes 8 bit", Scheme::Sketch(Sketch { fine_probes: true, ..four })),
        ("tried, 4 bit 1024: up to 128 numbers 8 bit", Scheme::Sketch(Sketch { fine: 128, ..four })),
        ("tried, signs 3072, 4096: folded not rotated", Scheme::Sketch(Sketch { folded_kept: 0, ..bits })),
        ("tried, signs 3072, 4096: probes signs too", Scheme::Sketch(Sketch { fine_probes: false, ..bits })),
        (
            "tried, signs 3072, 4096: wider inputs 2048, 1.6 bit",
            Scheme::Sketch(Sketch { projected: Some(wide(Store::Grid(Grid::fitted(1)), 2048)), ..bits }),
        ),
        (
            "tried, signs 3072, 4096: wider inputs 1024, 3 bit",
            Scheme::Sketch(Sketch { projected: Some(wide(Store::Grid(Grid::fitted(3)), 1024)), ..bits }),
        ),
        ("tried, signs 3072, 4096: folded 4096, 1.6 bit", Scheme::Sketch(folded(4096, 1))),
        ("tried, signs 3072, 4096: folded 2048, 3 bit", Scheme::Sketch(folded(2048, 3))),
        (
            "no cap, nothing rounded, folded 8192",
            Scheme::Sketch(Sketch {
                input_cap: usize::MAX,
                input: exact,
                delta: exact,
                folded: 8192,
                folded_store: exact,
                ..four
            }),
        ),
    ]
}

/// What a scheme gives.
pub struct Outcome {
    /// `[visits, probes]`.
    pub scores: Vec<f64>,
    /// Bytes a visit of the sketch, compressed.
    pub bytes: f64,
    /// Squared norms of the visits, from the sketch, for schemes that know no exact ones.
    pub norms: Option<Vec<f64>>,
    /// Of [`Outcome::bytes`], those of the first layer's input.
    pub first_input: f64,
}

impl Scheme {
    /// `None` where the scheme has nothing to work on.
    pub fn apply(&self, material: &Material) -> Result<Option<Outcome>> {
        match self {
            Self::Sketch(sketch) => sketch.apply(material).map(Some),
            Self::Kronecker => {
                let width = material.kronecker.len() / (material.visits + material.probes);
                whole(material, &material.kronecker, width, Store::Crate(Encoding::F16)).map(Some)
            }
            Self::TensorSketch => match material.folds.is_empty() {
                true => whole(material, &tensor_sketch(material, 1024), 1024, Q4).map(Some),
                false => Ok(None),
            },
            Self::LastLayer => match (material.factors.last(), &material.last_fold) {
                (_, Some((width, rows))) => whole(material, rows, *width, Q8).map(Some),
                (Some(last), None) => {
                    let visits = material.visits;
                    let a = Q8.store(&last.input, last.inputs, visits);
                    let d = Q8.store(&last.delta, last.outputs, visits);
                    let scores = products((&a.rows, &a.rows, last.inputs), (&d.rows, &d.rows, last.outputs), visits)?;
                    let square = |rows: &[f32], i: usize, w: usize| -> f64 {
                        rows[i * w..(i + 1) * w].iter().map(|v| f64::from(*v) * f64::from(*v)).sum()
                    };
                    let own = |i| (square(&a.rows, i, last.inputs) + 1.0) * square(&d.rows, i, last.outputs);
                    let norms = Some((0..visits).map(own).collect());
                    Ok(Some(Outcome { scores, bytes: a.bytes + d.bytes, norms, first_input: 0.0 }))
                }
                (None, None) => Ok(None),
            },
        }
    }
}

/// One vector for the whole gradient.
fn whole(material: &Material, rows: &[f32], width: usize, store: Store) -> Result<Outcome> {
    let visits = material.visits;
    let Stored { rows, bytes } = store.store(rows, width, visits);
    let scores = dots(&rows[..visits * width], &rows[visits * width..], width)?;
    let norms = rows[..visits * width].chunks(width).map(|r| r.iter().map(|v| f64::from(*v) * f64::from(*v)).sum());
    Ok(Outcome { scores, bytes, norms: Some(norms.collect()), first_input: 0.0 })
}

/// `(⟨a, a'⟩ + 1) ⟨δ, δ'⟩`. Each side is (rows that hold the visits, rows that hold the probes, width).
fn products(a: (&[f32], &[f32], usize), d: (&[f32], &[f32], usize), visits: usize) -> Result<Vec<f64>> {
    let side =
        |(own, asked, width): (&[f32], &[f32], usize)| dots(&own[..visits * width], &asked[visits * width..], width);
    Ok(side(a)?.into_iter().zip(side(d)?).map(|(a, d)| (a + 1.0) * d).collect())
}

impl Sketch {
    fn apply(&self, material: &Material) -> Result<Outcome> {
        let visits = material.visits;
        let mut out =
            Outcome { scores: vec![0.0; visits * material.probes], bytes: 0.0, norms: None, first_input: 0.0 };
        for (number, layer) in material.factors.iter().enumerate() {
            let site = layer.site as u32;
            let seed = derive_seed(0, site, Side::Input);
            let (a, inputs, offsets) = match self.projected {
                Some(projected) if layer.inputs > self.input_cap => {
                    let (rows, offsets) = projected.apply(&layer.input, layer.inputs, seed, visits);
                    (self.sides(&rows, projected.kept, projected.store, visits), projected.kept, offsets)
                }
                _ => {
                    let (rows, inputs) = capped(&layer.input, layer.inputs, self.input_cap, seed);
                    (self.sides(&rows, inputs, self.input, visits), inputs, None)
                }
            };
            let (d, outputs) = capped(&layer.delta, layer.outputs, self.delta_cap, derive_seed(0, site, Side::Delta));
            let d = self.sides(&d, outputs, self.delta, visits);
            out.bytes += a.0.bytes + d.0.bytes;
            if number == 0 {
                out.first_input = a.0.bytes;
            }
            let mut inner = dots(&a.0.rows[..visits * inputs], &a.1[visits * inputs..], inputs)?;
            if let Some(offsets) = offsets {
                out.bytes += 4.0;
                let pairs = (0..visits).flat_map(|visit| (visits..offsets.len()).map(move |probe| (visit, probe)));
                inner.iter_mut().zip(pairs).for_each(|(dot, (v, p))| *dot += offsets[v] + offsets[p]);
            }
            let deltas = dots(&d.0.rows[..visits * outputs], &d.1[visits * outputs..], outputs)?;
            let more = inner.iter().zip(deltas).map(|(a, d)| (a + 1.0) * d);
            out.scores.iter_mut().zip(more).for_each(|(s, m)| *s += m);
        }
        if let Some((width, rows)) = material.folds.iter().find(|(m, _)| *m == self.folded) {
            let (rows, width) = match self.folded_kept {
                0 => (rows.clone(), *width),
                kept => (rotated(rows, *width, kept), kept),
            };
            let (own, asked) = self.sides(&rows, width, self.folded_store, visits);
            out.bytes += own.bytes;
            let more = dots(&own.rows[..visits * width], &asked[visits * width..], width)?;
            out.scores.iter_mut().zip(more).for_each(|(s, m)| *s += m);
        }
        Ok(out)
    }

    /// The rows as visits are stored and as probes are.
    fn sides(&self, rows: &[f32], width: usize, store: Store, visits: usize) -> (Stored, Vec<f32>) {
        let store = if width <= self.fine { Q8 } else { store };
        let own = store.store(rows, width, visits);
        let asked = if self.fine_probes { Q8.store(rows, width, visits).rows } else { own.rows.clone() };
        (own, asked)
    }
}

impl Projected {
    /// The rows, and what each adds to its dot products: `⟨a, a'⟩ = ⟨a - μ, a' - μ⟩ + (⟨μ, a⟩ - ‖μ‖²/2) + (⟨μ, a'⟩ -
    /// ‖μ‖²/2)`.
    fn apply(self, rows: &[f32], width: usize, seed: u64, visits: usize) -> (Vec<f32>, Option<Vec<f64>>) {
        let mut mean = vec![0f32; width];
        let first = visits.min(64);
        if self.centerd {
            for row in rows.chunks(width).take(first) {
                mean.iter_mut().zip(row).for_each(|(m, v)| *m += v / first as f32);
            }
        }
        let dot = |row: &[f32]| -> f64 { row.iter().zip(&mean).map(|(v, m)| f64::from(*v) * f64::from(*m)).sum() };
        let half = dot(&mean) / 2.0;
        let offsets = self.centerd.then(|| rows.chunks(width).map(|row| dot(row) - half).collect());
        let fold = Fold::new(seed, width, self.length);
        let project = |row: &[f32]| {
            let centerd: Vec<f32> = row.iter().zip(&mean).map(|(v, m)| v - m).collect();
            fold.apply(&centerd)
        };
        let folded: Vec<f32> = rows.par_chunks(width).flat_map_iter(project).collect();
        (rotated(&folded, self.length, self.kept), offsets)
    }
}

/// The rows rotated, and the first `kept` numbers of each, as the crate does it.
fn rotated(rows: &[f32], width: usize, kept: usize) -> Vec<f32> {
    let one = |row: &[f32]| {
        let mut row = row.to_vec();
        rotate(&mut row, kept);
        row.truncate(kept);
        row
    };
    rows.par_chunks(width).flat_map_iter(one).collect()
}

fn capped(rows: &[f32], width: usize, cap: usize, seed: u64) -> (Vec<f32>, usize) {
    if width <= cap {
        return (rows.to_vec(), width);
    }
    let fold = Fold::new(seed, width, cap);
    (rows.par_chunks(width).flat_map_iter(|row| fold.apply(row)).collect(), cap)
}

/// `Σ_ij s_i t_j a_i δ_j` into bucket `(h_i + k_j) mod m`, over all layers, the bias as a last input that is 1.
fn tensor_sketch(material: &Material, m: usize) -> Vec<f32> {
    let mut out = vec![0f32; (material.visits + material.probes) * m];
    for layer in &material.factors {
        let hash = |side: Side, count: usize| -> Vec<(usize, f32)> {
            let seed = derive_seed(3, layer.site as u32, side);
            let draw = |i| derive_seed(seed, i as u32, side);
            (0..count).map(|i| (draw(i) as usize % m, if draw(i) >> 63 == 0 { 1.0 } else { -1.0 })).collect()
        };
        let (left, right) = (hash(Side::Input, layer.inputs + 1), hash(Side::Delta, layer.outputs));
        let rows = layer.input.par_chunks(layer.inputs).zip(layer.delta.par_chunks(layer.outputs));
        out.par_chunks_mut(m).zip(rows).for_each(|(out, (a, d))| {
            for ((j, t), d) in right.iter().zip(d).filter(|(_, d)| **d != 0.0) {
                for ((i, s), a) in left.iter().zip(a.iter().chain(&[1.0])).filter(|(_, a)| **a != 0.0) {
                    out[(i + j) % m] += s * t * a * d;
                }
            }
        });
    }
    out
}
