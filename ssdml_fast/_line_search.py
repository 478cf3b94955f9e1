"""Manopt's adaptive line search and stops, for the optimiser and the twin; the kernels' are those of
``csrc/riemannian_cg/parameters.h``.

Where the loss is constant on the manifold, as for square matrices, all of a gradient is rounding, its direction is
arbitrary, and what a step along it seems to gain is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MOST_TRIALS = 10
SUFFICIENT_DECREASE = 0.5
CONTRACTION = 0.5
LEAST_GRAD_NORM = 1e-6
LEAST_STEP = 1e-10
ROUNDING = 64.0
LONGEST_STEP = {"float32": 2.0**5, "float64": 2.0**13}


def search(
    evaluate: Callable[[float], tuple[Any, ...]], loss: float, slope: float, step: float
) -> tuple[tuple[Any, ...], float, float]:
    """Halve `step` until the loss there, which `evaluate` finds first of all, is small enough or enough were tried.

    Returns
    -------
    found : tuple
        What `evaluate` found last.
    step, next_first_step : float
        Where, and what the next search tries first.
    """
    trials = 1
    while True:
        found = evaluate(step)
        if found[0] <= loss + SUFFICIENT_DECREASE * step * slope or trials == MOST_TRIALS:  # NaN is never small enough
            return found, step, step if trials == 2 else 2 * step
        step *= CONTRACTION
        trials += 1


def descends(norm: float, rounding: float, least: float = LEAST_GRAD_NORM) -> bool:
    """Whether a Riemannian gradient is more than `least` and rounding, which is epsilon times what projecting took."""
    return norm >= least and norm > ROUNDING * rounding


def leads_down(slope: float, norm: float, rounding: float, epsilon: float) -> bool:
    """Whether a direction of that slope leads down by more than rounding of a gradient of that norm.

    On a manifold of one dimension no conjugate direction does: what is carried along cancels the gradient.
    """
    return slope < -ROUNDING * norm * (epsilon * norm + rounding)


def gains(loss: float, reached: float, epsilon: float) -> bool:
    """Whether `reached` is below `loss` by more than their rounding."""
    return reached < loss - epsilon * abs(loss)
