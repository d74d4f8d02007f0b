"""The contract between the core and a web gateway: what answers, at ``WEB_GATEWAY``, for the sessions' web desktops."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from streamspace_agent.clock import Clock
from streamspace_agent.runtime import Session
from streamspace_agent.runtime.readiness import Stream

log = logging.getLogger(__name__)

RETRY = 5.0
"""Seconds until a gateway that failed is started again."""
DOMAIN = "streamspace.svc.cluster.local"
"""The control plane asks for ``http://SESSION.`` this (protocol, section 1)."""


@dataclass(frozen=True, slots=True)
class GatewayContext:
    """What a gateway is given for one tenure of leadership. All of it belongs to the event loop that calls ``serve``.

    ``sessions`` are those of this agent as last reported, by id; it changes under the reader. ``busy`` tells the session ids
    with a command under way. ``adopted`` is false until the engine has been asked what runs: a session that is unknown until
    then may exist all the same. ``connect(session_id, port)`` is the driver's: a new byte stream to a port inside the session, from
    wherever the agent runs; OSError where nothing listens, CommandFailed or RuntimeDriverError where the session or its
    engine is away. ``saw_input(session_id)`` says that a person used the session just now: it keeps the session from being
    hibernated as idle. ``clock`` is the agent's.
    """

    sessions: Mapping[str, Session]
    busy: Callable[[], Collection[str]]
    adopted: Callable[[], bool]
    connect: Callable[[str, int], Awaitable[Stream]]
    saw_input: Callable[[str], None]
    clock: Clock


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """Where a replica's web gateway listens, and what passes through it."""

    addresses: Mapping[str, str] = field(default_factory=dict)
    """By ``host:port`` as set, why nothing listens there; "" if it listens. Empty while the replica does not lead."""
    connections: int = 0
    requests: Mapping[str, int] = field(default_factory=dict)
    """Requests that ended since the process began, by outcome."""

    def problems(self) -> Iterator[str]:
        for address, error in self.addresses.items():
            if error:
                yield f"WEB_GATEWAY={address}: cannot listen there: {error}"


class Gateway(ABC):
    """Serves the web desktops of the sessions of whichever replica leads. One object a process, one call of ``serve`` a tenure."""

    name: ClassVar[str]

    @abstractmethod
    async def serve(self, context: GatewayContext) -> None:
        """Listen and pass on until cancelled; called once this replica leads, and cancelled when it leads no more.

        Must not return by itself. An address that cannot be bound (the last leader may hold it still) is tried again, and
        told by :meth:`status`. Once the cancellation has come through, nothing listens and no connection is open. An
        exception is logged and the gateway is started again: it never ends a leadership. Nothing may be done to a session but
        to connect to it: in particular none is woken.
        """

    @abstractmethod
    def status(self) -> GatewayStatus:
        """How it is now. Called from other threads, at any time."""


async def keep_serving(gateway: Gateway | None, context: GatewayContext) -> None:
    """Serve until cancelled, whatever fails; where there is no gateway, only wait for that."""
    if gateway is None:
        await asyncio.Event().wait()
    while gateway is not None:
        try:
            await gateway.serve(context)
            log.error("WEB_GATEWAY: the gateway %s stopped by itself: starting it again", gateway.name)
        except Exception:
            log.exception("WEB_GATEWAY: the gateway %s failed: starting it again", gateway.name)
        await asyncio.sleep(RETRY)
