"""Decides when each command runs: takes it, queues it behind the others of its session, and starts it in its turn.

Commands of one lane (one session) run one after another in the order received; lanes run beside each other, up to
``COMMAND_CONCURRENCY``. Every command ends in exactly one ``complete`` or ``failed``, whatever happens to the process.
"""

import asyncio
import contextlib
import json
import logging
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from streamspace_agent import protocol
from streamspace_agent.commands import Command, Registry
from streamspace_agent.commands.answers import Answers
from streamspace_agent.commands.executor import Executor
from streamspace_agent.commands.jobs import Job, JobState
from streamspace_agent.errors import CommandFailed, LeaseLost
from streamspace_agent.journal import UNREADABLE, Entry
from streamspace_agent.protocol import START, WAKE
from streamspace_agent.runtime import Progress, SessionState
from streamspace_agent.sessions.progress import ProgressBoard
from streamspace_agent.sessions.table import SessionTable
from streamspace_agent.units import counted, format_bytes

log = logging.getLogger(__name__)

MAX_WAITING = 1024
"""Commands that may wait for their turn. Those beyond are refused in their turn; beyond twice as many, at once."""
MAX_WAITING_SIZE = 8 * 1024**2
"""Characters of JSON in the payloads of all commands that wait. Each may take up to 16 bytes of memory (empty lists
do); a real payload has a few thousand."""
MAX_ATTEMPTS = 3
"""A command that was running at this many crashes is failed, not tried again: it may be what kills the agent."""


