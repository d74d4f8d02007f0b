"""A pytest plugin for `python -m lab test`: the longest files start first, and the tests that ran twice are named.

Files are handed out whole, because their tests share fixtures. One that takes minutes and starts last would keep one
worker busy while the others have nothing left to do.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

DURATIONS = "lab/durations"
"""Key of the cache that holds the seconds of each test, by node id."""

EXPECTED = {
    "tests/integration/": 10.0,
    "tests/faults/": 10.0,
    "tests/packaging/": 10.0,
    "plugins/streamspace-elect-swarm/": 5.0,
    "plugins/streamspace-runtime-docker/": 2.0,
}
"""Seconds a test that no run has timed yet, by folder; 0.1 elsewhere."""


class Schedule:
    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.took: defaultdict[str, float] = defaultdict(float)
        self.failed = False

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """All workers see the same durations, and so the same order."""
        known: Mapping[str, float] = self.config.cache.get(DURATIONS, {})
        files: defaultdict[str, float] = defaultdict(float)
        for item in items:
            files[_file(item.nodeid)] += known.get(item.nodeid, _expected(item.nodeid))
        items.sort(key=lambda item: -files[_file(item.nodeid)])  # stable: a file's tests stay together, in their order

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.took[report.nodeid] += report.duration
        self.failed |= report.failed

    def pytest_sessionfinish(self) -> None:
        if not hasattr(self.config, "workerinput"):
            known: dict[str, float] = self.config.cache.get(DURATIONS, {})
            self.config.cache.set(DURATIONS, known | {name: round(took, 3) for name, took in self.took.items()})

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.config.getoption("second_try"):
            terminalreporter.section(f"run twice: {len(self.took)}")
            for name in sorted(self.took):
                terminalreporter.line(name)
        elif not self.failed:
            terminalreporter.section("run twice: none")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--second-try", action="store_true", help="these tests failed before: name them at the end")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Schedule(config), "lab-schedule")


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def _expected(nodeid: str) -> float:
    return next((seconds for folder, seconds in EXPECTED.items() if nodeid.startswith(folder)), 0.1)
