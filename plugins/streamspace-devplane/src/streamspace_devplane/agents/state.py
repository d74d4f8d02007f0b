"""What all parts of a running control plane share."""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping

from streamspace_devplane.agents.faults import Faults
from streamspace_devplane.agents.link import Link
from streamspace_devplane.crashes import Crashes
from streamspace_devplane.settings import Settings
from streamspace_devplane.store import Store
from streamspace_devplane.templates import TEMPLATES, Manifest


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
