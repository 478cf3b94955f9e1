"""Every setting of the training: its default, its meaning and its limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .. import _scalars as scalars
from ..runs.folder import RunError, RunFolder

MINING = ("class", "neighborhood")
AUGMENT = ("none", "affine", "strong")
METRIC_UPDATE = ("cayley", "conjugate", "partition", "unconstrained")
OPTIMIZER = ("adam", "sgd")
SCHEDULE = ("constant", "cosine")
PRECISION = ("float32", "bfloat16")


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
        "'class': triplets drawn by propagated class within mini-batches of confidently classed examples; "
        "'neighborhood': the paper's triplets, from each neighbourhood alone, which can collapse.",
    )
    warmup: int = _setting(
        0, "Mini-batches of labelled examples alone to begin with, before the first graph, by softmax."
    )
    warmup_rate: float = _setting(
        1e-3, "Step on the network in the warm-up, to which it grows over 50 mini-batches; follows the schedule."
    )
    mixup: float = _setting(
        0.0,
        "Largest share of another image that is blended into each for the softmax, where there is one (warmup, "
        "softmax_weight), labels alike; [0, 0.5].",
    )
    softmax_weight: float = _setting(
        0.0, "Of the warm-up's softmax beside each mini-batch of triplets, on as many labelled examples; [0, 1000)."
    )
    rounds: int = _setting(8, "Passes over the unlabelled examples; 0: the warm-up is all.")
    partition_size: int = _setting(500, "Unlabelled examples per partition; all labelled ones join each partition.")
    epochs: int = _setting(2, "Passes over a partition: its triplets, or its confidently classed examples.")
    max_epochs: int = _setting(0, "Most passes over partitions in all; 0: no limit.")
    validations: int = _setting(1, "Validations per pass over a partition, evenly spaced; at most one per mini-batch.")
    patience: int = _setting(8, "Stop after this many validations without a better score; the warm-up's do not count.")
    batch_size: int = _setting(100, "Per mini-batch: triplets, or with mining 'class' the examples to draw them among.")
    neighbors: int = _setting(4, "Neighbours of each example in the graph (k), at least 2.")
    gamma: float = _setting(0.9, "Share of the affinity that propagates at each step of the walk, in (0, 1).")
    alpha: float = _setting(40.0, "Angle of the loss in degrees, in (0, 90).")
    confident: float = _setting(
        0.7, "Share of each propagated class, the most confident, to train on in the first partition; (0, 1]."
    )
    confident_last: float = _setting(0.95, "The same in the last partition; the share changes evenly; (0, 1].")
    triplets_per_example: int = _setting(10, "Triplets drawn per example of a mini-batch, with mining 'class'.")
    hard_negatives: int = _setting(
        10, "Draw each negative among this many that are nearest to its anchor; 0: among all of the mini-batch."
    )
    augment: str = _setting(
        "none",
        "Random changes to each image of a mini-batch; 'affine': small rotations, scalings and shifts; 'strong': "
        "larger ones, mirroring, channels mixed a little and a square cut out.",
    )
    optimizer: str = _setting("adam", "What moves the network: 'adam', or 'sgd' with momentum 0.9.")
    learning_rate: float = _setting(1e-3, "Its step, in (0, 1000), for the mean loss of a mini-batch.")
    weight_decay: float = _setting(0.0, "Share of the weights, times the step, that each step takes off; [0, 1000).")
    schedule: str = _setting("cosine", "Of the steps on the network: 'constant', or 'cosine' down to none at the end.")
    average: float = _setting(
        0.99, "Decay of the running mean of the weights that embeds for graphs and is kept; [0, 1), 0: no mean."
    )
    metric_update: str = _setting(
        "cayley",
        "What moves L: 'cayley' steps; 'conjugate': ten iterations of Riemannian conjugate gradients per mini-batch, "
        "as the paper says; 'partition': the same before each pass, on all its triplets, with mining 'neighborhood'; "
        "'unconstrained': gradient steps that do not keep L orthogonal.",
    )
    metric_step: float = _setting(0.1, "Step on L, in (0, 1000).")
    metric_dim: int = _setting(64, "Columns of L: the dimension of the embedding.")
    precision: str = _setting(
        "float32",
        "Of the network's layers as it learns: 'float32', or 'bfloat16' (autocast) for processors with such products, "
        "as AVX-512 BF16 and AMX. Losses and the embeddings that are compared stay float32.",
    )
    compile: bool = _setting(False, "Learn through torch.compile, for networks that it makes faster.")

    def __post_init__(self) -> None:
        for name, low in _LEAST.items():
            self._set(name, scalars.as_int(getattr(self, name), name, low))
        for name, (low, high) in _BETWEEN.items():
            self._set(name, scalars.as_float(getattr(self, name), name, low, high))
        for name in ("confident", "confident_last"):
            self._set(name, scalars.as_float(getattr(self, name), name))
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be greater than 0 and at most 1, found {getattr(self, name)}")
        self._set("mixup", scalars.as_float(self.mixup, "mixup"))
        if not 0 <= self.mixup <= 0.5:
            raise ValueError(f"mixup must be in [0, 0.5], found {self.mixup}")
        for name, limit in (("average", 1), ("weight_decay", 1000), ("softmax_weight", 1000)):
            self._set(name, scalars.as_float(getattr(self, name), name))
            if not 0 <= getattr(self, name) < limit:
                raise ValueError(f"{name} must be at least 0 and less than {limit}, found {getattr(self, name)}")
        if not isinstance(self.compile, bool):
            raise TypeError(f"compile must be True or False, found {self.compile!r}")
        for name, choices in _CHOICES.items():
            scalars.as_choice(getattr(self, name), name, choices)
        if self.metric_update == "partition" and self.mining != "neighborhood":
            raise ValueError(
                f"metric_update must be other than 'partition' with mining {self.mining!r}, whose triplets are drawn "
                "per mini-batch"
            )

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


_LEAST = {
    "seed": 0,
    "warmup": 0,
    "rounds": 0,
    "partition_size": 1,
    "epochs": 1,
    "max_epochs": 0,
    "validations": 1,
    "patience": 1,
    "batch_size": 1,
    "neighbors": 2,
    "triplets_per_example": 1,
    "hard_negatives": 0,
    "metric_dim": 1,
}
_BETWEEN = {
    "gamma": (0, 1),
    "alpha": (0, 90),
    "warmup_rate": (0, 1000),
    "learning_rate": (0, 1000),
    "metric_step": (0, 1000),
}
_CHOICES = {
    "mining": MINING,
    "augment": AUGMENT,
    "optimizer": OPTIMIZER,
    "schedule": SCHEDULE,
    "metric_update": METRIC_UPDATE,
    "precision": PRECISION,
}


def read_config(run: RunFolder) -> Config:
    """Return the settings of the training that a run folder is of.

    Raises
    ------
    RunError
        If there is no such run, or its settings are damaged or no longer known.
    """
    stored = run.read_stored()
    try:
        return Config(**stored.settings | stored.training)
    except (TypeError, ValueError) as error:
        raise RunError(f"the settings of {run.path} are damaged or not of a training: {error}") from None
