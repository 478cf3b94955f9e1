import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import DTYPES, LAYOUTS, LIBRARIES, dtypes, relayout, seeds, to_torch

import ssdml_fast as sf
from ssdml_fast import _torch, reference
from ssdml_fast._run.mine_class_triplets import draw


@st.composite
def cases(draw):
    """Arguments: sure and doubtful points, ties for the class, empty classes and classes of one."""
    n, classes = draw(st.integers(0, 40)), draw(st.integers(1, 6))
    rng, dtype = np.random.default_rng(draw(seeds)), draw(dtypes)
    posteriors = rng.dirichlet(np.full(classes, 0.3), n)
    if draw(st.booleans()):
        posteriors = rng.integers(0, 3, (n, classes)) / 4
    case = {
        "posteriors": posteriors.astype(dtype),
        "n_triplets": draw(st.integers(0, 60)),
        "min_confidence": draw(st.sampled_from((-1.0, 0.0, 0.25, 0.5, 0.7, 1.0, 2.0))),
        "seed": draw(st.integers(0, 2**63 - 1)),
        "balanced": draw(st.booleans()),
    }
    if draw(st.booleans()):
        z = rng.integers(-2, 3, (n, 2)) if draw(st.booleans()) else rng.standard_normal((n, 3))
        case |= {"z": z.astype(dtype), "n_nearest": draw(st.integers(1, 12))}
    return case


def classes_of(case):
    """The class of each point, -1 where it may not be drawn."""
    posteriors = case["posteriors"]
    confident = posteriors.max(1).astype(np.float64) >= case["min_confidence"]
    return np.where(confident, posteriors.argmax(1), -1)


# --- agrees with reference --------------------------------------------------------------------------------------------


@given(cases())
def test_agrees_with_twin(isa, case):
    triplets = sf.mine_class_triplets(**case)
    assert triplets.dtype == np.int64
    np.testing.assert_array_equal(triplets, reference.mine_class_triplets(**case))


def test_the_generator_is_splitmix64():
    """Its published sequence from 1234567 (also java.util.SplittableRandom's)."""
    from ssdml_fast.reference.mine_class_triplets import mix

    golden = 0x9E3779B97F4A7C15
    numbers = [mix(1234567 + i * golden) for i in range(1, 4)]
    assert numbers == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63 - 1])
def test_agrees_with_twin_for_any_seed(isa, seed):
    case = {"posteriors": np.eye(3)[np.arange(30) % 3], "n_triplets": 200, "seed": seed}
    np.testing.assert_array_equal(sf.mine_class_triplets(**case), reference.mine_class_triplets(**case))


# --- invariants -------------------------------------------------------------------------------------------------------


@given(cases())
def test_the_rule(case):
    triplets = sf.mine_class_triplets(**case)
    classes = classes_of(case)
    sizes = np.bincount(classes[classes >= 0])
    possible = (sizes > 1).any() and (sizes > 0).sum() > 1
    assert triplets.shape == (case["n_triplets"] if possible else 0, 3)
    anchor, positive, negative = triplets.T
    assert (classes[triplets] >= 0).all()
    assert (classes[anchor] == classes[positive]).all() and (classes[anchor] != classes[negative]).all()
    assert (anchor != positive).all()


def shares(drawn, n):
    return np.bincount(drawn, minlength=n) / len(drawn)


def test_draws_are_uniform_over_points():
    posteriors = np.eye(3)[[0, 0, 0, 1, 1, 2]]
    anchor, positive, negative = sf.mine_class_triplets(posteriors, 60_000).T
    np.testing.assert_allclose(shares(anchor, 6), [0.2, 0.2, 0.2, 0.2, 0.2, 0], atol=0.01)  # point 5 has no partner
    np.testing.assert_allclose(shares(positive[anchor == 0], 6), [0, 1 / 2, 1 / 2, 0, 0, 0], atol=0.02)
    np.testing.assert_allclose(shares(negative[anchor < 3], 6), [0, 0, 0, 1 / 3, 1 / 3, 1 / 3], atol=0.02)
    np.testing.assert_allclose(shares(negative[anchor == 4], 6), [1 / 4, 1 / 4, 1 / 4, 0, 0, 1 / 4], atol=0.02)
    independent = np.corrcoef([anchor[anchor < 3], positive[anchor < 3], negative[anchor < 3]])
    assert abs(independent[0, 2]) < 0.02 and abs(independent[1, 2]) < 0.02


def test_balanced_draws_are_uniform_over_classes():
    posteriors = np.eye(3)[[0] * 8 + [1, 1] + [2]]
    anchor, _, negative = sf.mine_class_triplets(posteriors, 60_000, balanced=True).T
    np.testing.assert_allclose(shares(anchor, 11), [1 / 16] * 8 + [1 / 4] * 2 + [0], atol=0.01)
    np.testing.assert_allclose(shares(negative[anchor < 8], 11), [0] * 8 + [1 / 4] * 2 + [1 / 2], atol=0.01)


