"""Checks, allocates and calls the kernels of ``csrc/stiefel/``."""

from __future__ import annotations

import math

import numpy as np

from .. import _arrays as arrays
from .. import _core
from .. import _scalars as scalars
from ..exceptions import RangeError

TOLERANCE = {"float32": 1e-3, "float64": 1e-6}
"""How far LᵀL may be from the identity before L is refused."""


def cayley_update(L, grad, step, num_threads):
    """Return the updated matrices."""
    L, grad = _matrices(L, grad, "grad")
    dtype = arrays.dtype_name(L)
    step, num_threads = scalars.as_float(step, "step"), scalars.as_threads(num_threads)

    updated = arrays.empty(tuple(L.shape), dtype, like=L)
    d, l = L.shape[-2:]
    batch = math.prod(L.shape[:-2])
    arguments = (dtype, arrays.address(L), arrays.address(grad), batch, d, l, step, arrays.address(updated))
    if arrays.is_cuda(L):
        _check_finite(L, grad, "grad")
        cuda = _core.cuda()
        with arrays.on_device(L) as stream:
            drifts = arrays.empty((2,), "float64", like=L)
            work = arrays.workspace(cuda.cayley_update_workspace(dtype, batch, l), like=L)
            cuda.cayley_update(*arguments, arrays.address(drifts), arrays.address(work), stream)
            if arrays.is_trusted(L):
                return updated
            drift, updated_drift = drifts.tolist()  # waits for the stream: L may have to be refused
    else:
        drift, updated_drift = _core.lib.cayley_update(*arguments, _core.threads(num_threads))
        if not (drift <= TOLERANCE[dtype] and updated_drift <= TOLERANCE[dtype]):
            _check_finite(L, grad, "grad")
    check_drift(drift, dtype)
    if not updated_drift <= TOLERANCE[dtype]:
        raise RangeError(f"step must be small enough for {dtype} with gradients of this size, found {step:g}")
    return updated


def qr_retraction(L, direction, num_threads):
    """Return Q of L + direction = Q R."""
    L, direction = _matrices(L, direction, "direction")
    num_threads = scalars.as_threads(num_threads)
    if not (arrays.is_cuda(L) or arrays.is_compiling(L)):
        dtype = arrays.dtype_name(L)
        d, l = L.shape[-2:]
        q = arrays.empty(tuple(L.shape), dtype, like=L)
        drift, is_accurate = _core.lib.qr_retraction(
            dtype,
            arrays.address(L),
            arrays.address(direction),
            math.prod(L.shape[:-2]),
            d,
            l,
            arrays.address(q),
            _core.threads(num_threads),
        )
        if is_accurate and drift <= TOLERANCE[dtype]:
            return q
        _check_finite(L, direction, "direction")
        check_drift(drift, dtype)
    else:
        _check_finite(L, direction, "direction")
        _check_orthonormal(L)
    xp = arrays.namespace(L, "L")
    q, r = xp.linalg.qr(L + direction)
    diagonal = xp.diagonal(r, 0, -2, -1)
    return q * xp.where(diagonal < 0, -xp.ones_like(diagonal), xp.ones_like(diagonal))[..., None, :]


def polar_retraction(L, direction):
    """Return the polar factor of L + direction."""
    L, direction = _matrices(L, direction, "direction")
    _check_finite(L, direction, "direction")
    _check_orthonormal(L)
    u, _, vh = arrays.namespace(L, "L").linalg.svd(L + direction, full_matrices=False)
    with arrays.in_own_type(u):
        return u @ vh


def _matrices(L, other, name):
    """Return L and another array of its shape and type, contiguous."""
    L = arrays.as_floats(L, "L")
    if L.ndim < 2 or not 1 <= L.shape[-1] <= L.shape[-2]:
        raise ValueError(f"L must have shape (..., d, l) with 1 <= l <= d, found {tuple(L.shape)}")
    other = arrays.as_floats(other, name, like=L)
    arrays.check_shape(other, tuple(L.shape), name, "the shape of L")
    if arrays.dtype_name(other) != arrays.dtype_name(L):
        raise TypeError(f"{name} must be of the type of L, {arrays.dtype_name(L)}, found {arrays.dtype_name(other)}")
    return L, other


def _check_finite(L, other, name) -> None:
    """Refuse NaN and infinities. Kernels of the CPU find out by themselves: no orthonormal result comes of them."""
    if not arrays.is_compiling(L):
        arrays.check_finite(L, "L")
        arrays.check_finite(other, name)


def _check_orthonormal(L) -> None:
    if not (arrays.is_compiling(L) or arrays.is_trusted(L)) and 0 not in L.shape:
        with arrays.in_own_type(L):
            gram = arrays.namespace(L, "L").swapaxes(L, -1, -2) @ L
        identity = arrays.from_numpy(np.eye(L.shape[-1]), like=L)
        check_drift(float(abs(gram - identity).max()), arrays.dtype_name(L))


def check_drift(drift, dtype) -> None:
    """Refuse a start whose columns are further from orthonormal than TOLERANCE."""
    if not drift <= TOLERANCE[dtype]:
        raise ValueError(
            f"L must have orthonormal columns, found |LᵀL - I| as large as {drift:.2g}; start from a QR decomposition"
        )
