"""Known secrets, sent through everything at log level debug, are looked for everywhere they must not be."""

import asyncio
import json
from pathlib import Path

import pytest

from lab.until import until
from tests.names import sid

TEMPLATE_SECRET = "tmpl-5ecret-0123456789"
SESSION_SECRET = "sess-5ecret-0123456789"
REGISTRY_SECRET = "regi-5ecret-0123456789"


@pytest.mark.parametrize("played", [{"hand_out_keys": True}])
async def test_no_secret_is_in_a_log_an_error_ps_or_a_container_beyond_the_templates_own(
    make_agent, plane, agent_id, manifest, docker_client, tmp_path
):
    docker_config = tmp_path / "docker"
    docker_config.mkdir()
    auths = {"localhost:1": {"username": "u", "password": REGISTRY_SECRET}}
    (docker_config / "config.json").write_text(json.dumps({"auths": auths}))
    # A bootstrap key and the agent's own: both travel.
    bootstrap = await plane.bootstrap_key()
    variables = {"LOG_LEVEL": "debug", "DOCKER_CONFIG": str(docker_config), "HEALTH_CHECK_INTERVAL": "1s"}
    agent = await (await make_agent(AGENT_API_KEY=bootstrap, AGENT_API_KEY_FILE="", **variables)).start()
    await until(lambda: "approval" in agent.log)
    await agent.terminate()
    await plane.approve(agent_id)
    await agent.start()
    await plane.wait_agent(agent_id)
    own = (tmp_path / "state" / agent_id / "api-key").read_text()
    secrets = [bootstrap, own, TEMPLATE_SECRET, SESSION_SECRET, REGISTRY_SECRET]

    template = manifest(VNC_PASSWORD=TEMPLATE_SECRET)
    given = {"SESSION_TOKEN": SESSION_SECRET}
    await plane.wait_command(await plane.start_session(session_id=sid("s"), manifest=template, environment=given))
    command_line = Path(f"/proc/{agent.pid}/cmdline").read_text()
    body = docker_client.api.inspect_container(f"streamspace-{sid('s')}")
    failing = [
        manifest("localhost:1/private:1", VNC_PASSWORD=TEMPLATE_SECRET),
        manifest(MODE="crash", AFTER=0, VNC_PASSWORD=TEMPLATE_SECRET, spec={"vnc": {"port": 5999}}),
        manifest(VNC_PASSWORD=TEMPLATE_SECRET, spec={"vnc": {"port": 99999}}),
        manifest(VNC_PASSWORD=TEMPLATE_SECRET, spec={"ports": "x"}),
        manifest(spec={"env": [{"name": "VNC_PASSWORD", "value": [TEMPLATE_SECRET]}]}),
    ]
    for number, bad in enumerate(failing):
        command = await plane.start_session(session_id=sid(f"f{number}"), manifest=bad, environment=given)
        await plane.wait_command(command, "failed")
    text = json.dumps({"type": "command", "payload": {"commandId": "c", "payload": {"templateManifest": template}}})
    await plane.send_frame(agent_id, text[:-5])
    await plane.send_frame(agent_id, text.replace('"command"', "5", 1))
    await plane.set_faults(cut={})
    await asyncio.sleep(0.5)
    await plane.wait_agent(agent_id)
    await plane.wait_command(await plane.stop_session(sid("s")))
    assert await agent.terminate() == 0

    said = json.dumps(await plane.events(direction="from_agent"))
    registrations = json.dumps(await plane.events(type="register"))
    for secret in secrets:
        assert secret not in agent.log
        assert secret not in command_line
        assert secret not in said
        assert secret not in registrations
        assert secret not in json.dumps(body["Config"]["Labels"])
    mine = {pair for pair in body["Config"]["Env"] if any(secret in pair for secret in secrets)}
    assert mine == {f"VNC_PASSWORD={TEMPLATE_SECRET}", f"SESSION_TOKEN={SESSION_SECRET}"}
    readable = [p for p in (tmp_path / "state").rglob("*") if p.is_file() and p.stat().st_mode & 0o077]
    assert not [p for p in readable if any(secret.encode() in p.read_bytes() for secret in secrets)]
