"""Label propagation on CUDA: the CPU's posteriors within both error bounds, in the memory that is promised."""

import warnings

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from on_device import FEW, MB, gpu, on, partition, peak
from strategies import graphs, labels

import ssdml_fast as sf
from ssdml_fast import _arrays as arrays

# --- agrees with the CPU ----------------------------------------------------------------------------------------------


@FEW
@given(st.data())
def test_propagate_labels(device_library, data):
    graph = data.draw(graphs(with_weights=True))
    y = data.draw(labels(graph.n))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sf.ConvergenceWarning)
        right = sf.propagate_labels(graph, y, 0.9, 1e-6)
        found = sf.propagate_labels(on(device_library, graph), on(device_library, y), 0.9, 1e-6)
    assert arrays.dtype_name(found.posteriors) == arrays.dtype_name(right.posteriors)
    np.testing.assert_allclose(
        arrays.to_numpy(found.posteriors), right.posteriors, rtol=0, atol=right.error_bound + found.error_bound
    )
    assert (found.error_bound <= 1e-6) == (right.error_bound <= 1e-6)
    np.testing.assert_array_equal(arrays.to_numpy(found.classes), right.classes)
    assert arrays.device(found.posteriors) == arrays.device(on(device_library, y))


# --- memory -----------------------------------------------------------------------------------------------------------


@gpu
def test_memory_of_propagate_labels():
    n, k, classes = 20_000, 10, 10
    _, graph, y, *_ = partition(n, 8, k)
    used = peak(lambda: sf.propagate_labels(graph, y, 0.5, 1e-3))
    assert used < 4 * n * classes + 8 * (16 * n + 7 * n * k + 7 * n * classes) + 4 * MB
