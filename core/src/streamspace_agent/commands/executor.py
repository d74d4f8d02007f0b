"""Runs the handler of one command to the command's answer, and cleans up after one that is cancelled."""

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from streamspace_agent import logs, protocol
from streamspace_agent.backoff import Backoff
from streamspace_agent.commands import Command, Context, Handler
from streamspace_agent.commands.answers import Answers
from streamspace_agent.commands.counters import Counters
from streamspace_agent.commands.jobs import Job, Report
from streamspace_agent.errors import CommandFailed, EngineUnavailable, LeaseLost, RuntimeDriverError, SessionNotFound
from streamspace_agent.faults import Faults
from streamspace_agent.protocol import Message

log = logging.getLogger(__name__)

ENGINE_PATIENCE = 60.0
"""Seconds that a command waits for an engine that is away (a restart of the Docker daemon takes some)."""
ABANDON_TIMEOUT = 10.0
"""Seconds for the clean-up after a command that was cancelled."""


@dataclass(eq=False)
class Executor:
    """Runs the commands of one leadership. The dispatcher decides when."""

    _answers: Answers
    _make_context: Callable[[list[Report]], Context]
    """Makes the context of one attempt; what the handler reports is appended to the list."""
    _counters: Counters
    _faults: Faults

    async def run(self, job: Job, handler: Handler) -> None:
        """Run the command and answer it. If cancelled, the command stays open."""
        command = job.command
        session = str(command.payload.get("sessionId", ""))[:100]
        with logs.bind(command=command.id, session=session):
            answer = await self._attempt(job, handler)
            self._faults.point("command.before_result")
            await self._finish(job, answer)
            self._faults.point("command.after_result")

    async def fail(self, job: Job) -> None:
        """Clean up after a job that was refused or cancelled, and answer it with its problem.

        A refused job needs it as well: an earlier leader may have begun it, and the control plane shows a session in
        progress that nobody else would end.
        """
        job.reports.clear()
        if job.registered is not None and job.registered.abandon is not None:
            try:
                async with asyncio.timeout(ABANDON_TIMEOUT):
                    await job.registered.abandon(job.command, self._make_context(job.reports))
            except LeaseLost:
                raise
            except Exception as error:  # noqa: BLE001 - the answer matters more; reconcile finds what is left
                log.warning("could not clean up after command %s: %s", job.command.id, error)
        await self._finish(job, _failed(job.command, job.problem))

    async def _attempt(self, job: Job, handler: Handler) -> Message:
        command = job.command
        try:
            await self._answers.begin(job)
            log.info("%s%s", command.action, f", attempt {command.attempt}" if command.attempt > 1 else "")
            result = await self._with_patience(job, handler)
            plain = json.loads(json.dumps(dict(result), default=str))
            return Message("complete", {"commandId": command.id, "result": plain})
        except CommandFailed as error:
            return _failed(command, str(error))
        except SessionNotFound as error:
            return _failed(command, f"session_not_found: {error}")
        except EngineUnavailable as error:
            return _failed(command, f"engine_unavailable: {error}")
        except LeaseLost:
            raise
        except RuntimeDriverError as error:
            return _failed(command, f"engine_error: {error}")
        except Exception as error:
            log.exception("%s failed for a reason that is a fault of the agent", command.action)
            return _failed(command, f"internal_error: {type(error).__name__}; the agent's log has more")

    async def _with_patience(self, job: Job, handler: Handler) -> Mapping[str, Any]:
        """Run the handler; while the engine is away, wait for it and run it again."""
        loop = asyncio.get_running_loop()
        deadline: float | None = None  # from the first failure on: a long pull is no outage
        backoff = Backoff(base=0.5, cap=5.0)
        while True:
            if job.wanted is not None and not job.wanted():
                log.info("%s is not wanted any more", job.command.action)
                return {}
            try:
                return await handler(job.command, self._make_context(job.reports))
            except EngineUnavailable as error:
                if deadline is None:
                    log.warning("command %s waits for the engine: %s", job.command.id, error)
                    deadline = loop.time() + ENGINE_PATIENCE
                if loop.time() > deadline:
                    raise
                job.reports.clear()
                await asyncio.sleep(0.2 + backoff.delay())

    async def _finish(self, job: Job, answer: Message) -> None:
        command = job.command
        await self._answers.finish(job, answer)
        problem = logs.brief(str(answer.payload["error"])) if answer.type == "failed" else ""
        if job.internal:
            if problem:
                log.warning("%s failed: %s", command.action, problem)
            return
        self._counters.ended(command.action, answer.type)
        if answer.type == "failed":
            log.warning("command %s (%s) failed: %s", command.id, command.action, problem)
        else:
            log.info("command %s (%s) complete", command.id, command.action)


def _failed(command: Command, problem: str) -> Message:
    return Message("failed", protocol.failed(command.id, logs.redact(problem)))
