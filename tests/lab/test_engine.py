import os
import socket
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import docker
import pytest

from lab.dockerd import PrivateEngine, answers
from lab.engine import MainEngine
from lab.images import TINY
from lab.say import LabError


@pytest.fixture
def other_engine(tmp_path_factory):
    engine = PrivateEngine(tmp_path_factory.mktemp("e"))
    try:
        engine.start()
        yield engine
    finally:
        engine.destroy()


def _run(client, **options):
    return client.containers.run(TINY, detach=True, labels={"streamspace.lab.test": uuid.uuid4().hex}, **options)


def _greeting(client, host_container):
    """What one container sees of another one through the engine's network."""
    address = host_container.attrs["NetworkSettings"]["IPAddress"]
    command = ["sh", "-c", f"for i in $(seq 50); do nc -w 2 {address} 5900 </dev/null && exit; sleep 0.1; done"]
    return client.containers.run(TINY, entrypoint=command, remove=True).decode()


def _published(container):
    """The loopback port of a container that an engine has just started again: it may take a moment."""
    for _ in range(200):
        container.reload()
        if bound := container.ports.get("5900/tcp"):
            return bound[0]["HostPort"]
        time.sleep(0.05)
    raise AssertionError(container.attrs["State"])


def test_engine_up_is_idempotent_and_safe_to_call_at_once(docker_host):
    command = [sys.executable, "-m", "lab", "engine", "up"]
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(subprocess.run, command, capture_output=True, text=True, check=True) for _ in range(4)]
    assert {call.result().stdout.strip() for call in calls} == {docker_host}


def test_a_named_engine_that_does_not_answer_is_refused_not_replaced(tmp_path_factory):
    engine = MainEngine({"DOCKER_HOST": "unix:///nonexistent", "STREAMSPACE_LAB": str(tmp_path_factory.mktemp("s"))})
    with pytest.raises(LabError, match="DOCKER_HOST"):
        engine.up()


@pytest.mark.timeout(300)
def test_an_engine_started_for_its_users_stops_with_the_last_of_them(tmp_path_factory):
    folder = tmp_path_factory.mktemp("u")  # short, for sockets
    script = f"ip link set lo up && exec {sys.executable} -m tests.lab.shared_engine {folder}"
    subprocess.run(["unshare", "--net", "sh", "-c", script], check=True)  # its iptables rules are its own there


def test_without_root_one_line_says_what_to_do(tmp_path_factory, monkeypatch):
    tmp_path = tmp_path_factory.mktemp("s")
    monkeypatch.setattr("os.geteuid", lambda: tmp_path.stat().st_uid + 1)
    engine = MainEngine({"STREAMSPACE_LAB": str(tmp_path)}, usual_host="unix:///nonexistent")
    with pytest.raises(LabError, match="belongs to another user"):
        engine.up()
    os.chown(tmp_path, tmp_path.stat().st_uid + 1, -1)
    monkeypatch.setattr("os.geteuid", lambda: tmp_path.stat().st_uid)
    with pytest.raises(LabError, match=r"^no Docker engine runs.*run this as root$"):
        engine.up()


@pytest.mark.timeout(300)
def test_restarting_and_stopping_another_engine_leaves_the_main_engines_network_intact(
    docker_client, docker_host, tiny_image, other_engine
):
    assert other_engine.host != docker_host
    server = _run(docker_client, ports={"5900/tcp": ("127.0.0.1", None)})
    try:
        server.reload()
        assert "RFB" in _greeting(docker_client, server)
        other_engine.restart()
        assert "RFB" in _greeting(docker_client, server)
        other_engine.kill()
        assert not answers(other_engine.host)
        other_engine.start()
        other_engine.stop()
        assert not answers(other_engine.host)
        assert answers(docker_host)
        assert "RFB" in _greeting(docker_client, server)
        pinged = docker_client.containers.run(TINY, entrypoint=["ip", "route"], remove=True).decode()
        assert "default via" in pinged
    finally:
        server.remove(force=True)


@pytest.mark.timeout(300)
def test_an_image_copied_to_another_engine_runs_there_and_survives_its_restart(docker_host, tiny_image, other_engine):
    other_engine.load(tiny_image, docker_host)
    client = docker.DockerClient(base_url=other_engine.host)
    try:
        container = _run(client, restart_policy={"Name": "always"}, ports={"5900/tcp": ("127.0.0.1", None)})
        other_engine.kill()
        other_engine.start()
        address = ("127.0.0.1", int(_published(container)))
        with socket.create_connection(address, timeout=10) as vnc:
            assert vnc.recv(4) == b"RFB "
    finally:
        client.close()


def test_a_destroyed_engine_leaves_no_process_and_no_file(tmp_path_factory):
    engine = PrivateEngine(tmp_path_factory.mktemp("e"))
    engine.start()
    pid = engine.pid
    engine.kill()
    engine.destroy()
    assert not engine.directory.exists()
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    assert str(engine.directory) not in listed
    assert pid is not None
