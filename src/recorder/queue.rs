//! The queue between the training and the background thread: bounded in passes and in bytes.

use super::config::Overflow;
use super::{Config, RecordError};
use crossbeam_channel::{Receiver, SendTimeoutError, Sender, TrySendError};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many bytes are under way.
#[derive(Default)]
pub(super) struct Gauge {
    bytes: Mutex<usize>,
    freed: Condvar,
}

impl Gauge {
    /// Called by the background thread when it is done with a message.
    pub(super) fn release(&self, bytes: usize) {
        let mut held = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        *held = held.saturating_sub(bytes);
        self.freed.notify_one();
    }

    /// Takes `bytes` out of `limit`, waiting until `deadline`. A message larger than the whole limit passes when it is alone.
    fn acquire(&self, bytes: usize, limit: usize, deadline: Instant) -> bool {
        let mut held = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        while *held > 0 && *held + bytes > limit {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            held = self.freed.wait_timeout(held, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *held += bytes;
        true
    }
}

/// What became of a message.
pub(super) enum Sent {
    Yes,
    Dropped,
}

pub(super) struct Queue<T> {
    sender: Sender<T>,
    gauge: Arc<Gauge>,
    limit: usize,
    wait: Duration,
    overflow: Overflow,
    /// Whether to drop what finds the queue full, whatever the policy, until it takes something.
    pub(super) hurried: bool,
    /// Time that the training spent waiting.
    pub(super) blocked: Duration,
}

impl<T> Queue<T> {
    pub(super) fn new(config: &Config) -> (Self, Receiver<T>, Arc<Gauge>) {
        let (sender, receiver) = crossbeam_channel::bounded(config.queue_passes);
        let gauge = Arc::new(Gauge::default());
        let queue = Self {
            sender,
            gauge: gauge.clone(),
            limit: config.queue_bytes_max,
            wait: Duration::from_millis(config.wait_ms_max),
            overflow: config.overflow,
            hurried: false,
            blocked: Duration::ZERO,
        };
        (queue, receiver, gauge)
    }

    /// Sends a message that holds `bytes`, by the overflow policy.
    pub(super) fn send(&mut self, message: T, bytes: usize) -> Result<Sent, RecordError> {
        match self.overflow {
            Overflow::Block if !self.hurried => self.send_waiting(message, bytes).map(|()| Sent::Yes),
            _ => {
                let now = Instant::now();
                if !self.gauge.acquire(bytes, self.limit, now) {
                    return Ok(Sent::Dropped);
                }
                match self.sender.try_send(message) {
                    Ok(()) => {
                        self.hurried = false;
                        Ok(Sent::Yes)
                    }
                    Err(TrySendError::Full(_)) => {
                        self.gauge.release(bytes);
                        Ok(Sent::Dropped)
                    }
                    Err(TrySendError::Disconnected(_)) => Err(gone()),
                }
            }
        }
    }

    /// Sends a message that must arrive, whatever the policy, within the stated wait.
    pub(super) fn send_waiting(&mut self, message: T, bytes: usize) -> Result<(), RecordError> {
        let start = Instant::now();
        let deadline = start + self.wait;
        let fits = self.gauge.acquire(bytes, self.limit, deadline);
        let sent = if fits { self.sender.send_deadline(message, deadline).map_err(Some) } else { Err(None) };
        self.blocked += start.elapsed();
        match sent {
            Ok(()) => Ok(()),
            Err(None) => Err(RecordError::Timeout(self.wait)),
            Err(Some(error)) => {
                self.gauge.release(bytes);
                Err(match error {
                    SendTimeoutError::Timeout(_) => RecordError::Timeout(self.wait),
                    SendTimeoutError::Disconnected(_) => gone(),
                })
            }
        }
    }

    pub(super) fn wait(&self) -> Duration {
        self.wait
    }
}

fn gone() -> RecordError {
    RecordError::Stopped("the background thread has ended".into())
}
