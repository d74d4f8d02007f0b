"""A browser for tests: Debian's Chromium, installed where it is missing."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from lab import apt
from lab.say import LabError

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage")
"""Root has no sandbox for it, machines without a screen no GPU, and /dev/shm of a container is small."""


def executable(environ: Mapping[str, str]) -> str:
    """Path of a Chromium: $BROWSER_EXECUTABLE, one that is installed, or the package's."""
    named = environ.get("BROWSER_EXECUTABLE")
    found = named or installed()
    if found is None:
        apt.require("chromium")
        found = installed()
    if found is None:
        raise LabError("found no Chromium: install it, or name one with BROWSER_EXECUTABLE")
    return found


def installed() -> str | None:
    return next((path for path in map(shutil.which, NAMES) if path), None)
