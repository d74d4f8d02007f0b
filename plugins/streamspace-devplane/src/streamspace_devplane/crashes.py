"""Records what would have crashed the deployed control plane; this one goes on."""

import json
import logging
import os
import time
from collections import Counter
from pathlib import Path

from streamspace_devplane.store import Store

LOG = logging.getLogger(__name__)
VARIABLE = "STREAMSPACE_DEVPLANE_CRASHES"
"""The environment variable that names a file, which gets a line of JSON for each crash of any plane."""


class Crashes:
    def __init__(self, store: Store, counters: Counter[str], file: str | None) -> None:
        self.store = store
        self.counters = counters
        self.last: dict[str, str] | None = None
        self.file = file if file is not None else os.environ.get(VARIABLE)

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
