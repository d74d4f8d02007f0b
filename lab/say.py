"""One line of progress per step, on standard error, so that standard output stays for answers."""

from __future__ import annotations

import sys


class LabError(Exception):
    """The machine lacks something: the message says what, and the fix."""


def say(text: str) -> None:
    print(f"lab: {text}", file=sys.stderr, flush=True)
