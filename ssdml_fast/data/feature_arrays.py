"""Features, or images, in files of NumPy arrays."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from .dataset import Account, DataError, LeftOut, Source
from .feature_parts import Part, finite, source_of
from .files import beside, some_names
from .labels import PARTS, number_labels
from .tables import SUFFIXES

_ARRAY = re.compile(rf"([xy])(?:_({'|'.join(PARTS)}))?", re.IGNORECASE)
_Named = tuple[str, np.ndarray]


def feature_arrays(path: Path) -> Source:
    """Load arrays, as :func:`~ssdml_fast.data.features.load_features` describes them.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/x.npy", np.ones((4, 2)))
    ...     source = feature_arrays(Path(folder))
    >>> source.labels, source.account.layout
    (array([-1, -1, -1, -1]), 'arrays x')
    """
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
    given = {part: Part(x, numbers.get(part, np.full(len(x), -1, np.int64))) for part, x in examples.items()}
    listed = ", ".join(array[0] for pair in parts.values() for array in pair if array)
    return source_of(classes, given, path, Account(f"arrays {listed}", left_out, notes))


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
        raise DataError(f"expected an array {wanted} in {path}, found {some_names([*arrays, *others])}")
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
            f"expected an .npz file, an .npy file, a folder of .npy files or a table ({', '.join(SUFFIXES)}) at "
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
