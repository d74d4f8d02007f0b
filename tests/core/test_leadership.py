"""One tenure against the real control plane's twin; the engine is in memory."""

import asyncio
from dataclasses import replace

import pybase64
import pytest

from streamspace_agent.controlplane import decoder
from streamspace_agent.errors import CommandFailed
from streamspace_agent.sessions import reconciler
from tests.core.memory_driver import AGENT


async def test_a_start_is_acknowledged_reported_and_completed_in_that_order(plane, lead):
    async with lead():
        await plane.wait_agent(AGENT)
        command = await plane.start_session("desktop", session_id="s1", user="ann")
        row = await plane.wait_command(command)
        assert row["result"]["podName"] == "streamspace-s1"
        session = await plane.wait_session("s1", state="running")
        assert session["vncReady"]
        kinds = [e["type"] for e in await plane.events(direction="from_agent") if e["type"] != "heartbeat"]
        assert kinds.index("ack") < kinds.index("complete")
        last_status = max(i for i, kind in enumerate(kinds) if kind == "status")
        assert last_status < kinds.index("complete")


async def test_a_long_start_delays_no_other_session_and_no_heartbeat(plane, lead, driver):
    driver.hold["slow"] = asyncio.Event()
    async with lead(HEALTH_CHECK_INTERVAL="1s"):
        await plane.wait_agent(AGENT)
        slow = await plane.start_session("desktop", session_id="slow")
        await plane.wait_command(slow, "ack")
        beats = len(await plane.events(type="heartbeat"))
        await plane.wait_command(await plane.start_session("desktop", session_id="quick"))
        while len(await plane.events(type="heartbeat")) < beats + 2:
            await asyncio.sleep(0.1)
        assert (await plane.command(slow))["state"] == "ack"
        driver.hold["slow"].set()
        await plane.wait_command(slow)


async def test_a_start_that_waits_for_its_turn_tells_so(plane, lead, driver):
    """The control plane gives up on a session of which it hears nothing for five minutes; a pull may take longer."""
    driver.hold["slow"] = asyncio.Event()
    async with lead(COMMAND_CONCURRENCY="1"):
        await plane.wait_agent(AGENT)
        await plane.wait_command(await plane.start_session("desktop", session_id="slow"), "ack")
        second = await plane.start_session("desktop", session_id="second")
        async with asyncio.timeout(10):
            while True:
                steps = [row["payload"] for row in await plane.events(type="status", direction="from_agent")]
                if told := [step for step in steps if step["sessionId"] == "second"]:
                    break
                await asyncio.sleep(0.05)
        assert (told[0]["state"], told[0]["platformMetadata"]["progress"]["phase"]) == ("pending", "queued")
        assert driver.starts == 0
        driver.hold["slow"].set()
        await plane.wait_command(second)
        await plane.wait_session("second", state="running")


@pytest.mark.parametrize("session", ["late", "Bad Name!"])
async def test_a_start_that_is_refused_at_a_shutdown_does_not_stay_pending(plane, lead, driver, caplog, session):
    driver.hold["slow"] = asyncio.Event()
    async with lead(DRAIN_TIMEOUT="5s") as leader:
        await plane.wait_agent(AGENT)
        await plane.wait_command(await plane.start_session("desktop", session_id="slow"), "ack")
        leader.tenure.shut_down("for a test")
        await plane.wait_agent(AGENT, told="draining")
        late = await plane.start_session("desktop", session_id=session)
        assert (await plane.wait_command(late, "failed"))["error"].startswith("agent_shutdown: ")
        await plane.wait_session(session, state="terminated,failed")
        driver.hold["slow"].set()
    assert "could not clean up" not in caplog.text


async def test_a_stop_ends_the_start_it_overtakes(plane, lead, driver):
    driver.hold["s1"] = asyncio.Event()
    async with lead():
        await plane.wait_agent(AGENT)
        start = await plane.start_session("desktop", session_id="s1")
        await plane.wait_command(start, "ack")
        await plane.wait_command(await plane.stop_session("s1"))
        row = await plane.wait_command(start, "failed")
        assert "cancelled" in row["error"]
        assert (await plane.wait_session("s1", state="terminated"))["state"] == "terminated"
        assert driver.starts == 0


