"""The core's conformance suite on a real engine."""

import itertools

import pytest

from lab.registry import Registry
from streamspace_agent.config import Settings
from streamspace_agent.testing.runtime import Behaviour, DataOf, DriverFactory, MakeSpec, RuntimeDriverSuite
from streamspace_runtime_docker import create_runtime_driver

ENVIRONMENT = {
    Behaviour.CRASHES: {"MODE": "crash", "AFTER": "2"},
    Behaviour.DIES: {"MODE": "crash", "AFTER": "0", "PORT": "5901"},
    Behaviour.HANGS: {"MODE": "hang"},
    Behaviour.ANSWERS: {"MODE": "http"},
    Behaviour.CHANGES: {"MODE": "changes"},
}


@pytest.fixture(scope="module")
def registry():
    with Registry() as registry:
        yield registry


@pytest.fixture
def pullable(registry, docker_host, api):
    """An image that only a registry has; slow and large enough for its bytes to show in containerd's store, too."""
    pushed, numbers = [], itertools.count()
    registry.proxy.rate = 4_000_000

    def make():
        pushed.append(registry.push_generated(docker_host, f"big:{next(numbers)}", megabytes=4, layers=2))
        return pushed[-1]

    yield make
    for image in pushed:
        api.remove_image(image, force=True)


class TestDockerDriver(RuntimeDriverSuite):
    @pytest.fixture
    def driver_factory(self, make_driver) -> DriverFactory:
        def make(*, hibernate_mode="stop", engine_away=False):
            if engine_away:
                nowhere = {"docker_host": "unix:///nowhere/docker.sock"}
                settings = Settings(agent_id="agent-1", control_plane_url="ws://127.0.0.1:1", **nowhere)
                return create_runtime_driver(settings, {})
            return make_driver(hibernate_mode=hibernate_mode, ready_timeout=6.0)

        return make

    @pytest.fixture
    def make_spec(self, make_spec, pullable) -> MakeSpec:
        numbers = itertools.count()

        def make(behaviour, **fields):
            image = {"image": pullable()} if behaviour is Behaviour.UNPULLED else {}
            return make_spec(f"-{next(numbers)}", environment=ENVIRONMENT.get(behaviour, {}), **image, **fields)

        return make

    @pytest.fixture
    def data_of(self, api) -> DataOf:
        async def data_of(session_id):
            return bool(api.volumes(filters={"label": f"streamspace.session={session_id}"})["Volumes"])

        return data_of
