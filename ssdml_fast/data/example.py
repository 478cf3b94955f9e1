"""One example of a map-style Dataset, as an array of float32 or bytes."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .dataset import DataError
from .pictures import pixels


@dataclass(frozen=True)
class Form:
    """What all examples of a data set have in common."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def n_bytes(self) -> int:
        """Of one example."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype} of shape {self.shape}"


def read_example(dataset: Any, i: int, name: str, form: Form | None = None) -> np.ndarray:
    """Read an example.

    Parameters
    ----------
    dataset : map-style Dataset
        ``dataset[i]`` is an example or a tuple that begins with one.
    i : int
        Which.
    name : str
        What to call the data set in messages.
    form : Form, optional
        What it must have, as the others do.

    Returns
    -------
    float32 or uint8 array

    Raises
    ------
    DataError
        If the data set raises, or what it gives is no example; the message names the index.

    Examples
    --------
    >>> import numpy as np
    >>> read_example([(np.ones(3), 7)], 0, "images")
    array([1., 1., 1.], dtype=float32)
    """
    try:
        example = dataset[i]
        array = _array(example[0] if isinstance(example, tuple | list) and example else example)
    except MemoryError:
        raise
    except Exception as error:  # whatever somebody else's code raises
        raise DataError(f"{name}[{i}] cannot be read: {type(error).__name__}: {error}") from error
    if array is None:
        raise DataError(
            f"{name}[{i}] must be a tensor, a NumPy array or a PIL image, of floats or bytes, or a tuple that begins "
            f"with one, found {_told(example)}"
        )
    if form is not None and (array.shape != form.shape or array.dtype != form.dtype):
        raise DataError(f"{name}[{i}] must be {form}, as {name}[0] is, found {Form(array.shape, array.dtype)}")
    if array.dtype == np.float32 and not np.isfinite(array).all():
        raise DataError(f"{name}[{i}] must be finite, found NaN or infinity")
    return array


def _array(example: Any) -> np.ndarray | None:
    """Return an example as an array of float32 or bytes, None if it cannot be one."""
    image = sys.modules.get("PIL.Image")
    if isinstance(example, torch.Tensor):
        if example.is_sparse or example.dtype not in (torch.float32, torch.float64, torch.uint8):
            return None
        example = example.detach().cpu().numpy()
    elif image is not None and isinstance(example, image.Image):
        return pixels(example)
    if not isinstance(example, np.ndarray) or isinstance(example, np.ma.MaskedArray):
        return None
    if example.dtype.kind == "f" and example.dtype.itemsize in (4, 8):  # of any byte order
        with np.errstate(over="ignore"):  # what becomes infinite is refused
            return example.astype(np.float32, copy=False)
    return example if example.dtype == np.uint8 else None


def _told(example: Any) -> str:
    if isinstance(example, tuple | list):
        return f"a {type(example).__name__} of " + (", ".join(map(_told, example)) or "nothing")
    dtype = getattr(example, "dtype", None)
    return type(example).__name__ + f" of {dtype}" * (dtype is not None)
