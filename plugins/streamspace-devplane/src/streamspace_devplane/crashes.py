"""Where the deployed control plane would have died: told loudly, while this one goes on."""

import json
import logging
import os
import time
from collections import Counter

from streamspace_devplane.store import Store

LOG = logging.getLogger(__name__)
VARIABLE = "STREAMSPACE_DEVPLANE_CRASHES"
"""Names a file that gets a line of JSON for each crash, of all planes of this process and its children."""


class Crashes:
    def __init__(self, store: Store, counters: Counter[str], file: str | None) -> None:
        self.store = store
        self.counters = counters
        self.last: dict[str, str] | None = None
        self.file = file if file is not None else os.environ.get(VARIABLE)

    def note(self, cause: str, session_id: str, agent_id: str) -> None:
        told = {"cause": cause, "sessionId": session_id, "agentId": agent_id}
        self.counters["controlPlaneCrashes"] += 1
        self.last = told
        LOG.error(
            "the deployed control plane would have crashed here: %s (session %s, agent %s)", cause, session_id, agent_id
        )
        self.store.log(agent_id, "plane", "crash", told)
        if self.file:
            with open(self.file, "a", encoding="utf-8") as file:  # noqa: PTH123 - one short write, which others may follow
                file.write(json.dumps({"time": time.time(), **told}) + "\n")
