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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn config(overflow: Overflow, wait_ms_max: u64) -> Config {
        Config { queue_passes: 3, queue_bytes_max: 100, wait_ms_max, overflow, ..Config::default() }
    }

    /// Everything arrives, in order and once, and never more than the stated bytes are under way.
    #[test]
    fn what_is_sent_arrives_and_the_bound_holds() {
        let messages = if cfg!(miri) { 40 } else { 4_000usize };
        let (mut queue, receiver, gauge) = Queue::<(usize, usize)>::new(&config(Overflow::Block, 60_000));
        let held = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let held = &held;
            scope.spawn(move || {
                for expected in 0..messages {
                    let (number, bytes) = receiver.recv().unwrap();
                    assert_eq!(number, expected);
                    // Released after it is no longer counted, so the count is never below what is under way.
                    held.fetch_sub(bytes, Ordering::SeqCst);
                    gauge.release(bytes);
                }
            });
            for number in 0..messages {
                let bytes = 1 + number * 37 % 60;
                queue.send((number, bytes), bytes).unwrap();
                let under_way = held.fetch_add(bytes, Ordering::SeqCst).wrapping_add(bytes) as isize;
                assert!(under_way <= 100, "{under_way} bytes are under way");
            }
        });
        assert_eq!(held.into_inner(), 0);
    }

    #[test]
    fn a_queue_that_nobody_empties_is_an_error_in_time_or_drops() {
        let (mut queue, receiver, gauge) = Queue::<u32>::new(&config(Overflow::Block, 50));
        (0..3).for_each(|i| assert!(matches!(queue.send(i, 10), Ok(Sent::Yes))));
        let start = Instant::now();
        // Too many messages, and then too many bytes.
        assert!(matches!(queue.send(3, 10), Err(RecordError::Timeout(_))));
        receiver.recv().unwrap();
        gauge.release(10);
        assert!(matches!(queue.send(4, 90), Err(RecordError::Timeout(_))));
        assert!(start.elapsed() >= Duration::from_millis(100) && queue.blocked >= Duration::from_millis(100));
        assert!(matches!(queue.send(5, 80), Ok(Sent::Yes)), "what timed out has given its bytes back");
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [1, 2, 5]);
        drop(receiver);
        (0..3).for_each(|_| gauge.release(80));
        assert!(matches!(queue.send(6, 1), Err(RecordError::Stopped(_))));

        let (mut queue, receiver, _gauge) = Queue::<u32>::new(&config(Overflow::DropNewest, 600_000));
        assert!(matches!(queue.send(0, 60), Ok(Sent::Yes)));
        assert!(matches!(queue.send(1, 60), Ok(Sent::Dropped)));
        (2..4).for_each(|i| assert!(matches!(queue.send(i, 1), Ok(Sent::Yes))));
        assert!(matches!(queue.send(4, 1), Ok(Sent::Dropped)));
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [0, 2, 3]);
    }

    #[test]
    fn a_message_above_the_limit_passes_alone() {
        let (mut queue, receiver, gauge) = Queue::<u32>::new(&config(Overflow::DropNewest, 50));
        assert!(matches!(queue.send(0, 1_000), Ok(Sent::Yes)));
        assert!(matches!(queue.send(1, 1), Ok(Sent::Dropped)));
        receiver.recv().unwrap();
        gauge.release(1_000);
        assert!(matches!(queue.send(2, 1), Ok(Sent::Yes)));
        assert!(matches!(queue.send(3, 1_000), Ok(Sent::Dropped)));
    }
}
