//! Numbers of a pass that are in main memory, or still on the device.
//!
//! The training thread need not wait for a device: it packs the numbers into one tensor, and the background thread
//! copies it and makes the columns.

use candle_core::{DType, Device, Error, Result, Tensor};

/// Something that is in main memory, or that is made of numbers on a device.
pub(super) enum Later<T> {
    Here(T),
    OnDevice(Pending<T>),
}

/// Some numbers on a device, and what is made of them in main memory.
pub(super) struct Pending<T> {
    /// Floats of any shapes. Together they hold as many numbers as `lengths` says.
    parts: Vec<Tensor>,
    lengths: Vec<usize>,
    make: Make<T>,
}

/// Makes something of the numbers of each part.
type Make<T> = Box<dyn FnOnce(&[Vec<f64>]) -> Result<T> + Send + Sync>;

impl<T: 'static> Pending<T> {
    /// What `make` makes of the numbers of `parts`.
    pub(super) fn new(parts: Vec<Tensor>, make: impl FnOnce(&[Vec<f64>]) -> Result<T> + Send + Sync + 'static) -> Self {
        let parts: Vec<Tensor> = parts.into_iter().map(|part| part.detach()).collect();
        Self { lengths: parts.iter().map(Tensor::elem_count).collect(), parts, make: Box::new(make) }
    }

    /// Both, from one copy.
    pub(super) fn zip<U: 'static>(self, other: Pending<U>) -> Pending<(T, U)> {
        let own = self.lengths.len();
        let (first, second) = (self.make, other.make);
        Pending {
            parts: [self.parts, other.parts].concat(),
            lengths: [self.lengths, other.lengths].concat(),
            make: Box::new(move |parts| Ok((first(&parts[..own])?, second(&parts[own..])?))),
        }
    }

    pub(super) fn map<U>(self, f: impl FnOnce(T) -> U + Send + Sync + 'static) -> Pending<U> {
        let make = self.make;
        Pending { parts: self.parts, lengths: self.lengths, make: Box::new(move |parts| make(parts).map(f)) }
    }

    /// The tensors with the numbers.
    pub(super) fn tensors(&self) -> &[Tensor] {
        &self.parts
    }

    /// Puts all numbers into one tensor, so that they leave the device in one copy. It waits for nothing.
    pub(super) fn pack(mut self) -> Result<Self> {
        if self.parts.len() > 1 {
            self.parts = vec![pack(&self.parts)?];
        }
        Ok(self)
    }

    /// Copies the numbers to main memory, and makes what is made of them.
    ///
    /// # Errors
    /// candle's errors, and what is wrong with the numbers, such as a label that is no class.
    pub(super) fn read(self) -> Result<T> {
        let mut numbers = Vec::with_capacity(self.lengths.iter().sum());
        for part in &self.parts {
            let part = part.to_device(&Device::Cpu)?.flatten_all()?.to_dtype(DType::F64)?;
            numbers.extend(part.to_vec1::<f64>()?);
        }
        let mut rest = numbers.into_iter();
        let parts: Vec<Vec<f64>> = self.lengths.iter().map(|length| rest.by_ref().take(*length).collect()).collect();
        (self.make)(&parts)
    }

    /// Takes the packed numbers out, for a copy together with others of that device. [`Self::give`] brings them back.
    /// `None` if they are elsewhere or wider than f32.
    pub(super) fn take_packed(&mut self, device: &Device) -> Option<Tensor> {
        let [packed] = &self.parts[..] else { return None };
        let fits = packed.dtype() == DType::F32 && packed.device().same_device(device);
        if fits {
            self.parts.pop()
        } else {
            None
        }
    }

    /// Brings the numbers back that [`Self::take_packed`] took, now in main memory.
    pub(super) fn give(&mut self, numbers: Vec<f32>) -> Result<()> {
        let count = numbers.len();
        self.parts.push(Tensor::from_vec(numbers, count, &Device::Cpu)?);
        Ok(())
    }

    /// Bytes on the device.
    pub(super) fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.elem_count() * part.dtype().size_in_bytes()).sum()
    }
}

/// All numbers in a row, in the widest of their types.
fn pack(parts: &[Tensor]) -> Result<Tensor> {
    let is_wide = parts.iter().any(|part| part.dtype() == DType::F64);
    let dtype = if is_wide { DType::F64 } else { DType::F32 };
    let flat = parts.iter().map(|part| part.flatten_all()?.to_dtype(dtype)).collect::<Result<Vec<_>>>()?;
    Tensor::cat(&flat, 0)
}

impl<T: Send + Sync + 'static> Later<T> {
    /// Reads what is on the device.
    pub(super) fn read(self) -> Result<T> {
        match self {
            Self::Here(value) => Ok(value),
            Self::OnDevice(pending) => pending.read(),
        }
    }

    pub(super) fn is_here(&self) -> bool {
        matches!(self, Self::Here(_))
    }

    /// What is here counts as made of no numbers.
    pub(super) fn into_pending(self) -> Pending<T> {
        match self {
            Self::Here(value) => Pending::new(Vec::new(), move |_| Ok(value)),
            Self::OnDevice(pending) => pending,
        }
    }
}

/// An error of numbers that were read.
pub(super) fn refuse(what: impl Into<String>) -> Error {
    Error::Msg(what.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_all_types_come_in_one_copy() {
        let device = Device::Cpu;
        let ones = Tensor::new(&[[1f32, 2.0]], &device).unwrap();
        let tall = Tensor::new(&[3f64, 1e-300], &device).unwrap();
        let half = Tensor::new(&[0.5f32], &device).unwrap().to_dtype(DType::BF16).unwrap();
        let first = Pending::new(vec![ones, tall], |parts| Ok(parts.to_vec()));
        let both = first.zip(Pending::new(vec![half], |parts| Ok(parts[0][0]))).map(|(all, half)| (half, all));
        assert_eq!(both.bytes(), 8 + 16 + 2);
        let packed = both.pack().unwrap();
        assert_eq!((packed.parts.len(), packed.bytes()), (1, 5 * 8));
        assert_eq!(packed.read().unwrap(), (0.5, vec![vec![1.0, 2.0], vec![3.0, 1e-300]]));
    }

    #[test]
    fn numbers_may_travel_with_others() {
        let numbers = Tensor::new(&[3f32, 4.0], &Device::Cpu).unwrap();
        let mut pending = Pending::new(vec![numbers], |parts| Ok(parts[0].iter().sum::<f64>())).pack().unwrap();
        let taken = pending.take_packed(&Device::Cpu).unwrap();
        assert_eq!((pending.bytes(), pending.take_packed(&Device::Cpu).is_none()), (0, true));
        pending.give(taken.to_vec1().unwrap()).unwrap();
        assert_eq!(pending.read().unwrap(), 7.0);
        let wide = Tensor::new(&[3f64], &Device::Cpu).unwrap();
        assert!(Pending::new(vec![wide], |_| Ok(())).take_packed(&Device::Cpu).is_none());
    }

    #[test]
    fn what_is_here_needs_no_device() {
        let here = Later::Here(7).into_pending().zip(Pending::new(Vec::new(), |_| Err::<(), _>(refuse("no"))));
        assert_eq!(here.bytes(), 0);
        assert!(here.pack().unwrap().read().unwrap_err().to_string().contains("no"));
    }
}
