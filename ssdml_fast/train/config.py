"""Every setting of the training: its default, its meaning and its limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .. import _arrays as arrays

MINING = ("class", "neighborhood")


def _setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Config:
    """Settings of :func:`ssdml_fast.train.fit`; each field's meaning is its ``metadata["help"]``.

    Raises
    ------
    TypeError, ValueError
        If a setting is of another type or outside its limits; the message names it.

    Examples
    --------
    >>> Config(rounds=2).rounds
    2
    """

    seed: int = _setting(0, "Decides every random choice.")
    mining: str = _setting(
        "class",
        "'class': triplets drawn from the propagated classes, and neighbourhood triplets corrected by them; "
        "'neighborhood': the paper's triplets, from each neighbourhood alone, which can collapse.",
    )
    rounds: int = _setting(7, "Passes over the unlabelled examples.")
    partition_size: int = _setting(500, "Unlabelled examples per partition; all labelled ones join each partition.")
    epochs: int = _setting(2, "Passes over the triplets of a partition.")
    patience: int = _setting(8, "Stop after this many epochs without a better validation score.")
    batch_size: int = _setting(100, "Triplets per mini-batch.")
    neighbors: int = _setting(4, "Neighbours of each example in the graph (k), at least 2.")
    gamma: float = _setting(0.9, "Share of the affinity that propagates at each step of the walk, in (0, 1).")
    alpha: float = _setting(40.0, "Angle of the loss in degrees, in (0, 90).")
    confident: float = _setting(0.7, "Share of examples, the most confidently classed, to draw triplets among; (0, 1].")
    triplets_per_example: int = _setting(3, "Triplets drawn from the propagated classes, per example of a partition.")
    learning_rate: float = _setting(1e-3, "Adam's step on the network, in (0, 1000).")
    metric_step: float = _setting(1.0, "Step of the Cayley update of L, in (0, 1000).")
    metric_dim: int = _setting(64, "Columns of L: the dimension of the embedding.")

    def __post_init__(self) -> None:
        for name, low in _LEAST.items():
            self._set(name, arrays.as_int(getattr(self, name), name, low))
        for name, (low, high) in _BETWEEN.items():
            self._set(name, arrays.as_float(getattr(self, name), name, low, high))
        self._set("confident", arrays.as_float(self.confident, "confident"))
        if not 0 < self.confident <= 1:
            raise ValueError(f"confident must be greater than 0 and at most 1, found {self.confident}")
        arrays.as_choice(self.mining, "mining", MINING)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


_LEAST = {
    "seed": 0,
    "rounds": 1,
    "partition_size": 1,
    "epochs": 1,
    "patience": 1,
    "batch_size": 1,
    "neighbors": 2,
    "triplets_per_example": 1,
    "metric_dim": 1,
}
_BETWEEN = {
    "gamma": (0, 1),
    "alpha": (0, 90),
    "learning_rate": (0, 1000),
    "metric_step": (0, 1000),
}
