//! The queue between the training and the background thread: bounded in passes and in bytes.
//!
//! Waking a sleeping thread costs about ten microseconds, and more if it takes the caller's core. That is some percent
//! of a short step. So the background thread is not woken while passes keep coming: it polls a thousand times a second,
//! and less often where a step takes longer. With looks every ten milliseconds, passes of short steps waited five at a
//! time, and with two threads that train, steps took a tenth longer (`benches/results/2026-11-30-steps.md`). It is
//! woken only if the queue fills up or a caller waits for an answer.

use super::config::{Config, Overflow};
use super::error::RecordError;
use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender, TryRecvError, TrySendError};
use gradlog_format::log::QueueFill;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// Time that the background thread sleeps before it looks for the next pass. Each look in vain doubles the time.
const LOOK_AFTER: Duration = Duration::from_millis(1);
const LOOK_AFTER_MAX: Duration = Duration::from_millis(80);
/// The longest wait: an `Instant` plus an arbitrary duration can overflow.
const WAIT_LIMIT: Duration = Duration::from_secs(365 * 24 * 3600);
/// After this time without a message the thread sleeps until it is woken. Longer than most steps take.
const ASLEEP_AFTER: Duration = Duration::from_secs(1);

/// Counts the bytes of the messages under way.
#[derive(Default)]
pub(super) struct Gauge {
    level: Mutex<Level>,
    freed: Condvar,
}

#[derive(Default)]
struct Level {
    bytes: usize,
    /// The most bytes and messages since the last look at them.
    bytes_peak: usize,
    messages_peak: usize,
    /// As [`Queue::blocked`].
    waited: Duration,
}

impl Gauge {
    /// Gives back the bytes of a message. The background thread calls this when it is done with it.
    pub(super) fn release(&self, bytes: usize) {
        let mut level = self.level();
        level.bytes = level.bytes.saturating_sub(bytes);
        self.freed.notify_one();
    }

    fn level(&self) -> MutexGuard<'_, Level> {
        self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how many messages wait, and how long the sender waited in all.
    fn note(&self, messages: usize, waited: Duration) {
        let mut level = self.level();
        level.messages_peak = level.messages_peak.max(messages);
        level.waited = waited;
    }

    /// Takes `bytes` out of `limit`, and waits for them until `deadline`. A message larger than the whole limit passes
    /// if it is alone. Calls `nudge` if the reader should start now.
    fn acquire(&self, bytes: usize, limit: usize, deadline: Instant, nudge: impl Fn()) -> bool {
        let mut level = self.level();
        if level.bytes + bytes > limit / 2 {
            nudge();
        }
        while level.bytes > 0 && level.bytes + bytes > limit {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            level = self.freed.wait_timeout(level, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        level.bytes += bytes;
        level.bytes_peak = level.bytes_peak.max(level.bytes);
        true
    }
}

/// Whether a message was sent.
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
    /// Whether to drop messages that find the queue full, whatever the policy, until it takes one again.
    pub(super) hurried: bool,
    /// Time that the training waited for the queue.
    pub(super) blocked: Duration,
    /// Time that it waited for answers.
    pub(super) flush_wait: Duration,
    /// The background thread.
    reader: Option<Thread>,
    /// No wait goes on after it.
    last_instant: Option<Instant>,
}

/// The background thread's end of the queue.
pub(super) struct Inbox<T> {
    receiver: Receiver<T>,
    gauge: Arc<Gauge>,
    bytes_max: usize,
    /// Time of the last message.
    last: Instant,
    /// Time until the next look.
    pause: Duration,
}

impl<T> Inbox<T> {
    /// Gives back the bytes of a message, when it is done with.
    pub(super) fn release(&self, bytes: usize) {
        self.gauge.release(bytes);
    }

    /// The next message, if one comes within `patience`.
    pub(super) fn next(&mut self, patience: Duration) -> Result<T, RecvTimeoutError> {
        let start = Instant::now();
        loop {
            match self.receiver.try_recv() {
                Ok(message) => {
                    self.last = Instant::now();
                    self.pause = LOOK_AFTER;
                    return Ok(message);
                }
                Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) => {}
            }
            let left = patience.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(RecvTimeoutError::Timeout);
            }
            if self.last.elapsed() >= ASLEEP_AFTER {
                let message = self.receiver.recv_timeout(left)?;
                self.last = Instant::now();
                self.pause = LOOK_AFTER;
                return Ok(message);
            }
            let looked = Instant::now();
            std::thread::park_timeout(left.min(self.pause));
            if looked.elapsed() >= self.pause {
                self.pause = LOOK_AFTER_MAX.min(2 * self.pause);
            }
        }
    }
}

