"""What torch, and NumPy, may be set to around a call of the library."""

from __future__ import annotations

import contextlib

import numpy as np
import torch


@contextlib.contextmanager
def set_to(setter, getter, value):
    before = getter()
    setter(value)
    try:
        yield
    finally:
        setter(before)


AMBIENT = {
    "float64 as default": lambda: set_to(torch.set_default_dtype, torch.get_default_dtype, torch.float64),
    "bfloat16 as default": lambda: set_to(torch.set_default_dtype, torch.get_default_dtype, torch.bfloat16),
    "meta as default": lambda: torch.device("meta"),
    "products rounded": lambda: set_to(
        torch.set_float32_matmul_precision, torch.get_float32_matmul_precision, "medium"
    ),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "deterministic": lambda: set_to(
        torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled, True
    ),
    "errors of NumPy": lambda: np.errstate(all="raise"),
    "anomalies looked for": lambda: torch.autograd.set_detect_anomaly(True),
}
