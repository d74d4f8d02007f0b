import re
from pathlib import Path

import pytest

from lab.until import until
from streamspace_devplane import DevPlane, PlaneError, Settings

from .conftest import AGENT, Agent, counted

KEPT = pytest.mark.parametrize("played", [{"keep_commands": True}])


async def test_a_start_goes_from_sent_over_ack_to_completed_and_status_makes_the_session_run(
    plane: DevPlane, agent: Agent
) -> None:
    started = await plane.launch("desktop", user="ada", memory="2Gi", cpu="1000m")
    [command] = await agent.receive()
    assert command["type"] == "command"
    payload = command["payload"]["payload"]
    assert payload["sessionId"] == started["sessionId"]
    assert (payload["user"], payload["memory"], payload["cpu"]) == ("ada", "2Gi", "1000m")
    assert payload["templateManifest"]["spec"]["vnc"]["port"] == 5900
    await plane.wait_command(started["commandId"], "sent")
    await agent.send("ack", commandId=started["commandId"])
    await plane.wait_command(started["commandId"], "ack")
    await agent.send("complete", commandId=started["commandId"], result={"podName": "here"})
    row = await plane.wait_command(started["commandId"])
    assert (row["acks"], row["completes"], row["failures"], row["result"]) == (1, 1, 0, {"podName": "here"})
    assert (await plane.session(started["sessionId"]))["state"] == "pending"  # complete alone played no session
    await agent.send(
        "status",
        sessionId=started["sessionId"],
        state="running",
        vncReady=True,
        vncPort=5900,
        platformMetadata={"podName": "c1"},
    )
    session = await plane.wait_session(started["sessionId"], state="running", vnc_ready=True)
    assert (session["podName"], session["vncPort"]) == ("c1", 5900)
    assert session["url"]


async def test_a_failed_command_keeps_its_error(plane: DevPlane, agent: Agent) -> None:
    command_id = await plane.start_session()
    await agent.send("failed", commandId=command_id, error="no memory left: needs 2 GiB, 1 free")
    assert (await plane.wait_command(command_id, "failed"))["error"] == "no memory left: needs 2 GiB, 1 free"


async def test_only_a_session_that_no_agent_ever_held_can_be_forgotten(plane: DevPlane, agent: Agent) -> None:
    refused, held = "Bad / Name!", "held"
    for name in (refused, held):
        started = await plane.start_session(session_id=name)
        with pytest.raises(PlaneError, match="409.*stop it"):  # its start is under way
            await plane.forget_session(name)
        if name == held:
            await agent.send("status", sessionId=name, state="failed")
        await agent.send("failed", commandId=started, error="no")
        await plane.wait_command(started, "failed")
    await plane.forget_session(refused)
    with pytest.raises(PlaneError, match="409.*stop it"):
        await plane.forget_session(held)
    with pytest.raises(PlaneError, match="404"):
        await plane.forget_session(refused)
    assert [row["sessionId"] for row in await plane.sessions()] == [held]


@KEPT
async def test_a_session_whose_start_waits_for_its_agent_is_forgotten_with_that_start(
    plane: DevPlane, registered: Agent
) -> None:
    kept = await plane.start_session(session_id="kept")
    await plane.start_session(session_id="late")
    await plane.stop_session("late")
    await plane.forget_session("late")
    assert [row["commandId"] for row in await plane.commands()] == [kept]
    await registered.connect()
    assert [envelope["payload"]["commandId"] for envelope in await registered.receive()] == [kept]
    with pytest.raises(PlaneError, match="409.*stop it"):
        await plane.forget_session("kept")
    await registered.socket.close()


@KEPT
async def test_another_start_of_a_session_that_waits_for_its_agent_waits_for_the_same(
    plane: DevPlane, registered: Agent
) -> None:
    await plane.start_session(session_id="s-1", agent_id=AGENT)
    with pytest.raises(PlaneError, match="409"):
        await plane.start_session(session_id="s-1", agent_id="another")


