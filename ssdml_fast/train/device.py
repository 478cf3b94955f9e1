"""Which device a training runs on, and what of torch's surroundings it does not depend on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from .. import _core
from .config import Config


def network_device(config: Config) -> torch.device:
    """Return the device that `config` asks for.

    Raises
    ------
    ValueError
        If it is not there, or does not have the precision.
    """
    device = torch.device(_best() if config.device == "auto" else config.device)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            found = f"{count} CUDA device{'s' * (count > 1)}" if count else "no CUDA device"
            raise ValueError(f"device must be there, found {config.device!r} where there is {found}")
        device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device must be there, found 'mps' where torch has no Metal")
    if config.precision == "float16" and device.type != "cuda":
        raise ValueError(f"precision must be 'float32' or 'bfloat16' on {device.type}, found 'float16'")
    return device


def kernel_device(device: torch.device) -> torch.device:
    """Return where the kernels work for a network on `device`: there, or on the host if not built for it."""
    return device if device.type == "cpu" or (device.type == "cuda" and _core.has_cuda()) else torch.device("cpu")


def described(device: torch.device) -> str:
    """Say what a device is, and why the kernels of a network on it work elsewhere where they do.

    Examples
    --------
    >>> described(torch.device("cpu"))
    'cpu'
    """
    text = f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
    if kernel_device(device).type == device.type:
        return text
    why = _core.lib.cuda_build.removeprefix("not built: ") if device.type == "cuda" else f"none for {device.type}"
    return f"{text}, kernels on the CPU: {why}"


def _best() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_compiles(device: torch.device) -> None:
    """Refuse to compile where torch cannot, as without a C++ compiler; a function of one line tells.

    Raises
    ------
    ValueError
        With what torch says of it.
    """
    try:
        torch.compile(lambda x: 2 * x)(torch.ones(2, device=device))
    except Exception as error:  # of many kinds, most of them not public
        raise ValueError(
            f"compile must be False, as torch.compile does not work here: {why_not_compiled(error)}"
        ) from error


def why_not_compiled(error: BaseException) -> str:
    """The reason of an error of torch.compile in one line, without its advice."""
    return " ".join(str(error).split("Set TORCH")[0].split("You can suppress")[0].split()) or type(error).__name__


@contextmanager
def surroundings(device: torch.device, tf32: bool) -> Iterator[None]:
    """Train as in a fresh process, whatever the caller has set: the default type and device, autocast, disabled
    gradients, inference mode, the precision of products; and leave the caller's settings and generators as they were.
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":  # a context of that would be asked at each call of torch: 1 µs
            stack.enter_context(torch.device("cpu"))
        for kind in {"cpu", device.type}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else [], device_type="cuda"))
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))  # pinned memory and compiled kernels are of the current one
        elif device.type == "mps":
            stack.callback(torch.mps.set_rng_state, torch.mps.get_rng_state())
        stack.enter_context(_products(tf32 and device.type == "cuda"))
        try:
            torch.set_default_dtype(torch.float32)
            yield
        finally:
            torch.set_default_dtype(dtype)


@contextmanager
def _products(tf32: bool) -> Iterator[None]:
    """Round the factors of float32 products where `tf32` says so, and else nowhere.

    Since torch 2.9 this can be said of all libraries, of one, or of one's products or convolutions: ``fp32_precision``.
    Where a caller has said so, the two older names cannot be read, and have no value of their own to be kept.
    """
    b: Any = torch.backends
    wide_first: list[Any] = []
    if hasattr(b, "fp32_precision"):
        wide_first = [b, b.cudnn, b.mkldnn, b.cuda.matmul, b.cudnn.conv, b.cudnn.rnn]
        wide_first += [b.mkldnn.matmul, b.mkldnn.conv, b.mkldnn.rnn]
    products = _unless_mixed(torch.get_float32_matmul_precision, "highest")
    convolutions = _unless_mixed(lambda: b.cudnn.allow_tf32, True)
    was = []
    for library in wide_first:  # one that says nothing answers as the wider does
        was.append(library.fp32_precision)
        library.fp32_precision = "none"
    try:
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        b.cudnn.allow_tf32 = tf32
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        b.cudnn.allow_tf32 = convolutions
        for library, precision in zip(reversed(wide_first), reversed(was), strict=True):
            library.fp32_precision = precision


def _unless_mixed(read: Callable[[], Any], default: Any) -> Any:
    """What is read, or the default where torch refuses to say."""
    try:
        return read()
    except RuntimeError:
        return default
