"""The package against the command, and in the hands of polars, pyarrow, DuckDB, pandas and NumPy.

Needs polars, pyarrow, duckdb, pandas and numpy. ``GRADLOG`` names the command and ``GRADLOG_RUN`` a run of
``examples/mnist``. Without them both are made by cargo.
"""

import io
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import warnings
from pathlib import Path
from unittest import mock

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

import gradlog

ROOT = Path(__file__).resolve().parents[3]
FILES = tempfile.TemporaryDirectory()


def find_command() -> list[str]:
    if "GRADLOG" in os.environ:
        return [os.environ["GRADLOG"]]
    return ["cargo", "run", "--quiet", "--release", "--bin", "gradlog", "--"]


def find_run() -> str:
    if "GRADLOG_RUN" in os.environ:
        return os.environ["GRADLOG_RUN"]
    out = Path(FILES.name) / "mnist"
    line = ["cargo", "run", "--quiet", "--release", "--example", "mnist", "--"]
    subprocess.run([*line, "--out", str(out), "--epochs", "2", "--limit", "2000"], cwd=ROOT, check=True)
    return str(out / "run")


COMMAND, RUN = find_command(), find_run()


def command(*arguments: str) -> str:
    return subprocess.run([*COMMAND, *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def read_csv(text: str) -> pl.DataFrame:
    return pl.read_csv(io.StringIO(text), comment_prefix="#", infer_schema_length=None)


class SameAsTheCommand(unittest.TestCase):
    """Every number is that of the command, bit for bit."""

    def compare(self, table: gradlog.Table, *arguments: str) -> None:
        told, found = read_csv(command(*arguments, "--format", "csv")), pl.DataFrame(table)
        self.assertEqual(told.columns, found.columns)
        self.assertEqual(told.height, found.height)
        self.assertGreater(found.height, 0)
        for name in told.columns:
            a, b = told[name].to_list(), found[name].to_list()
            for one, other in zip(a, b):
                if isinstance(one, bool) and isinstance(other, float):
                    one = float(one)
                # CSV has no difference between no text and an empty one.
                one = "" if one is None and isinstance(other, str) else one
                same = one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other))
                self.assertTrue(same, f"{arguments}: {name}: {one!r} and {other!r}")
        basis = command(*arguments, "--format", "csv").splitlines()[0].removeprefix("# ")
        self.assertEqual(table.basis, basis)

    def test_scores(self):
        run = gradlog.open(RUN)
        for score in ["aum", "loss", "el2n", "grand", "self-influence", "forgetting", "confidence", "variability"]:
            self.compare(run.scores(score), "scores", RUN, "--score", score)
        self.compare(run.scores("aum", epochs=1), "scores", RUN, "--score", "aum", "--epochs", "1")
        self.compare(
            run.scores("loss", steps=range(3, 20)), "scores", RUN, "--score", "loss", "--steps", "3..20"
        )

    def test_lists(self):
        run = gradlog.open(RUN)
        self.compare(run.suspects(), "suspects", RUN)
        self.compare(run.data_map(), "map", RUN)
        self.compare(run.example(7), "example", RUN, "--id", "7")
        self.compare(run.similar(7, 5), "similar", RUN, "--example", "7", "--top", "5")

    def test_influence(self):
        run, probe = gradlog.open(RUN), ["influence", RUN, "--probe", "test"]
        self.compare(run.influence("test", 2), *probe, "--id", "2")
        self.compare(run.influence("test", 2, top=4), *probe, "--id", "2", "--top", "4")
        self.compare(run.influence("test", ids=[1, 2], mean=True), *probe, "--ids", "1,2")
        self.compare(run.influence("test", label=3, mean=True), *probe, "--class", "3")
        self.compare(run.influence("test"), *probe, "--all")
        self.compare(run.influence("test", 2, normalize="cosine"), *probe, "--id", "2", "--normalize", "cosine")
        self.compare(
            run.influence("test", 2, method="datainf", damping=0.5),
            *probe, "--id", "2", "--method", "datainf", "--damping", "0.5",
        )  # fmt: skip
        self.compare(run.influence("test", 2, method="trak"), *probe, "--id", "2", "--method", "trak")

    def test_info(self):
        import json

        self.assertEqual(gradlog.open(RUN).info, json.loads(command("info", RUN, "--format", "json")))

    def test_records_are_those_of_the_exported_file(self):
        run = gradlog.open(RUN)
        for table in ["visits", "probes", "steps", "gaps", "events", "checkpoints", "checks", "sweeps"]:
            path = str(Path(FILES.name) / f"{table}.parquet")
            command("export", RUN, "--to", path, "--table", table)
            from_file, found = pq.read_table(path), pa.table(run.records(table))
            self.assertEqual(found.column_names, from_file.column_names)
            self.assertTrue(found.equals(from_file), table)
            duck = duckdb.sql(f"select count(*) from '{path}'").fetchall()
            self.assertEqual(duck, [(found.num_rows,)])