@KEPT
async def test_an_agent_that_is_gone_is_forgotten_with_its_sessions_keys_and_commands(
    plane: DevPlane, agent: Agent
) -> None:
    await plane.start_session(session_id="sent")
    await agent.receive()
    with pytest.raises(PlaneError, match="409.*is connected"):
        await plane.forget_agent(AGENT)
    await agent.socket.close()
    await plane.wait_agent(AGENT, status="offline")
    waiting = await plane.start_session(session_id="waiting")
    await plane.start_session(session_id="other", agent_id="another")
    await plane.forget_agent(AGENT)
    assert await plane.agents() == []
    assert [row["sessionId"] for row in await plane.sessions()] == ["other"]
    assert waiting not in [row["commandId"] for row in await plane.commands()]
    assert (await agent.register()).status_code == 404
    with pytest.raises(PlaneError, match="404"):
        await plane.forget_agent(AGENT)


async def test_every_answer_is_counted_and_written_over_the_one_before(plane: DevPlane, agent: Agent) -> None:
    command_id = await plane.start_session()
    await agent.send("ack", commandId=command_id)
    await agent.send("complete", commandId=command_id, result={"n": 1})
    await agent.send("ack", commandId=command_id)
    await agent.send("complete", commandId=command_id, result={"n": 2})
    await agent.send("failed", commandId=command_id, error="too late")
    await agent.send("complete", commandId="no-such-command")
    await counted(plane, "unknownCommand")
    row = await plane.command(command_id)
    assert (row["state"], row["result"], row["error"]) == ("failed", {"n": 2}, "too late")
    assert (row["acks"], row["completes"], row["failures"]) == (2, 2, 1)


async def test_a_command_for_an_absent_agent_fails_at_once_and_its_session_stays_pending(
    plane: DevPlane, registered: Agent
) -> None:
    started = await plane.launch()
    row = await plane.command(started["commandId"])
    assert (row["state"], row["error"]) == ("failed", "agent is not connected")
    assert (await plane.session(started["sessionId"]))["state"] == "pending"
    await registered.connect()
    await plane.send_message(AGENT, "ping", {})
    assert [message["type"] for message in await registered.receive()] == ["ping"]
    await registered.socket.close()


@KEPT
async def test_where_commands_are_kept_one_for_an_absent_agent_waits_and_is_sent_once(
    plane: DevPlane, registered: Agent
) -> None:
    command_id = await plane.start_session()
    assert (await plane.command(command_id))["state"] == "pending"
    await registered.connect()
    [command] = await registered.receive()
    assert command["payload"]["commandId"] == command_id
    await registered.socket.close()
    await plane.wait_agent(registered.agent_id, status="offline")
    await registered.connect()
    await plane.send_message(registered.agent_id, "ping", {})
    [next_message] = await registered.receive()
    assert next_message["type"] == "ping"  # and not the command again
    assert (await plane.command(command_id))["state"] == "sent"
    await registered.socket.close()


@KEPT
async def test_several_waiting_envelopes_leave_as_one_frame(plane: DevPlane, registered: Agent) -> None:
    sent = [await plane.start_session() for _ in range(3)]
    await registered.connect()
    frame = await registered.receive()
    assert [envelope["payload"]["commandId"] for envelope in frame] == sent
    await registered.socket.close()


@KEPT
async def test_commands_and_sessions_survive_a_restart_on_the_same_port(plane: DevPlane, registered: Agent) -> None:
    started = await plane.launch()
    url = plane.url
    await plane.restart(down_for=0.1)
    assert plane.url == url
    assert (await plane.command(started["commandId"]))["state"] == "pending"
    await registered.connect()
    assert (await registered.receive())[0]["payload"]["commandId"] == started["commandId"]
    await registered.socket.close()


@pytest.mark.parametrize("form", ["json", "base64"])
async def test_a_manifest_can_be_sent_as_text(plane: DevPlane, agent: Agent, form: str) -> None:
    await plane.start_session(
        manifest_form=form, nested_resources=True, memory="1Gi", environment={"A": "b"}, extra={"surprise": 1}
    )
    [command] = await agent.receive()
    payload = command["payload"]["payload"]
    assert isinstance(payload["templateManifest"], str)
    assert payload["resources"] == {"memory": "1Gi", "cpu": "1000m"}
    assert (payload["environment"], payload["surprise"]) == ({"A": "b"}, 1)


