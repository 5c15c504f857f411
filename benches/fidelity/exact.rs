//! The truth: exact per-example gradients, their dot products and norms, and the projections that schemes start from.

use super::model::{normal, Kind, Model, Site, Watch, EPS};
use candle_core::{Device, Result, Tensor, D};
use gradlog_format::sketch::{derive_seed, Fold, Side};
use rand::rngs::StdRng;
use rand::SeedableRng;
use rayon::prelude::*;

/// One layer's gradients for a batch.
pub enum Gradients {
    /// Input `[batch, inputs]` and output gradient `[batch, outputs]` of a layer with a bias.
    Factors { input: Vec<f32>, delta: Vec<f32> },
    /// `[batch, parameters]`, laid out as the crate lays it out.
    Whole(Tensor),
}

/// Exact gradients of each example's own loss, layer by layer, from candle's ops alone.
pub fn gradients(model: &Model, x: &Tensor, y: &Tensor) -> Result<Vec<Gradients>> {
    let watch = Watch::on();
    let batch = x.dim(0)?;
    let loss = (model.mean_loss(x, y, &watch)? * batch as f64)?;
    let grads = loss.backward()?;
    let mut seen = watch.into_seen();
    seen.sort_by_key(|seen| seen.site);
    let delta = |site: usize| match grads.get(seen[site].delta.as_tensor()) {
        Some(grad) => Ok(grad.detach()),
        None => candle_core::bail!("layer {site} got no gradient"),
    };
    (0..seen.len()).map(|n| of_layer(&model.sites[n], &seen[n].input, &delta(n)?, batch)).collect()
}

fn of_layer(site: &Site, x: &Tensor, delta: &Tensor, batch: usize) -> Result<Gradients> {
    let (inputs, outputs) = (site.inputs, site.outputs);
    let whole = |weights: Tensor, biases: Option<Tensor>| {
        let flat = weights.reshape((batch, ()))?;
        let all = match biases {
            Some(biases) => Tensor::cat(&[&flat, &biases], 1)?,
            None => flat,
        };
        Ok(Gradients::Whole(all.contiguous()?))
    };
    match site.kind {
        Kind::Factored => Ok(Gradients::Factors { input: numbers(x)?, delta: numbers(delta)? }),
        Kind::Sequence => whole(delta.transpose(1, 2)?.contiguous()?.matmul(&x.contiguous()?)?, Some(delta.sum(1)?)),
        Kind::Conv(side) => {
            let (_, channels, _, _) = x.dims4()?;
            let (_, _, height, width) = delta.dims4()?;
            let shifted: Vec<Tensor> = (0..side * side)
                .map(|k| x.narrow(2, k / side, height)?.narrow(3, k % side, width)?.contiguous())
                .collect::<Result<_>>()?;
            let patches = Tensor::stack(&shifted, 2)?.reshape((batch, channels * side * side, height * width))?;
            let delta = delta.contiguous()?.reshape((batch, outputs, height * width))?;
            whole(delta.matmul(&patches.t()?.contiguous()?)?, Some(delta.sum(2)?))
        }
        Kind::Embedding(rows) => {
            let (ids, delta) = (x.flatten_all()?.to_vec1::<u32>()?, numbers(delta)?);
            let length = ids.len() / batch;
            let mut table = vec![0f32; batch * rows * outputs];
            for (place, id) in ids.iter().enumerate() {
                let row = ((place / length) * rows + *id as usize) * outputs;
                for (sum, d) in table[row..row + outputs].iter_mut().zip(&delta[place * outputs..]) {
                    *sum += d;
                }
            }
            whole(Tensor::from_vec(table, (batch, rows * outputs), &Device::Cpu)?, None)
        }
        Kind::Norm => {
            let centerd = x.broadcast_sub(&(x.sum_keepdim(D::Minus1)? / inputs as f64)?)?;
            let variance = (centerd.sqr()?.sum_keepdim(D::Minus1)? / inputs as f64)?;
            let normed = centerd.broadcast_div(&(variance + EPS)?.sqrt()?)?;
            whole((normed * delta)?.sum(1)?, Some(delta.sum(1)?))
        }
    }
}

pub fn numbers(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1::<f32>()
}

