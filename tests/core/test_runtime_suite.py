"""The conformance suite of runtime drivers, on the driver in memory."""

import itertools

import pytest

from streamspace_agent.runtime import Mount, SessionSpec
from streamspace_agent.testing.engine import MemoryDriver, MemoryEngine
from streamspace_agent.testing.runtime import DataOf, DriverFactory, MakeSpec, RuntimeDriverSuite

numbers = itertools.count(1)


def memory_spec(behaviour, **fields):
    known = {
        "session_id": f"s{next(numbers)}",
        "user": "ann",
        "template": "tiny",
        "image": behaviour,
        "command_id": "command-1",
        "epoch": 7,
        "cpu": 0.5,
        "memory": 64 * 1024**2,
        "mounts": (Mount("home", "/home/user"),),
    }
    return SessionSpec(**{**known, **fields})


class TestMemoryDriver(RuntimeDriverSuite):
    @pytest.fixture
    def memory(self):
        return MemoryEngine()

    @pytest.fixture
    def driver_factory(self, memory) -> DriverFactory:
        def make(*, hibernate_mode="stop", engine_away=False):
            return MemoryDriver(MemoryEngine(down=True) if engine_away else memory, hibernate_mode=hibernate_mode)

        return make

    @pytest.fixture
    def make_spec(self) -> MakeSpec:
        return memory_spec

    @pytest.fixture
    def data_of(self, memory) -> DataOf:
        async def data_of(session_id):
            return any(volume[0] == session_id for volume in memory.volumes)

        return data_of
