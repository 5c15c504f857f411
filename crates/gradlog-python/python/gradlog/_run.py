"""A run, and what can be asked of it."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Iterable, Sequence
from typing import Any

from ._gradlog import GradlogError
from ._gradlog import Run as _Run
from ._gradlog import Table, Vectors

Span = int | range


def open(path: str | os.PathLike[str]) -> Run:
    """Opens the folder of a run.

    Warns with :class:`DamageWarning` if the run is damaged: answers then cover what lies before the damage.

    Raises :class:`GradlogError` if the folder holds no run, and ``OSError`` if it cannot be read.
    """
    return Run(path)


class Run:
    """A recorded run. :func:`gradlog.open` opens it.

    ``epochs`` and ``steps`` choose a part of a run, everywhere: one number, or a ``range`` such as ``range(2, 5)``.
    ``at`` chooses what counts: ``"visits"`` of the training, ``"sweep"`` for examples that a replay took through the
    model at all checkpoints, or ``"sweep:STEP"`` for those at one. ``optimizer`` says what the steps are taken for:
    ``"recorded"`` as the optimizer told, or ``"sgd"``.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._run = _Run(os.fspath(path))

    def __repr__(self) -> str:
        return f"gradlog.open({str(self.path)!r})"

    @property
    def path(self) -> str:
        """The folder."""
        return os.fspath(self._run.path)

    @property
    def info(self) -> dict[str, Any]:
        """What is in the run, as ``gradlog info --format json`` says it: layers, visits, probes, bytes, gaps."""
        return json.loads(self._run._info())

    def records(
        self,
        table: str,
        columns: Sequence[str] | None = None,
        *,
        epochs: Span | None = None,
        steps: Span | None = None,
        stored_gradients: bool = False,
        allow_damage: bool = False,
    ) -> Table:
        """Rows of the log: ``visits``, ``sweeps``, ``probes``, ``steps``, ``gaps``, ``events``,
        ``checkpoints``, ``checks`` or ``cards``.

        They are read when something asks for them, block by block, so that a run may be larger than memory. The page
        on tables of gradlog's documents has all columns. What the run did not record is null.

        ``stored_gradients`` adds the gradients as the log stores them. In a damaged run the rows end with an error,
        unless ``allow_damage`` says to take what lies before the damage.
        """
        if isinstance(columns, str):
            raise TypeError(f"columns is a list of names, such as [{columns!r}]")
        columns = None if columns is None else list(columns)
        return self._run._records(table, columns, epochs, steps, stored_gradients, allow_damage)

    def visits(self, columns: Sequence[str] | None = None, **options: Any) -> Table:
        """Every example that a training pass visited; options as in :meth:`records`."""
        return self.records("visits", columns, **options)

    def probes(self, columns: Sequence[str] | None = None, **options: Any) -> Table:
        """Every example that a probe pass visited, and rows of curvature; options as in :meth:`records`."""
        return self.records("probes", columns, **options)

    def steps(self, columns: Sequence[str] | None = None, **options: Any) -> Table:
        """Every optimizer step; options as in :meth:`records`."""
        return self.records("steps", columns, **options)

    def scores(
        self,
        score: str,
        *,
        epochs: Span | None = None,
        steps: Span | None = None,
        at: str = "visits",
        optimizer: str = "recorded",
    ) -> Table:
        """A score of every training example, the most suspicious first.

        ============================  =================================================================================
        ``"aum"``                     mean margin ``z_y - max z_k`` of the label's logit (Pleiss et al. 2020)
        ``"loss"``                    mean loss
        ``"el2n"``                    mean ``||p - onehot(y)||`` (Paul et al. 2021)
        ``"grand"``                   mean ``||g||`` (Paul et al. 2021)
        ``"self-influence"``          ``sum of rate * ||g||^2`` over its visits (Pruthi et al. 2020)
        ``"forgetting"``              times that it went from right to wrong (Toneva et al. 2019)
        ``"confidence"``              mean probability of the label (Swayamdipta et al. 2020)
        ``"variability"``             standard deviation of that probability
        ``"correctness"``             mean share of right predictions
        ============================  =================================================================================

        Columns: ``example``, ``visits``, ``score``, what else the score counts, ``not_finite``, ``label``,
        ``prediction``. The command ``gradlog scores`` gives the same numbers.
        """
        return self._run._scores(score, epochs, steps, at, optimizer)

    def suspects(
        self, *, epochs: Span | None = None, steps: Span | None = None, optimizer: str = "recorded"
    ) -> Table:
        """Examples whose label is probably wrong, with a proposed label and the reasons.

        ``suspicion`` is ``ln(m / (1 - m))`` of the median rank ``m`` over the signals, from 0 to 1, and more where the
        label is rarely mistaken for the one that the model says.
        """
        return self._run._suspects(epochs, steps, optimizer)

    def data_map(self, *, epochs: Span | None = None, steps: Span | None = None, at: str = "visits") -> Table:
        """Dataset cartography: mean and spread of the label's probability, and what is easy, ambiguous and hard."""
        return self._run._data_map(epochs, steps, at)

    def example(
        self, id: int, *, epochs: Span | None = None, steps: Span | None = None, at: str = "visits"
    ) -> Table:
        """The curve of one example: loss, margin, EL2N, confidence and prediction at each visit."""
        return self._run._example(_id("id", id), epochs, steps, at)

    def influence(
        self,
        probe_set: str,
        id: int | None = None,
        *,
        ids: Iterable[int] | None = None,
        label: int | None = None,
        mean: bool = False,
        method: str = "tracin",
        top: int | None = None,
        damping: float | None = None,
        curvature: str | None = None,
        length: int | None = None,
        layers: Sequence[str] = (),
        normalize: str = "none",
        optimizer: str = "recorded",
        epochs: Span | None = None,
        steps: Span | None = None,
        at: str = "visits",
    ) -> Table:
        """How much each training example helped (positive) or hurt (negative) the answer to a probe.

        ``id``, ``ids`` or ``label`` choose probes of the set; without them all are asked. ``mean`` asks for their mean
        loss. ``top`` keeps so many of both ends.

        ``method`` is ``"tracin"`` (Pruthi et al. 2020), ``"if"`` (Koh and Liang 2017), ``"ekfac"`` (Grosse et al.
        2023), ``"datainf"`` (Kwon et al. 2024), ``"trak"`` (Park et al. 2023) or ``"adjoint"`` (unrolled
        differentiation). ``damping`` (in mean eigenvalues), ``curvature`` and ``length`` are settings of these.

        ``error`` is one standard deviation of what the sketch adds to a score of TracIn; else it is null.
        """
        if isinstance(layers, str):
            raise TypeError(f"layers is a list of names, such as [{layers!r}]")
        if id is not None:
            if ids is not None:
                raise ValueError("give id or ids, not both")
            ids = [_id("id", id)]
        elif ids is not None:
            ids = [_id(f"ids[{place}]", one) for place, one in enumerate(ids)]
        label = None if label is None else _whole("label", label, 2**32 - 2)
        top = None if top is None else _whole("top", top, 2**63 - 1)
        length = None if length is None else _whole("length", length, 2**63 - 1)
        return self._run._influence(
            probe_set, ids, label, mean, method, top, damping, curvature, length, list(layers), normalize, optimizer,
            epochs, steps, at,
        )  # fmt: skip

    def similar(
        self,
        id: int,
        top: int = 20,
        *,
        dim: int = 1024,
        epochs: Span | None = None,
        steps: Span | None = None,
    ) -> Table:
        """Examples whose mean gradients point the same way as that of ``id``, by cosine."""
        top, dim = _whole("top", top, 2**63 - 1), _whole("dim", dim, 2**63 - 1)
        return self._run._similar(_id("id", id), top, dim, epochs, steps)

    def vectors(
        self,
        dim: int = 1024,
        rows: str = "mean",
        *,
        epochs: Span | None = None,
        steps: Span | None = None,
        bytes_max: int = 4 << 30,
    ) -> Vectors:
        """Gradients as vectors of at most ``dim`` numbers, whose dot products are those of the gradients.

        ``rows`` is ``"mean"`` (one row an example), ``"visits"`` (one a visit) or ``"applied"`` (what an example's
        own steps took off the weights, as plain SGD). ``numpy.asarray(found.vectors)`` is the matrix, without a copy.
        """
        dim, bytes_max = _whole("dim", dim, 2**63 - 1), _whole("bytes_max", bytes_max, 2**64 - 1)
        return self._run._vectors(dim, rows, epochs, steps, bytes_max)

    def report(self, path: str | os.PathLike[str], data: str | Sequence[str] = ()) -> None:
        """Writes the page of ``gradlog report``: one file for a browser.

        ``data`` says what the examples look like, as the command's ``--data`` does: ``"idx:DIR"``,
        ``"images:DIR/{id}.png"``, ``"text:FILE.jsonl"`` or ``"csv:FILE"``.
        """
        self._run._report(os.fspath(path), [data] if isinstance(data, str) else list(data))


def _whole(name: str, value: int, most: int) -> int:
    """A whole number of an argument, from 0 to ``most``."""
    whole = operator.index(value)
    if not 0 <= whole <= most:
        raise GradlogError(f"{name} is {whole}: it is a whole number from 0 to {most}")
    return whole


def _id(name: str, value: int) -> int:
    """The id of an example."""
    return _whole(name, value, 2**64 - 1)
