"""What every test may stand on: the engine, the images, and a check that nothing is left behind."""

import gc
import json
import logging
import os
import uuid
from pathlib import Path

import docker
import hypothesis
import pytest

from lab.engine import MainEngine
from lab.images import Images
from streamspace_devplane.agents.state import CRASHES_VARIABLE

# How fast examples are made and run tells of the machine, which others use as well, and of nothing under test.
hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("busy")


LIVE = {"docker_host", "plane", "house", "module_server", "server", "servers", "chromium"}
"""Fixtures that start something to run against."""


def pytest_collection_modifyitems(items):
    for item in items:
        if not LIVE.isdisjoint(item.fixturenames):
            item.add_marker("live")


@pytest.fixture(scope="session")
def run_label():
    """Unique to this run: an agent id that starts with it is covered by the leak check."""
    return f"t{uuid.uuid4().hex[:10]}"


@pytest.fixture(scope="session")
def engine():
    """The main engine; run through `make test` it is up already, alone pytest brings it up and leaves it running."""
    return MainEngine(os.environ)


@pytest.fixture(scope="session")
def docker_host(engine, run_label):
    with engine.use() as host:
        yield host
        left = _labelled(host, run_label)
        assert not left, f"left behind on the engine: {left}"


@pytest.fixture
def docker_client(docker_host):
    client = docker.DockerClient(base_url=docker_host)
    yield client
    client.close()


@pytest.fixture(scope="session")
def desktop_image(engine, docker_host):
    with Images(docker_host, engine.state) as images:
        return images.ensure("desktop")


@pytest.fixture(scope="session")
def web_image(engine, docker_host):
    with Images(docker_host, engine.state) as images:
        return images.ensure("web")


@pytest.fixture(scope="session")
def tiny_image(engine, docker_host):
    with Images(docker_host, engine.state) as images:
        return images.ensure("tiny")


@pytest.fixture(scope="session")
def standin_image(engine, docker_host):
    with Images(docker_host, engine.state) as images:
        return images.ensure("standin")


@pytest.fixture(scope="session")
def unexpected_crashes(tmp_path_factory):
    """What the tests so far made crash that is not their subject; control planes in processes of their own tell it
    too."""
    file = tmp_path_factory.mktemp("control-plane") / "crashes.jsonl"
    file.touch()
    os.environ[CRASHES_VARIABLE] = str(file)
    found = Crashes(file)
    yield found
    del os.environ[CRASHES_VARIABLE]
    assert not found.unexpected, f"would have crashed the deployed control plane: {found.unexpected}"


class Crashes:
    def __init__(self, file):
        self.file = file
        self.read = 0
        self.unexpected = []

    def new(self):
        lines = self.file.read_text().splitlines()
        new, self.read = lines[self.read :], len(lines)
        return [json.loads(line) for line in new]


@pytest.fixture(scope="module", autouse=True)
def what_a_file_left_open_is_told_there():
    """Else it is told wherever the collector happens to run next."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def the_control_plane_does_not_crash(request, unexpected_crashes):
    yield
    new = unexpected_crashes.new()
    if not request.node.get_closest_marker("crashes_control_plane"):
        unexpected_crashes.unexpected += [(request.node.nodeid, crash) for crash in new]
        assert not new, "would have crashed the deployed control plane"


@pytest.fixture(autouse=True)
def no_other_tests_secrets_and_names_in_the_log():
    """What the log hides, and whom it names, is the process's; here many agents and tests live in one."""
    yield
    logging.getLogger("streamspace_agent").filters.clear()


@pytest.fixture(scope="session", autouse=True)
def no_process_is_left_behind(engine):
    before = _children()
    yield
    known = {*before, str(engine.private.pid)}  # the main engine may stay
    left = {pid: name for pid, name in _children().items() if pid not in known}
    assert not left, f"child processes left behind: {left}"


def _children():
    found = {}
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            found[pid] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return found


def _labelled(host, run_label):
    """Names of this run's containers, volumes and networks: those whose label streamspace.agent starts with its id."""
    client = docker.DockerClient(base_url=host)
    try:
        only = {"label": "streamspace.agent"}
        listed = [
            *client.api.containers(all=True, filters=only),
            *(client.api.volumes(filters=only)["Volumes"] or []),
            *client.api.networks(filters=only),
        ]
    finally:
        client.close()
    mine = [entry for entry in listed if entry["Labels"]["streamspace.agent"].startswith(run_label)]
    return [entry.get("Name") or entry["Names"][0] for entry in mine]
