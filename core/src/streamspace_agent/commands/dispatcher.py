"""Runs commands: journal, acknowledge, execute, answer.

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
from typing import Any

from streamspace_agent import logs, protocol
from streamspace_agent.backoff import Backoff
from streamspace_agent.commands import Command, Registry
from streamspace_agent.commands.jobs import REFUSED, Job, MakeContext, State
from streamspace_agent.commands.repeats import Repeats
from streamspace_agent.config import Settings
from streamspace_agent.controlplane.outbox import Outbox
from streamspace_agent.errors import (
    CommandFailed,
    EngineUnavailable,
    JournalError,
    LeaseLost,
    RuntimeDriverError,
    SessionNotFound,
)
from streamspace_agent.faults import Faults
from streamspace_agent.journal import UNREADABLE, Entry, Journal, Message
from streamspace_agent.units import counted, format_bytes

log = logging.getLogger(__name__)

MAX_WAITING = 1024
"""Commands that may wait for their turn; one more is refused in its turn, and of twice as many at once."""
MAX_WAITING_SIZE = 8 * 1024**2
"""Characters of JSON in all their payloads, of which each may take up to sixteen bytes of memory (empty lists do); a real payload has a few thousand."""
MAX_ATTEMPTS = 3
"""A command that was under way at so many crashes is failed, not tried again: it may be what kills the agent."""
ENGINE_PATIENCE = 60.0
"""Seconds that a command waits for an engine that is away (a restart of the Docker daemon takes some) before it fails."""

ABANDON_TIMEOUT = 10.0
"""Seconds for the clean-up after a command that was cancelled."""


def _failure(command: Command, problem: str) -> Message:
    return Message("failed", protocol.failed(command.id, logs.redact(problem)))


class Dispatcher:
    """The commands of one tenure of leadership."""

    def __init__(
        self,
        registry: Registry,
        journal: Journal,
        outbox: Outbox,
        make_context: MakeContext,
        settings: Settings,
        *,
        epoch: int,
        faults: Faults,
        repeats: Repeats,
    ) -> None:
        self._repeats = repeats
        self._registry = registry
        self._journal = journal
        self._outbox = outbox
        self._make_context = make_context
        self._settings = settings
        self._epoch = epoch
        self._faults = faults
        self._slots = asyncio.Semaphore(settings.command_concurrency)
        self._lanes: dict[str, deque[Job]] = {}
        self._runners: set[asyncio.Task[None]] = set()
        self._ready = asyncio.Event()
        self._draining = False
        self._running = 0
        self._orders: dict[str, Callable[[], bool]] = {}
        """The agent's own commands that wait or run, and whether each is still wanted."""
        self.outcomes: dict[tuple[str, str], int] = {}
        """Commands finished in this tenure by (action, ``complete`` or ``failed``)."""
        self.on_wait: Callable[[Command], None] = lambda _command: None
        """Called with a command that has to wait for others, of other lanes, to end."""

    @property
    def lanes(self) -> frozenset[str]:
        """Session ids with a command waiting or running."""
        return frozenset(self._lanes)

    @property
    def waiting(self) -> int:
        return sum(len(lane) for lane in list(self._lanes.values()))

    @property
    def running(self) -> int:
        return self._running

    def receive(self, payload: Mapping[str, Any]) -> None:
        """Take one ``command`` message: journal and acknowledge it, then let it run. Never waits.

        Raises JournalError: unjournalled work could be done twice or be lost, so the command is not taken. Raises CommandFailed where
        so many wait that not even a refusal can.
        """
        command_id, body = protocol.usable_id(payload.get("commandId")), payload.get("payload")
        if not command_id:
            log.warning("dropped a command without a usable commandId: %s", protocol.cut(repr(dict(payload)), 300))
            return
        action = str(payload.get("action") or "")
        action = protocol.cut(action if action.isprintable() else ascii(action), 200)
        content = body if isinstance(body, dict) else {}
        size = len(json.dumps(content))
        if busy := self._busy(size):  # it will be refused: nothing of it is needed but whose turn it waits for
            session_id = protocol.usable_id(content.get("sessionId"))
            content, size = {"sessionId": session_id} if session_id else {}, 0
        known = self._journal.receive(command_id, action, content)
        self._repeats.arrived(command_id)
        self._outbox.wake()
        if known is not None:
            log.info(
                "command %s (%s) was received before: %s",
                command_id,
                known.action,
                "its answer goes out again" if known.answer else "it is under way",
            )
            return
        command = Command(command_id, action, content, self._epoch)
        problem = ""
        if not isinstance(body, dict) and body is not None:
            problem = "invalid_payload: the command's payload is not an object"
        elif self._draining:
            problem = "agent_shutdown: this agent is shutting down and takes no new command"
        else:
            problem = busy
        self._admit(command, problem, size)

    def _busy(self, size: int) -> str:
        """Why a command with a payload of that size cannot wait as well, "" where it can."""
        waiting = self.waiting
        if waiting >= 2 * MAX_WAITING:
            raise CommandFailed("busy", f"{waiting} commands are waiting already")
        if waiting >= MAX_WAITING:
            return f"busy: {waiting} commands are waiting already"
        held = sum(job.size for lane in self._lanes.values() for job in lane)
        if held and held + size > MAX_WAITING_SIZE:
            return f"busy: the {waiting} commands that are waiting already hold {format_bytes(held)}"
        return ""

    def order(self, action: str, payload: Mapping[str, Any], wanted: Callable[[], bool] = lambda: True) -> None:
        """Run a command of the agent's own in its session's turn. It is not answered; its states are reported.

        ``wanted`` is asked when its turn comes, which may be long after; where it says no, nothing is done. Once begun
        it is journalled: what a crash interrupts, whoever leads next brings to its end, and so tells why it was done.
        """
        command = Command(f"agent-{uuid.uuid4().hex}", action, payload, self._epoch)
        if not self._draining:
            self._orders[command.id] = wanted
            self._admit(command, "")

    def recover(self, entries: Iterable[Entry]) -> None:
        """Take up the commands that an earlier process or leader left open."""
        for entry in entries:
            if entry.order:
                self._orders[entry.id] = lambda: True
            command = Command(entry.id, entry.action, entry.payload, self._epoch, entry.attempts + 1)
            problem = "" if entry.readable else UNREADABLE
            if entry.attempts >= MAX_ATTEMPTS:
                problem = f"interrupted: the agent ended {entry.attempts} times while it ran this command"
            log.info(
                "command %s (%s) was left open by an earlier leader: %s",
                entry.id,
                entry.action,
                "failing it" if problem else "resuming it",
            )
            self._admit(command, problem, len(json.dumps(entry.payload)))

    def _admit(self, command: Command, problem: str, size: int = 0) -> None:
        registered = self._registry.get(command.action)
        if not problem and registered is None:
            problem = f"unknown_action: no handler for the action {command.action[:60]!r}; known are {', '.join(self._registry.actions)}"
        if problem or registered is None:
            job = Job(command, registered or REFUSED, size, cancelled_for=problem)
        else:
            job = Job(command, registered, size)
        lane = self._lanes.get(command.lane)
        if lane is not None:
            for earlier in lane:
                if earlier.command.action in job.registered.interrupts and not earlier.cancelled_for:
                    self._cancel(earlier, f"cancelled: {command.action} came before it was finished")
                elif job.registered.interrupts:
                    self._hurry(earlier)
            lane.append(job)
            return
        lane = self._lanes[command.lane] = deque([job])
        runner = asyncio.create_task(self._run_lane(command.lane, lane), name=f"lane {command.lane}")
        self._runners.add(runner)
        runner.add_done_callback(self._lane_ended)

    def _lane_ended(self, runner: asyncio.Task[None]) -> None:
        self._runners.discard(runner)
        if not runner.cancelled() and (error := runner.exception()) is not None and not isinstance(error, LeaseLost):
            log.error("%s ended: %s", runner.get_name(), error, exc_info=error)

    def start(self) -> None:
        """Let commands run: this leader has adopted what runs."""
        self._ready.set()

    async def _run_lane(self, name: str, lane: deque[Job]) -> None:
        try:
            await self._ready.wait()
            while lane:
                took = await self._turn(lane[0])
                try:
                    await self._run(lane[0])
                except (LeaseLost, asyncio.CancelledError):
                    raise
                except Exception:  # a state that cannot be written, say: it costs its own command, none behind it
                    log.exception("command %s stays open for the next leader", lane[0].command.id)
                finally:
                    if took:
                        self._slots.release()
                lane.popleft()
        finally:
            self._lanes.pop(name, None)

    async def _turn(self, job: Job) -> bool:
        """Wait for a slot; False for a job that needs none, or none any more.

        What interrupts others frees room and never takes any: no stop waits behind slow starts, nor behind what it has cancelled
        or what stands before it in its lane.
        """
        if job.registered.interrupts or job.cancelled_for or job.hurried:
            return False
        if self._slots.locked():
            self.on_wait(job.command)
        job.turn = asyncio.create_task(self._slots.acquire(), name=f"turn of {job.command.id}")
        try:
            await job.turn
        except asyncio.CancelledError:
            lane = asyncio.current_task()
            if lane is not None and lane.cancelling():
                raise
            return False
        finally:
            job.turn = None
        return True

    async def _run(self, job: Job) -> None:
        if not job.cancelled_for:
            job.task = asyncio.create_task(self._attempt(job), name=f"command {job.command.id}")
            self._running += 1
            try:
                await job.task
                return
            except asyncio.CancelledError:
                lane = asyncio.current_task()
                if lane is not None and lane.cancelling():
                    raise  # the tenure ends; the command stays open in the journal
                await self._abandon(job)
            finally:
                self._running -= 1
        else:
            # An earlier leader may have begun it; and the control plane shows a session under way that nobody else would end.
            await self._abandon(job)
        await self._finish(job.command, _failure(job.command, job.cancelled_for), job.states)

    async def _attempt(self, job: Job) -> None:
        command = job.command
        session = str(command.payload.get("sessionId", ""))[:100]
        with logs.bind(command=command.id, session=session):
            try:
                await self._write(f"command {command.id} waits", lambda: self._begin(command))
                log.info("%s%s", command.action, f", attempt {command.attempt}" if command.attempt > 1 else "")
                result = await self._with_patience(job)
                plain = json.loads(json.dumps(dict(result), default=str))
                answer = Message("complete", {"commandId": command.id, "result": plain})
            except CommandFailed as error:
                answer = _failure(command, str(error))
            except SessionNotFound as error:
                answer = _failure(command, f"session_not_found: {error}")
            except EngineUnavailable as error:
                answer = _failure(command, f"engine_unavailable: {error}")
            except LeaseLost:
                raise
            except RuntimeDriverError as error:
                answer = _failure(command, f"engine_error: {error}")
            except Exception as error:
                log.exception("%s failed for a reason that is a fault of the agent", command.action)
                answer = _failure(command, f"internal_error: {type(error).__name__}; the agent's log has more")
            self._faults.point("command.before_result")
            await self._finish(command, answer, job.states)
            self._faults.point("command.after_result")

    def _begin(self, command: Command) -> None:
        if command.id in self._orders:
            self._journal.begin_order(command.id, command.action, command.payload)
        else:
            self._journal.begin(command.id)

    async def _with_patience(self, job: Job) -> Mapping[str, Any]:
        """Run the handler; while the engine is away, wait for it and run it again."""
        loop = asyncio.get_running_loop()
        deadline: float | None = None  # from the first failure on: a long pull is no outage
        backoff = Backoff(base=0.5, cap=5.0)
        while True:
            wanted = self._orders.get(job.command.id)
            if wanted is not None and not wanted():
                log.info("%s is not wanted any more", job.command.action)
                return {}
            try:
                return await job.registered.handler(job.command, self._make_context(job.command, job.states))
            except EngineUnavailable as error:
                if deadline is None:
                    log.warning("command %s waits for the engine: %s", job.command.id, error)
                    deadline = loop.time() + ENGINE_PATIENCE
                if loop.time() > deadline:
                    raise
                job.states.clear()
                await asyncio.sleep(0.2 + backoff.delay())

    async def _abandon(self, job: Job) -> None:
        """Clean up after a job that the dispatcher cancelled."""
        job.states.clear()
        if job.registered.abandon is None:
            return
        try:
            async with asyncio.timeout(ABANDON_TIMEOUT):
                await job.registered.abandon(job.command, self._make_context(job.command, job.states))
        except LeaseLost:
            raise
        except Exception as error:  # noqa: BLE001 - the answer matters more; reconcile finds what is left
            log.warning("could not clean up after command %s: %s", job.command.id, error)

    async def _finish(self, command: Command, answer: Message, states: list[State]) -> None:
        """Record and queue the outcome."""
        messages = [state.message for state in states]
        if command.id in self._orders:
            await self._write(f"what {command.id} did waits", lambda: self._journal.finish_order(command.id, messages))
        else:
            await self._write(
                f"the outcome of command {command.id} waits", lambda: self._journal.finish(command.id, answer, messages)
            )
            self._repeats.answered(command.id)
        for state in states:
            state.written()
        self._outbox.wake()
        if command.id in self._orders:
            del self._orders[command.id]
            if answer.type == "failed":
                log.warning("%s failed: %s", command.action, logs.brief(str(answer.payload["error"])))
            return
        key = (command.action, answer.type)
        self.outcomes[key] = self.outcomes.get(key, 0) + 1
        if answer.type == "failed":
            error = logs.brief(str(answer.payload["error"]))
            log.warning("command %s (%s) failed: %s", command.id, command.action, error)
        else:
            log.info("command %s (%s) complete", command.id, command.action)

    async def _write(self, waits: str, write: Callable[[], object]) -> None:
        """Write to the journal, however long it takes until it can be written."""
        backoff = Backoff(base=0.5, cap=5.0)
        while True:
            try:
                write()
                return
            except JournalError as error:
                if not backoff.failures:
                    log.error("%s: %s", waits, error)  # noqa: TRY400 - the cause is known
                await asyncio.sleep(0.2 + backoff.delay())

    def _cancel(self, job: Job, reason: str) -> None:
        job.cancelled_for = reason
        self._hurry(job)
        if job.task is not None:
            job.task.cancel()

    def _hurry(self, job: Job) -> None:
        job.hurried = True
        if job.turn is not None:
            job.turn.cancel()

    async def drain(self, timeout: float) -> None:
        """Take no new command; let what runs finish for ``timeout`` seconds, then fail what is left."""
        self._draining = True
        if self._runners:
            log.info("waiting up to %g s for %s", timeout, counted(self.waiting, "command"))
            await asyncio.wait(self._runners, timeout=timeout)
        for lane in self._lanes.values():
            for job in lane:
                self._cancel(job, "agent_shutdown: the agent was shut down before this was finished")
        self._ready.set()
        if self._runners:
            await asyncio.wait(self._runners, timeout=15)

    async def stop(self) -> None:
        """Cancel everything and leave it open in the journal: another leads."""
        runners = list(self._runners)
        for runner in runners:
            runner.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*runners, return_exceptions=True)