class InOtherHands(unittest.TestCase):
    def test_every_library_takes_a_table(self):
        run = gradlog.open(RUN)
        visits = run.visits(["example", "epoch", "loss"])
        frame = pl.DataFrame(visits)
        self.assertEqual(frame.schema["example"], pl.UInt64)
        self.assertEqual(pa.table(visits).num_rows, frame.height)
        self.assertEqual(pd.DataFrame.from_arrow(visits).shape, frame.shape)
        found = duckdb.sql("select epoch, count(*) from visits group by epoch order by epoch").fetchall()
        self.assertEqual(sum(count for _, count in found), frame.height)
        # A table can be read twice.
        self.assertTrue(pl.DataFrame(visits).equals(frame))

    def test_vectors_are_a_matrix_without_a_copy(self):
        found = gradlog.open(RUN).vectors(64)
        matrix, again = np.asarray(found.vectors), np.asarray(found.vectors)
        self.assertEqual(matrix.shape, (len(found), 64))
        self.assertEqual(matrix.__array_interface__["data"], again.__array_interface__["data"])
        self.assertFalse(matrix.flags.writeable)
        path = str(Path(FILES.name) / "vectors.npy")
        command("export", RUN, "--out", path, "--numbers", "64")
        told = np.load(path)
        np.testing.assert_array_equal(told["vectors"], matrix)
        np.testing.assert_array_equal(told["example"], np.asarray(found.example))
        # The array keeps its numbers alive.
        norms = np.asarray(found.norm)
        del found
        self.assertTrue(np.isfinite(norms).all() and np.allclose(norms, told["norm"]))

    def test_a_notebook_shows_a_table(self):
        table = gradlog.open(RUN).suspects()
        self.assertIn("<table>", table._repr_html_())
        self.assertIn(f"{len(table)} rows", repr(table))

    def test_the_page_is_that_of_the_command(self):
        path = Path(FILES.name) / "page.html"
        gradlog.open(RUN).report(path)
        self.assertTrue(path.read_text().lstrip().lower().startswith("<!doctype html>"))


class Errors(unittest.TestCase):
    def test_errors_have_the_words_of_the_library(self):
        run = gradlog.open(RUN)
        for words, ask in [
            ("is not a gradlog run", lambda: gradlog.open("/nonexistent")),
            ("one of self-influence", lambda: run.scores("nonsense")),
            ("there are example, step", lambda: run.visits(["lost"])),
            ("has no probe set `nope`", lambda: run.influence("nope", 1)),
            ("does not hold example", lambda: run.influence("test", 10**15)),
            ("there are visits of epochs", lambda: run.scores("aum", epochs=range(70, 90))),
            ("is no stretch of epochs", lambda: run.scores("aum", epochs=range(5, 2))),
            ("settings of another method", lambda: run.influence("test", 1, damping=0.1)),
            ("there is no table", lambda: run.records("nothing")),
            ("steps have no gradients", lambda: run.steps(stored_gradients=True)),
        ]:
            with self.assertRaises(gradlog.GradlogError) as caught:
                ask()
            self.assertIn(words, str(caught.exception))
        with self.assertRaises(ValueError):
            run.influence("test", 1, ids=[2])

    def test_numbers_that_do_not_fit_are_named(self):
        run = gradlog.open(RUN)
        for ask, words in [
            (lambda: run.example(-1), "id is -1: it is a whole number from 0 to 18446744073709551615"),
            (lambda: run.example(2**64), f"id is {2**64}: "),
            (lambda: run.similar(-2), "id is -2: "),
            (lambda: run.similar(1, top=-1), "top is -1: "),
            (lambda: run.similar(1, dim=-1), "dim is -1: "),
            (lambda: run.vectors(-5), "dim is -5: "),
            (lambda: run.vectors(5, bytes_max=-1), "bytes_max is -1: "),
            (lambda: run.influence("test", id=-3), "id is -3: "),
            (lambda: run.influence("test", ids=[1, -4]), "ids[1] is -4: "),
            (lambda: run.influence("test", label=-1), "label is -1: "),
            (lambda: run.influence("test", top=-1), "top is -1: "),
            (lambda: run.influence("test", method="if", length=-1), "length is -1: "),
            (lambda: run.scores("loss", epochs=-1), "epochs and steps are a number or a range"),
            (lambda: run.visits(steps=range(-1, 3)), "range(-1, 3, 1) is no stretch of epochs or steps"),
        ]:
            with self.assertRaises(ValueError) as raised:
                ask()
            self.assertIn(words, str(raised.exception))
        with self.assertRaises(TypeError):
            run.example(1.5)

    def test_damage_warns_and_ends_a_table_with_an_error(self):
        damaged = Path(FILES.name) / "damaged"
        shutil.copytree(RUN, damaged)
        segment = sorted(damaged.glob("segment-*.glog"))[0]
        data = bytearray(segment.read_bytes())
        half = len(data) // 2
        data[half:] = b"\x55" * (len(data) - half)
        segment.write_bytes(data)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            run = gradlog.open(damaged)
            scores = run.scores("loss")
        self.assertTrue(any(issubclass(one.category, gradlog.DamageWarning) for one in told))
        self.assertGreater(len(scores), 0)
        with self.assertRaisesRegex(Exception, "damaged"):
            pa.table(run.visits(stored_gradients=True))
        part = pa.table(run.visits(stored_gradients=True, allow_damage=True)).num_rows
        self.assertLess(part, pa.table(gradlog.open(RUN).visits(["example"])).num_rows)

    def test_hostile_runs_never_crash(self):
        """The whole corpus of the fuzz targets, in a process of its own, which no signal may end."""
        script = Path(__file__).with_name("hostile_runs.py")
        line = [sys.executable, str(script), str(Path(FILES.name) / "hostile")]
        ended = subprocess.run(line, capture_output=True, text=True, timeout=1800)
        last = ended.stdout.splitlines()[-1] if ended.stdout else "nothing"
        self.assertEqual(ended.returncode, 0, f"it ended at {last}\n{ended.stderr}")
        seen, opened, answered, failed = (int(number) for number in re.findall(r"\d+", last))
        self.assertGreater(seen, 400, last)
        self.assertGreater(opened, 200, last)
        self.assertGreater(answered, 2000, last)
        self.assertGreater(failed, 1000, last)


