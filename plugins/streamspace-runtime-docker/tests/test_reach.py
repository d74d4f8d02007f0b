"""Reaching sessions: directly or by published ports, and a real desktop image under the default limits."""

import pytest

from streamspace_agent.errors import CommandFailed
from streamspace_agent.runtime import SessionState
from streamspace_runtime_docker.networks.network import NetworkInfo, read


@pytest.fixture
def no_route(monkeypatch):
    """As with a remote or rootless engine: the network's gateway is no address of ours."""
    monkeypatch.setattr(NetworkInfo, "direct", False)


async def test_without_a_route_ports_are_published_on_loopback_and_used(no_route, make_driver, spec, quiet, api):
    driver = make_driver()
    assert (await driver.start(spec, quiet)).ready
    ports = api.inspect_container(f"streamspace-{spec.session_id}")["NetworkSettings"]["Ports"]
    [binding] = ports["5900/tcp"]
    assert binding["HostIp"] == "127.0.0.1"
    reader, writer = await driver.connect(spec.session_id, 5900)
    assert writer.get_extra_info("peername") == ("127.0.0.1", int(binding["HostPort"]))
    assert await reader.readexactly(4) == b"RFB "
    writer.close()


def test_a_remote_engines_bridge_is_not_taken_for_one_of_ours_with_the_same_gateway():
    body = {"Id": "a" * 64, "IPAM": {"Config": [{"Gateway": "127.0.0.1"}]}}
    assert read(body, "unix:///var/run/docker.sock").direct
    assert not read(body, "tcp://10.99.0.3:2376").direct
    assert read(body | {"Options": {"com.docker.network.bridge.name": "lo"}}, "tcp://127.0.0.1:2375").direct


async def test_never_publishing_without_a_route_is_told_by_the_check(no_route, make_driver, spec, quiet):
    driver = make_driver(environ={"PUBLISH_PORTS": "never"})
    await driver.start(spec, quiet)  # which makes the network
    problems = await driver.check()
    assert any("PUBLISH_PORTS=never" in problem.message and problem.fatal for problem in problems)


async def test_a_session_that_sleeps_cannot_be_connected_to(driver, spec, quiet):
    await driver.start(spec, quiet)
    await driver.hibernate(spec.session_id)
    with pytest.raises(CommandFailed, match="not_running"):
        await driver.connect(spec.session_id, 5900)


async def test_a_port_on_which_nothing_listens_is_an_os_error(driver, spec, quiet):
    await driver.start(spec, quiet)
    with pytest.raises(ConnectionRefusedError):
        await driver.connect(spec.session_id, 5999)


async def test_a_usual_desktop_starts_sleeps_and_wakes_under_the_default_limits(
    driver, make_spec, desktop_image, quiet
):
    spec = make_spec(image=desktop_image, memory=512 * 1024**2, cpu=2.0)
    assert (await driver.start(spec, quiet)).ready
    assert (await driver.hibernate(spec.session_id)).state is SessionState.HIBERNATED
    assert (await driver.wake(spec.session_id, quiet)).ready


async def test_a_session_whose_network_is_gone_still_runs_and_cannot_be_used(driver, make_driver, spec, quiet, api):
    await driver.start(spec, quiet)
    name = f"streamspace-{spec.session_id}"
    for network in api.inspect_container(name)["NetworkSettings"]["Networks"]:
        api.disconnect_container_from_network(name, network)
    found = await make_driver(ready_timeout=0.5).prove(spec.session_id)
    assert (found.state, found.ready) == (SessionState.RUNNING, False)
    with pytest.raises(OSError, match="no address to connect to"):
        await driver.connect(spec.session_id, 5900)
