"""The four session commands: start, stop, hibernate, wake. An ordinary command plugin."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from streamspace_agent import hookimpl, protocol
from streamspace_agent.commands import Command, Context, Register, names
from streamspace_agent.commands.capacity import Demand
from streamspace_agent.errors import CommandFailed, RuntimeDriverError, SessionNotFound
from streamspace_agent.protocol import HIBERNATE, START, STOP, WAKE
from streamspace_agent.runtime import Session, SessionState


@hookimpl
def register_commands(register: Register) -> None:
    register(START, start, abandon=abandon_start)
    register(STOP, stop, interrupts=(START, WAKE))
    register(HIBERNATE, hibernate)
    register(WAKE, wake, abandon=abandon_wake)


async def start(command: Command, context: Context) -> Mapping[str, Any]:
    session_id = _named(command, context)
    try:
        session = await _started(command, context, session_id)
    except (CommandFailed, RuntimeDriverError) as error:  # nothing else reports a session that never came to be
        context.report(await _after_failure(context, session_id, str(error)))
        raise
    context.report(session)
    return protocol.started(session)


def _named(command: Command, context: Context) -> str:
    """The id of the session to start. One that no engine accepts is reported as failed: nothing else would do it."""
    try:
        return names.session_id(command.payload)
    except CommandFailed as error:
        if impossible := protocol.usable_id(command.payload.get("sessionId")):
            context.report(_gone(impossible, SessionState.FAILED, str(error)))
        raise


async def _started(command: Command, context: Context, session_id: str) -> Session:
    held = context.capacity.held()
    sessions = await context.driver.sessions()
    present = next((s for s in sessions if s.session_id == session_id), None)
    if present is not None and present.state is SessionState.RUNNING and present.command_id != command.id:
        if (user := str(command.payload.get("user") or "")) and present.user != user:
            raise CommandFailed("session_taken", f"the session {session_id} belongs to the user {present.user!r}")
        return present
    from streamspace_agent.commands import templates  # noqa: PLC0415 - 10 ms and its models, which no standby needs

    spec, settings = templates.session_spec(command), context.settings
    cpu, memory = spec.cpu or settings.session_cpu or None, spec.memory or settings.session_memory or None
    spec = replace(spec, cpu=cpu, memory=memory)  # without limits it could use the whole host, and count as nothing
    with context.capacity.reserve(session_id, Demand(spec.cpu or 0.0, spec.memory or 0), sessions, held):
        return await context.driver.start(spec, lambda step: context.progress(session_id, step))


async def stop(command: Command, context: Context) -> Mapping[str, Any]:
    try:
        session_id = names.session_id(command.payload)
    except CommandFailed:  # no engine accepts the id, so no such session can exist
        if not (session_id := protocol.usable_id(command.payload.get("sessionId"))):
            raise
    else:
        delete = str(command.payload.get("deletePVC", "")).lower() in {"true", "1"}
        await context.driver.stop(session_id, delete_volumes=delete)
    reason = protocol.cut(str(command.payload.get("reason") or ""), 300)
    context.report(_gone(session_id, SessionState.TERMINATED, reason))
    return {"sessionId": session_id, "state": str(SessionState.TERMINATED)}


async def hibernate(command: Command, context: Context) -> Mapping[str, Any]:
    session_id = names.session_id(command.payload)
    try:
        session = await context.driver.hibernate(session_id)
    except CommandFailed as error:
        context.report(await _after_failure(context, session_id, str(error)))
        raise
    except SessionNotFound as error:
        context.report(_gone(session_id, SessionState.TERMINATED, str(error)))
        raise
    reason = protocol.cut(str(command.payload.get("reason") or ""), 300)
    context.report(replace(session, reason=reason or session.reason))
    return protocol.started(session)


async def wake(command: Command, context: Context) -> Mapping[str, Any]:
    session_id = names.session_id(command.payload)
    held = context.capacity.held()
    sessions = await context.driver.sessions()
    present = next((s for s in sessions if s.session_id == session_id), None)
    if present is None:
        reason = f"there is no session {session_id} to wake"
        context.report(_gone(session_id, SessionState.TERMINATED, reason))
        raise SessionNotFound(reason)
    try:
        with context.capacity.reserve(session_id, Demand(present.cpu or 0.0, present.memory or 0), sessions, held):
            session = await context.driver.wake(session_id, lambda step: context.progress(session_id, step))
    except CommandFailed as error:
        context.report(await _after_failure(context, session_id, str(error)))
        raise
    context.report(session)
    return protocol.started(session)


async def abandon_start(command: Command, context: Context) -> Mapping[str, Any]:
    """Remove what a cancelled start made, but for volumes. A session that it only found or was waking stays."""
    try:
        session_id = _named(command, context)
    except CommandFailed:
        return {}
    found = await context.driver.inspect(session_id)
    if found is not None and found.command_id != command.id:
        context.report(found)
        return {}
    await context.driver.stop(session_id)
    context.report(_gone(session_id, SessionState.TERMINATED, "the start was cancelled"))
    return {}


async def abandon_wake(command: Command, context: Context) -> Mapping[str, Any]:
    """Report the session as a cancelled wake has left it."""
    try:
        session_id = names.session_id(command.payload)
    except CommandFailed:
        return {}
    if (session := await context.driver.inspect(session_id)) is not None:
        context.report(session)
    return {}


async def _after_failure(context: Context, session_id: str, reason: str) -> Session:
    """What to report after a command failed: the session as it is, or that it failed."""
    try:
        session = await context.driver.inspect(session_id)
    except RuntimeDriverError:
        session = None
    if session is not None and session.state in {SessionState.RUNNING, SessionState.HIBERNATED}:
        return session
    return _gone(session_id, SessionState.FAILED, reason)


def _gone(session_id: str, state: SessionState, reason: str) -> Session:
    return Session(session_id, state, place="", reason=reason)
