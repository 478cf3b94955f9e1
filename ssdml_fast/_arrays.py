"""Tells NumPy, torch and CuPy arrays apart, and validates them; the only file that does either.

Every check raises before anything is computed or changed. A message names the argument, what was expected and what
was found. Checks of values in device memory are made there and wait for the current stream; while it records a CUDA
graph there are no values yet, and these checks are left out. torch and CuPy need no import here, as an array of theirs
proves that its library is loaded; but :func:`adopt` loads torch for arrays of other libraries.
"""

from __future__ import annotations

import functools
import importlib
import math
import operator
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from . import _core

FLOATS = ("float32", "float64")
HALVES = ("float16", "bfloat16")


def is_torch(x: Any) -> bool:
    """Whether `x` is a torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def is_cupy(x: Any) -> bool:
    """Whether `x` is a CuPy array."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(x, cupy.ndarray)


def is_cuda(x: Any) -> bool:
    """Whether `x` lies on a CUDA device."""
    return is_cupy(x) or (is_torch(x) and x.is_cuda)


def is_compiling(x: Any) -> bool:
    """Whether `x` is a torch tensor under torch.compile, so that only registered operators may see it."""
    return is_torch(x) and sys.modules["torch"].compiler.is_compiling()


def is_capturing(x: Any) -> bool:
    """Whether the current stream of the library of `x` is recording a CUDA graph, so that no value can be looked at."""
    if is_torch(x):
        return x.is_cuda and sys.modules["torch"].cuda.is_current_stream_capturing()
    return is_cupy(x) and sys.modules["cupy"].cuda.get_current_stream().is_capturing()


def check_not_capturing(x: Any, what: str) -> None:
    """Refuse what looks at values on the host while a CUDA graph is recorded, before that spoils the recording."""
    if is_capturing(x):
        raise RuntimeError(f"{what} cannot be recorded in a CUDA graph: it needs values on the host; call it before")


_KNOWN: set[type] = {np.ndarray, type(None)}  # types that are not foreign, of those that were seen


def _is_foreign(x: Any) -> bool:
    """Whether `x` is an array of none of the three libraries, but speaks a protocol that these read."""
    kind = type(x)
    if not (isinstance(x, (np.ndarray, np.generic)) or is_torch(x) or is_cupy(x)) and (
        hasattr(kind, "__dlpack__") or hasattr(kind, "__cuda_array_interface__")
    ):
        return True
    _KNOWN.add(kind)
    return False


def adopt(like: Any = None, /, **arrays: Any) -> tuple[Any, ...]:
    """Return arrays, named for messages, with those of other libraries read in place.

    They become arrays of the library of `like` or, without one, of the first argument that is of NumPy, torch or CuPy;
    of torch if there is none. Their producers' streams are waited for as the protocols say: the current stream of that
    library waits, the host does not (but CuPy's does for ``__cuda_array_interface__``).
    """
    values = tuple(arrays.values())
    torch = sys.modules.get("torch")
    if torch is not None and torch.compiler.is_compiling():
        return values
    for x in values:  # in little time, which small kernels would notice
        if type(x) not in _KNOWN and _is_foreign(x):
            break
    else:
        return values
    if like is None:
        like = next((x for x in values if isinstance(x, np.ndarray) or is_torch(x) or is_cupy(x)), None)
    return tuple(_read(x, name, like) if _is_foreign(x) else x for name, x in arrays.items())


def _read(x: Any, name: str, like: Any) -> Any:
    """Read an array of another library by DLPack or, where it has no such method, ``__cuda_array_interface__``."""
    library = np if isinstance(like, np.ndarray) else sys.modules["cupy"] if is_cupy(like) else _torch()
    try:
        if hasattr(x, "__dlpack__"):
            return library.from_dlpack(x)  # type: ignore[attr-defined]
        if library is np:
            raise TypeError("its memory is a device's")
        if is_cupy(like):
            return library.asarray(x)  # type: ignore[attr-defined]
        return _read_by_interface(x)
    except (BufferError, AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must be an array that {library.__name__} can read, found {type(x).__name__}: {error}"
        ) from error


def _torch() -> Any:
    return importlib.import_module("torch")


def _read_by_interface(x: Any) -> Any:
    """View device memory that is described by ``__cuda_array_interface__`` as a torch tensor.

    torch reads neither `mask` nor `stream` of version 3: data that a stream has yet to write are waited for here.
    """
    torch, interface = _torch(), x.__cuda_array_interface__
    if interface.get("mask") is not None:
        raise TypeError("it is masked")
    pointer = interface["data"][0]
    device = torch.device("cuda", _core.cuda().device_of(pointer) if pointer else torch.cuda.current_device())
    tensor, stream = torch.as_tensor(x, device=device), interface.get("stream")
    if stream is not None:
        producer = torch.cuda.default_stream(device) if stream == 1 else torch.cuda.ExternalStream(stream, device)
        torch.cuda.current_stream(device).wait_stream(producer)
    return tensor


