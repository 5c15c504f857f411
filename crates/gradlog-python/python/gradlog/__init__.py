"""Reads what gradlog recorded while a model trained: which training data did this?

    import gradlog
    run = gradlog.open("runs/mnist")
    run.suspects()                            # probably wrong labels
    run.influence("test", id=2, top=10)       # who taught the model this answer

Every table has ``__arrow_c_stream__``, so that ``polars.DataFrame(table)``, ``pyarrow.table(table)``,
``pandas.DataFrame.from_arrow(table)`` and ``duckdb.sql("from visits")`` (by the name of the variable) take it. The package needs none of them.
"""

from ._gradlog import VERSION as __version__
from ._gradlog import DamageWarning, GradlogError, Numbers, Table, Vectors
from ._run import Run, open
from ._write import RunWriter, write_run

__all__ = ["DamageWarning", "GradlogError", "Numbers", "Run", "RunWriter", "Table", "Vectors", "open", "write_run"]
