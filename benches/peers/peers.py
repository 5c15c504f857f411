#!/usr/bin/env python3
"""A recorded candle step beside PyTorch's plain one, on the same shapes, in turn on one machine.

    python3 -m venv venv && venv/bin/pip install torch
    venv/bin/python benches/peers/peers.py [--workload mlp64|mlp256|cnn|transformer|lstm] [--threads N] [--rounds N]
        [--json FILE]

Each round runs some PyTorch steps in a process of their own, and then the benchmark `overhead_mimalloc` with few
pairs: gradlog's steps under mimalloc, as docs/performance.md recommends, and with its SGD, which steps in place as
PyTorch's does. The ratio of a round is that of its two medians; the table has the median over the rounds, with the
least and the greatest. PyTorch runs eagerly, with SGD and without any recording.
The models are those of benches/overhead/models.rs.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
LENGTH, WIDTH, HEADS, BLOCKS, SYMBOLS = 64, 128, 4, 4, 256
WORKLOADS = {"mlp64": 64, "mlp256": 256, "cnn": 64, "transformer": 16, "lstm": 32}
STEPS = {"mlp64": 200, "mlp256": 100, "cnn": 12, "transformer": 12, "lstm": 12}


def model_and_batch(workload):
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
            self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

        def forward(self, x):
            batch, length, _ = x.shape
            h = self.norm1(x)
            q, k, v = (
                layer(h).reshape(batch, length, HEADS, WIDTH // HEADS).transpose(1, 2)
                for layer in (self.q, self.k, self.v)
            )
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, WIDTH))
            return x + self.down(torch.relu(self.up(self.norm2(x))))

    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.places = nn.Embedding(SYMBOLS, WIDTH), nn.Embedding(LENGTH, WIDTH)
            self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
            self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, SYMBOLS)

        def forward(self, ids):
            x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x))

    class Lstm(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.head = nn.Embedding(SYMBOLS, WIDTH), nn.Linear(WIDTH, SYMBOLS)
            self.layers = nn.LSTM(WIDTH, WIDTH, num_layers=2, batch_first=True)

        def forward(self, ids):
            return self.head(self.layers(self.tokens(ids))[0])

    batch = WORKLOADS[workload]
    if workload.startswith("mlp"):
        model = nn.Sequential(
            nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10)
        )
        return model, torch.randn(batch, 784), torch.randint(0, 10, (batch,))
    if workload == "cnn":
        model = nn.Sequential(
            nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(9216, 128), nn.ReLU(), nn.Linear(128, 10),
        )
        return model, torch.randn(batch, 1, 28, 28), torch.randint(0, 10, (batch,))
    model = Transformer() if workload == "transformer" else Lstm()
    symbols = torch.randint(0, SYMBOLS, (batch, LENGTH + 1))
    return model, symbols[:, :-1], symbols[:, 1:]


def time_torch(workload, threads):
    """Median milliseconds of a step. Run in a process of its own, whose pools have so many threads."""
    import torch

    torch.manual_seed(1)
    torch.set_num_threads(threads)
    model, x, y = model_and_batch(workload)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    times = []
    for step in range(STEPS[workload] + STEPS[workload] // 4):
        start = time.perf_counter()
        optimizer.zero_grad()
        logits = model(x)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, -2), y.flatten())
        loss.backward()
        optimizer.step()
        loss.item()
        if step >= STEPS[workload] // 4:
            times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def time_gradlog(workload, threads):
    """Median milliseconds of a plain candle step, of tapped layers alone and of a recorded step."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "rows.json"
        bench = ["cargo", "bench", "--quiet", "--bench", "overhead_mimalloc", "--"]
        options = ["--workload", workload, "--threads", str(threads), "--pairs", "4", "--json", str(path)]
        options += ["--in-place-sgd"]
        subprocess.run(bench + options, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        return {row["mode"]: row["step_ms"] for row in json.loads(path.read_text())}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=WORKLOADS)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--torch", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.torch:
        print(time_torch(given.workload, given.threads))
        return
    print("workload     threads   PyTorch ms   recorded ms   recorded / PyTorch [least, greatest]   candle / PyTorch")
    rows = []
    for workload in [given.workload] if given.workload else WORKLOADS:
        for threads in [given.threads] if given.threads else [1, 2]:
            rounds = []
            for _ in range(given.rounds):
                child = [sys.executable, __file__, "--torch", "--workload", workload, "--threads", str(threads)]
                plain = float(subprocess.run(child, check=True, capture_output=True, text=True).stdout)
                rounds.append((plain, time_gradlog(workload, threads)))
            ratios = sorted(ours["recorded"] / plain for plain, ours in rounds)
            row = {
                "workload": workload,
                "threads": threads,
                "torch_ms": statistics.median(plain for plain, _ in rounds),
                "recorded_ms": statistics.median(ours["recorded"] for _, ours in rounds),
                "recorded_over_torch": statistics.median(ratios),
                "least": ratios[0],
                "greatest": ratios[-1],
                "candle_over_torch": statistics.median(ours["plain"] / plain for plain, ours in rounds),
            }
            rows.append(row)
            print(
                f"{workload:<12} {threads:>7} {row['torch_ms']:>12.2f} {row['recorded_ms']:>13.2f} "
                f"{row['recorded_over_torch']:>20.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}] "
                f"{row['candle_over_torch']:>27.2f}",
                flush=True,
            )
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
