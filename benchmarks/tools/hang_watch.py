"""A pytest plugin for runs that nobody watches: a test that hangs ends the run, and the next run goes on after it.

    pytest -p hang_watch --seconds-per-test 30 --journal FILE ...

FILE, kept between runs, says what each test came to. A test that takes longer leaves its stack there and ends the
process, for no exception reaches code that waits for a device. Tests that are in FILE are left out.
"""

from __future__ import annotations

import faulthandler
from collections.abc import Generator
from pathlib import Path
from typing import Any, TextIO

import pytest

JOURNAL = pytest.StashKey[TextIO]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seconds-per-test", type=float, default=60.0)
    parser.addoption("--journal", type=Path, required=True)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[JOURNAL] = config.getoption("journal").open("a+", buffering=1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    journal = config.stash[JOURNAL]
    journal.seek(0)
    begun = {line.removeprefix("begun ").rstrip("\n") for line in journal if line.startswith("begun ")}
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in begun])
    items[:] = [item for item in items if item.nodeid not in begun]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    journal = item.config.stash[JOURNAL]
    print("begun", item.nodeid, file=journal)
    faulthandler.dump_traceback_later(item.config.getoption("seconds_per_test"), exit=True, file=journal)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
        print("ended", item.nodeid, file=journal)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        print("failed", item.nodeid, file=item.config.stash[JOURNAL])
    return report


def pytest_sessionfinish(session: pytest.Session, **_: Any) -> None:
    print("finished", file=session.config.stash[JOURNAL])
