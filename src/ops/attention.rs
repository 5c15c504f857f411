//! Scaled dot-product attention with one op forward and one backward.

use crate::taps::parallel::{map, share_rows};
use crate::taps::{cpu_f32, needs_gradient, slice, with_slice};
use candle_core::{bail, CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, D};
use gradlog_kernels::matmul::{matmul, Matrix};
use gradlog_kernels::simd::{largest, sum_over, vectorized};

/// Computes the attention of several heads, `softmax(q·kᵀ / √d)·v` for each (Vaswani et al. 2017, arXiv 1706.03762,
/// §3.2).
///
/// `q` is `[batch, queries, heads·d]`, `k` is `[batch, keys, heads·d]` and `v` is `[batch, keys, heads·e]`, as linear
/// layers give them: the numbers of a head lie together. The output is `[batch, queries, heads·e]`. If `is_causal`, a
/// position sees itself and those before it, and there are as many queries as keys.
///
/// For f32 in main memory it takes one pass each way, which does not copy the heads apart and keeps no attention
/// weights for backward: it computes them again. Other dtypes and devices use candle's ops. It has no parameters, so
/// there is nothing to record.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
///
/// let (batch, length, heads, width) = (2, 5, 4, 16);
/// let x = Tensor::ones((batch, length, heads * width), DType::F32, &Device::Cpu)?;
/// let mixed = gradlog::ops::attention(&x, &x, &x, heads, true)?;
/// assert_eq!(mixed.dims(), [batch, length, heads * width]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// An error if the shapes do not fit, or `heads` does not divide the widths; otherwise candle's error.
///
/// # Cost
/// Forward `2·batch·heads·queries·keys·(d + e)` multiplications and additions, backward 2.5 times as many if `d = e`.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, is_causal: bool) -> Result<Tensor> {
    let sizes = Sizes::new([q, k, v], heads, is_causal)?;
    if !cpu_f32(&[q, k, v]) {
        return sizes.by_ops(q, k, v);
    }
    q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, Attention(sizes))
}

#[derive(Debug, Clone, Copy)]
struct Sizes {
    batch: usize,
    queries: usize,
    keys: usize,
    heads: usize,
    /// Of a head's query and key.
    width: usize,
    /// Of a head's value.
    value_width: usize,
    is_causal: bool,
}

impl Sizes {
    fn new([q, k, v]: [&Tensor; 3], heads: usize, is_causal: bool) -> Result<Self> {
        let ((batch, queries, width), (_, keys, value_width)) = (q.dims3()?, v.dims3()?);
        if k.dims() != [batch, keys, width] || v.dim(0)? != batch {
            bail!("attention of queries {:?} with keys {:?} and values {:?}", q.dims(), k.dims(), v.dims());
        }
        if heads == 0 || width == 0 || width % heads != 0 || value_width % heads != 0 {
            bail!("{heads} heads do not divide queries of {width} and values of {value_width} numbers");
        }
        if is_causal && queries != keys {
            bail!("causal attention of {queries} queries and {keys} keys: there must be as many");
        }
        let (width, value_width) = (width / heads, value_width / heads);
        Ok(Self { batch, queries, keys, heads, width, value_width, is_causal })
    }

    fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    /// By candle's ops.
    fn by_ops(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let apart = |x: &Tensor, rows: usize, width: usize| {
            x.reshape((self.batch, rows, self.heads, width))?.transpose(1, 2)?.contiguous()
        };
        let (q, k) = (apart(q, self.queries, self.width)?, apart(k, self.keys, self.width)?);
        let mut scores = (q.matmul(&k.t()?.contiguous()?)? * f64::from(self.scale()))?;
        if self.is_causal {
            let unseen = |query: usize, key: usize| if key > query { f32::NEG_INFINITY } else { 0.0 };
            let mask = (0..self.queries).flat_map(|query| (0..self.keys).map(move |key| unseen(query, key)));
            let mask = Tensor::from_iter(mask, q.device())?.reshape((self.queries, self.keys))?;
            scores = scores.broadcast_add(&mask.to_dtype(q.dtype())?)?;
        }
        let mixed = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&apart(v, self.keys, self.value_width)?)?;
        mixed.transpose(1, 2)?.reshape((self.batch, self.queries, self.heads * self.value_width))
    }

    /// What one example has in each of the tensors of queries, keys and values.
    fn example_lengths(&self) -> [usize; 3] {
        let Self { queries, keys, heads, width, value_width, .. } = *self;
        [queries * heads * width, keys * heads * width, keys * heads * value_width]
    }

    /// The queries, keys and values of a head of one example.
    fn head<'a>(&self, tensors: [&'a [f32]; 3], example: usize, head: usize) -> [Matrix<'a>; 3] {
        let lengths = self.example_lengths();
        let of = |tensor: usize, rows: usize, width: usize| {
            let numbers = &tensors[tensor][example * lengths[tensor]..][..lengths[tensor]];
            Matrix::new(numbers, rows, self.heads * width).columns(head * width, width)
        };
        [of(0, self.queries, self.width), of(1, self.keys, self.width), of(2, self.keys, self.value_width)]
    }

    /// Writes the attention weights of a head, `[queries, keys]`.
    fn weigh(&self, q: Matrix<'_>, k: Matrix<'_>, weights: &mut [f32]) {
        let scale = self.scale();
        matmul(weights, q, k.t(), false, 1);
        vectorized(
            #[inline(always)]
            || {
                for (query, row) in weights.chunks_exact_mut(self.keys.max(1)).enumerate() {
                    let (seen, unseen) = row.split_at_mut(if self.is_causal { query + 1 } else { self.keys });
                    let largest = largest(seen);
                    seen.iter_mut().for_each(|x| *x = ((*x - largest) * scale).exp());
                    let factor = 1.0 / sum_over([seen], |[x]| x);
                    seen.iter_mut().for_each(|x| *x *= factor);
                    unseen.fill(0.0);
                }
            },
        );
    }

    /// Copies a head's rows to their place among those of all heads.
    fn place(&self, rows: &[f32], width: usize, head: usize, to: &mut [f32]) {
        let all = to.chunks_exact_mut((self.heads * width).max(1));
        for (row, all) in rows.chunks_exact(width.max(1)).zip(all) {
            all[head * width..(head + 1) * width].copy_from_slice(row);
        }
    }

    fn forward(&self, tensors: [&[f32]; 3]) -> Vec<f32> {
        let length = self.queries * self.heads * self.value_width;
        let mut y = vec![0f32; self.batch * length];
        share_rows(&mut y, length, |first, y| {
            let mut weights = vec![0f32; self.queries * self.keys];
            let mut mixed = vec![0f32; self.queries * self.value_width];
            for (offset, y) in y.chunks_exact_mut(length.max(1)).enumerate() {
                for head in 0..self.heads {
                    let [q, k, v] = self.head(tensors, first + offset, head);
                    self.weigh(q, k, &mut weights);
                    matmul(&mut mixed, Matrix::new(&weights, self.queries, self.keys), v, false, 1);
                    self.place(&mixed, self.value_width, head, y);
                }
            }
        });
        y
    }

    /// The gradients of queries, keys and values. With weights `P` and `S = ∂L/∂P = δ·vᵀ`: `∂L/∂v = Pᵀ·δ`, and the
    /// gradient of the scores is `Z = P ∘ (S − Σ S ∘ P)`, so `∂L/∂q = Z·k / √d` and `∂L/∂k = Zᵀ·q / √d`.
    fn backward(&self, tensors: [&[f32]; 3], grad: &[f32]) -> [Vec<f32>; 3] {
        let Self { queries, keys, heads, width, value_width, .. } = *self;
        let lengths = self.example_lengths();
        let mut gradients = lengths.map(|length| vec![0f32; self.batch * length]);
        let [of_q, of_k, of_v] = &mut gradients;
        let chunks = |all, tensor: usize| <[f32]>::chunks_exact_mut(all, lengths[tensor].max(1));
        let examples = chunks(of_q, 0).zip(chunks(of_k, 1)).zip(chunks(of_v, 2)).enumerate();
        map(examples.collect(), |(example, ((of_q, of_k), of_v))| {
            let (mut weights, mut slopes) = (vec![0f32; queries * keys], vec![0f32; queries * keys]);
            let mut rows = vec![0f32; queries.max(keys) * width.max(value_width)];
            let length = queries * heads * value_width;
            let grad = Matrix::new(&grad[example * length..][..length], queries, heads * value_width);
            for head in 0..heads {
                let [q, k, v] = self.head(tensors, example, head);
                let grad = grad.columns(head * value_width, value_width);
                self.weigh(q, k, &mut weights);
                matmul(&mut slopes, grad, v.t(), false, 1);
                let mut place = |a: Matrix<'_>, b: Matrix<'_>, width: usize, to: &mut [f32]| {
                    let rows = &mut rows[..a.shape().0 * width];
                    matmul(rows, a, b, false, 1);
                    self.place(rows, width, head, to);
                };
                place(Matrix::new(&weights, queries, keys).t(), grad, value_width, of_v);
                self.slope_of_scores(&weights, &mut slopes);
                let slopes = Matrix::new(&slopes, queries, keys);
                place(slopes, k, width, of_q);
                place(slopes.t(), q, width, of_k);
            }
        });
        gradients
    }

    /// Turns the gradient of a head's weights into that of `q·kᵀ`.
    fn slope_of_scores(&self, weights: &[f32], slopes: &mut [f32]) {
        let (keys, scale) = (self.keys.max(1), self.scale());
        vectorized(
            #[inline(always)]
            || {
                for (slopes, weights) in slopes.chunks_exact_mut(keys).zip(weights.chunks_exact(keys)) {
                    let along = sum_over([slopes, weights], |[slope, weight]| slope * weight);
                    let pairs = slopes.iter_mut().zip(weights);
                    pairs.for_each(|(slope, weight)| *slope = weight * (*slope - along) * scale);
                }
            },
        );
    }
}

