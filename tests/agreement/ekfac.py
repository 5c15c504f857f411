"""Makes the reference values of the EK-FAC test with kronfluence, the library by authors of Grosse et al. 2023.

    python -m venv venv && venv/bin/pip install -r tests/agreement/requirements.txt
    venv/bin/python tests/agreement/ekfac.py

It trains a small MLP on made-up data for a few steps and writes, beside this file:

    ekfac.safetensors   inputs, labels, weights, and kronfluence's scores
    ekfac.json          versions

The Rust test is tests/it/agreement/ekfac.rs, which says where conventions differ.

Everything is computed in float64. Inputs and weights are rounded to float32 first, so that a float32 program can start
from the very same numbers.

Of each curvature and damping there is a tensor `CURVATURE.DAMPING` of pairwise scores [examples, probes], and
`CURVATURE.DAMPING.own` of self-scores [examples]. kronfluence has no 1/N in its scores.

- `empirical`: use_empirical_fisher=True, the labels of the data.
- `gauss_newton`: the expectation over the model's labels, without drawing them. The factors are fitted to a data set that
  has each example once for each class c, with the loss sqrt(p_c)*loss_c. It has CLASSES times as many rows, so Lambda is
  CLASSES times too small, and what is said about dampings and scores is corrected for it.
"""

import json
import platform
import tempfile
from collections import OrderedDict
from importlib.metadata import version
from pathlib import Path

import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

HERE = Path(__file__).resolve().parent
EXAMPLES, PROBES, INPUTS, HIDDEN, CLASSES = 100, 6, 12, 8, 4
SEED = 20
# None is kronfluence's default, 0.1 of the mean eigenvalue.
DAMPINGS = {"default": None, "1e-2": 1e-2, "1e-4": 1e-4}


class WeightedCrossEntropy(Task):
    """Of rows (input, label, weight): the sum of the losses."""

    def compute_train_loss(self, batch, model, sample=False):
        x, y, weight = batch
        return (weight * cross_entropy(model(x), y, reduction="none")).sum()

    def compute_measurement(self, batch, model):
        return self.compute_train_loss(batch, model)


def make_model():
    layers = {"fc1": nn.Linear(INPUTS, HIDDEN), "tanh": nn.Tanh(), "fc2": nn.Linear(HIDDEN, CLASSES)}
    return nn.Sequential(OrderedDict(layers))


def round_to_f32(x):
    return x.float().double()


def make_data(count, generator):
    """Classes with centers of their own, and directions of unequal variance."""
    centers = torch.randn(CLASSES, INPUTS, generator=torch.Generator().manual_seed(SEED))
    y = torch.randint(CLASSES, (count,), generator=generator)
    spread = torch.linspace(0.4, 1.6, INPUTS)
    x = centers[y] + spread * torch.randn(count, INPUTS, generator=generator)
    return round_to_f32(x), y


def scores(state, factor_data, train, probes, damping, scale):
    """Pairwise scores and self-scores, of kronfluence."""
    f64 = torch.float64
    model = make_model()
    model.load_state_dict(state)
    task = WeightedCrossEntropy()
    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer("ekfac", prepare_model(model, task), task, output_dir=folder, disable_tqdm=True, cpu=True)
        factors = FactorArguments(
            strategy="ekfac",
            use_empirical_fisher=True,
            activation_covariance_dtype=f64,
            gradient_covariance_dtype=f64,
            per_sample_gradient_dtype=f64,
            lambda_dtype=f64,
        )
        analyzer.fit_all_factors("factors", factor_data, per_device_batch_size=50, factor_args=factors)
        asked = ScoreArguments(
            damping_factor=damping,
            per_sample_gradient_dtype=f64,
            precondition_dtype=f64,
            score_dtype=f64,
        )
        analyzer.compute_pairwise_scores(
            "pairs",
            "factors",
            query_dataset=probes,
            train_dataset=train,
            per_device_query_batch_size=PROBES,
            per_device_train_batch_size=50,
            score_args=asked,
        )
        analyzer.compute_self_scores(
            "own", "factors", train_dataset=train, per_device_train_batch_size=50, score_args=asked
        )
        pairs, own = analyzer.load_pairwise_scores("pairs"), analyzer.load_self_scores("own")
    return pairs["all_modules"].T * scale, own["all_modules"] * scale


def main():
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED + 1)
    x, y = make_data(EXAMPLES, generator)
    probe_x, probe_y = make_data(PROBES, generator)
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(30):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(round_to_f32(p))
        p = model(x).softmax(1)
        print(f"loss {cross_entropy(model(x), y):.3f}, right {(p.argmax(1) == y).sum()} of {EXAMPLES}")
    state = {k: v.detach().clone() for k, v in model.state_dict().items()}

    ones = torch.ones(EXAMPLES)
    train = TensorDataset(x, y, ones)
    probes = TensorDataset(probe_x, probe_y, torch.ones(PROBES))
    each_class = torch.arange(CLASSES).repeat(EXAMPLES)
    expanded = TensorDataset(x.repeat_interleave(CLASSES, 0), each_class, p.flatten().sqrt())

    out = {}
    for name, data, rows in (("empirical", train, 1), ("gauss_newton", expanded, CLASSES)):
        for label, damping in DAMPINGS.items():
            given = None if damping is None else damping / rows
            pairs, own = scores(state, data, train, probes, given, 1 / rows)
            out[f"{name}.{label}"], out[f"{name}.{label}.own"] = pairs, own
    tensors = {"train.x": x, "probe.x": probe_x} | {f"epoch0.{k}": v for k, v in state.items()} | out
    tensors = {k: v.float().contiguous() for k, v in tensors.items()}
    tensors |= {"train.y": y.to(torch.uint8), "probe.y": probe_y.to(torch.uint8)}
    save_file(tensors, HERE / "ekfac.safetensors")
    about = {
        "made_by": "tests/agreement/ekfac.py",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "kronfluence")},
        "title": "tanh MLP",
        "examples": EXAMPLES,
        "probes": PROBES,
    }
    (HERE / "ekfac.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
