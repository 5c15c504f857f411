//! Copies to main memory that the training thread starts and nobody waits for before they are read.
//!
//! A ring of buffers bounds them. The training thread takes a free buffer and starts a copy into it; the background
//! thread reads the numbers and gives the buffer back. The background thread alone makes buffers, because a device may
//! stop for that. Where no buffer fits, the background thread copies as without a ring. After the first failure all
//! passes go that way.

use candle_core::{Device, Result, Tensor};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[cfg(feature = "cuda")]
pub(super) use super::pinned::CudaCopier as DeviceCopier;
#[cfg(all(not(feature = "cuda"), not(test)))]
pub(super) use none::NoCopier as DeviceCopier;
// So the recorder's own tests copy from the CPU as from a device.
#[cfg(all(not(feature = "cuda"), test))]
pub(super) use tests::HostCopier as DeviceCopier;

/// The most copies at a time.
const BUFFERS: usize = 4;
/// The most numbers of all buffers together: 64 MiB.
const NUMBERS: usize = 1 << 24;
/// Buffers are a multiple of this long, so that a batch that is a little larger needs no other.
const GRAIN: usize = 1 << 12;

/// What copies numbers from one kind of device.
pub(super) trait Copier: Send + Sync + 'static {
    /// Main memory that a copy goes to.
    type Buffer: Send;
    /// What says that a copy has ended.
    type Ticket: Send;

    /// Makes a buffer of `length` numbers. A device may wait for this.
    fn allocate(&self, length: usize) -> Result<Self::Buffer>;

    /// Starts a copy of a contiguous tensor of f32, after all work that the calling thread has given to the device so
    /// far. It waits for nothing. After an error no copy is under way.
    fn start(&self, numbers: &Tensor, buffer: &mut Self::Buffer) -> Result<Self::Ticket>;

    /// Whether the copy has ended. It waits for nothing.
    fn has_ended(&self, ticket: &Self::Ticket) -> bool;

    /// Waits for the end of the copy.
    fn wait(&self, ticket: &Self::Ticket) -> Result<()>;

    /// The first `length` numbers of a buffer that no copy goes to.
    fn numbers<'a>(&self, buffer: &'a Self::Buffer, length: usize) -> Result<&'a [f32]>;
}

/// The buffers of a recorder.
pub(super) struct Ring<C: Copier> {
    copier: C,
    held: Mutex<Held<C>>,
}

struct Held<C: Copier> {
    /// Buffers that no copy goes to, with their lengths.
    free: Vec<(usize, C::Buffer)>,
    /// Copies whose pass was dropped before they ended.
    dropped: Vec<UnderWay<C>>,
    /// All buffers, and their numbers.
    count: usize,
    numbers: usize,
    /// Why no more copies are started.
    failure: Option<String>,
}

/// A copy, and what must outlive it.
struct UnderWay<C: Copier> {
    numbers: Tensor,
    ticket: C::Ticket,
    buffer: (usize, C::Buffer),
}

/// A copy that was started.
pub(super) struct Copy<C: Copier> {
    ring: Arc<Ring<C>>,
    own: Option<UnderWay<C>>,
}

impl<C: Copier> Ring<C> {
    pub(super) fn new(copier: C) -> Self {
        let held = Held { free: Vec::new(), dropped: Vec::new(), count: 0, numbers: 0, failure: None };
        Self { copier, held: Mutex::new(held) }
    }

    fn lock(&self) -> MutexGuard<'_, Held<C>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why copies are no longer started, if they are not.
    pub(super) fn failure(&self) -> Option<String> {
        self.lock().failure.clone()
    }

    /// Starts a copy of contiguous numbers of f32 into a free buffer. It waits for nothing, and makes no buffer.
    pub(super) fn start(self: &Arc<Self>, numbers: &Tensor) -> Option<Copy<C>> {
        let mut held = self.lock();
        held.take_back(&self.copier);
        if held.failure.is_some() {
            return None;
        }
        let length = numbers.elem_count();
        let fits = held.free.iter().enumerate().filter(|(_, (own, _))| *own >= length);
        let (place, _) = fits.min_by_key(|(_, (own, _))| *own)?;
        let mut buffer = held.free.swap_remove(place);
        match self.copier.start(numbers, &mut buffer.1) {
            Ok(ticket) => {
                let own = UnderWay { numbers: numbers.clone(), ticket, buffer };
                Some(Copy { ring: self.clone(), own: Some(own) })
            }
            Err(error) => {
                held.free.push(buffer);
                held.fail(&error);
                None
            }
        }
    }