/// Rows that others are multiplied with, cut into stretches of columns and turned once.
pub struct Asked {
    width: usize,
    stretches: Vec<Tensor>,
}

impl Asked {
    pub fn new(rows: &[f32], width: usize) -> Result<Self> {
        const STRETCH: usize = 8192;
        let all = Tensor::from_slice(rows, (rows.len() / width, width), &Device::Cpu)?;
        let cut = |first| all.narrow(1, first, STRETCH.min(width - first))?.t()?.contiguous();
        Ok(Self { width, stretches: (0..width).step_by(STRETCH).map(cut).collect::<Result<_>>()? })
    }

    /// The dot products of each of `rows` with each of these: products in f32 within a stretch, summed in f64.
    pub fn dots(&self, rows: &[f32]) -> Result<Vec<f64>> {
        let rows = Tensor::from_slice(rows, (rows.len() / self.width, self.width), &Device::Cpu)?;
        let (mut sum, mut first) = (Vec::new(), 0);
        for stretch in &self.stretches {
            let columns = stretch.dim(0)?;
            let product = numbers(&rows.narrow(1, first, columns)?.contiguous()?.matmul(stretch)?)?;
            sum.resize(product.len(), 0f64);
            sum.iter_mut().zip(product).for_each(|(s, p)| *s += f64::from(p));
            first += columns;
        }
        Ok(sum)
    }
}

/// `a·bᵀ` for rows of `width` numbers.
pub fn dots(a: &[f32], b: &[f32], width: usize) -> Result<Vec<f64>> {
    Asked::new(b, width)?.dots(a)
}

/// What all schemes start from. Rows are the visits, then the probes.
pub struct Material {
    pub visits: usize,
    pub probes: usize,
    /// Exact dot products `[visits, probes]`.
    pub truth: Vec<f64>,
    /// Exact squared norms of all rows.
    pub norms: Vec<f64>,
    /// The factors of each factored layer.
    pub factors: Vec<Factors>,
    /// The folded layers, folded together to each of these lengths, as the crate does it.
    pub folds: Vec<(usize, Vec<f32>)>,
    /// How many parameters those have together.
    pub folded_parameters: u64,
    /// The last layer alone, where it is folded: length and rows.
    pub last_fold: Option<(usize, Vec<f32>)>,
    /// A Kronecker projection of each layer's matrix, one behind the other.
    pub kronecker: Vec<f32>,
    /// Shares of the visits' squared norms, by layer.
    pub shares: Vec<f64>,
}

pub struct Factors {
    pub site: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub input: Vec<f32>,
    pub delta: Vec<f32>,
}

impl Material {
    /// Takes exact gradients batch by batch, the probes first and then the visits, and keeps what is needed of them.
    pub fn collect(
        model: &Model,
        probes: (Tensor, Tensor),
        visits: impl Iterator<Item = Result<(Tensor, Tensor)>>,
        lengths: &[usize],
    ) -> Result<Self> {
        let asked = gradients(model, &probes.0, &probes.1)?;
        let count = probes.0.dim(0)?;
        let mut parts = Parts::new(&model.sites, &asked, lengths)?;
        let mut own = Parts::new(&model.sites, &asked, lengths)?;
        let probe_norms = parts.add(&asked, count, None)?;
        let sides = |site: &Gradients| match site {
            Gradients::Factors { input, delta } => {
                Ok(vec![Asked::new(input, input.len() / count)?, Asked::new(delta, delta.len() / count)?])
            }
            Gradients::Whole(whole) => Ok(vec![Asked::new(&numbers(whole)?, whole.dim(1)?)?]),
        };
        let asked: Vec<Vec<Asked>> = asked.iter().map(sides).collect::<Result<_>>()?;
        let (mut truth, mut norms, mut total) = (Vec::new(), Vec::new(), 0);
        for batch in visits {
            let (x, y) = batch?;
            let batch = x.dim(0)?;
            let taken = gradients(model, &x, &y)?;
            norms.extend(own.add(&taken, batch, Some((&asked, &mut truth)))?);
            total += batch;
        }
        norms.extend(probe_norms);
        Ok(own.into_material(parts, truth, norms, total, count))
    }
}

