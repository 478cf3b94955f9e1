"""Settings by name: for each method the recipe that measures best, and the paper's where it has one."""

from __future__ import annotations

from typing import Any

from .. import _scalars as scalars
from ..models.settings import DIRECTIONS

RECIPES = ("default", "paper")

Shape = tuple[int, ...]
FEATURES: Shape = (0,)  # stands for any (d,)

_EVERY: dict[Shape, dict[str, Any]] = {  # of the training, whatever the method
    (1, 28, 28): {"batch_size": 250, "augment": "affine"},
    (3, 32, 32): {"metric_dim": 32, "augment": "strong"},
}

_SSDML_PAPER: dict[str, Any] = {
    "mining": "neighborhood",
    "warmup": 0,
    "warmup_rate": 1e-2,  # on CIFAR-10, where there is one
    "rounds": 50,  # as many as it takes to reach max_epochs
    "partition_size": 9000,
    "epochs": 10,
    "max_epochs": 50,
    "validations": 5,  # a pass can lead past the best and far below it
    "patience": 5,
    "batch_size": 100,
    "neighbors": 10,
    "gamma": 0.99,
    "alpha": 40.0,
    "augment": "none",
    "optimizer": "sgd",
    "learning_rate": 1e-6,  # with the paper's 1e-4 the embedding collapses within a pass: see docs/notes/readings.md
    "weight_decay": 0.0,
    "schedule": "constant",
    "average": 0.0,
    "metric_update": "partition",  # the paper's, per mini-batch, fits L to 100 triplets and validates worse
}
_PARTITION: dict[str, Any] = {"partition_size": 9000, "neighbors": 10, "gamma": 0.99}
_LARGE = _PARTITION | {"rounds": 1, "patience": 100}
_PAPER: dict[str, dict[Shape, dict[str, Any]]] = {  # by method; () is what holds for any shape
    "ssdml": {(): _SSDML_PAPER, (3, 32, 32): {"metric_dim": 32, "warmup": 300}},
}
_BACKBONE: dict[str, dict[str, dict[str, Any]]] = {  # by method, and by what becomes of the backbone
    "ssdml": {
        "frozen": _PARTITION
        | {
            "gamma": 0.9,
            "alpha": 45.0,
            "confident": 0.5,
            "confident_last": 0.9,
            "learning_rate": 2e-3,
            "weight_decay": 4.0,
        },
        "trained": _PARTITION | {"rounds": 2, "epochs": 1, "gamma": 0.9, "alpha": 45.0, "learning_rate": 1e-4},
    },
}
_DEFAULT: dict[str, dict[Shape, dict[str, Any]]] = {
    "ssdml": {
        (1, 28, 28): _LARGE | {"warmup": 500},
        (3, 32, 32): _LARGE
        | {
            "warmup": 2500,
            "warmup_rate": 2e-3,
            "mixup": 0.35,
            "softmax_weight": 1.0,
            "confident": 0.3,
            "confident_last": 0.3,
            "epochs": 1,
            "learning_rate": 5e-4,
            "weight_decay": 0.05,
        },
        FEATURES: _PARTITION | {"metric_step": 3.0},  # L alone learns; the default step hardly moves it
    },
}


def settings(method: str, recipe: str, shape: Shape = (), backbone: str = "") -> dict[str, Any]:
    """Return the settings of a method's recipe for examples of one shape, in place of the defaults.

    Parameters
    ----------
    method : str
        Its name; one that does not come with the package is given what holds for every method.
    recipe : {"default", "paper"}
        ``"paper"`` is that of the method's paper, which not every method has. SSDML's is that of Dutta, Harandi,
        Sekhar, AAAI 2021, with its settings for MNIST and, for 32x32 images, CIFAR-10; for other examples those of
        MNIST.
    shape : tuple of int
        Of one example: (channels, height, width), or (d,) for features; without, what the recipe sets for any.
    backbone : {"", "frozen", "trained"}
        What becomes of the backbone, where the network is one for photographs, of whose features `shape` then is.

    Returns
    -------
    dict
        Of fields of the method's settings and of :class:`~ssdml_fast.train.Config`; the caller's to change.

    Raises
    ------
    ValueError
        If there is no such recipe.

    Examples
    --------
    >>> settings("ssdml", "paper", (3, 32, 32))["metric_dim"]
    32
    """
    scalars.as_choice(recipe, "recipe", RECIPES)
    features = {"metric_dim": min(64, (shape[0] + 1) // 2)} if len(shape) == 1 else {}
    if recipe == "paper":
        if method not in _PAPER:
            raise ValueError(f"recipe must be 'default' for the method {method}, which has no other, found 'paper'")
        return _PAPER[method][()] | _PAPER[method].get(shape, features)
    if backbone:
        return {"metric_dim": min(DIRECTIONS, shape[0])} | _BACKBONE.get(method, {}).get(backbone, {})
    own = _DEFAULT.get(method, {}).get(FEATURES if features else shape, {})
    return features | _EVERY.get(shape, {}) | own
