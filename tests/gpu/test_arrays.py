"""Arrays of every library and device in, and what is refused: on CUDA with the CPU's messages."""

import numpy as np
import pytest
import torch
from foreign import Foreign, OnDevice
from on_device import DEVICE, close, gaussian, gpu, on, orthonormal, working_cupy

import ssdml_fast as sf
from ssdml_fast import EdgeAffinity, KnnGraph
from ssdml_fast import _arrays as arrays

# --- libraries and devices --------------------------------------------------------------------------------------------


@gpu
def test_results_travel_by_dlpack():
    cupy = working_cupy()
    x = gaussian(200, 5)
    ours = sf.knn_graph(x, 4)
    theirs = sf.knn_graph(cupy.from_dlpack(x), 4)
    assert isinstance(theirs.indices, cupy.ndarray)
    assert torch.equal(torch.from_dlpack(theirs.indices), ours.indices)
    assert torch.from_dlpack(theirs.distances).data_ptr() == theirs.distances.data.ptr


@gpu
@pytest.mark.parametrize("kind", [OnDevice, Foreign])
def test_arrays_of_other_libraries(kind):
    x, L, grad = gaussian(200, 5), orthonormal(5, 3), gaussian(5, 3)
    found, right = sf.knn_graph(kind(x), 4), sf.knn_graph(x, 4)
    assert torch.equal(found.indices, right.indices) and found.indices.device == x.device
    assert torch.equal(sf.cayley_update(kind(L), kind(grad), 0.1), sf.cayley_update(L, grad, 0.1))
    assert arrays.adopt(x=kind(x))[0].data_ptr() == x.data_ptr()
    assert arrays.adopt(x=kind(x[:0]))[0].shape == (0, 5)


@gpu
@pytest.mark.parametrize("producer", ["default", "other"])
def test_arrays_of_other_libraries_are_waited_for(producer):
    x, late = torch.zeros(300, 5, device=DEVICE), gaussian(300, 5)
    right = sf.knn_graph(late, 4).indices
    torch.cuda.synchronize()
    stream = torch.cuda.Stream() if producer == "other" else torch.cuda.default_stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(300_000_000)
        x.copy_(late)
    with torch.cuda.stream(torch.cuda.Stream()):
        graph = sf.knn_graph(OnDevice(x, stream=stream.cuda_stream or 1), 4)
        torch.cuda.current_stream().synchronize()
    assert torch.equal(graph.indices, right)


@gpu
def test_cupy_reads_them_beside_its_own():
    cupy = working_cupy()
    L, grad = (cupy.asarray(x.cpu().numpy()) for x in (orthonormal(5, 3), gaussian(5, 3)))
    found = sf.cayley_update(L, OnDevice(torch.from_dlpack(grad)), 0.1)
    assert isinstance(found, cupy.ndarray) and (found == sf.cayley_update(L, grad, 0.1)).all()


@gpu
def test_cupy_arrays_must_be_on_its_current_device():
    cupy = working_cupy()
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("one CUDA device")
    with cupy.cuda.Device(1):
        x = cupy.eye(5)
        assert sf.knn_graph(x, 1).indices.device.id == 1
    with pytest.raises(TypeError, match=r"x must be on CuPy's current device, 0, found device 1"):
        sf.knn_graph(x, 1)
    assert cupy.cuda.runtime.getDevice() == 0


@gpu
def test_another_device_than_the_current():
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device")
    x = gaussian(500, 8).to("cuda:1")
    graph = sf.knn_graph(x, 5)
    assert graph.indices.device == x.device and torch.cuda.current_device() == 0
    assert torch.equal(graph.indices.cpu(), sf.knn_graph(x.cpu(), 5).indices)
    L, grad = orthonormal(32, 8).to("cuda:1"), gaussian(32, 8).to("cuda:1")
    close(sf.cayley_update(L, grad, 0.1), sf.cayley_update(L.cpu(), grad.cpu(), 0.1), 1e-5)
    with pytest.raises(ValueError, match="L must have orthonormal columns"):
        sf.cayley_update(2 * L, grad, 0.1)
    with pytest.raises(
        TypeError, match=r"grad must be a torch tensor on cuda:1 like the other arguments, found a torch"
    ):
        sf.cayley_update(L, grad.to("cuda:0"), 0.1)
    assert torch.cuda.current_device() == 0


# --- errors -----------------------------------------------------------------------------------------------------------