def namespace(x: Any, name: str) -> ModuleType:
    """Return the library that `x` belongs to: numpy, torch or cupy."""
    if isinstance(x, np.ndarray):
        if type(x) is not np.ndarray and isinstance(x, np.ma.MaskedArray):
            raise TypeError(f"{name} must not be masked, as kernels would read what the mask hides; fill it or drop it")
        return np
    if is_torch(x):
        if not (x.is_cpu or x.is_cuda):
            raise TypeError(f"{name} must be on a CPU or CUDA device, found device {x.device}")
        if x.layout is not sys.modules["torch"].strided:
            raise TypeError(f"{name} must be a dense tensor, found layout {x.layout}")
        return sys.modules["torch"]
    if is_cupy(x):
        cupy = sys.modules["cupy"]
        current = cupy.cuda.runtime.getDevice()
        if x.device.id != current:
            raise TypeError(
                f"{name} must be on CuPy's current device, {current}, found device {x.device.id}: make that current, "
                "as in `with x.device:`"
            )
        return cupy
    raise TypeError(
        f"{name} must be a NumPy array, torch tensor, CuPy array or speak DLPack or __cuda_array_interface__, found "
        f"{type(x).__name__}"
    )


def device(x: Any) -> str:
    """Name the library and device of `x`, as in "torch tensor on cuda:0"."""
    if is_torch(x):
        return f"torch tensor on {x.device}"
    return f"CuPy array on device {x.device.id}" if is_cupy(x) else "NumPy array"


def dtype_name(x: Any) -> str:
    """Name the element type of `x` the same way for every library, as in "float32"."""
    return _numpy_name(x.dtype) if isinstance(x, np.ndarray) else str(x.dtype).removeprefix("torch.")


@functools.cache  # NumPy takes longer to name a type than a small kernel takes
def _numpy_name(dtype: Any) -> str:
    return str(dtype)


def to_numpy(x: Any) -> np.ndarray:
    """View a CPU array as NumPy without a copy; bring a device array over."""
    if isinstance(x, np.ndarray):
        return x
    if is_torch(x):
        return x.detach().cpu().numpy()
    return x.get()


def from_numpy(x: np.ndarray, like: Any) -> Any:
    """Give a NumPy array to the library and device of `like`, without a copy on the CPU."""
    if isinstance(like, np.ndarray):
        return x
    if is_torch(like):
        return sys.modules["torch"].from_numpy(x).to(like.device)
    with like.device:
        return sys.modules["cupy"].asarray(x)


def native(x: Any) -> Any:
    """View a CPU array as NumPy, whose functions are the quickest there; return an array on a device as it is."""
    return x if is_cuda(x) else to_numpy(x)


def of_native(x: Any, like: Any) -> Any:
    """Give what was computed from :func:`native` arrays to the library of `like`."""
    return from_numpy(x, like) if isinstance(x, np.ndarray) else x


@contextmanager
def on_device(x: Any) -> Iterator[int]:
    """Make the CUDA device of `x` current, and yield the address of its library's current stream there."""
    if is_torch(x):
        cuda = sys.modules["torch"].cuda
        with cuda.device(x.device):
            yield cuda.current_stream().cuda_stream
    else:
        with x.device:
            yield sys.modules["cupy"].cuda.get_current_stream().ptr


def workspace(n_bytes: int, like: Any) -> Any:
    """Allocate scratch memory for a CUDA kernel from the library of `like`; free to drop once the kernel is queued."""
    return empty((n_bytes,), "uint8", like)


def empty(shape: tuple[int, ...], dtype: str, like: Any) -> Any:
    """Allocate an array of the library and on the device of `like`."""
    if is_torch(like):
        torch = sys.modules["torch"]
        return torch.empty(shape, dtype=getattr(torch, dtype), device=like.device)
    if is_cupy(like):
        with like.device:
            return sys.modules["cupy"].empty(shape, dtype)
    return np.empty(shape, dtype)


def full(shape: tuple[int, ...], value: float, dtype: str, like: Any) -> Any:
    """Allocate an array of one value in the library and on the device of `like`."""
    x = empty(shape, dtype, like)
    x[...] = value
    return x


def arange(n: int, like: Any) -> Any:
    """Return 0, 1, ..., n - 1 in int64, made where `like` is."""
    if is_torch(like):
        return sys.modules["torch"].arange(n, device=like.device)
    if is_cupy(like):
        with like.device:
            return sys.modules["cupy"].arange(n, dtype=np.int64)
    return np.arange(n, dtype=np.int64)


def sort(x: Any) -> Any:
    """Return the entries in ascending order along the last axis."""
    return x.sort(-1).values if is_torch(x) else namespace(x, "x").sort(x, -1)


def stable_argsort(x: Any) -> Any:
    """Return the order of the entries of a vector, ascending; equal ones keep theirs."""
    return x.argsort(stable=True) if is_torch(x) else x.argsort(kind="stable")


