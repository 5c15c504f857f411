//! Waiting for another thread or process: gates, and conditions that are polled up to a stated bound.

use candle_core::{Result, Tensor};
use candle_nn::{Linear, Module};
use gradlog::taps::{LayerSpec, Parameter, PerExample, Tap, TapError};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// No wait of a test takes longer. A test that reaches it fails.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Polls `condition` until it holds: for what gives no signal, such as a file that another process makes.
#[track_caller]
pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Holds threads up until it is opened.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn open(&self) {
        *self.0 .0.lock().unwrap() = true;
        self.0 .1.notify_all();
    }

    fn pass(&self) {
        let (open, opened) = &*self.0;
        let (open, waited) = opened.wait_timeout_while(open.lock().unwrap(), PATIENCE, |open| !*open).unwrap();
        assert!(*open && !waited.timed_out(), "nobody opened the gate");
    }
}

/// A layer whose gradients the background thread cannot compute before a gate is opened: to the recorder, a stuck disk.
pub struct Gated {
    pub layer: Linear,
    pub gate: Gate,
}

impl Tap for Gated {
    fn spec(&self) -> std::result::Result<LayerSpec, TapError> {
        let parameters = vec![Parameter::new("weight", self.layer.weight())];
        Ok(LayerSpec::new("gated", parameters))
    }

    fn plain_forward(&self, x: &Tensor) -> Result<Tensor> {
        self.layer.forward(x)
    }

    fn per_example(&self, x: &Tensor, delta: &Tensor) -> Result<PerExample> {
        self.gate.pass();
        Ok(PerExample::Dense(delta.unsqueeze(2)?.matmul(&x.unsqueeze(1)?)?.flatten_from(1)?))
    }

    fn per_example_reads_parameters(&self) -> bool {
        false
    }
}