X, EYE = np.eye(6, 4), np.eye(4, 2)
LINE = KnnGraph(np.array([[1], [0], [1]]))


def spoiled(weight):
    """A graph whose weights were changed after it was validated."""
    graph = KnnGraph(LINE.indices, weights=np.ones((3, 1)))
    graph.weights[1] = weight
    return graph


REFUSED = {
    "x": lambda of: sf.knn_graph(of(np.where(X == 1, np.nan, X)), 2),
    "x too large": lambda of: sf.knn_graph(of(X * 1e300), 2),
    "k": lambda of: sf.knn_graph(of(X), 6),
    "ptr": lambda of: sf.knn_graph(of(X), 1, ptr=of(np.array([0, 5]))),
    "base": lambda of: sf.knn_search(of(X), of(X[:, :3]), 1),
    "queries": lambda of: sf.knn_search(of(np.full((2, 4), np.inf)), of(X), 1),
    "labels": lambda of: sf.propagate_affinity(of(LINE), of(np.array([0, -2, 0]))),
    "weights": lambda of: sf.propagate_affinity(of(spoiled(-1)), of(np.array([0, -1, 0]))),
    "weights all 0": lambda of: sf.propagate_labels(of(spoiled(0)), of(np.array([0, -1, 0]))),
    "gamma": lambda of: sf.propagate_labels(of(LINE), of(np.array([0, -1, 0])), gamma=1),
    "anchors": lambda of: sf.mine_triplets(
        of(LINE), of(EdgeAffinity(np.zeros((3, 1)), None, None, 0, 0.0)), of(np.array([3]))
    ),
    "triplets": lambda of: sf.angular_loss(of(X), of(np.array([[0, 1, 6]])), of(EYE)),
    "L": lambda of: sf.cayley_update(of(2 * EYE), of(EYE), 0.1),
    "grad": lambda of: sf.cayley_update(of(EYE), of(np.full((4, 2), np.nan)), 0.1),
    "L of CG": lambda of: sf.riemannian_cg(of(2 * EYE), of(X), of(np.array([[0, 1, 2]]))),
    "z of CG": lambda of: sf.riemannian_cg(of(EYE), of(np.where(X == 1, np.inf, X)), of(np.array([[0, 1, 2]]))),
    "triplets of CG": lambda of: sf.riemannian_cg(of(EYE), of(X), of(np.array([[0, 1, 6]]))),
    "step": lambda of: sf.cayley_update(of(EYE), of(np.full((4, 2), 1e200)), 1e200),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_as_on_the_cpu(device_library, case):
    def refusal(convert):
        with pytest.raises((TypeError, ValueError)) as raised:
            REFUSED[case](convert)
        return raised.type, str(raised.value)

    assert refusal(lambda value: on(device_library, value)) == refusal(lambda value: value)


def test_refuses_points_that_are_not_finite(device_library):
    with pytest.raises(ValueError, match=r"z must be finite, found inf at z\[0, 0\]"):
        sf.angular_loss(*on(device_library, (np.full((3, 4), np.inf), np.array([[0, 1, 2]]), EYE)))


@pytest.mark.parametrize("ptr", [[0, 5], [0, 0, 2, 5], [0, 5, 5]])
@pytest.mark.parametrize("wrong", [None, -1, 5, 1, 3])
def test_graphs_are_validated_as_on_the_cpu(device_library, ptr, wrong):
    indices = np.array([[1], [0], [3], [4], [2]])
    if wrong is not None:
        indices[1] = wrong

    def outcome(case):
        try:
            return arrays.to_numpy(KnnGraph(*case[:1], ptr=case[1]).indices).tolist()
        except ValueError as error:
            return str(error)

    case = (indices, np.array(ptr))
    assert outcome(on(device_library, case)) == outcome(case)
    twice = np.array([[1, 2], [2, 2], [0, 1]])
    with pytest.raises(ValueError, match="must not repeat a neighbour"):
        KnnGraph(on(device_library, twice))


@gpu
def test_refuses_arrays_in_different_places():
    with pytest.raises(TypeError, match=r"triplets must be a torch tensor on cuda:0"):
        sf.angular_loss(gaussian(5, 4), torch.zeros(1, 3, dtype=torch.int64), orthonormal(4, 2))
    with pytest.raises(TypeError, match=r"base must be a torch tensor on cuda:0"):
        sf.knn_search(gaussian(5, 4), torch.rand(5, 4), 1)
