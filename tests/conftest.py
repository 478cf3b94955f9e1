"""What test files share: hypothesis profile, instruction sets, devices, and how a refusal is checked."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from stand_in import build, installed

from ssdml_fast import EdgeAffinity, KnnGraph, _core

pytest.register_assert_rewrite("on_device")  # its assertions explain themselves, as those of test files do

os.environ["SSDML_FAST_CACHE"] = ""  # what a test computes, it computes, and in no folder of whoever runs it

settings.register_profile(
    "ssdml_fast",
    deadline=None,
    derandomize=True,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # `isa` and `refuses` hold for all examples of a test
)
settings.load_profile("ssdml_fast")


TIERS = ("slow", "stand_in", "browser", "gpu")


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses by the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test its tier, and skip what needs a CUDA device where there is none."""
    lacks = None
    if not torch.cuda.is_available():
        lacks = "no CUDA device"
    elif importlib.util.find_spec("ssdml_fast._core.cuda_kernels") is None:
        lacks = "ssdml_fast was built without its CUDA kernels"
    for item in items:
        if "stand_in" in getattr(item, "fixturenames", ()):
            item.add_marker("stand_in")
        if not any(map(item.get_closest_marker, TIERS)):  # keywords would hold names of folders too
            item.add_marker("fast")
        if lacks and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=lacks))


@pytest.fixture(autouse=True)
def _torch_starts_anew() -> None:
    """Random tensors of a test depend on no test before it."""
    torch.manual_seed(0)


class Plane:
    """Stands in for t-SNE, which would take most of a test's time: the first two columns, or the only one twice."""

    def __init__(self, **settings: Any) -> None:
        pass

    def fit_transform(self, embedding: np.ndarray) -> np.ndarray:
        return embedding[:, [0, min(1, embedding.shape[1] - 1)]]


@pytest.fixture(scope="module")
def quick_maps() -> Iterator[None]:
    """Draw maps without t-SNE."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sklearn.manifold.TSNE", Plane)
        yield


@pytest.fixture
def holds_in_a_forked_child() -> Callable[[Callable[[], bool]], None]:
    """Check a condition in a forked child, which must not hang."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")

    def check(condition: Callable[[], bool]) -> None:
        child = os.fork()
        if child == 0:
            os._exit(int(not condition()))
        for _ in range(600):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            time.sleep(0.1)
        else:
            os.kill(child, signal.SIGKILL)
            pytest.fail("the child hangs")
        assert status == 0

    return check


@pytest.fixture(params=_core.available())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once with the kernels of each instruction set of this machine."""
    before = _core.lib
    _core.use(request.param)
    yield request.param
    _core.lib = before


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """CUDA's kernels, compiled for the CPU."""
    return build(tmp_path_factory.mktemp("stand_in"))


@pytest.fixture(
    params=[
        pytest.param("stand-in", marks=pytest.mark.stand_in),
        pytest.param("torch", marks=pytest.mark.gpu),
        pytest.param("cupy", marks=pytest.mark.gpu),
    ]
)
def device_library(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once with the arrays of each library that has a device, or a stand-in for one."""
    if request.param == "stand-in":
        with installed(request.getfixturevalue("stand_in")):
            yield request.param
    else:
        yield request.param


@pytest.fixture(scope="session")
def refuses() -> Callable[..., None]:
    """Assert that a call raises `error`, that the message names the argument, and that no input was changed."""

    def check(error: type[Exception], name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        inputs = (*args, *kwargs.values())
        before = [_bytes(value) for value in inputs]
        with pytest.raises(error) as raised:
            function(*args, **kwargs)
        assert re.search(rf"\b{name}\b", str(raised.value)), f"message does not name {name}: {raised.value}"
        assert [_bytes(value) for value in inputs] == before

    return check


def _bytes(value: Any) -> Any:
    if isinstance(value, (KnnGraph, EdgeAffinity)):
        return [_bytes(entry) for entry in vars(value).values()]
    if isinstance(value, torch.Tensor):
        if value.is_sparse or value.is_meta:
            return None
        storage = torch.empty(0, dtype=torch.uint8, device=value.device).set_(value.untyped_storage())
        return storage.cpu().numpy().tobytes()  # bytes(storage) takes microseconds per byte
    return value.tobytes() if isinstance(value, np.ndarray) else None
