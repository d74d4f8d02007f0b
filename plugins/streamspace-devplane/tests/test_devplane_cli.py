"""What the command line refuses, in one line that names the option; and what it tells."""

import asyncio
import fcntl
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner

from streamspace_devplane import DevPlane, PlaneError
from streamspace_devplane.cli.main import main

from .conftest import AGENT, Agent


def said(*arguments: str) -> str:
    """What a refused command says after its usage: one line."""
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code in (1, 2)
    assert isinstance(result.exception, SystemExit)
    [line] = [line for line in result.output.splitlines() if line and not line.startswith(("Usage: ", "Try "))]
    return line


async def tell(plane: DevPlane, *arguments: str) -> str:
    result = await asyncio.to_thread(CliRunner().invoke, main, ["--url", plane.url, *arguments])
    return result.output


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "nonsense").write_text("nonsense " * 200)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "plane.db").write_text("nonsense " * 200)
    (tmp_path / "folder" / f"{AGENT}.key").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--port 99999", "--port': 99999 is not in the range"),
        ("--tls-cert {state}/nonsense", "--tls-cert: cannot use {state}/nonsense with the key in {state}/nonsense"),
        ("--tls-key {state}/nonsense", "--tls-key has no effect without --tls-cert"),
        ("--client-ca {state}/nonsense", "--client-ca has no effect without --tls-cert"),
        ("--state-dir {state}/nonsense/x", "--state-dir: cannot use {state}/nonsense/x: Not a directory"),
        ("--state-dir {state}/broken", "{state}/broken/plane.db: file is not a database; move it away, or"),
        ("--state-dir {state}/folder --agent agent-under-test", "{state}/folder/agent-under-test.key: Is a directory"),
        ("--agent a/b", "--agent': 'a/b' is no agent id: 3 to 100 characters, without '/'"),
        ("--agent ab", "--agent': 'ab' is no agent id"),
        ("--agent bootstrap", "--agent': 'bootstrap' is no agent id"),
        ('--set stale_after="x"', "--set: stale_after: Input should be a valid number"),
        ("--set stale_after=0", "--set: stale_after: Input should be greater than 0"),
        ("--set viewer_queue=1.5", "--set: viewer_queue: Input should be a valid integer"),
        ("--set seed=true", "--set: seed: Input should be a valid integer"),
    ],
)
def test_serve_refuses_what_it_cannot_use_in_one_line(state: Path, options: str, words: str) -> None:
    # The option under test last: it wins over the one before.
    given = ["--port=0", f"--state-dir={state}/new", *options.format(state=state).split()]
    assert words.format(state=state) in said("serve", *given)


def test_a_state_directory_is_served_by_one_plane_at_a_time(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "--state-dir: another plane serves" in said("serve", "--port=0", f"--state-dir={tmp_path}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("start --env FOO", "--env: 'FOO' is not NAME=VALUE"),
        ("start --env =x", "--env: '=x' is not NAME=VALUE"),
        ("start --manifest {state}/nonsense", "--manifest: {state}/nonsense holds no JSON: Expecting value"),
        ("--url http://127.0.0.1:abc ls", "'http://127.0.0.1:abc' is no address (Invalid port: 'abc'); --url or"),
        ("--url localhost ls", "'localhost' is no address"),
        ("start --session a/b", "--session': 'a/b' is no session id: letters, digits"),
        ("stop ../x", "'SESSION': '../x' is no session id"),
        ("wake -- -x", "'SESSION': '-x' is no session id"),
        ("view s-1 --port 99999", "--port': 99999 is not in the range"),
    ],
)
def test_other_commands_refuse_what_makes_no_sense_in_one_line(state: Path, arguments: str, words: str) -> None:
    assert words.format(state=state) in said(*arguments.format(state=state).split())


