"""Mining triplets on CUDA: the CPU's."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from on_device import FEW, on
from strategies import graphs, seeds

import ssdml_fast as sf
from ssdml_fast import EdgeAffinity
from ssdml_fast import _arrays as arrays


@FEW
@given(st.data())
def test_mine_triplets(device_library, data):
    graph = data.draw(graphs())
    rng = np.random.default_rng(data.draw(seeds))
    values = rng.integers(0, 3, (graph.n, graph.k)).astype(
        np.float64 if graph.distances is None else graph.distances.dtype
    )
    affinity = EdgeAffinity(values, None, None, 0, 0.0)
    anchors = rng.integers(0, graph.n, 7) if graph.n and data.draw(st.booleans()) else None
    right = sf.mine_triplets(graph, affinity, anchors)
    found = sf.mine_triplets(*on(device_library, (graph, affinity, anchors)))
    np.testing.assert_array_equal(arrays.to_numpy(found), right)
