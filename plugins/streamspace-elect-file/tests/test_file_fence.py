"""Who is ended as a frozen leader, and who is not: real processes, and containers of a real engine."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from streamspace_agent.config import Settings
from streamspace_agent.election import Record
from streamspace_agent.errors import ConfigError
from streamspace_agent.plugins import ELECTION, Plugins, choose
from streamspace_elect_file.fencing import Fence
from streamspace_elect_file.file_format import FileRecord

NOWHERE = "unix:///nonexistent/docker.sock"
HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "r+")
if sys.argv[2] == "lock":
    fcntl.flock(file, fcntl.LOCK_EX)
print("ready", flush=True)
time.sleep(600)
"""


def record(container=""):
    return Record("agent-1", "holder", "n1", 7, 3, 0, host="host", container_id=container)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "agent.lock"
    path.touch()
    return path


@pytest.fixture
def holder(path):
    """Start a process that has the file open, and locked or not; the file names it as the leader."""
    with contextlib.ExitStack() as stack:

        def start(how="lock"):
            process = stack.enter_context(
                subprocess.Popen([sys.executable, "-c", HOLD, path, how], stdout=subprocess.PIPE)
            )
            stack.callback(process.kill)
            assert process.stdout.readline() == b"ready\n"
            path.write_bytes(FileRecord(record(), path.stat().st_ino, process.pid, "now").encode())
            return process

        yield start


def stop(process):
    """SIGSTOP, and wait until the kernel says that it has stopped."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)


def still():
    return True


def test_a_stopped_process_that_holds_the_lock_is_killed(path, holder):
    process = holder()
    stop(process)
    assert Fence(NOWHERE).end(path, record(), still) == f"killed process {process.pid}, which was stopped"
    assert process.wait(10) == -signal.SIGKILL


def test_it_is_found_out_where_proc_shows_processes_only(path, holder):
    """As with ProcSubset=pid, which the systemd units have."""
    process = holder()
    stop(process)
    fence = (
        "import sys, pathlib; from plugin import *; "
        "print(Fence(NOWHERE).end(pathlib.Path(sys.argv[1]), record(), still))"
    )
    fence = fence.replace("plugin", Path(__file__).stem)
    mount = 'mount -t proc -o subset=pid proc /proc && test ! -e /proc/locks && exec "$@"'
    command = ["unshare", "--mount", "sh", "-ec", mount, "sh", sys.executable, "-c", fence, path]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"killed process {process.pid}, which was stopped\n", done.stderr
    assert process.wait(10) == -signal.SIGKILL


def test_a_process_that_runs_is_let_be_however_silent_it_is(path, holder):
    process = holder()
    assert Fence(NOWHERE).end(path, record(), still) == ""
    assert process.poll() is None


def test_a_stopped_process_that_does_not_hold_the_lock_is_let_be(path, holder):
    process = holder("open only")
    stop(process)
    assert Fence(NOWHERE).end(path, record(), still) == ""
    assert process.poll() is None


def test_a_sign_of_life_at_the_last_moment_saves_it(path, holder):
    process = holder()
    stop(process)
    assert Fence(NOWHERE).end(path, record(), lambda: False) == ""
    assert process.poll() is None


def test_a_file_without_a_record_or_of_a_dead_process_ends_nobody(path, holder):
    process = holder()
    stop(process)
    path.write_bytes(b"")
    assert Fence(NOWHERE).end(path, record(), still) == ""
    path.write_bytes(FileRecord(record(), path.stat().st_ino, 2**22 - 1, "now").encode())
    assert Fence(NOWHERE).end(path, record(), still) == ""
    assert process.poll() is None


@pytest.fixture
def container(docker_client, run_label, tiny_image):
    made = docker_client.containers.run(tiny_image, detach=True, name=f"{run_label}-{uuid.uuid4().hex[:6]}")
    yield made
    made.remove(force=True)


def running(container):
    container.reload()
    return container.attrs["State"]["Running"]


@pytest.mark.parametrize("how", ["paused", "stopped"])
def test_a_container_that_is_frozen_is_killed(docker_host, container, path, how):
    if how == "paused":
        container.pause()
    else:
        container.kill("SIGSTOP")
    said = Fence(docker_host).end(path, record(container.id), still)
    assert said.startswith(f"killed container {container.id[:12]}, ")
    assert how in said
    assert container.wait(timeout=10)["StatusCode"] == 137
    assert Fence(docker_host).end(path, record(container.id), still) == "", "it has gone already"


def test_a_container_that_runs_or_is_not_this_engines_is_let_be(docker_host, container, path):
    assert Fence(docker_host).end(path, record(container.id), still) == ""
    assert Fence(docker_host).end(path, record("c" * 64), still) == ""
    container.pause()
    assert Fence(docker_host).end(path, record(container.id), lambda: False) == ""
    assert Fence("tcp://127.0.0.1:1").end(path, record(container.id), still) == ""
    assert running(container)


def test_an_engine_that_does_not_answer_ends_nobody_and_is_told_of(path):
    with pytest.raises(OSError, match="No such file"):
        Fence(NOWHERE).end(path, record("c" * 64), still)


def fence(path, **environ):
    settings = Settings(
        agent_id="agent-1",
        control_plane_url="ws://localhost",
        docker_host=NOWHERE,
        leader_election_backend="file",
        lock_file_path=str(path),
    )
    return asyncio.run(Plugins().election_backend(settings, environ).fence(record()))


def test_nobody_is_killed_unless_asked_for_and_a_value_that_is_neither_is_refused(path, holder):
    assert choose(ELECTION, "file")
    process = holder()
    stop(process)
    assert fence(path) == fence(path, FENCE_FROZEN_LEADER="no") == ""
    with pytest.raises(ConfigError, match="FENCE_FROZEN_LEADER is 'perhaps': write true or false"):
        fence(path, FENCE_FROZEN_LEADER="perhaps")
    assert process.poll() is None
    assert fence(path, FENCE_FROZEN_LEADER="True") == f"killed process {process.pid}, which was stopped"
