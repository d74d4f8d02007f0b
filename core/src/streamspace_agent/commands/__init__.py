"""What a command is, and how handlers for actions are registered."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from streamspace_agent.commands.capacity import Capacity
from streamspace_agent.config import Settings
from streamspace_agent.errors import PluginError
from streamspace_agent.runtime import Progress, RuntimeDriver, Session


@dataclass(frozen=True, slots=True)
class Command:
    """A control-plane command as received; ``payload`` is unchecked JSON.

    ``attempt`` counts from 1, and a resume after a crash is the next one. ``epoch`` is that of the leader that runs it.
    """

    id: str
    action: str
    payload: Mapping[str, Any]
    epoch: int
    attempt: int = 1

    @property
    def lane(self) -> str:
        """The queue that the command belongs to: those of one session run one after another, in the order received."""
        return str(self.payload.get("sessionId") or f"command:{self.id}")


class Context(Protocol):
    """What a handler may use. All of it belongs to the running leadership and must not be kept beyond the call."""

    settings: Settings
    driver: RuntimeDriver
    capacity: Capacity

    def require_lease(self) -> None:
        """Raise ``LeaseLost`` unless this agent may act right now. To be called before every side effect of the
        handler's own; a driver's calls do so by themselves.
        """

    def progress(self, session_id: str, step: Progress) -> None:
        """Show a step to people as a ``pending`` status. Steps may be dropped or merged. Never blocks."""

    def report(self, session: Session) -> None:
        """Report a session's state. It is sent before the command's own result, in order, and survives a crash."""


Handler = Callable[[Command, Context], Awaitable[Mapping[str, Any]]]
"""Runs one command to its end and returns the ``result`` for the control plane (JSON, well under 512 KiB).

Raise :exc:`~streamspace_agent.errors.CommandFailed` with a sentence for an administrator; any other exception is
reported as an internal error without its details. A handler may be cancelled (lease lost, drain) wherever it waits,
and a later leader may run it again with the same command: it must be idempotent, complete what was left half done,
and let a cancellation through at once. It must not block the event loop. It calls ``require_lease`` immediately
before *each* effect of its own: the lease may end during a download.
"""


@dataclass(frozen=True, slots=True)
class Registered:
    """A handler as registered; see :class:`Register`."""

    handler: Handler
    plugin: str
    interrupts: frozenset[str] = frozenset()
    abandon: Handler | None = None


class Register(Protocol):
    """What the hook ``register_commands`` is given: adds one handler for each call."""

    def __call__(
        self, action: str, handler: Handler, *, interrupts: Collection[str] = (), abandon: Handler | None = None
    ) -> None:
        """Let ``handler`` run the commands with this ``action``.

        It cancels and fails a command of the same session that waits or runs, if the action of that one is among
        ``interrupts``: a stop need not wait for a start. ``abandon`` cleans up after a command of this action that
        was cancelled in this way or by a shutdown; it has 10 seconds.
        """


class Registry:
    """The handlers by action."""

    def __init__(self) -> None:
        self._handlers: dict[str, Registered] = {}

    def register_for(self, plugin: str) -> Register:
        """The ``register`` callback for one plugin, whose name appears in errors."""

        def register(
            action: str, handler: Handler, *, interrupts: Collection[str] = (), abandon: Handler | None = None
        ) -> None:
            if (other := self._handlers.get(action)) is not None:
                raise PluginError(
                    f"command {action!r} is registered twice, by {other.plugin} and by {plugin}: uninstall one of them"
                )
            self._handlers[action] = Registered(handler, plugin, frozenset(interrupts), abandon)

        return register

    def get(self, action: str) -> Registered | None:
        return self._handlers.get(action)

    @property
    def actions(self) -> tuple[str, ...]:
        return tuple(sorted(self._handlers))