async def test_a_command_sent_twice_runs_once_and_is_answered_alike(plane, lead, driver):
    async with lead():
        await plane.wait_agent(AGENT)
        command = await plane.start_session("desktop", session_id="s1")
        first = await plane.wait_command(command)
        payload = next(e for e in await plane.events(type="command"))["payload"]["payload"]
        seq = (await plane.events())[-1]["seq"]
        await plane.send_command(AGENT, "start_session", payload, command_id=command)
        while not (again := await plane.events(seq, type="complete")):
            await asyncio.sleep(0.02)
        assert again[0]["payload"]["result"] == first["result"]
        assert driver.starts == 1


async def test_a_second_start_of_a_running_session_gives_an_equal_answer(plane, lead, driver):
    async with lead():
        await plane.wait_agent(AGENT)
        first = await plane.wait_command(await plane.start_session("desktop", session_id="s1"))
        payload = next(e for e in await plane.events(type="command"))["payload"]["payload"]
        second = await plane.wait_command(await plane.send_command(AGENT, "start_session", payload))
        assert second["result"] == first["result"]
        assert driver.starts == 1


async def test_stopping_an_absent_session_succeeds(plane, lead):
    async with lead():
        await plane.wait_agent(AGENT)
        row = await plane.wait_command(await plane.send_command(AGENT, "stop_session", {"sessionId": "nobody"}))
        assert row["result"]["state"] == "terminated"


async def test_results_made_while_the_control_plane_is_away_arrive_in_order_once_it_is_back(plane, lead, driver):
    async with lead():
        await plane.wait_agent(AGENT)
        for name in ("a", "b"):
            driver.hold[name] = asyncio.Event()
            await plane.wait_command(await plane.start_session("desktop", session_id=name), "ack")
        await plane.wait_command(await plane.start_session("desktop", session_id="c"))
        await plane.stop()
        driver.hold["b"].set()
        await _until(lambda: "b" in driver.held)
        driver.hold["a"].set()
        await _until(lambda: "a" in driver.held)
        driver.die("c", "exit code 3")
        await asyncio.sleep(0.2)
        seq = 0
        await plane.start()
        await plane.wait_session("c", state="failed", timeout=30)
        done = [e["payload"] for e in await plane.events(seq, direction="from_agent") if e["type"] == "complete"]
        assert [d["result"]["sessionId"] for d in done] == ["c", "b", "a"]


async def test_a_command_left_open_by_a_killed_leader_is_completed_by_the_next(plane, lead, driver):
    driver.hold["s1"] = asyncio.Event()
    async with lead() as first:
        await plane.wait_agent(AGENT)
        command = await plane.start_session("desktop", session_id="s1")
        await plane.wait_command(command, "ack")
        await _until(lambda: first.tenure.dispatcher.running == 1)
        await first.kill()
    driver.hold["s1"].set()
    driver.queue = asyncio.Queue()
    async with lead():
        await plane.wait_command(command)
        await asyncio.sleep(0.2)
    outcomes = [e["type"] for e in await plane.events(direction="from_agent") if e["type"] in {"complete", "failed"}]
    assert outcomes == ["complete"]
    assert driver.starts == 1


async def test_a_refused_start_is_answered_with_the_reason_and_the_session_reported_failed(plane, lead, driver):
    driver.refuse["s1"] = CommandFailed("image_not_found", "there is no image nowhere:1")
    async with lead():
        await plane.wait_agent(AGENT)
        row = await plane.wait_command(await plane.start_session("desktop", session_id="s1"), "failed")
        assert row["error"] == "image_not_found: there is no image nowhere:1"
        await plane.wait_session("s1", state="failed")


