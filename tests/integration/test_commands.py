"""Commands as control planes send them, good and bad, against a real engine."""

import asyncio
import json

import pytest

from tests.names import sid


def envelope(command_id, action, payload, **more):
    body = {"commandId": command_id, "action": action, "payload": payload, **more}
    return json.dumps({"type": "command", "timestamp": "2026-01-01T00:00:00Z", "payload": body, "trace": 1})


@pytest.fixture
def answer(plane):
    """The first answer to a command id that the control plane's table does not know."""

    async def wait(command_id):
        async with asyncio.timeout(20):
            while True:
                for event in await plane.events(direction="from_agent"):
                    if event["type"] in {"complete", "failed"} and event["payload"]["commandId"] == command_id:
                        return event["type"], event["payload"].get("error") or event["payload"]["result"]
                await asyncio.sleep(0.05)

    return wait


async def test_envelopes_in_one_frame_with_odd_numbers_and_unknown_fields_are_all_taken(
    plane, agent, agent_id, manifest, answer, docker_client
):
    spec = {
        "ports": [{"name": "vnc", "containerPort": "5900"}],
        "vnc": {"enabled": "true", "port": "5900"},
        "extra": [1],
    }
    body = {
        "sessionId": sid("odd"),
        "templateManifest": json.dumps(manifest(spec=spec)),
        "memory": 67108864,
        "cpu": "0.25",
    }
    frame = "\n".join(
        [
            envelope("c1", "start_session", body, priority="high"),
            "",
            json.dumps({"type": "weather_report", "timestamp": 17, "payload": {"rain": True}}),
            envelope(2, "stop_session", {"sessionId": sid("nobody"), "deletePVC": "true"}),
            '{"type":"ping","payload":{"timestamp":NaN}}',
        ]
    )
    await plane.send_frame(agent_id, frame)
    assert (await answer("c1"))[0] == "complete"
    assert (await answer("2"))[0] == "complete"
    limits = docker_client.api.inspect_container(f"streamspace-{sid('odd')}")["HostConfig"]
    assert (limits["Memory"], limits["NanoCpus"]) == (67108864, 250_000_000)
    assert len(await plane.events(type="connected")) == 1


@pytest.mark.parametrize("form", ["object", "json", "base64"])
async def test_a_manifest_arrives_in_any_form(form, plane, agent, manifest):
    wish = {"manifest": manifest(), "manifest_form": form, "nested_resources": True, "memory": "64Mi", "cpu": "100m"}
    await plane.wait_command(await plane.start_session(session_id=sid("m"), **wish))


async def test_bad_commands_are_answered_with_a_sentence_and_leave_nothing_on_the_engine(
    plane, agent, agent_id, manifest, answer, owned, docker_client
):
    good = {"sessionId": sid("s"), "templateManifest": manifest()}
    cases = {
        ("make_coffee", "{}"): "unknown_action: no handler for the action 'make_coffee'; known are ",
        ("start_session", "{}"): "missing_session_id: the command has no sessionId",
        (
            "start_session",
            json.dumps(good | {"sessionId": "../../etc"}),
        ): "invalid_session_id: sessionId '../../etc' cannot",
        ("start_session", json.dumps(good | {"sessionId": "\ud800"})): "invalid_session_id: ",
        ("stop_session", '{"sessionId": "\\ud800"}'): "invalid_session_id: ",
        (
            "start_session",
            json.dumps(good | {"memory": "plenty"}),
        ): "invalid_quantity: memory: 'plenty' is not a quantity",
        ("start_session", json.dumps(good | {"cpu": "-1"})): "invalid_quantity: cpu",
        (
            "start_session",
            json.dumps(good | {"templateManifest": manifest("localhost:1/none:1")}),
        ): "registry_unreachable: ",
        ("start_session", json.dumps(good | {"templateManifest": manifest("UPPER/case")})): "invalid_image: ",
        (
            "start_session",
            json.dumps(good | {"templateManifest": manifest(spec={"vnc": {"port": 70000}})}),
        ): "invalid_port: ",
        ("wake_session", '{"sessionId": "nobody"}'): "session_not_found: there is no session nobody to wake",
        ("hibernate_session", '{"sessionId": "nobody"}'): "session_not_found: ",
        ("start_session", '"text"'): "invalid_payload: ",
        ("start_session", "[" * 900 + "]" * 900): "malformed_message: nested deeper than 64 levels",
        ("start_session", "[" * 60 + "]" * 60): "invalid_payload: ",
        (
            "start_session",
            '{"sessionId": "s", "templateManifest": ' + "[" * 900 + "]" * 900 + "}",
        ): "malformed_message: nested deeper than 64 levels",
        (
            "start_session",
            '{"sessionId": "s", "templateManifest": "' + "[" * 900 + "]" * 900 + '"}',
        ): "invalid_template: ",
    }
    for number, ((action, payload), error) in enumerate(cases.items()):
        head = f'{{"type":"command","payload":{{"commandId":"bad{number}","action":"{action}","payload":'
        await plane.send_frame(agent_id, f"{head}{payload}}}}}")
        kind, said = await answer(f"bad{number}")
        assert (kind, said[: len(error)]) == ("failed", error)
    assert owned()["containers"] == owned()["volumes"] == []
    assert len(await plane.events(type="connected")) == 1
    assert "Traceback" not in agent.log


