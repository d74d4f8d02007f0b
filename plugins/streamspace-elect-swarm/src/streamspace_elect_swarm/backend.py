"""The lease as a config object of the Swarm: its name is unique, its labels are changed by version, Raft agrees on it.

Each step reads the config, and writes it with the version that was read. Only a write that the Swarm accepted proves
anything: a manager that has lost its majority may answer reads for a while.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import ClassVar, Literal, Self

from streamspace_agent.config import Settings
from streamspace_agent.election import Candidate, ElectionBackend, Grant, Guarantee, Held, Problem, Record, Timing
from streamspace_agent.election.timing import check, profile_of, scaled
from streamspace_agent.errors import BackendUnavailable, LeaseLost, RuntimeDriverError
from streamspace_elect_swarm import preflight, service_labels
from streamspace_elect_swarm.record import DATA, TaskRecord, config_name
from streamspace_elect_swarm.tasks import Task, has_ended, own_task
from streamspace_engine import Down, Engine, follow
from streamspace_engine.errors import Conflict, NotFound

DEFAULTS = Timing(lease=10.0, renew_every=2.5, call_timeout=2.0, margin=1.0)
"""Seconds. A compare-and-set takes 1 ms; a lease has to outlast lost replies and a busy Raft log."""
RENEWALS = 2
"""Renewals, each as slow as allowed, that must fit into the time for which a leader may act."""

LOOK_EVERY = 0.15
"""Seconds between a standby's looks at the leader's task, whose end causes no event. A look takes 1.4 ms, and a SIGKILL
shows after 57-109 ms (measured)."""

SILENCE = 15.0
"""Seconds without an event after which the stream is reopened: a leader renews more often, so it may be dead."""

ATTEMPTS = 4
"""Writes of one step that may lose a race before the step reports an unknown outcome."""


@asynccontextmanager
async def _store_errors() -> AsyncIterator[None]:
    """Every failure of the engine becomes BackendUnavailable: it says nothing about the lease."""
    try:
        yield
    except RuntimeDriverError as error:
        raise BackendUnavailable(str(error)) from error


class SwarmBackend(ElectionBackend):
    """``container_id`` is the container of this process, according to the kernel."""

    name: ClassVar[str] = "swarm"
    guarantees: ClassVar[frozenset[Guarantee]] = frozenset(
        {Guarantee.MANY_HOSTS, Guarantee.PUSHES_WAKEUPS, Guarantee.CERTIFIES_DEATH}
    )

    def __init__(
        self, agent_id: str, docker_host: str, container_id: str, *, timing: Timing, environ: Mapping[str, str]
    ) -> None:
        self.config = config_name(agent_id)
        self.agent_id = agent_id
        self.container_id = container_id
        self._timing = timing
        self._engine = Engine(docker_host, environ, timeout=timing.call_timeout, minimum_api=preflight.MINIMUM_API)
        self._changed = asyncio.Event()
        """Set when the config may have changed since it was last read."""
        self._following: asyncio.Task[None] | None = None
        self._task: Task | None = None
        self._showing: asyncio.Task[None] | None = None

    @classmethod
    def from_settings(cls, settings: Settings, environ: Mapping[str, str], container_id: str) -> Self:
        timing = check(scaled(DEFAULTS, settings.lease_duration, profile_of(environ)), RENEWALS)
        return cls(settings.agent_id, settings.docker_host, container_id, timing=timing, environ=environ)

    @property
    def timing(self) -> Timing:
        return self._timing

    @_store_errors()
    async def preflight(self) -> list[Problem]:
        return await preflight.problems(self._engine, self.agent_id, self.container_id)

    @_store_errors()
    async def observe(self) -> TaskRecord | None:
        self._changed.clear()
        config = await self._engine.find(f"/configs/{self.config}")
        return TaskRecord.parse(config, self.agent_id) if config else None

    async def acquire(self, me: Candidate, seen: Record | None) -> Grant | Held:
        task = await self._own_task()
        for _ in range(ATTEMPTS):
            now = await self.observe()
            if now and now.nonce == me.nonce and not now.released:
                # An earlier try whose answer was lost. Others count from that one, so it is confirmed by a new write.
                grant = await self.renew(Grant(now))
                self._show(service_labels.show(self._engine, self.agent_id, task, now.epoch))
                return grant
            if (now.revision if now else "") != (seen.revision if seen else ""):
                return Held(now)
            record = TaskRecord(
                agent_id=me.agent_id,
                holder=me.instance,
                nonce=me.nonce,
                epoch=max(now.epoch if now else 0, me.epoch_floor) + 1,
                sequence=now.sequence + 1 if now else 1,
                lease_ms=round((me.lease or 0) * 1000),
                host=me.host,
                container_id=self.container_id,
                since=datetime.now(UTC).isoformat(timespec="seconds"),
                task=task.id,
            )
            granted = await self._write(now, record)
            if granted:
                self._show(service_labels.show(self._engine, self.agent_id, task, record.epoch))
                return granted
        raise BackendUnavailable(f"the config {self.config} keeps changing")

    async def renew(self, grant: Grant) -> Grant:
        result = await self._rewrite(grant, released=False)
        if isinstance(result, Grant):
            return result
        stands = f"{result.holder} holds it, epoch {result.epoch}" if result else "it was removed"
        raise LeaseLost(f"the config {self.config} is not ours any more: {stands}")

    async def release(self, grant: Grant) -> None:
        self._show(None)
        await self._rewrite(grant, released=True)

    async def _rewrite(self, grant: Grant, *, released: bool) -> Grant | TaskRecord | None:
        """Write the next record under ``grant``. Returns the new grant, or the record of whoever else has the lease."""
        for _ in range(ATTEMPTS):
            now = await self._current()
            if now is None or now.released or not now.same_tenure(grant.record):
                self._show(None)
                # Older than our last write: a manager that lags behind answered.
                if now and isinstance(grant.token, int) and now.version <= grant.token:
                    raise BackendUnavailable(f"the config {self.config} was answered from an old copy")
                return now
            # Even if a reply was lost and the record is newer than the grant: only a write proves that we hold it now.
            if written := await self._write(now, replace(now, sequence=now.sequence + 1, released=released)):
                return written
        raise BackendUnavailable(f"the config {self.config} keeps changing")

    async def wait_change(self, record: Record | None, timeout: float) -> None:
        self._following = self._following or asyncio.create_task(self._follow(), name="events of the lease")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while not self._changed.is_set() and (left := deadline - loop.time()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(LOOK_EVERY, left)):
                    await self._changed.wait()
            if record and not record.released:
                with suppress(BackendUnavailable):
                    if await self.holder_is_dead(record):
                        return

    async def _follow(self) -> None:
        filters = {"type": ["config"], "config": [self.config]}
        async for item in follow(self._engine, filters, silence=SILENCE):
            if not isinstance(item, Down):
                self._changed.set()

    @_store_errors()
    async def holder_is_dead(self, record: Record) -> Literal[True, False] | None:
        return True if isinstance(record, TaskRecord) and await has_ended(self._engine, record) else None

    async def aclose(self) -> None:
        self._show(None)
        following, self._following = self._following, None
        if following:
            following.cancel()
            await asyncio.wait([following])
        await self._engine.aclose()

    @_store_errors()
    async def _own_task(self) -> Task:
        if self._task is None:
            self._task = await own_task(self._engine, self.container_id)
        return self._task

    @_store_errors()
    async def _write(self, now: TaskRecord | None, record: TaskRecord) -> Grant | None:
        """Write ``record`` over ``now``. Returns the grant; None if somebody else wrote first."""
        spec = {"Name": self.config, "Labels": record.labels()}
        try:
            if now is None:
                await self._engine.post("/configs/create", spec | {"Data": base64.b64encode(DATA.encode()).decode()})
            else:
                config, _, version = now.revision.partition("/")
                await self._engine.post(f"/configs/{config}/update", spec, {"version": version})
        except (Conflict, NotFound):
            return None
        return Grant(record, token=now.version if now else 0)

    async def _current(self) -> TaskRecord | None:
        """The record at present; its absence must be seen twice.

        A manager that has just begun to lead answers reads before it has applied all that was agreed on; only writes
        wait for that (swarmkit, manager/state/raft: caughtUp). A record that was written just before would be missing.
        """
        now = await self.observe()
        if now is None:
            await asyncio.sleep(self._timing.call_timeout / 4)
            now = await self.observe()
        return now

    def _show(self, work: Coroutine[None, None, None] | None) -> None:
        """Run ``work``, which shows people who leads, in the background; the previous one is cancelled."""
        if self._showing:
            self._showing.cancel()
        self._showing = asyncio.create_task(work) if work else None
