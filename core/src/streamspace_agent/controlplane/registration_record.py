"""That the control plane has accepted this agent, and what it was told then: kept in ``STATE_DIR``.

An agent that was accepted connects first. It registers again only where the connection is refused or the facts have
changed: the deployed control plane shows an agent that registers as online before there is a connection, and fails what is sent in between.
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
"""Metadata that change with each takeover; status messages carry the epoch, too."""
MAX_FILE = 4096


class RegistrationRecord:
    """Shared by the replicas of one host. A record made at another ``CONTROL_PLANE_URL`` counts for nothing."""

    def __init__(self, settings: Settings) -> None:
        self._path = settings.agent_dir / "registered"
        self._url = settings.control_plane_url
        self._facts = ""
        self._known = False
        self._told = False

    @property
    def known(self) -> bool:
        """Has the control plane accepted this agent before?"""
        self._look()
        return self._known

    def holds(self, registration: Mapping[str, Any]) -> bool:
        """Are these the facts that it was told last?"""
        self._look()
        return self._known and self._facts == fingerprint(registration)

    def keep(self, registration: Mapping[str, Any]) -> None:
        """Note an accepted registration."""
        self._known, self._facts = True, fingerprint(registration)
        record = {"controlPlane": self._url, "facts": self._facts}
        try:
            write_private(self._path, json.dumps(record))
        except OSError as error:
            if not self._told:
                log.warning("STATE_DIR: cannot note in %s that this agent is registered: %s", self._path, error)
            self._told = True

    def _look(self) -> None:
        """Another replica may have registered meanwhile. What cannot be read leaves what this process knows."""
        try:
            with self._path.open("rb") as file:
                record = json.loads(file.read(MAX_FILE))
        except (OSError, ValueError, RecursionError):
            return
        if isinstance(record, dict) and record.get("controlPlane") == self._url:
            self._known, self._facts = True, str(record.get("facts"))


def fingerprint(registration: Mapping[str, Any]) -> str:
    """A hash of what a registration says, without what changes with each takeover."""
    facts = {name: value for name, value in registration.get("metadata", {}).items() if name not in VOLATILE}
    text = json.dumps({**registration, "metadata": facts}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
