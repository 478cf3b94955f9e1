import dataclasses
import inspect
import math

import numpy as np
import pytest
import torch
from foreign import Foreign, OnDevice
from strategies import LAYOUTS, LIBRARIES, random_stiefel, relayout, to_torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

import ssdml_fast as sf
from ssdml_fast import _arrays as arrays
from ssdml_fast import _core, evaluate
from ssdml_fast import _scalars as scalars

# --- which library ----------------------------------------------------------------------------------------------------


def test_tells_numpy_and_torch_apart():
    assert arrays.namespace(np.zeros(2), "x") is np and arrays.namespace(torch.zeros(2), "x") is torch
    assert not arrays.is_torch(np.zeros(2)) and arrays.is_torch(torch.zeros(2))
    assert not arrays.is_cupy(torch.zeros(2)) and not arrays.is_cuda(torch.zeros(2)) and not arrays.is_cuda(np.zeros(2))
    assert arrays.device(np.zeros(2)) == "NumPy array" and arrays.device(torch.zeros(2)) == "torch tensor on cpu"
    assert arrays.dtype_name(np.zeros(2, np.float32)) == arrays.dtype_name(torch.zeros(2)) == "float32"


@pytest.mark.parametrize("value", [[0.0], (1,), 3.0, None, "x", range(3)])
def test_refuses_what_is_no_array(refuses, value):
    refuses(TypeError, "x", arrays.namespace, value, "x")


def test_refuses_tensors_that_kernels_cannot_read(refuses):
    refuses(TypeError, "x", arrays.namespace, torch.eye(2).to_sparse(), "x")
    refuses(TypeError, "x", arrays.namespace, torch.empty(2, device="meta"), "x")


def test_refuses_arrays_of_another_library(refuses):
    arrays.check_like(np.zeros(1), "y", np.zeros(1))
    arrays.check_like(torch.zeros(1), "y", torch.zeros(1))
    refuses(TypeError, "y", arrays.check_like, torch.zeros(1), "y", np.zeros(1))
    refuses(TypeError, "y", arrays.check_like, np.zeros(1), "y", torch.zeros(1))
    refuses(TypeError, "y", arrays.check_like, [0.0], "y", np.zeros(1))


def test_crosses_to_numpy_and_back_without_a_copy():
    x = torch.zeros(3, requires_grad=True)
    view = arrays.to_numpy(x)
    view[1] = 5
    assert x.detach()[1] == 5
    assert arrays.from_numpy(view, like=x).data_ptr() == x.data_ptr()
    y = np.zeros(3)
    assert arrays.to_numpy(y) is y and arrays.from_numpy(y, like=y) is y


def test_adopts_arrays_of_other_libraries_without_a_copy():
    x, y = torch.zeros(3), np.zeros(3)
    found, none, number = arrays.adopt(x=Foreign(x), y=None, z=3)
    assert arrays.is_torch(found) and found.data_ptr() == x.data_ptr() and none is None and number == 3
    assert arrays.adopt(x=x, y=y) == (x, y)
    _, found = arrays.adopt(y=y, x=Foreign(y))
    assert isinstance(found, np.ndarray) and found.ctypes.data == y.ctypes.data
    (found,) = arrays.adopt(y, x=Foreign(y))
    assert isinstance(found, np.ndarray)


def test_says_why_an_array_of_another_library_cannot_be_read():
    masked = OnDevice(None, mask=np.zeros(3), data=(0, False))
    with pytest.raises(TypeError, match=r"x must be an array that torch can read, found OnDevice: it is masked"):
        sf.knn_graph(masked, 1)
    with pytest.raises(TypeError, match=r"z must be an array that numpy can read, found OnDevice: its memory is a dev"):
        sf.mine_class_triplets(np.ones((3, 2)), 1, z=masked)


# --- every argument of every function ---------------------------------------------------------------------------------


