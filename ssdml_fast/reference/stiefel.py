"""Twin of :mod:`ssdml_fast.ops.stiefel`."""

from __future__ import annotations

import numpy as np

from ..ops.stiefel import CgResult
from .angular_loss import angular_loss_and_grad


def cayley_update(L, grad, step):
    """Cayley retraction by its dense d x d formula, in float64; see :func:`ssdml_fast.cayley_update`."""
    l_wide, g_wide = L.astype(np.float64), grad.astype(np.float64)
    skew = g_wide @ np.swapaxes(l_wide, -1, -2) - l_wide @ np.swapaxes(g_wide, -1, -2)
    identity = np.eye(L.shape[-2])
    updated = np.linalg.solve(identity + step / 2 * skew, (identity - step / 2 * skew) @ l_wide)
    return updated.astype(L.dtype)


def qr_retraction(L, direction):
    """Q of a QR decomposition with positive diagonal of R; see :func:`ssdml_fast.qr_retraction`."""
    y = L + direction
    gram = np.swapaxes(y, -1, -2) @ y  # = RᵀR
    r = np.swapaxes(np.linalg.cholesky(gram), -1, -2)
    return y @ np.linalg.inv(r)


def polar_retraction(L, direction):
    """Y (YᵀY)^(-1/2) of Y = L + direction; see :func:`ssdml_fast.polar_retraction`."""
    y = L + direction
    values, vectors = np.linalg.eigh(np.swapaxes(y, -1, -2) @ y)
    return y @ (vectors / np.sqrt(values)[..., None, :]) @ np.swapaxes(vectors, -1, -2)


def riemannian_cg(L, z, triplets, alpha=40.0, iterations=10, reduction="sum", weight=None):
    """Manopt's conjugate gradients; see :func:`ssdml_fast.riemannian_cg`."""
    evaluations = 0

    def project(L, u):
        return u - L @ (L.T @ u + u.T @ L) / 2

    def loss_and_gradient(L):
        nonlocal evaluations
        evaluations += 1
        loss, _, grad = angular_loss_and_grad(z, triplets, L, alpha, reduction, weight)
        return loss, project(L, grad)

    loss, grad = loss_and_gradient(L)
    direction, steps, length, first = -grad, 0, None, None
    while steps < iterations and np.linalg.norm(grad) >= 1e-6 and (length is None or length >= 1e-10):
        slope = np.vdot(grad, direction)
        if not slope < 0:
            direction, slope = -grad, -np.vdot(grad, grad)
        norm = np.linalg.norm(direction)
        step = 1 / norm if first is None else first
        for trials in range(1, 12):
            moved = qr_retraction(L, step * direction)
            new_loss, new_grad = loss_and_gradient(moved)
            if new_loss <= loss + step * slope / 2 or trials == 11:
                break
            step /= 2
        first = step if trials == 2 else 2 * step
        if not new_loss <= loss:
            break
        direction, old_grad = project(moved, direction), project(moved, grad)  # transport
        change, along = np.vdot(new_grad, new_grad - old_grad), np.vdot(new_grad - old_grad, direction)
        direction = (max(0, change / along) if along else 1) * direction - new_grad
        L, loss, grad, steps, length = moved, new_loss, new_grad, steps + 1, step * norm
    return CgResult(L, float(loss), float(np.linalg.norm(grad)), steps, evaluations)
