"""Twin of :mod:`ssdml_fast.ops.stiefel`."""

from __future__ import annotations

import numpy as np


def cayley_update(L, grad, step):
    """Cayley retraction by its dense d x d formula, in float64; see :func:`ssdml_fast.cayley_update`."""
    l_wide, g_wide = L.astype(np.float64), grad.astype(np.float64)
    skew = g_wide @ np.swapaxes(l_wide, -1, -2) - l_wide @ np.swapaxes(g_wide, -1, -2)
    identity = np.eye(L.shape[-2])
    updated = np.linalg.solve(identity + step / 2 * skew, (identity - step / 2 * skew) @ l_wide)
    return updated.astype(L.dtype)


def qr_retraction(L, direction):
    """Q of a QR decomposition with positive diagonal of R; see :func:`ssdml_fast.qr_retraction`."""
    q, r = np.linalg.qr(L + direction)
    return q * np.copysign(1, np.diagonal(r, axis1=-2, axis2=-1))[..., None, :]


def polar_retraction(L, direction):
    """Y (YᵀY)^(-1/2) of Y = L + direction; see :func:`ssdml_fast.polar_retraction`."""
    y = L + direction
    values, vectors = np.linalg.eigh(np.swapaxes(y, -1, -2) @ y)
    return y @ (vectors / np.sqrt(values)[..., None, :]) @ np.swapaxes(vectors, -1, -2)