def scalar(value: float, dtype: str, like: Any) -> Any:
    """Return a number as one of NumPy or torch, as `like` is, on its device."""
    if is_torch(like):
        torch = sys.modules["torch"]
        return torch.scalar_tensor(value, dtype=getattr(torch, dtype), device=like.device)
    return getattr(np, dtype)(value)


def copy(x: Any) -> Any:
    """Return a copy of `x`."""
    return x.clone() if is_torch(x) else x.copy()


def address(x: Any) -> int:
    """Address of the first element, 0 for None."""
    if x is None:
        return 0
    if is_torch(x):
        return x.data_ptr()
    return x.data.ptr if is_cupy(x) else x.ctypes.data


def addresses(*xs: Any) -> list[int]:
    """Addresses of the first elements of arrays of one library, the first not None; 0 for each that is."""
    if is_torch(xs[0]):
        return [0 if x is None else x.data_ptr() for x in xs]
    return [address(x) for x in xs]


def contiguous(x: Any) -> Any:
    """Return `x` in C order and aligned, itself where it already is."""
    if is_torch(x):
        return x.detach().contiguous()
    if is_cupy(x):
        return sys.modules["cupy"].ascontiguousarray(x)
    x = np.ascontiguousarray(x)
    return x if x.flags.aligned else x.copy()


def astype(x: Any, dtype: str) -> Any:
    """Convert to the dtype of that name, `x` itself where it already has it."""
    if is_torch(x):
        return x.to(getattr(sys.modules["torch"], dtype))
    return x.astype(dtype, copy=False)


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
    return x.is_contiguous() if is_torch(x) else x.flags.c_contiguous and x.flags.aligned


def is_finite(x: Any, limit: float = math.inf) -> bool:
    """Whether no entry is NaN, infinite or of larger magnitude than `limit`; taken for granted while capturing."""
    if 0 in x.shape or is_capturing(x):
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
    raise ValueError(f"{name} must be {expected}, found {float(host[where])} at {name}[{', '.join(map(str, where))}]")


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


def at_least_float32(x: Any) -> Any:
    """Return half precisions as float32 and other types as they are."""
    return astype(x, "float32") if dtype_name(x) in HALVES else x


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
    if kind == "uint64" and 0 not in x.shape and not is_capturing(x) and _extremes(native(integers))[0] < 0:
        raise ValueError(f"{name} must fit int64, found {int(to_numpy(x).max())}")
    return integers


def check_indices(x: Any, n: int, name: str, what: str) -> None:
    """Refuse entries outside [0, n)."""
    if is_capturing(x):
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


def as_ptr(ptr: Any, n: int, like: Any) -> Any:
    """Return segment boundaries as int64 (or None); refuses any that do not run from 0 to `n` without descending."""
    if ptr is None:
        return None
    check_not_capturing(like, "a graph in segments, ptr,")
    ptr = as_integers(ptr, "ptr", ndim=1, like=like)
    host = to_numpy(ptr)
    if host.size == 0 or host[0] != 0 or host[-1] != n:
        ends = "nothing" if host.size == 0 else f"{host[0]} … {host[-1]}"
        raise ValueError(f"ptr must run from 0 to the number of points, {n}, found {ends}")
    if (np.diff(host) < 0).any():
        s = int(np.flatnonzero(np.diff(host) < 0)[0])
        raise ValueError(f"ptr must not descend, found {host[s]} before {host[s + 1]} at ptr[{s + 1}]")
    return ptr


def as_int(value: Any, name: str, low: int, high: int | None = None, why: str = "") -> int:
    """Return `value` as a Python int in [low, high]; refuses booleans, fractions and values outside."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, found {value!r}") from None
    if number < low or (high is not None and number > high):
        span = f"at least {low}" if high is None else f"in [{low}, {high}]"
        raise ValueError(f"{name} must be {span}{why}, found {number}")
    return number


def as_float(value: Any, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    """Return `value` as a finite Python float strictly between `low` and `high`; refuses booleans and strings."""
    try:
        if isinstance(value, (bool, np.bool_, str, bytes)):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, found {value!r}") from None
    if not (math.isfinite(number) and low < number < high):
        if low == -math.inf and high == math.inf:
            span = "finite"
        else:
            span = f"greater than {low:g}" if high == math.inf else f"between {low:g} and {high:g}, both excluded"
        raise ValueError(f"{name} must be {span}, found {number}")
    return number


def as_threads(value: Any) -> int:
    """Return a thread count: `value`, or what OMP_NUM_THREADS, threadpoolctl or the processor says where it is None."""
    number = _core.lib.default_threads() if value is None else as_int(value, "num_threads", 1, 4096)
    return 1 if _core.forked else number


def as_choice(value: Any, name: str, choices: tuple[str, ...]) -> str:
    """Return `value` where it is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, found {value!r}")
    return value


def as_callable(value: Any, name: str) -> Any:
    """Return `value` where it can be called or is None."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be callable or None, found {value!r}")
    return value