def operations():
    """Every operation, and arguments that it takes."""
    rng = np.random.default_rng(0)
    x, y, weight = rng.standard_normal((30, 4)), rng.integers(-1, 2, 30), rng.random(9)
    L, triplets, anchors = random_stiefel((4, 2), rng), rng.integers(0, 30, (9, 3)), rng.integers(0, 30, 5)
    grad, ptr = x[:4, :2].copy(), np.array([0, 10, 30])
    graph = sf.knn_graph(x, 3, ptr=ptr)
    affinity = sf.propagate_affinity(graph, y, gamma=0.5)
    indices, distances = sf.knn_search(x, x, 3)
    loss = {"z": x, "triplets": triplets, "L": L, "weight": weight}
    return {
        sf.knn_graph: {"x": x, "k": 3, "ptr": ptr},
        sf.knn_search: {"queries": x[:3].copy(), "base": x, "k": 2},
        sf.KnnGraph: {"indices": graph.indices, "distances": graph.distances, "ptr": ptr, "weights": graph.distances},
        sf.KnnGraph.from_search: {"indices": indices, "distances": distances},
        sf.propagate_affinity: {"graph": graph, "labels": y, "gamma": 0.5},
        sf.propagate_labels: {"graph": graph, "labels": y, "gamma": 0.5},
        sf.mine_triplets: {"graph": graph, "affinity": affinity, "anchors": anchors},
        sf.mine_class_triplets: {"posteriors": rng.dirichlet((1, 1), 30), "n_triplets": 20, "z": x},
        sf.angular_loss: loss,
        sf.angular_loss_and_grad: loss,
        sf.cayley_update: {"L": L, "grad": grad, "step": 0.1},
        sf.qr_retraction: {"L": L, "direction": grad},
        sf.polar_retraction: {"L": L, "direction": grad},
        sf.riemannian_cg: {**loss, "iterations": 2},
    }


OPERATIONS = operations()
EMBEDDING = {"embedding": np.random.default_rng(0).standard_normal((30, 4)), "labels": np.arange(30) % 3}
EVALUATIONS = {evaluate.recall_at_k: {**EMBEDDING, "ks": (1, 3)}, evaluate.clustering_nmi: {**EMBEDDING, "n_init": 1}}
EVALUATIONS |= {evaluate.map_at_r: EMBEDDING, evaluate.silhouette: EMBEDDING}
CALLS = OPERATIONS | EVALUATIONS
BY_BLAS = {sf.polar_retraction, *EVALUATIONS}  # whose last bits may depend on where in memory an array lies
ARRAYS = [
    pytest.param(function, name, id=f"{function.__name__}-{name}")
    for function, arguments in CALLS.items()
    for name, value in arguments.items()
    if isinstance(value, np.ndarray)
]


def parts(result):
    """What a function returned, as a list."""
    if dataclasses.is_dataclass(result):
        return list(vars(result).values())
    return list(result.values() if isinstance(result, dict) else result if isinstance(result, tuple) else [result])


@pytest.mark.parametrize("function", OPERATIONS)
def test_takes_arrays_of_other_libraries(function):
    arguments = to_torch(OPERATIONS[function])
    foreign = {name: Foreign(value) if arrays.is_torch(value) else value for name, value in arguments.items()}
    for found, right in zip(parts(function(**foreign)), parts(function(**arguments)), strict=True):
        assert type(found) is type(right)
        if arrays.is_torch(right) and function in BY_BLAS:
            torch.testing.assert_close(found, right, rtol=0, atol=1e-12)
        else:
            assert torch.equal(found, right) if arrays.is_torch(right) else found == right


@pytest.mark.parametrize(("function", "name"), ARRAYS)
def test_refuses_masked_arrays(function, name):
    """Also where nothing is masked, so that a program does not depend on whether its data have gaps."""
    value = CALLS[function][name]
    for masked in (np.ma.masked_array(value), np.ma.masked_equal(value, value.flat[0])):
        with pytest.raises(TypeError, match=rf"^{name} must have no mask, found a NumPy masked array: fill it"):
            function(**{**CALLS[function], name: masked})


