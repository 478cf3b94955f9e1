"""The operator of riemannian_cg."""

from __future__ import annotations

import torch

from .. import _arrays as arrays
from .._run import riemannian_cg as run
from .library import KEY, library

library.define(
    "riemannian_cg(Tensor L, Tensor z, Tensor triplets, float alpha, int iterations, str reduction, Tensor? weight, "
    "int? num_threads) -> (Tensor L, Tensor loss, Tensor grad_norm, Tensor iterations, Tensor evaluations)"
)


def _riemannian_cg(L, z, triplets, alpha, iterations, reduction, weight, num_threads):
    arrays.check_not_capturing(L, "the operator of riemannian_cg")
    L, *numbers = run.riemannian_cg(L, z, triplets, alpha, iterations, reduction, weight, num_threads)
    return L, *(torch.tensor(float(number), dtype=dtype) for number, dtype in zip(numbers, _NUMBERS, strict=True))


def _riemannian_cg_fake(L, z, triplets, alpha, iterations, reduction, weight, num_threads):
    moved = torch.empty_like(L, memory_format=torch.contiguous_format)
    return moved, *(torch.empty((), dtype=dtype) for dtype in _NUMBERS)


_NUMBERS = (torch.float64, torch.float64, torch.int64, torch.int64)  # of loss, gradient norm, steps and evaluations

library.impl("riemannian_cg", _riemannian_cg, KEY)
torch.library.register_fake("ssdml_fast::riemannian_cg", _riemannian_cg_fake, lib=library)
