"""Writes a run of ten million visits, and measures export and scores on it.

    python ten_million.py FOLDER        # GRADLOG names the command; the folder takes a gigabyte
"""

import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import gradlog

EXAMPLES, EPOCHS, BATCH, CLASSES, NUMBERS = 1_000_000, 10, 2_000, 10, 32


def write(path: Path) -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, CLASSES, EXAMPLES)
    with gradlog.write_run(path, half=True) as log:
        for epoch in range(EPOCHS):
            for ids in random.permutation(EXAMPLES).reshape(-1, BATCH):
                log.visits(
                    ids,
                    epoch=epoch,
                    losses=random.exponential(size=BATCH),
                    logits=random.normal(size=(BATCH, CLASSES)),
                    labels=labels[ids],
                    learning_rate=0.1,
                    gradients=random.normal(size=(BATCH, NUMBERS)).astype(np.float32),
                )


def seconds(work) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def main() -> None:
    folder = Path(sys.argv[1])
    run, table, command = folder / "run", folder / "visits.parquet", os.environ.get("GRADLOG", "gradlog")
    folder.mkdir(parents=True, exist_ok=True)
    if not run.exists():
        print(f"written in {seconds(lambda: write(run)):.1f} s")

    def ask(*arguments: str) -> None:
        subprocess.run([command, *arguments], check=True, capture_output=True)

    took = statistics.median(seconds(lambda: ask("export", str(run), "--to", str(table))) for _ in range(5))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    size = table.stat().st_size / 1e6
    print(f"export: {took:.2f} s, {size:.0f} MB, {size / took:.0f} MB/s, {10 / took:.1f} million visits/s, {peak:.0f} MB")

    def copy() -> None:
        with open(folder / "copy", "wb") as to:
            to.write(table.read_bytes())
            to.flush()
            os.fsync(to.fileno())

    print(f"copy of that file to the disk: {size / statistics.median(seconds(copy) for _ in range(5)):.0f} MB/s")
    (folder / "copy").unlink()
    scores = str(folder / "aum.parquet")
    both = [
        (
            seconds(lambda: ask("scores", str(run), "--score", "aum", "--out", scores)),
            seconds(lambda: gradlog.open(run).scores("aum")),
        )
        for _ in range(7)
    ]
    theirs, ours = (statistics.median(side) for side in zip(*both))
    ratio = statistics.median(b / a for a, b in both)
    print(f"scores: command {theirs:.2f} s, Python {ours:.2f} s, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
