"""A run that was written from Python, against brute force in NumPy."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np
import polars as pl

import gradlog

from test_gradlog import COMMAND, ROOT


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


class Training:
    """Softmax regression by SGD, and everything that gradlog says of it by brute force."""

    def __init__(self, seed=0, examples=60, features=5, classes=3, epochs=4, batch=10, rate=0.3):
        random = np.random.default_rng(seed)
        self.x = random.normal(size=(examples, features))
        self.y = (self.x @ random.normal(size=(features, classes))).argmax(1)
        self.probe_x, self.probe_y = random.normal(size=(4, features)), random.integers(0, classes, 4)
        self.epochs, self.batch, self.rate, self.classes = epochs, batch, rate, classes
        self.orders = [random.permutation(examples) for _ in range(epochs)]
        self.tracin = np.zeros((examples, 4))
        self.self_influence = np.zeros(examples)
        self.margins, self.losses = [[] for _ in range(examples)], [[] for _ in range(examples)]
        self.el2n = [[] for _ in range(examples)]

    def gradients(self, w, x, y):
        p = softmax(x @ w)
        delta = p - np.eye(self.classes)[y]
        return np.einsum("bi,bj->bij", x, delta).reshape(len(x), -1), p

    def run(self, log, **options):
        w = np.zeros((self.x.shape[1], self.classes))
        probe_gradients = None
        for epoch, order in enumerate(self.orders):
            g, p = self.gradients(w, self.probe_x, self.probe_y)
            probe_gradients = g.astype(np.float32).astype(float)
            log.probes(
                "test", [3, 5, 7, 9], losses=-np.log(p[range(4), self.probe_y]), epoch=epoch, labels=self.probe_y,
                logits=self.probe_x @ w, gradients=g,
            )  # fmt: skip
            for ids in order.reshape(-1, self.batch):
                z = self.x[ids] @ w
                g, p = self.gradients(w, self.x[ids], self.y[ids])
                losses = -np.log(p[range(len(ids)), self.y[ids]])
                log.visits(
                    ids, losses=losses, epoch=epoch, learning_rate=self.rate, labels=self.y[ids], logits=z,
                    gradients=g, momentum=0.0, weight_decay=0.0, **options,
                )  # fmt: skip
                exact = g.astype(np.float32).astype(float)
                for place, example in enumerate(ids):
                    self.tracin[example] += self.rate / self.batch * exact[place] @ probe_gradients.T
                    self.self_influence[example] += self.rate / self.batch * exact[place] @ exact[place]
                    others = np.delete(z[place], self.y[example])
                    self.margins[example].append(z[place, self.y[example]] - others.max())
                    self.losses[example].append(losses[place])
                    self.el2n[example].append(np.linalg.norm(p[place] - np.eye(self.classes)[self.y[example]]))
                w -= self.rate / self.batch * g.sum(0).reshape(w.shape)


class Written(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.files = tempfile.TemporaryDirectory()
        cls.path = Path(cls.files.name) / "run"
        cls.training = Training()
        with gradlog.write_run(cls.path, notes={"model": "softmax regression"}) as log:
            cls.training.run(log)

    @classmethod
    def tearDownClass(cls):
        cls.files.cleanup()

    def test_the_command_verifies_it(self):
        said = subprocess.run([*COMMAND, "verify", str(self.path)], cwd=ROOT, capture_output=True, text=True)
        self.assertEqual(said.returncode, 0, said.stdout + said.stderr)
        info = gradlog.open(self.path).info
        self.assertEqual((info["visits"], info["examples"]), (240, 60))
        self.assertIn("softmax regression", str(info))

    def by_id(self, table):
        return pl.DataFrame(table).sort("example")

    def test_scores_are_those_of_their_definitions(self):
        run, training = gradlog.open(self.path), self.training
        for score, expected in [
            ("aum", [np.mean(one) for one in training.margins]),
            ("loss", [np.mean(one) for one in training.losses]),
            ("el2n", [np.mean(one) for one in training.el2n]),
            ("self-influence", training.self_influence),
        ]:
            found = self.by_id(run.scores(score))["score"].to_numpy()
            np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6, err_msg=score)

    def test_tracin_is_brute_force(self):
        run = gradlog.open(self.path)
        for column, probe in enumerate([3, 5, 7, 9]):
            found = self.by_id(run.influence("test", probe))["score"].to_numpy()
            np.testing.assert_allclose(found, self.training.tracin[:, column], rtol=1e-4, atol=1e-6)

    def test_gradients_come_back_as_they_were(self):
        found = gradlog.open(self.path).vectors(15, rows="visits", steps=0)
        g, _ = self.training.gradients(np.zeros((5, 3)), self.training.x, self.training.y)
        np.testing.assert_allclose(np.asarray(found.vectors), g[np.asarray(found.example)], rtol=1e-6)

    def test_every_other_question_has_an_answer(self):
        run = gradlog.open(self.path)
        self.assertEqual(len(run.suspects()), 60)
        self.assertEqual(len(run.data_map()), 60)
        for method in ["if", "ekfac", "datainf", "trak", "adjoint"]:
            self.assertEqual(len(run.influence("test", 3, method=method)), 60, method)
        run.report(Path(self.files.name) / "page.html")

    def test_probabilities_do_as_well_as_logits(self):
        z, y = np.random.default_rng(3).normal(size=(6, 4)), [0, 1, 2, 3, 0, 1]
        tables = []
        for name, given in [("a", {"logits": z}), ("b", {"probabilities": softmax(z)})]:
            path = Path(self.files.name) / name
            with gradlog.write_run(path) as log:
                log.visits(range(6), losses=np.ones(6), labels=y, **given)
            tables.append(pl.DataFrame(gradlog.open(path).visits(["margin", "el2n", "confidence", "prediction"])))
        for name in tables[0].columns:
            np.testing.assert_allclose(tables[0][name].to_numpy(), tables[1][name].to_numpy(), rtol=1e-5, atol=1e-6)

    def test_halves_are_close(self):
        path = Path(self.files.name) / "half"
        training = Training()
        with gradlog.write_run(path, half=True) as log:
            training.run(log)
        found = self.by_id(gradlog.open(path).influence("test", 3))["score"].to_numpy()
        np.testing.assert_allclose(found, training.tracin[:, 0], rtol=0.02, atol=2e-3 * abs(training.tracin).max())

    def test_what_is_not_given_is_not_recorded(self):
        path = Path(self.files.name) / "bare"
        with gradlog.write_run(path) as log:
            log.visits([1, 2], losses=[0.5, 0.25])
            log.visits([1, 2], losses=[0.5, np.nan], labels=[0, 1], learning_rate=0.1)
        run = gradlog.open(path)
        visits = pl.DataFrame(run.visits())
        self.assertEqual(visits["label"].to_list(), [None, None, 0, 1])
        self.assertEqual(visits["learning_rate"].is_null().to_list(), [True, True, False, False])
        self.assertEqual(visits["not_finite"].to_list(), [False, False, False, True])
        self.assertTrue(visits["no_gradient"].all())
        for ask in [lambda: run.scores("aum"), lambda: run.scores("self-influence"), lambda: run.vectors()]:
            with self.assertRaises(gradlog.GradlogError):
                ask()

    def test_what_is_missing_is_named_with_what_gives_it(self):
        def said(ask) -> str:
            with self.assertRaises(gradlog.GradlogError) as raised:
                ask()
            # Nothing of a training program in Rust.
            self.assertNotRegex(str(raised.exception), r"pass\.|Taps|recorder", str(raised.exception))
            return str(raised.exception)

        losses, rates = Path(self.files.name) / "losses", Path(self.files.name) / "no-rates"
        with gradlog.write_run(losses) as log:
            log.probes("test", [1], losses=[0.5])
            log.visits([1, 2], losses=[0.5, 0.25], learning_rate=0.1)
        run = gradlog.open(losses)
        self.assertIn("give `gradients` with each step", said(lambda: run.scores("self-influence")))
        self.assertIn("give `gradients` with each step", said(lambda: run.influence("test", 1)))
        self.assertIn("give `gradients` with each step", said(lambda: run.vectors()))
        self.assertIn("give `logits` or `probabilities`, and `labels`", said(lambda: run.scores("aum")))
        info = subprocess.run([*COMMAND, "info", str(losses)], cwd=ROOT, capture_output=True, text=True).stdout
        self.assertNotIn("detached", info)
        with gradlog.write_run(rates) as log:
            log.probes("test", [1], losses=[0.5], gradients=[[1.0, 2.0]])
            log.visits([1, 2], losses=[0.5, 0.25], gradients=[[1.0, 2.0], [0.5, 0.25]])
        run = gradlog.open(rates)
        for ask in [
            lambda: run.scores("self-influence"),
            lambda: run.influence("test", 1),
            lambda: run.vectors(rows="applied"),
        ]:
            self.assertRegex(said(ask), "learning rates.*give `learning_rate` with each step")

    def test_what_is_given_may_change_from_step_to_step(self):
        path = Path(self.files.name) / "changes"
        some = [
            dict(),
            dict(labels=[0, 1], logits=[[1, 2, 3], [3, 2, 1]], learning_rate=0.1),
            dict(labels=[0, 1]),
            dict(targets=[1, 2], outputs=[0.5, 1]),
            dict(learning_rate=0.2, momentum=0.9),
            dict(),
        ]
        with gradlog.write_run(path) as log:
            for given in some:
                log.visits([1, 2], losses=[1, 2], **given)
        visits = pl.DataFrame(gradlog.open(path).visits())
        self.assertEqual(visits.height, 2 * len(some))
        self.assertEqual(visits["label"].is_not_null().to_list(), [False] * 2 + [True] * 4 + [False] * 6)
        self.assertEqual(visits["target"].is_not_null().to_list(), [False] * 6 + [True] * 2 + [False] * 4)
        said = subprocess.run([*COMMAND, "verify", str(path)], cwd=ROOT, capture_output=True, text=True)
        self.assertEqual(said.returncode, 0, said.stdout + said.stderr)

    def test_a_program_that_ends_or_is_killed_leaves_what_it_wrote(self):
        script = (
            "import gradlog, sys, time, os\n"
            "log = gradlog.write_run(sys.argv[1])\n"
            "log.visits([1, 2], losses=[1, 2])\n"
            "if sys.argv[2] == 'kill':\n"
            "    time.sleep(1.1)\n"
            "    log.visits([3], losses=[1])\n"
            "    log.visits([4], losses=[1])\n"
            "    os.kill(os.getpid(), 9)\n"
        )
        for how, expected in [("end", [1, 2]), ("kill", [1, 2, 3])]:
            path = Path(self.files.name) / how
            subprocess.run([sys.executable, "-c", script, str(path), how])
            self.assertEqual(pl.DataFrame(gradlog.open(path).visits(["example"]))["example"].to_list(), expected)

    def test_ids_have_64_bits(self):
        path = Path(self.files.name) / "ids"
        with gradlog.write_run(path) as log:
            log.visits([2**64 - 1, 2**63, 0], losses=[1, 2, 3])
        self.assertEqual(
            pl.DataFrame(gradlog.open(path).visits(["example"]))["example"].to_list(), [2**64 - 1, 2**63, 0]
        )

    def test_what_does_not_fit_is_refused_and_nothing_is_lost(self):
        path = Path(self.files.name) / "refused"
        with gradlog.write_run(path) as log:
            log.visits([1, 2], losses=[0.5, 0.25], gradients=np.ones((2, 3)))
            for words, given in [
                ("one for each example", dict(ids=[[1, 2]], losses=[1, 1])),
                ("whole numbers from 0", dict(ids=[-1, 2], losses=[1, 1])),
                ("has the shape", dict(ids=[1, 2], losses=[1])),
                ("the run began with gradients of 3", dict(ids=[1, 2], losses=[1, 1])),
                ("began with gradients of 3", dict(ids=[1, 2], losses=[1, 1], gradients=np.ones((2, 4)))),
                ("classes from 0", dict(ids=[1, 2], losses=[1, 1], labels=[-1, 0])),
                ("not both", dict(ids=[1], losses=[1], logits=[[1, 2]], probabilities=[[0.5, 0.5]])),
                ("add up to 1", dict(ids=[1], losses=[1], probabilities=[[0.5, 0.9]])),
                ("there is a label 5", dict(ids=[1], losses=[1], labels=[5], logits=[[1, 2]])),
                ("count from 0", dict(ids=[1], losses=[1], step=-3)),
                ("count from 0", dict(ids=[1], losses=[1], step=2**64)),
                ("epochs count from 0", dict(ids=[1], losses=[1], epoch=-1)),
                ("learning_rate is nan", dict(ids=[1], losses=[1], learning_rate=float("nan"))),
                ("weights are finite", dict(ids=[1], losses=[1], weights=[float("inf")])),
                ("belong together", dict(ids=[1], losses=[1], targets=[1])),
                ("from 0 to 2^64 - 1", dict(ids=[2**64], losses=[1])),
                ("no examples", dict(ids=np.array([], dtype=int), losses=[])),
            ]:
                with self.assertRaises(ValueError, msg=words) as caught:
                    log.visits(given.pop("ids"), **given)
                self.assertIn(words, str(caught.exception))
            log.visits([3], losses=[1], gradients=np.ones((1, 3)))
        self.assertEqual(pl.DataFrame(gradlog.open(path).visits(["example"]))["example"].to_list(), [1, 2, 3])
        with self.assertRaises(ValueError):
            log.visits([1], losses=[1])
        with self.assertRaises(FileExistsError):
            gradlog.write_run(path)
        with self.assertRaises(ValueError):
            gradlog.write_run("")
        with self.assertRaisesRegex(ValueError, "model_parameters is -1"):
            gradlog.write_run(path / "other", model_parameters=-1)

    def test_a_training_that_dies_leaves_a_run(self):
        path = Path(self.files.name) / "dies"
        with self.assertRaises(ZeroDivisionError):
            with gradlog.write_run(path) as log:
                log.visits([1, 2], losses=[0.5, 0.25], learning_rate=0.1)
                1 / 0
        run = gradlog.open(path)
        self.assertEqual(len(run.scores("loss")), 2)


if __name__ == "__main__":
    unittest.main()
