"""The contract of a web gateway: it serves the sessions' web desktops at ``WEB_GATEWAY``."""

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
"""The control plane reaches a session's web desktop at ``http://SESSION.DOMAIN``."""


@dataclass(frozen=True, slots=True)
class GatewayContext:
    """What a gateway is given for one leadership. All of it belongs to the event loop that calls ``serve``."""

    sessions: Mapping[str, Session]
    """This agent's sessions as last reported, by id. Changes while the gateway serves."""
    busy: Callable[[], Collection[str]]
    """The ids of the sessions that have a command under way."""
    adopted: Callable[[], bool]
    """False until the engine has been asked which sessions exist: until then, an unknown session may exist."""
    connect: Callable[[str, int], Awaitable[Stream]]
    """``connect(session_id, port)`` opens a new stream to a port inside the session, wherever the agent runs. Raises
    OSError if nothing listens there, CommandFailed or RuntimeDriverError if the session or its engine is away."""
    saw_input: Callable[[str], None]
    """``saw_input(session_id)`` reports that a person used the session now, so that it is not hibernated as idle."""
    clock: Clock
    """The agent's clock."""


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
    """Serves the web desktops of the sessions while this replica leads.

    There is one object in a process, and one call of ``serve`` for each leadership.
    """

    name: ClassVar[str]

    @abstractmethod
    async def serve(self, context: GatewayContext) -> None:
        """Listen and relay until cancelled. Called when this replica becomes leader, cancelled when it no longer leads.

        Must not return by itself. If an address cannot be bound (the previous leader may still hold it), try again and
        report it in :meth:`status`. After the cancellation nothing may listen and no connection may be open. An
        exception is logged and the gateway started again; it never ends a leadership. Do nothing to a session except
        connect to it: in particular, never wake one.
        """

    @abstractmethod
    def status(self) -> GatewayStatus:
        """The present state. Called from other threads at any time."""


async def keep_serving(gateway: Gateway | None, context: GatewayContext) -> None:
    """Serve until cancelled, whatever fails. Without a gateway, only wait for the cancellation."""
    if gateway is None:
        await asyncio.Event().wait()
    while gateway is not None:
        try:
            await gateway.serve(context)
            log.error("WEB_GATEWAY: the gateway %s stopped by itself: starting it again", gateway.name)
        except Exception:
            log.exception("WEB_GATEWAY: the gateway %s failed: starting it again", gateway.name)
        await asyncio.sleep(RETRY)
