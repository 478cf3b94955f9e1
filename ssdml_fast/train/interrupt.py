"""Signals that are to end a training: not halfway through a step, and all by the same way."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from .._signals import ENDING

ONE_WISH = 1.0  # seconds: within them a terminal, torchrun and a scheduler may all say the same
FOLLOWING = 5.0  # seconds that a process goes on so that the first can end its step


class Stopped(KeyboardInterrupt):
    """A signal that ends a program as Ctrl-C does.

    Attributes
    ----------
    number : int
        Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class _Killed(SystemExit):
    """A signal that ends the process, as nobody handles it, on its way out of the training."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


class Held:
    """Holds back the signals that end a program while something is half done: a context, entered for each such thing.

    A signal that arrives within is handed at the end of it to whoever handled it before, and one that comes later than
    ONE_WISH after that, still within, at once. What no one handles, so that it ends the process, does so too, but only
    after what was under way has been left by an exception, as by Ctrl-C. All this as long as :meth:`signals` is
    entered, in the main thread; what is ignored, and what is handled outside Python, stays so.

    Of several processes that get a signal each, the first alone decides after which step to stop, as it cannot end one
    without the others. These go on until it has left them, which they fail by, or for FOLLOWING.

    Parameters
    ----------
    follows : bool
        Whether this process is another than the first.

    Attributes
    ----------
    broken : bool
        Whether an exception has left something half done.
    """

    def __init__(self, follows: bool = False) -> None:
        self.broken = False
        self._follows, self._within = follows, False
        self._first: float | None = None  # when the first signal arrived that is not done with
        self._waiting: list[int] = []
        self._former: dict[int, Any] = {}

    def __enter__(self) -> None:
        self._within = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._within = False
        if kind is not None:
            self.broken = True
        elif self._waiting and not (self._follows and self._since_first() < FOLLOWING):
            self._hand_over_waiting()

    @contextmanager
    def signals(self) -> Iterator[None]:
        """See to the signals within the block, after which they are handled as before."""
        if threading.current_thread() is threading.main_thread():
            now = {number: signal.getsignal(number) for number in ENDING}
            self._former = {n: handler for n, handler in now.items() if handler not in (None, signal.SIG_IGN)}
        try:
            for number in self._former:
                signal.signal(number, self._arrived)
            yield
        except _Killed as killed:
            self._waiting = []
            self._restore()
            signal.raise_signal(killed.number)  # which is the end
            raise
        except (KeyboardInterrupt, SystemExit):
            self._waiting = []  # they asked for what happens
            raise
        finally:
            self._restore()
            waiting, self._waiting = self._waiting, []
            for number in dict.fromkeys(waiting):
                signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._former.items():
            if signal.getsignal(number) == self._arrived:  # and nobody else's since
                signal.signal(number, handler)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if (self._within or self._follows) and self._since_first() < ONE_WISH:
            self._waiting.append(number)
        else:
            self._hand_over(number, frame)
            self._first = None  # its handler goes on

    def _since_first(self) -> float:
        """Seconds since the first signal that is not done with, which may be the one that has just arrived."""
        now = time.monotonic()
        self._first = now if self._first is None else self._first
        return now - self._first

    def _hand_over_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for number in dict.fromkeys(waiting):
            self._hand_over(number, None)
        self._first = None

    def _hand_over(self, number: int, frame: FrameType | None) -> None:
        handler = self._former[number]
        if not callable(handler):
            raise _Killed(number)
        handler(number, frame)


@contextmanager
def as_ctrl_c() -> Iterator[None]:
    """Have SIGTERM and SIGHUP raise Stopped within the block, where they would end the process."""
    taken = []
    if threading.current_thread() is threading.main_thread():
        taken = [n for n in ENDING if n != signal.SIGINT and signal.getsignal(n) == signal.SIG_DFL]
    try:
        for number in taken:
            signal.signal(number, _stop)
        yield
    finally:
        for number in taken:
            if signal.getsignal(number) == _stop:  # and nobody else's since
                signal.signal(number, signal.SIG_DFL)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)
