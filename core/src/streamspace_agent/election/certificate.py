"""Death certificates from the container engine: did the container in which a lease's holder ran come to its end?

Only for a holder whose container this replica's own engine knows. Never longer than a moment, and never an error:
what cannot be proved is not proved.
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
"""Seconds that one call waits for an engine's answer. A healthy one needs 1-3 ms; a later one counts at the next call."""
GIVEN_UP = 5.0
"""Seconds after which an engine that says nothing is asked anew. On a busy disk Docker answered after 2.2-3.8 s (measured): it holds a
container's lock until it has written its end. The process's own end may wait for the answer.
"""
PAUSE = 5.0
"""Seconds without asking after an engine did not know the container: it costs a takeover nothing."""
BREATH = 1.0
"""Seconds without asking after an engine did not answer."""

_ENDED = frozenset({"exited", "dead", "removing", "restarting"})
"""States in which the engine has seen the container's first process end, and with it all others in the container.
``restarting`` is the pause before the restart policy's next try. ``paused`` is alive: it can be let go on."""


class Certificates:
    """Asks one engine about holders, and remembers in which run of its container each holder was first seen.

    A restart keeps the container's id, so "running" says nothing about a process. The engine's start time of the run
    does: a holder whose record was read *before* the engine was asked began in that run or an earlier one, and when
    the container later is in another run, that holder is gone. No clock is compared, the start time is only a name.
    """

    def __init__(self, docker_host: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = EngineSocket(docker_host, GIVEN_UP)
        self._clock = clock
        self._runs: dict[str, str] = {}
        self._not_before: dict[str, float] = {}
        self._question: tuple[str, asyncio.Task[dict[str, Any]]] | None = None
        """The nonce it is about and what will be answered: the engine is asked one thing at a time."""

    async def holder_is_dead(self, record: Record) -> Literal[True] | None:
        """True if the holder's process cannot be alive any more, else None. Takes at most :data:`TIMEOUT` seconds.

        Never False: a container that runs does not prove that the process in it does.
        """
        container = record.container_id
        if not self._engine.usable or not re.fullmatch(r"[0-9a-f]{64}", container):
            return None
        if self._clock() < self._not_before.get(container, 0.0):
            return None
        if self._question is None or self._question[0] != record.nonce:
            # Of another holder's, the answer says nothing of this one: it may be older than this one's process.
            self._question = record.nonce, asyncio.create_task(self._ask(container))
        answer = self._question[1]
        await asyncio.wait([answer], timeout=TIMEOUT)
        if not answer.done():
            return None  # where a container ends, a busy engine holds the very answer up: it is not asked to begin anew
        self._question = None
        return self._judge(record, answer.result()) if answer.result() else None

    async def _ask(self, container: str) -> dict[str, Any]:
        """The container's state; {} if there is none to be had."""
        try:
            state = await asyncio.to_thread(self._engine.inspect, container)
        except (OSError, http.client.HTTPException, ValueError):
            self._not_before = {container: self._clock() + BREATH}  # it may only be busy, and the holder die meanwhile
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
