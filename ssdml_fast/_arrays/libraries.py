"""Tells NumPy, torch and CuPy arrays apart, and where and of what type they are.

torch and CuPy need no import here: an array of theirs proves that its library is loaded.
"""

from __future__ import annotations

import functools
import sys
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import numpy as np

FLOATS = ("float32", "float64")
HALVES = ("float16", "bfloat16")
_NOTHING: AbstractContextManager[None] = nullcontext()


def is_torch(x: Any) -> bool:
    """Whether `x` is a torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def is_cupy(x: Any) -> bool:
    """Whether `x` is a CuPy array."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(x, cupy.ndarray)


def is_dtensor(x: Any) -> bool:
    """Whether `x` is a torch tensor that is shared among processes, a DTensor."""
    tensor = sys.modules.get("torch.distributed.tensor")
    return tensor is not None and isinstance(x, tensor.DTensor)


def is_cuda(x: Any) -> bool:
    """Whether `x` lies on a CUDA device."""
    return is_cupy(x) or (is_torch(x) and x.is_cuda)


def is_compiling(x: Any) -> bool:
    """Whether `x` is a torch tensor under torch.compile, so that only registered operators may see it."""
    return is_torch(x) and sys.modules["torch"].compiler.is_compiling()


def is_autocast(x: Any) -> bool:
    """Whether torch's autocast chooses the type of products of `x`."""
    return is_torch(x) and not x.is_meta and sys.modules["torch"].is_autocast_enabled(x.device.type)


def in_own_type(x: Any) -> AbstractContextManager[Any]:
    """Return a context in which products of `x` are of its own type."""
    return sys.modules["torch"].autocast(x.device.type, enabled=False) if is_autocast(x) else _NOTHING


def is_capturing(x: Any) -> bool:
    """Whether the current stream of the library of `x` is recording a CUDA graph, so that no value can be looked at."""
    if is_torch(x):
        return x.is_cuda and sys.modules["torch"].cuda.is_current_stream_capturing()
    return is_cupy(x) and sys.modules["cupy"].cuda.get_current_stream().is_capturing()


def namespace(x: Any, name: str) -> ModuleType:
    """Return the library that `x` belongs to: numpy, torch or cupy."""
    if type(x) is np.ndarray:  # the most frequent, in little time, which small kernels would notice
        return np
    if isinstance(x, np.ndarray):
        check_not_masked(x, name)
        return np
    if is_torch(x):
        torch = sys.modules["torch"]
        if not (x.is_cpu or x.is_cuda):
            raise TypeError(f"{name} must be on a CPU or CUDA device, found device {x.device}")
        if x.layout is not torch.strided:
            raise TypeError(f"{name} must be a dense tensor, found layout {x.layout}")
        if not _has_memory(x):
            raise TypeError(
                f"{name} must be a tensor with memory of its own, found a {type(x).__name__} without any: give what it "
                "stands for; of a DTensor, all of it, .full_tensor(), or the part of this process, .to_local()"
            )
        return torch
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


def _has_memory(x: Any) -> bool:
    """Whether a torch tensor lies somewhere: not one that wraps others, is fake, or whose storage was emptied.

    One that is traced or transformed (torch.func) has no memory either, but those that it stands for have.
    """
    torch = sys.modules["torch"]
    try:
        return torch.compiler.is_compiling() or x.data_ptr() != 0 or x.numel() == 0
    except (RuntimeError, ValueError):  # of a wrapper of torch.func, which is no subclass; of a parameter without shape
        return type(x) is torch.Tensor


def check_not_masked(x: Any, name: str) -> None:
    """Refuse a NumPy masked array, whose mask neither kernels nor other libraries would see."""
    masked = sys.modules.get("numpy.ma")
    if masked is not None and isinstance(x, masked.MaskedArray):
        raise TypeError(
            f"{name} must have no mask, found a NumPy masked array: fill it, as {name}.filled(value) does, or drop "
            "what is masked first"
        )


def device(x: Any) -> str:
    """Name the library and device of `x`, as in "torch tensor on cuda:0"."""
    if is_torch(x):
        return f"torch tensor on {x.device}"
    return f"CuPy array on device {x.device.id}" if is_cupy(x) else "NumPy array"


def dtype_name(x: Any) -> str:
    """Name the element type of `x` the same way for every library and byte order, as in "float32"."""
    return _numpy_name(x.dtype) if isinstance(x, np.ndarray) else str(x.dtype).removeprefix("torch.")


@functools.cache  # NumPy takes longer to name a type than a small kernel takes
def _numpy_name(dtype: Any) -> str:
    return dtype.name
