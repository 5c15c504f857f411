"""The corpus of the fuzz targets as runs: every seed, whole and with bytes turned over, asked everything.

``fuzz/src/lib.rs`` says how a seed becomes files; this is the same in Python. ``python hostile_runs.py FOLDER`` asks
them all and prints how many questions had an answer and how many raised an error. Anything else than
``gradlog.GradlogError`` or ``OSError`` ends it with a traceback, and a crash with a signal.
"""

import random
import shutil
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SEEDS = ROOT / "fuzz" / "seeds"
MANIFEST = (ROOT / "tests" / "data" / "v1" / "manifest").read_bytes()
NAMES = [
    "manifest", "segment-00000.glog", "segment-00001.glog", "segment-00002.glog",
    "segment-00003.glog", "segment-00007.glog", "lock", "manifest.new",
]  # fmt: skip
PARTS = ["", "worker-0000", "worker-0001", "worker-0002"]
# How often each seed is asked again with bytes turned over.
VARIANTS = 6


def seal(data: bytearray, begin: int, end: int, place: int) -> None:
    if begin <= end <= len(data) and place + 4 <= len(data):
        data[place : place + 4] = struct.pack("<I", zlib.crc32(data[begin:end]))


def seal_segment(data: bytearray) -> None:
    """Makes the checksums match, so that what they guard is tested."""
    seal(data, 0, 60, 60)
    at = 64
    while len(data) >= at + 64 and data[at : at + 4] == b"GBLK":
        columns = struct.unpack_from("<H", data, at + 6)[0]
        frame = at + 64 + 24 * columns
        for entry in range(at + 64, at + 64 + 24 * columns, 24):
            if entry + 16 > len(data):
                break
            end = frame + struct.unpack_from("<I", data, entry + 12)[0]
            seal(data, frame, end, entry + 20)
            frame = end
        seal(data, at + 64, at + 64 + 24 * columns, at + 56)
        seal(data, at, at + 60, at + 60)
        length = struct.unpack_from("<I", data, at + 16)[0]
        if length < 64:
            return
        at += length


def sealed_manifest(payload: bytes) -> bytes:
    head = MANIFEST[:12] + struct.pack("<I", len(payload))
    return head + struct.pack("<I", zlib.crc32(head + payload)) + payload


def segment_files(seed: bytes) -> dict[str, bytes]:
    data = bytearray(MANIFEST[:8] + bytes([1, 0, 2, 0]) + struct.pack("<I", 0) + MANIFEST[20:36])
    data += bytes(64 - len(data)) + seed[1:]
    if seed[0] % 4:
        seal_segment(data)
    else:
        seal(data, 0, 60, 60)
    return {"manifest": MANIFEST, NAMES[1]: bytes(data)}


def manifest_files(seed: bytes) -> dict[str, bytes]:
    return {"manifest": sealed_manifest(seed[1:]) if seed[0] % 2 else seed[1:]}


def run_files(seed: bytes) -> dict[str, bytes]:
    files, rest = {}, seed
    while len(rest) >= 3:
        name, length = rest[0], struct.unpack_from("<H", rest, 1)[0]
        data, rest = bytearray(rest[3 : 3 + length]), rest[3 + length :]
        file = NAMES[name % 8]
        if name >= 128 and file == "manifest" and len(data) >= 20:
            data = bytearray(sealed_manifest(bytes(data[20:])))
        elif name >= 128:
            seal_segment(data)
        files[str(Path(PARTS[name // 8 % 4]) / file)] = bytes(data)
    return files


def analysis_files(seed: bytes) -> dict[str, bytes]:
    return run_files(seed[1:])


def runs() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Every seed and its variants, as files by their names."""
    for target, unpack in [
        ("manifest", manifest_files), ("segment", segment_files), ("run", run_files), ("analysis", analysis_files),
    ]:  # fmt: skip
        for path in sorted((SEEDS / target).iterdir()):
            seed = path.read_bytes()
            if not seed:
                continue
            yield f"{target}/{path.name}", unpack(seed)
            draws = random.Random(f"{target}/{path.name}")
            for variant in range(VARIANTS):
                turned = bytearray(seed)
                for _ in range(draws.randint(1, 4)):
                    turned[draws.randrange(len(turned))] = draws.choice([0, 1, 0x7F, 0x80, 0xFF, draws.randrange(256)])
                if target == "segment":
                    # Checksums match, or most of them would hide behind the first that does not.
                    turned[0] |= 1
                yield f"{target}/{path.name}, variant {variant}", unpack(bytes(turned))


def questions(run):
    import gradlog

    yield lambda: run.info
    for table in ["visits", "sweeps", "probes", "steps", "gaps", "events", "checkpoints", "checks", "cards"]:
        gradients = table in ("visits", "probes", "sweeps")
        for damage in [False, True]:
            yield lambda: gather(run.records(table, stored_gradients=gradients, allow_damage=damage))
    for score in ["aum", "loss", "el2n", "grand", "self-influence", "forgetting", "confidence", "correctness"]:
        yield lambda: run.scores(score)
    yield lambda: run.scores("loss", at="sweep")
    yield run.suspects
    yield run.data_map
    yield lambda: run.example(0)
    yield lambda: run.similar(0, dim=16)
    yield lambda: run.vectors(16)
    yield lambda: run.vectors(16, "visits")
    try:
        sets = [probe_set["name"] for probe_set in run.info["probes"]]
    except (gradlog.GradlogError, OSError):
        sets = []
    for name in [*sets[:2], "test"]:
        for method in ["tracin", "if", "ekfac", "datainf", "trak", "adjoint"]:
            length = None if method == "tracin" else 32
            yield lambda: run.influence(name, method=method, length=length)


def gather(table) -> None:
    """Reads a table to its end, by the Arrow C stream."""
    import pyarrow as pa

    try:
        pa.table(table)
    except pa.ArrowException as error:
        # What a stream says reaches pyarrow as text.
        raise OSError(str(error)) from error


def main(folder: Path) -> None:
    import gradlog

    warnings.simplefilter("ignore")
    refused = (gradlog.GradlogError, OSError)
    seen = opened = answered = failed = 0
    for name, files in runs():
        # The last line says which run ended the process.
        print(name, flush=True)
        seen += 1
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for file, data in files.items():
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_bytes(data)
        try:
            run = gradlog.open(folder)
        except refused:
            continue
        opened += 1
        for ask in questions(run):
            try:
                ask()
                answered += 1
            except refused:
                failed += 1
    print(f"{seen} runs, {opened} opened, {answered} answers, {failed} errors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
