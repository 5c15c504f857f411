"""What rounding inputs to signs does to EK-FAC's scores, and whether the fitted eigenvalues should keep it.

    venv/bin/python tests/agreement/ekfac_signs.py

An MLP of 784-128-10 on 4,000 of the shipped digits, a tenth of the labels drawn anew, 6 epochs of SGD. The inputs of the
first layer are rotated at random and stored as signs, as gradlog stores long sides. Printed are mean Spearman
correlations over 20 test digits with the scores of exact inputs, by damping in means of the exact eigenvalues:

    damping                              0.01   0.1    1     10    100   1000
    noise taken off A and off Lambda     .044  .111  .313  .668  .895  .974
    noise taken off A alone              .381  .487  .577  .740  .900  .974
    noise taken off neither              .379  .485  .576  .741  .900  .974
    factors of exact inputs              .307  .418  .552  .756  .913  .975
"""

import gzip
import math
import struct
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

DIGITS = Path(__file__).resolve().parent.parent.parent / "examples" / "data" / "mnist"


def read_digits(part, count):
    with gzip.open(DIGITS / f"{part}-images-idx3-ubyte.gz") as file:
        _, _, height, width = struct.unpack(">IIII", file.read(16))
        pixels = np.frombuffer(file.read(count * height * width), dtype=np.uint8)
    with gzip.open(DIGITS / f"{part}-labels-idx1-ubyte.gz") as file:
        file.read(8)
        labels = np.frombuffer(file.read(count), dtype=np.uint8)
    return torch.from_numpy(pixels.reshape(count, -1) / 255.0).float(), torch.from_numpy(labels.astype(np.int64))


def train(x, y):
    model = torch.nn.Sequential(torch.nn.Linear(784, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(6):
        for ids in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            cross_entropy(model(x[ids]), y[ids]).backward()
            optimizer.step()
    return [p.detach().double() for p in model.parameters()]


def sides(weights, x, y):
    """Input and output gradient of both layers."""
    x = x.double()
    z = x @ weights[0].T + weights[1]
    h = z.relu()
    p = (h @ weights[2].T + weights[3]).softmax(1)
    last = p - torch.eye(10).double()[y]
    return [(x, (last @ weights[2]) * (z > 0)), (h, last)]


def with_one(a):
    return torch.cat([a, torch.ones(len(a), 1).double()], 1)


def to_signs(a):
    scale = (a * a).sum(1, keepdim=True) / a.abs().sum(1, keepdim=True)
    return scale * a.sign(), (1 - 2 / math.pi) * scale[:, 0] ** 2


def scores(fit, noise, visits, probes, dampings, off_factor, off_values):
    total = 0
    for (a, d), e, (va, vd), (qa, qd), damping in zip(fit, noise, visits, probes, dampings):
        a, va, qa, width = with_one(a), with_one(va), with_one(qa), a.shape[1]
        factor = a.T @ a / len(a)
        if off_factor:
            factor[range(width), range(width)] -= e.mean()
        v, u = torch.linalg.eigh(factor)[1], torch.linalg.eigh(d.T @ d / len(d))[1]
        squares = (a @ v) ** 2
        if off_values:
            squares = squares - e[:, None] * (1 - v[-1] ** 2)
        values = (((d @ u) ** 2).T @ squares / len(a)).clamp(min=0)
        turned = torch.einsum("qi,qj,ij->qij", qd @ u, qa @ v, 1 / (values + damping))
        total = total + torch.einsum("qij,ti,tj->qt", u @ turned @ v.T, vd, va)
    return total


def spearman(a, b):
    a, b = (x.argsort(1).argsort(1).double() for x in (a, b))
    a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
    return ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).mean().item()


def main():
    torch.manual_seed(0)
    (x, y), (probe_x, probe_y) = read_digits("train", 4000), read_digits("t10k", 20)
    y = torch.where(torch.rand(len(y)) < 0.1, torch.randint(10, y.shape), y)
    weights = train(x, y)
    exact, probes = sides(weights, x, y), sides(weights, probe_x, probe_y)
    rotation = torch.linalg.qr(torch.randn(784, 784).double())[0]
    turned = [(exact[0][0] @ rotation, exact[0][1]), exact[1]]
    turned_probes = [(probes[0][0] @ rotation, probes[0][1]), probes[1]]
    rounded, noise = to_signs(turned[0][0])
    nothing = torch.zeros(len(x)).double()
    signs, noise = [(rounded, exact[0][1]), exact[1]], [noise, nothing]
    for factor in (0.01, 0.1, 1, 10, 100, 1000):
        norms = [(d * d).sum(1) * ((a * a).sum(1) + 1) for a, d in exact]
        dampings = [factor * n.mean() / (d.shape[1] * (a.shape[1] + 1)) for n, (a, d) in zip(norms, exact)]
        truth = scores(exact, [nothing] * 2, exact, probes, dampings, False, False)
        kinds = [(True, True), (True, False), (False, False)]
        found = [scores(signs, noise, signs, turned_probes, dampings, *kind) for kind in kinds]
        found.append(scores(turned, [nothing] * 2, signs, turned_probes, dampings, False, False))
        print(factor, *(f"{spearman(truth, f):.3f}" for f in found), flush=True)


if __name__ == "__main__":
    main()