class WhileItRuns(unittest.TestCase):
    def test_other_threads_go_on(self):
        run, beats, done = gradlog.open(RUN), [], threading.Event()

        def beat():
            while not done.is_set():
                beats.append(time.monotonic())
                time.sleep(0.001)

        thread = threading.Thread(target=beat)
        thread.start()
        begin = time.monotonic()
        run.influence("test", method="datainf")
        end = time.monotonic()
        done.set()
        thread.join()
        during = sum(begin < beat < end for beat in beats)
        self.assertGreater(during, 0.2 * (end - begin) / 0.001 if end - begin > 0.05 else 0)

    @unittest.skipIf(sys.platform == "win32", "signals are of another kind there")
    def test_ctrl_c_ends_a_question(self):
        # One question after another, so that one is sure to run when the signal comes, with tqdm's bar if it is there.
        script = (
            "import gradlog, sys\n"
            "run = gradlog.open(sys.argv[1])\n"
            "print('ready', flush=True)\n"
            "while True: run.influence('test', method='datainf')\n"
        )
        child = subprocess.Popen([sys.executable, "-c", script, RUN], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual(child.stdout.readline().strip(), b"ready")
        time.sleep(0.5)
        child.send_signal(signal.SIGINT)
        _, words = child.communicate(timeout=60)
        self.assertIn(b"KeyboardInterrupt", words)

    def test_ctrl_c_that_reaches_the_bar_ends_a_question(self):
        from gradlog import _bars

        class Bar:
            def update(self, _):
                raise KeyboardInterrupt

            def close(self):
                pass

        path, random = Path(FILES.name) / "long", np.random.default_rng(0)
        with gradlog.write_run(path) as log:
            log.probes("test", range(50), losses=np.ones(50), gradients=random.normal(size=(50, 256)))
            for _ in range(60):
                g = random.normal(size=(1000, 256))
                log.visits(range(1000), losses=np.ones(1000), gradients=g, learning_rate=0.1)
        run = gradlog.open(path)
        with mock.patch.object(_bars, "open_bar", lambda total: Bar()), self.assertRaises(KeyboardInterrupt):
            for _ in range(100):
                run.influence("test", method="if")

    def test_the_import_is_quick_and_needs_nothing(self):
        script = (
            "import sys, time\n"
            "begin = time.perf_counter()\n"
            "import gradlog\n"
            "took = time.perf_counter() - begin\n"
            "others = {'numpy', 'pyarrow', 'pandas', 'polars'} & set(sys.modules)\n"
            "print(took, others or '')\n"
        )
        took = min(
            float(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout)
            for _ in range(5)
        )
        self.assertLess(took, 0.2)


if __name__ == "__main__":
    unittest.main()