async def test_an_unknown_template_is_refused_with_the_known_ones_named(plane: DevPlane, agent: Agent) -> None:
    with pytest.raises(PlaneError, match=r"404.*desktop, firefox, notebook"):
        await plane.start_session("no-such-template")


async def test_a_wait_that_fails_says_what_was_seen_last(plane: DevPlane, agent: Agent) -> None:
    command_id = await plane.start_session()
    with pytest.raises(PlaneError, match=r"did not reach state=completed within 0.1 s; last seen: .*'state': 'sent'"):
        await plane.wait_command(command_id, timeout=0.1)


async def test_another_start_of_a_live_session_goes_to_the_agent_that_has_it(plane: DevPlane, agent: Agent) -> None:
    other = Agent(plane, "idle-agent", key=await plane.issue_key("idle-agent"))
    await other.register()
    await other.connect()
    await plane.launch(session_id="s-1", agent_id=AGENT, user="ada")
    await agent.send("heartbeat", status="online", activeSessions=1)
    await agent.send("status", sessionId="s-1", state="running")
    await plane.wait_session("s-1", state="running")
    assert (await plane.launch(session_id="s-1"))["agentId"] == AGENT
    with pytest.raises(PlaneError, match=f"409: session 's-1' is on agent '{AGENT}': stop it first"):
        await plane.launch(session_id="s-1", agent_id="idle-agent")
    assert (await plane.session("s-1"))["user"] == "ada"
    assert [row["agentId"] for row in await plane.commands()] == [AGENT, AGENT]
    await other.socket.close()


@pytest.mark.parametrize("state", ["terminated", "failed"])
async def test_a_session_that_is_over_starts_anew_wherever_and_with_whatever_is_asked(
    plane: DevPlane, agent: Agent, state: str
) -> None:
    await plane.start_session("desktop", session_id="s-1", user="ada")
    await agent.send(
        "status", sessionId="s-1", state=state, vncReady=True, vncPort=1, platformMetadata={"podName": "c"}
    )
    await plane.wait_session("s-1", state=state)
    await plane.start_session("firefox", session_id="s-1", user="bob", agent_id="another")
    row = await plane.session("s-1")
    assert (row["agentId"], row["user"], row["template"], row["screen"]) == ("another", "bob", "firefox", "web")
    assert (row["state"], row["vncReady"], row["vncPort"], row["podName"]) == ("pending", False, None, None)
    await plane.stop_session("s-1")
    assert [(row["action"], row["agentId"]) for row in await plane.commands()][-1] == ("stop_session", "another")


async def test_a_session_whose_start_was_refused_may_be_started_elsewhere(plane: DevPlane, agent: Agent) -> None:
    refused = await plane.start_session(session_id="s-1")
    await agent.send("failed", commandId=refused, error="full")
    await plane.wait_command(refused, "failed")
    await plane.start_session(session_id="s-1", agent_id="another")
    assert (await plane.session("s-1"))["agentId"] == "another"


async def test_a_session_is_named_after_user_and_template_and_asks_for_what_nobody_asked_for(
    plane: DevPlane, agent: Agent
) -> None:
    started = await plane.launch("desktop", user="ada")
    assert re.fullmatch("ada-desktop-[0-9a-f]{8}", started["sessionId"])
    [command] = await agent.receive()
    payload = command["payload"]["payload"]
    assert (payload["memory"], payload["cpu"]) == ("2Gi", "1000m")
    await plane.launch("desktop", memory=None, cpu=None)
    [command] = await agent.receive()
    assert not {"memory", "cpu"} & set(command["payload"]["payload"])


@pytest.mark.parametrize("played", [{"late_sent": 1.0, "late_sent_by": 1.0}])
async def test_sent_may_be_written_over_a_faster_answer_which_mends_it_when_it_comes_again(
    plane: DevPlane, agent: Agent
) -> None:
    alone, command_id = await plane.start_session(), await plane.start_session()
    for each in (alone, command_id):
        await agent.send("complete", commandId=each, result={})
    await plane.wait_command(command_id, "completed")
    await plane.wait_command(command_id, "sent")
    assert (await plane.command(alone))["state"] == "completed"  # nothing was sent just before it
    await agent.send("complete", commandId=command_id, result={})
    assert (await plane.wait_command(command_id, "completed"))["completes"] == 2
    assert (await plane.diagnostics())["counters"]["sentLate"] == 1


