"""Twin of :mod:`ssdml_fast.ops.riemannian_cg`."""

from __future__ import annotations

import numpy as np

from .. import _line_search as line_search
from ..ops.riemannian_cg import CgResult
from .angular_loss import angular_loss_and_grad
from .stiefel import qr_retraction


def riemannian_cg(L, z, triplets, alpha=40.0, iterations=10, reduction="sum", weight=None):
    """Manopt's conjugate gradients; see :func:`ssdml_fast.riemannian_cg`."""
    epsilon = float(np.finfo(L.dtype).eps)
    evaluations = 0

    def project(L, u):
        return u - L @ (L.T @ u + u.T @ L) / 2

    def evaluate(L):
        """Loss at L, L, its Riemannian gradient, and how much of that may be rounding of the Euclidean one."""
        nonlocal evaluations
        evaluations += 1
        loss, _, euclidean = angular_loss_and_grad(z, triplets, L, alpha, reduction, weight)
        grad = project(L, euclidean)
        return loss, L, grad, epsilon * np.linalg.norm(euclidean - grad)

    loss, L, grad, rounding = evaluate(qr_retraction(L, 0 * L))
    direction, steps, length, first = -grad, 0, np.inf, np.inf
    while (
        steps < iterations
        and line_search.descends(float(np.linalg.norm(grad)), rounding)
        and length >= line_search.LEAST_STEP
    ):
        slope = np.vdot(grad, direction)
        if not line_search.leads_down(slope, float(np.linalg.norm(grad)), rounding, epsilon):
            direction, slope = -grad, -np.vdot(grad, grad)
        norm = float(np.linalg.norm(direction))
        first = min(first if steps else 1 / norm, line_search.LONGEST_STEP[L.dtype.name] / norm)

        def along(step, L=L, direction=direction):
            return evaluate(qr_retraction(L, step * direction))

        (new_loss, moved, new_grad, rounding), step, first = line_search.search(along, loss, slope, first)
        if not line_search.gains(loss, new_loss, epsilon):
            break
        direction, old_grad = project(moved, direction), project(moved, grad)  # transport
        change, curvature = np.vdot(new_grad, new_grad - old_grad), np.vdot(new_grad - old_grad, direction)
        direction = (max(0, change / curvature) if curvature else 1) * direction - new_grad
        L, loss, grad, steps, length = moved, new_loss, new_grad, steps + 1, step * norm
    return CgResult(L, float(loss), float(np.linalg.norm(grad)), steps, evaluations)
