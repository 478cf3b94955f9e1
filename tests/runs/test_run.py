"""What a run shows of another on the same data."""

from types import SimpleNamespace

import numpy as np
import pytest

from ssdml_fast.runs.folder import RunFolder, Stored
from ssdml_fast.runs.run import Run


def opened(path, pool, images, monkeypatch):
    """A run whose data are those images, and whose model says what it is given."""
    RunFolder(path, {"name": "digits"}, {"pool": pool}).create(Stored("ssdml", "OrthogonalMetric", {}, {"seed": 0}))
    run = Run(path)
    for name, value in {"inputs": SimpleNamespace(choice=pool), "data": pool}.items():
        run.__dict__[name] = value
    run.__dict__["shown"] = SimpleNamespace(images=images, what="validation")
    monkeypatch.setattr(run, "trained", lambda choice, data: SimpleNamespace(embed=lambda given: given))
    return run


@pytest.mark.parametrize(("pool", "expected"), [("max", 2.0), ("mean", 1.0)])
def test_another_run_embeds_what_its_own_network_takes(tmp_path, monkeypatch, pool, expected):
    run = opened(tmp_path / "run", "mean", np.full((3, 2), 1.0), monkeypatch)
    other = opened(tmp_path / "other", pool, np.full((3, 2), 2.0), monkeypatch)
    assert other.shares_data(run)
    np.testing.assert_array_equal(other.embed(run), np.full((3, 2), expected))
