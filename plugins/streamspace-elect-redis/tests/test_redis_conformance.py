"""The redis backend is an election backend."""

from collections.abc import Callable, Iterator

import pytest

from lab.redis import RedisServer
from streamspace_agent.config import Settings
from streamspace_agent.testing.election import ElectionBackendSuite
from streamspace_elect_redis.backend import RedisBackend


class TestRedisBackend(ElectionBackendSuite):
    @pytest.fixture
    def backend_factory(self) -> Iterator[Callable[[], RedisBackend]]:
        with RedisServer() as server:
            settings = Settings(agent_id="agent-1", control_plane_url="ws://127.0.0.1:1", redis_url=server.url)
            # 0.4 s for an answer can be too short on a busy machine
            yield lambda: RedisBackend.from_settings(settings, {"LEASE_PROFILE": "steady"})
