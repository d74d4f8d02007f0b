"""Fault points: named places at which a test can kill, freeze or fail a real agent process.

Set ``STREAMSPACE_FAULTS=name=action[,name=action...]``. The actions are ``kill`` (SIGKILL to itself), ``stop``
(SIGSTOP to itself), ``sleep:SECONDS`` (blocks the calling thread) and ``raise``
(:exc:`~streamspace_agent.errors.Injected`). Each fires once per process. If the variable is unset, a point costs one
look-up in an empty dict.
"""

import os
import signal
import time
from collections.abc import Mapping

from streamspace_agent.errors import Injected

VARIABLE = "STREAMSPACE_FAULTS"


class Faults:
    """The fault points that an environment sets."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        pairs = (item.split("=", 1) for item in environ.get(VARIABLE, "").split(",") if "=" in item)
        self._armed = {name.strip(): action.strip() for name, action in pairs}

    def point(self, name: str) -> None:
        """Carry out the action that is set for this point, if there is one."""
        action = self._armed.pop(name, "")
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif action.startswith("sleep:"):
            time.sleep(float(action.removeprefix("sleep:")))
        elif action == "raise":
            raise Injected(name)