async def test_malformed_frames_are_logged_short_and_without_secrets_and_the_connection_stays(
    plane, agent, agent_id, answer
):
    secret = "hunter2-hunter2"
    pieces = [
        "{not json " + f'"apiKey": "{secret}"',
        f'{{"type": 5, "payload": {{"commandId": "m1", "name": "VNC_PASSWORD", "value": "{secret}"}}}}',
        '{"type": "command", "payload": "text"}',
        '{"type": "command", "commandId": "m2", "payload": 7}',
        '{"type": "command", "payload": {"commandId": "' + "x" * 300_000 + '"}}',
        '{"type": "ping", "payload": {"timestamp": "' + "y" * 600_000 + '"}}',
        "[" * 100_000,
        "\x00\ud7ff",
        '{"type": "command", "payload": {"action": "start_session"}}',
    ]
    for piece in pieces:
        await plane.send_frame(agent_id, piece)
    for command_id in ("m1", "m2"):
        kind, error = await answer(command_id)
        assert (kind, error.split(":")[0]) == ("failed", "malformed_message")
    await plane.wait_command(await plane.send_command(agent_id, "stop_session", {"sessionId": sid("nobody")}))
    assert len(await plane.events(type="connected")) == 1
    assert agent.log.count("dropped a malformed message") >= 5
    assert secret not in agent.log
    assert max(map(len, agent.log.splitlines())) < 1000
    assert "Traceback" not in agent.log


async def test_the_same_command_twice_and_a_second_start_make_one_container_and_equal_answers(
    plane, agent, agent_id, manifest, answer, owned
):
    body = {"sessionId": sid("once"), "templateManifest": manifest()}
    await plane.send_frame(agent_id, "\n".join([envelope("same", "start_session", body)] * 2))
    await plane.send_frame(agent_id, envelope("second", "start_session", body))
    assert (await answer("second")) == (await answer("same"))
    await plane.send_frame(agent_id, envelope("same", "start_session", body))

    async with asyncio.timeout(20):
        while True:
            events = await plane.events(type="complete")
            results = [e["payload"]["result"] for e in events if e["payload"]["commandId"] == "same"]
            if len(results) >= 2:
                break
            await asyncio.sleep(0.05)
    assert all(result == results[0] for result in results)
    assert owned()["containers"] == [f"streamspace-{sid('once')}"]


async def test_a_session_that_dies_is_reported_with_its_exit_code_and_last_words(plane, agent, manifest):
    dying = manifest(MODE="crash", AFTER=1, EXIT_CODE=3)
    await plane.wait_command(await plane.start_session(session_id=sid("d"), manifest=dying))
    reason = (await plane.wait_session(sid("d"), state="failed"))["platformMetadata"]["reason"]
    assert "exit code 3" in reason
    assert reason.endswith("session: cannot open display\nsession: giving up")


async def test_a_session_out_of_memory_is_reported_as_such(plane, agent, manifest):
    await plane.wait_command(
        await plane.start_session(session_id=sid("d"), manifest=manifest(MODE="oom"), memory="32Mi")
    )
    reason = (await plane.wait_session(sid("d"), state="failed", timeout=40))["platformMetadata"]["reason"]
    assert "ran out of memory" in reason


async def test_a_session_that_dies_while_it_starts_fails_its_command_with_its_last_words(plane, agent, manifest, owned):
    dying = manifest(MODE="crash", AFTER=0, EXIT_CODE=9, spec={"vnc": {"enabled": True, "port": 5999}})
    row = await plane.wait_command(await plane.start_session(session_id=sid("d"), manifest=dying), "failed")
    assert row["error"].startswith("session_ended: ")
    assert "exit code 9" in row["error"]
    assert "giving up" in row["error"]
    await plane.wait_session(sid("d"), state="failed")
    assert owned()["containers"] == []


async def test_of_sixteen_racing_starts_one_passes_where_one_fits(make_agent, plane, agent_id, manifest, owned):
    await (await make_agent(MAX_MEMORY="1")).start()
    await plane.wait_agent(agent_id)
    starts = [plane.start_session(session_id=sid(f"r{n}"), manifest=manifest(), memory="600Mi") for n in range(16)]
    commands = await asyncio.gather(*starts)
    rows = [await plane.wait_command(command, "completed,failed") for command in commands]
    errors = [row["error"] for row in rows if row["state"] == "failed"]
    assert len(errors) == 15
    assert set(errors) == {"insufficient_memory: needs 600 MiB, 424 MiB free of 1 GiB; sessions 1/100"}
    assert len(owned()["containers"]) == 1


async def test_the_ordinary_life_of_a_session_is_told_without_a_warning(plane, agent, manifest):
    name = sid("calm")
    await plane.wait_command(await plane.start_session(session_id=name, manifest=manifest()), timeout=60)
    for _ in range(3):
        await plane.wait_command(await plane.hibernate_session(name), timeout=60)
        await asyncio.sleep(1)  # in which a tunnel tries the session again
        await plane.wait_command(await plane.wake_session(name), timeout=60)
    await plane.wait_command(await plane.stop_session(name), timeout=60)
    await asyncio.sleep(1)
    assert [line for line in agent.log.splitlines() if " WARNING " in line or " ERROR " in line] == []