async def test_a_person_who_asks_sets_the_session_on_its_way_and_a_status_writes_over_that(
    plane: DevPlane, agent: Agent
) -> None:
    session_id = (await plane.launch())["sessionId"]

    async def reported(state: str) -> None:
        await agent.send("status", sessionId=session_id, state=state)
        await plane.wait_session(session_id, state=state)

    await plane.hibernate_session(session_id)
    assert (await plane.session(session_id))["state"] == "pending"  # only what runs is hibernated
    await reported("running")
    await plane.hibernate_session(session_id)
    assert (await plane.session(session_id))["state"] == "hibernating"
    await reported("hibernated")
    await plane.wake_session(session_id)
    assert (await plane.session(session_id))["state"] == "waking"
    await plane.stop_session(session_id)
    assert (await plane.session(session_id))["state"] == "terminating"
    await reported("running")  # as a repeated report does
    await reported("terminated")
    await plane.stop_session(session_id)
    assert (await plane.session(session_id))["state"] == "terminated"
    await agent.send("status", sessionId=session_id, state="terminating")
    await counted(plane, "unknownState")


async def test_a_status_writes_over_place_and_address_and_counts_as_activity(plane: DevPlane, agent: Agent) -> None:
    session_id = (await plane.launch())["sessionId"]
    place = {"podName": "c1"}
    await agent.send(
        "status", sessionId=session_id, state="running", vncReady=True, vncPort=5901, platformMetadata=place
    )
    first = await plane.wait_session(session_id, state="running")
    assert (first["podName"], first["url"]) == ("c1", f"/api/v1/sessions/{session_id}/vnc")
    await agent.send("status", sessionId=session_id, state="running")

    async def again() -> bool:
        return (await plane.session(session_id))["statuses"] == 2

    await until(again)
    second = await plane.session(session_id)
    assert (second["podName"], second["url"]) == ("", "")
    assert second["lastActivity"] > first["lastActivity"]


STUCK = {"sweep_interval": 0.05, "stuck_after": 0.2, "gone_after": 0.6}


@pytest.mark.parametrize("played", [STUCK])
async def test_the_sweep_sends_a_stop_again_with_a_new_id_and_only_tells_of_a_start(
    plane: DevPlane, agent: Agent
) -> None:
    stopping, starting = await plane.launch(), await plane.launch()
    await agent.envelopes(2)
    first = await plane.stop_session(stopping["sessionId"], deletePVC=True)
    [asked] = await agent.envelopes(1)
    [again] = await agent.envelopes(1)
    assert asked["payload"]["commandId"] == first
    assert again["payload"]["commandId"] != first
    assert again["payload"]["action"] == "stop_session"
    assert again["payload"]["payload"] == {"sessionId": stopping["sessionId"], "deletePVC": False}
    told = await until(lambda: plane.events(type="stuck_session"))
    assert starting["sessionId"] in [event["payload"]["sessionId"] for event in told]
    assert (await plane.session(starting["sessionId"]))["state"] == "pending"


@pytest.mark.parametrize("played", [STUCK])
async def test_the_sweep_gives_up_on_sessions_of_an_agent_long_gone(plane: DevPlane, agent: Agent) -> None:
    stopping, starting = await plane.launch(), await plane.launch()
    await plane.stop_session(stopping["sessionId"])
    await agent.socket.close()
    for started, state in ((stopping, "terminated"), (starting, "failed")):
        row = await plane.wait_session(started["sessionId"], state=state)
        assert row["platformMetadata"] == {"reason": "agent_unavailable"}


async def test_what_was_pending_when_it_ended_is_dealt_with_at_its_start(tmp_path: Path) -> None:
    async with DevPlane(tmp_path / "plane.db", settings=Settings(keep_commands=True)) as plane:
        agent = Agent(plane, key=await plane.issue_key(AGENT))
        await agent.register()
        waiting = await plane.start_session()
        assert (await plane.command(waiting))["state"] == "pending"
    async with DevPlane(tmp_path / "plane.db") as plane:
        assert (await plane.wait_command(waiting, "failed"))["error"] == "agent is not connected"
