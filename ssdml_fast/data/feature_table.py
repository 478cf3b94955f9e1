"""Features in the columns of a table."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from .dataset import Account, DataError, LeftOut, Source
from .feature_parts import Part, finite, source_of
from .labels import assigned
from .photo_table import PATHS
from .tables import Table, read_table

NAMES = (*PATHS, "name", "id")  # a table's columns that tell examples apart; the first is used


def feature_table(path: str | os.PathLike[str]) -> Source:
    """Load the features of a table, as :func:`~ssdml_fast.data.features.load_features` describes it.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with open(f"{folder}/my.csv", "w") as file:
    ...         _ = file.write("id,label,width,height\\na,cat,1,2\\nb,,3,4\\n")
    ...     source = feature_table(f"{folder}/my.csv")
    >>> source.names, source.classes, source.labels, source.images[1]
    (['a', 'b'], ('cat',), array([ 0, -1]), array([3., 4.], dtype=float32))
    """
    table = read_table(path)
    label, split, classes, labels, part_of = assigned(table)
    naming = [column for name in NAMES if (column := table.find(name)) is not None]
    left_out = [LeftOut(f"column {name!r}", f"the column {naming[0]!r} tells examples apart") for name in naming[1:]]
    features = []
    for i, name in enumerate(table.columns, 1):
        if not name or name.startswith("__index_level_"):  # as pandas saves the index of a frame
            why = "the index of a frame" if name else "no name"
            left_out.append(LeftOut(f"column {name!r}" if name else f"column {i}", why))
        elif name not in (label, split, *naming):
            features.append(name)
    if not features or not len(table):
        found = ", ".join(filter(None, table.columns)) if len(table) else "no rows"
        raise DataError(f"{table.path} must hold columns of numbers, the features, found {found}")
    x = _columns(table, features)
    names = np.array(table.column(naming[0]), object) if naming else None
    parts = {}
    for part in ("train", "val", "test"):
        rows = np.flatnonzero(part_of == part)
        if len(rows):
            parts[part] = Part(
                x if len(rows) == len(x) else x[rows],
                labels[rows],
                None if names is None else names[rows].tolist(),
                lambda row, rows=rows: table.line(int(rows[row])),  # type: ignore[misc]
            )
        elif part == "train":
            raise DataError(f"{table.path} must have rows of the training part, found none")
    given = ", ".join(repr(name) for name in (label, split, *naming[:1]) if name)
    layout = f"a table of {x.shape[1]} features" + f", with the columns {given}" * bool(given)
    return source_of(classes, parts, table.path, Account(layout, tuple(left_out)))


def _columns(table: Table, names: Sequence[str]) -> np.ndarray:
    """Columns of numbers side by side."""
    columns = [finite(table.numbers(name), f"column {name!r} of {table.path}", table.line) for name in names]
    return np.column_stack(columns)
