"""What an operator is told, and the hook."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lab.proxy import Proxy
from streamspace_agent.config import load
from streamspace_agent.election import Grant
from streamspace_agent.errors import BackendUnavailable, ConfigError
from streamspace_agent.plugins import Plugins
from streamspace_elect_swarm.backend import SwarmBackend
from streamspace_elect_swarm.record import MAX_NAME, config_name

from .conftest import QUICK, candidate, running

ENVIRON = {
    "AGENT_ID": "swarm-test",
    "CONTROL_PLANE_URL": "ws://127.0.0.1:1",
    "ENABLE_HA": "true",
    "LEADER_ELECTION_BACKEND": "swarm",
}


def _backend(**environ):
    environ = {**ENVIRON, **environ}
    return Plugins().election_backend(load(environ), environ)


async def _problem(backend):
    problems = await backend.preflight()
    assert len(problems) == 1
    assert problems[0].fatal
    return f"{problems[0].message}: {problems[0].fix}"


async def test_a_task_on_a_manager_has_no_problem(replicas, services):
    assert await replicas(services.container()).preflight() == []


async def test_preflight_changes_nothing(replicas, services, client):
    backend = replicas(services.container())
    await backend.preflight()
    assert await backend.observe() is None


async def test_an_engine_outside_a_swarm_is_named_with_the_fix(replicas, docker_host):
    assert "docker swarm init" in await _problem(replicas("f" * 64, docker_host))


async def test_a_process_outside_a_container_is_told_to_be_a_service(replicas):
    assert "no container" in await _problem(replicas(""))


async def test_a_container_of_another_engine_is_told_to_mount_its_own_socket(replicas):
    assert "socket of the host that runs it" in await _problem(replicas("f" * 64))


async def test_a_plain_container_is_told_to_be_a_service(replicas, client, tiny_image):
    container = client.containers.run(tiny_image, detach=True)
    try:
        assert "no task" in await _problem(replicas(container.id))
    finally:
        container.remove(force=True)


async def test_a_missing_socket_is_a_missing_mount(replicas, tmp_path):
    assert "mount the socket" in await _problem(replicas("f" * 64, f"unix://{tmp_path}/none.sock"))


async def test_an_engine_that_is_down_may_come_back(replicas, services):
    with Proxy(1) as nobody, pytest.raises(BackendUnavailable, match="disconnected"):
        await replicas(services.container(), f"tcp://127.0.0.1:{nobody.port}").preflight()


async def test_a_swarm_without_task_history_is_warned_of(replicas, services, client):
    container = services.container()
    client.swarm.update(task_history_retention_limit=0)
    try:
        (problem,) = await replicas(container).preflight()
    finally:
        client.swarm.reload()
        client.swarm.update(task_history_retention_limit=5)
    assert not problem.fatal
    assert "--task-history-limit" in problem.fix


async def test_the_plugin_is_chosen_by_its_name_and_brings_its_numbers():
    backend = _backend()
    timing = backend.timing
    assert (timing.lease, timing.renew_every, timing.call_timeout, timing.margin) == (10, 2.5, 2, 1)
    assert backend.name == "swarm"
    await backend.aclose()


async def test_lease_duration_and_profile_scale_the_numbers():
    steady, longer = _backend(LEASE_PROFILE="steady"), _backend(LEASE_DURATION="20s")
    assert (steady.timing.lease, steady.timing.renew_every) == (30, 2.5)
    assert (longer.timing.lease, longer.timing.call_timeout) == (20, 4)
    await steady.aclose()
    await longer.aclose()


def test_a_lease_too_short_to_be_safe_is_refused():
    with pytest.raises(ConfigError, match="LEASE_DURATION"):
        _backend(LEASE_DURATION="500ms")


def test_listing_and_importing_the_plugin_does_not_import_the_docker_sdk():
    check = "import sys, streamspace_elect_swarm; sys.exit('docker' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


@pytest.mark.parametrize("agent_id", ["a" * 100, "a" * 46, "ends-with-", "ends.", "docker-prod-us-east-1", "a" * 45])
def test_every_agent_id_has_a_config_name_that_a_swarm_accepts(agent_id, client):
    name = config_name(agent_id)
    config = client.configs.create(name=name, data=b"x")
    config.remove()
    assert len(name) <= MAX_NAME
    assert name == config_name(agent_id)
    assert (name == f"streamspace-leader-{agent_id}") == (len(agent_id) <= 45 and agent_id[-1].isalnum())


def test_long_agent_ids_that_differ_at_the_end_have_different_names():
    assert config_name("a" * 60 + "1") != config_name("a" * 60 + "2")


async def test_the_largest_agent_id_can_lead(services, one_host):
    task = running(services.make())[0]
    backend = SwarmBackend(
        "a" * 100, one_host.docker_host, task["Status"]["ContainerStatus"]["ContainerID"], timing=QUICK, environ={}
    )
    grant = await backend.acquire(candidate(backend), await backend.observe())
    assert isinstance(grant, Grant)
    await backend.release(grant)
    await backend.aclose()


class _Filter(BaseHTTPRequestHandler):
    """A socket proxy that lets through what tells of the engine and nothing more; ``api`` is the engine's version."""

    api = "1.41"

    def do_GET(self):
        answers = {"/version": {"ApiVersion": self.api}, "/info": {"Swarm": _ACTIVE}, "/containers/c/json": _CONTAINER}
        found = next((answer for path, answer in answers.items() if self.path.endswith(path)), None)
        body = json.dumps(found or {"message": "forbidden"}).encode()
        self.send_response(200 if found else 403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


_ACTIVE = {"LocalNodeState": "active", "ControlAvailable": True}
_CONTAINER = {"Config": {"Labels": {"com.docker.swarm.task.id": "t", "com.docker.swarm.service.id": "s"}}}


@pytest.fixture
def socket_proxy():
    with ThreadingHTTPServer(("127.0.0.1", 0), _Filter) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.05])
        thread.start()
        yield f"tcp://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_a_socket_proxy_that_forbids_configs_is_told_what_to_let_through(replicas, socket_proxy):
    assert "configs" in await _problem(replicas("c", socket_proxy))


async def test_an_engine_too_old_for_configs_is_named(replicas, socket_proxy, monkeypatch):
    monkeypatch.setattr(_Filter, "api", "1.29")
    assert "1.29" in await _problem(replicas("c", socket_proxy))