    /// Makes a buffer for copies of `length` numbers, if none could ever take one and the bounds permit it. A smaller
    /// buffer is given up for it where there are enough.
    pub(super) fn grow(&self, length: usize) {
        let length = length.next_multiple_of(GRAIN);
        let mut held = self.lock();
        held.take_back(&self.copier);
        if held.failure.is_some() {
            return;
        }
        let mut given_up = None;
        if held.count == BUFFERS || held.numbers + length > NUMBERS {
            let smaller = held.free.iter().enumerate().filter(|(_, (own, _))| *own < length);
            let Some((place, (own, _))) = smaller.min_by_key(|(_, (own, _))| *own) else { return };
            if held.numbers - own + length > NUMBERS {
                return;
            }
            let (own, buffer) = held.free.swap_remove(place);
            (held.count, held.numbers) = (held.count - 1, held.numbers - own);
            given_up = Some(buffer);
        }
        (held.count, held.numbers) = (held.count + 1, held.numbers + length);
        // The training thread must not wait for a lock that is held while the device stops.
        drop(held);
        drop(given_up);
        let made = self.copier.allocate(length);
        let mut held = self.lock();
        match made {
            Ok(buffer) => held.free.push((length, buffer)),
            Err(error) => {
                (held.count, held.numbers) = (held.count - 1, held.numbers - length);
                held.fail(&error);
            }
        }
    }
}

/// What failed, without the backtrace that candle adds.
fn say(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

impl<C: Copier> Held<C> {
    /// Takes back the buffers of dropped passes whose copies have ended.
    fn take_back(&mut self, copier: &C) {
        let (ended, others) = self.dropped.drain(..).partition(|own| copier.has_ended(&own.ticket));
        self.dropped = others;
        let ended: Vec<UnderWay<C>> = ended;
        self.free.extend(ended.into_iter().map(|own| own.buffer));
    }

    fn fail(&mut self, error: &candle_core::Error) {
        self.failure.get_or_insert_with(|| say(error));
    }
}

impl<C: Copier> Copy<C> {
    pub(super) fn tensor(&self) -> Option<&Tensor> {
        self.own.as_ref().map(|own| &own.numbers)
    }

    /// Waits for the copy and reads its numbers. If it failed, they are copied again as without a ring.
    pub(super) fn read<R>(mut self, read: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
        let Some(own) = self.own.take() else { candle_core::bail!("a copy is read twice") };
        let UnderWay { numbers, ticket, buffer } = own;
        let copier = &self.ring.copier;
        let copied = copier.wait(&ticket).and_then(|()| copier.numbers(&buffer.1, numbers.elem_count()));
        match copied {
            Ok(copied) => {
                let made = read(copied);
                self.ring.lock().free.push(buffer);
                made
            }
            Err(error) => {
                self.ring.lock().fail(&error);
                // Nobody knows whether the device still writes into the buffer, so it is never used or freed.
                std::mem::forget(buffer);
                read(&crate::taps::read_f32(&numbers)?)
            }
        }
    }
}

impl<C: Copier> Drop for Copy<C> {
    /// A pass that nobody reads: its tensor and its buffer are kept until the copy has ended.
    fn drop(&mut self) {
        if let Some(own) = self.own.take() {
            self.ring.lock().dropped.push(own);
        }
    }
}

impl<C: Copier> Drop for Ring<C> {
    fn drop(&mut self) {
        let held = self.held.get_mut().unwrap_or_else(PoisonError::into_inner);
        for own in held.dropped.drain(..) {
            if self.copier.wait(&own.ticket).is_err() {
                std::mem::forget(own);
            }
        }
    }
}

/// The ring of a recorder, from the first pass on that leaves numbers on a device.
#[derive(Default)]
pub(super) enum DeviceRing {
    #[default]
    Unknown,
    /// This kind of device has no ring.
    Without,
    Made(Arc<Ring<DeviceCopier>>),
    Failed(String),
}

impl DeviceRing {
    /// The ring for numbers on `device`. A recorder has one device, that of its first pass.
    pub(super) fn get(&mut self, device: &Device) -> Option<&Arc<Ring<DeviceCopier>>> {
        if matches!(self, Self::Unknown) {
            *self = match DeviceCopier::new(device) {
                Some(Ok(copier)) => Self::Made(Arc::new(Ring::new(copier))),
                Some(Err(error)) => Self::Failed(say(&error)),
                None => Self::Without,
            };
        }
        match self {
            Self::Made(ring) => Some(ring),
            _ => None,
        }
    }

    /// Why copies are no longer started, or never were.
    pub(super) fn failure(&self) -> Option<String> {
        match self {
            Self::Made(ring) => ring.failure(),
            Self::Failed(failure) => Some(failure.clone()),
            Self::Unknown | Self::Without => None,
        }
    }
}

/// Devices without copies of this kind: main memory, and Metal, whose memory is the CPU's.
#[cfg(all(not(feature = "cuda"), not(test)))]
mod none {
    use super::{Copier, Device, Result, Tensor};
    use candle_core::bail;

    pub(in crate::recorder) struct NoCopier(());

    impl NoCopier {
        pub(super) fn new(_: &Device) -> Option<Result<Self>> {
            None
        }
    }

    impl Copier for NoCopier {
        type Buffer = ();
        type Ticket = ();

        fn allocate(&self, _: usize) -> Result<()> {
            bail!("this device has no pinned memory")
        }

        fn start(&self, _: &Tensor, (): &mut ()) -> Result<()> {
            bail!("this device has no pinned memory")
        }

        fn has_ended(&self, (): &()) -> bool {
            true
        }

        fn wait(&self, (): &()) -> Result<()> {
            Ok(())
        }

        fn numbers<'a>(&self, (): &'a (), _: usize) -> Result<&'a [f32]> {
            bail!("this device has no pinned memory")
        }
    }
}

#[cfg(test)]
mod tests;
