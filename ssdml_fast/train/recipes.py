"""Settings by name: the recipe that measures best, and the paper's."""

from __future__ import annotations

from typing import Any

from .. import _scalars as scalars

RECIPES = ("default", "paper")

PAPER: dict[str, Any] = {
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


def settings(recipe: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the settings of a recipe for examples of one shape, in place of the defaults of Config.

    Parameters
    ----------
    recipe : {"default", "paper"}
        ``"paper"`` is that of Dutta, Harandi, Sekhar, AAAI 2021, with its settings for MNIST and, for 32x32 images,
        CIFAR-10; for other examples those of MNIST.
    shape : tuple of int
        Of one example; see :func:`ssdml_fast.models.networks.choose`.

    Returns
    -------
    dict
        Of fields of :class:`~ssdml_fast.train.Config`; the caller's to change.

    Raises
    ------
    ValueError
        If there is no such recipe, or no network for the shape.

    Examples
    --------
    >>> settings("paper", (3, 32, 32))["metric_dim"]
    32
    """
    from ..models.networks import choose  # torch, which --help does without

    scalars.as_choice(recipe, "recipe", RECIPES)
    choice = choose(shape)
    return dict(choice.settings) if recipe == "default" else PAPER | choice.paper
