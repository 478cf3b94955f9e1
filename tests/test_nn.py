import copy
import io

import numpy as np
import pytest
import scipy.spatial.distance
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds

import ssdml_fast as sf
from ssdml_fast import _core
from ssdml_fast.nn import AngularLoss, OrthogonalMetric

# ---- OrthogonalMetric


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@given(st.integers(1, 30), st.data(), seeds, st.sampled_from([torch.float32, torch.float64]))
def test_starts_orthonormal_and_reproducibly(d, data, seed, dtype):
    l = data.draw(st.integers(1, d))
    metric = OrthogonalMetric(d, l, generator=seeded(seed), dtype=dtype)
    assert metric.L.shape == (d, l) and metric.L.dtype == dtype and metric.L.requires_grad
    eps = torch.finfo(dtype).eps
    assert metric.orthogonality_error() <= 16 * eps
    assert torch.equal(metric.L, OrthogonalMetric(d, l, generator=seeded(seed), dtype=dtype).L)
    wide = metric.L.detach().double().numpy()
    np.testing.assert_allclose(metric.orthogonality_error(), np.abs(wide.T @ wide - np.eye(l)).max(), atol=1e-15)
    assert metric.diagnostics() == {"orthogonality_error": metric.orthogonality_error()}


def test_start_is_uniform():
    """As under every rotation the distribution is the same, entries have mean 0, signs included, and variance 1/d."""
    L = torch.stack([OrthogonalMetric(4, 3, generator=seeded(i)).L.detach() for i in range(2000)])
    torch.testing.assert_close(L.mean(0), torch.zeros(4, 3), rtol=0, atol=0.05)
    torch.testing.assert_close(L.var(0), torch.full((4, 3), 0.25), rtol=0, atol=0.03)


def test_embeds_and_measures_mahalanobis_distances():
    metric = OrthogonalMetric(6, 3, dtype=torch.float64)
    x, y = torch.randn(2, 5, 6, dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)
    M = metric.M.detach().numpy()
    np.testing.assert_allclose(np.linalg.eigvalsh(M), [0, 0, 0, 1, 1, 1], atol=1e-12)
    distances = metric.distance(x, y).detach().numpy()
    assert distances.shape == (2, 5)
    for i in range(5):
        expected = scipy.spatial.distance.mahalanobis(x[1, i], y[i], M)
        np.testing.assert_allclose(distances[1, i], expected, rtol=1e-12)
    torch.testing.assert_close(metric(x), x @ metric.L)
    torch.testing.assert_close(torch.linalg.vector_norm(metric(x[0]) - metric(y), dim=1), metric.distance(x[0], y))


def test_gradients():
    metric = OrthogonalMetric(4, 2, dtype=torch.float64)
    x, y = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def functions(L, x, y):
        outputs = []
        for call in (lambda: metric(x), lambda: metric.distance(x, y), lambda: metric.M):
            outputs.append(torch.func.functional_call(_Call(metric, call), {"metric.L": L}, ()))
        return tuple(outputs)

    assert torch.autograd.gradcheck(functions, (metric.L, x, y))
    metric.distance(x, x).sum().backward()  # where the root has no derivative
    assert torch.isfinite(metric.L.grad).all()


class _Call(torch.nn.Module):
    def __init__(self, metric, call):
        super().__init__()
        self.metric, self.forward = metric, call


def test_saves_loads_copies_and_shows_itself():
    metric = OrthogonalMetric(6, 3)
    assert repr(metric) == "OrthogonalMetric(d=6, l=3)"
    file = io.BytesIO()
    torch.save(metric.state_dict(), file)
    file.seek(0)
    other = OrthogonalMetric(6, 3)
    assert not torch.equal(other.L, metric.L)
    other.load_state_dict(torch.load(file))
    assert torch.equal(other.L, metric.L)
    copied = copy.deepcopy(metric)
    copied.reset_parameters(seeded(1))
    assert not torch.equal(copied.L, metric.L)
    assert metric.double().L.dtype == torch.float64


def test_works_under_autocast():
    metric = OrthogonalMetric(6, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert metric(torch.randn(2, 6)).dtype == torch.bfloat16
    assert metric.orthogonality_error() < 1e-5


@pytest.mark.parametrize(
    ("error", "name", "arguments"),
    [
        (ValueError, "d", (0, 1)),
        (TypeError, "d", (3.0, 1)),
        (ValueError, "l", (3, 4)),
        (ValueError, "l", (3, 0)),
        (TypeError, "l", (3, True)),
    ],
)
def test_metric_refuses(refuses, error, name, arguments):
    refuses(error, name, OrthogonalMetric, *arguments)


@pytest.mark.parametrize("dtype", [torch.float16, torch.int64, torch.complex64])
def test_metric_refuses_other_types(refuses, dtype):
    refuses(TypeError, "dtype", OrthogonalMetric, 3, 2, dtype=dtype)


def test_metric_is_made_on_the_meta_device_and_filled_later():
    with torch.device("meta"):
        metric = OrthogonalMetric(8, 4)
    assert metric.L.is_meta
    metric.to_empty(device="cpu").reset_parameters(seeded(0))
    assert torch.equal(metric.L, OrthogonalMetric(8, 4, generator=seeded(0)).L)


# ---- AngularLoss


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_loss_is_the_function(reduction):
    z, L = torch.randn(7, 5, dtype=torch.float64), OrthogonalMetric(5, 3, dtype=torch.float64).L
    triplets, weight = torch.randint(7, (9, 3)), torch.rand(9, dtype=torch.float64)
    criterion = AngularLoss(35.0, reduction)
    assert torch.equal(criterion(z, triplets, L), sf.angular_loss(z, triplets, L, 35.0, reduction))
    assert torch.equal(criterion(z, triplets, L, weight), sf.angular_loss(z, triplets, L, 35.0, reduction, weight))
    assert repr(criterion) == f"AngularLoss(alpha=35, reduction={reduction!r})"
    assert not list(criterion.parameters()) and not criterion.state_dict()


def test_loss_runs_on_the_threads_asked_for(monkeypatch):
    asked, threads = [], _core.threads
    monkeypatch.setattr(_core, "threads", lambda number: asked.append(number) or threads(number))
    z, L = torch.randn(7, 5, requires_grad=True), OrthogonalMetric(5, 3).L
    AngularLoss(num_threads=2)(z, torch.randint(7, (9, 3)), L).backward()
    assert asked == [2, 2]  # forward and backward


@pytest.mark.parametrize(
    ("error", "name", "arguments"),
    [
        (ValueError, "alpha", (0.0,)),
        (ValueError, "alpha", (90.0,)),
        (TypeError, "alpha", ("40",)),
        (ValueError, "reduction", (40.0, "average")),
        (ValueError, "num_threads", (40.0, "mean", 0)),
        (TypeError, "num_threads", (40.0, "mean", 1.5)),
    ],
)
def test_loss_refuses(refuses, error, name, arguments):
    refuses(error, name, AngularLoss, *arguments)
