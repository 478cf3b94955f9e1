"""Recipes and settings: the paper's are the paper's, and a bad one is named."""

from __future__ import annotations

import pytest

from ssdml_fast.train import Config, recipes


def test_the_papers_recipe_has_the_papers_settings():
    mnist, cifar = (Config(**recipes.settings("paper", shape)) for shape in ((1, 28, 28), (3, 32, 32)))
    for config in (mnist, cifar):
        assert (config.mining, config.neighbors, config.gamma, config.alpha) == ("neighborhood", 10, 0.99, 40)
        assert (config.partition_size, config.epochs, config.max_epochs, config.batch_size) == (9000, 10, 50, 100)
        assert (config.optimizer, config.schedule, config.metric_update) == ("sgd", "constant", "partition")
        assert (config.augment, config.average, config.weight_decay) == ("none", 0, 0)
        assert config.learning_rate == 1e-4 / config.batch_size
    assert (mnist.warmup, mnist.metric_dim) == (0, 64)
    assert (cifar.warmup, cifar.metric_dim) == (300, 32)  # 30 epochs of 1000 labelled examples, 100 at once
    with pytest.raises(ValueError, match="recipe must be one of 'default', 'paper'"):
        recipes.settings("best", (1, 28, 28))


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (100,)])
@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_recipes_are_of_known_settings(recipe, shape):
    Config(**recipes.settings(recipe, shape))


@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_a_recipe_is_the_callers_to_change(recipe):
    first = recipes.settings(recipe, (1, 28, 28))
    kept = dict(first)
    first["metric_update"] = "unconstrained"
    assert recipes.settings(recipe, (1, 28, 28)) == kept != first


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
        ("precision", "float16"), ("compile", 1),
        ("mixup", 0.6), ("mixup", -0.1), ("softmax_weight", -1.0), ("softmax_weight", 1000.0),
        ("metric_update", "partition"),  # with the default mining, whose triplets are not known before
    ],
)  # fmt: skip
def test_a_bad_setting_is_named(setting, value):
    with pytest.raises((TypeError, ValueError), match=f"^{setting} must be"):
        Config(**{setting: value})
