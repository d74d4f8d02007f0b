"""The lease in Redis. Each step is one Lua script, and each outcome yes, no or unknown."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal, Self

from streamspace_agent.config import Settings
from streamspace_agent.election import Candidate, ElectionBackend, Grant, Guarantee, Held, Problem, Record, Timing
from streamspace_agent.election.certificate import Certificates
from streamspace_agent.election.timing import check, profile_of, scaled
from streamspace_agent.errors import BackendUnavailable, ConfigError, LeaseLost
from streamspace_elect_redis import preflight, scripts
from streamspace_elect_redis.connection import CommandConnection, Connector
from streamspace_elect_redis.listener import Listener
from streamspace_elect_redis.scripts import StepResult
from streamspace_elect_redis.url import Address, parse

DEFAULTS = Timing(lease=5.0, renew_every=1.0, call_timeout=0.4, margin=0.5)
RENEWALS = 3
"""How many renewals, each as slow as allowed, must fit into the time that a leader may act."""

COPIED = "copied "
"""Prefix of a nonce: the record was written before this server became primary, and a newer one may be lost. Its
release, its holder's death or its being this replica's own then do not prove that nobody leads; only time does."""
FOREIGN = "foreign "
"""Prefix of the leader key's value, as a nonce: the key was set by a program that writes no record."""


class RedisBackend(ElectionBackend):
    name: ClassVar[str] = "redis"
    guarantees: ClassVar[frozenset[Guarantee]] = frozenset(
        {Guarantee.MANY_HOSTS, Guarantee.SURVIVES_STORE_LOSS, Guarantee.PUSHES_WAKEUPS, Guarantee.CERTIFIES_DEATH}
    )

    def __init__(
        self,
        agent_id: str,
        address: Address,
        timing: Timing,
        certificates: Certificates,
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        lease = timing.lease or 0.0
        self._agent_id = agent_id
        self._timing = timing
        self._certificates = certificates
        self._wall_clock = wall_clock
        self._keys = scripts.keys(agent_id)
        self._connector = Connector(address, timing.call_timeout, max(1.0, lease / 2))
        self._connection = CommandConnection(self._connector.connect, str(address), timing.call_timeout)
        self._listener = Listener(self._connector.connect, self._keys[0])
        self._empty = ""
        """The history in which the store last had no record; "" once it had one."""
        self._replaced = False
        """An empty store was replaced by another empty one. A record may have been written in between."""

    @classmethod
    def from_settings(cls, settings: Settings, environ: Mapping[str, str]) -> Self:
        """Raises ConfigError with every problem."""
        problems: list[str] = []
        address, timing = Address(), DEFAULTS
        try:
            address = parse(settings.redis_url.get_secret_value() if settings.redis_url else None, environ)
        except ConfigError as error:
            problems += error.problems
        try:
            timing = check(scaled(DEFAULTS, settings.lease_duration, profile_of(environ)), RENEWALS)
        except ConfigError as error:
            problems += error.problems
        if problems:
            raise ConfigError(problems)
        return cls(settings.agent_id, address, timing, Certificates(settings.docker_host))

    @property
    def timing(self) -> Timing:
        return self._timing

    async def preflight(self) -> list[Problem]:
        return await preflight.problems(self._connector, self._keys)

    async def acquire(self, me: Candidate, seen: Record | None) -> Grant | Held:
        lease_ms = round((me.lease or self._timing.lease or 0.0) * 1000)
        written = {
            "agent_id": me.agent_id,
            "holder": me.instance,
            "host": me.host,
            "container_id": me.container_id,
            "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._wall_clock())),
        }
        revision = seen.revision if seen else self._empty
        fields = [text for item in written.items() for text in item]
        result = await self._step(scripts.ACQUIRE, me.nonce, lease_ms, me.epoch_floor, revision, *fields)
        record = self._note(result)
        return Grant(record) if result.answer == "granted" and record else Held(record)

    async def renew(self, grant: Grant) -> Grant:
        record = grant.record
        result = await self._step(scripts.RENEW, record.nonce, record.epoch, record.lease_ms)
        renewed = self._note(result)
        if result.answer == "lost" or renewed is None:
            raise LeaseLost(f"{self._keys[0]} {_describe(renewed)}")
        return Grant(renewed)

    async def release(self, grant: Grant) -> None:
        await self._step(scripts.RELEASE, grant.record.nonce, grant.record.epoch)

    async def observe(self) -> Record | None:
        return self._note(await self._step(scripts.OBSERVE))

    async def wait_change(self, record: Record | None, timeout: float) -> None:
        del record
        await self._listener.wait(timeout)

    async def holder_is_dead(self, record: Record) -> Literal[True, False] | None:
        if record.nonce.startswith((COPIED, FOREIGN)):
            return None
        return await self._certificates.holder_is_dead(record)

    async def aclose(self) -> None:
        await self._listener.aclose()
        await self._connection.aclose()
        await self._connector.aclose()

    async def _step(self, script: str, *arguments: str | int) -> StepResult:
        reply: Sequence[object] = await self._connection.run_script(script, self._keys, *arguments)
        try:
            return StepResult.of(reply)
        except ValueError as error:
            raise BackendUnavailable(f"redis: {error}") from error

    def _note(self, result: StepResult) -> Record | None:
        record = self._record_in(result)
        if record is None:
            self._replaced = self._replaced or self._empty not in {"", result.history}
            self._empty = result.history
            # Must differ from "no record, as before", so that the core restarts its wait.
            return self._placeholder(result, "(unknown)", COPIED) if self._replaced else None
        self._empty, self._replaced = "", False
        return record

    def _record_in(self, result: StepResult) -> Record | None:
        fields = result.fields
        if result.shown is not None and result.shown != fields.get("holder"):
            # With the remaining TTL each observation differs: the core waits for the key to go, and then a whole lease.
            return replace(
                self._placeholder(result, result.shown, FOREIGN + result.shown), sequence=max(0, result.ttl_ms)
            )
        if not fields:
            return None
        trusted = fields.get("history") == result.history
        try:
            return Record(
                agent_id=fields["agent_id"],
                holder=fields["holder"],
                nonce=fields["nonce"] if trusted else COPIED + fields["nonce"],
                epoch=int(fields["epoch"]),
                sequence=int(fields["sequence"]),
                lease_ms=int(fields["lease_ms"]),
                released=trusted and fields["released"] == "1",
                host=fields["host"],
                container_id=fields["container_id"],
                since=fields["since"],
                revision=result.revision,
            )
        except (KeyError, ValueError) as error:
            raise BackendUnavailable(
                f"redis: {self._keys[1]} is not a record of this agent: delete the key ({error!r})"
            ) from error

    def _placeholder(self, result: StepResult, holder: str, nonce: str) -> Record:
        return Record(self._agent_id, holder, nonce, result.epoch, 0, 0, revision=result.revision)


def _describe(record: Record | None) -> str:
    if record is None:
        return "has no record any more: the store was emptied"
    return f"shows {record.holder}, epoch {record.epoch}{', released' if record.released else ''}"
