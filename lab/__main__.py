"""python -m lab engine up|down|down-if-unused|status; images NAME...; agent-image; binary; test [PYTEST-ARGUMENT...];
bench NAME; faults; clean."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from lab.engine import MainEngine
from lab.say import LabError, say

if TYPE_CHECKING:
    from collections.abc import Mapping


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
            from lab import suite  # noqa: PLC0415  # as below

            return suite.run(engine, arguments, environ)
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
