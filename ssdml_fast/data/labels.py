"""What a label is: classes by number or by name, and the marks of an example that has none."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .dataset import DataError

if TYPE_CHECKING:
    from .tables import Table

COLUMNS = ("label", "labels", "class", "target")  # a table's column of labels, in any letter case
PARTS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip
"""The parts of a data set by what they are called, in small letters."""

UNLABELLED = ("", "-1", "-1.0")  # as text
_WHOLE = re.compile(r"[-+]?\d+(\.0*)?")
_MISSING = ("nan", "<na>")  # what is written of a value that is missing, in small letters


def as_row(row: int) -> str:
    """Name a row of an array for a message."""
    return f"row {row}"


def number_labels(
    labels: np.ndarray | Sequence[str], name: str, where: Callable[[int], str] = as_row
) -> tuple[tuple[str, ...], np.ndarray]:
    """Number the classes that labels name.

    Parameters
    ----------
    labels : (N,) array of integers, floats, booleans or texts, or sequence of str
        Class of each example. Unlabelled are: -1, NaN, and of texts "", "-1" and "-1.0".
    name : str
        What to call them in an error message.
    where : callable
        What to call a row in an error message.

    Returns
    -------
    classes : tuple of str
        Names of the classes: numbers ascending, texts that are not all whole numbers by alphabet.
    numbers : (N,) int64 array
        Class of each example, 0 … C - 1; -1: unlabelled.

    Raises
    ------
    DataError
        If a number is below -1 or not whole; if it is not clear whether a class is meant: by the text "nan", or by the
        largest unsigned integer, as which -1 is stored, alone above the others.

    Examples
    --------
    >>> number_labels(np.array([7, -1, 5, 7]), "y")
    (('5', '7'), array([ 1, -1,  0,  1]))
    >>> number_labels(["cat", "", "ant", "cat"], "y")
    (('ant', 'cat'), array([ 1, -1,  0,  1]))
    """
    if isinstance(labels, np.ndarray) and labels.dtype.kind not in "SU":
        return _of_numbers(labels, name, where)
    texts = [text.strip() for text in _decoded(labels, name)]
    found = set(texts) - {*UNLABELLED}
    if all(map(_WHOLE.fullmatch, found)):
        _check(np.array([text not in UNLABELLED and float(text) < 0 for text in texts]), texts, name, where)
        classes = sorted(found, key=lambda text: (float(text), text))
    else:
        _check(np.array([text.casefold() in _MISSING for text in texts]), texts, name, where)
        classes = sorted(found)
    number = {text: c for c, text in enumerate(classes)} | dict.fromkeys(UNLABELLED, -1)
    return tuple(classes), np.array([number[text] for text in texts], np.int64)


def parts_of(texts: Sequence[str], name: str, where: Callable[[int], str] = as_row) -> np.ndarray:
    """Tell the part of each example by what a table calls it.

    Parameters
    ----------
    texts : sequence of str
        One of `PARTS`, in any letter case.
    name : str
        What to call them in an error message.
    where : callable
        What to call a row in an error message.

    Returns
    -------
    (N,) array of str
        "train", "val" or "test".

    Raises
    ------
    DataError
        If a text is none of these.

    Examples
    --------
    >>> parts_of(["Train", "validation"], "column 'split'").tolist()
    ['train', 'val']
    """
    texts = [text.lower() for text in texts]
    if (row := next((row for row, text in enumerate(texts) if text not in PARTS), None)) is not None:
        raise DataError(f"{name} must be train, val or test, found {texts[row]!r} in {where(row)}")
    return np.array([PARTS[text] for text in texts], np.str_)


class Assigned(NamedTuple):
    """What a table says of its rows: the names of its columns of labels and parts, if there are such, and these."""

    label: str | None
    split: str | None
    classes: tuple[str, ...]
    labels: np.ndarray  # (N,) int64, -1: none
    part_of: np.ndarray  # (N,) str


def assigned(table: Table) -> Assigned:
    """Read the labels and parts of a table's rows; where there is no such column, none has a label, and all train.

    Raises
    ------
    DataError
        As :func:`number_labels` and :func:`parts_of`; the message names the column and the line.
    """
    label, split = table.find(*COLUMNS), table.find("split")
    nothing = [""] * len(table)
    texts = table.column(label) if label else nothing
    classes, labels = number_labels(texts, f"column {label!r} of {table.path}", table.line)
    texts = [text or "train" for text in (table.column(split) if split else nothing)]
    return Assigned(label, split, classes, labels, parts_of(texts, f"column {split!r} of {table.path}", table.line))


def alike(classes: Iterable[str]) -> list[str]:
    """Note the classes whose names look the same, or nearly.

    Examples
    --------
    >>> alike(["Cat", "cat", "dog"])
    ['classes that differ in letter case only: Cat and cat']
    """
    notes = []
    for what, key in (("letter case", str.lower), ("Unicode form", lambda name: unicodedata.normalize("NFC", name))):
        named: dict[str, list[str]] = {}
        for name in sorted(classes):
            named.setdefault(key(name), []).append(name)
        notes += [
            f"classes that differ in {what} only: {', '.join(same[:-1])} and {same[-1]}"
            for same in named.values()
            if len(same) > 1
        ]
    return notes


def _of_numbers(labels: np.ndarray, name: str, where: Callable[[int], str]) -> tuple[tuple[str, ...], np.ndarray]:
    unlabelled = np.zeros(len(labels), bool)
    if labels.dtype.kind == "f":
        unlabelled = np.isnan(labels)
        whole = np.where(unlabelled, -1, labels).astype(np.float64)
        _check((whole != np.floor(whole)) | (np.abs(whole) > 2**53), labels, name, where)  # beyond: not told apart
        labels = whole.astype(np.int64)
    elif labels.dtype.kind == "u" and labels.size:
        most = np.iinfo(labels.dtype).max
        _check((labels == most) & ~(labels == most - 1).any(), labels, name, where)
    elif labels.dtype.kind == "b":
        labels = labels.astype(np.int64)
    _check(labels < -1, labels, name, where)
    unlabelled |= labels == -1
    classes, of = np.unique(labels[~unlabelled], return_inverse=True)
    numbers = np.full(len(labels), -1, np.int64)
    numbers[~unlabelled] = of
    return tuple(map(str, classes.tolist())), numbers


def _check(wrong: np.ndarray, labels: Sequence | np.ndarray, name: str, where: Callable[[int], str]) -> None:
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        more = f" (and {n - 1} more like it)" if (n := int(wrong.sum())) > 1 else ""
        raise DataError(
            f"{name} must be whole numbers of at least 0 or names of classes, and -1, NaN or an empty text where there "
            f"is none, found {str(labels[row])!r} in {where(row)}{more}"
        )


def _decoded(texts: np.ndarray | Sequence[str], name: str) -> Sequence[str]:
    if not isinstance(texts, np.ndarray):
        return texts
    try:
        return (np.char.decode(texts, "utf-8") if texts.dtype.kind == "S" else texts).tolist()
    except UnicodeDecodeError as error:
        raise DataError(f"{name} must be texts in UTF-8, found bytes that are not: {error}") from None