@pytest.mark.parametrize(("function", "name"), ARRAYS)
def test_takes_arrays_of_the_other_byte_order(function, name):
    """As files from other machines hold them; results are native."""
    value = CALLS[function][name]
    swapped = value.astype(value.dtype.newbyteorder())
    before = swapped.tobytes()
    found, right = function(**{**CALLS[function], name: swapped}), function(**CALLS[function])
    for ours, expected in zip(parts(found), parts(right), strict=True):
        if function in BY_BLAS:
            np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)
        else:
            np.testing.assert_array_equal(ours, expected)
        assert not isinstance(ours, np.ndarray) or ours.dtype == expected.dtype
    assert swapped.tobytes() == before


def test_subclasses_of_arrays_are_read_in_place():
    x = np.zeros((2, 3)).view(np.memmap)
    assert arrays.namespace(x, "x") is np and arrays.as_floats(x, "x").ctypes.data == x.ctypes.data


# --- tensors without memory -------------------------------------------------------------------------------------------


class Wrapper(torch.Tensor):
    """Stands for another tensor, as DTensor and many quantised tensors do, and has no memory of its own."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, strides=inner.stride())

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        def inner(x):
            return x.inner if isinstance(x, cls) else x

        found = func(*tree_map(inner, args), **tree_map(inner, kwargs or {}))
        return tree_map(lambda x: cls(x) if type(x) is torch.Tensor else x, found)


def emptied(x):
    """As sharded training leaves a parameter between its uses."""
    x = x.clone()
    x.untyped_storage().resize_(0)
    return x


WITHOUT_MEMORY = {
    "wrapper": Wrapper,
    "parameter": lambda x: torch.nn.Parameter(Wrapper(x), requires_grad=False),
    "masked": lambda x: torch.masked.masked_tensor(x, torch.ones_like(x, dtype=torch.bool)),
    "fake": lambda x: FakeTensorMode().from_tensor(x),
    "emptied": emptied,
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", WITHOUT_MEMORY)
@pytest.mark.parametrize(("function", "name"), ARRAYS)
def test_refuses_tensors_without_memory(function, name, kind):
    arguments = to_torch(CALLS[function])
    without = WITHOUT_MEMORY[kind](arguments[name])
    with pytest.raises(
        TypeError, match=rf"^{name} must be a tensor with memory of its own, found a {type(without).__name__}"
    ):
        function(**{**arguments, name: without})


def test_refuses_affinities_without_memory():
    arguments = to_torch(OPERATIONS[sf.mine_triplets])
    affinity = dataclasses.replace(arguments["affinity"], values=Wrapper(arguments["affinity"].values))
    with pytest.raises(TypeError, match=r"^affinity\.values must be a tensor with memory"):
        sf.mine_triplets(**{**arguments, "affinity": affinity})


@pytest.mark.parametrize("function", OPERATIONS)
def test_results_are_made_where_there_is_memory(function):
    """Under a mode in which torch allocates nothing, nothing is written to nowhere."""
    arguments = to_torch(OPERATIONS[function])
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises((TypeError, RuntimeError)):
        parts(function(**arguments))[0].sum().item()


@pytest.mark.parametrize("function", OPERATIONS)
def test_takes_parameters_and_subclasses_that_have_memory(function):
    class Subclass(torch.Tensor):
        pass

    arguments = to_torch(OPERATIONS[function])
    expected = parts(function(**arguments))
    for kind in (lambda x: torch.nn.Parameter(x, requires_grad=False), lambda x: x.as_subclass(Subclass)):
        given = {name: kind(value) if arrays.is_torch(value) else value for name, value in arguments.items()}
        for found, right in zip(parts(function(**given)), expected, strict=True):
            assert torch.equal(found.as_subclass(torch.Tensor), right) if arrays.is_torch(right) else found == right


@pytest.mark.parametrize("function", [sf.knn_graph, sf.cayley_update, sf.angular_loss])
def test_says_so_where_torch_maps_a_function_or_makes_it_functional(function):
    arguments = to_torch(OPERATIONS[function])
    (name, first), *rest = arguments.items()
    with pytest.raises(RuntimeError, match=r"storage|vmap"):
        torch.func.vmap(lambda x: function(**{name: x}, **dict(rest)))(first.expand(2, *first.shape))
    with pytest.raises(TypeError, match=rf"^{name} must be a tensor with memory"):
        torch.func.functionalize(lambda x: function(**{name: x}, **dict(rest)))(first)


# --- threads ----------------------------------------------------------------------------------------------------------

THREADED = [function for function in OPERATIONS if "num_threads" in inspect.signature(function).parameters]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("function", THREADED)
def test_the_number_of_threads_reaches_the_kernel_and_changes_nothing(function, library, monkeypatch):
    arguments, asked = LIBRARIES[library](OPERATIONS[function]), []
    threads = _core.threads
    monkeypatch.setattr(_core, "threads", lambda number: asked.append(number) or threads(number))
    alone, together = (parts(function(**arguments, num_threads=number)) for number in (1, 2))
    assert asked[: len(asked) // 2] == [1] * (len(asked) // 2) and asked[len(asked) // 2 :] == [2] * (len(asked) // 2)
    assert asked
    for found, right in zip(together, alone, strict=True):
        np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("function", THREADED)
def test_refuses_numbers_of_threads(refuses, function, library):
    arguments = LIBRARIES[library](OPERATIONS[function])
    for number in (0, -1, 4097):
        refuses(ValueError, "num_threads", function, **arguments, num_threads=number)
    for number in (1.5, True, "2", [2]):
        refuses(TypeError, "num_threads", function, **arguments, num_threads=number)


# --- arrays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_floats_become_contiguous_and_are_copied_only_for_that(layout):
    x = relayout(np.arange(12.0).reshape(4, 3), layout)
    floats = arrays.as_floats(x, "x", ndim=2)
    assert floats.flags.c_contiguous and floats.dtype == x.dtype
    np.testing.assert_array_equal(floats, x)
    assert (floats is x) == x.flags.c_contiguous


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_of_the_other_byte_order_become_native(dtype):
    x = np.arange(12.0).reshape(4, 3).astype(dtype)
    for swapped in (x.astype(x.dtype.newbyteorder()), x.astype(x.dtype.newbyteorder()).T.copy().T):
        floats = arrays.as_floats(swapped, "x", ndim=2, halves=True)
        assert floats.flags.c_contiguous and floats.dtype.isnative and floats.itemsize == max(x.itemsize, 4)
        np.testing.assert_array_equal(floats, x)


def test_torch_floats_become_contiguous():
    x = torch.arange(12.0, requires_grad=True).reshape(4, 3)
    floats = arrays.as_floats(x.T, "x", ndim=2)
    assert floats.is_contiguous() and not floats.requires_grad and torch.equal(floats, x.T)
    assert arrays.as_floats(x, "x").data_ptr() == x.data_ptr()


def test_half_precisions_only_where_admitted(refuses):
    assert arrays.as_floats(np.zeros(2, np.float16), "x", halves=True).dtype == np.float32
    assert arrays.as_floats(torch.zeros(2, dtype=torch.bfloat16), "x", halves=True).dtype == torch.float32
    refuses(TypeError, "x", arrays.as_floats, np.zeros(2, np.float16), "x")
    refuses(TypeError, "x", arrays.as_floats, torch.zeros(2, dtype=torch.bfloat16), "x")


@pytest.mark.parametrize("dtype", [int, bool, complex, object, "datetime64[s]", np.longdouble, "S3"])
def test_refuses_what_is_no_float(refuses, dtype):
    refuses(TypeError, "x", arrays.as_floats, np.zeros(2, dtype), "x")


@pytest.mark.parametrize("dtype", [float, bool, complex, object, "datetime64[s]", "timedelta64[s]", "S3"])
def test_refuses_what_is_no_integer(refuses, dtype):
    refuses(TypeError, "y", arrays.as_integers, np.zeros(2, dtype), "y", ndim=1)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
@pytest.mark.parametrize("order", "<>")
def test_integers_become_int64(dtype, order):
    y = arrays.as_integers(np.array([3, 1], np.dtype(dtype).newbyteorder(order)), "y", ndim=1)
    assert y.dtype == np.dtype(np.int64) and y.dtype.isnative and y.tolist() == [3, 1]


def test_refuses_integers_beyond_int64(refuses):
    refuses(ValueError, "y", arrays.as_integers, np.array([2**63], np.uint64), "y", ndim=1)
    assert arrays.as_integers(np.array([2**63 - 1], np.uint64), "y", ndim=1)[0] == 2**63 - 1


def test_refuses_dimensions_and_shapes(refuses):
    refuses(ValueError, "x", arrays.as_floats, np.zeros((2, 2)), "x", ndim=1)
    refuses(ValueError, "x", arrays.check_shape, np.zeros((2, 2)), (2, 3), "x", "the shape of y")
    arrays.check_shape(np.zeros((2, 3)), (2, 3), "x", "the shape of y")
    with pytest.raises(ValueError, match=r"x must have 1 dimension, found shape \(2, 2\)"):
        arrays.check_ndim(np.zeros((2, 2)), 1, "x")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_refuses_what_is_not_finite_and_says_where(value):
    x = np.zeros((3, 4))
    arrays.check_finite(x, "x")
    x[2, 1] = x[2, 3] = value
    for array in (x, torch.from_numpy(x), x.astype(x.dtype.newbyteorder())):
        with pytest.raises(ValueError, match=rf"x must be finite, found {value} at x\[2, 1\]"):
            arrays.check_finite(array, "x")


def test_nothing_is_finite():
    arrays.check_finite(np.zeros((0, 3)), "x")


def test_ptr():
    assert arrays.as_ptr(None, 5, like=np.zeros(1)) is None
    for ptr in ([0, 5], [0, 0, 5, 5], [0, 2, 5]):
        assert arrays.as_ptr(np.array(ptr, np.int32), 5, like=np.zeros(1)).tolist() == ptr
    assert arrays.as_ptr(np.array([0]), 0, like=np.zeros(1)).tolist() == [0]


@pytest.mark.parametrize("ptr", [[], [0], [5], [0, 4], [0, 6], [1, 5], [0, 3, 2, 5], [0, -1, 5], [0, 6, 5]])
def test_refuses_a_bad_ptr(refuses, ptr):
    refuses(ValueError, "ptr", arrays.as_ptr, np.array(ptr, np.int64), 5, np.zeros(1))


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), np.array(3)])
def test_integers(value):
    number = scalars.as_int(value, "k", 1, 5)
    assert type(number) is int and number == 3


@pytest.mark.parametrize("value", [3.0, True, np.True_, "3", None, [3], np.float64(3)])
def test_refuses_what_is_no_whole_number(refuses, value):
    refuses(TypeError, "k", scalars.as_int, value, "k", 1)


def test_refuses_integers_out_of_range(refuses):
    refuses(ValueError, "k", scalars.as_int, 0, "k", 1)
    refuses(ValueError, "k", scalars.as_int, 6, "k", 1, 5)
    assert scalars.as_int(5, "k", 1, 5) == 5 and scalars.as_int(10**30, "k", 1) == 10**30


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.array(0.5)])
def test_floats(value):
    number = scalars.as_float(value, "gamma", 0, 1)
    assert type(number) is float and number == 0.5


@pytest.mark.parametrize("value", [0, 1, -1, 2, math.nan, math.inf, -math.inf, pytest.param(10**400, id="10**400")])
def test_refuses_floats_out_of_range(refuses, value):
    refuses(ValueError, "gamma", scalars.as_float, value, "gamma", 0, 1)


@pytest.mark.parametrize("value", ["0.5", b"0.5", True, np.True_, None, [0.5], 1j])
def test_refuses_what_is_no_number(refuses, value):
    refuses(TypeError, "gamma", scalars.as_float, value, "gamma", 0, 1)


@pytest.mark.parametrize("value", ["sums", None, 0, ["sum"]])
def test_refuses_what_is_no_choice(refuses, value):
    assert scalars.as_choice("sum", "reduction", ("sum", "mean")) == "sum"
    refuses(ValueError, "reduction", scalars.as_choice, value, "reduction", ("sum", "mean"))
