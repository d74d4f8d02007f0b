"""The command kit: the agent's own commands pass, and each way to break the contract is named."""

import asyncio
import contextlib
import time
import types

import pytest

from streamspace_agent import hookimpl
from streamspace_agent.commands import sessions
from streamspace_agent.errors import CommandFailed
from streamspace_agent.runtime import SessionState
from streamspace_agent.testing import commands
from streamspace_agent.testing.commands import CommandKit

TEMPLATE = {"spec": {"baseImage": "greets", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}}
START = {"sessionId": "s1", "user": "ann", "template": "tiny", "templateManifest": TEMPLATE, "persistentHome": True}
NO_NAME = ({}, {"sessionId": "no/name"}, {"sessionId": ["s1"]})


@pytest.mark.parametrize(
    ("action", "state"),
    [("stop_session", None), ("hibernate_session", SessionState.HIBERNATED), ("wake_session", SessionState.RUNNING)],
)
async def test_the_agents_own_commands_pass(command_kit, action, state):
    kit = command_kit(sessions)
    bad = (*NO_NAME, {**START, "templateManifest": {}}, {**START, "templateManifest": "rubbish"})
    await kit.check("start_session", START, bad_payloads=bad)
    if action == "wake_session":
        await kit.run("hibernate_session", {"sessionId": "s1"})
    # Of a session that cannot be there, a stop is complete.
    nameless = [bad for bad in NO_NAME if action != "stop_session" or not isinstance(bad.get("sessionId"), str)]
    result = await kit.check(action, {"sessionId": "s1"}, bad_payloads=nameless)
    assert result["sessionId"] == "s1"
    found = kit.driver.engine.sessions.get("s1")
    assert (found.state if found else None) is state


async def test_a_start_that_is_abandoned_leaves_nothing(command_kit):
    kit = command_kit(sessions)
    await kit.run("start_session", START)
    await kit.abandon("start_session", START)
    assert kit.driver.engine.sessions == {}
    assert [session.state for session in kit.context.reported] == [SessionState.TERMINATED]


WORLD = []


async def careless(command, context):
    WORLD.append(command.id)
    return {}


async def asks_too_late(command, context):
    WORLD.append(command.id)
    context.require_lease()
    return {}


async def adds_each_time(command, context):
    context.require_lease()
    WORLD.append(command.id)
    return {}


async def returns_an_object(command, context):
    return {"context": context}


async def returns_nan(command, context):
    return {"load": float("nan")}


async def returns_a_flood(command, context):
    return {"text": "x" * 600_000}


async def returns_a_list(command, context):
    return ["done"]


async def trips_over_bad_payloads(command, context):
    return {"name": command.payload["name"].strip()}


async def swallows_bad_payloads(command, context):
    return {"name": command.payload.get("name", "")}


async def acts_before_it_refuses(command, context):
    context.require_lease()
    WORLD.append(command.id)
    if "name" not in command.payload:
        raise CommandFailed("no_name", "the command has no name")
    return {}


async def speaks_in_sentences(command, context):
    if "name" not in command.payload:
        raise CommandFailed("There is no name", "the command has no name")
    return {}


async def turns_cancellation_into_failure(command, context):
    try:
        await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        raise RuntimeError("cancelled") from None
    return {}


BEGUN = []


async def gets_stuck_halfway(command, context):
    await asyncio.sleep(0)
    context.require_lease()
    if BEGUN:
        raise CommandFailed("busy", "the notice is being written")
    BEGUN.append(command.id)
    await asyncio.sleep(0.01)
    WORLD[:] = ["written"]
    BEGUN.clear()
    return {}


async def waits_for_ever_after_an_interruption(command, context):
    context.require_lease()
    while BEGUN:
        await asyncio.sleep(0.1)
    BEGUN.append(command.id)
    await asyncio.sleep(0.01)
    WORLD[:] = ["written"]
    BEGUN.clear()
    return {}


async def asks_long_before(command, context):
    context.require_lease()
    await asyncio.sleep(1)
    WORLD[:] = ["written"]
    return {}


async def asks_before_the_first_effect_only(command, context):
    context.require_lease()
    WORLD[:] = ["first"]
    await asyncio.sleep(1)
    WORLD[:] = ["first", "second"]
    return {}


async def blocks_the_loop(command, context):
    context.require_lease()
    time.sleep(1)  # noqa: ASYNC251 - the fault
    WORLD[:] = ["written"]
    return {}


async def swallows_its_cancellation(command, context):
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(0.01)
    context.require_lease()
    WORLD[:] = ["written"]
    return {}


async def works_on_after_its_cancellation(command, context):
    try:
        await asyncio.sleep(0.01)
    finally:
        await asyncio.sleep(8)
    return {}


@pytest.mark.parametrize(
    ("handler", "complaint"),
    [
        (careless, "although the lease was lost"),
        (asks_too_late, "although the lease was lost"),
        (adds_each_time, "not idempotent"),
        (returns_an_object, "is not JSON"),
        (returns_nan, "is not JSON"),
        (returns_a_flood, "exceeds"),
        (returns_a_list, "must return a mapping"),
        (trips_over_bad_payloads, "must raise CommandFailed for {}, not KeyError"),
        (swallows_bad_payloads, "must raise CommandFailed for {}, returned"),
        (acts_before_it_refuses, "had effects before it refused"),
        (speaks_in_sentences, "is not a code"),
        (turns_cancellation_into_failure, "turned its cancellation into"),
        (gets_stuck_halfway, "stuck after an interruption halfway: run again, it ends with CommandFailed"),
        (waits_for_ever_after_an_interruption, "did not end within 1 s"),
        (asks_long_before, "effects more than 0.5 s after the lease was lost"),
        (asks_before_the_first_effect_only, "effects more than 0.5 s after the lease was lost"),
        (blocks_the_loop, "blocked the event loop for"),
        (swallows_its_cancellation, "swallowed its cancellation"),
        (works_on_after_its_cancellation, "did not end within 5 s of its cancellation"),
    ],
)
async def test_a_handler_that_breaks_the_contract_is_told_how(handler, complaint, monkeypatch):
    WORLD.clear()
    BEGUN.clear()
    if "for_ever" in handler.__name__:
        monkeypatch.setattr(commands, "WHOLE", 1.0)
    bad = [{}] if "payload" in handler.__name__ or "refuses" in handler.__name__ or "speaks" in handler.__name__ else []
    kit = CommandKit(plugin_with(handler))
    with pytest.raises(Exception, match=complaint):
        await kit.check("do", {"name": "x"}, effects=lambda: WORLD, bad_payloads=bad)


def plugin_with(handler):
    @hookimpl
    def register_commands(register):
        register("do", handler)

    return types.SimpleNamespace(register_commands=register_commands)


def test_a_hook_without_its_mark_is_refused():
    unmarked = types.SimpleNamespace(register_commands=lambda register: None)
    with pytest.raises(TypeError, match="@hookimpl"):
        CommandKit(unmarked)
