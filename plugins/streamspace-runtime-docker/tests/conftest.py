"""Drivers on a real engine, each with an agent id of its own; what they made goes with them."""

import asyncio
import itertools
import os
from contextlib import suppress

import docker
import pytest

import streamspace_runtime_docker
from lab.odd_engine import odd_engine
from streamspace_agent.config import Settings
from streamspace_agent.runtime import Mount, SessionSpec


@pytest.fixture(scope="session")
def network(docker_host, run_label):
    """One network for all tests: making one takes long, and an engine has few."""
    name = f"{run_label}-net"
    yield name
    client = docker.APIClient(base_url=docker_host, version="auto")
    with suppress(docker.errors.NotFound):
        client.remove_network(name)
    client.close()


@pytest.fixture
def api(docker_host):
    """The engine itself, to look behind a driver's back."""
    client = docker.APIClient(base_url=docker_host, version="auto")
    yield client
    client.close()


_numbers = itertools.count(1)


@pytest.fixture
async def make_driver(docker_host, network, run_label):
    """Drivers of one agent id, or of the one given."""
    made = []
    own = f"{run_label}-{next(_numbers)}"

    def make(*, environ=None, agent_id=own, odd=None, **settings):
        """``odd``: an engine that misbehaves, for the driver alone: what it made is removed by the real one."""
        settings |= {"docker_host": odd.host} if odd else {}
        fields = {
            "agent_id": agent_id,
            "control_plane_url": "ws://127.0.0.1:1",
            "docker_host": docker_host,
            "network_name": network,
            "ready_timeout": 20.0,
            **settings,
        }
        environ = {"PATH": os.environ["PATH"], "STOP_TIMEOUT": "3s", "LEFTOVER_GRACE": "0", **(environ or {})}
        driver = streamspace_runtime_docker.create_runtime_driver(Settings(**fields), environ)
        driver.agent_id = fields["agent_id"]
        made.append((driver, docker_host if odd else fields["docker_host"]))
        return driver

    yield make
    for driver, host in made:
        await driver.aclose()
        client = docker.APIClient(base_url=host, version="auto")
        mine = {"label": f"streamspace.agent={driver.agent_id}"}
        for container in client.containers(all=True, filters=mine):
            client.remove_container(container["Id"], force=True, v=True)
        for volume in client.volumes(filters=mine)["Volumes"] or []:
            client.remove_volume(volume["Name"])
        for found in client.networks(filters=mine):
            if found["Name"] != network:
                client.remove_network(found["Name"])
        client.close()


@pytest.fixture
def driver(make_driver):
    return make_driver()


@pytest.fixture
def make_spec(tiny_image, run_label):
    """Specs of one session of the tiny image, or of what is given."""
    number = next(_numbers)

    def make(suffix="", **fields):
        known = {
            "session_id": f"{run_label}-{number}{suffix}",
            "user": "ann",
            "template": "tiny",
            "image": tiny_image,
            "command_id": f"command-{number}{suffix}",
            "epoch": 7,
            "memory": 64 * 1024**2,
            "cpu": 0.5,
            "mounts": (Mount("home", "/home/user"),),
        }
        return SessionSpec(**{**known, **fields})

    return make


@pytest.fixture
def spec(make_spec):
    return make_spec()


@pytest.fixture
def quiet():
    """A report that nobody reads."""
    return lambda step: None


@pytest.fixture
async def events(driver):
    """The driver's events from now on, as a queue; the first RESYNC is waited for."""
    queue = asyncio.Queue()

    async def listen():
        async for event in driver.events():
            queue.put_nowait(event)

    task = asyncio.create_task(listen())
    async with asyncio.timeout(10):
        await queue.get()
    yield queue
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.fixture
async def odd(docker_host):
    """The engine as one that misbehaves, by rules that a test adds."""
    async with odd_engine(docker_host) as odd:
        yield odd
