"""An engine's event stream, followed across every loss of the engine."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from streamspace_agent.backoff import Backoff
from streamspace_agent.errors import EngineUnavailable, RuntimeDriverError
from streamspace_engine.engine import Engine
from streamspace_engine.errors import Silent

log = logging.getLogger(__name__)

SILENCE = 60.0
"""Seconds without an event after which the stream is opened anew: a dead connection looks like a quiet engine."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """The stream is open. Events before it may have been missed: compare with the engine's state."""


@dataclass(frozen=True, slots=True)
class Down:
    """The engine is away. Each new reason is yielded once."""

    reason: str


@dataclass(frozen=True, slots=True)
class Event:
    """One event as the engine's API tells it, ``Action`` and ``Actor`` among its keys."""

    body: Mapping[str, Any]


async def follow(
    engine: Engine, filters: Mapping[str, Sequence[str]], *, silence: float = SILENCE
) -> AsyncIterator[Resumed | Down | Event]:
    """Yield every event that matches ``filters``, forever. Retries at least every 5 s while the engine is away.

    A stream that was silent is reopened where it ended, without :class:`Resumed`, since no event was missed.
    """
    loop = asyncio.get_running_loop()
    backoff = Backoff(base=0.2, cap=5.0, healthy_after=5.0)
    since, missed, down = "", True, ""
    while True:
        begun, broken = loop.time(), None
        try:
            since = since or await _now(engine)
            params = {"filters": filters, "since": since or None}
            async with engine.stream("GET", "/events", params, silence=silence) as lines:
                if missed:
                    yield Resumed()
                missed, down = False, ""
                async for body in lines:
                    since = _after(body) or since
                    yield Event(body)
        except Silent:
            missed = not since
            continue
        except RuntimeDriverError as error:
            broken = error
        missed = True
        why = await _why(engine, broken)
        if why and why != down:
            yield Down(why)
        down = why or down
        backoff.worked_for(loop.time() - begun)
        await asyncio.sleep(backoff.delay())


async def _now(engine: Engine) -> str:
    """The engine's time, from which the first events are asked for; "" where it tells none."""
    now = timestamp(str((await engine.info()).get("SystemTime") or ""))
    return f"{now:.6f}" if now else ""


async def _why(engine: Engine, broken: RuntimeDriverError | None) -> str:
    """Why the engine is away after its stream ended; "" when it answers and the stream can be reopened."""
    if outage := await engine.outage():
        return str(outage)
    if broken is not None and not isinstance(broken, EngineUnavailable):
        return f"it does not let us follow its events: {broken}"
    log.info("the engine's event stream broke off: %s", broken or "the engine ended it")
    return ""


def _after(body: Mapping[str, Any]) -> str:
    """The moment after an event, as the engine's API takes it: seconds.nanoseconds."""
    nanos = int(body.get("timeNano") or 0) + 1
    return f"{nanos // 10**9}.{nanos % 10**9:09d}" if nanos > 1 else ""


def timestamp(text: str) -> float:
    """Unix seconds of an engine's RFC 3339 time with nanoseconds; 0 for anything else, and for the year 1 (never)."""
    match = re.match(r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)(?:\.(\d{1,6})\d*)?(Z|[+-]\d\d:?\d\d)?", text)
    if not match or text.startswith("0001-"):
        return 0.0
    parsed = datetime.fromisoformat(f"{match[1]}{match[3] or 'Z'}".replace(" ", "T"))
    return parsed.astimezone(UTC).timestamp() + int((match[2] or "0").ljust(6, "0")) / 1e6
