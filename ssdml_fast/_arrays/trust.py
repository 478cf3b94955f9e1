"""The gate of checks that look at values in device memory, for callers who have looked once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from .libraries import is_capturing, is_cuda

_IS_TRUSTED = ContextVar("is_trusted", default=False)


@contextmanager
def trusted() -> Iterator[None]:
    """Leave out all checks of values on a device, each of which waits for it; those of types, shapes and numbers stay.

    For loops whose values are right by construction, or were looked at before. What a check would have refused then
    does what it does: NaN spreads, and an index out of range reads memory that is not there. Of arrays on the CPU
    everything is checked as ever. It may be nested, ends with an exception too, and holds for the thread that enters.
    """
    token = _IS_TRUSTED.set(True)
    try:
        yield
    finally:
        _IS_TRUSTED.reset(token)


def is_trusted(x: Any) -> bool:
    """Whether values of `x` are not looked at: they lie on a device, and are :func:`trusted` or not yet there.

    They are not while a CUDA graph is recorded.
    """
    return (_IS_TRUSTED.get() and is_cuda(x)) or is_capturing(x)
