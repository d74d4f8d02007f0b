"""python -m lab engine up|down|status; images NAME...; test [PYTEST-ARGUMENT...]; clean."""

from __future__ import annotations

import os
import sys

from lab.engine import MainEngine
from lab.say import LabError, say


def main(argv: list[str]) -> int:
    environ = os.environ
    match argv:
        case ["engine", "up"]:
            print(MainEngine(environ).up())
        case ["engine", "down"]:
            say("private engine stopped" if MainEngine(environ).down() else "no private engine runs")
        case ["engine", "down-if-unused"]:
            MainEngine(environ).down_if_unused()
        case ["engine", "status"]:
            host = MainEngine(environ).running()
            print(host or "no engine runs")
            return 0 if host else 1
        case _:
            say(f"usage: {__doc__}")
            return 2
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except LabError as error:
        say(str(error))
        sys.exit(1)
