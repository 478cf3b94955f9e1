"""Features, or images, that a user has as arrays or as a table."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import labels as of_labels
from . import tables
from .dataset import Account, DataError, LeftOut, Source
from .files import beside
from .labels import PARTS, alike, as_row, number_labels, parts_of

BLOCK = 1 << 22  # numbers that are checked at once: of a file that is mapped no more lies in memory
NAMES = ("path", "id", "name")  # a table's columns that tell examples apart; the first is used
_ARRAY = re.compile(rf"([xy])(?:_({'|'.join(PARTS)}))?", re.IGNORECASE)


def load_features(path: str | os.PathLike[str]) -> Source:
    """Load features, or images, from arrays or a table.

    Parameters
    ----------
    path : str or path
        One of these:

        - A ``.npz`` file, or a folder of ``.npy`` files, with the arrays ``x_train``, ``y_train``, ``x_val``,
          ``y_val``, ``x_test`` and ``y_test``, of which only ``x_train`` must be there; or ``x`` and ``y`` in place of
          ``x_train`` and ``y_train``; in any letter case. x is (N, d), or (N, ...) uint8 images with the channels
          first. y is (N,) integers or whole floats, of which -1 and NaN mark unlabelled examples, or texts, of which ""
          and "-1" do. Where there is no y, no training example has a label.
        - A ``.npy`` file: x alone.
        - A table, ``.csv``, ``.tsv`` or ``.parquet``, with the columns label (empty or -1: unlabelled), split (train,
          val or test; empty: train) and path, id or name, none of which must be there; every other column is a feature,
          a Parquet column of lists several.

    Returns
    -------
    Source
        Features as float32; uint8 as it is, (N, height, width) images with one channel added. ``.npy`` files of float32
        or uint8 stay mapped. Validation and test examples without a label are left out, as its account says.

    Raises
    ------
    DataError
        If a file, an array or a column is missing, damaged or of another form; if a number is NaN or more than float32
        holds; if the validation or test part has no labels. The message names the array or column, and the row or line.
    ImportError
        If a Parquet file is to be read and pyarrow is not installed.

    Notes
    -----
    Time O(N d). Memory: that of the features as float32, for ``.npy`` files of float32 or uint8 O(N).

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/my.npz", x=np.ones((4, 2)), y=np.array([5, -1, 7, 7]))
    ...     source = load_features(f"{folder}/my.npz")
    >>> source.images.dtype, source.labels, source.classes
    (dtype('float32'), array([ 0, -1,  1,  1]), ('5', '7'))
    """
    path = Path(path)
    if path.suffix.lower() in tables.SUFFIXES and not os.path.isdir(path):
        return _of_table(tables.read_table(path))
    return _of_arrays(path)


@dataclass(frozen=True)
class _Part:
    """Examples of one part, and what to call a row of it in messages."""

    images: np.ndarray
    labels: np.ndarray
    names: Sequence[str] | None = None
    where: Callable[[int], str] = as_row


def _source(classes: tuple[str, ...], parts: dict[str, _Part], path: Path, account: Account) -> Source:
    """Put parts together; of validation and test examples only those that have a label."""
    none = _Part(None, None)  # type: ignore[arg-type]
    left_out = []
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
            parts[name] = _Part(part.images[known], part.labels[known], names)
    train, val, test = (parts.get(name, none) for name in ("train", "val", "test"))
    return Source(
        classes, train.images, train.labels, test.images, test.labels, val.images, val.labels, train.names, test.names,
        val.names, account.adding(left_out, alike(classes)),
    )  # fmt: skip


# --- arrays -----------------------------------------------------------------------------------------------------------


def _of_arrays(path: Path) -> Source:
    arrays, left_out, notes = _arrays(path)
    others = [entry.name for entry in left_out]
    parts = {part: of_part for part in ("train", "val", "test") if (of_part := _of(arrays, part, path, others))}
    (train_name, train), _ = parts["train"]
    examples = {}
    for part, ((name, x), y) in parts.items():
        if part != "train" and y is None:
            raise DataError(f"{name} in {path} must come with its labels, found no y_{part}")
        examples[part] = _examples(x, f"{name} in {path}", None if y is None else len(y[1]))
        one, other = examples["train"], examples[part]
        if one.shape[1:] != other.shape[1:] or one.dtype != other.dtype:
            raise DataError(
                f"{train_name} and {name} in {path} must be of one form, found {train.shape} {train.dtype} and "
                f"{x.shape} {x.dtype}"
            )
    classes, numbers = _numbered({part: y for part, (_, y) in parts.items() if y is not None}, path)
    given = {part: _Part(x, numbers.get(part, np.full(len(x), -1, np.int64))) for part, x in examples.items()}
    listed = ", ".join(array[0] for pair in parts.values() for array in pair if array)
    return _source(classes, given, path, Account(f"arrays {listed}", left_out, notes))


_Named = tuple[str, np.ndarray]


def _of(arrays: dict[str, np.ndarray], part: str, path: Path, others: list[str]) -> tuple[_Named, _Named | None] | None:
    """The x and y of a part, each with its name in the file; `others` are there too."""
    found: dict[str, _Named] = {}
    for name, array in arrays.items():
        kind, of_part = _ARRAY.fullmatch(name).groups()  # type: ignore[union-attr]
        if (PARTS[of_part.lower()] if of_part else "train") == part:
            if (kind := kind.lower()) in found:
                raise DataError(f"{path} must hold one {kind} of the {part} part, found {found[kind][0]} and {name}")
            found[kind] = name, array
    if "x" not in found and (found or part == "train"):
        wanted = "x_train or x" if part == "train" else f"x_{part}"
        raise DataError(f"expected an array {wanted} in {path}, found {', '.join([*arrays, *others]) or 'none'}")
    if "y" in found:
        found["y"] = found["y"][0], _column(*found["y"], path)
    return (found["x"], found.get("y")) if found else None


def _column(name: str, y: np.ndarray, path: Path) -> np.ndarray:
    """Labels, of a single column too, as (N,)."""
    column = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if column.ndim != 1 or y.dtype.kind not in "biufSU":
        found = f"{y.dtype} of shape {y.shape}"
        raise DataError(f"{name} in {path} must be (N,) integers or texts, one of each example, found {found}")
    return column


def _arrays(path: Path) -> tuple[dict[str, np.ndarray], tuple[LeftOut, ...], tuple[str, ...]]:
    """The arrays that are known by name, what else is there, and notes."""
    suffix = path.suffix.lower()
    if not os.path.isdir(path) and not (os.path.isfile(path) and suffix in (".npz", ".npy")):
        raise DataError(
            f"expected an .npz file, an .npy file, a folder of .npy files or a table ({', '.join(tables.SUFFIXES)}) at "
            f"{path}, found {beside(path)}"
        )
    if path.is_dir():
        arrays, left_out = {}, []
        with _told(path):
            files = sorted(path.iterdir())
        for file in files:
            if file.name.startswith("."):
                continue
            if file.suffix == ".npy" and _ARRAY.fullmatch(file.stem):
                arrays[file.stem] = _mapped(file)
            else:
                left_out.append(LeftOut(file.name, "a folder" if file.is_dir() else "no array x or y of a part"))
        return arrays, tuple(left_out), ()
    if suffix == ".npy":
        notes = ("y.npy is read where the folder is given",) if (path.parent / "y.npy").exists() else ()
        return {"x": _mapped(path)}, (), notes
    with _told(path):
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("it is an .npy file by its content")
        with loaded:
            known = [name for name in loaded.files if _ARRAY.fullmatch(name)]
            others = tuple(LeftOut(name, "no array x or y of a part") for name in loaded.files if name not in known)
            return {name: loaded[name] for name in known}, others, ()


def _mapped(path: Path) -> np.ndarray:
    with _told(path):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            array.close()
            raise ValueError("it is an .npz file by its content")
        return array


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Tell whatever a damaged file makes NumPy and zipfile stumble over, but for too little memory."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        reason = str(error)
        if re.search("python objects|object arrays", reason, re.IGNORECASE):
            reason = "arrays of Python objects could run a program; save texts by .astype(str)"
        raise DataError(f"{path} cannot be read: {reason}") from None


def _numbered(arrays: dict[str, _Named], path: Path) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """The classes of all parts together, and labels by them."""
    if not arrays:
        return (), {}
    names, columns = zip(*arrays.values(), strict=True)
    if len({y.dtype.kind if y.dtype.kind in "SU" else "number" for y in columns}) > 1:
        found = ", ".join(f"{name} of {y.dtype}" for name, y in arrays.values())
        raise DataError(f"labels in {path} must be all numbers or all texts, found {found}")
    ends = np.cumsum([len(y) for y in columns])

    def where(row: int) -> str:
        part = int(np.searchsorted(ends, row, side="right"))
        return f"row {row - (ends[part - 1] if part else 0)} of {names[part]}"

    classes, numbers = number_labels(np.concatenate(columns), f"labels in {path}", where)
    return classes, dict(zip(arrays, np.split(numbers, ends[:-1]), strict=True))


def _examples(x: np.ndarray, name: str, n: int | None) -> np.ndarray:
    if x.size == 0:
        raise DataError(f"{name} must hold at least one example and feature, found shape {x.shape}")
    if x.ndim < 2 or x.dtype.kind not in "bfiu" or (n is not None and len(x) != n):
        rows = "a row of each example" if n is None else f"one row for each of {n} labels"
        raise DataError(f"{name} must be numbers, {rows}, found {x.dtype} of shape {x.shape}")
    if x.ndim == 4:
        _check_channels(x, name)
    if x.dtype == np.uint8 and x.ndim > 2:
        return np.asarray(x[:, None] if x.ndim == 3 else x)
    return finite(x, name)


def _check_channels(x: np.ndarray, name: str) -> None:
    """Refuse images whose channels are last, or four; of floats, which may be maps of features, only the former."""
    n_channels, last = x.shape[1], x.shape[3]
    if n_channels in (1, 3) or (x.dtype != np.uint8 and (last not in (1, 3, 4) or min(x.shape[1:3]) < 8)):
        return
    wanted = f"{name} must be images of shape (N, channels, height, width), the channels first, found {x.shape}"
    if last in (1, 3):
        raise DataError(f"{wanted}, whose channels are last: save x.transpose(0, 3, 1, 2)")
    if n_channels == 4 or last == 4:
        images = "x[:, :3]" if n_channels == 4 else "x[..., :3].transpose(0, 3, 1, 2)"
        of = "four" if n_channels == 4 else "four, which are last"
        raise DataError(
            f"{wanted}; the channels must be one (grey) or three (red, green, blue), not {of}: save {images}, or blend "
            f"them with their transparency first"
        )


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


# --- tables -----------------------------------------------------------------------------------------------------------


def _of_table(table: tables.Table) -> Source:
    label, split = table.find(*of_labels.COLUMNS), table.find("split")
    naming = [column for name in NAMES if (column := table.find(name)) is not None]
    left_out = [LeftOut(f"column {name!r}", f"the column {naming[0]!r} tells examples apart") for name in naming[1:]]
    features = []
    for i, name in enumerate(table.columns, 1):
        if not name or name.startswith("__index_level_"):  # as pandas saves the index of a frame
            left_out.append(
                LeftOut(f"column {name!r}" if name else f"column {i}", "the index of a frame" if name else "no name")
            )
        elif name not in (label, split, *naming):
            features.append(name)
    if not features or not len(table):
        found = ", ".join(filter(None, table.columns)) if len(table) else "no rows"
        raise DataError(f"{table.path} must hold columns of numbers, the features, found {found}")
    classes, labels = number_labels(
        table.column(label) if label else [""] * len(table), f"column {label!r} of {table.path}", table.line
    )
    texts = table.column(split) if split else [""] * len(table)
    part_of = parts_of([text or "train" for text in texts], f"column {split!r} of {table.path}", table.line)
    x = _columns(table, features)
    names = np.array(table.column(naming[0]), object) if naming else None
    parts = {}
    for part in ("train", "val", "test"):
        rows = np.flatnonzero(part_of == part)
        if len(rows):
            parts[part] = _Part(
                x if len(rows) == len(x) else x[rows],
                labels[rows],
                None if names is None else names[rows].tolist(),
                lambda row, rows=rows: table.line(int(rows[row])),  # type: ignore[misc]
            )
        elif part == "train":
            raise DataError(f"{table.path} must have rows of the training part, found none")
    given = ", ".join(repr(name) for name in (label, split, *naming[:1]) if name)
    layout = f"a table of {x.shape[1]} features" + f", with the columns {given}" * bool(given)
    return _source(classes, parts, table.path, Account(layout, tuple(left_out)))


def _columns(table: tables.Table, names: Sequence[str]) -> np.ndarray:
    """Columns of numbers side by side."""
    columns = [finite(table.numbers(name), f"column {name!r} of {table.path}", table.line) for name in names]
    return np.column_stack(columns)