async def test_a_session_whose_id_no_engine_takes_fails_and_can_be_stopped(plane, lead, driver):
    async with lead():
        await plane.wait_agent(AGENT)
        row = await plane.wait_command(await plane.start_session("desktop", session_id="Bad Name!"), "failed")
        assert row["error"].startswith("invalid_session_id: ")
        session = await plane.wait_session("Bad Name!", state="failed")
        assert session["platformMetadata"]["reason"] == row["error"]
        row = await plane.wait_command(await plane.stop_session("Bad Name!"))
        assert row["result"] == {"sessionId": "Bad Name!", "state": "terminated"}
        await plane.wait_session("Bad Name!", state="terminated")
        assert driver.calls == []


async def test_an_end_that_nobody_saw_is_told_when_the_engine_is_looked_at_again(plane, lead, driver, caplog):
    caplog.set_level("INFO")
    async with lead():
        await plane.wait_agent(AGENT)
        await plane.wait_command(await plane.start_session("desktop", session_id="s1"))
        await plane.wait_command(await plane.start_session("desktop", session_id="s2"))
    driver.held.pop("s1")
    async with lead():
        await plane.wait_session("s1", state="terminated")
    assert "session s1 was found terminated: it was removed from the engine, not by this agent" in caplog.messages
    assert "the engine answers: 1 session, 1 state reported" in caplog.messages


async def test_a_full_host_refuses_with_numbers(plane, lead):
    async with lead(MAX_MEMORY="1", MAX_SESSIONS="10"):
        await plane.wait_agent(AGENT)
        await plane.wait_command(await plane.start_session("desktop", session_id="a", memory="600Mi"))
        row = await plane.wait_command(await plane.start_session("desktop", session_id="b", memory="600Mi"), "failed")
        assert row["error"] == "insufficient_memory: needs 600 MiB, 424 MiB free of 1 GiB; sessions 1/10"


async def test_a_session_without_limits_of_its_own_gets_those_of_the_settings_and_counts(plane, lead, driver):
    manifest = {"kind": "Template", "metadata": {"name": "bare"}, "spec": {"baseImage": "bare:1"}}
    async with lead(MAX_CPU="2", SESSION_CPU="1.5", SESSION_MEMORY="512Mi"):
        await plane.wait_agent(AGENT)
        await plane.wait_command(await plane.start_session(session_id="a", manifest=manifest, memory=None, cpu=None))
        (session,) = await driver.sessions()
        assert (session.cpu, session.memory) == (1.5, 512 * 1024**2)
        row = await plane.wait_command(
            await plane.start_session(session_id="b", manifest=manifest, memory=None, cpu=None), "failed"
        )
        assert row["error"] == "insufficient_cpu: needs 1.5 cores, 0.5 free of 2; sessions 1/100"


async def test_bad_commands_are_answered_and_the_connection_stays(plane, lead, driver):
    async with lead() as running:
        await plane.wait_agent(AGENT)
        cases = {
            ("make_coffee", "{}"): "unknown_action",
            ("stop_session", "{}"): "missing_session_id",
            ("start_session", '{"sessionId": "../../etc"}'): "invalid_session_id",
            ("start_session", '{"sessionId": "s"}'): "missing_template",
            (
                "start_session",
                '{"sessionId": "s", "templateManifest": {"spec": {"baseImage": "x"}}, "memory": "lots"}',
            ): "invalid_quantity",
            (
                "start_session",
                (
                    '{"sessionId": "s", "templateManifest": '
                    '{"spec": {"baseImage": "x", "ports": [{"containerPort": 70000}]}}}'
                ),
            ): "invalid_port",
        }
        for number, ((action, payload), code) in enumerate(cases.items()):
            told = f'{{"commandId":"bad{number}","action":"{action}","payload":{payload}}}'
            frame = f'{{"type":"command","timestamp":"2026-01-01T00:00:00Z","payload":{told}}}'
            await plane.send_frame(AGENT, frame)
            seen = await _answer(plane, f"bad{number}")
            assert seen["type"] == "failed"
            assert seen["payload"]["error"].startswith(code)
        await plane.send_frame(AGENT, '{"type":7,"payload":{"commandId":"odd"}}\n{not json')
        assert (await _answer(plane, "odd"))["type"] == "failed"
        assert running.link.status.connections == 1
        assert driver.calls == []


