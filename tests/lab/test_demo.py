"""The demo cleans up however it ends, and leaves other demos alone."""

import os
import pty
import re
import signal
import socket
import sys
import uuid
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest
import requests

from lab import demo
from lab.images import TINY

ROOT = Path(__file__).parents[2]
NOBODY = 2**22 + 1  # above every pid the kernel gives
READY = "Ctrl-C ends it all"


class Terminal:
    """A demo in a terminal of its own; `read` is all that it said until it holds the text, or until it ended."""

    def __init__(self, docker_host):
        self.pid, self.screen = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.environ["DOCKER_HOST"] = docker_host
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
            os.execv(sys.executable, [sys.executable, "-m", "lab.demo"])
        self.code = None
        self.said = ""

    @property
    def agent_id(self):
        return f"docker-demo-{socket.gethostname()}-{self.pid}"

    @property
    def agent_pid(self):
        found = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return next(int(pid) for pid in found if b"docker-agent" in Path(f"/proc/{pid}/cmdline").read_bytes())

    def read(self, text="\0"):
        while text not in self.said:
            try:
                told = os.read(self.screen, 65536)
            except OSError:  # how a terminal tells that nobody has it open
                break
            if not told:
                break
            self.said += told.decode(errors="replace")
        return self.said

    def wait(self):
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code

    def end(self):
        if self.code is None:
            os.kill(self.pid, signal.SIGTERM)
            self.read()
            self.wait()


@contextmanager
def running(docker_host):
    terminal = Terminal(docker_host)
    try:
        assert READY in terminal.read(READY), terminal.said
        yield terminal
    finally:
        terminal.end()


def of(client, agent_id):
    """What the engine holds of this agent."""
    only = {"label": f"streamspace.agent={agent_id}"}
    return [
        *(entry["Names"][0] for entry in client.api.containers(all=True, filters=only)),
        *(entry["Name"] for entry in client.api.volumes(filters=only)["Volumes"] or []),
        *(entry["Name"] for entry in client.api.networks(filters=only)),
    ]


def test_a_closed_terminal_ends_the_agent_and_removes_the_desktop(docker_host, docker_client, desktop_image):
    with running(docker_host) as one:
        assert len(of(docker_client, one.agent_id)) == 2
        agent = one.agent_pid
        os.close(one.screen)
        assert one.wait() == 0
    assert not Path(f"/proc/{agent}").exists()
    assert of(docker_client, one.agent_id) == []


def test_an_agent_that_dies_is_told_of_and_what_it_left_is_removed(docker_host, docker_client, desktop_image):
    with running(docker_host) as one:
        os.kill(one.agent_pid, signal.SIGKILL)
        one.read()
        assert one.wait() == 1
    assert "demo: the agent ended with exit code -9" in one.said
    assert "Traceback" not in one.said
    assert of(docker_client, one.agent_id) == []


def test_two_demos_run_side_by_side_and_a_dead_ones_desktop_goes(docker_host, docker_client, desktop_image):
    dead = f"docker-demo-{socket.gethostname()}-{NOBODY}"
    elsewhere = f"docker-demo-elsewhere{uuid.uuid4().hex}-{NOBODY}"
    kept = docker_client.networks.create(elsewhere, labels={"streamspace.agent": elsewhere})
    left = docker_client.networks.create(dead, labels={"streamspace.agent": dead})
    docker_client.containers.create(TINY, labels={"streamspace.agent": dead}, network=left.id).start()
    try:
        with running(docker_host) as one:
            assert of(docker_client, dead) == []
            with running(docker_host) as other:
                assert len(of(docker_client, one.agent_id)) == len(of(docker_client, other.agent_id)) == 2
            assert len(of(docker_client, one.agent_id)) == 2
            assert of(docker_client, elsewhere) == [elsewhere]
    finally:
        kept.remove()


async def test_a_viewer_is_sent_to_a_session_only_once_its_vnc_is_ready():
    asked = {}

    class Plane:
        async def start_session(self, *_, **__):
            return "command"

        async def wait_command(self, *_, **__):
            return {"state": "completed"}

        async def wait_session(self, *_, **wanted):
            asked.update(wanted)
            return {"state": "running", "vncReady": True}

    await demo.started(Plane())
    assert (asked["state"], asked["vnc_ready"]) == ("running", True)


@pytest.mark.parametrize(
    "error", [docker.errors.APIError("500 Server Error:\nno space left"), requests.ConnectionError("no space left")]
)
def test_an_error_of_the_engine_is_one_line(monkeypatch, capsys, error):
    async def fails(_):
        raise error

    monkeypatch.setattr(demo, "demo", fails)
    assert demo.main({}) == 1
    assert re.fullmatch(r"demo: the Docker engine .*no space left\n", capsys.readouterr().err)
