"""What features from arrays and from tables share: they are finite, and parts of them make a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .dataset import Account, DataError, LeftOut, Source
from .labels import alike, as_row

BLOCK = 1 << 22  # numbers that are checked at once: of a file that is mapped no more lies in memory


@dataclass(frozen=True)
class Part:
    """Examples of one part, and what to call a row of it in messages."""

    images: np.ndarray
    labels: np.ndarray
    names: Sequence[str] | None = None
    where: Callable[[int], str] = as_row


def source_of(classes: tuple[str, ...], parts: dict[str, Part], path: Path, account: Account) -> Source:
    """Put parts together; of validation and test examples only those that have a label."""
    none = Part(None, None)  # type: ignore[arg-type]
    parts, left_out = dict(parts), []
    for name in ("val", "test"):
        if name not in parts:
            continue
        part, known = parts[name], np.flatnonzero(parts[name].labels >= 0)
        if not len(known):
            raise DataError(f"the {name} part of {path} must have labels, found none")
        if n := len(part.labels) - len(known):
            first = part.where(int(np.flatnonzero(part.labels < 0)[0]))
            left_out.append(LeftOut(f"{n} of {len(part.labels)} {name} examples, the first in {first}", "no label"))
            names = None if part.names is None else [part.names[int(i)] for i in known]
            parts[name] = Part(part.images[known], part.labels[known], names)
    train, val, test = (parts.get(name, none) for name in ("train", "val", "test"))
    return Source(
        classes, train.images, train.labels, test.images, test.labels, val.images, val.labels, train.names, test.names,
        val.names, account.adding(left_out, alike(classes)),
    )  # fmt: skip


def finite(x: np.ndarray, name: str, where: Callable[[int], str] = as_row) -> np.ndarray:
    """Return numbers as float32, of which none may be NaN or infinite.

    Parameters
    ----------
    x : (N, ...) array of numbers
        May be mapped: it is read block by block, and returned as it is where it is float32.
    name : str
        What to call it in an error message.
    where : callable
        What to call a row in an error message.

    Returns
    -------
    (N, ...) float32 array

    Raises
    ------
    DataError
        If a number is NaN, infinite or more than float32 holds; the message names the first one's place, further rows,
        and how many there are.

    Examples
    --------
    >>> finite(np.array([[1.0, 2.0], [np.nan, np.inf], [3.0, np.nan]]), "x")
    Traceback (most recent call last):
    ssdml_fast.data.dataset.DataError: x must be finite, found nan in row 1, column 0; and in 1 more row: row 2
    """
    as_it_is = x.dtype == np.float32
    result = np.asarray(x) if as_it_is else np.empty(x.shape, np.float32)
    first, n = "", 0
    rows: list[str] = []
    step = max(1, BLOCK // max(1, x[:1].size))
    for start in range(0, len(x), step):
        block = x[start : start + step]
        if not as_it_is:
            with np.errstate(over="ignore"):  # told below
                result[start : start + step] = block
        wrong = ~np.isfinite(result[start : start + step]).reshape(len(block), -1)
        if not wrong.any():
            continue
        found = np.flatnonzero(wrong.any(1))
        if not first:
            row, at = int(found[0]), int(wrong[found[0]].argmax())
            value = block[row].reshape(-1)[at]
            too_large = ", which float32 cannot hold," if np.isfinite(value) else ""
            first = f"{value}{too_large} in {where(start + row)}"
            if x.ndim > 1:
                place = np.unravel_index(at, x.shape[1:])
                first += f", column {at}" if x.ndim == 2 else f" at {tuple(map(int, place))}"
            found = found[1:]
        n += len(found)
        rows += [where(start + int(row)) for row in found[: 4 - len(rows)]]
    if first:
        listed = ", ".join(rows) + ", …" * (n > len(rows))
        raise DataError(
            f"{name} must be finite, found {first}" + f"; and in {n} more row{'s' * (n > 1)}: {listed}" * (n > 0)
        )
    return result
