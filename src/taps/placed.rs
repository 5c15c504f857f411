//! Numbers that lie where they were made: in main memory or on a device. They are copied to the other place once, when
//! they are asked for there.

use candle_core::{Device, Result, Tensor, WithDType};
use std::sync::{Arc, OnceLock};

/// A vector of numbers, in main memory, on a device, or both.
#[derive(Debug, Clone)]
pub(crate) struct Placed<T>(Arc<Places<T>>);

#[derive(Debug)]
struct Places<T> {
    length: usize,
    here: OnceLock<Arc<[T]>>,
    there: OnceLock<Tensor>,
}

impl<T: WithDType> Placed<T> {
    /// Numbers in main memory.
    pub(crate) fn here(numbers: impl Into<Arc<[T]>>) -> Self {
        let numbers = numbers.into();
        let length = numbers.len();
        Self(Arc::new(Places { length, here: OnceLock::from(numbers), there: OnceLock::new() }))
    }

    /// Those of a tensor of one dimension, on its device.
    pub(crate) fn there(numbers: Tensor) -> Self {
        let length = numbers.elem_count();
        Self(Arc::new(Places { length, here: OnceLock::new(), there: OnceLock::from(numbers) }))
    }

    pub(crate) fn length(&self) -> usize {
        self.0.length
    }

    /// In main memory. This waits for the device at the first call, if they were made there.
    pub(crate) fn read(&self) -> Result<&Arc<[T]>> {
        match (self.0.here.get(), self.0.there.get()) {
            (None, Some(tensor)) => {
                let numbers = tensor.to_device(&Device::Cpu)?.to_vec1::<T>()?;
                Ok(self.0.here.get_or_init(|| numbers.into()))
            }
            _ => Ok(self.0.here.get_or_init(|| Arc::from([]))),
        }
    }

    /// Those that are in main memory. None are before [`Placed::read`], if they were made on a device.
    pub(crate) fn get(&self) -> &[T] {
        self.0.here.get().map_or(&[], |numbers| numbers)
    }

    /// On `device`, as a tensor of one dimension.
    pub(crate) fn on(&self, device: &Device) -> Result<Tensor> {
        if let Some(tensor) = self.0.there.get().filter(|tensor| tensor.device().same_device(device)) {
            return Ok(tensor.clone());
        }
        let numbers = self.read()?;
        let tensor = Tensor::from_slice(numbers, numbers.len(), device)?;
        // If they already are on another device, they stay there.
        let _ = self.0.there.set(tensor.clone());
        Ok(tensor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_same_in_both_places() {
        let here = Placed::here(vec![1f32, 2.0]);
        assert_eq!((here.length(), here.get().len()), (2, 2));
        assert_eq!(here.on(&Device::Cpu).unwrap().to_vec1::<f32>().unwrap(), [1.0, 2.0]);
        let there = Placed::<f32>::there(Tensor::new(&[3f32, 4.0, 5.0], &Device::Cpu).unwrap());
        assert_eq!((there.length(), there.get().len()), (3, 0));
        assert_eq!(there.read().unwrap()[..], [3.0, 4.0, 5.0]);
        assert_eq!(there.get().len(), 3);
    }
}
