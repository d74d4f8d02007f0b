"""The conformance suite itself: a sound backend passes, and nobody drops a test of it unseen."""

import collections
import contextlib

import pytest

from streamspace_agent.election import Timing
from streamspace_agent.testing.election import BackendFactory, ElectionBackendSuite, Outage
from streamspace_agent.testing.memory import Link, MemoryBackend, Store
from tests.core.broken.cases import OnDisk
from tests.core.broken.stores import LinkBackend

pytestmark = pytest.mark.slow


class TestMemoryBackend(ElectionBackendSuite):
    @pytest.fixture
    def link(self):
        return Link()

    @pytest.fixture
    def backend_factory(self, link) -> BackendFactory:
        timing = Timing(lease=5.0, renew_every=1.0, call_timeout=0.4, margin=0.5)
        stores = collections.defaultdict(Store)
        return lambda agent_id="agent-1": MemoryBackend(stores[agent_id], timing, link=link)

    @pytest.fixture(params=["refuse", "cut"])
    def outage(self, link, request) -> Outage:
        @contextlib.contextmanager
        def away():
            setattr(link, request.param, True)
            yield
            setattr(link, request.param, False)

        return away


class TestLinkBackend(OnDisk):
    subject = LinkBackend


def test_replacing_a_standard_test_is_refused_by_name():
    with pytest.raises(TypeError, match="test_of_many_at_once_exactly_one_gets_it"):

        class Lenient(ElectionBackendSuite):
            async def test_of_many_at_once_exactly_one_gets_it(self):
                pass


def test_replacing_a_standard_test_from_beside_is_refused_too():
    class Beside:
        test_a_live_holder_is_never_certified_dead = None

    with pytest.raises(TypeError, match="test_a_live_holder_is_never_certified_dead"):

        class Lenient(Beside, ElectionBackendSuite):
            pass


def test_taking_a_suite_out_of_the_collection_is_refused():
    with pytest.raises(TypeError, match="__test__"):

        class Unseen(ElectionBackendSuite):
            __test__ = False


async def test_a_call_that_never_returns_fails_its_test_only():
    class Stuck(ElectionBackendSuite):
        time_limit = 0.05

        async def test_of_its_own(self):
            import asyncio

            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await Stuck().test_of_its_own()
