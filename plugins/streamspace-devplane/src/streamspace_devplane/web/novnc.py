"""Finds noVNC on this machine: its files are not part of this distribution."""

from collections.abc import Iterable
from pathlib import Path

PLACES = (
    Path("/usr/share/novnc"),  # Debian, Ubuntu, Fedora
    Path("/usr/share/webapps/novnc"),  # Arch, Alpine
    Path("/usr/local/share/novnc"),
)
HELP = (
    "the viewer needs noVNC: install it (apt install novnc) and start again, or get it anywhere with"
    " `npm install @novnc/novnc` and start with --novnc node_modules/@novnc/novnc"
)


def is_novnc(folder: Path) -> bool:
    """Whether the folder holds noVNC as ES modules, which a browser loads directly."""
    return (folder / "core" / "rfb.js").is_file()


def find(places: Iterable[Path] = PLACES) -> Path | None:
    return next((place for place in places if is_novnc(place)), None)
