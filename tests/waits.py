"""Finds out what would wait for a device, where there may be none: looks of the host at values that lie there.

CUDA's stand-in (stand_in.py) has its tensors on the CPU, where nothing waits; so that what does on a device is known by
name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Operators of torch whose CUDA kernels bring a number or a size to the host, or look at an error code there.
WAITS = {
    "_linalg_svd",
    "_local_scalar_dense",
    "_unique",
    "_unique2",
    "bincount",
    "equal",
    "linalg_eigh",
    "masked_select",
    "nonzero",
    "repeat_interleave",
    "unique_consecutive",
    "unique_dim",
}
READS = ("cpu", "numpy", "tolist")  # methods that reach memory without an operator where it is the CPU's


class _Operators(TorchDispatchMode):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = operator.overloadpacket.__name__
        chosen_by_mask = name.startswith(("index", "_index")) and any(
            isinstance(x, torch.Tensor) and x.dtype in (torch.bool, torch.uint8)
            for x in (args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else ())
        )
        moved = name == "_to_copy" and kwargs.get("device") not in (None, args[0].device)
        if name in WAITS or chosen_by_mask or (moved and not kwargs.get("non_blocking")):
            self.found.append(name)
        return operator(*args, **kwargs)


@contextmanager
def waits() -> Iterator[list[str]]:
    """Yield a list to which the name of every call that would wait is added."""
    found: list[str] = []

    def reading(name: str) -> Any:
        method = getattr(torch.Tensor, name)

        def read(self: torch.Tensor, *arguments: Any, **options: Any) -> Any:
            found.append(name)
            return method(self, *arguments, **options)

        return read

    with pytest.MonkeyPatch.context() as patch, _Operators(found):
        for name in READS:
            patch.setattr(torch.Tensor, name, reading(name))
        yield found
