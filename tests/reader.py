#!/usr/bin/env python3
"""A second reader of gradlog's runs, written from crates/gradlog-format/FORMAT.md alone.

It shares no code with gradlog, so it checks the page as well as the program: tests/it/second_reader.rs compares both.
It is small and slow, reads whole segments into memory, and knows no run that is being written by several workers.

    reader.py verify RUN                 counts and the first damage, as JSON
    reader.py scores RUN SCORE           a score of every visited example, as JSON
    reader.py influence RUN SET ID       TracIn of every visited example on one probe, as JSON
    reader.py dump RUN                   every number of every block, as JSON

Exit codes are those of the command: 0, 1 for what cannot be read (a newer version, no run), 3 for damage.
It needs numpy and zstandard.
"""

import json
import math
import os
import re
import struct
import sys
import zlib
from collections import defaultdict

import numpy as np
import zstandard

VERSION = 1
MAGIC = b"\x89GLOG\r\n\x1a"
NO_LAYER = 0xFFFF
AMENDS_VECTORS, AMENDS_ALL = 0xFFFE, 0xFFFF
NO_WEIGHT, NOT_FINITE = 4, 1

KINDS = {1: "Visits", 2: "Steps", 3: "Probes", 4: "Gaps", 5: "ProbeSet", 6: "End", 8: "Checkpoints", 9: "Sweeps",
         10: "LayerRates", 11: "Checks", 12: "Events", 13: "Cards"}
REQUIRED = {
    "Visits": ["Example", "Step", "Epoch"],
    "Steps": ["Step", "Epoch"],
    "Probes": ["Example", "Step", "Epoch", "ProbeSet"],
    "Gaps": ["Step", "Epoch", "Dropped"],
    "ProbeSet": ["ProbeSet", "Name"],
    "End": ["Visits", "Dropped"],
    "Checkpoints": ["Step", "Epoch", "Bytes", "Checksum"],
    "Sweeps": ["Example", "Step", "Epoch", "Mode"],
    "LayerRates": ["Step", "Layer"],
    "Checks": ["Step", "Epoch", "Checked", "Findings", "Text"],
    "Events": ["Step", "Epoch", "EventKind", "EventAction", "Example", "Layer", "Value", "Limit", "Reference", "Count"],
    "Cards": ["Example", "CardKind", "PictureWidth", "CardBytes", "Count", "CardData"],
}
# Plain types: numpy's type. Vector types are in `decode_vectors`.
PLAIN = {1: "u1", 2: "<u4", 3: "<u8", 4: "<f4", 5: "<u2"}
U8, U32, U64, F32, BF16, VECTOR = 1, 2, 3, 4, 5, 16
COLUMNS = {
    1: ("Example", U64), 2: ("Step", U64), 3: ("Epoch", U32), 4: ("LearningRate", F32), 5: ("Clip", F32),
    6: ("Coefficient", F32), 7: ("Loss", F32), 8: ("El2n", F32), 9: ("Margin", F32), 10: ("Confidence", F32),
    11: ("Correct", F32), 12: ("Label", U32), 13: ("Prediction", U32), 14: ("Target", F32), 15: ("Output", F32),
    16: ("Positions", U32), 17: ("SquaredNorm", F32), 18: ("Flags", U8), 19: ("ProbeSet", U32), 20: ("Mode", U8),
    21: ("PredictionScore", U8), 22: ("ScoredClass", U32), 23: ("CurvatureWeight", F32),
    24: ("Preconditioner", U8), 32: ("Input", VECTOR),
    33: ("InputScale", BF16), 34: ("Delta", VECTOR), 35: ("DeltaScale", BF16), 36: ("Folded", VECTOR),
    37: ("FoldedScale", BF16), 38: ("InputPlaces", U32), 39: ("InputApart", F32), 40: ("DeltaPlaces", U32),
    41: ("DeltaApart", F32), 42: ("FoldedPlaces", U32), 43: ("FoldedApart", F32), 44: ("InputRounding", U8),
    45: ("DeltaRounding", U8), 46: ("FoldedRounding", U8), 64: ("BatchSize", U32), 65: ("WallClock", U64), 66: ("Momentum", F32),
    67: ("WeightDecay", F32), 68: ("Dropped", U64), 69: ("Name", U8), 70: ("Visits", U64), 71: ("Bytes", U64),
    72: ("Checksum", U32), 73: ("Abandoned", U64), 74: ("UnknownSteps", U64),
    75: ("UpdateRule", U8), 76: ("Layer", U32), 77: ("RateFactor", F32), 78: ("Trained", U8), 79: ("Beta1", F32),
    80: ("Checked", U32), 81: ("Findings", U32), 82: ("Text", U8), 83: ("Beta2", F32), 84: ("Epsilon", F32),
    85: ("StepsTaken", U64), 86: ("PreconditionedSquaredNorm", F32), 87: ("Parameter", U32), 88: ("EventKind", U8),
    89: ("EventAction", U8), 90: ("Value", F32), 91: ("Limit", F32), 92: ("Reference", F32), 93: ("Count", U64),
    94: ("CardKind", U8), 95: ("PictureWidth", U32), 96: ("CardBytes", U32), 97: ("CardData", U8),
    98: ("Bucket", U32),
}
NUMBERS = {name: number for number, (name, _) in COLUMNS.items()}
PARTS = ("", "Scale", "Places", "Apart", "Rounding")
OF_LAYER = {side + part for side in ("Input", "Delta") for part in PARTS}
OF_GRADIENT = OF_LAYER | {"Folded" + part for part in PARTS}


