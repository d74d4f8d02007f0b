import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from lab.until import until
from streamspace_devplane import DevPlane, DevPlaneProcess, Settings

from .conftest import AGENT, Agent

pytestmark = pytest.mark.slow


async def run(*arguments: str, url: str = "", expect: int = 0) -> tuple[str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "streamspace_devplane", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "STREAMSPACE_DEVPLANE_URL": url},
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == expect, (out, err)
    return out.decode(), err.decode()


@pytest.fixture
async def process(tmp_path: Path) -> Any:
    async with DevPlaneProcess(
        tmp_path / "state", settings=Settings(registrations_per_minute=500, seed=1, keep_commands=True)
    ) as plane:
        yield plane


async def test_a_killed_process_continues_with_its_state_and_port(process: DevPlaneProcess) -> None:
    agent = Agent(process, key=await process.issue_key(AGENT))
    assert (await agent.register()).status_code == 201
    command_id = await process.start_session()
    url, pid = process.url, process.pid
    await process.restart(abruptly=True)
    assert (process.url, process.pid != pid) == (url, True)
    await agent.connect()
    assert (await agent.receive())[0]["payload"]["commandId"] == command_id
    await agent.socket.close()


STARTS = """
import asyncio, sys
from streamspace_devplane.process import DevPlaneProcess

async def main():
    async with DevPlaneProcess(sys.argv[1]) as plane:
        print(plane.pid, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_the_process_ends_with_whoever_started_it(tmp_path: Path) -> None:
    pipe = asyncio.subprocess.PIPE
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", STARTS, tmp_path, stdout=pipe, stderr=pipe)
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    state = Path(f"/proc/{pid}/stat")

    def ended() -> bool:
        try:
            return state.read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    try:
        assert not ended()
        parent.kill()
        _, errors = await asyncio.wait_for(parent.communicate(), 30)  # the plane has the same stderr
        await until(ended)
        assert errors == b""
    finally:
        if not ended():
            os.kill(pid, signal.SIGKILL)


async def test_the_bootstrap_key_lies_in_a_private_file_and_stays_valid_over_a_restart(
    process: DevPlaneProcess,
) -> None:
    file = process.bootstrap_key_file
    assert file.stat().st_mode & 0o777 == 0o600
    key = file.read_text()
    await process.restart()
    assert file.read_text() == key
    assert (await Agent(process, key=key.strip()).register()).status_code == 202


async def test_the_command_line_takes_a_session_through_its_life(plane: DevPlane, agent: Agent) -> None:
    out, _ = await run(
        "start", "desktop", "--user", "ada", "--session", "s-1", "--env", "A=b=c", "--json", url=plane.url
    )
    started = json.loads(out)
    [command] = await agent.receive()
    assert command["payload"]["commandId"] == started["commandId"]
    assert command["payload"]["payload"]["environment"] == {"A": "b=c"}
    for verb in ("hibernate", "wake", "stop"):
        running = asyncio.create_task(run(verb, "s-1", "--wait", url=plane.url))
        [command] = await agent.receive(30)
        assert command["payload"]["action"] == f"{verb}_session"
        await agent.send("complete", commandId=command["payload"]["commandId"])
        assert "completed" in (await running)[0]
    out, _ = await run("ls", url=plane.url)
    assert AGENT in out
    assert "s-1" in out
    out, _ = await run("events", "--type", "complete", "--json", url=plane.url)
    assert len(out.splitlines()) == 3


async def test_a_command_that_fails_ends_with_the_agents_words(plane: DevPlane, agent: Agent) -> None:
    running = asyncio.create_task(run("start", "--wait", url=plane.url, expect=1))
    [command] = await agent.receive(30)
    await agent.send("failed", commandId=command["payload"]["commandId"], error="no such image")
    assert "no such image" in (await running)[1]


async def test_an_agent_is_approved_and_faults_are_set_from_the_command_line(plane: DevPlane) -> None:
    agent = Agent(plane, key=await plane.bootstrap_key())
    await agent.register()
    await run("approve", AGENT, url=plane.url)
    assert (await agent.register()).status_code == 200
    out, _ = await run("faults", 'drop={"types": ["ack"]}', url=plane.url)
    assert json.loads(out)["drop"]["types"] == ["ack"]
    out, _ = await run("faults", "--clear", url=plane.url)
    assert json.loads(out)["drop"] is None


async def test_sessions_and_agents_are_forgotten_from_the_command_line(plane: DevPlane, registered: Agent) -> None:
    await plane.start_session(session_id="s-1")
    await run("forget", "s-1", url=plane.url)
    assert await plane.sessions() == []
    await run("forget", "--agent", AGENT, url=plane.url)
    assert await plane.agents() == []


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::"])
async def test_serve_refuses_to_listen_beyond_loopback(tmp_path: Path, host: str) -> None:
    _, err = await run("serve", "--host", host, "--state-dir", str(tmp_path), expect=2)
    assert "loopback" in err
    with pytest.raises(ValueError, match="loopback"):
        DevPlane(tmp_path / "plane.db", host=host)


async def test_serve_says_what_it_is_and_shows_no_key(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "streamspace_devplane", "serve", "--port", "0", "--state-dir", str(tmp_path),
        "--agent", AGENT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        said = (await asyncio.wait_for(process.stdout.readuntil(b"Ctrl-C"), 30)).decode()
    finally:
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 30) == 0
    assert "development and tests only" in said
    for name in ("bootstrap.key", f"{AGENT}.key"):
        file = tmp_path / name
        assert str(file) in said
        assert file.read_text().strip() not in said
        assert file.stat().st_mode & 0o777 == 0o600


async def test_commands_without_a_plane_say_how_to_get_one() -> None:
    _, err = await run("ls", url="http://127.0.0.1:9", expect=1)
    assert "streamspace-devplane serve" in err
    assert "Traceback" not in err


async def test_every_page_says_it_is_for_development(plane: DevPlane) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        page = await http.get(plane.url + "/")
        assert "development control plane" in page.text
        for path in ("/", "/api/v1/agents", "/api/v1/nothing-here"):
            answer = await http.get(plane.url + path)
            assert answer.headers["x-streamspace-devplane"] == "development only"


async def test_events_can_be_watched_live(plane: DevPlane, agent: Agent) -> None:
    async with (
        httpx.AsyncClient(trust_env=False) as http,
        http.stream(
            "GET", f"{plane.url}/api/v1/events?type=heartbeat", headers={"Accept": "text/event-stream"}
        ) as answer,
    ):
        await agent.send("heartbeat", status="online", activeSessions=1)
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                assert json.loads(line.removeprefix("data: "))["type"] == "heartbeat"
                return