@pytest.fixture(params=[(200, "<html>"), (404, "<html>"), (302, "")])
def stranger(request: pytest.FixtureRequest) -> Iterator[str]:
    """Another program's address."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text = request.param
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_another_program_at_the_address_is_no_dev_plane(stranger: str) -> None:
    assert said("--url", stranger, "ls") == (
        f"Error: what answers at {stranger} is no dev plane;"
        " --url or STREAMSPACE_DEVPLANE_URL names one, such as http://127.0.0.1:8000"
    )


async def test_view_looks_the_session_up_and_names_the_port_that_is_taken(plane: DevPlane, agent: Agent) -> None:
    assert "no session 'nosuch'" in await tell(plane, "view", "nosuch")
    await plane.start_session(session_id="s-1")
    told = await tell(plane, "view", "s-1", f"--port={plane.port}")
    assert f"port {plane.port}: Address already in use; choose another with --port" in told


async def test_what_cannot_come_about_is_refused_and_not_called_sent(plane: DevPlane, agent: Agent) -> None:
    async def refused(*arguments: str) -> str:
        result = await asyncio.to_thread(CliRunner().invoke, main, ["--url", plane.url, *arguments])
        assert result.exit_code == 1, result.output
        return result.output

    assert "no agent 'nosuch'" in await refused("start", "--agent", "nosuch")
    await plane.start_session(session_id="over")
    await agent.send("status", sessionId="over", state="terminated")
    await plane.wait_session("over", state="terminated")
    before = len(await plane.commands())
    for verb in ("wake", "hibernate"):
        assert f"session 'over' is terminated: there is nothing to {verb}" in await refused(verb, "over")
    assert len(await plane.commands()) == before
    await tell(plane, "stop", "over", "--delete-volumes")  # what it kept may still go
    assert len(await plane.commands()) == before + 1


async def test_a_command_that_was_not_sent_is_a_failure_with_the_reason(plane: DevPlane, registered: Agent) -> None:
    result = await asyncio.to_thread(CliRunner().invoke, main, ["--url", plane.url, "start", "--session", "s-1"])
    assert result.exit_code == 1
    assert f"it was not sent to agent {AGENT}: agent is not connected" in result.output


@pytest.mark.parametrize("played", [{"keep_commands": True}])
async def test_a_command_is_told_to_be_sent_or_for_whom_it_waits(plane: DevPlane, agent: Agent) -> None:
    assert (await tell(plane, "start", "--session", "s-1")).strip().endswith(" sent")
    await agent.socket.close()
    await plane.wait_agent(AGENT, status="offline")
    told = await tell(plane, "hibernate", "s-1")
    assert told.strip().endswith(f"waits for agent {AGENT}, which is not connected")


async def test_stop_can_delete_the_volumes(plane: DevPlane, agent: Agent) -> None:
    await plane.start_session(session_id="s-1")
    await tell(plane, "stop", "s-1", "--delete-volumes")
    await tell(plane, "stop", "s-1")
    payloads = [row["payload"] for row in await plane.commands() if row["action"] == "stop_session"]
    assert [payload.get("deletePVC") for payload in payloads] == [True, None]


async def test_the_list_shows_why_a_session_failed_or_was_refused(plane: DevPlane, agent: Agent) -> None:
    await plane.start_session(session_id="crashed")
    await agent.send("status", sessionId="crashed", state="failed", platformMetadata={"reason": "its image\nis gone"})
    refused = await plane.start_session(session_id="refused")
    await agent.send("failed", commandId=refused, error="no memory left")
    await plane.wait_command(refused, "failed")
    lines = (await tell(plane, "ls")).splitlines()
    assert [line.split("  ")[-1] for line in lines[-2:]] == ["its image is gone", "no memory left"]
    rows = json.loads(await tell(plane, "ls", "--json"))["sessions"]
    assert [row["startError"] for row in rows] == [None, "no memory left"]


async def test_what_is_not_there_is_named(plane: DevPlane) -> None:
    for kind in ("agent", "session", "command"):
        with pytest.raises(PlaneError, match=f"404: no {kind} 'nosuch'"):
            await plane.call("GET", f"/{kind}s/nosuch")
