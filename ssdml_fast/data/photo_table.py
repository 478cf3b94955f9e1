"""Images that a table lists: their paths, labels and parts."""

from __future__ import annotations

import os
import unicodedata
from typing import Any

import numpy as np

from .dataset import PREFIXES, Account, DataError, LeftOut
from .files import some_lines
from .images import ImageFiles
from .labels import alike, assigned
from .tables import Table, read_table

PATHS = ("path", "file", "filename", "image")  # a table's column of paths, in any letter case


def photo_table(path: str | os.PathLike[str]) -> ImageFiles:
    """Find the images that a table lists.

    Parameters
    ----------
    path : str or path
        A table, CSV, TSV or Parquet, of a row for each image, with the columns path (absolute, or from the folder of
        the table), label (empty: unlabelled) and split (train, val or test; empty: train), of which only the first must
        be there. Other columns are not used.

    Returns
    -------
    ImageFiles
        In the table's order, by the paths as it has them. Validation and test images without a label are left out, as
        its account says, and so are images that are listed again.

    Raises
    ------
    DataError
        If the table cannot be read, lists no training image, or an image with two labels or in two parts; or if a file
        is missing. The message names all of them and their lines.
    ImportError
        If a Parquet file is to be read and pyarrow is not installed.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("1.jpg", "2.jpg"):
    ...         (pathlib.Path(folder) / name).touch()
    ...     table = pathlib.Path(folder, "my.csv")
    ...     _ = table.write_text("path,label\\n1.jpg,cat\\n2.jpg,\\n")
    ...     found = photo_table(table)
    >>> found.names, found.classes, found.labels
    (['1.jpg', '2.jpg'], ('cat',), array([ 0, -1]))
    """
    table = read_table(path)
    column = table.needed(*PATHS)
    names = table.column(column)
    files = _files(table, column, names)
    label, split, classes, labels, part_of = assigned(table)
    left_out = _listed_again(table, names, files, labels, part_of)
    again = {row for row, _ in left_out}
    for row in np.flatnonzero((labels < 0) & (part_of != "train")).tolist():
        if row not in again:
            left_out.append((row, f"no label, which an image of the {part_of[row]} part needs"))
    used = np.ones(len(table), bool)
    used[[row for row, _ in left_out]] = False
    if not (used & (part_of == "train")).any():
        raise DataError(f"{table.path} must list images of the training part, found none")
    found: dict[str, Any] = {}
    for part, before in PREFIXES.items():
        rows = np.flatnonzero(used & (part_of == part))
        found[f"{before}names"], found[f"{before}files"] = ([of[row] for row in rows] for of in (names, files))
        found[f"{before}labels"] = labels[rows]
    account = Account(
        "a table with the columns " + ", ".join(repr(name) for name in (column, label, split) if name),
        tuple(LeftOut(f"{names[row]} ({table.line(row)})", why) for row, why in sorted(left_out)),
        (*unused_columns(table, column, label, split), *alike(classes)),
    )
    return ImageFiles(classes, **found, account=account)


def unused_columns(table: Table, *used: str | None) -> tuple[str, ...]:
    """Note the columns of a table that are not used, if there are any."""
    unused = [repr(name) for name in table.columns if name not in used]
    return (f"columns of {table.path.name} that are not used: {', '.join(unused)}",) if unused else ()


def spellings(path: str) -> tuple[str, ...]:
    r"""Return a path as it may be meant: as it is, with the slashes of Windows turned, in either form of Unicode.

    Examples
    --------
    >>> spellings(r"cat\1.jpg"), len(spellings("caf\u00e9.jpg"))
    (('cat\\1.jpg', 'cat/1.jpg'), 2)
    """
    turned = path.replace("\\", "/")
    forms = () if path.isascii() else (unicodedata.normalize(form, turned) for form in ("NFC", "NFD"))
    return tuple(dict.fromkeys((path, turned, *forms)))


def _files(table: Table, column: str, names: list[str]) -> list[str]:
    """The paths of all files, which must exist."""
    folder, missing = str(table.path.parent), []
    files = []
    for row, name in enumerate(names):
        paths = (os.path.join(folder, os.path.expanduser(path)) for path in spellings(name))
        if name and (file := next(filter(os.path.isfile, paths), "")):
            files.append(file)
        else:
            missing.append(f"{name or 'no path'} in {table.line(row)}")
    if missing:
        raise DataError(
            f"column {column!r} of {table.path} must hold paths of files, absolute or from {folder}, found "
            f"{len(missing)} that lead to no file:{some_lines(missing)}"
        )
    return files


def _listed_again(
    table: Table, names: list[str], files: list[str], labels: np.ndarray, part_of: np.ndarray
) -> list[tuple[int, str]]:
    """The rows of images that one before lists too, which must be alike."""
    first: dict[str, int] = {}
    again, unlike = [], []
    for row, file in enumerate(files):
        if (other := first.setdefault(os.path.normpath(file), row)) == row:
            continue
        again.append((row, f"listed in {table.line(other)} too"))
        if labels[row] != labels[other] or part_of[row] != part_of[other]:
            unlike.append(f"{names[row]} in {table.line(other)} and {table.line(row)}")
    if unlike:
        raise DataError(
            f"{table.path} must list each image once, found {len(unlike)} listed again with another label or split:"
            f"{some_lines(unlike)}"
        )
    return again
