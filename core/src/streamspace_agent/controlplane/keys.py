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
"""A key has to fit in an HTTP header."""


class Keys:
    """Chooses the key. The agent's own is kept in a file that the replicas on one host share: any may receive it."""

    def __init__(self, settings: Settings, hide: Callable[[str], None], file: Path | None = None) -> None:
        """``file``: where the configured key was read from. A new key in it is used for the next connection."""
        self._file = file
        self._stamp = stamp(file) if file else None
        self._path = settings.agent_dir / "api-key"
        self._configured = settings.agent_api_key.get_secret_value() if settings.agent_api_key else ""
        self._hide = hide
        self._refused = ""
        self._own = read_key(self._path)
        for key in (self._configured, self._own):
            if key:
                hide(key)

    @property
    def current(self) -> str:
        return self._own or self._configured

    def headers(self) -> dict[str, str]:
        return {HEADER: self.current} if self.current else {}

    def keep(self, key: str) -> None:
        """Use this key from now on, and after a restart. An unusable key is ignored."""
        if not USABLE.fullmatch(key):
            log.error(
                "the control plane issued an unusable API key (not one line of visible ASCII characters): it is ignored"
            )
            return
        self._hide(key)
        if key == self.current:
            return
        self._own, self._refused = key, read_key(self._path)  # the old key may stay in the file if it cannot be written
        try:
            write_private(self._path, key)
            log.info("the control plane issued a key for this agent: kept in %s", self._path)
        except OSError as error:
            log.warning(
                "STATE_DIR: cannot keep the agent's own key in %s (%s): it is used until the process ends",
                self._path,
                error,
            )

    def look(self) -> bool:
        """Use a key that another replica has received meanwhile, if any. Returns whether there is one."""
        self._reread_file()
        kept = read_key(self._path)
        if kept in {"", self._own, self._refused}:
            return False
        self._hide(kept)
        self._own = kept
        return True

    def _reread_file(self) -> None:
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
        """Give up the refused key. Returns whether there is another one to try."""
        if self.look():
            return True
        if not self._own or not self._configured or self._own == self._configured:
            return False
        log.warning("the key kept in %s was refused: trying the configured key", self._path)
        self._own, self._refused = "", self._own
        return True


def read_key(path: Path) -> str:
    """The key in a file, "" if there is no usable one."""
    try:
        with path.open(encoding="ascii") as file:
            key = file.read(1024).strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return key if USABLE.fullmatch(key) else ""


def key_file(environ: Mapping[str, str]) -> Path | None:
    """The file in which the environment says the key is."""
    for name in ("AGENT_API_KEY", *ALIASES):
        if path := environ.get(f"{name}_FILE", "").strip():
            return Path(path)
    return None
