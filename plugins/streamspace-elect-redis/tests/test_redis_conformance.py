"""The redis backend is an election backend."""

import contextlib
from collections.abc import Iterator

import pytest

from lab.redis import RedisServer
from streamspace_agent.config import Settings
from streamspace_agent.testing.election import BackendFactory, ElectionBackendSuite, Outage
from streamspace_elect_redis.backend import RedisBackend

pytestmark = pytest.mark.slow


class TestRedisBackend(ElectionBackendSuite):
    @pytest.fixture
    def server(self) -> Iterator[RedisServer]:
        with RedisServer() as server:
            yield server

    @pytest.fixture
    def backend_factory(self, server) -> BackendFactory:
        def make(agent_id="agent-1"):
            settings = Settings(agent_id=agent_id, control_plane_url="ws://127.0.0.1:1", redis_url=server.url)
            # 0.4 s for an answer can be too short on a busy machine
            return RedisBackend.from_settings(settings, {"LEASE_PROFILE": "steady"})

        return make

    @pytest.fixture
    def outage(self, server) -> Outage:
        @contextlib.contextmanager
        def away():
            server.freeze()
            yield
            server.thaw()

        return away