@dataclass(eq=False)
class Dispatcher:
    """The commands of one leadership."""

    _registry: Registry
    _answers: Answers
    _executor: Executor
    _board: ProgressBoard
    _sessions: SessionTable
    _concurrency: int
    _epoch: int
    _lanes: dict[str, deque[Job]] = field(default_factory=dict)
    _runners: set[asyncio.Task[None]] = field(default_factory=set)
    _started: asyncio.Event = field(default_factory=asyncio.Event)
    _draining: bool = False
    running: int = 0
    """Commands whose handler runs. May be read from any thread, as ``waiting``."""

    def __post_init__(self) -> None:
        self._slots = asyncio.Semaphore(self._concurrency)

    @property
    def waiting(self) -> int:
        """Commands without an answer."""
        return sum(len(lane) for lane in list(self._lanes.values()))

    # Taking commands

    def receive(self, payload: Mapping[str, Any]) -> None:
        """Take one ``command`` message: journal and acknowledge it, then let it run. Never waits.

        Raises JournalError: unjournalled work could be done twice or be lost, so the command is not taken. Raises
        CommandFailed where so many commands wait that not even a refusal can.
        """
        command_id, body = protocol.usable_id(payload.get("commandId")), payload.get("payload")
        if not command_id:
            log.warning("dropped a command without a usable commandId: %s", protocol.cut(repr(dict(payload)), 300))
            return
        action = str(payload.get("action") or "")
        action = protocol.cut(action if action.isprintable() else ascii(action), 200)
        content = body if isinstance(body, dict) else {}
        size = len(json.dumps(content))
        if busy := self._busy(size):  # it will be refused: all it needs is the session whose turn it waits for
            session_id = protocol.usable_id(content.get("sessionId"))
            content, size = {"sessionId": session_id} if session_id else {}, 0
        if (known := self._answers.received(command_id, action, content)) is not None:
            log.info(
                "command %s (%s) was received before: %s",
                command_id,
                known.action,
                "its answer goes out again" if known.answer else "it is in progress",
            )
            return
        if not isinstance(body, dict) and body is not None:
            problem = "invalid_payload: the command's payload is not an object"
        elif self._draining:
            problem = "agent_shutdown: this agent is shutting down and takes no new command"
        else:
            problem = busy
        self._admit(self._job(Command(command_id, action, content, self._epoch), problem, size))

    def _busy(self, size: int) -> str:
        """Why there is no room for one more command with a payload of that size; "" if there is."""
        waiting = self.waiting
        if waiting >= 2 * MAX_WAITING:
            raise CommandFailed("busy", f"{waiting} commands are waiting already")
        if waiting >= MAX_WAITING:
            return f"busy: {waiting} commands are waiting already"
        held = sum(job.size for lane in self._lanes.values() for job in lane)
        if held and held + size > MAX_WAITING_SIZE:
            return f"busy: the {waiting} commands that are waiting already hold {format_bytes(held)}"
        return ""

    def run_internal(self, action: str, payload: Mapping[str, Any], wanted: Callable[[], bool]) -> None:
        """Run a command of the agent's own in its session's turn. It is not answered; what it reports is sent.

        ``wanted`` is asked when its turn comes, which may be long after; where it says no, nothing is done. Once begun
        the command is journalled: whoever leads next completes what a crash interrupts, and so reports why it was done.
        """
        if not self._draining:
            job = self._job(Command(f"agent-{uuid.uuid4().hex}", action, payload, self._epoch))
            job.internal, job.wanted = True, wanted
            self._admit(job)

    def recover(self, entries: Iterable[Entry]) -> None:
        """Take up the commands that an earlier process or leader left open."""
        for entry in entries:
            problem = "" if entry.readable else UNREADABLE
            if entry.attempts >= MAX_ATTEMPTS:
                problem = f"interrupted: the agent ended {entry.attempts} times while it ran this command"
            log.info(
                "command %s (%s) was left open by an earlier leader: %s",
                entry.id,
                entry.action,
                "failing it" if problem else "resuming it",
            )
            command = Command(entry.id, entry.action, entry.payload, self._epoch, entry.attempts + 1)
            job = self._job(command, problem, len(json.dumps(entry.payload)))
            job.internal = entry.internal
            self._admit(job)

    def _job(self, command: Command, problem: str = "", size: int = 0) -> Job:
        registered = self._registry.get(command.action)
        if not problem and registered is None:
            known = ", ".join(self._registry.actions)
            problem = f"unknown_action: no handler for the action {command.action[:60]!r}; known are {known}"
        return Job(command, registered, JobState.REFUSED if problem else JobState.WAITING, problem, size)

    # Lanes: the jobs of one session, one after another

    def _admit(self, job: Job) -> None:
        name = job.command.lane
        if (lane := self._lanes.get(name)) is not None:
            for earlier in lane:
                if earlier.command.action in job.interrupts and not earlier.fails:
                    earlier.cancel(f"cancelled: {job.command.action} came before it was finished")
                elif job.interrupts:
                    earlier.hurry()
            lane.append(job)
            return
        lane = self._lanes[name] = deque([job])
        self._sessions.busy.add(name)
        runner = asyncio.create_task(self._run_lane(name, lane), name=f"lane {name}")
        self._runners.add(runner)
        runner.add_done_callback(self._lane_ended)

    async def _run_lane(self, name: str, lane: deque[Job]) -> None:
        try:
            await self._started.wait()
            while lane:
                took = await self._take_slot(lane[0])
                try:
                    await self._run(lane[0])
                except (LeaseLost, asyncio.CancelledError):
                    raise
                except Exception:  # a report that cannot be written, say: it costs its own command, none behind it
                    log.exception("command %s stays open for the next leader", lane[0].command.id)
                finally:
                    if took:
                        self._slots.release()
                lane.popleft()
        finally:
            self._lanes.pop(name, None)
            self._sessions.busy.discard(name)

    def _lane_ended(self, runner: asyncio.Task[None]) -> None:
        self._runners.discard(runner)
        if not runner.cancelled() and (error := runner.exception()) is not None and not isinstance(error, LeaseLost):
            log.error("%s ended: %s", runner.get_name(), error, exc_info=error)

    async def _take_slot(self, job: Job) -> bool:
        """Wait for a slot; False for a job that needs none, or none any more."""
        if not job.needs_slot:
            return False
        if self._slots.locked():
            self._show_queued(job.command)
        job.slot = asyncio.create_task(self._slots.acquire(), name=f"turn of {job.command.id}")
        try:
            await job.slot
        except asyncio.CancelledError:
            if _cancelling():
                raise
            return False
        finally:
            job.slot = None
        return True

    def _show_queued(self, command: Command) -> None:
        """Show that a start waits for a slot: the control plane takes a silent session for stuck."""
        session = self._sessions.get(command.lane)
        if command.action in {START, WAKE} and (session is None or session.state is not SessionState.RUNNING):
            others = counted(self._concurrency, "other command")
            detail = f"{others} at work, as many as COMMAND_CONCURRENCY allows"
            self._board.show(command.lane, Progress("queued", detail=detail))

    async def _run(self, job: Job) -> None:
        if job.registered is None or job.fails:
            await self._executor.fail(job)
            return
        job.state = JobState.RUNNING
        job.task = asyncio.create_task(
            self._executor.run(job, job.registered.handler), name=f"command {job.command.id}"
        )
        self.running += 1
        try:
            await job.task
        except asyncio.CancelledError:
            if _cancelling():
                raise  # the leadership ends; the command stays open in the journal
            await self._executor.fail(job)
        finally:
            self.running -= 1

    # From the leadership's beginning to its end

    def start(self) -> None:
        """Let commands run: this leader has asked the engine what runs, or was told that it does not answer."""
        self._started.set()

    async def drain(self, timeout: float) -> None:
        """Take no new command; let what runs finish for ``timeout`` seconds, then fail what is left."""
        self._draining = True
        if self._runners:
            log.info("waiting up to %g s for %s", timeout, counted(self.waiting, "command"))
            await asyncio.wait(self._runners, timeout=timeout)
        for lane in self._lanes.values():
            for job in lane:
                job.cancel("agent_shutdown: the agent was shut down before this was finished")
        self._started.set()
        if self._runners:
            await asyncio.wait(self._runners, timeout=15)

    async def stop(self) -> None:
        """Cancel everything and leave it open in the journal: another leads."""
        runners = list(self._runners)
        for runner in runners:
            runner.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*runners, return_exceptions=True)


def _cancelling() -> bool:
    """Whether it is the running lane itself that is being cancelled, not the job that it waits for."""
    lane = asyncio.current_task()
    return lane is not None and lane.cancelling() > 0