impl<T> Inbox<T> {
    /// How full the queue is. Its peaks begin anew.
    pub(super) fn take_fill(&self, wall_clock_ms: u64) -> QueueFill {
        let waiting = self.receiver.len();
        let mut level = self.gauge.level();
        let mut fill = QueueFill::default();
        fill.wall_clock_ms = wall_clock_ms;
        fill.passes = waiting as u64;
        fill.passes_peak = waiting.max(level.messages_peak) as u64;
        fill.passes_max = self.receiver.capacity().unwrap_or_default() as u64;
        (fill.bytes, fill.bytes_peak) = (level.bytes as u64, level.bytes_peak as u64);
        fill.bytes_max = self.bytes_max as u64;
        fill.waited_ms = u64::try_from(level.waited.as_millis()).unwrap_or(u64::MAX);
        (level.messages_peak, level.bytes_peak) = (0, level.bytes);
        fill
    }
}

impl<T> Queue<T> {
    pub(super) fn new(config: &Config) -> (Self, Inbox<T>) {
        let (sender, receiver) = crossbeam_channel::bounded(config.queue_passes);
        let gauge = Arc::new(Gauge::default());
        let queue = Self {
            sender,
            gauge: gauge.clone(),
            limit: config.queue_bytes_max,
            wait: config.wait_max.min(WAIT_LIMIT),
            overflow: config.overflow,
            hurried: false,
            blocked: Duration::ZERO,
            flush_wait: Duration::ZERO,
            reader: None,
            last_instant: None,
        };
        let (last, pause) = (Instant::now(), LOOK_AFTER);
        (queue, Inbox { receiver, gauge, bytes_max: config.queue_bytes_max, last, pause })
    }

    /// Sets the thread that reads the inbox. Without it the reader is never woken and only polls.
    pub(super) fn set_reader(&mut self, reader: &Thread) {
        self.reader = Some(reader.clone());
    }

    /// Wakes the reader if it sleeps.
    pub(super) fn nudge(&self) {
        if let Some(reader) = &self.reader {
            reader.unpark();
        }
    }

    /// Notes how full the queue is, and wakes the reader if that is half.
    fn note_fill(&self) {
        let waiting = self.sender.len();
        self.gauge.note(waiting, self.blocked);
        if self.sender.capacity().is_none_or(|capacity| 2 * waiting >= capacity) {
            self.nudge();
        }
    }

    /// Sends a message that holds `bytes`, under the overflow policy.
    pub(super) fn send(&mut self, message: T, bytes: usize) -> Result<Sent, RecordError> {
        match self.overflow {
            Overflow::Block if !self.hurried => self.send_waiting(message, bytes).map(|()| Sent::Yes),
            _ => {
                let now = Instant::now();
                if !self.gauge.acquire(bytes, self.limit, now, || self.nudge()) {
                    return Ok(Sent::Dropped);
                }
                match self.sender.try_send(message) {
                    Ok(()) => {
                        self.note_fill();
                        self.hurried = false;
                        Ok(Sent::Yes)
                    }
                    Err(TrySendError::Full(_)) => {
                        self.gauge.release(bytes);
                        Ok(Sent::Dropped)
                    }
                    Err(TrySendError::Disconnected(_)) => Err(ended_error()),
                }
            }
        }
    }

    /// Sends a message that must arrive, whatever the policy, within the longest wait.
    pub(super) fn send_waiting(&mut self, message: T, bytes: usize) -> Result<(), RecordError> {
        let start = Instant::now();
        let deadline = self.last_instant.map_or(start + self.wait, |last| last.min(start + self.wait));
        let fits = self.gauge.acquire(bytes, self.limit, deadline, || self.nudge());
        let sent = if fits { self.sender.send_deadline(message, deadline).map_err(Some) } else { Err(None) };
        self.blocked += start.elapsed();
        self.note_fill();
        match sent {
            Ok(()) => Ok(()),
            Err(None) => Err(RecordError::Timeout(self.wait)),
            Err(Some(error)) => {
                self.gauge.release(bytes);
                Err(match error {
                    SendTimeoutError::Timeout(_) => RecordError::Timeout(self.wait),
                    SendTimeoutError::Disconnected(_) => ended_error(),
                })
            }
        }
    }

    /// As [`Queue::send_waiting`]; but after a wait without success it sends at once or not at all.
    pub(super) fn send_unless_hurried(&mut self, message: T, bytes: usize) -> Result<(), RecordError> {
        if !self.hurried {
            return self.send_waiting(message, bytes);
        }
        match self.send(message, bytes)? {
            Sent::Yes => Ok(()),
            Sent::Dropped => Err(RecordError::Timeout(self.wait)),
        }
    }

    pub(super) fn wait_max(&self) -> Duration {
        self.wait
    }

    /// Lets all waits from now on take at most the longest wait together.
    pub(super) fn limit_all_waits(&mut self) {
        self.last_instant = Some(Instant::now() + self.wait);
    }

    /// The instant after which no wait goes on, if there is one.
    pub(super) fn last_instant(&self) -> Option<Instant> {
        self.last_instant
    }
}

