"""A run written from Python, for models that were trained with something else than candle."""

from __future__ import annotations

import operator
import os
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

from ._gradlog import Writer as _Writer

_NO_CLASS = 2**32 - 1


def write_run(
    path: str | os.PathLike[str],
    *,
    half: bool = False,
    notes: Mapping[str, str] | None = None,
    model_parameters: int | None = None,
) -> RunWriter:
    """Begins a run in a new folder. Every score, the page and the command take it.

    Use it in a ``with`` statement, and call :meth:`RunWriter.visits` for each step of the training, before the step::

        with gradlog.write_run("runs/mine") as log:
            for epoch in range(epochs):
                for ids, x, y in batches:
                    ...
                    log.visits(ids, epoch=epoch, losses=losses, logits=logits, labels=y, learning_rate=rate,
                               gradients=each_examples_own_gradient)

    ``half`` rounds gradients to 16 bits. ``notes`` are shown by ``gradlog info``. Needs NumPy.

    The folder is made with the first rows. Rows are on disk at the latest with the first call that comes a second
    after them, and when the run is closed or the program ends.

    Raises ``FileExistsError`` if the folder holds a run.
    """
    return RunWriter(path, half=half, notes=notes, model_parameters=model_parameters)


class RunWriter:
    """A run that is being written. :func:`gradlog.write_run` makes it.

    Arrays are whatever ``numpy.asarray`` takes; of a tensor of PyTorch, give ``tensor.detach().cpu()``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        half: bool,
        notes: Mapping[str, str] | None,
        model_parameters: int | None,
    ) -> None:
        self._path, self._half = os.fspath(path), bool(half)
        if not self._path:
            raise ValueError("the path of a run is empty")
        if os.path.exists(os.path.join(self._path, "manifest")):
            raise FileExistsError(f"{self._path} holds a run")
        self._notes = [(str(name), str(note)) for name, note in (notes or {}).items()]
        if model_parameters is not None and not 0 <= operator.index(model_parameters) < 2**64:
            raise ValueError(f"model_parameters is {model_parameters}: it is a whole number from 0")
        self._model_parameters = model_parameters
        self._writer: Any = None
        self._dim = 0
        self._next = 0
        self._closed = False

    def visits(
        self,
        ids: Any,
        *,
        losses: Any,
        epoch: int = 0,
        step: int | None = None,
        learning_rate: float | None = None,
        labels: Any = None,
        logits: Any = None,
        probabilities: Any = None,
        targets: Any = None,
        outputs: Any = None,
        gradients: Any = None,
        weights: Any = None,
        momentum: float | None = None,
        weight_decay: float | None = None,
    ) -> None:
        """The examples of one optimizer step, with the weights as they are before it.

        ``ids`` name the training examples, ``[batch]``. ``losses`` are each example's own, ``[batch]``. ``logits`` or
        ``probabilities``, ``[batch, classes]``, and ``labels``, ``[batch]``, give EL2N, margin, confidence,
        correctness and prediction; of a regression with one output, give ``targets`` and ``outputs``. ``gradients``,
        ``[batch, numbers]``, are each example's own gradient of its own loss, whole or projected to fewer numbers by
        one matrix for the whole run.

        ``weights`` are the weights of the losses in the loss of the step, ``1 / batch`` each by default. Steps count
        from 0, unless ``step`` says otherwise, and never fall. TracIn and self-influence need ``learning_rate``.
        ``momentum`` and ``weight_decay`` say that the step was one of SGD with these.
        """
        epoch = _epoch(epoch)
        step = self._next if step is None else operator.index(step)
        if not 0 <= step < 2**64:
            raise ValueError(f"step is {step}: steps count from 0")
        if step < self._next - 1:
            raise ValueError(f"step {step} comes after step {self._next - 1}: steps never fall")
        for name, value in [("learning_rate", learning_rate), ("momentum", momentum), ("weight_decay", weight_decay)]:
            if value is not None and not (0 <= value < float("inf")):
                raise ValueError(f"{name} is {value}: it is a number from 0")
        count, columns = self._columns(
            ids, losses, labels, logits, probabilities, targets, outputs, gradients, weights
        )
        rate = None if learning_rate is None else float(learning_rate)
        self._writer.visits(count, columns, step, epoch, rate, momentum, weight_decay)
        self._next = step + 1

    def probes(
        self,
        set: str,
        ids: Any,
        *,
        losses: Any,
        epoch: int = 0,
        labels: Any = None,
        logits: Any = None,
        probabilities: Any = None,
        targets: Any = None,
        outputs: Any = None,
        gradients: Any = None,
    ) -> None:
        """Examples whose answers are to be explained, such as those of a test set, before the next step.

        Arguments as in :meth:`visits`. Call it at several times of the training, such as the end of each epoch:
        ``gradlog influence`` then takes each step's gradients with those of the nearest earlier probes.
        """
        epoch = _epoch(epoch)
        count, columns = self._columns(
            ids, losses, labels, logits, probabilities, targets, outputs, gradients, None
        )
        self._writer.probes(set, count, columns, self._next, epoch)

    def close(self) -> None:
        """Ends the run."""
        self._close(True)

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._close(kind is None)

    def _close(self, finished: bool) -> None:
        if not self._closed and self._writer is not None:
            self._writer.close(finished)
        self._closed = True

    def _open(self, dim: int) -> None:
        if self._closed:
            raise ValueError("the run is closed")
        if self._writer is None:
            self._dim = dim
            self._writer = _Writer(self._path, dim, self._half, self._notes, self._model_parameters)
            # A program that ends without closing the run loses nothing.
            self._end = weakref.finalize(self, self._writer.close, False)
        elif dim != self._dim:
            told, now = (f"gradients of {d} numbers" if d else "no gradients" for d in (self._dim, dim))
            raise ValueError(f"the run began with {told}, and these have {now}")

    def _columns(
        self,
        ids: Any,
        losses: Any,
        labels: Any,
        logits: Any,
        probabilities: Any,
        targets: Any,
        outputs: Any,
        gradients: Any,
        weights: Any,
    ) -> tuple[int, dict[str, bytes]]:
        try:
            import numpy as np
        except ImportError as error:
            raise ImportError("gradlog.write_run needs NumPy: pip install numpy") from error

        numbers = np.asarray(ids)
        if numbers.size == 0:
            raise ValueError("there are no examples")
        if not np.issubdtype(numbers.dtype, np.integer):
            # NumPy makes floats or objects of a list with ids from 2^63.
            try:
                numbers = np.array([operator.index(one) for one in ids], dtype=np.uint64)
            except (TypeError, OverflowError):
                numbers = np.array(-1)
        if numbers.ndim != 1 or numbers.min() < 0:
            raise ValueError("ids are whole numbers from 0 to 2^64 - 1, one for each example")
        count = len(numbers)

        def column(name: str, values: Any) -> Any:
            found = np.asarray(values, dtype=np.float64)
            if found.shape != (count,):
                raise ValueError(f"{name} has the shape {list(found.shape)}, and there are {count} ids")
            return found

        columns = {"example": numbers, "loss": column("losses", losses)}
        columns["coefficient"] = np.full(count, 1 / count) if weights is None else column("weights", weights)
        if not np.isfinite(columns["coefficient"]).all():
            raise ValueError("weights are finite numbers")
        if (targets is None) != (outputs is None):
            raise ValueError("targets and outputs belong together")
        if logits is not None and probabilities is not None:
            raise ValueError("give logits or probabilities, not both")
        if labels is not None:
            given = np.asarray(labels)
            if given.shape != (count,) or not np.issubdtype(given.dtype, np.integer):
                raise ValueError("labels are whole numbers, one for each example")
            if given.min() < 0 or given.max() >= _NO_CLASS:
                raise ValueError("labels are classes from 0")
            columns["label"] = given
        if logits is not None or probabilities is not None:
            columns |= _outputs(np, count, labels, logits, probabilities)
        for name, values in [("target", targets), ("output", outputs)]:
            if values is not None:
                columns[name] = column(name + "s", values)
        dim = 0
        if gradients is not None:
            found = np.asarray(gradients, dtype=np.float32)
            if found.ndim < 2 or found.shape[0] != count or found[0].size == 0:
                raise ValueError(f"gradients have the shape {list(found.shape)}: it is [{count}, numbers]")
            found = found.reshape(count, -1)
            dim = found.shape[1]
            columns["gradient"] = found
        self._open(dim)
        kinds = {"example": "<u8", "label": "<u4", "prediction": "<u4"}
        with np.errstate(over="ignore"):
            packed = {
                name: np.ascontiguousarray(values, dtype=kinds.get(name, "<f4")).tobytes()
                for name, values in columns.items()
            }
        return count, packed


def _epoch(epoch: int) -> int:
    epoch = operator.index(epoch)
    if not 0 <= epoch < 2**32:
        raise ValueError(f"epoch is {epoch}: epochs count from 0")
    return epoch


def _outputs(np: Any, count: int, labels: Any, logits: Any, probabilities: Any) -> dict[str, Any]:
    """EL2N, margin, confidence, correctness and prediction, by their definitions."""
    given = np.asarray(probabilities if logits is None else logits, dtype=np.float64)
    name = "probabilities" if logits is None else "logits"
    if given.ndim != 2 or given.shape[0] != count or given.shape[1] < 2:
        raise ValueError(f"{name} have the shape {list(given.shape)}: it is [{count}, classes], with 2 classes or more")
    if logits is None:
        if not (np.all(given >= 0) and np.allclose(given.sum(1), 1, atol=1e-3)):
            raise ValueError("probabilities are not negative and add up to 1 for each example")
        p = given
        with np.errstate(divide="ignore"):
            z = np.log(p)
    else:
        z = given
        # A row with a NaN or an infinity stays one.
        with np.errstate(invalid="ignore"):
            shifted = np.exp(z - z.max(1, keepdims=True))
            p = shifted / shifted.sum(1, keepdims=True)
    found: dict[str, Any] = {"prediction": given.argmax(1)}
    if labels is None:
        return found
    y = np.asarray(labels)
    if y.max() >= given.shape[1]:
        raise ValueError(f"there is a label {y.max()}, and {name} have {given.shape[1]} classes")
    rows = np.arange(count)
    one_hot = np.zeros_like(p)
    one_hot[rows, y] = 1
    others = z.copy()
    others[rows, y] = -np.inf
    with np.errstate(invalid="ignore"):
        found["margin"] = z[rows, y] - others.max(1)
    found["el2n"] = np.linalg.norm(p - one_hot, axis=1)
    found["confidence"] = p[rows, y]
    found["correct"] = (found["prediction"] == y).astype(np.float64)
    return found


__all__: Iterable[str] = ["RunWriter", "write_run"]
