"""A command on its way through the dispatcher: its state, and what its handler has reported."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from streamspace_agent.commands import Command, Registered
from streamspace_agent.protocol import Message


class JobState(Enum):
    """The state of a job: WAITING, then RUNNING; or REFUSED from the start; or CANCELLED at any time.

    A RUNNING job ends with its handler's answer. A REFUSED or CANCELLED one is answered as failed, with its
    ``problem``. Where the leadership ends first, the job's task is cancelled without a change of state, and the
    command stays open in the journal for the next leader.
    """

    WAITING = auto()
    """For its turn behind other commands of its session, for a slot, or for the engine's first answer."""
    RUNNING = auto()
    REFUSED = auto()
    """Its handler never runs: the action or payload is invalid, or too many commands wait. Answered in its turn."""
    CANCELLED = auto()
    """A command that interrupts it came, or the agent shuts down."""


@dataclass(frozen=True, slots=True)
class Report:
    """A session's state that a handler reported."""

    message: Message
    written: Callable[[], None]
    """Called once the message is in the journal, and so will be delivered."""


@dataclass(slots=True)
class Job:
    """One command. ``registered`` is None for an unknown action."""

    command: Command
    registered: Registered | None
    state: JobState = JobState.WAITING
    problem: str = ""
    """Why the job is REFUSED or CANCELLED, for the answer."""
    size: int = 0
    """Characters of its payload."""
    internal: bool = False
    """The command is the agent's own: it is not answered, only its reports are sent."""
    wanted: Callable[[], bool] | None = None
    """Asked when an internal command is about to run; where it says no, nothing is done."""
    reports: list[Report] = field(default_factory=list)
    task: asyncio.Task[None] | None = None
    slot: asyncio.Task[bool] | None = None
    """Its wait for a slot."""
    hurried: bool = False
    """It runs without a slot: a command behind it needs none."""

    @property
    def fails(self) -> bool:
        return self.state in {JobState.REFUSED, JobState.CANCELLED}

    @property
    def interrupts(self) -> frozenset[str]:
        """The actions of commands that this one cancels."""
        return self.registered.interrupts if self.registered else frozenset()

    @property
    def needs_slot(self) -> bool:
        """A command that interrupts others takes no slot, nor do the jobs before it: no stop waits for slow starts."""
        return not (self.interrupts or self.fails or self.hurried)

    def hurry(self) -> None:
        self.hurried = True
        if self.slot is not None:
            self.slot.cancel()

    def cancel(self, problem: str) -> None:
        """End the job as failed, with this problem."""
        self.state, self.problem = JobState.CANCELLED, problem
        self.hurry()
        if self.task is not None:
            self.task.cancel()
