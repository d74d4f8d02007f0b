"""The core's conformance suite on real lock files."""

import contextlib

import pytest

from streamspace_agent.testing.election import BackendFactory, ElectionBackendSuite, Outage
from streamspace_elect_file import backend

pytestmark = pytest.mark.slow


class TestFileBackend(ElectionBackendSuite):
    @pytest.fixture
    def backend_factory(self, tmp_path, monkeypatch) -> BackendFactory:
        monkeypatch.setattr(backend, "SETTLE", 0.1)  # how long it waits is another test's business
        (tmp_path / "folder").mkdir()
        return lambda agent_id="agent-1": backend.FileBackend(tmp_path / "folder" / "agent.lock", agent_id)

    @pytest.fixture
    def outage(self, tmp_path) -> Outage:
        @contextlib.contextmanager
        def away():
            (tmp_path / "folder").rename(tmp_path / "aside")
            (tmp_path / "folder").symlink_to("folder")  # a loop: neither there nor not there
            yield
            (tmp_path / "folder").unlink()
            (tmp_path / "aside").rename(tmp_path / "folder")

        return away
