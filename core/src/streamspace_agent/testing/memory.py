"""An election backend whose store is in memory, behind links that delay, lose and refuse calls, for simulations."""

import asyncio
import threading
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from streamspace_agent.election import Candidate, ElectionBackend, Grant, Guarantee, Held, Problem, Record, Timing
from streamspace_agent.errors import BackendUnavailable, LeaseLost


@dataclass(slots=True)
class Store:
    """One server. ``writes`` lists every accepted step, in order; ``dead`` are instances whose death it certifies."""

    record: Record | None = None
    run: int = 1
    dead: set[str] = field(default_factory=set)
    writes: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    step: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    """Held while a step reads and writes: replicas may run on threads of their own."""

    def put(self, record: Record | None, what: str) -> None:
        self.record = record
        self.writes.append(what)
        self.changed.set()
        self.changed = asyncio.Event()

    def wipe(self) -> None:
        """Restart it empty."""
        self.run += 1
        self.put(None, "wipe")


@dataclass(slots=True)
class Link:
    """One replica's link to the store. ``request`` and ``reply`` are delays in s, a cut or lossy one is silent."""

    request: float = 0.0005
    reply: float = 0.0005
    cut: bool = False
    lose_replies: bool = False
    refuse: bool = False
    calls: int = 0


class MemoryBackend(ElectionBackend):
    """An election backend for a :class:`Store` in memory."""

    name: ClassVar[str] = "memory"

    def __init__(
        self,
        store: Store,
        timing: Timing,
        *,
        link: Link | None = None,
        guarantees: frozenset[Guarantee] = frozenset({Guarantee.MANY_HOSTS, Guarantee.PUSHES_WAKEUPS}),
    ) -> None:
        self.store = store
        self.link = link or Link()
        self.guarantees = guarantees  # type: ignore[misc]  # a test chooses them for the object
        self._timing = timing

    @property
    def timing(self) -> Timing:
        return self._timing

    async def preflight(self) -> list[Problem]:
        await self.send()
        return []

    async def acquire(self, me: Candidate, seen: Record | None) -> Grant | Held:
        await self.send()
        with self.store.step:
            result = self._take(me, seen)
        await self._answer()
        return result

    def _take(self, me: Candidate, seen: Record | None) -> Grant | Held:
        there = self.store.record
        itself = there is not None and there.nonce == me.nonce and not there.released
        if there != seen and not itself:
            return Held(there)
        stored = there.epoch if there else 0
        if there and itself:
            record = replace(there, sequence=there.sequence + 1)
        else:
            record = Record(
                agent_id=me.agent_id,
                holder=me.instance,
                nonce=me.nonce,
                epoch=max(stored, me.epoch_floor) + 1,
                sequence=1,
                lease_ms=round((me.lease or 0) * 1000),
                host=me.host,
                container_id=me.container_id,
                revision=str(self.store.run),
            )
        self.store.put(record, f"acquire {me.instance}")
        return Grant(record)

    async def renew(self, grant: Grant) -> Grant:
        await self.send()
        with self.store.step:
            if there := self.ours(grant):
                there = replace(there, sequence=there.sequence + 1)
                self.store.put(there, f"renew {there.holder}")
        await self._answer()
        if there is None:
            raise LeaseLost(f"the store shows {self.store.record and self.store.record.holder}")
        return Grant(there)

    async def release(self, grant: Grant) -> None:
        await self.send()
        with self.store.step:
            if there := self.ours(grant):
                self.store.put(replace(there, released=True), f"release {there.holder}")
        await self._answer()

    async def observe(self) -> Record | None:
        await self.send()
        record = self.store.record
        await self._answer()
        return record

    async def wait_change(self, record: Record | None, timeout: float) -> None:
        await self.send()
        if self.store.record == record:
            await asyncio.wait([task := asyncio.ensure_future(self.store.changed.wait())], timeout=timeout)
            task.cancel()
        await self._answer()

    async def holder_is_dead(self, record: Record) -> Literal[True, False] | None:
        await self.send()
        return True if record.holder in self.store.dead else None

    async def aclose(self) -> None:
        pass

    def ours(self, grant: Grant) -> Record | None:
        """The record, while the store holds it under this grant."""
        there = self.store.record
        return there if there and not there.released and there.same_tenure(grant.record) else None

    async def send(self) -> None:
        """A request's way to the store, which a subclass may make a worse one."""
        self.link.calls += 1
        if self.link.refuse:
            raise BackendUnavailable("connection refused")
        await asyncio.sleep(self.link.request)
        if self.link.cut:
            await asyncio.Event().wait()

    async def _answer(self) -> None:
        await asyncio.sleep(self.link.reply)
        if self.link.cut or self.link.lose_replies:
            await asyncio.Event().wait()
