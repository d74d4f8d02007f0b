"""The agent's API key: its own once it has one, else the configured one."""

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from streamspace_agent.config import ALIASES, Settings
from streamspace_agent.controlplane.tls import stamp
from streamspace_agent.private import write_private

log = logging.getLogger(__name__)

HEADER = "X-Agent-API-Key"
USABLE = re.compile(r"[\x21-\x7e]{1,512}")
"""What may stand in an HTTP header, and so be a key."""


class Keys:
    """Which API key to use: the agent's own once it has one, else the configured one.

    The agent's own is kept in a file that replicas on one host share: any of them may be the one to be given it.
    """

    def __init__(self, settings: Settings, hide: Callable[[str], None], file: Path | None = None) -> None:
        """``file`` is where the configured key was read from: a new one there is taken up with the next connection."""
        self._file = file
        self._stamp = stamp(file) if file else None
        self._path = settings.agent_dir / "api-key"
        self._configured = settings.agent_api_key.get_secret_value() if settings.agent_api_key else ""
        self._hide = hide
        self._refused = ""
        self._own = self._read()
        for key in (self._configured, self._own):
            if key:
                hide(key)

    @property
    def current(self) -> str:
        return self._own or self._configured

    def headers(self) -> dict[str, str]:
        return {HEADER: self.current} if self.current else {}

    def keep(self, key: str) -> None:
        """Use this key from now on, and after a restart. What cannot be a key is not taken."""
        if not USABLE.fullmatch(key):
            log.error(
                "the control plane gave this agent an API key that is none (not one line of visible ASCII characters): it is not used"
            )
            return
        self._hide(key)
        if key == self.current:
            return
        self._own, self._refused = key, self._read()  # what lies there may stay, where nothing can be written
        try:
            write_private(self._path, key)
            log.info("the control plane gave this agent a key of its own: kept in %s", self._path)
        except OSError as error:
            log.warning(
                "STATE_DIR: cannot keep the agent's own key in %s (%s): it is used until the process ends",
                self._path,
                error,
            )

    def look(self) -> bool:
        """Take a key that another replica was given meanwhile. True when there is one."""
        self._look_at_file()
        kept = self._read()
        if kept in {"", self._own, self._refused}:
            return False
        self._hide(kept)
        self._own = kept
        return True

    def _look_at_file(self) -> None:
        found = stamp(self._file) if self._file else None
        if self._file is None or found in {None, self._stamp}:
            return
        self._stamp = found
        key = read_key(self._file)
        if key and key != self._configured:
            self._hide(key)
            self._configured = key
            log.info("AGENT_API_KEY_FILE: %s holds a new key: it is used from now on", self._file)

    def fall_back(self) -> bool:
        """Give up a kept key that was refused. True when another one is left to try."""
        if self.look():
            return True
        if not self._own or not self._configured or self._own == self._configured:
            return False
        log.warning("the key kept in %s was refused: trying the configured key", self._path)
        self._own, self._refused = "", self._own
        return True

    def _read(self) -> str:
        return read_key(self._path)


def read_key(path: Path) -> str:
    """The key in a file, "" where there is none that can be used."""
    try:
        with path.open(encoding="ascii") as file:
            key = file.read(1024).strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return key if USABLE.fullmatch(key) else ""


def key_file(environ: Mapping[str, str]) -> Path | None:
    """The file that the environment names for the key."""
    for name in ("AGENT_API_KEY", *ALIASES):
        if path := environ.get(f"{name}_FILE", "").strip():
            return Path(path)
    return None
