"""The layer that follows a frozen backbone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize
from torch import nn

from ssdml_fast.models.adapter import Adapter
from ssdml_fast.models.metric import untrained


def features(n=60, d=12, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


@given(st.integers(5, 40), st.integers(2, 12), st.integers(1, 20), st.integers(0, 99))
def test_it_begins_as_principal_component_analysis(n, d, dim, seed):
    x = features(n, d, seed)
    z = Adapter(x, dim)(torch.from_numpy(x)).detach().numpy()
    dim = min(d, dim)
    assert z.shape == (n, dim)
    components = PCA(min(dim, n - 1), svd_solver="full").fit_transform(normalize(x.astype(np.float64)))
    expected = normalize(components)
    np.testing.assert_allclose(np.abs(z[:, : expected.shape[1]]), np.abs(expected), atol=2e-3)


def test_weight_decay_pulls_it_back_to_where_it_began():
    x = features()
    adapter = Adapter(x, 4)
    before = adapter(torch.from_numpy(x))
    with torch.no_grad():
        adapter.change.normal_()
        adapter.bias.normal_()
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.5, weight_decay=1.0)
    for parameter in adapter.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(60):
        optimizer.step()
    torch.testing.assert_close(adapter(torch.from_numpy(x)), before)


def test_what_it_was_made_from_is_in_its_state():
    x, other = features(), features(seed=1)
    adapter, stranger = Adapter(x, 4), Adapter(other, 4)
    stranger.load_state_dict(adapter.state_dict())
    torch.testing.assert_close(stranger(torch.from_numpy(x)), adapter(torch.from_numpy(x)))
    assert {name for name, _ in adapter.named_parameters()} == {"change", "bias"}


@pytest.mark.parametrize("x", [np.ones((5, 3), np.float32), np.zeros((1, 3), np.float32)])
def test_features_that_are_all_the_same_stay_finite(x):
    assert torch.isfinite(Adapter(x, 2)(torch.from_numpy(x))).all()


def test_directions_that_the_features_do_not_tell_depend_on_no_rounding():
    x = features(n=9, d=40)
    adapter, again = Adapter(x, 20), Adapter(x[::-1].copy(), 20)
    torch.testing.assert_close(adapter.directions, again.directions, rtol=0, atol=1e-4)
    inner = adapter.directions.T @ adapter.directions
    torch.testing.assert_close(inner, inner[0, 0] * torch.eye(20), rtol=0, atol=1e-4)


def test_a_direction_less_than_one_is_refused():
    with pytest.raises(ValueError, match="dim must be at least 1"):
        Adapter(features(), 0)


def test_l_begins_with_its_first_directions():
    x = features()
    model = untrained(nn.Sequential(nn.Identity(), Adapter(x, 6)), x, 4, seed=0)
    np.testing.assert_array_equal(model.metric.L.detach().numpy(), np.eye(6, 4))
    assert not np.array_equal(untrained(nn.Linear(12, 6), x, 4, seed=0).metric.L.detach().numpy(), np.eye(6, 4))
