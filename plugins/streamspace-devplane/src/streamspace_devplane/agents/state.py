"""What all parts of a running control plane share."""

import asyncio
import json
import logging
import os
import random
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from streamspace_devplane.agents.faults import Faults
from streamspace_devplane.agents.link import Link
from streamspace_devplane.settings import Settings
from streamspace_devplane.store import Store
from streamspace_devplane.templates import TEMPLATES, Manifest

LOG = logging.getLogger(__name__)
CRASHES_VARIABLE = "STREAMSPACE_DEVPLANE_CRASHES"
"""The environment variable that names a file, which gets a line of JSON for each crash of any plane."""


class Crashes:
    """Records what would have crashed the deployed control plane; this one goes on."""

    def __init__(self, store: Store, counters: Counter[str], file: str | None) -> None:
        self.store = store
        self.counters = counters
        self.last: dict[str, str] | None = None
        self.file = file if file is not None else os.environ.get(CRASHES_VARIABLE)

    def note(self, cause: str, session_id: str, agent_id: str) -> None:
        crash = {"cause": cause, "sessionId": session_id, "agentId": agent_id}
        self.counters["controlPlaneCrashes"] += 1
        self.last = crash
        LOG.error(
            "the deployed control plane would have crashed here: %s (session %s, agent %s)", cause, session_id, agent_id
        )
        self.store.log(agent_id, "plane", "crash", crash)
        if self.file:
            with Path(self.file).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"time": time.time(), **crash}) + "\n")


class State:
    """Used from the event loop's thread only."""

    def __init__(
        self, store: Store, settings: Settings, faults: Faults, templates: Mapping[str, Manifest] = TEMPLATES
    ) -> None:
        self.store = store
        self.settings = settings
        self.faults = faults
        self.templates = templates
        self.dice = random.Random(settings.seed)  # noqa: S311 - dice for fault injection
        self.counters: Counter[str] = Counter()
        """Diagnostics: counts what the deployed control plane ignores without a word."""
        self.crashes = Crashes(store, self.counters, settings.crash_file)
        self.links: dict[str, Link] = {}
        """The open connection of each connected agent."""
        self.connections: Counter[str] = Counter()
        """How often each agent has connected since the start."""
        self.left: dict[str, float] = {}
        """Unix time at which each agent's last connection ended."""
        self.viewers: dict[str, str] = {}
        """The mark (`?viewer=`) of each session's latest viewer."""
        self.web_gateway = settings.web_gateway
        self.listening = asyncio.Event()
        """Cleared while the blackhole switch is on."""
        self.listening.set()
        self.stopping = asyncio.Event()
