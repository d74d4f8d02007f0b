"""What the dispatcher works on: a command on its way, the states that its handler reports, and the count of those that ended."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from streamspace_agent.commands import Command, Context, Registered
from streamspace_agent.journal import Message


@dataclass(frozen=True, slots=True)
class State:
    """A session's state that a handler reported."""

    message: Message
    written: Callable[[], None]
    """Called once the message is in the journal, and so will be delivered."""


@dataclass(slots=True)
class Job:
    """One command on its way through the dispatcher."""

    command: Command
    registered: Registered
    size: int
    """Characters of its payload."""
    states: list[State] = field(default_factory=list)
    task: asyncio.Task[None] | None = None
    turn: asyncio.Task[Any] | None = None
    """Its wait for a slot."""
    hurried: bool = False
    """It runs without one: what came behind it needs none."""
    cancelled_for: str = ""
    """Why the dispatcher itself cancelled the job: it then ends as failed. Else a cancelled job stays open in the journal."""


async def _never_runs(command: Command, context: Context) -> Mapping[str, Any]:
    del command, context
    raise AssertionError


REFUSED = Registered(_never_runs, "streamspace-agent")
"""Stands in for the handler of a command that is refused in its turn."""


@dataclass(slots=True)
class Counters:
    """Over the process's life, across tenures."""

    commands: dict[tuple[str, str], int] = field(default_factory=dict)

    @classmethod
    def of(cls, actions: Iterable[str]) -> Self:
        """Zeros from the start: Prometheus counts no increase where a series begins."""
        return cls({(action, answer): 0 for action in actions for answer in ("complete", "failed")})

    def by_action(self) -> dict[str, dict[str, int]]:
        """Commands finished: by action, then ``completed`` or ``failed``."""
        table: dict[str, dict[str, int]] = {}
        for (action, answer), count in list(self.commands.items()):
            table.setdefault(action, {})["completed" if answer == "complete" else "failed"] = count
        return table


MakeContext = Callable[[Command, list[State]], Context]
"""Makes the context of one command; states that the handler reports are appended to the list."""
