"""The lease in Redis: each step one Lua script, each answer yes, no or cannot tell."""

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
from streamspace_elect_redis.connection import Connector, Wire
from streamspace_elect_redis.listener import Listener
from streamspace_elect_redis.scripts import Look
from streamspace_elect_redis.url import Address, parse

DEFAULTS = Timing(lease=5.0, renew_every=1.0, call_timeout=0.4, margin=0.5)
RENEWALS = 3
"""This many, each as slow as allowed, must fit into the time that a leader may act."""

COPIED = "copied "
"""Before a nonce: the record was not written on this server since it became primary, and a newer one may be lost.
Neither its release nor its holder's death nor its being our own says then that nobody leads; only time does."""
FOREIGN = "foreign "
"""Before the leader key's value, as a nonce: the key was set by something that writes no record."""


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
        self._wire = Wire(self._connector.connect, str(address), timing.call_timeout)
        self._listener = Listener(self._connector.connect, self._keys[0])
        self._empty = ""
        """The history in which no record was last seen; "" after a record."""
        self._replaced = False
        """An empty store took the place of an empty store, and a record may have been written to the first."""

    @classmethod
    def from_settings(cls, settings: Settings, environ: Mapping[str, str]) -> Self:
        """Raises ConfigError with everything that is wrong."""
        problems: list[str] = []
        address, timing = Address(), DEFAULTS
        try:
            address = parse(settings.redis_url.get_secret_value() if settings.redis_url else None, environ)
        except ConfigError as error:
            problems += error.problems
        try:
            chosen = scaled(DEFAULTS, settings.lease_duration, profile_of(environ))
            timing = check(chosen, RENEWALS)
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
        look = await self._step(scripts.ACQUIRE, me.nonce, lease_ms, me.epoch_floor, revision, *fields)
        record = self._see(look)
        return Grant(record) if look.answer == "granted" and record else Held(record)

    async def renew(self, grant: Grant) -> Grant:
        record = grant.record
        look = await self._step(scripts.RENEW, record.nonce, record.epoch, record.lease_ms)
        renewed = self._see(look)
        if look.answer == "lost" or renewed is None:
            raise LeaseLost(f"{self._keys[0]} {_describe(renewed)}")
        return Grant(renewed)

    async def release(self, grant: Grant) -> None:
        await self._step(scripts.RELEASE, grant.record.nonce, grant.record.epoch)

    async def observe(self) -> Record | None:
        return self._see(await self._step(scripts.OBSERVE))

    async def wait_change(self, record: Record | None, timeout: float) -> None:
        del record
        await self._listener.wait(timeout)

    async def holder_is_dead(self, record: Record) -> Literal[True, False] | None:
        if record.nonce.startswith((COPIED, FOREIGN)):
            return None
        return await self._certificates.holder_is_dead(record)

    async def aclose(self) -> None:
        await self._listener.aclose()
        await self._wire.aclose()
        await self._connector.aclose()

    async def _step(self, script: str, *arguments: str | int) -> Look:
        reply: Sequence[object] = await self._wire.run(script, self._keys, *arguments)
        try:
            return Look.of(reply)
        except ValueError as error:
            raise BackendUnavailable(f"redis: {error}") from error

    def _see(self, look: Look) -> Record | None:
        record = self._record(look)
        if record is None:
            self._replaced = self._replaced or self._empty not in {"", look.history}
            self._empty = look.history
            # Not "no record, as before": the core must begin its wait anew.
            return self._unknown(look, "(unknown)", COPIED) if self._replaced else None
        self._empty, self._replaced = "", False
        return record

    def _record(self, look: Look) -> Record | None:
        fields = look.fields
        if look.shown is not None and look.shown != fields.get("holder"):
            # Its remaining TTL makes each look differ, so the core waits until the key is gone, and then a whole lease.
            return replace(self._unknown(look, look.shown, FOREIGN + look.shown), sequence=max(0, look.ttl_ms))
        if not fields:
            return None
        trusted = fields.get("history") == look.history
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
                revision=look.revision,
            )
        except (KeyError, ValueError) as error:
            raise BackendUnavailable(
                f"redis: {self._keys[1]} is not a record of this agent: delete the key ({error!r})"
            ) from error

    def _unknown(self, look: Look, holder: str, nonce: str) -> Record:
        return Record(self._agent_id, holder, nonce, look.epoch, 0, 0, revision=look.revision)


def _describe(record: Record | None) -> str:
    if record is None:
        return "has no record any more: the store was emptied"
    return f"shows {record.holder}, epoch {record.epoch}{', released' if record.released else ''}"
