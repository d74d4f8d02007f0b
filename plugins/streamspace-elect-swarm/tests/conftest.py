import uuid

import pytest

from lab.hosts import Hosts
from lab.until import until_sync
from streamspace_agent.election import Candidate, Timing
from streamspace_elect_swarm.backend import SwarmBackend

QUICK = Timing(lease=4.0, renew_every=1.0, call_timeout=0.8, margin=0.4)


@pytest.fixture(scope="session")
def one_host(tmp_path_factory, docker_host, tiny_image):
    """A Swarm of one manager."""
    with Hosts(1, tmp_path_factory.mktemp("s")) as hosts:
        hosts.swarm()
        hosts.load(tiny_image, docker_host)
        yield hosts[0]


@pytest.fixture
def client(one_host):
    client = one_host.client()
    yield client
    client.close()


@pytest.fixture
def agent_id():
    return f"t{uuid.uuid4().hex[:10]}"


@pytest.fixture
def services(client, tiny_image):
    with Services(client, tiny_image) as services:
        yield services


@pytest.fixture
async def replicas(one_host, agent_id):
    """Make backends by ``replicas(container_id, docker_host)``; they are closed at the end, and so is the config."""
    made = []

    def make(container, docker_host=None, timing=QUICK):
        backend = SwarmBackend(agent_id, docker_host or one_host.docker_host, container, timing=timing, environ={})
        made.append(backend)
        return backend

    yield make
    for backend in made:
        await backend.aclose()


class Services:
    """Services of the tiny image; all gone, tasks included, when the block is left."""

    def __init__(self, client, image):
        self._client = client
        self._image = image
        self._made = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for service in self._made:
            service.remove()

    def make(self, replicas=1, *, env=(), **options):
        name = f"s{uuid.uuid4().hex[:10]}"
        mode = {"Replicated": {"Replicas": replicas}}
        service = self._client.services.create(self._image, name=name, env=list(env), mode=mode, **options)
        self._made.append(service)
        return service

    def container(self, **options):
        """The id of the container of a new service's only task."""
        return running(self.make(**options))[0]["Status"]["ContainerStatus"]["ContainerID"]


def running(service, count=1):
    def enough():
        found = [task for task in service.tasks() if task["Status"]["State"] == "running"]
        return found if len(found) >= count else None

    return until_sync(enough)


def candidate(backend, nonce="", *, floor=0, host="h"):
    nonce = nonce or uuid.uuid4().hex
    return Candidate(backend.agent_id, f"replica-{nonce[:4]}", nonce, host, backend.container_id, 4.0, floor)
