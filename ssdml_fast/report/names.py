"""What a report calls the runs that it compares, and the values of their settings."""

from __future__ import annotations

from typing import Any

from ..runs.run import Run


def written(value: Any) -> str:
    """Write the value of a setting."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def names(runs: list[Run]) -> list[str]:
    """Name runs by the settings in which they differ, or by their folders where that tells too little."""
    settings = [run.settings for run in runs]
    common = [name for name in settings[0] if all(name in each for each in settings)]  # methods have their own
    varying = [name for name in common if len({str(each[name]) for each in settings}) > 1]
    told = [", ".join(f"{name} {written(each[name])}" for name in varying) for each in settings]
    if len(set(told)) == len(told) and all(told) and max(map(len, told)) <= 40:
        return told
    folders = [run.folder.path.resolve().name for run in runs]
    return folders if len(set(folders)) == len(folders) else [str(run.folder.path) for run in runs]
