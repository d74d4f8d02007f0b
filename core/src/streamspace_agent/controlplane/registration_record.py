"""Records in ``STATE_DIR`` that the control plane has accepted this agent, and the facts that were registered.

An accepted agent connects without registering again, unless the connection is refused or the facts have changed. The
deployed control plane shows a registering agent as online before it is connected, and fails commands sent in between.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any

from streamspace_agent.config import Settings
from streamspace_agent.private import write_private

log = logging.getLogger(__name__)

VOLATILE = frozenset({"leader", "epoch"})
"""Metadata that change with each takeover; status messages carry the epoch as well."""
MAX_FILE = 4096


class RegistrationRecord:
    """The record, shared by the replicas of one host. A record for another ``CONTROL_PLANE_URL`` is ignored."""

    def __init__(self, settings: Settings) -> None:
        self._path = settings.agent_dir / "registered"
        self._url = settings.control_plane_url
        self._facts = ""
        self._known = False
        self._warned = False

    @property
    def known(self) -> bool:
        """Whether the control plane has accepted this agent before."""
        self._look()
        return self._known

    def holds(self, registration: Mapping[str, Any]) -> bool:
        """Whether these facts were registered last."""
        self._look()
        return self._known and self._facts == fingerprint(registration)

    def keep(self, registration: Mapping[str, Any]) -> None:
        """Record an accepted registration."""
        self._known, self._facts = True, fingerprint(registration)
        record = {"controlPlane": self._url, "facts": self._facts}
        try:
            write_private(self._path, json.dumps(record))
        except OSError as error:
            if not self._warned:
                log.warning("STATE_DIR: cannot record in %s that this agent is registered: %s", self._path, error)
            self._warned = True

    def _look(self) -> None:
        """Read the file again, since another replica may have registered. If it is unreadable, nothing changes."""
        try:
            with self._path.open("rb") as file:
                record = json.loads(file.read(MAX_FILE))
        except (OSError, ValueError, RecursionError):
            return
        if isinstance(record, dict) and record.get("controlPlane") == self._url:
            self._known, self._facts = True, str(record.get("facts"))


def fingerprint(registration: Mapping[str, Any]) -> str:
    """A hash of a registration, without the metadata that change with each takeover."""
    facts = {name: value for name, value in registration.get("metadata", {}).items() if name not in VOLATILE}
    text = json.dumps({**registration, "metadata": facts}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