/// The parts of [`Material`] while it grows.
struct Parts {
    factors: Vec<Factors>,
    folds: Vec<(usize, Vec<f32>)>,
    folders: Vec<(usize, Vec<Fold>)>,
    last_fold: Option<(Fold, Vec<f32>)>,
    projections: Vec<Option<Kronecker>>,
    kronecker: Vec<f32>,
    shares: Vec<f64>,
}

/// Side of a Kronecker projection.
const SIDE: usize = 16;
/// Length of the sketch of the last layer alone.
const LAST: usize = 1024;

/// Gaussian projections of both sides of a layer's matrix `[rows, columns]`.
struct Kronecker {
    left: Tensor,
    right: Tensor,
    rows: usize,
    columns: usize,
}

impl Kronecker {
    fn new(site: &Site, rng: &mut StdRng) -> Result<Option<Self>> {
        let (rows, columns) = match site.kind {
            Kind::Norm => return Ok(None),
            Kind::Embedding(rows) => (rows, site.outputs),
            _ => (site.outputs, site.inputs),
        };
        let mut gaussian = |width: usize| -> Result<Tensor> {
            let values = (0..width * SIDE).map(|_| (normal(rng) / (SIDE as f64).sqrt()) as f32).collect();
            Tensor::from_vec(values, (width, SIDE), &Device::Cpu)
        };
        Ok(Some(Self { left: gaussian(rows)?, right: gaussian(columns)?, rows, columns }))
    }

    /// `Lᵀ G R` of each example, `[batch, SIDE * SIDE]`.
    fn apply(&self, gradients: &Gradients, batch: usize) -> Result<Vec<f32>> {
        match gradients {
            Gradients::Factors { input, delta } => {
                let side = |values: &[f32], projection: &Tensor| {
                    Tensor::from_slice(values, (batch, values.len() / batch), &Device::Cpu)?.matmul(projection)
                };
                let (a, d) = (side(input, &self.right)?, side(delta, &self.left)?);
                numbers(&d.unsqueeze(2)?.broadcast_mul(&a.unsqueeze(1)?)?)
            }
            Gradients::Whole(whole) => {
                let matrix = whole.narrow(1, 0, self.rows * self.columns)?.contiguous()?;
                let right = matrix.reshape((batch * self.rows, self.columns))?.matmul(&self.right)?;
                let right = right.reshape((batch, self.rows, SIDE))?.transpose(1, 2)?.contiguous()?;
                let both = right.reshape((batch * SIDE, self.rows))?.matmul(&self.left)?;
                numbers(&both)
            }
        }
    }
}

impl Parts {
    fn new(sites: &[Site], like: &[Gradients], lengths: &[usize]) -> Result<Self> {
        let (mut factors, mut folders) = (Vec::new(), Vec::new());
        for (n, (site, gradients)) in sites.iter().zip(like).enumerate() {
            match gradients {
                Gradients::Factors { .. } => {
                    let Site { inputs, outputs, .. } = *site;
                    factors.push(Factors { site: n, inputs, outputs, input: Vec::new(), delta: Vec::new() });
                }
                Gradients::Whole(whole) => {
                    let seed = derive_seed(0, n as u32, Side::Folded);
                    let parameters = whole.dim(1)?;
                    folders.push((n, lengths.iter().map(|m| Fold::new(seed, parameters, *m)).collect()));
                }
            }
        }
        let folds = if folders.is_empty() { Vec::new() } else { lengths.iter().map(|m| (*m, Vec::new())).collect() };
        let last_fold = match like.last() {
            Some(Gradients::Whole(last)) => Some((Fold::new(4, last.dim(1)?, LAST), Vec::new())),
            _ => None,
        };
        let mut rng = StdRng::seed_from_u64(5);
        let projections = sites.iter().map(|site| Kronecker::new(site, &mut rng)).collect::<Result<_>>()?;
        let shares = vec![0.0; sites.len()];
        Ok(Self { factors, folds, folders, last_fold, projections, kronecker: Vec::new(), shares })
    }

