"""``STREAMSPACE_TRACE=FILE`` records when this replica may act, so that a test can check that no two did at once.

One JSON object a line:

* ``event``: ``standing`` (stands for election), ``in`` (leads), ``renewed`` (leads until a later deadline), ``over``
  (the lease has ended, for whatever reason), ``out`` (all work under it has stopped)
* ``instance``, ``pid``, ``epoch``
* ``boottime``: CLOCK_BOOTTIME, the same for all processes of a machine
* ``deadline``: the last moment, on that clock, at which the lease allows a side effect; null where the store itself
  ends the lease

A process that was killed has no ``out``: its last deadline counts.
"""

import json
import math
import os
from collections.abc import Mapping

from streamspace_agent.clock import BoottimeClock
from streamspace_agent.election.lease import Lease

VARIABLE = "STREAMSPACE_TRACE"


class Trace:
    """Appends each line in one write: several processes may share the file. Safe to use from every thread."""

    def __init__(self, environ: Mapping[str, str], instance: str) -> None:
        path = environ.get(VARIABLE, "")
        self._instance = instance
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644) if path else None

    def write(self, event: str, lease: Lease | None = None) -> None:
        if self._file is None:
            return
        line = {
            "event": event,
            "instance": self._instance,
            "pid": os.getpid(),
            "epoch": lease.epoch if lease else None,
            "boottime": BoottimeClock().now(),
            "deadline": lease.deadline if lease and lease.deadline < math.inf else None,
        }
        os.write(self._file, f"{json.dumps(line)}\n".encode())
