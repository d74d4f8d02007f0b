"""The core's conformance suite on real lock files."""

import pytest

from streamspace_agent.testing.election import BackendFactory, ElectionBackendSuite
from streamspace_elect_file.backend import FileBackend


class TestFileBackend(ElectionBackendSuite):
    @pytest.fixture
    def backend_factory(self, tmp_path) -> BackendFactory:
        return lambda: FileBackend(tmp_path / "agent.lock", "agent-1")
