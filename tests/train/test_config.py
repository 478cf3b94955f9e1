"""Settings are checked by their types and limits, and each says what it means."""

from __future__ import annotations

import dataclasses

import pytest
from trainings import train

from ssdml_fast._settings import divided
from ssdml_fast.methods.settings import SSDMLSettings
from ssdml_fast.train import Config, Settings, setting


@dataclasses.dataclass(frozen=True)
class Sample(Settings):
    """One setting of each kind."""

    count: int = setting(1, "An integer.", least=1)
    share: float = setting(0.5, "A number.", within="[0, 1)")
    free: float = setting(0.0, "Any number.")
    flag: bool = setting(False, "Yes or no.")
    kind: str = setting("a", "A choice.", choices=("a", "b"))
    form: str = setting("x1", "A text.", pattern=r"x\d")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 0}, r"^count must be at least 1, found 0"),
        ({"count": 1.5}, r"^count must be an integer, found 1\.5"),
        ({"count": True}, r"^count must be an integer, found True"),
        ({"share": 1}, r"^share must be in \[0, 1\), found 1\.0"),
        ({"share": "half"}, r"^share must be .*, found 'half'"),
        ({"free": float("nan")}, r"^free must be .*, found nan"),
        ({"flag": 1}, r"^flag must be True or False, found 1"),
        ({"kind": "c"}, r"^kind must be one of 'a', 'b', found 'c'"),
        ({"form": "x12"}, r"^form must be .*, found 'x12'"),
    ],
)
def test_a_setting_is_checked_by_its_type_and_limits(given, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Sample(**given)


def test_settings_become_their_types_and_stay():
    sample = Sample(share=0, free=2)
    assert [type(value) for value in (sample.share, sample.free)] == [float, float]
    with pytest.raises(dataclasses.FrozenInstanceError):
        sample.share = 0.1


def test_a_seed_is_one_of_torchs():
    assert train({"rounds": 0, "metric_dim": 4, "seed": 2**64 - 1}).stopped == "finished"
    with pytest.raises(ValueError, match=r"^seed must be less than 2\^64, found 18446744073709551616$"):
        Config(seed=2**64)


def test_settings_are_divided_by_name():
    assert divided({"seed": 1, "share": 0.1}, Sample, Config) == ({"share": 0.1}, {"seed": 1})
    with pytest.raises(ValueError, match=r"^unknown settings: colour, shape"):
        divided({"shape": 1, "colour": 2, "seed": 3}, Sample, Config)


@pytest.mark.parametrize("kind", [Config, SSDMLSettings])
def test_every_setting_says_what_it_means(kind):
    for field in dataclasses.fields(kind):
        assert field.metadata["help"].endswith("."), field.name
