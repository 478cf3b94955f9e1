"""Reads what a run folder says of its training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._settings import Settings, divided
from ..methods import load_method, name_of, settings_of
from ..runs.folder import RunError, RunFolder
from .config import Config

if TYPE_CHECKING:
    from .method import Method


@dataclass(frozen=True)
class StoredTraining:
    """The method of a run, its settings, and those of the training."""

    method: str
    settings: Settings
    config: Config


def read_run(run: RunFolder, method: str | type[Method] | None = None) -> StoredTraining:
    """Return what the training in a run folder was, or is to be.

    Parameters
    ----------
    run : RunFolder
        Its folder.
    method : str or type, optional
        Its method, where the caller has it; else it is found by its name.

    Raises
    ------
    RunError
        If there is no such run, it is of another method, or its settings are damaged or no longer known.
    """
    stored = run.read_stored()
    if method is not None and not _is_same(given := name_of(load_method(method)), stored.method):
        raise RunError(f"{run.path} is a training by the method {stored.method}, found {given}")
    try:
        kind = settings_of(stored.method if method is None else method)
        everything: dict[str, Any] = stored.settings | stored.training  # in one, in folders of the first format
        own, engines = divided(everything, kind, Config)
        return StoredTraining(stored.method, kind(**own), Config(**engines))
    except (TypeError, ValueError) as error:
        raise RunError(f"the settings of {run.path} are damaged or not of a training: {error}") from None


def _is_same(one: str, other: str) -> bool:
    """Whether two names are of one method: a script knows its own by another than those who import it."""
    (first, _, kind), (second, _, its) = one.partition(":"), other.partition(":")
    return one == other or (kind == its and "__main__" in (first, second))
