"""A pytest plugin for `python -m lab test`: who runs which file when, and which tests ran twice.

Files are handed out whole, because their tests share fixtures, and the longest first: one that takes minutes and starts
last would keep one worker busy while the others have nothing left to do.

Tests of deadlines (PROMPT) need a processor when they ask for it, and run on some of the workers only. The others run
at a lower priority: they take what those leave.
"""

from __future__ import annotations

import os
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xdist.workermanage import WorkerController  # type: ignore[import-untyped]

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

PROMPT = ("tests/core/", "tests/faults/", "plugins/streamspace-elect-")
"""Folders of tests whose leases, time limits and pauses are real."""
PROMPT_WORKERS = 1
"""Workers for them, per processor: with more, replicas that have to renew in time came too late."""
PATIENT_NICE = 4
"""Priority of the other workers, and of what they start."""


class Scheduler(LoadFileScheduling):  # type: ignore[misc]
    """Files of PROMPT go to the first workers, all others to whoever has nothing else to do."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        if scope := self._next(node):
            self.workqueue.move_to_end(scope, last=False)
            super()._assign_work_unit(node)

    def _reschedule(self, node: WorkerController) -> None:
        if self._next(node):
            super()._reschedule(node)
        elif not node.shutting_down:
            node.shutdown()

    def _next(self, node: WorkerController) -> str | None:
        prompt = is_prompt(node.gateway.id)
        own = (scope for scope in self.workqueue if scope.startswith(PROMPT) == prompt)
        return next(own, next(iter(self.workqueue), None) if prompt else None)


def is_prompt(worker: str) -> bool:
    """Whether this worker (gw0, gw1, ...) is one of those that keep their priority."""
    return int(worker.removeprefix("gw")) < PROMPT_WORKERS * (os.cpu_count() or 1)


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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduler:
    return Scheduler(config, log)


def pytest_configure(config: pytest.Config) -> None:
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker and not is_prompt(worker):
        os.nice(PATIENT_NICE)
    config.pluginmanager.register(Schedule(config), "lab-schedule")


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def _expected(nodeid: str) -> float:
    return next((seconds for folder, seconds in EXPECTED.items() if nodeid.startswith(folder)), 0.1)