class NotARun(Exception):
    pass


class Damage(Exception):
    pass


class Newer(Exception):
    pass


def crc(*pieces):
    value = 0
    for piece in pieces:
        value = zlib.crc32(piece, value)
    return value


# --- Manifest -------------------------------------------------------------------------------------------------------


class Fields:
    """Reads fields one after another. What does not fit is no manifest."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        if count > len(self.data) - self.at:
            raise NotARun("the manifest ends within a field")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, code):
        return struct.unpack("<" + code, self.take(struct.calcsize(code)))[0]

    def u32(self):
        return self.number("I")

    def u64(self):
        return self.number("Q")

    def flag(self):
        value = self.number("B")
        if value > 1:
            raise NotARun(f"a bool or an option of {value}")
        return value == 1

    def string(self):
        try:
            return self.take(self.u64()).decode("utf-8")
        except UnicodeDecodeError:
            raise NotARun("text that is not UTF-8") from None

    def list(self, read):
        return [read() for _ in range(self.u64())]

    def option(self, read):
        return read() if self.flag() else None

    def choice(self, *names):
        index = self.u32()
        if index >= len(names):
            raise NotARun(f"choice {index} of {len(names)}")
        return names[index]


def parse_manifest(data):
    if len(data) < 20 or data[:8] != MAGIC:
        raise NotARun("not a gradlog file")
    version, kind, length, checksum = struct.unpack_from("<HHII", data, 8)
    intact = length == len(data) - 20 and crc(data[:16], data[20:]) == checksum
    if version > VERSION and intact:
        raise Newer(f"format version {version}")
    if version != VERSION or kind != 1 or not intact or len(data) > 1 << 26:
        raise NotARun("its manifest is damaged")
    f = Fields(data[20:])
    encodings = ("F32", "F16", "Q8", "Q4", "Signs")
    shape = lambda: f.list(f.u64)  # noqa: E731
    manifest = {
        "run_id": f.take(16), "created_ms": f.u64(), "version": f.string(), "seed": f.u64(),
        "sketch": {name: f.u32() for name in ("input_cap", "delta_cap", "projected", "folded_min", "folded_max")},
    }
    manifest["sketch"]["encoding"] = f.choice(*encodings)
    manifest["sketch"]["projected_encoding"] = f.choice(*encodings)
    manifest["layers"] = f.list(lambda: {
        "name": f.string(), "kind": f.string(), "inputs": f.u32(), "outputs": f.u32(), "bias": f.flag(),
        "parameters": f.u64(), "shapes": f.list(lambda: (f.string(), shape())),
        "seeds": [f.u64() for _ in range(3)],
    })
    manifest["untapped"] = f.list(lambda: {"name": f.string(), "shape": shape()})
    manifest["model_parameters"] = f.option(f.u64)
    manifest["notes"] = f.list(lambda: (f.string(), f.string()))
    manifest["worker"] = f.option(
        lambda: {"rank": f.u32(), "workers": f.u32(), "reduction": f.choice("Mean", "Sum")}
    )
    if len(manifest["layers"]) > 65_535:
        raise NotARun("too many layers")
    worker = manifest["worker"]
    if worker and (worker["rank"] >= worker["workers"] or worker["workers"] > 1 << 16):
        raise NotARun("a rank that is none")
    tags = [0]
    while f.at < len(f.data):
        tag = f.number("H")
        f.take(f.u32())
        if tag <= tags[-1] or len(tags) > 1024:
            raise NotARun("extension fields out of order")
        tags.append(tag)
    return manifest


# --- Blocks ---------------------------------------------------------------------------------------------------------


class Entry:
    def __init__(self, raw, start):
        (self.column, self.layer, self.cells, self.codec, self.amends, self.width, self.stored, self.raw,
         self.crc) = struct.unpack("<HHBBHIIII", raw)
        self.start = start
        self.name, self.type = COLUMNS.get(self.column, (None, None))

    def key(self):
        return self.column, self.layer


def unpack_rans(frame, entry):
    """FORMAT.md, "rANS"."""
    damage = Damage(f"column {entry.column} is not one frame of rANS")
    if entry.raw > len(frame) << 15:
        raise Damage("more than rANS can hold")
    place, frequencies = 32, []
    for value in range(256):
        if len(frame) > 32 and frame[value // 8] >> value % 8 & 1:
            low, high = (frame[place : place + 2] + b"\0\0")[:2]
            frequencies.append((value, low if low < 128 else low - 128 + 128 * high))
            place += 1 if low < 128 else 2
    if sum(f for _, f in frequencies) != 4096 or any(f in (0, 4096) for _, f in frequencies):
        raise damage
    slots = np.array([(v, f, within) for v, f in frequencies for within in range(f)], "u8")
    states = np.frombuffer(frame[place : place + 512], "<u4").astype("u8")
    if len(states) != 128 or (len(frame) - place) % 2 or (states < 1 << 15).any() or (states >= 1 << 31).any():
        raise damage
    words = np.frombuffer(frame[place + 512 :], "<u2").astype("u8")
    raw, top = np.empty(entry.raw, "u1"), len(words)
    for begin in range(0, entry.raw, 128):
        lanes = min(128, entry.raw - begin)
        value, f, within = slots[states[:lanes] & 4095].T
        raw[begin : begin + lanes] = value
        x = f * (states[:lanes] >> 12) + within
        needs = x < 1 << 15
        taken = int(needs.sum())
        if taken > top:
            raise damage
        # State 127 takes the top, and so on downwards.
        x[needs] = x[needs] << 16 | words[top - taken : top]
        states[:lanes], top = x, top - taken
    if top or (states != 1 << 15).any():
        raise damage
    return raw.tobytes()


def row_bytes(cells, width):
    """Bytes of a row. None if the type is not known."""
    if cells in PLAIN:
        return width * np.dtype(PLAIN[cells]).itemsize
    return {16: 4 * width, 17: 2 * width, 18: width, 19: (width + 1) // 2, 20: (width + 7) // 8}.get(cells)


class Block:
    def __init__(self, part, data, offset, header):
        (_, self.kind_number, columns, self.rows, _, self.bytes, self.sequence, self.first_step, self.last_step,
         self.first_epoch, self.last_epoch, directory_crc, _) = header
        self.part, self.data, self.offset = part, data, offset
        self.kind = KINDS.get(self.kind_number)
        self.kept = self.rows
        directory = data[offset + 64 : offset + 64 + 24 * columns]
        if crc(directory) != directory_crc:
            raise Damage("the directory's checksum does not match")
        self.entries, at = [], 64 + 24 * columns
        for place in range(columns):
            entry = Entry(directory[24 * place : 24 * place + 24], at)
            if entry.column == 0 or entry.cells == 0 or entry.width > 1 << 24 or entry.stored > 1 << 28:
                raise Damage("an impossible column")
            self.entries.append(entry)
            at += entry.stored
        if at > self.bytes or sum(entry.raw for entry in self.entries) > 1 << 30:
            raise Damage("columns that do not fit")
        self.by_key = {}
        for entry in self.entries:
            self.by_key.setdefault(entry.key(), entry)
        self.amending = [entry for entry in self.entries if entry.amends and entry.name is None]

    def find(self, name, layer=NO_LAYER):
        return self.by_key.get((NUMBERS[name], layer))

    def has(self, name, layer=NO_LAYER):
        return self.find(name, layer) is not None

    def is_amended(self, entry):
        def hits(other):
            if other.amends == AMENDS_ALL:
                return True
            if other.amends == AMENDS_VECTORS:
                return entry.name in OF_GRADIENT
            return (other.amends, other.layer) == entry.key()

        return any(hits(other) for other in self.amending if other.key() != entry.key())

    def is_newer(self, entry):
        return row_bytes(entry.cells, 1) is None or self.is_amended(entry)

    def check_directory(self):
        """FORMAT.md, "Checking a block"."""
        if self.kind is None:
            return
        for name in REQUIRED[self.kind]:
            if not self.has(name):
                raise Damage(f"{self.kind} without {name}")
        if self.kind in ("ProbeSet", "End", "Checkpoints", "Checks") and self.rows != 1:
            raise Damage(f"{self.rows} rows of {self.kind}")
        layers = len(self.part.manifest["layers"])
        for entry in self.entries:
            if entry.name is None or self.is_amended(entry):
                continue
            if entry.layer >= layers if entry.name in OF_LAYER else entry.layer != NO_LAYER:
                raise Damage(f"{entry.name} of layer {entry.layer}")
            if entry.name in ("Input", "Delta"):
                if not self.has("Delta" if entry.name == "Input" else "Input", entry.layer):
                    raise Damage(f"{entry.name} alone")
            if row_bytes(entry.cells, 1) is None:
                continue
            is_vector = entry.cells >= VECTOR
            if is_vector != (entry.type == VECTOR) or not is_vector and entry.cells != entry.type:
                raise Damage(f"{entry.name} of type {entry.cells}")
            if is_vector and not self.has(entry.name + "Scale", entry.layer):
                raise Damage(f"{entry.name} without its scale")
            if entry.name == "Name":
                if entry.width > 4096:
                    raise Damage("a long name")
            elif not is_vector and entry.width != 1 and not entry.name.endswith(("Text", "CardData", "Places", "Apart", "Rounding")):
                vectors = self.find(entry.name[:-5], entry.layer) if entry.name.endswith("Scale") else None
                if vectors is None or row_bytes(vectors.cells, 1) is not None:
                    raise Damage(f"{entry.name} with {entry.width} numbers to a row")

    def inflate(self, entry):
        """The bytes of a column, checked as in FORMAT.md, "Reading a column". None for an unknown type."""
        frame = self.data[self.offset + entry.start : self.offset + entry.start + entry.stored]
        size = row_bytes(entry.cells, entry.width)
        if size is not None and (entry.raw > 1 << 28 or entry.raw != size * self.rows):
            raise Damage(f"column {entry.column} has another length")
        if crc(frame) != entry.crc:
            raise Damage(f"the checksum of column {entry.column} does not match")
        if size is None:
            return None
        if entry.codec == 0:
            raw = frame
        elif entry.codec == 1 or entry.codec == 2 and entry.cells in (U32, U64, F32, BF16):
            raw = self.unpack(frame, entry)
        elif entry.codec == 3:
            raw = unpack_rans(frame, entry)
        else:
            raise Damage(f"column {entry.column} has compression {entry.codec}")
        if len(raw) != entry.raw:
            raise Damage(f"column {entry.column} has another length inside")
        if entry.codec == 2:
            number = np.dtype(PLAIN[entry.cells]).itemsize
            raw = np.frombuffer(raw, "u1").reshape(number, -1).T.tobytes()
        return raw

    @staticmethod
    def unpack(frame, entry):
        if entry.raw > len(frame) << 15:
            raise Damage("more than zstd can hold")
        decoder = zstandard.ZstdDecompressor(max_window_size=1 << 28).decompressobj()
        try:
            raw = decoder.decompress(frame)
        except zstandard.ZstdError as error:
            raise Damage(f"column {entry.column} does not inflate: {error}") from None
        if not decoder.eof or decoder.unused_data:
            raise Damage(f"column {entry.column} is not one zstd frame")
        return raw

    def column(self, name, layer=NO_LAYER, all_rows=False):
        """The numbers of a column, row after row, or the bytes of a name."""
        entry = self.find(name, layer)
        if self.is_newer(entry):
            self.inflate(entry)
            raise Newer(f"column {name} of block {self.sequence}")
        numbers = np.frombuffer(self.inflate(entry), PLAIN[entry.cells])
        return numbers if all_rows or name == "Name" else numbers[: self.kept * entry.width]

    def optional(self, name, absent):
        return self.column(name) if self.has(name) else np.full(self.kept, absent)

    def probe_set(self):
        try:
            return int(self.column("ProbeSet")[0]), self.column("Name").tobytes().decode("utf-8")
        except UnicodeDecodeError:
            raise Damage("a name that is not UTF-8") from None

    def cards(self):
        """FORMAT.md, "Cards": set, example and content of each, and how many were refused."""
        width = self.find("CardData").width
        if width > 1 << 20:
            raise Damage("a long card")
        data = self.column("CardData", all_rows=True).reshape(self.rows, width)
        sets = self.column("ProbeSet").tolist() if self.has("ProbeSet") else [None] * self.rows
        found, refused = [], 0
        names = ("Example", "CardKind", "PictureWidth", "CardBytes", "Count")
        rows = zip(sets, *(self.column(name).tolist() for name in names))
        for row, (part, example, kind, pixels, length, count) in enumerate(rows):
            if length > width:
                raise Damage("a card that is longer than its room")
            raw = data[row, :length].tobytes()
            try:
                if kind in (1, 2):
                    line = pixels * (3 if kind == 2 else 1)
                    if not length or not line or length % line:
                        raise Damage("a picture that is no rectangle")
                    content = [length // line, pixels, list(raw)]
                elif kind == 3:
                    content = raw.decode("utf-8")
                elif kind == 4:
                    content = self.cells(raw)
                else:
                    refused += count if kind == 5 else 0
                    continue
            except UnicodeDecodeError:
                raise Damage("a card that is not UTF-8") from None
            found.append([part, example, content])
        return found, refused

    @staticmethod
    def cells(raw):
        texts = []
        while raw:
            if len(raw) < 4 or len(raw) - 4 < (length := struct.unpack_from("<I", raw)[0]):
                raise Damage("a row that is cut")
            texts.append(raw[4 : 4 + length].decode("utf-8"))
            raw = raw[4 + length :]
        if len(texts) % 2:
            raise Damage("a name without a value")
        return [list(pair) for pair in zip(texts[::2], texts[1::2])]

    def check_whole(self):
        raw = {entry.key(): self.inflate(entry) for entry in self.entries}
        if self.kind is None:
            return
        for name, first, last in (("Step", self.first_step, self.last_step),
                                  ("Epoch", self.first_epoch, self.last_epoch)):
            entry = self.find(name)
            if entry is None or self.is_newer(entry):
                continue
            numbers = np.frombuffer(raw[entry.key()], PLAIN[entry.cells])
            if numbers.min() < first or numbers.max() > last:
                raise Damage(f"{name} outside of the header's")
            if name == "Step" and (numbers[1:] < numbers[:-1]).any():
                raise Damage("steps that fall")

    def newer_columns(self):
        return sum(entry.name is not None and self.is_newer(entry) for entry in self.entries)

    def layout(self):
        """Which vectors a row has: layer and lengths of each factored layer, and the length of the folded vector."""
        factored = [(e.layer, e.width, self.find("Delta", e.layer).width) for e in self.entries if e.name == "Input"]
        folded = self.find("Folded")
        return tuple(sorted(factored)), folded.width if folded else None

    def gradients(self):
        """The vectors of all rows: `{(name, layer): [rows, width]}`."""
        names = [(e.name, e.layer) for e in self.entries if e.name in ("Input", "Delta", "Folded")]
        return {key: decode_vectors(self, *key) for key in names}


def decode_vectors(block, name, layer):
    """The vectors of a column as numbers, `[rows, width]`. The one place that knows how vectors are stored."""
    entry, scales = block.find(name, layer), block.find(name + "Scale", layer)
    if block.is_newer(entry) or scales is None or block.is_newer(scales):
        block.inflate(entry)
        raise Newer(f"column {name} of block {block.sequence}")
    raw = np.frombuffer(block.inflate(entry), "u1").reshape(block.rows, -1)
    if entry.cells == 16:
        codes = raw.view("<f4")
    elif entry.cells == 17:
        codes = raw.view("<f2")
    elif entry.cells == 18:
        codes = raw.view("i1")
    elif entry.cells == 19:
        halves = np.stack([raw & 15, raw >> 4], axis=2).reshape(block.rows, -1)[:, : entry.width].astype("i1")
        codes = np.where(halves > 7, halves - 16, halves)
    else:
        bits = np.unpackbits(raw, axis=1, bitorder="little")[:, : entry.width]
        codes = 1 - 2 * bits.astype("i1")
    bf16 = np.frombuffer(block.inflate(scales), "<u2").astype("<u4") << 16
    numbers = codes.astype("f4") * bf16.view("<f4")[:, None]
    add_apart(block, name, layer, numbers)
    return numbers[: block.kept]


def add_apart(block, name, layer, numbers):
    """Adds the numbers that are kept apart to the vectors."""
    places, values = block.find(name + "Places", layer), block.find(name + "Apart", layer)
    if places is None or values is None:
        return
    slots = lambda entry, type: np.frombuffer(block.inflate(entry), type).reshape(block.rows, -1)
    manifest, width = block.part.manifest, numbers.shape[1]
    whole, seed = False, None
    if name != "Folded":
        record = manifest["layers"][layer]
        length, cap = (record["inputs"], "input_cap") if name == "Input" else (record["outputs"], "delta_cap")
        whole, seed = length <= manifest["sketch"][cap], record["seeds"][0 if name == "Input" else 1]
    power = 1 << (width - 1).bit_length()
    index = np.arange(width, dtype="u8")
    for row, (own_places, own_values) in enumerate(zip(slots(places, "<u4"), slots(values, "<f4"))):
        for place, value in zip(own_places.tolist(), own_values.tolist()):
            if value == 0.0:
                continue
            if whole:
                numbers[row, place] += np.float32(value)
                continue
            bucket, sign = (place, 1) if seed is None else locate(seed, power, place)
            parity = np.array([bin(k & bucket).count("1") & 1 for k in index.tolist()])
            numbers[row] += (sign * value * (1 - 2 * parity) / np.sqrt(width)).astype("f4")


def locate(seed, buckets, place):
    """Bucket and sign of a coordinate in a fold."""
    bucket = (place % buckets + ((draw(seed, place // buckets) >> 32) * buckets >> 32)) % buckets
    negative = draw(seed ^ 0x5349474E5349474E, place // 64) >> (place % 64) & 1
    return bucket, -1 if negative else 1


def draw(seed, counter):
    """Number `counter` of the SplitMix64 stream of `seed`."""
    mask = (1 << 64) - 1
    z = (seed + (counter + 1) * 0x9E3779B97F4A7C15) & mask
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    return z ^ z >> 31


# --- Runs -----------------------------------------------------------------------------------------------------------


class Part:
    """A run of one recorder, or the part of one worker."""

    def __init__(self, path):
        self.path = path
        try:
            with open(os.path.join(path, "manifest"), "rb") as file:
                self.manifest = parse_manifest(file.read((1 << 26) + 1))
        except OSError as error:
            raise NotARun(str(error)) from None
        self.rank = self.manifest["worker"]["rank"] if self.manifest["worker"] else 0

    def segment_path(self, index):
        return os.path.join(self.path, f"segment-{index:05}.glog")

    def segment(self, index):
        """The bytes of a segment, or None if there is no file."""
        path = self.segment_path(index)
        if not os.path.lexists(path):
            return None
        if not os.path.isfile(path):
            raise Damage(f"{path} is no file")
        with open(path, "rb") as file:
            return file.read()

    def later_exists(self, index):
        return any(os.path.lexists(self.segment_path(index + ahead)) for ahead in range(1, 17))

    def limits(self):
        """For each segment, the first step that is superseded in it; read before any block."""
        resumed, index = {}, 0
        while (data := self.segment(index)) is not None:
            if len(data) >= 64 and data[:8] == MAGIC and crc(data[:60]) == struct.unpack_from("<I", data, 60)[0]:
                version, is_resumed, step = struct.unpack_from("<H26xIQ", data, 8)
                if version == VERSION and is_resumed == 1:
                    resumed[index] = step
            index += 1
        return lambda index: min((step for at, step in resumed.items() if at > index), default=None)

    def is_locked(self):
        try:
            import fcntl

            with open(os.path.join(self.path, "lock"), "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            return True
        except (ImportError, OSError):
            return False

    def scan(self):
        """Yields the blocks, with the number of their rows that count in `kept`. FORMAT.md, "Recovery"."""
        limit, expected, index = self.limits(), 0, 0
        self.end = (b"", 0)
        while True:
            data = self.segment(index)
            if data is None or not data.strip(b"\0") and (not data or len(data) >= 64) or \
                    len(data) >= 64 and not data[:64].strip(b"\0"):
                self.end = (data or self.end[0], 64 if data is not None else self.end[1])
                if self.later_exists(index):
                    raise Damage(f"segment {index} is missing or was emptied")
                return
            if len(data) < 64:
                raise Damage(f"segment {index} ends within its header")
            magic, version, kind, number, run_id = struct.unpack_from("<8sHHI16s", data)
            sealed = crc(data[:60]) == struct.unpack_from("<I", data, 60)[0]
            if sealed and magic == MAGIC and version > VERSION:
                raise Newer(f"segment {index} has format version {version}")
            if not sealed or magic != MAGIC or (version, kind, number) != (VERSION, 2, index) or \
                    run_id != self.manifest["run_id"]:
                raise Damage(f"the header of segment {index}")
            offset = 64
            while True:
                left = len(data) - offset
                if left == 0 or not data[offset : offset + min(4, left)].strip(b"\0"):
                    break
                block = self.block(data, offset, expected)
                block.check_directory()
                self.cut(block, limit(index))
                yield block
                offset += block.bytes
                expected += 1
            self.end = (data, offset)
            index += 1

    def block(self, data, offset, expected=None):
        if len(data) - offset < 64:
            raise Damage("a block header that is cut")
        header = struct.unpack_from("<4sHHIIQQQQIIII", data, offset)
        if header[0] != b"GBLK" or crc(data[offset : offset + 60]) != header[12]:
            raise Damage(f"no block at byte {offset}")
        _, kind, columns, rows, _, size, sequence, first, last, first_epoch, last_epoch, _, _ = header
        if kind == 0 or not 1 <= rows <= 1 << 25 or first > last or first_epoch > last_epoch:
            raise Damage(f"an impossible block header at byte {offset}")
        if expected is None:
            return header
        if sequence != expected or size % 8 or not 64 + 24 * columns <= size <= len(data) - offset:
            raise Damage(f"a block that does not belong at byte {offset}")
        return Block(self, data, offset, header)

    @staticmethod
    def cut(block, limit):
        """Leaves out the rows that a later resumption superseded."""
        if limit is None or block.kind in (None, "ProbeSet", "End", "Cards"):
            return
        if block.kind in ("Probes", "Sweeps", "Checkpoints", "Checks"):
            limit += 1
        if block.first_step >= limit:
            block.kept = 0
        elif block.last_step >= limit:
            block.kept = int((block.column("Step", all_rows=True) < limit).sum())

    def blocks_behind_the_end(self):
        data, offset = self.end
        for at in range(offset + -offset % 8, len(data) - 63, 8):
            if data[at : at + 4] == b"GBLK":
                try:
                    self.block(data, at)
                    return True
                except Damage:
                    pass
        return False


class Run:
    def __init__(self, path):
        if os.path.isfile(os.path.join(path, "manifest")):
            self.parts, self.united = [Part(path)], False
            return
        names = os.listdir(path) if os.path.isdir(path) else []
        folders = [name for name in names if re.fullmatch(r"worker-\d{4,}", name)]
        self.parts, self.united = [Part(os.path.join(path, folder)) for folder in folders], True
        self.parts.sort(key=lambda part: part.rank)
        if not self.parts:
            raise NotARun(f"{path} has no manifest")
        manifests = [part.manifest for part in self.parts]
        if not all(manifest["worker"] for manifest in manifests):
            raise NotARun("a part of no worker")
        for manifest in manifests:
            for key in ("seed", "sketch", "layers"):
                if manifest[key] != manifests[0][key]:
                    raise NotARun(f"parts with another {key}")
            for key in ("workers", "reduction"):
                if manifest["worker"][key] != manifests[0]["worker"][key]:
                    raise NotARun(f"parts with other {key}")

    def blocks(self):
        """The blocks of all parts, part by part."""
        for part in self.parts:
            yield from part.scan()

    def read(self, read):
        """What `read` makes of each block with rows that count, up to the first damage, which comes second."""
        found = []
        try:
            for block in self.blocks():
                if block.kept:
                    found.append(read(block))
        except Damage as damage:
            if self.united:
                raise
            return found, str(damage)
        return found, None


def verify(run):
    report = defaultdict(int)
    steps, finished, damage = set(), [], None
    for part in run.parts:
        sets, done = 0, False
        checkpoints = {}
        try:
            for block in part.scan():
                block.check_whole()
                newer = block.newer_columns()
                report["newer_columns"] += newer
                if block.kind == "ProbeSet":
                    if not newer and block.probe_set()[0] != sets:
                        raise Damage(f"another probe set where {sets} belongs")
                    sets += 1
                if block.kind == "Cards" and not newer:
                    cards, refused = block.cards()
                    if any(part is not None and part >= sets for part, _, _ in cards):
                        raise Damage("a card of a probe set without a name")
                    report["cards"] += len(cards)
                    report["refused_cards"] += refused
                if block.kind == "Gaps" and block.kept and not newer:
                    report["dropped"] += int(block.column("Dropped").sum())
                if block.kind == "Visits":
                    report["superseded"] += block.rows - block.kept
                if not block.kept:
                    continue
                if block.kind == "Checkpoints" and not newer:
                    checkpoints[int(block.column("Step")[0])] = 1
                is_replayed = block.kind == "Sweeps" or block.kind == "Probes" and block.has("Mode")
                if block.kind == "End":
                    done = True
                elif block.kind not in (None, "ProbeSet", "Cards") and not is_replayed:
                    done = False
                report["blocks"] += 1
                if block.kind == "Steps":
                    if run.united:
                        steps.update(block.column("Step").tolist())
                    report["step_rows"] += block.kept
                elif block.kind == "Probes" and not block.has("Preconditioner"):
                    report["curvature" if block.has("CurvatureWeight") else "probes"] += block.kept
                elif block.kind in ("Visits", "Sweeps"):
                    report[block.kind.lower()] += block.kept
            if not part.is_locked() and part.blocks_behind_the_end():
                raise Damage("blocks behind zeros")
        except Damage as found:
            damage = damage or str(found)
        report["checkpoints"] += len(checkpoints)
        finished.append(done)
    names = "blocks visits probes curvature sweeps dropped superseded checkpoints newer_columns cards refused_cards"
    out = {name: report[name] for name in names.split()}
    out["steps"] = len(steps) if run.united else report["step_rows"]
    workers = run.parts[0].manifest["worker"]["workers"] if run.united else 1
    out["finished"] = damage is None and all(finished) and len(run.parts) == workers
    out["damage"] = damage
    return out


# --- Scores over columns --------------------------------------------------------------------------------------------

FORMULAS = {
    "loss": ["Loss"], "aum": ["Margin"], "el2n": ["El2n"], "confidence": ["Confidence"],
    "variability": ["Confidence"], "correctness": ["Correct"], "forgetting": ["Correct", "Loss"],
    "grand": ["SquaredNorm"],
    "self-influence": ["SquaredNorm", "LearningRate", "Clip", "Coefficient"],
}


def numbers_of(block, names):
    """The numbers of a formula, `[numbers, rows]` in f64, and which rows count. None if the block lacks one."""
    if any(name != "Clip" and not block.has(name) for name in names):
        return None, np.zeros(block.kept, bool)
    numbers = np.array([block.optional(name, 1.0) for name in names], "f8").reshape(len(names), block.kept)
    if "SquaredNorm" in names:
        # A negative number v stands for the square v².
        norms = numbers[names.index("SquaredNorm")]
        numbers[names.index("SquaredNorm")] = np.where(norms < 0, norms * norms, norms)
    flags = block.optional("Flags", 0).astype("u1")
    return numbers, np.isfinite(numbers).all(axis=0) & (flags & NOT_FINITE == 0)


def in_order(run, rows):
    """Rows `(step, rank, ...)` in the order in which they count."""
    return sorted(rows, key=lambda row: row[:2]) if run.united else rows


def scores(run, name):
    columns, had = FORMULAS[name], []

    def read(block):
        if block.kind != "Visits":
            return []
        ids, steps = block.column("Example").tolist(), block.column("Step").tolist()
        numbers, counts = numbers_of(block, columns)
        had.append(numbers is not None)
        if name == "grand":
            counts = counts & (block.optional("Flags", 0).astype("u1") & NO_WEIGHT == 0)
        if name == "forgetting" and (block.optional("Positions", 1) > 1).any():
            raise NotARun("forgetting is not defined for several positions")
        values = [None] * len(ids) if numbers is None else numbers.T.tolist()
        rank = block.part.rank
        return [(s, rank, e, v if c else None) for e, s, v, c in zip(ids, steps, values, counts)]

    blocks, damage = run.read(read)
    by_example = defaultdict(list)
    for _, _, example, values in in_order(run, [row for rows in blocks for row in rows]):
        by_example[example].extend([] if values is None else [values])
    rows = [{"example": e, "visits": len(v), "score": score_of(name, v)} for e, v in sorted(by_example.items())]
    if damage and not rows:
        raise NotARun(f"damaged before the first visit: {damage}")
    if had and not any(had):
        raise NotARun(f"the run was recorded without {columns}")
    return {"score": name, "rows": rows, "damage": damage}


def score_of(name, rows):
    if not rows:
        return None
    first = [row[0] for row in rows]
    mean = sum(first) / len(first)
    if name == "variability":
        return math.sqrt(sum((value - mean) ** 2 for value in first) / len(first))
    if name == "grand":
        return sum(math.sqrt(max(value, 0.0)) for value in first) / len(first)
    if name == "self-influence":
        return sum(math.prod(row) for row in rows)
    if name == "forgetting":
        right = [value >= 0.5 for value in first]
        return sum(a and not b for a, b in zip(right, right[1:])) if any(right) else "infinite"
    return mean


def dot(manifest, a, row, b, other):
    """The dot product of two gradients: rows of `Block.gradients`."""
    total = 0.0
    for (name, layer), vectors in a.items():
        product = float(vectors[row].astype("f8") @ b[name, layer][other].astype("f8"))
        if name == "Folded":
            total += product
        elif name == "Input":
            delta = float(a["Delta", layer][row].astype("f8") @ b["Delta", layer][other].astype("f8"))
            total += (product + manifest["layers"][layer]["bias"]) * delta
    return total


def influence(run, set_name, wanted):
    """TracIn of every visited example on one probe of a set."""
    manifest = run.parts[0].manifest
    blocks, damage = run.read(lambda block: block)
    names, records, first = defaultdict(dict), {}, None
    for block in blocks:
        if block.kind == "ProbeSet":
            number, name = block.probe_set()
            names[block.part.rank][number] = name
        if block.kind != "Probes" or block.has("CurvatureWeight") or block.has("Preconditioner"):
            continue
        flags, sets = block.optional("Flags", 0).astype("u1"), block.column("ProbeSet")
        measures = block.optional("PredictionScore", 0)
        layout = block.layout()
        for row, (example, step) in enumerate(zip(block.column("Example").tolist(), block.column("Step").tolist())):
            if names[block.part.rank].get(int(sets[row])) != set_name or example != wanted:
                continue
            if flags[row] & (NOT_FINITE | NO_WEIGHT) or layout == ((), None):
                continue
            first = first or (layout, measures[row])
            if first == (layout, measures[row]):
                records[step] = (block.gradients(), row)
    if not records:
        raise NotARun(f"no record of probe {wanted} in {set_name} can be used")
    times, sums, visits = sorted(records), defaultdict(float), defaultdict(int)
    rows = []
    for block in blocks:
        if block.kind != "Visits" or block.layout() != first[0]:
            continue
        weights, counts = numbers_of(block, ["LearningRate", "Clip", "Coefficient"])
        gradients = block.gradients()
        for row, (example, step) in enumerate(zip(block.column("Example").tolist(), block.column("Step").tolist())):
            before = [time for time in times if time <= step]
            if counts[row] and before:
                product = dot(manifest, gradients, row, *records[before[-1]])
                rows.append((step, block.part.rank, example, float(weights[:, row].prod()) * product))
    for _, _, example, value in in_order(run, rows):
        sums[example] += value
        visits[example] += 1
    rows = [{"example": e, "visits": visits[e], "score": s} for e, s in sorted(sums.items())]
    return {"probe": wanted, "rows": rows, "damage": damage}


# --- Dump -----------------------------------------------------------------------------------------------------------


def plain(value):
    """A number as JSON has it."""
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]
    return value


def dump(run):
    def read(block):
        columns = []
        for entry in block.entries:
            if entry.name is None or block.is_newer(entry) or entry.name.endswith("Scale"):
                continue
            if entry.type == VECTOR:
                values = decode_vectors(block, entry.name, entry.layer).astype("f8").tolist()
            elif entry.name == "Name":
                values = block.probe_set()[1]
            else:
                values = block.column(entry.name, entry.layer).tolist()
            column = {"column": entry.name, "values": plain(values)}
            if entry.layer != NO_LAYER:
                column["layer"] = entry.layer
            columns.append(column)
        return {
            "kind": block.kind, "rows": block.kept, "steps": [block.first_step, block.last_step],
            "epochs": [block.first_epoch, block.last_epoch], "columns": columns,
        }

    blocks, damage = run.read(read)
    layers = [{key: layer[key] for key in ("name", "kind", "inputs", "outputs", "bias", "parameters")}
              for layer in run.parts[0].manifest["layers"]]
    head = {key: run.parts[0].manifest[key] for key in ("created_ms", "version", "seed", "worker", "model_parameters")}
    return {**head, "layers": layers, "blocks": blocks, "damage": damage}


def main(arguments):
    verbs = {
        "verify": (1, lambda run: verify(run)),
        "scores": (2, lambda run, name: scores(run, name)),
        "influence": (3, lambda run, name, example: influence(run, name, int(example))),
        "dump": (1, lambda run: dump(run)),
    }
    if not arguments or arguments[0] not in verbs or len(arguments) != 1 + verbs[arguments[0]][0]:
        print(__doc__, file=sys.stderr)
        return 2
    verb, path, *rest = arguments
    try:
        answer = verbs[verb][1](Run(path), *rest)
    except (NotARun, Newer, OSError) as error:
        newer = "of a newer version: " if isinstance(error, Newer) else ""
        print(f"error: {newer}{error}", file=sys.stderr)
        return 1
    except Damage as error:
        print(f"error: damage: {error}", file=sys.stderr)
        return 3
    print(json.dumps(answer, allow_nan=False))
    return 3 if answer["damage"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