async def test_viewers_data_too_large_to_be_taken_ends_that_viewer_and_nothing_else(plane, lead, monkeypatch):
    monkeypatch.setattr(decoder, "MAX_VIEWER_DATA", 300_000)
    async with lead() as running:
        await plane.wait_agent(AGENT)
        said = []

        async def data(payload):
            said.append(payload)

        monkeypatch.setattr(running.tenure.tunnels, "data", data)
        payload = f'{{"sessionId":"s1","data":"{"A" * 400_000}"}}'
        frame = f'{{"type":"vnc_data","timestamp":"2026-01-01T00:00:00Z","payload":{payload}}}'
        plane.hub.links[AGENT].send_raw(frame)
        await plane.wait_command(await plane.send_command(AGENT, "stop_session", {"sessionId": "s2"}))
        (broken,) = said
        assert broken["sessionId"] == "s1"
        with pytest.raises(ValueError, match="base64|ncorrect"):
            pybase64.b64decode(broken["data"], validate=True)
        assert running.link.status.connections == 1


async def test_a_shutdown_message_drains_and_ends_the_tenure(plane, lead, driver):
    driver.hold["s1"] = asyncio.Event()
    async with lead(DRAIN_TIMEOUT="10s") as running:
        await plane.wait_agent(AGENT)
        command = await plane.start_session("desktop", session_id="s1")
        await plane.wait_command(command, "ack")
        await plane.send_message(AGENT, "shutdown", {"reason": "upgrade"})
        await plane.wait_agent(AGENT, told="draining")
        driver.hold["s1"].set()
        assert "upgrade" in await asyncio.wait_for(running.task, 10)
        assert (await plane.command(command))["state"] == "completed"


async def test_what_a_drain_cannot_finish_is_failed_and_cleaned_up(plane, lead, driver):
    driver.hold["s1"] = asyncio.Event()
    async with lead(DRAIN_TIMEOUT="200ms") as running:
        await plane.wait_agent(AGENT)
        command = await plane.start_session("desktop", session_id="s1")
        await plane.wait_command(command, "ack")
        running.tenure.shut_down("SIGTERM")
        await asyncio.wait_for(running.task, 10)
        row = await plane.wait_command(command, "failed")
        assert row["error"].startswith("agent_shutdown")
        assert ("stop", "s1") in driver.calls


async def adopted(plane, lead, **variables):
    """One leadership after another: the states told by the second, which finds a session that a person has begun to
    stop."""
    async with lead():
        await plane.wait_agent(AGENT)
        await plane.wait_command(await plane.start_session("desktop", session_id="s1"))
    plane.hub.store.change("UPDATE sessions SET state = 'terminating' WHERE session_id = 's1'")
    seq = (await plane.events())[-1]["seq"]
    async with lead(**variables) as running:
        await _until(lambda: running.tenure.reconciler.engine.up)
        await asyncio.wait_for(running.tenure.outbox.flushed(), 10)
        assert running.tenure.reconciler.sessions["s1"].ready
        await running.tenure.reconciler.reconcile()
    return [event["payload"]["state"] for event in await plane.events(seq, type="status")]


async def test_what_runs_is_adopted_and_a_state_that_a_person_set_meanwhile_stays(plane, lead):
    assert await adopted(plane, lead) == []
    (session,) = await plane.sessions()
    assert session["state"] == "terminating"


async def test_a_leader_that_cannot_know_what_was_told_tells_it_once(plane, lead, tmp_path):
    assert await adopted(plane, lead, STATE_DIR=str(tmp_path / "another host")) == ["running"]


