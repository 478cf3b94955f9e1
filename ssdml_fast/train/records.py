"""What is told of a training: the record of a validation, and why a training ended."""

from __future__ import annotations

from typing import Any, TypedDict

Record = TypedDict(
    "Record",
    {
        "validation": int,  # its number; 0: of the untrained model, which lacks what tells of training
        "planned": int,  # number of the last, unless the training stops early
        "epoch": int,  # passes, the one that this is in or ends included, as `max_epochs` counts them; 0: the warm-up
        "round": int,  # 0: the warm-up
        "partition": int,
        "loss": float,  # mean over the mini-batches since the validation before
        "examples": int,  # trained on since then, each time it was
        "val_nmi": float,  # in [0, 1], as the next two; without validation examples there are none of the three
        "val_recall@1": float,
        "score": float,  # mean of the two
        "seconds": dict[str, float],  # wall time of each stage since the record before
    },
    total=False,
)
"""What one validation tells. A method's :attr:`Work.record` and its head's diagnostics join it."""

FINISHED, PATIENCE, COLLAPSED, DIVERGED = "finished", "patience", "collapsed", "diverged"


def why(stopped: str, best: dict[str, Any], last: dict[str, Any]) -> str:
    """Say in a sentence why a training ended.

    Parameters
    ----------
    stopped : str
        One of the four reasons.
    best, last : dict
        Records of the model that is kept, and of the last validation.

    Returns
    -------
    str

    Examples
    --------
    >>> why("patience", {"validation": 3}, {"validation": 11})
    'Stopped early at validation 11: no better score for a while.'
    """
    if stopped == FINISHED:
        return "All rounds are done."
    if stopped == PATIENCE:
        return f"Stopped early at validation {last['validation']}: no better score for a while."
    if stopped == COLLAPSED:
        return (
            f"The embedding collapsed: the validation score fell from {best['score']:.3f} at validation "
            f"{best['validation']} to {last['score']:.3f} at validation {last['validation']}, where training was "
            "stopped."
        )
    return (
        f"The embedding diverged after validation {last['validation']} (not finite), where training was stopped; try a "
        "smaller learning_rate or metric_step."
    )
