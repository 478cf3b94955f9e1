"""Reads arrays of other libraries in place, by the protocols that these speak; loads torch where it is to read them."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import numpy as np

from .. import _core
from .libraries import is_cupy, is_torch

_KNOWN: set[type] = {np.ndarray, type(None)}  # types that are not foreign, of those that were seen


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


def _is_foreign(x: Any) -> bool:
    """Whether `x` is an array of none of the three libraries, but speaks a protocol that these read."""
    kind = type(x)
    if not (isinstance(x, (np.ndarray, np.generic)) or is_torch(x) or is_cupy(x)) and (
        hasattr(kind, "__dlpack__") or hasattr(kind, "__cuda_array_interface__")
    ):
        return True
    _KNOWN.add(kind)
    return False


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
