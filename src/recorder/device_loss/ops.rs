//! Functions of tensors that neither overflow nor cancel.

use candle_core::{DType, Result, Tensor};

/// The type in which losses of outputs of this type are computed.
pub(super) fn compute_type(dtype: DType) -> DType {
    match dtype {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}

/// The numbers in the type `dtype`, in a tensor of their own, without a graph.
pub(super) fn own_copy(tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    let tensor = tensor.detach();
    if tensor.dtype() == dtype {
        tensor.force_contiguous()
    } else {
        tensor.to_dtype(dtype)?.contiguous()
    }
}

/// The numbers in the type `dtype`, without a graph.
pub(super) fn as_type(tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    tensor.detach().to_dtype(dtype)?.contiguous()
}

/// A tensor of this shape that holds one number.
pub(super) fn filled(value: f64, like: &Tensor) -> Result<Tensor> {
    Tensor::full(value as f32, like.shape(), like.device())?.to_dtype(like.dtype())
}

/// `log(1 + x)` for `x ≥ 0`. The rounding of `1 + x` is made good to first order, so small `x` keep all their digits.
pub(super) fn log1p(x: &Tensor) -> Result<Tensor> {
    let sum = (x + 1.0)?;
    let lost = (x - (&sum - 1.0)?)?;
    sum.log()? + (lost / &sum)?
}

/// `log(1 + exp q)`.
pub(super) fn softplus(q: &Tensor) -> Result<Tensor> {
    q.relu()? + log1p(&q.abs()?.neg()?.exp()?)?
}

/// `1 / (1 + exp(−q))`. It keeps all digits for very negative `q`.
pub(super) fn sigmoid(q: &Tensor) -> Result<Tensor> {
    (q.neg()?.exp()? + 1.0)?.recip()
}

/// `value` where `condition` is not 0, else `other`. All have one shape.
pub(super) fn choose(condition: &Tensor, value: &Tensor, other: &Tensor) -> Result<Tensor> {
    condition.where_cond(value, other)
}

/// NaN where `x` is not 0, else 0. It is added to what must not be taken for a number.
pub(super) fn poison_unless_zero(x: &Tensor) -> Result<Tensor> {
    x.abs()?.neg()?.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn numbers(x: &Tensor) -> Vec<f64> {
        x.to_dtype(DType::F64).unwrap().to_vec1().unwrap()
    }

    #[test]
    fn functions_keep_their_digits() {
        let q = [-90f32, -40.0, -10.0, -0.5, 0.0, 0.5, 12.0, 90.0, f32::NEG_INFINITY, f32::INFINITY, f32::NAN];
        let tensor = Tensor::new(&q, &Device::Cpu).unwrap();
        let (made, share) = (numbers(&softplus(&tensor).unwrap()), numbers(&sigmoid(&tensor).unwrap()));
        for (i, q) in q.iter().map(|q| f64::from(*q)).enumerate() {
            let right = q.max(0.0) + (-q.abs()).exp().ln_1p();
            let near = |made: f64, right: f64| {
                made.is_nan() && right.is_nan() || made == right || (made - right).abs() <= 4e-7 * right.abs() + 1e-38
            };
            assert!(near(made[i], if q.is_nan() { q } else { right }), "softplus {q}: {} {right}", made[i]);
            let right = 1.0 / (1.0 + (-q).exp());
            assert!(near(share[i], right), "sigmoid {q}: {} {right}", share[i]);
        }
    }
}
