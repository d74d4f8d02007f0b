"""The conformance suite itself: a sound backend passes, and nobody drops a test of it unseen."""

import pytest

from streamspace_agent.election import Timing
from streamspace_agent.testing.election import BackendFactory, ElectionBackendSuite
from streamspace_agent.testing.memory import MemoryBackend, Store


class TestMemoryBackend(ElectionBackendSuite):
    @pytest.fixture
    def backend_factory(self) -> BackendFactory:
        store = Store()
        return lambda: MemoryBackend(store, Timing(lease=5.0, renew_every=1.0, call_timeout=0.4, margin=0.5))


def test_replacing_a_standard_test_is_refused_by_name():
    with pytest.raises(TypeError, match="test_of_many_at_once_exactly_one_gets_it"):

        class Lenient(ElectionBackendSuite):
            async def test_of_many_at_once_exactly_one_gets_it(self):
                pass
