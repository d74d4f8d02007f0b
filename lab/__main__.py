"""python -m lab engine up|down|down-if-unused|status; images NAME...; agent-image; binary; test [PYTEST-ARGUMENT...];
bench NAME; faults; clean."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from lab import apt
from lab.engine import MainEngine
from lab.say import LabError, say

if TYPE_CHECKING:
    from collections.abc import Mapping

# Most tests wait for something (a lease, a container, a server): more of them than cores run at once. A file stays
# on one worker, for what its tests share.
TESTS_FAILED = 1  # pytest's exit code
WORKERS = ("-n", "3", "--dist", "loadfile")


def main(argv: list[str], environ: Mapping[str, str]) -> int:
    engine = MainEngine(environ)
    match argv:
        case ["engine", "up"]:
            print(engine.up())
        case ["engine", "down"]:
            say("private engine stopped" if engine.down() else "no private engine runs")
        case ["engine", "down-if-unused"]:
            engine.down_if_unused()
        case ["engine", "status"]:
            host = engine.running()
            print(host or "no engine runs")
            return 0 if host else 1
        case ["images", *names] if names:
            for tag in build(engine.up(), engine, names):
                print(tag)
        case ["agent-image"]:
            publish(engine.up(), engine)
        case ["binary"]:
            from lab import binary  # noqa: PLC0415  # as below

            print(binary.make(binary.TARGET, sys.version_info[:2]))
        case ["test", *arguments]:
            return test(engine, arguments, environ)
        case ["bench", name]:
            return bench(engine, f"bench.{name}", environ)
        case ["faults"]:
            return bench(engine, "faults.nemesis", environ)
        case ["clean"]:
            engine.down()
            shutil.rmtree(engine.state, ignore_errors=True)
        case _:
            say(f"usage: {__doc__}")
            return 2
    return 0


def build(host: str, engine: MainEngine, names: list[str]) -> list[str]:
    from lab.images import Images  # noqa: PLC0415  # needs the environment, the engine commands do not

    with Images(host, engine.state) as images:
        return [images.ensure(name) for name in names]


def publish(host: str, engine: MainEngine) -> None:
    from lab import agent_image  # noqa: PLC0415  # as above
    from lab.images import Images  # noqa: PLC0415

    with Images(host, engine.state) as images:
        for tag in agent_image.publish(images):
            print(tag)


def test(engine: MainEngine, arguments: list[str], environ: Mapping[str, str]) -> int:
    """Run pytest with all it needs; LAB_KEEP=0 stops an engine that was started for it."""
    apt.require("redis-server", "docker-compose")
    with engine.use(keep=environ.get("LAB_KEEP") != "0") as host:
        say(f"the Docker engine at {host} answers; looking after the images that the tests run")
        build(host, engine, ["desktop", "tiny", "python", "redis", "systemd"])
        say(
            f"running the tests, {WORKERS[1]} files at a time on {os.cpu_count()} processors: this takes patience. "
            "Each line of dots ends with the part that is done; it may stand still for minutes"
        )
        # A folder of its own: pytest's common one is swept by whoever runs beside us. Short, for Unix sockets live in
        # it.
        with tempfile.TemporaryDirectory(prefix="sst-") as temporary:
            pytest = [sys.executable, "-m", "pytest", f"--basetemp={temporary}/t"]
            given = {**environ, "DOCKER_HOST": host}
            report = Path(temporary, "report.xml")
            failed = subprocess.run([*pytest, *WORKERS, f"--junitxml={report}", *arguments], env=given, check=False)
            if failed.returncode != TESTS_FAILED or not may_be_starved(report):
                return failed.returncode
            # Three workers on two cores can starve what waits for a browser or a rollback. What also fails alone,
            # fails.
            say("some tests failed, named above: each is run once more, alone on the machine")
            return subprocess.run([*pytest, "--last-failed", *arguments], env=given, check=False).returncode


def may_be_starved(report: Path) -> bool:
    """May the failures be for want of a processor? Never something left behind, and never what
    tests/core and tests/faults prove: two leaders or a lost command once are one time too many.
    """
    suite = ET.parse(report).getroot().find("testsuite")
    if suite is None:
        return False
    for case in suite.iter("testcase"):
        for found in (*case.iter("failure"), *case.iter("error")):
            told = f"{found.get('message', '')}{found.text or ''}"
            if "left behind" in told or case.get("classname", "").startswith(("tests.core.", "tests.faults.")):
                return False
    return True


def bench(engine: MainEngine, name: str, environ: Mapping[str, str]) -> int:
    """Run the module tests.NAME on the engine; its last line of output is one JSON object."""
    with engine.use(keep=environ.get("LAB_KEEP") != "0") as host:
        build(host, engine, ["desktop", "standin", "tiny"])
        return subprocess.run(
            [sys.executable, "-m", f"tests.{name}"], env={**environ, "DOCKER_HOST": host}, check=False
        ).returncode


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that an engine of ours is stopped
    try:
        sys.exit(main(sys.argv[1:], os.environ))
    except LabError as error:
        say(str(error))
        sys.exit(1)