fn ended_error() -> RecordError {
    RecordError::Stopped("the background thread has ended".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn config(overflow: Overflow, wait_ms: u64) -> Config {
        Config {
            queue_passes: 3,
            queue_bytes_max: 100,
            wait_max: Duration::from_millis(wait_ms),
            overflow,
            ..Config::default()
        }
    }

    /// Everything arrives in order and once. Never more than the limit's bytes are under way.
    #[test]
    fn messages_arrive_in_order_and_the_bound_holds() {
        let messages = if cfg!(miri) { 40 } else { 4_000usize };
        let (mut queue, mut inbox) = Queue::<(usize, usize)>::new(&config(Overflow::Block, 60_000));
        let held = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let held = &held;
            scope.spawn(move || {
                for expected in 0..messages {
                    let (number, bytes) = inbox.next(Duration::from_secs(60)).unwrap();
                    assert_eq!(number, expected);
                    // Released after it is no longer counted, so the count is never below what is under way.
                    held.fetch_sub(bytes, Ordering::SeqCst);
                    inbox.release(bytes);
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
    fn a_full_queue_times_out_or_drops() {
        let (mut queue, Inbox { receiver, gauge, .. }) = Queue::<u32>::new(&config(Overflow::Block, 50));
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

        let (mut queue, Inbox { receiver, .. }) = Queue::<u32>::new(&config(Overflow::DropNewest, 600_000));
        assert!(matches!(queue.send(0, 60), Ok(Sent::Yes)));
        assert!(matches!(queue.send(1, 60), Ok(Sent::Dropped)));
        (2..4).for_each(|i| assert!(matches!(queue.send(i, 1), Ok(Sent::Yes))));
        assert!(matches!(queue.send(4, 1), Ok(Sent::Dropped)));
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [0, 2, 3]);
    }

    #[test]
    fn a_message_above_the_limit_passes_alone() {
        let (mut queue, Inbox { receiver, gauge, .. }) = Queue::<u32>::new(&config(Overflow::DropNewest, 50));
        assert!(matches!(queue.send(0, 1_000), Ok(Sent::Yes)));
        assert!(matches!(queue.send(1, 1), Ok(Sent::Dropped)));
        receiver.recv().unwrap();
        gauge.release(1_000);
        assert!(matches!(queue.send(2, 1), Ok(Sent::Yes)));
        assert!(matches!(queue.send(3, 1_000), Ok(Sent::Dropped)));
    }

    /// A queue that fills, by bytes or by messages, wakes a sleeping reader long before it would look by itself.
    #[test]
    fn a_queue_that_fills_wakes_its_reader() {
        for (count, bytes) in [(3, 0), (1, 60)] {
            let (mut queue, inbox) = Queue::<u32>::new(&config(Overflow::Block, 60_000));
            let (woken, parked) = (Arc::new(Mutex::new(false)), std::thread::current());
            let flag = woken.clone();
            let reader = std::thread::Builder::new().spawn(move || {
                parked.unpark();
                std::thread::park_timeout(Duration::from_secs(60));
                *flag.lock().unwrap() = true;
                drop(inbox);
            });
            let reader = reader.unwrap();
            std::thread::park_timeout(Duration::from_secs(60));
            queue.set_reader(reader.thread());
            let start = Instant::now();
            (0..count).for_each(|i| {
                let _ = queue.send(i, bytes);
            });
            reader.join().unwrap();
            assert!(*woken.lock().unwrap() && start.elapsed() < Duration::from_secs(30), "{count} of {bytes} bytes");
        }
    }

    /// The inbox reads a message that comes while it waits, asleep or polling. Silence ends with the patience.
    #[test]
    fn the_inbox_waits_for_its_patience() {
        let (mut queue, mut inbox) = Queue::<u32>::new(&config(Overflow::Block, 60_000));
        for asleep in [false, true] {
            let long_ago = Instant::now().checked_sub(2 * ASLEEP_AFTER);
            inbox.last = long_ago.filter(|_| asleep).unwrap_or_else(Instant::now);
            let start = Instant::now();
            assert_eq!(inbox.next(Duration::from_millis(20)), Err(RecvTimeoutError::Timeout));
            assert!(start.elapsed() >= Duration::from_millis(20) && start.elapsed() < Duration::from_secs(30));
            std::thread::scope(|scope| {
                let queue = &mut queue;
                scope.spawn(move || {
                    std::thread::sleep(Duration::from_millis(5));
                    queue.send(7, 0).map(|_| ()).unwrap();
                });
                assert_eq!(inbox.next(Duration::from_secs(60)), Ok(7));
                assert_eq!(inbox.pause, LOOK_AFTER);
            });
        }
        drop(queue);
        assert_eq!(inbox.next(Duration::from_secs(60)), Err(RecvTimeoutError::Disconnected));
    }
}
