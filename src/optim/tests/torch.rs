//! The weights of PyTorch 2.15 after five steps along given gradients.
//!
//! ```python
//! import torch
//! def run(make):
//!     w = torch.tensor([0.5, -1.25, 2.0, 0.0078125, -3.0], requires_grad=True)
//!     o = make([w])
//!     for t in range(5):
//!         w.grad = torch.tensor([0.3, -0.7, 0.02, 1.5, -0.001]) * (t + 1) + 0.1 * w.detach()
//!         o.step()
//!     print([float(x) for x in w.detach()])
//! run(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.05))
//! run(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.3))
//! run(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.05, nesterov=True))
//! run(lambda p: torch.optim.Adam(p, lr=0.02, weight_decay=0.05))
//! run(lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.05))
//! ```

use crate::optim::{Adam, AdamConfig, AdamW, Sgd, SgdConfig};
use candle_core::{Device, Tensor, Var};
use candle_nn::Optimizer;

#[track_caller]
fn agree<O: Optimizer>(config: O::Config, right: [f64; 5]) {
    let weights = Var::new(&[0.5f32, -1.25, 2.0, 0.0078125, -3.0], &Device::Cpu).unwrap();
    let mut optimizer = O::new(vec![weights.clone()], config).unwrap();
    for step in 0..5 {
        let gradient = Tensor::new(&[0.3f32, -0.7, 0.02, 1.5, -0.001], &Device::Cpu).unwrap();
        let gradient = (gradient * (f64::from(step) + 1.0)).unwrap();
        let gradient = (gradient + (weights.as_detached_tensor() * 0.1).unwrap()).unwrap();
        let mut grads = weights.sum_all().unwrap().backward().unwrap();
        grads.insert(&weights, gradient);
        optimizer.step(&grads).unwrap();
    }
    for (made, right) in weights.to_vec1::<f32>().unwrap().into_iter().zip(right) {
        assert!((f64::from(made) - right).abs() <= 1e-6 * right.abs().max(0.1), "{made} for {right}");
    }
}

#[test]
fn weights_are_those_of_pytorch() {
    let sgd = SgdConfig::new(0.1).momentum(0.9);
    agree::<Sgd>(
        sgd.weight_decay(0.05),
        [-0.5236666798591614, 1.1544114351272583, 1.5575554370880127, -4.636329174041748, -2.426090955734253],
    );
    agree::<Sgd>(
        sgd.dampening(0.3),
        [-0.24535079300403595, 0.4976872205734253, 1.748872995376587, -3.4636778831481934, -2.6904091835021973],
    );
    agree::<Sgd>(
        sgd.weight_decay(0.05).nesterov(),
        [-0.8715874552726746, 1.970154881477356, 1.4416488409042358, -6.25844669342041, -2.2835848331451416],
    );
    let adam = AdamConfig::new(0.02).weight_decay(0.05);
    agree::<Adam>(
        adam,
        [0.40215203166007996, -1.1521234512329102, 1.8996760845184326, -0.08921439945697784, -2.9000396728515625],
    );
    agree::<AdamW>(
        adam,
        [0.4001001715660095, -1.146335482597351, 1.8898146152496338, -0.08905471116304398, -2.885268211364746],
    );
}
