"""Several processes that work as one command: they meet first, the first speaks, and what any fails by is told once.

Nothing here imports torch, or does anything, where a process is alone.
"""

from __future__ import annotations

import os
import shlex
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, redirect_stdout
from typing import Any, TypeVar

import typer
from typer.core import TyperGroup

from .._cores import usable_cores
from .._signals import ENDING
from ..exceptions import ProcessError
from ..train.interrupt import as_ctrl_c
from .console import plain_console

Value = TypeVar("Value")
USAGE: Any = typer.BadParameter.__base__  # what is wrong with what a user gave


class Ended(typer.Exit):
    """The end of a command before it is done, with what there is to tell of it.

    Attributes
    ----------
    text : str
        For the user.
    """

    def __init__(self, text: str, status: int) -> None:
        super().__init__(status)
        self.text = text


class Commands(TyperGroup):
    """Commands that several processes may be given at once."""

    def invoke(self, ctx: Any) -> Any:
        """Parse the command's arguments and run it."""
        with _one_voice():
            return super().invoke(ctx)


def several() -> bool:
    """Whether this process was started as one of several, by torchrun or whatever sets its variables."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def is_main() -> bool:
    """Whether this process is the one that writes and tells."""
    if not several():
        return True
    from .._world import World

    return World.here().is_main


def once(work: Callable[[], Value]) -> Value:
    """Do something in the first process; every process gets its result, or raises its error."""
    if not several():
        return work()
    from .._world import World

    return World.here().once(work)


def together() -> AbstractContextManager[None]:
    """Fail together, as :meth:`~ssdml_fast._world.World.together`."""
    if not several():
        return nullcontext()
    from .._world import World

    return World.here().together()


def command_of(arguments: Sequence[str]) -> str:
    """What to type for a command of these arguments, by as many processes as now."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or not several():
        return shlex.join(["ssdml-fast", *arguments])
    machines, here = (os.environ.get(name, "1") for name in ("GROUP_WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    where = "--standalone" if machines == "1" else f"--nnodes {machines} ..."
    return f"torchrun {where} --nproc-per-node {here} -m ssdml_fast {shlex.join(arguments)}"


def refuse_shared(device: str) -> None:
    """Refuse a setting of the device by which several processes would have one.

    Raises
    ------
    ValueError
        If `device` has a number, or this machine has fewer CUDA devices, of those it would take, than processes.
    """
    if not several():
        return
    if ":" in device:
        raise ValueError(
            f"device must have no number with several processes, of which each has its own, found {device!r}"
        )
    import torch

    here, count = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
    if device in ("auto", "cuda") and 0 < count < here:
        raise ValueError(
            f"device must be one for each process, found {here} processes and {count} CUDA device{'s' * (count > 1)}: "
            "start as many, or set device to 'cpu'"
        )


def threads_told(threads: int) -> str | None:
    """Say that processes have fewer threads than there are cores for them, if they have.

    Parameters
    ----------
    threads : int
        Of each process.
    """
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    cores = usable_cores() // here
    if threads >= cores:
        return None
    return f"with {threads} of {cores} cores for each process; OMP_NUM_THREADS={cores} before torchrun uses all"


@contextmanager
def _one_voice() -> Iterator[None]:
    """Have what the processes of a command have to say said once."""
    if several():
        with as_ctrl_c(), _met_and_parted():
            yield
        return
    try:
        yield
    except Ended as end:
        plain_console().print(end.text, soft_wrap=True)
        raise


@contextmanager
def _met_and_parted() -> Iterator[None]:
    """Meet, let the first process alone speak, and tell what ended all: the first does, if it lives."""
    from .._world import met

    is_first, speaks = True, lambda: True  # each for itself as long as they have not met
    try:
        with ExitStack() as stack:
            world = stack.enter_context(met())
            is_first, speaks = world.is_main, world.speaker()
            stack.push(_ignore_signals)
            if not is_first:
                stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
                stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            stack.enter_context(world.together())
            yield
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt):
            error = Ended("Stopped before there was anything to save.", status_of(error))
        elif isinstance(error, ProcessError):
            error = Ended(failure(error), 1)
        elif isinstance(error, USAGE):
            if is_first and speaks():
                raise  # as the command line tells it
            error = Ended(failure(error), error.exit_code)
        if not isinstance(error, Ended):
            raise
        if speaks():
            plain_console(stderr=True).print(error.text, soft_wrap=True)
        raise typer.Exit(error.exit_code) from None


def failure(error: Exception) -> str:
    """Tell what a process failed by."""
    if isinstance(error, ProcessError):
        return f"Error: {error}"
    return (
        f"Error: process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} failed: {getattr(error, 'message', error)}"
    )


def status_of(stop: KeyboardInterrupt) -> int:
    """The exit status of a command that a signal ended."""
    return 128 + getattr(stop, "number", signal.SIGINT)


def _ignore_signals(kind: type[BaseException] | None, *_: object) -> None:
    """After an error: torchrun sends them as soon as one process is gone, when another has still to tell why."""
    if kind is not None and threading.current_thread() is threading.main_thread():
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
