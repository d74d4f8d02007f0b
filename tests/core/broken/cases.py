"""A test class for each broken backend and driver. Not collected by itself: test_suites_catch_faults.py runs it."""

import collections
import contextlib
import itertools

import pytest

from streamspace_agent.election import Timing
from streamspace_agent.runtime import Mount, SessionSpec
from streamspace_agent.testing.election import ElectionBackendSuite
from streamspace_agent.testing.engine import MemoryEngine
from streamspace_agent.testing.memory import Link, Store
from streamspace_agent.testing.runtime import RuntimeDriverSuite
from tests.core.broken import backends, drivers, stores

TIMING = Timing(lease=5.0, renew_every=1.0, call_timeout=0.4, margin=0.5)
numbers = itertools.count(1)


class Backend(ElectionBackendSuite):
    time_limit = 4.0  # enough for who is sound

    @pytest.fixture
    def link(self):
        return Link()

    @pytest.fixture
    def backend_factory(self, link):
        stores = collections.defaultdict(Store)
        key = getattr(self.subject, "key", str)
        return lambda agent_id="agent-1": self.subject(stores[key(agent_id)], TIMING, link=link)

    @pytest.fixture
    def outage(self, link):
        @contextlib.contextmanager
        def away():
            how = "cut" if self.subject in backends.SILENT else "refuse"
            setattr(link, how, True)
            yield
            setattr(link, how, False)

        return away


class OnDisk(ElectionBackendSuite):
    @pytest.fixture
    def backend_factory(self, tmp_path):
        (tmp_path / "folder").mkdir()
        return lambda agent_id="agent-1": self.subject(tmp_path / "folder", agent_id)

    @pytest.fixture
    def outage(self, tmp_path):
        @contextlib.contextmanager
        def away():
            (tmp_path / "folder").rename(tmp_path / "aside")
            yield
            (tmp_path / "aside").rename(tmp_path / "folder")

        return away


class Driver(RuntimeDriverSuite):
    time_limit = 4.0

    @pytest.fixture
    def memory(self):
        return MemoryEngine()

    @pytest.fixture
    def driver_factory(self, memory):
        def make(*, hibernate_mode="stop", engine_away=False):
            return self.subject(MemoryEngine(down=True) if engine_away else memory, hibernate_mode=hibernate_mode)

        return make

    @pytest.fixture
    def make_spec(self):
        def make(behaviour, **fields):
            known = {"session_id": f"s{next(numbers)}", "image": behaviour, "mounts": (Mount("home", "/home"),)}
            known |= {"user": "ann", "template": "t", "command_id": "c", "epoch": 7, "cpu": 0.5, "memory": 64 * 1024**2}
            return SessionSpec(**{**known, **fields})

        return make

    @pytest.fixture
    def data_of(self, memory):
        async def data_of(session_id):
            return any(volume[0] == session_id for volume in memory.volumes)

        return data_of


for suite, module in ((Backend, backends), (OnDisk, stores), (Driver, drivers)):
    for broken in module.FAULTS:
        more = {"time_limit": 20.0} if broken in backends.SLOW else {}
        globals()[f"Test{broken.__name__}"] = type(f"Test{broken.__name__}", (suite,), {"subject": broken, **more})
