"""Recipes and settings: the paper's are the paper's, and a bad one is named."""

from __future__ import annotations

import pytest

from ssdml_fast._settings import divided
from ssdml_fast.methods import recipes
from ssdml_fast.methods.settings import SSDMLSettings
from ssdml_fast.train.config import Config

SHAPES = [(), (1, 8, 8), (1, 28, 28), (3, 32, 32), (100,)]


def parts(settings):
    """Settings of the method, and of the training."""
    own, engines = divided(settings, SSDMLSettings, Config)
    return SSDMLSettings(**own), Config(**engines)


def test_the_papers_recipe_has_the_papers_settings():
    mnist, cifar = (parts(recipes.settings("ssdml", "paper", shape)) for shape in ((1, 28, 28), (3, 32, 32)))
    for own, config in (mnist, cifar):
        assert (own.mining, own.neighbors, own.gamma, own.alpha) == ("neighborhood", 10, 0.99, 40)
        assert (own.partition_size, own.epochs, own.max_epochs, config.batch_size) == (9000, 10, 50, 100)
        assert (config.optimizer, config.schedule, own.metric_update) == ("sgd", "constant", "partition")
        assert (config.augment, config.average, config.weight_decay) == ("none", 0, 0)
        assert config.learning_rate == 1e-4 / config.batch_size
    assert (mnist[0].warmup, mnist[1].metric_dim) == (0, 64)
    assert (cifar[0].warmup, cifar[1].metric_dim) == (300, 32)  # 30 epochs of 1000 labelled examples, 100 at once
    with pytest.raises(ValueError, match="recipe must be one of 'default', 'paper'"):
        recipes.settings("ssdml", "best", (1, 28, 28))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_recipes_are_of_known_settings(recipe, shape):
    parts(recipes.settings("ssdml", recipe, shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_method_without_a_recipe_has_what_holds_for_every_method(shape):
    found = recipes.settings("mine:Mine", "default", shape)
    Config(**found)  # nothing of a method
    assert found.items() <= recipes.settings("ssdml", "default", shape).items()
    with pytest.raises(ValueError, match=r"recipe must be 'default' for the method mine:Mine, .* found 'paper'"):
        recipes.settings("mine:Mine", "paper", shape)


def test_features_have_half_their_columns_or_64():
    for method in ("ssdml", "mine:Mine"):
        assert [recipes.settings(method, "default", (d,))["metric_dim"] for d in (1, 7, 100, 1000)] == [1, 4, 50, 64]


@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_a_recipe_is_the_callers_to_change(recipe):
    for shape in ((1, 8, 8), (1, 28, 28)):
        first = recipes.settings("ssdml", recipe, shape)
        kept = dict(first)
        first["metric_update"] = "unconstrained"
        assert recipes.settings("ssdml", recipe, shape) == kept != first


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("seed", -1), ("mining", "best"), ("rounds", -1), ("rounds", 1.5), ("partition_size", 0), ("epochs", 0),
        ("validations", 0), ("patience", 0), ("batch_size", 0), ("neighbors", 1), ("gamma", 1.0),
        ("gamma", float("nan")), ("alpha", 90.0),
        ("confident", 0.0), ("confident", 1.1), ("triplets_per_example", 0), ("learning_rate", 0.0),
        ("metric_step", -1.0), ("learning_rate", 1e6), ("metric_dim", 0), ("gamma", "much"), ("warmup", -1),
        ("warmup_rate", 0.0), ("max_epochs", -1), ("confident_last", 1.1), ("hard_negatives", -1), ("augment", "all"),
        ("optimizer", "lbfgs"), ("weight_decay", -0.1), ("schedule", "step"), ("average", 1.0), ("metric_update", "qr"),
        ("precision", "half"), ("compile", 1), ("device", "gpu"), ("device", "cuda:x"), ("select", "best"),
        ("tf32", 1), ("workers", -1), ("cache_gb", -1.0),
        ("mixup", 0.6), ("mixup", -0.1), ("softmax_weight", -1.0), ("softmax_weight", 1000.0),
        ("metric_update", "partition"),  # with the default mining, whose triplets are not known before
    ],
)  # fmt: skip
def test_a_bad_setting_is_named(setting, value):
    with pytest.raises((TypeError, ValueError), match=f"^{setting} must be"):
        parts({setting: value})


def test_a_bad_device_is_told_what_there_is():
    with pytest.raises(ValueError, match=r"^device must be 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps', found 'gpu'$"):
        Config(device="gpu")
