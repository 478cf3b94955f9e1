"""Labels of one's own over any data set, and unlabelled examples beside it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from .dataset import PREFIXES, DataError, Source
from .files import some_lines
from .images import ImageFiles
from .labels import COLUMNS, alike, number_labels
from .photo_table import PATHS, spellings, unused_columns
from .tables import Table, read_table

NAMES = (*PATHS, "name", "id", "row")  # a table's columns that name examples; the first is used

Found = TypeVar("Found", bound=ImageFiles | Source)
Place = tuple[str, int]  # of an example: its part, and its row there


def with_labels(found: Found, path: str | os.PathLike[str]) -> Found:
    """Set labels by the names of examples.

    Parameters
    ----------
    found : ImageFiles or Source
        The data set.
    path : str or path
        A table, CSV, TSV or Parquet, with the columns path and label (empty: unlabelled). A path is the name of an
        example: of an image, its path below the folder of the data, or absolute, or from the folder of the table.
        Where examples have no names, it is the row of a training example, from 0. Other columns are not used.

    Returns
    -------
    ImageFiles or Source
        With these labels of training and validation examples; those that the table does not name keep theirs. New
        classes follow the others, those that lost all their examples go.

    Raises
    ------
    DataError
        If the table cannot be read, names examples that there are none of, gives one two labels, or would change the
        label of a test example or take that of a validation example. The message names all of these and their lines.
    ImportError
        If a Parquet file is to be read and pyarrow is not installed.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> source = Source(("cat",), np.zeros((3, 2), np.float32), np.array([0, -1, -1]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pathlib.Path(folder, "my.csv").write_text("row,label\\n1,dog\\n2,cat\\n")
    ...     source = with_labels(source, f"{folder}/my.csv")
    >>> source.classes, source.labels, source.account.notes
    (('cat', 'dog'), array([0, 1, 0]), ('my.csv gives 2 labels, 2 of them to unlabelled examples',))
    """
    table = read_table(path)
    label = table.needed(*COLUMNS)
    column = next((name for name in map(table.find, NAMES) if name), None) or table.needed(*PATHS)
    names, numbers = number_labels(table.column(label), f"column {label!r} of {table.path}", table.line)
    places = _places(found, table, column)
    classes = {name: c for c, name in enumerate(found.classes)}
    of = np.array([_number(name, classes) for name in names] + [-1], np.int64)  # the last of those with none
    given = _once(table, column, places, of[numbers])
    labels = {part: getattr(found, f"{before}labels") for part, before in PREFIXES.items()}
    changed = {part: of_part.copy() for part, of_part in labels.items() if of_part is not None}
    for (part, row), (_, number) in given.items():
        changed[part][row] = number
    _check_evaluated(table, column, given, labels)
    notes: list[str] = [_told(table, given, labels), *unused_columns(table, column, label)]
    kept, renumbered = _used([*classes], labels, changed)
    fields: dict[str, Any] = {f"{PREFIXES[part]}labels": of_part for part, of_part in renumbered.items()}
    return replace(found, classes=kept, account=found.account.adding(notes=[*notes, *alike(kept)]), **fields)


def _places(found: ImageFiles | Source, table: Table, column: str) -> list[Place]:
    """The example that each row of the table names."""
    texts = table.column(column)
    find = _by_row(len(found.labels)) if found.names is None else _by_name(found, str(table.path.parent))
    places: list[Place] = []
    unknown = []
    for row, text in enumerate(texts):
        place, hint = find(text)
        if place is None:
            unknown.append(f"{text or 'nothing'} in {table.line(row)}{hint}")
        else:
            places.append(place)
    if unknown:
        what = "rows of training examples, from 0" if found.names is None else "examples by their names"
        raise DataError(
            f"column {column!r} of {table.path} must give {what}, found {len(unknown)} that are none:"
            f"{some_lines(unknown)}"
        )
    return places


def _by_row(n: int) -> Callable[[str], tuple[Place | None, str]]:
    def find(text: str) -> tuple[Place | None, str]:
        return (("train", int(text)), "") if text.isdecimal() and int(text) < n else (None, f" (of {n})")

    return find


def _by_name(found: ImageFiles | Source, folder: str) -> Callable[[str], tuple[Place | None, str]]:
    """Find an example by its name, or else an image by its path."""
    by_name: dict[str, Place] = {}
    by_path: dict[str, Place] = {}
    by_last: dict[str, str] = {}
    twice = set()
    for part, before in PREFIXES.items():
        names: Sequence[str] = getattr(found, f"{before}names") or ()
        for row, name in enumerate(names):
            if by_name.setdefault(name, (part, row)) != (part, row):
                twice.add(name)
            by_last.setdefault(name.rpartition("/")[2], name)
        for row, file in enumerate(getattr(found, f"{before}files", ())):
            if not isinstance(file, bytes):
                by_path[os.path.abspath(file)] = (part, row)

    def find(text: str) -> tuple[Place | None, str]:
        for spelling in spellings(text):
            if spelling in twice:
                return None, " (the name of several)"
            if spelling in by_name:
                return by_name[spelling], ""
        for spelling in spellings(text):
            path = os.path.abspath(os.path.join(folder, os.path.expanduser(spelling)))
            if path in by_path:
                return by_path[path], ""
        like = by_last.get(text.replace("\\", "/").rpartition("/")[2])
        return None, f" (is it {like}?)" if like else ""

    return find


def _number(name: str, classes: dict[str, int]) -> int:
    """The number of a class, which is added if it is new; 3.0, as tables write numbers with gaps, is 3."""
    whole = re.fullmatch(r"([-+]?\d+)\.0*", name)
    if name not in classes and whole and whole[1] in classes:
        name = whole[1]
    return classes.setdefault(name, len(classes))


def _once(table: Table, column: str, places: list[Place], numbers: np.ndarray) -> dict[Place, tuple[int, int]]:
    """The row of the table, and the class, by the example that they are of."""
    given: dict[Place, tuple[int, int]] = {}
    unlike = []
    for row, (place, number) in enumerate(zip(places, numbers.tolist(), strict=True)):
        first, other = given.setdefault(place, (row, number))
        if other != number:
            unlike.append(f"{table.column(column)[row]} in {table.line(first)} and {table.line(row)}")
    if unlike:
        raise DataError(
            f"{table.path} must give each example one label, found {len(unlike)} given another again:"
            f"{some_lines(unlike)}"
        )
    return given


def _check_evaluated(
    table: Table, column: str, given: dict[Place, tuple[int, int]], labels: dict[str, np.ndarray | None]
) -> None:
    refused = []
    for (part, example), (row, number) in given.items():
        of_part = labels[part]
        if part != "train" and of_part is not None and number != of_part[example] and (part == "test" or number < 0):
            refused.append(f"{table.column(column)[row]} in {table.line(row)}")
    if refused:
        raise DataError(
            f"{table.path} must leave test examples their labels, and validation examples one, found {len(refused)} "
            f"that it does not:{some_lines(refused)}"
        )


def _told(table: Table, given: dict[Place, tuple[int, int]], labels: dict[str, np.ndarray | None]) -> str:
    counts: Counter[str] = Counter()
    for (part, example), (_, number) in given.items():
        before = -1 if (of_part := labels[part]) is None else int(of_part[example])
        counts["gives"] += number >= 0
        counts["new"] += before < 0 <= number
        counts["other"] += before >= 0 <= number != before
        counts["none"] += number < 0 <= before
    told = [
        f"{table.path.name} gives {counts['gives']} label{'s' * (counts['gives'] != 1)}",
        f"{counts['new']} of them to unlabelled examples" if counts["new"] else "",
        f"{counts['other']} in place of another" if counts["other"] else "",
        f"takes {counts['none']}" if counts["none"] else "",
    ]
    return ", ".join(filter(None, told))


def _used(
    classes: list[str], before: dict[str, np.ndarray | None], after: dict[str, np.ndarray]
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """The classes without those that lost all their examples, and the labels by their numbers."""

    def counts(labels: Iterable[np.ndarray | None]) -> np.ndarray:
        known = [of_part[of_part >= 0] for of_part in labels if of_part is not None]
        return np.bincount(np.concatenate(known), minlength=len(classes))

    is_kept = (counts(after.values()) > 0) | (counts(before.values()) == 0)
    number = np.append(np.cumsum(is_kept) - 1, -1)  # the last of those with none
    kept = tuple(name for name, is_one in zip(classes, is_kept, strict=True) if is_one)
    return kept, {part: number[of_part] for part, of_part in after.items()}