@given(cases())
def test_hard_negatives_are_the_nearest_of_other_classes(case):
    if "z" not in case:
        return
    classes = classes_of(case)
    for anchor, _, negative in sf.mine_class_triplets(**case):
        d = ((case["z"][anchor].astype(float) - case["z"]) ** 2).sum(1)
        outside = np.sort(d[(classes >= 0) & (classes != classes[anchor])])
        assert d[negative] <= outside[min(case["n_nearest"], len(outside)) - 1] * (1 + 1e-6)


def test_hard_negatives_are_uniform_over_the_nearest():
    posteriors, z = np.eye(2)[[0, 0, 1, 1, 1, 1]], np.array([[0.0], [0.5], [4.0], [3.0], [2.0], [1.0]])
    anchor, _, negative = sf.mine_class_triplets(posteriors, 30_000, z=z, n_nearest=3).T
    np.testing.assert_allclose(shares(negative[anchor < 2], 6), [0, 0, 0, 1 / 3, 1 / 3, 1 / 3], atol=0.02)
    np.testing.assert_allclose(shares(negative[anchor >= 2], 6), [1 / 2, 1 / 2, 0, 0, 0, 0], atol=0.02)  # only two


def test_of_equally_near_negatives_those_of_smaller_index_count():
    posteriors = np.eye(3)[[0, 0, 2, 1, 2, 1]]
    anchor, _, negative = sf.mine_class_triplets(posteriors, 200, z=np.zeros((6, 2)), n_nearest=2).T
    assert set(negative[anchor < 2]) == {2, 3} and set(negative[anchor >= 2]) == {0, 1}


@pytest.mark.parametrize("classes", [255, 256, 300])
def test_many_classes(classes):
    case = {"posteriors": np.eye(classes)[np.random.default_rng(0).integers(0, classes, 900)], "n_triplets": 300}
    np.testing.assert_array_equal(sf.mine_class_triplets(**case), reference.mine_class_triplets(**case))


def test_a_longer_draw_begins_with_the_shorter_and_other_seeds_differ():
    posteriors = np.eye(3)[np.arange(300) % 3]
    long = sf.mine_class_triplets(posteriors, 500)
    np.testing.assert_array_equal(sf.mine_class_triplets(posteriors, 50), long[:50])
    assert len(np.unique(long, axis=0)) > 490
    other = sf.mine_class_triplets(posteriors, 500, seed=1)
    assert len(np.intersect1d(long @ [90_000, 300, 1], other @ [90_000, 300, 1])) < 10


def test_confidence_is_compared_in_float64():
    """0.7 is between the float32 numbers next to it: 0.7f is below 0.7 and must not pass."""
    posteriors = np.array([[0.7, 0.3], [0.7, 0.3], [0.3, 0.7]], np.float32)
    assert float(posteriors.max()) < 0.7
    assert len(sf.mine_class_triplets(posteriors, 5, min_confidence=0.7)) == 0
    assert len(sf.mine_class_triplets(to_torch(posteriors), 5, min_confidence=0.7)) == 0
    assert len(sf.mine_class_triplets(posteriors, 5, min_confidence=float(posteriors.max()))) == 5


@given(cases(), st.sampled_from(LAYOUTS[:5]))
def test_any_layout(case, layout):
    changed = {name: relayout(case[name], layout) for name in ("posteriors", "z") if name in case}
    np.testing.assert_array_equal(sf.mine_class_triplets(**{**case, **changed}), sf.mine_class_triplets(**case))


# --- backends agree ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_threads", [2, 3, 7])
@pytest.mark.parametrize("hard", [False, True])
def test_same_triplets_for_any_thread_count(isa, num_threads, hard):
    rng = np.random.default_rng(0)
    posteriors, z = rng.dirichlet(np.full(5, 0.3), 500), rng.standard_normal((500, 4)) if hard else None
    alone = sf.mine_class_triplets(posteriors, 10_000, 0.6, z=z, num_threads=1)
    np.testing.assert_array_equal(sf.mine_class_triplets(posteriors, 10_000, 0.6, z=z, num_threads=num_threads), alone)