    /// Adds the rows of a batch. Gives their squared norms, and appends their dot products with those asked about to
    /// the truth.
    fn add(
        &mut self,
        taken: &[Gradients],
        batch: usize,
        truth: Option<(&[Vec<Asked>], &mut Vec<f64>)>,
    ) -> Result<Vec<f64>> {
        let asked = truth.as_ref().map(|(asked, _)| *asked);
        let mut norms = vec![0f64; batch];
        let mut scores: Vec<f64> = Vec::new();
        let mut add_scores = |more: Vec<f64>| {
            scores.resize(more.len(), 0.0);
            scores.iter_mut().zip(more).for_each(|(s, m)| *s += m);
        };
        let square = |row: &[f32]| -> f64 { row.iter().map(|v| f64::from(*v) * f64::from(*v)).sum() };
        for factors in &mut self.factors {
            let Gradients::Factors { input: a, delta: d } = &taken[factors.site] else {
                continue;
            };
            for (i, norm) in norms.iter_mut().enumerate() {
                let (a, d) = (&a[i * factors.inputs..][..factors.inputs], &d[i * factors.outputs..][..factors.outputs]);
                let own = square(d) * (square(a) + 1.0);
                *norm += own;
                self.shares[factors.site] += own;
            }
            if let Some([b, e]) = asked.map(|asked| &asked[factors.site][..]) {
                add_scores(b.dots(a)?.iter().zip(e.dots(d)?).map(|(a, d)| (a + 1.0) * d).collect());
            }
            factors.input.extend_from_slice(a);
            factors.delta.extend_from_slice(d);
        }
        let first = self.folds.first().map_or(0, |(m, rows)| rows.len() / m);
        for (m, rows) in &mut self.folds {
            rows.resize((first + batch) * *m, 0.0);
        }
        for (site, folders) in &self.folders {
            let Gradients::Whole(taken) = &taken[*site] else {
                continue;
            };
            let parameters = taken.dim(1)?;
            let values = numbers(taken)?;
            for (norm, row) in norms.iter_mut().zip(values.chunks(parameters)) {
                let own = square(row);
                *norm += own;
                self.shares[*site] += own;
            }
            if let Some([whole]) = asked.map(|asked| &asked[*site][..]) {
                add_scores(whole.dots(&values)?);
            }
            for ((m, rows), fold) in self.folds.iter_mut().zip(folders) {
                rows[first * *m..]
                    .par_chunks_mut(*m)
                    .zip(values.par_chunks(parameters))
                    .for_each(|(row, gradient)| fold.add(0, gradient, row));
            }
        }
        if let (Some((fold, rows)), Some(Gradients::Whole(last))) = (&mut self.last_fold, taken.last()) {
            numbers(last)?.chunks(fold.inputs()).for_each(|row| rows.extend(fold.apply(row)));
        }
        let projected: Vec<Vec<f32>> = (self.projections.iter().zip(taken))
            .filter_map(|(projection, gradients)| projection.as_ref().map(|p| p.apply(gradients, batch)))
            .collect::<Result<_>>()?;
        for example in 0..batch {
            for layer in &projected {
                self.kronecker.extend_from_slice(&layer[example * SIDE * SIDE..(example + 1) * SIDE * SIDE]);
            }
        }
        if let Some((_, truth)) = truth {
            truth.extend(scores);
        }
        Ok(norms)
    }

    fn into_material(
        mut self,
        probes: Parts,
        truth: Vec<f64>,
        norms: Vec<f64>,
        visits: usize,
        count: usize,
    ) -> Material {
        for (own, probe) in self.factors.iter_mut().zip(&probes.factors) {
            own.input.extend_from_slice(&probe.input);
            own.delta.extend_from_slice(&probe.delta);
        }
        for ((_, own), (_, probe)) in self.folds.iter_mut().zip(&probes.folds) {
            own.extend_from_slice(probe);
        }
        self.kronecker.extend_from_slice(&probes.kronecker);
        let last_fold = self.last_fold.zip(probes.last_fold).map(|((fold, mut own), (_, probe))| {
            own.extend_from_slice(&probe);
            (fold.outputs(), own)
        });
        let total: f64 = self.shares.iter().sum();
        self.shares.iter_mut().for_each(|share| *share /= total);
        let folded = self.folders.iter().filter_map(|(_, folds)| folds.first());
        let folded_parameters = folded.map(|fold| fold.inputs() as u64).sum();
        Material {
            folded_parameters,
            visits,
            probes: count,
            truth,
            norms,
            factors: self.factors,
            folds: self.folds,
            last_fold,
            kronecker: self.kronecker,
            shares: self.shares,
        }
    }
}
