"""Death certificates from the container engine: has the container of a lease's holder ended?

Only for a holder whose container runs on this replica's own engine. Answers within a moment and never raises: when in
doubt, nothing is proved.
"""

import asyncio
import http.client
import re
import time
from collections.abc import Callable
from typing import Any, Literal

from streamspace_agent.election import Record
from streamspace_agent.election.engine_socket import EngineSocket

TIMEOUT = 0.3
"""Seconds for which one call waits for the engine, which usually takes 1-3 ms. A late answer serves the next call."""
GIVEN_UP = 5.0
"""Seconds after which a silent engine is asked again. On a busy disk Docker answered after 2.2-3.8 s (measured), since
it holds a container's lock until it has written its end. The agent's exit may wait for the answer.
"""
PAUSE = 5.0
"""Seconds without asking after the engine did not know the container; this delays no takeover."""
BREATH = 1.0
"""Seconds without asking after the engine did not answer."""

_ENDED = frozenset({"exited", "dead", "removing", "restarting"})
"""States in which the container's main process, and with it all others in the container, has ended.
``restarting`` is the pause before the restart policy's next try. ``paused`` is alive: it can be resumed."""


class Certificates:
    """Asks one engine about holders, and remembers in which run of its container each holder was first seen.

    A restarted container keeps its id, so "running" says nothing about a process. The start time of its run does: a
    holder whose record was read *before* the engine was asked started in that run or an earlier one. When the container
    is later in another run, that holder is gone. The start time only identifies a run; no clocks are compared.
    """

    def __init__(
        self, docker_host: str, *, clock: Callable[[], float] = time.monotonic, timeout: float = TIMEOUT
    ) -> None:
        self._engine = EngineSocket(docker_host, GIVEN_UP)
        self._clock = clock
        self._timeout = timeout
        self._runs: dict[str, str] = {}
        self._not_before: dict[str, float] = {}
        self._question: tuple[str, asyncio.Task[dict[str, Any]]] | None = None
        """The nonce that is asked about, and the answer to come: one question at a time."""

    async def holder_is_dead(self, record: Record) -> Literal[True] | None:
        """True if the holder's process is provably gone, else None. Takes at most ``timeout`` seconds.

        Never False: a running container does not prove that the holder's process runs.
        """
        container = record.container_id
        if not self._engine.usable or not re.fullmatch(r"[0-9a-f]{64}", container):
            return None
        if self._clock() < self._not_before.get(container, 0.0):
            return None
        if self._question is None or self._question[0] != record.nonce:
            # An answer about another holder says nothing about this one, whose process may be younger.
            self._question = record.nonce, asyncio.create_task(self._ask(container))
        answer = self._question[1]
        await asyncio.wait([answer], timeout=self._timeout)
        if not answer.done():
            return None  # keep the question: a busy engine delays the answer just when the container ends
        self._question = None
        return self._judge(record, answer.result()) if answer.result() else None

    async def _ask(self, container: str) -> dict[str, Any]:
        """The container's state; {} if it cannot be found out."""
        try:
            state = await asyncio.to_thread(self._engine.inspect, container)
        except (OSError, http.client.HTTPException, ValueError):
            self._not_before = {container: self._clock() + BREATH}  # the engine may only be busy
            return {}
        if state is None:
            self._not_before = {container: self._clock() + PAUSE}
        return state or {}

    def _judge(self, record: Record, state: dict[str, Any]) -> Literal[True] | None:
        if state.get("Status") in _ENDED:
            return True
        run = str(state.get("StartedAt", ""))
        if record.nonce not in self._runs:
            self._runs = {record.nonce: run}
        return True if self._runs[record.nonce] != run else None
