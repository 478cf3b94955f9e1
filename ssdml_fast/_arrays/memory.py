"""Memory of arrays, whichever library they are of: made, converted, brought to the host, and passed on by address."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .libraries import HALVES, dtype_name, is_cuda, is_cupy, is_torch, namespace


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


def scalar(value: float, dtype: str, like: Any) -> Any:
    """Return a number as one of NumPy or torch, as `like` is, on its device; infinite where it is beyond the type."""
    if is_torch(like):
        torch = sys.modules["torch"]
        return torch.tensor(value, dtype=getattr(torch, dtype), device=like.device)
    with np.errstate(over="ignore"):
        return getattr(np, dtype)(value)


def copy(x: Any) -> Any:
    """Return a copy of `x`."""
    return x.clone() if is_torch(x) else x.copy()


def address(x: Any) -> int:
    """Address of the first element, 0 for None."""
    if x is None:
        return 0
    if is_torch(x):
        return x.data_ptr() or _nowhere(x)
    return x.data.ptr if is_cupy(x) else x.ctypes.data


def addresses(*xs: Any) -> list[int]:
    """Addresses of the first elements of arrays of one library, the first not None; 0 for each that is."""
    if is_torch(xs[0]):
        return [0 if x is None else x.data_ptr() or _nowhere(x) for x in xs]
    return [address(x) for x in xs]


def _nowhere(x: Any) -> int:
    """Address 0 of a tensor without entries; refuses any other, such as what a mode of torch makes of new arrays."""
    if x.numel():
        raise TypeError(f"arrays must have memory of their own, found a {type(x).__name__} without any")
    return 0


def contiguous(x: Any) -> Any:
    """Return `x` in C order, aligned and in native byte order, itself where it already is."""
    if is_torch(x):
        return (x.detach() if x.requires_grad else x).contiguous()
    if is_cupy(x):
        return sys.modules["cupy"].ascontiguousarray(x)
    x = np.ascontiguousarray(x, None if x.dtype.isnative else x.dtype.newbyteorder("native"))
    return x if x.flags.aligned else x.copy()


def astype(x: Any, dtype: str) -> Any:
    """Convert to the dtype of that name, `x` itself where it already has it."""
    if is_torch(x):
        return x.to(getattr(sys.modules["torch"], dtype))
    return x.astype(dtype, copy=False)


def at_least_float32(x: Any) -> Any:
    """Return half precisions as float32 and other types as they are."""
    return astype(x, "float32") if dtype_name(x) in HALVES else x


def sort(x: Any) -> Any:
    """Return the entries in ascending order along the last axis."""
    return x.sort(-1).values if is_torch(x) else namespace(x, "x").sort(x, -1)


def stable_argsort(x: Any) -> Any:
    """Return the order of the entries of a vector, ascending; equal ones keep theirs."""
    return x.argsort(stable=True) if is_torch(x) else x.argsort(kind="stable")


def to_numpy(x: Any) -> np.ndarray:
    """View a CPU array as NumPy without a copy; bring a device array over."""
    if isinstance(x, np.ndarray):
        return x
    if is_torch(x):
        return x.detach().cpu().numpy()
    return x.get()


def from_numpy(x: np.ndarray, like: Any) -> Any:
    """Give a NumPy array to the library and device of `like`, without a copy on the CPU, nor a wait of torch's."""
    if isinstance(like, np.ndarray):
        return x
    if is_torch(like):
        tensor = sys.modules["torch"].from_numpy(x)
        return (tensor.pin_memory() if like.is_cuda else tensor).to(like.device, non_blocking=True)
    with like.device:
        return sys.modules["cupy"].asarray(x)


def native(x: Any) -> Any:
    """View a CPU array as NumPy, whose functions are the quickest there; return an array on a device as it is."""
    return x if is_cuda(x) else to_numpy(x)


def of_native(x: Any, like: Any) -> Any:
    """Give what was computed from :func:`native` arrays to the library of `like`."""
    return from_numpy(x, like) if isinstance(x, np.ndarray) else x


def to_torch(x: Any) -> Any:
    """View an array as a torch tensor, where it lies, without a copy; torch must have been loaded."""
    if is_torch(x):
        return x.detach()
    torch = sys.modules["torch"]
    if is_cupy(x):
        return torch.from_dlpack(x)
    bits = x.view(np.int16) if dtype_name(x) == "bfloat16" else x  # of NumPy's types, torch knows its own alone
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that nobody may write to it
        tensor = torch.from_numpy(bits)
    return tensor if bits is x else tensor.view(torch.bfloat16)


def of_torch(x: Any, like: Any) -> Any:
    """View a torch tensor as an array of the library of `like`, on the device of which it lies."""
    if is_torch(like):
        return x
    return sys.modules["cupy"].from_dlpack(x) if is_cupy(like) else x.numpy()
