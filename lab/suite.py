"""The whole suite: its workers, their environment, and a second try for what a busy machine may have failed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from lab import apt
from lab.images import Images
from lab.say import say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lab.engine import MainEngine

TESTS_FAILED = 1  # pytest's exit code
WORKERS_PER_PROCESSOR = 2
"""Many tests wait for something most of the time: a lease, a container, a server. With three files a processor, what
has to happen in time came too late on a machine that did nothing else, and the whole took no less time."""
WAITED = ("lab.until.NeverCameTrueError", "TimeoutError", "AssertionError: no steady leader within")
"""What failures begin with that are a wait given up."""
IMAGES = ("desktop", "tiny", "python", "redis", "systemd")


def run(engine: MainEngine, arguments: list[str], environ: Mapping[str, str]) -> int:
    """Run pytest with all it needs; its exit code. LAB_KEEP=0 stops an engine that was started for it."""
    apt.require("redis-server", "docker-compose")
    workers = WORKERS_PER_PROCESSOR * (os.cpu_count() or 1)
    with engine.use(keep=environ.get("LAB_KEEP") != "0") as host:
        say(
            f"the Docker engine at {host} answers; building the images that the tests run, where they are not there yet"
        )
        with Images(host, engine.state) as images:
            for name in IMAGES:
                images.ensure(name)
        say(
            f"running the tests, {workers} files at a time on {os.cpu_count()} processors, the longest first. "
            "Each line of dots ends with the part that is done; it may stand still for minutes"
        )
        # A folder of its own: others sweep pytest's common one. Short, for Unix sockets live in it.
        with tempfile.TemporaryDirectory(prefix="sst-") as temporary:
            pytest = [sys.executable, "-m", "pytest", "-p", "lab.schedule", f"--basetemp={temporary}/t"]
            spread = ["-n", str(workers), "--no-loadscope-reorder"]
            given = {**environ, "DOCKER_HOST": host}
            given.pop("PYTHONDONTWRITEBYTECODE", None)  # each worker would compile all the tests again
            report = Path(temporary, "report.xml")
            failed = subprocess.run([*pytest, *spread, f"--junitxml={report}", *arguments], env=given, check=False)
            if failed.returncode != TESTS_FAILED or not may_be_starved(report):
                return failed.returncode
            say("some tests failed, named above: each is run once more, one at a time; a second failure fails the run")
            return subprocess.run(
                [*pytest, "--last-failed", "--second-try", *arguments], env=given, check=False
            ).returncode


def may_be_starved(report: Path) -> bool:
    """Whether the failures of this JUnit report may be for want of a processor.

    Never something left behind, and never what tests/core and tests/faults prove: two leaders or a lost command once
    are one time too many. That something did not come about in time proves nothing yet.
    """
    suite = ET.parse(report).getroot().find("testsuite")
    if suite is None:
        return False
    for case in suite.iter("testcase"):
        for found in (*case.iter("failure"), *case.iter("error")):
            told = f"{found.get('message', '')}{found.text or ''}"
            proves = case.get("classname", "").startswith(("tests.core.", "tests.faults."))
            if "left behind" in told or (proves and not told.startswith(WAITED)):
                return False
    return True
