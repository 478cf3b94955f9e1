"""Mining triplets from posteriors on CUDA: the CPU's."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from on_device import FEW, on
from strategies import dtypes, seeds

import ssdml_fast as sf
from ssdml_fast import _arrays as arrays


@FEW
@given(dtypes, st.booleans(), st.booleans(), seeds)
def test_mine_class_triplets(device_library, dtype, balanced, hard, seed):
    rng = np.random.default_rng(seed)
    posteriors = rng.dirichlet(np.full(4, 0.3), rng.integers(0, 60)).astype(dtype)
    z = rng.standard_normal((len(posteriors), 3)).astype(dtype) if hard else None
    case = (posteriors, 50, 0.4, seed, balanced, z)
    np.testing.assert_array_equal(
        arrays.to_numpy(sf.mine_class_triplets(*on(device_library, case))), sf.mine_class_triplets(*case)
    )
