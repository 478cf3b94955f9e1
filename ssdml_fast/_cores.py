"""How many cores this process may use."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def usable_cores() -> int:
    """Count the cores that the process may use: of the machine, of its affinity, of its container's quota.

    Returns
    -------
    int
        At least 1; a quota of one and a half cores counts as two.

    Examples
    --------
    >>> 1 <= usable_cores() <= os.cpu_count()
    True
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not on Linux
        cores = os.cpu_count() or 1
    return max(1, min([cores, *map(math.ceil, _quotas())]))


def _quotas() -> Iterator[float]:
    """Quotas of the control groups of this process, in cores."""
    with contextlib.suppress(OSError, ValueError):
        for line in (ROOT / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:  # the unified hierarchy, where a group is bound by those that it is in, too
                mount, file = ROOT / "sys/fs/cgroup", "cpu.max"
            elif "cpu" in controllers.split(","):
                mount, file = ROOT / "sys/fs/cgroup" / controllers, "cpu.cfs_quota_us"
            else:
                continue
            group = mount / path.lstrip("/")
            for folder in (group, *group.parents):
                yield from _quota(folder / file)
                if folder == mount:
                    break


def _quota(file: Path) -> Iterator[float]:
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        figures = file.read_text().split()
        if file.name == "cpu.cfs_quota_us":
            figures += file.with_name("cpu.cfs_period_us").read_text().split()
        quota, period = map(float, figures)  # "max" is none
        if quota > 0:
            yield quota / period
