"""Makes the reference values of the agreement tests with PyTorch, Captum, dattri and aum.

    python -m venv venv && venv/bin/pip install -r tests/agreement/requirements.txt
    venv/bin/python tests/agreement/reference.py

It trains a small MLP and a small CNN on the shipped digits and writes, beside this file:

    mlp.safetensors, cnn.safetensors   inputs, batches, weights, and all reference values
    reference.json                     learning rates, versions, and what each table of values is

The Rust tests in tests/it/agreement replay both trainings through gradlog. docs/agreement.md has the result.

PyTorch computes in float64, so the reference has no rounding of its own. Inputs, and the weights at the start of each
epoch, are rounded to float32 first: a float32 program can then start from the very same numbers.
"""

import gzip
import json
import platform
import struct
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from aum import AUMCalculator
from captum.influence import TracInCP, TracInCPFast
from dattri.algorithm import DVEmbAttributor
from dattri.algorithm.tracin import TracInAttributor
from dattri.task import AttributionTask
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

HERE = Path(__file__).resolve().parent
DIGITS = HERE.parent.parent / "examples" / "data" / "mnist"
EXAMPLES, PROBES, BATCH, EPOCHS = 60, 8, 13, 8
WRONG_LABELS = 6
SEED = 14


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(196, 24)
        self.fc2 = nn.Linear(24, 16)
        self.fc3 = nn.Linear(16, 10)

    def forward(self, x):
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x.flatten(1))))))


class Cnn(nn.Module):
    """Its last layer has no bias, so Captum's fast variant leaves nothing out."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, stride=2)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
        self.fc = nn.Linear(8 * 3 * 3, 10, bias=False)

    def forward(self, x):
        x = torch.max_pool2d(torch.relu(self.conv1(x)), 2)
        return self.fc(torch.relu(self.conv2(x)).flatten(1))


class OnesBesideFeatures(nn.Module):
    """The last layer of a model with its bias as a column of weights, for features that end in a 1."""

    def __init__(self, model, last):
        super().__init__()
        self.model, self.last = model, last
        layer = getattr(model, last)
        self.layer = nn.Linear(layer.in_features + 1, layer.out_features, bias=False)
        setattr(model, last, nn.Identity())

    def load(self, state):
        own = {k: v for k, v in state.items() if not k.startswith(self.last + ".")}
        self.model.load_state_dict(own)
        with torch.no_grad():
            self.layer.weight.copy_(torch.cat([state[self.last + ".weight"], state[self.last + ".bias"][:, None]], 1))

    def forward(self, x):
        features = self.model(x)
        return self.layer(torch.cat([features, torch.ones(len(features), 1)], 1))


# name: model, name of its last layer, momentum, weight decay, learning rate of each epoch
TRAININGS = {
    "mlp": (Mlp, "fc3", 0.8, 1e-3, [0.05] * 4 + [0.03] * 4),
    "cnn": (Cnn, "fc", 0.0, 0.0, [0.2] * 4 + [0.1] * 4),
}


def read_digits(part, count):
    """The first digits of a part, 14 by 14 numbers, about normalized."""
    with gzip.open(DIGITS / f"{part}-images-idx3-ubyte.gz") as file:
        _, _, height, width = struct.unpack(">IIII", file.read(16))
        pixels = np.frombuffer(file.read(count * height * width), dtype=np.uint8)
    with gzip.open(DIGITS / f"{part}-labels-idx1-ubyte.gz") as file:
        file.read(8)
        labels = np.frombuffer(file.read(count), dtype=np.uint8)
    images = torch.from_numpy(pixels.reshape(count, 1, height, width).copy()).double() / 255
    return (nn.functional.avg_pool2d(images, 2) - 0.15) / 0.3, torch.from_numpy(labels.astype(np.int64))


def make_data():
    """Training examples and probes. Noise makes every pixel another number.

    Then no two numbers of a pooling window are equal, and no input of a ReLU is 0. PyTorch, candle and gradlog differ
    there: see docs/agreement.md.
    """
    generator = torch.Generator().manual_seed(SEED)
    parts = []
    for part, count in (("train", EXAMPLES), ("t10k", PROBES)):
        x, y = read_digits(part, count)
        x = x + 0.05 * torch.rand(x.shape, generator=generator, dtype=torch.float64)
        parts += [round_to_f32(x), y]
    wrong = torch.randperm(EXAMPLES, generator=generator)[:WRONG_LABELS]
    parts[1][wrong] = (parts[1][wrong] + 1 + torch.randint(9, (WRONG_LABELS,), generator=generator)) % 10
    return parts


def round_to_f32(x):
    return x.float().double()


def gradient(model, x, y, i):
    """The gradient of the loss of example i alone, by all parameters in the order of their names."""
    loss = cross_entropy(model(x[i : i + 1]), y[i : i + 1])
    named = dict(model.named_parameters())
    grads = torch.autograd.grad(loss, list(named.values()))
    by_name = dict(zip(named, grads))
    return torch.cat([by_name[name].flatten() for name in sorted(by_name)])


def gradients(model, x, y):
    return torch.stack([gradient(model, x, y, i) for i in range(len(x))])


def smallest_margin_of_a_choice(model, x):
    """How far all inputs of ReLUs are from 0, and all windows' largest numbers from their second."""
    least = [1.0]

    def see(h):
        least.append(h.abs().min().item())
        return torch.relu(h)

    if isinstance(model, Mlp):
        see(model.fc2(see(model.fc1(x.flatten(1)))))
        return min(least)
    h = see(model.conv1(x))
    windows = h.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
    top = windows.topk(2, dim=4).values
    least.append((top[..., 0] - top[..., 1])[top[..., 0] > 0].min().item())
    see(model.conv2(torch.max_pool2d(h, 2)))
    return min(least)


