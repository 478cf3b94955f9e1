"""What torch, and NumPy, may be set to around a call of the library."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def _set_to(setter: Callable[[Any], Any], getter: Callable[[], Any], value: Any) -> Iterator[None]:
    before = getter()
    setter(value)
    try:
        yield
    finally:
        setter(before)


def _dtype(dtype: torch.dtype) -> AbstractContextManager[None]:
    return _set_to(torch.set_default_dtype, torch.get_default_dtype, dtype)


STATES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "float64": lambda: _dtype(torch.float64),  # by default, as the next two
    "bfloat16": lambda: _dtype(torch.bfloat16),
    "meta": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "deterministic": lambda: _set_to(
        torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled, True
    ),
}
AMBIENT = STATES | {  # more, which trainings meet
    "rounded products": lambda: _set_to(
        torch.set_float32_matmul_precision, torch.get_float32_matmul_precision, "medium"
    ),
    "errors of NumPy": lambda: np.errstate(all="raise"),
    "anomalies looked for": lambda: torch.autograd.set_detect_anomaly(True),
}


@contextmanager
def ambient(*names: str) -> Iterator[None]:
    """Enter states by name."""
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(AMBIENT[name]())
        yield