async def test_a_leader_after_one_of_another_host_does_not_trust_its_own_journal(plane, lead):
    # The store of the tests forgets who led before: as after a leader whose journal this is not.
    assert await adopted(plane, lead, ENABLE_HA="true") == ["running"]


async def test_an_adopted_session_that_proves_itself_late_is_not_told_again(plane, lead, driver, monkeypatch):
    monkeypatch.setattr(reconciler, "READY_PATIENCE", 0.1)
    async with lead():
        await plane.wait_agent(AGENT)
        await plane.wait_command(await plane.start_session("desktop", session_id="s1"))
    driver.held["s1"] = replace(driver.held["s1"], ready=False)
    prove, late = driver.prove, asyncio.Event()

    async def slowly(session_id):
        await late.wait()
        return await prove(session_id)

    driver.prove = slowly
    seq = (await plane.events())[-1]["seq"]
    async with lead() as running:
        await _until(lambda: "s1" in running.tenure.reconciler.sessions)
        assert not running.tenure.reconciler.sessions["s1"].ready
        late.set()
        await running.tenure.reconciler.reconcile()
        assert running.tenure.reconciler.sessions["s1"].ready
        assert await plane.events(seq, type="status") == []


async def test_a_failure_is_told_once_however_many_leaders_see_it(plane, lead, driver):
    async with lead():
        await plane.wait_agent(AGENT)
        await plane.wait_command(await plane.start_session("desktop", session_id="s1"))
        driver.die("s1", "boom")
        await plane.wait_session("s1", state="failed")
    seq = (await plane.events())[-1]["seq"]
    async with lead() as running:
        await _until(lambda: running.tenure.reconciler.engine.up)
    driver.held.pop("s1")
    async with lead() as running:
        await _until(lambda: running.tenure.reconciler.engine.up)
        assert running.journal.announced() == {}
    assert await plane.events(seq, type="status") == []


async def test_commands_wait_for_an_engine_that_is_away(plane, lead, driver):
    async with lead():
        await plane.wait_agent(AGENT)
        driver.down = True
        command = await plane.start_session("desktop", session_id="s1")
        await plane.wait_command(command, "ack")
        await asyncio.sleep(0.3)
        driver.down = False
        await plane.wait_command(command)


async def test_an_approval_that_is_waited_for_is_the_reason_for_no_connection(plane, lead):
    async with lead(AGENT_ID="new-agent", AGENT_API_KEY=await plane.bootstrap_key()) as running:
        status = running.link.status
        async with asyncio.timeout(20):
            while not status.last_error:
                await asyncio.sleep(0.02)
        assert (
            status.last_error
            == "waits for an administrator's approval of new-agent; asks again every 30 s, later every 5 min"
        )


async def test_a_leader_without_a_link_gives_leadership_up(plane, lead):
    async with lead() as running:
        await plane.wait_agent(AGENT)
        running.tenure.link_patience = 0.5
        await plane.stop()
        reason = await asyncio.wait_for(running.task, 20)
        assert reason.startswith("no link to the control plane for")
        assert running.tenure.gave_up
        assert not running.tenure.ends_agent
        await plane.start()


async def _answer(plane, command_id):
    async with asyncio.timeout(10):
        while True:
            for event in await plane.events(direction="from_agent"):
                if event["type"] in {"complete", "failed"} and event["payload"].get("commandId") == command_id:
                    return event
            await asyncio.sleep(0.02)


async def _until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_command_that_crosses_the_end_of_a_hand_over_is_refused_by_the_next_leader(plane, lead):
    async with lead() as running:
        await plane.wait_agent(AGENT)
        flushed, sent = running.tenure.outbox.flushed, []

        async def last_moment():
            await flushed()
            sent.append(await plane.send_command(AGENT, "stop_session", {"sessionId": "a"}))

        running.tenure.outbox.flushed = last_moment
        running.tenure.shut_down("SIGTERM")
        await asyncio.wait_for(running.task, 10)
    async with lead():
        row = await plane.wait_command(*sent, "failed")
        assert row["error"].startswith("agent_shutdown")