def count_forgetting(correct):
    """Toneva et al. 2019, section 3, of one example's presentations: events, and infinity if it was never right."""
    events = sum(1 for before, now in zip(correct, correct[1:]) if before and not now)
    return float("inf") if not any(correct) else float(events)


def train(name, data):
    make, last, momentum, decay, rates = TRAININGS[name]
    x, y, probe_x, probe_y = data
    torch.manual_seed(SEED)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=rates[0], momentum=momentum, weight_decay=decay)
    order = torch.Generator().manual_seed(SEED + 1)
    out, states, batches = {}, [], []
    visits = {key: torch.zeros(EPOCHS, EXAMPLES) for key in VISIT_VALUES}
    tracin = torch.zeros(EXAMPLES, PROBES)
    own = torch.zeros(EXAMPLES)
    aum = AUMCalculator(tempfile.mkdtemp(), compressed=True)
    aums = {}
    closest = 1.0
    task = AttributionTask(loss_func=loss_of_one(model), model=model, checkpoints=model.state_dict())
    embeddings = DVEmbAttributor(task) if momentum == 0 else None  # it models plain SGD alone

    def keep_state():
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(round_to_f32(p))
        states.append({k: v.detach().clone() for k, v in model.state_dict().items()})

    for epoch, rate in enumerate(rates):
        keep_state()
        probe_gradients = gradients(model, probe_x, probe_y)
        shuffled = torch.randperm(EXAMPLES, generator=order)
        batches.append(shuffled)
        for group in optimizer.param_groups:
            group["lr"] = rate
        for ids in shuffled.split(BATCH):
            closest = min(closest, smallest_margin_of_a_choice(model, x[ids]))
            logits = model(x[ids])
            losses = cross_entropy(logits, y[ids], reduction="none")
            g = gradients(model, x[ids], y[ids])
            p = logits.detach().softmax(1)
            target = nn.functional.one_hot(y[ids], 10).double()
            others = logits.detach().masked_fill(target.bool(), float("-inf"))
            found = {
                "loss": losses.detach(),
                "margin": (logits.detach() * target).sum(1) - others.max(1).values,
                "el2n": (p - target).norm(dim=1),
                "confidence": (p * target).sum(1),
                "correct": (logits.argmax(1) == y[ids]).double(),
                "prediction": logits.argmax(1).double(),
                "squared_norm": (g * g).sum(1),
            }
            for key, value in found.items():
                visits[key][epoch, ids] = value
            weight = rate / len(ids)
            tracin[ids] += weight * g @ probe_gradients.T
            own[ids] += weight * found["squared_norm"]
            for id, record in aum.update(logits.detach(), y[ids], ids.tolist()).items():
                aums[id] = record.aum
            if embeddings:
                embeddings.cache_gradients(epoch, (x[ids], y[ids]), ids, rate)
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
    keep_state()
    if embeddings:
        embeddings.cache()
        probes = DataLoader(TensorDataset(probe_x, probe_y), batch_size=PROBES, shuffle=False)
        out["dattri.dvemb"] = embeddings.attribute(probes).detach()

    for key, value in visits.items():
        out[f"visit.{key}"] = value
    out["visit.tracin"] = tracin
    out["visit.self_influence"] = own
    out["score.aum"] = torch.tensor([aums[i] for i in range(EXAMPLES)])
    # Cartography (Swayamdipta et al. 2020, section 2; numpy's population standard deviation, as in its repository).
    out["score.confidence"] = visits["confidence"].mean(0)
    out["score.variability"] = visits["confidence"].std(0, correction=0)
    out["score.correctness"] = visits["correct"].mean(0)
    out["score.el2n"] = visits["el2n"].mean(0)
    out["score.grand"] = visits["squared_norm"].sqrt().mean(0)
    out["score.forgetting"] = torch.tensor([count_forgetting(row) for row in visits["correct"].T.bool().tolist()])

    # At checkpoints: the weights after each epoch, with that epoch's rate. PyTorch alone, then the peers.
    dots, squares = [], []
    for state in states:
        model.load_state_dict(state)
        g, h = gradients(model, x, y), gradients(model, probe_x, probe_y)
        dots.append(g @ h.T)
        squares.append((g * g).sum(1))
        closest = min(closest, smallest_margin_of_a_choice(model, torch.cat([x, probe_x])))
    out["checkpoint.dots"], out["checkpoint.squared_norms"] = torch.stack(dots), torch.stack(squares)
    checkpoints = list(zip(states[1:], rates))
    out |= ask_captum(make, last, checkpoints, data)
    out |= ask_dattri(make, last, checkpoints, data)

    tensors = {f"epoch{i}.{k}": v for i, state in enumerate(states) for k, v in state.items()}
    tensors |= {"train.x": x, "probe.x": probe_x} | out
    tensors = {k: v.float().contiguous() for k, v in tensors.items()}
    integers = {"train.y": y, "probe.y": probe_y, "order": torch.stack(batches)}
    tensors |= {k: v.to(torch.uint8).contiguous() for k, v in integers.items()}
    save_file(tensors, HERE / f"{name}.safetensors")
    print(f"{name}: {int(visits['correct'][-1].sum())} of {EXAMPLES} right in the last epoch, ", end="")
    print(f"{int((out['score.forgetting'] == float('inf')).sum())} never; no choice closer than {closest:.1e}")
    return {"rates": rates, "momentum": momentum, "weight_decay": decay}


