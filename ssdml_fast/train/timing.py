"""Where the time of a training goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class StageTimes:
    """Adds up wall time by stage.

    Examples
    --------
    >>> times = StageTimes()
    >>> with times.stage("graph"):
    ...     pass
    >>> list(times.take()), times.take()
    (['graph'], {})
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}  # since the last that were taken
        self._inner = 0.0  # seconds of the stages within the one that is going on

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time that the block takes to the stage `name`, less that of stages within it."""
        began = time.perf_counter()
        outer, self._inner = self._inner, 0.0
        try:
            yield
        finally:
            whole = time.perf_counter() - began
            self.add({name: whole - self._inner})
            self._inner = outer + whole

    def add(self, seconds: dict[str, float]) -> None:
        """Add seconds by stage, as another process took them."""
        for name, more in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + more

    def take(self) -> dict[str, float]:
        """Return the seconds of each stage since the last call, in the order of their first use."""
        taken, self.seconds = self.seconds, {}
        return {name: round(seconds, 4) for name, seconds in taken.items()}
