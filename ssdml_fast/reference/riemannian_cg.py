"""Twin of :func:`ssdml_fast.riemannian_cg`."""

from __future__ import annotations

import numpy as np

from ..ops.riemannian_cg import CgResult
from .angular_loss import angular_loss_and_grad
from .stiefel import qr_retraction


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