VISIT_VALUES = ["loss", "margin", "el2n", "confidence", "correct", "prediction", "squared_norm"]


def ask_captum(make, last, checkpoints, data):
    x, y, probe_x, probe_y = data
    model = make()

    def load(model, checkpoint):
        state, rate = checkpoint
        model.load_state_dict(state)
        return rate

    common = {"checkpoints": checkpoints, "loss_fn": nn.CrossEntropyLoss(reduction="sum"), "batch_size": 16}
    full = TracInCP(
        model, TensorDataset(x, y), checkpoints_load_func=load, sample_wise_grads_per_batch=True, **common
    )
    fast = TracInCPFast(model, getattr(model, last), TensorDataset(x, y), checkpoints_load_func=load, **common)
    out = {
        "captum.tracincp": full.influence((probe_x, probe_y)).T,
        "captum.self_influence": full.self_influence((x, y)),
        "captum.fast": fast.influence((probe_x, probe_y)).T,
    }
    if getattr(make(), last).bias is not None:
        wide = OnesBesideFeatures(make(), last)

        def load_wide(model, checkpoint):
            model.load(checkpoint[0])
            return checkpoint[1]

        fast = TracInCPFast(wide, wide.layer, TensorDataset(x, y), checkpoints_load_func=load_wide, **common)
        out["captum.fast_with_bias"] = fast.influence((probe_x, probe_y)).T
    return {k: v.detach() for k, v in out.items()}


def loss_of_one(model):
    """The loss of one example without a batch dimension, as dattri wants it."""

    def loss(params, data):
        image, label = data
        return cross_entropy(torch.func.functional_call(model, params, image.unsqueeze(0)), label.unsqueeze(0))

    return loss


def ask_dattri(make, last, checkpoints, data):
    x, y, probe_x, probe_y = data
    model = make()
    states, rates = zip(*checkpoints)
    task = AttributionTask(loss_func=loss_of_one(model), model=model, checkpoints=list(states))
    train = DataLoader(TensorDataset(x, y), batch_size=16, shuffle=False)
    test = DataLoader(TensorDataset(probe_x, probe_y), batch_size=PROBES, shuffle=False)
    out = {}
    layer = [name for name, _ in make().named_parameters() if name.startswith(last + ".")]
    for name, normalized, layers in (("tracin", False, None), ("cosin", True, None), ("last_layer", False, layer)):
        attributor = TracInAttributor(task, torch.tensor(rates), normalized_grad=normalized, layer_name=layers)
        # Without this, dattri projects gradients to 512 numbers.
        attributor.projector_kwargs = None
        out[f"dattri.{name}"] = attributor.attribute(train, test).detach()
    return out


def main():
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    data = make_data()
    about = {
        "made_by": "tests/agreement/reference.py",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "captum", "dattri", "aum")},
        "examples": EXAMPLES,
        "probes": PROBES,
        "batch": BATCH,
        "trainings": {name: train(name, data) for name in TRAININGS},
    }
    (HERE / "reference.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
