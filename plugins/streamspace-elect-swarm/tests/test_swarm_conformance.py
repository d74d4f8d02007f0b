"""The core's conformance suite on a real Swarm."""

import pytest

from streamspace_agent.testing.election import BackendFactory, ElectionBackendSuite
from streamspace_elect_swarm.backend import SwarmBackend

from .conftest import QUICK


class TestSwarmBackend(ElectionBackendSuite):
    @pytest.fixture
    def backend_factory(self, one_host, services, client) -> BackendFactory:
        task = services.container()
        yield lambda: SwarmBackend("agent-1", one_host.docker_host, task, timing=QUICK, environ={})
        for config in client.configs.list(filters={"name": "streamspace-leader-agent-1"}):
            config.remove()
