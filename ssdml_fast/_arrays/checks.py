"""Validates arrays: their library, type, shape and values.

Every check raises before anything is computed or changed. A message names the argument, what was expected and what
was found. Checks of values in device memory are made there and wait for the current stream; they are left out where
:func:`~ssdml_fast._arrays.trust.is_trusted` says so.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

from .. import _core
from ..exceptions import RangeError
from .libraries import (
    FLOATS,
    HALVES,
    device,
    dtype_name,
    is_capturing,
    is_cuda,
    is_torch,
    namespace,
)
from .memory import address, astype, at_least_float32, contiguous, native, to_numpy
from .trust import is_trusted


def check_not_capturing(x: Any, what: str) -> None:
    """Refuse what looks at values on the host while a CUDA graph is recorded, before that spoils the recording."""
    if is_capturing(x):
        raise RuntimeError(f"{what} cannot be recorded in a CUDA graph: it needs values on the host; call it before")


def check_like(x: Any, name: str, like: Any) -> None:
    """Refuse an array of another library or on another device than `like`."""
    namespace(x, name)
    if isinstance(x, np.ndarray) and isinstance(like, np.ndarray):
        return
    if is_torch(x) and is_torch(like) and x.device == like.device:  # comparing their descriptions takes longer
        return
    if device(x) != device(like):
        raise TypeError(f"{name} must be a {device(like)} like the other arguments, found a {device(x)}")


def check_ndim(x: Any, ndim: int, name: str) -> None:
    """Refuse an array that does not have `ndim` dimensions."""
    if x.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimension{'s' * (ndim != 1)}, found shape {tuple(x.shape)}")


def check_shape(x: Any, shape: tuple[int, ...], name: str, what: str) -> None:
    """Refuse an array whose shape is not `shape`, which is `what`."""
    if tuple(x.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, {what}, found shape {tuple(x.shape)}")


def _is_plain(x: Any, dtypes: tuple[str, ...]) -> bool:
    """Whether kernels of the CPU can read `x` where it lies."""
    if is_cuda(x) or dtype_name(x) not in dtypes:
        return False
    return x.is_contiguous() if is_torch(x) else x.flags.c_contiguous and x.flags.aligned and x.dtype.isnative


def is_finite(x: Any, limit: float = math.inf) -> bool:
    """Whether no entry is NaN, infinite or of larger magnitude than `limit`; true where values are trusted."""
    if 0 in x.shape or is_trusted(x):
        return True
    if _is_plain(x, FLOATS):
        largest = _core.lib.largest_magnitude(dtype_name(x), address(x), math.prod(x.shape))
    else:
        low, high = _extremes(x)
        largest = max(high, -low)  # NaN and infinities reach here, without a temporary
    return math.isfinite(largest) and largest <= limit


def _extremes(x: Any) -> list[Any]:
    """Return the least and the greatest entry, NaN if there is one, for one wait where they are on a device."""
    if is_torch(x):
        return sys.modules["torch"].stack(x.detach().aminmax()).tolist()
    return (np if isinstance(x, np.ndarray) else sys.modules["cupy"]).stack((x.min(), x.max())).tolist()


def check_finite(x: Any, name: str, limit: float = math.inf) -> None:
    """Refuse NaN, infinities and, where a limit is given, entries of larger magnitude."""
    if is_finite(x, limit):
        return
    host = to_numpy(at_least_float32(x))
    wrong = ~np.isfinite(host)
    expected = "finite"
    if not wrong.any():
        wrong = np.abs(host) > limit
        expected = f"at most {limit:.3g} in magnitude, so that results fit {dtype_name(x)}"
    where = tuple(int(i) for i in np.argwhere(wrong)[0])
    raise RangeError(f"{name} must be {expected}, found {float(host[where])} at {name}[{', '.join(map(str, where))}]")


def check_floats(x: Any, name: str, ndim: int | None = None, like: Any = None, halves: bool = True) -> Any:
    """Return `x` as it is; refuses other types than floats, and half precisions unless `halves` admits them."""
    if like is None:
        namespace(x, name)
    else:
        check_like(x, name, like)
    admitted = FLOATS + HALVES * halves
    if dtype_name(x) not in admitted:
        raise TypeError(f"{name} must be of type {' or '.join(admitted)}, found {dtype_name(x)}")
    if ndim is not None:
        check_ndim(x, ndim, name)
    return x


def as_floats(x: Any, name: str, ndim: int | None = None, like: Any = None, halves: bool = False) -> Any:
    """Return `x` contiguous in float32 or float64; half precisions become float32 where `halves` admits them."""
    return contiguous(at_least_float32(check_floats(x, name, ndim, like, halves)))


def as_integers(x: Any, name: str, ndim: int, like: Any = None) -> Any:
    """Return `x` contiguous in int64; refuses anything but integers, and unsigned values past int64."""
    if like is None:
        namespace(x, name)
    else:
        check_like(x, name, like)
    kind = dtype_name(x)
    if not kind.removeprefix("u").startswith("int"):
        raise TypeError(f"{name} must be of an integer type, found {kind}")
    check_ndim(x, ndim, name)
    integers = contiguous(x if kind == "int64" else astype(x, "int64"))
    if kind == "uint64" and 0 not in x.shape and not is_trusted(x) and _extremes(native(integers))[0] < 0:
        raise ValueError(f"{name} must fit int64, found {int(to_numpy(x).max())}")
    return integers


def check_indices(x: Any, n: int, name: str, what: str) -> None:
    """Refuse entries outside [0, n)."""
    if is_trusted(x):
        return
    if _is_plain(x, ("int64",)):
        if _core.lib.all_indices(address(x), math.prod(x.shape), n):
            return
    else:
        if 0 in x.shape:
            return
        low, high = _extremes(native(x))
        if low >= 0 and high < n:
            return
    host = to_numpy(x)
    where = tuple(int(i) for i in np.argwhere((host < 0) | (host >= n))[0])
    entry = ", ".join(map(str, where))
    raise ValueError(f"{name} must lie in [0, {n}), the number of {what}, found {host[where]} at {name}[{entry}]")


def check_labels(labels: Any) -> None:
    """Refuse labels below -1, which marks the unlabelled."""
    if is_trusted(labels) or not bool((native(labels) < -1).any()):
        return
    host = to_numpy(labels)
    i = int(np.flatnonzero(host < -1)[0])
    raise ValueError(f"labels must be at least 0, or -1 where unlabelled, found {host[i]} at labels[{i}]")


def check_ascending(x: Any, name: str) -> None:
    """Refuse rows that descend somewhere."""
    if x.shape[1] < 2 or is_trusted(x) or not bool((x[:, 1:] < x[:, :-1]).any()):
        return
    row = int(np.flatnonzero(to_numpy((x[:, 1:] < x[:, :-1]).any(1)))[0])
    raise ValueError(f"{name} must ascend along every row, found row {row}: {x[row]}")


def as_ptr(ptr: Any, n: int, like: Any) -> Any:
    """Return segment boundaries as int64 (or None); refuses any that do not run from 0 to `n` without descending."""
    if ptr is None:
        return None
    check_not_capturing(like, "a graph in segments, ptr,")
    ptr = as_integers(ptr, "ptr", ndim=1, like=like)
    if is_trusted(ptr):
        return ptr
    host = to_numpy(ptr)
    if host.size == 0 or host[0] != 0 or host[-1] != n:
        ends = "nothing" if host.size == 0 else f"{host[0]} … {host[-1]}"
        raise ValueError(f"ptr must run from 0 to the number of points, {n}, found {ends}")
    if (np.diff(host) < 0).any():
        s = int(np.flatnonzero(np.diff(host) < 0)[0])
        raise ValueError(f"ptr must not descend, found {host[s]} before {host[s + 1]} at ptr[{s + 1}]")
    return ptr


def check_weights(weights: Any) -> None:
    """Refuse edge weights that are not finite, negative, or all zero at some point."""
    check_finite(weights, "weights")
    if 0 in weights.shape or is_trusted(weights) or (bool((weights >= 0).all()) and bool((weights > 0).any(1).all())):
        return
    host = to_numpy(weights)
    if (host < 0).any():
        i, r = np.argwhere(host < 0)[0]
        raise ValueError(f"weights must be at least 0, found {host[i, r]} at weights[{i}, {r}]")
    i = int(np.flatnonzero(~(host > 0).any(axis=1))[0])
    raise ValueError(f"weights must be positive at one edge of every point at least, found weights[{i}] all 0")
