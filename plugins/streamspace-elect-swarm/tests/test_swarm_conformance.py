"""The core's conformance suite on a real Swarm."""

import contextlib
from pathlib import Path

import pytest

from lab.proxy import Proxy
from streamspace_agent.testing.election import BackendFactory, ElectionBackendSuite, Outage
from streamspace_elect_swarm.backend import SwarmBackend

from .conftest import QUICK


class TestSwarmBackend(ElectionBackendSuite):
    @pytest.fixture
    def proxy(self, one_host):
        with Proxy(Path(one_host.engine.socket)) as proxy:
            yield proxy

    @pytest.fixture
    def backend_factory(self, proxy, services, client) -> BackendFactory:
        task, engine = services.container(), f"tcp://127.0.0.1:{proxy.port}"
        yield lambda agent_id="agent-1": SwarmBackend(agent_id, engine, task, timing=QUICK, environ={})
        for config in client.configs.list(filters={"name": "streamspace-leader-agent-"}):
            config.remove()

    @pytest.fixture
    def outage(self, proxy) -> Outage:
        @contextlib.contextmanager
        def away():
            proxy.stalled = True
            yield
            proxy.stalled = False

        return away
