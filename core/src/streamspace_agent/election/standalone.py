"""The election backend of an agent without ``ENABLE_HA``: its lease never ends.

It is an ordinary backend, so that there is one code path with and without HA.
"""

import asyncio
from typing import ClassVar

from streamspace_agent.election import Candidate, ElectionBackend, Grant, Guarantee, Held, Problem, Record, Timing


class StandaloneBackend(ElectionBackend):
    name: ClassVar[str] = "standalone"
    guarantees: ClassVar[frozenset[Guarantee]] = frozenset({Guarantee.ONE_HOST, Guarantee.ENDS_BY_ITSELF})

    def __init__(self) -> None:
        self._record: Record | None = None

    @property
    def timing(self) -> Timing:
        return Timing(lease=None, renew_every=1.0, call_timeout=1.0, margin=0.0)

    async def preflight(self) -> list[Problem]:
        return []

    async def acquire(self, me: Candidate, seen: Record | None) -> Grant | Held:
        epoch = max(me.epoch_floor, seen.epoch if seen else 0) + 1
        self._record = Record(
            me.agent_id, me.instance, me.nonce, epoch, 1, 0, host=me.host, container_id=me.container_id
        )
        return Grant(self._record)

    async def renew(self, grant: Grant) -> Grant:
        return grant

    async def release(self, grant: Grant) -> None:
        del grant
        self._record = None

    async def observe(self) -> Record | None:
        return self._record

    async def wait_change(self, record: Record | None, timeout: float) -> None:
        del record
        await asyncio.sleep(timeout)

    async def aclose(self) -> None:
        pass