struct Attention(Sizes);

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "gradlog-attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        of_q: &Layout,
        k: &CpuStorage,
        of_k: &Layout,
        v: &CpuStorage,
        of_v: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let Sizes { batch, queries, heads, value_width, .. } = self.0;
        let y = self.0.forward([slice(q, of_q)?, slice(k, of_k)?, slice(v, of_v)?]);
        Ok((CpuStorage::F32(y), Shape::from((batch, queries, heads * value_width))))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [of_q, of_k, of_v] = with_slice(q, |q| {
            with_slice(k, |k| with_slice(v, |v| with_slice(grad, |grad| Ok(self.0.backward([q, k, v], grad)))))
        })?;
        let gradient = |numbers: Vec<f32>, of: &Tensor| {
            needs_gradient(of).then(|| Tensor::from_vec(numbers, of.shape(), of.device())).transpose()
        };
        Ok((gradient(of_q, q)?, gradient(of_k, k)?, gradient(of_v, v)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Var};

    fn numbers(shape: [usize; 3], seed: f64) -> Tensor {
        let count = shape.iter().product::<usize>();
        let number = |place: usize| (place as f64 * 0.7 + seed).sin() * 1.5;
        Tensor::from_iter((0..count).map(number), &Device::Cpu).unwrap().reshape(shape.to_vec()).unwrap()
    }

    /// The output and the gradients of a weighted sum of it, in f64.
    fn value_and_gradients(inputs: &[Tensor; 3], dtype: DType, heads: usize, is_causal: bool) -> Vec<Vec<f64>> {
        let [q, k, v] = inputs.each_ref().map(|x| Var::from_tensor(&x.to_dtype(dtype).unwrap()).unwrap());
        let y = attention(&q, &k, &v, heads, is_causal).unwrap();
        let upstream = numbers(y.dims3().unwrap().into(), 3.0).to_dtype(dtype).unwrap();
        let grads = (&y * upstream).unwrap().sum_all().unwrap().backward().unwrap();
        let all = [&y, grads.get(&q).unwrap(), grads.get(&k).unwrap(), grads.get(&v).unwrap()];
        let flat = |x: &Tensor| x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        all.map(flat).to_vec()
    }

    impl From<Sizes> for [[usize; 3]; 3] {
        fn from(s: Sizes) -> Self {
            let (width, value_width) = (s.heads * s.width, s.heads * s.value_width);
            [[s.batch, s.queries, width], [s.batch, s.keys, width], [s.batch, s.keys, value_width]]
        }
    }

    /// candle's ops in f64 are the reference.
    #[test]
    fn values_and_gradients_are_those_of_the_definition() {
        for (batch, queries, keys, heads, width, value_width, is_causal) in [
            (1, 1, 1, 1, 1, 1, true),
            (2, 5, 5, 2, 3, 4, true),
            (2, 5, 5, 2, 3, 4, false),
            (3, 7, 2, 3, 5, 1, false),
            (2, 1, 9, 1, 8, 8, false),
            (2, 33, 33, 4, 16, 16, true),
        ] {
            let sizes = Sizes { batch, queries, keys, heads, width, value_width, is_causal };
            let [q, k, v] = <[[usize; 3]; 3]>::from(sizes);
            let inputs = [numbers(q, 0.0), numbers(k, 1.0), numbers(v, 2.0)];
            let expected = value_and_gradients(&inputs, DType::F64, heads, is_causal);
            let found = value_and_gradients(&inputs, DType::F32, heads, is_causal);
            for (name, (expected, found)) in ["y", "q", "k", "v"].iter().zip(expected.iter().zip(&found)) {
                let largest = expected.iter().fold(1e-3, |largest: f64, x| largest.max(x.abs()));
                let error = expected.iter().zip(found).fold(0.0, |error: f64, (x, y)| error.max((x - y).abs()));
                assert!(error < 1e-5 * largest, "{name} of {sizes:?}: {error}");
            }
        }
    }

    #[test]
    fn a_position_does_not_see_those_behind_it() {
        let x = numbers([1, 4, 6], 0.0).to_dtype(DType::F32).unwrap();
        let last = |seed| numbers([1, 1, 6], seed).to_dtype(DType::F32).unwrap();
        let of = |x: &Tensor| {
            let y = attention(x, x, x, 2, true).unwrap();
            y.narrow(1, 0, 4).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let longer = |seed| Tensor::cat(&[&x, &last(seed)], 1).unwrap();
        assert_eq!(of(&longer(5.0)), of(&longer(9.0)));
        // The first sees itself alone.
        let y = attention(&x, &x, &x, 2, true).unwrap();
        assert_eq!(
            y.get(0).unwrap().get(0).unwrap().to_vec1::<f32>().unwrap(),
            x.get(0).unwrap().get(0).unwrap().to_vec1::<f32>().unwrap()
        );
    }

    #[test]
    fn views_are_read_and_only_what_is_trained_has_a_gradient() {
        let wide = numbers([2, 5, 12], 0.0).to_dtype(DType::F32).unwrap();
        let part = |first: usize| wide.narrow(2, first, 4).unwrap();
        let q = Var::from_tensor(&part(0).contiguous().unwrap()).unwrap();
        let (k, v) = (part(4).contiguous().unwrap(), part(8).contiguous().unwrap());
        let whole = attention(&q, &k, &v, 2, false).unwrap();
        let flat = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(flat(&attention(&q, &part(4), &part(8), 2, false).unwrap()), flat(&whole));
        let grads = whole.sum_all().unwrap().backward().unwrap();
        assert!(grads.get(&q).is_some() && grads.get(&k).is_none() && grads.get(&v).is_none());
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let x = |shape: [usize; 3]| numbers(shape, 0.0);
        let refused =
            |q, k, v, heads, is_causal| attention(&x(q), &x(k), &x(v), heads, is_causal).unwrap_err().to_string();
        let fits = [2, 3, 8];
        assert!(refused(fits, [2, 3, 6], fits, 2, false).contains("keys [2, 3, 6]"));
        assert!(refused(fits, fits, [1, 3, 8], 2, false).contains("values [1, 3, 8]"));
        assert!(refused(fits, [2, 4, 8], fits, 2, false).contains("attention of queries"));
        assert!(refused(fits, fits, fits, 3, false).contains("3 heads do not divide"));
        assert!(refused(fits, fits, fits, 0, false).contains("0 heads"));
        assert!(refused(fits, [2, 4, 8], [2, 4, 8], 2, true).contains("causal attention of 3 queries and 4 keys"));
    }
}
