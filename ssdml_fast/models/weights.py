"""Weights of a network, read from a file without running anything that lies in it."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._extras import require
from ..data.dataset import DataError
from ..data.files import existing
from ..exceptions import first_line

WITHIN = ("state_dict", "model_state_dict", "model")  # where checkpoints of trainings keep a network's state
SHOWN = 3  # names at most in an error


def load_weights(network: nn.Module, path: str | os.PathLike[str], name: str) -> None:
    """Give a network the weights of a file.

    Parameters
    ----------
    network : torch.nn.Module
        Changed in place, or not at all.
    path : path
        ``.npz``, ``.safetensors``, or what ``torch.save`` has written: tensors by the names of the network's state,
        or a dict with that as its ``state_dict`` or ``model``. What else it holds, as a classifier, is not read.
    name : str
        What to call the network in messages.

    Raises
    ------
    DataError
        If the file is missing, damaged, or of another network.
    ImportError
        If it is a ``.safetensors`` file and that package is not installed.

    Examples
    --------
    >>> import tempfile
    >>> network = nn.Linear(2, 1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/w.npz", weight=np.ones((1, 2), np.float32), bias=np.zeros(1, np.float32))
    ...     load_weights(network, f"{folder}/w.npz", "the example")
    >>> network.weight.data
    tensor([[1., 1.]])
    """
    path = existing(Path(path), f"the weights of {name}")
    found, expected = read_state(path), network.state_dict()
    counters = {key for key in expected if key.endswith("num_batches_tracked")}  # files of other libraries lack them
    if missing := expected.keys() - counters - found.keys():
        raise DataError(
            f"{path} must hold weights of {name}, found {_listed(found)} in place of {_listed(sorted(missing))}"
        )
    for key, tensor in expected.items():
        if key in found and found[key].shape != tensor.shape:
            raise DataError(
                f"{path} must hold weights of {name}, found {key} of shape {tuple(found[key].shape)} in place of "
                f"{tuple(tensor.shape)}"
            )
    network.load_state_dict({key: found.get(key, tensor) for key, tensor in expected.items()})


def read_state(path: Path) -> dict[str, Tensor]:
    """Read tensors by name; see :func:`load_weights`."""
    state: Any
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                state = {key: torch.from_numpy(array) for key, array in arrays.items()}
        elif path.suffix == ".safetensors":
            require("a .safetensors file", "safetensors")
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise
    except Exception as error:  # whatever a damaged file makes these libraries stumble over
        why = first_line(error)
        if isinstance(error, pickle.UnpicklingError):  # torch's own words tell how to read it unsafely
            why = "it is damaged, or holds more than tensors; torch.save(network.state_dict(), ...) writes what is read"
        raise DataError(f"{path} must hold weights, found a file that cannot be read: {why}") from None
    for key in WITHIN:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise DataError(f"{path} must hold weights by name, found {type(state).__name__}")
    state = {str(key): tensor for key, tensor in state.items() if isinstance(tensor, Tensor)}
    if state and all(key.startswith("module.") for key in state):  # of torch's wrappers for several devices
        state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    return state


def _listed(names: Any) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "nothing") + more
