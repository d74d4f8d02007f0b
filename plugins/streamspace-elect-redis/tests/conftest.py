"""A real redis-server for the module, and replicas that are closed at the end."""

from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import redis

from lab.redis import RedisServer
from streamspace_agent.config import Settings
from streamspace_agent.election import Candidate
from streamspace_elect_redis.backend import RedisBackend

AGENT = "docker-lab"
PATIENT = {"LEASE_PROFILE": "steady"}
"""Where a test is not about time: 0.4 s for an answer can be too short on a busy machine."""


@pytest.fixture(scope="session")
def candidate() -> Callable[..., Candidate]:
    """A candidate by name."""

    def make(name: str, *, floor: int = 1_700_000_000_000, lease: float = 5.0, container: str = "") -> Candidate:
        return Candidate(AGENT, name, f"nonce-of-{name}", "host-1", container, lease, floor)

    return make


def settings(url: str, **more: object) -> Settings:
    values = {"agent_id": AGENT, "control_plane_url": "ws://127.0.0.1:1", "redis_url": url}
    return Settings(**(values | more))


@pytest.fixture(scope="module")
def module_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def client(module_server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(module_server.url, decode_responses=True) as client:
        client.flushall()
        yield client


@pytest.fixture
async def backend_at() -> AsyncIterator[Callable[..., RedisBackend]]:
    made: list[RedisBackend] = []

    def make(url: str, environ: dict[str, str] | None = None, **more: object) -> RedisBackend:
        made.append(RedisBackend.from_settings(settings(url, **more), PATIENT if environ is None else environ))
        return made[-1]

    yield make
    for backend in made:
        await backend.aclose()


@pytest.fixture
def replica(client: redis.Redis, module_server: RedisServer, backend_at) -> Callable[[], RedisBackend]:
    """Make a replica's backend on the module's server, which is empty at first."""
    del client
    return lambda: backend_at(module_server.url)