@given(cases(), st.integers(0, 12), seeds)
def test_classes_that_the_host_knows_draw_as_certain_posteriors_do(case, n_nearest, seed):
    n, n_triplets = len(case["posteriors"]), case["n_triplets"]
    rng, balanced = np.random.default_rng(seed), case["balanced"]
    classes = torch.from_numpy(rng.integers(0, 5, n))
    z = torch.from_numpy(rng.integers(-2, 3, (n, 2)).astype(case["posteriors"].dtype))
    certain = torch.nn.functional.one_hot(classes, 5).float()
    hard = {"z": z, "n_nearest": n_nearest} if n_nearest else {}
    right = sf.mine_class_triplets(certain, n_triplets, seed=case["seed"], balanced=balanced, **hard)
    found = draw(classes, n_triplets, case["seed"], z, n_nearest, balanced)
    assert found.dtype == torch.int64 and torch.equal(found, right)
    of_numpy = draw(classes.numpy(), n_triplets, case["seed"], z.numpy(), n_nearest, balanced)
    assert isinstance(of_numpy, np.ndarray) and np.array_equal(of_numpy, right)


def test_classes_must_be_of_the_rows():
    with pytest.raises(ValueError, match=r"^z must have 3 rows like classes, found shape \(4, 2\)"):
        draw(np.arange(3), 5, 0, np.zeros((4, 2)))
    with pytest.raises(TypeError, match=r"^classes must be of an integer type, found float64"):
        draw(np.arange(3.0), 5, 0, np.zeros((3, 2)))


# --- torch ------------------------------------------------------------------------------------------------------------


@given(cases())
def test_torch_equals_numpy(case):
    triplets = sf.mine_class_triplets(**to_torch(case))
    assert isinstance(triplets, torch.Tensor) and triplets.dtype == torch.int64
    np.testing.assert_array_equal(triplets.numpy(), sf.mine_class_triplets(**case))


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precisions_are_read_as_float32(half):
    posteriors = torch.rand(50, 4, generator=torch.Generator().manual_seed(0)).softmax(1).to(half)
    expected = sf.mine_class_triplets(posteriors.float(), 30, 0.25)
    assert len(expected) == 30 and torch.equal(sf.mine_class_triplets(posteriors, 30, 0.25), expected)


def test_registered_operator():
    operator = _torch.ops.mine_class_triplets.default
    posteriors = torch.eye(3, dtype=torch.float64)[torch.arange(12) % 3]
    torch.library.opcheck(operator, (posteriors, 20, 0.5, 0, False, None, 10, None))
    torch.library.opcheck(operator, (posteriors, 20, 0.5, 7, True, torch.rand(12, 2), 2, 1))


def test_compiles_as_one_graph():
    def mine(scores):
        return sf.mine_class_triplets(scores.softmax(1), 25, 0.3, seed=3)[:, 0]

    scores = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(mine, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(scores), mine(scores))


# --- errors -----------------------------------------------------------------------------------------------------------

POSTERIORS = np.eye(3)[np.arange(9) % 3]


@pytest.mark.parametrize(
    "error, name, changed",
    [
        (TypeError, "posteriors", {"posteriors": POSTERIORS.tolist()}),
        (TypeError, "posteriors", {"posteriors": POSTERIORS.astype(int)}),
        (ValueError, "posteriors", {"posteriors": POSTERIORS[0]}),
        (ValueError, "posteriors", {"posteriors": POSTERIORS[:, :0]}),
        (ValueError, "posteriors", {"posteriors": np.full((9, 3), np.nan)}),
        (ValueError, "n_triplets", {"n_triplets": -1}),
        (TypeError, "n_triplets", {"n_triplets": 1.5}),
        (ValueError, "min_confidence", {"min_confidence": np.nan}),
        (TypeError, "min_confidence", {"min_confidence": "high"}),
        (ValueError, "seed", {"seed": -1}),
        (ValueError, "seed", {"seed": 2**63}),
        (TypeError, "seed", {"seed": None}),
        (TypeError, "balanced", {"balanced": 1}),
        (TypeError, "z", {"z": [[0.0]]}),
        (ValueError, "z", {"z": np.zeros((8, 2))}),
        (ValueError, "z", {"z": np.full((9, 2), np.inf)}),
        (ValueError, "n_nearest", {"n_nearest": 0}),
        (ValueError, "num_threads", {"num_threads": 0}),
    ],
)
@pytest.mark.parametrize("library", LIBRARIES)
def test_refuses(refuses, library, error, name, changed):
    arguments = {"posteriors": POSTERIORS, "n_triplets": 5, **changed}
    refuses(error, name, sf.mine_class_triplets, **LIBRARIES[library](arguments))


@pytest.mark.parametrize("dtype", DTYPES)
def test_refuses_mixed_libraries(refuses, dtype):
    z = np.zeros((9, 2), dtype)
    refuses(TypeError, "z", sf.mine_class_triplets, POSTERIORS, 5, z=torch.from_numpy(z))
    refuses(TypeError, "z", sf.mine_class_triplets, torch.from_numpy(POSTERIORS), 5, z=z)
