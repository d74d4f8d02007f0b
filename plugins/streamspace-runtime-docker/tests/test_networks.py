"""The sessions' network: one of its name, whoever makes it, and what is said where it does not keep sessions apart."""

import asyncio
import functools

import docker
import pytest

from streamspace_agent.errors import CommandFailed
from streamspace_runtime_docker.networks.network import ICC


@pytest.fixture
def name(api, run_label):
    """A network name of a test's own; what bears it goes with the test."""
    name = f"{run_label}-twice"
    yield name
    for network in api.networks(names=[name]):
        for container in api.inspect_network(network["Id"])["Containers"] or {}:
            api.disconnect_container_from_network(container, network["Id"], force=True)
        api.remove_network(network["Id"])


def make(api, name):
    """Its id; "" where the engine keeps one network of a name and has it, as those from 25 do."""
    create = functools.partial(api.create_network, name, driver="bridge", check_duplicate=False, options={ICC: "false"})
    if named(api, name) and int(api.version()["Version"].partition(".")[0]) >= 25:
        with pytest.raises(docker.errors.APIError, match="already exists"):
            create()
        return ""
    return create()["Id"]


def named(api, name):
    return [network["Id"] for network in api.networks(names=[name]) if network["Name"] == name]


async def test_two_agents_that_make_the_network_at_once_end_with_one(
    make_driver, odd, make_spec, quiet, api, name, run_label
):
    """Their engines keep both; then every start fails with `ambiguous`."""
    odd.delay("^POST /networks/create", 0.5)  # all have looked by then
    drivers = [make_driver(agent_id=f"{run_label}-at-once-{i}", network_name=name, odd=odd) for i in range(4)]
    sessions = await asyncio.gather(*(driver.start(make_spec(f"-{i}"), quiet) for i, driver in enumerate(drivers)))
    assert all(session.ready for session in sessions)
    assert len(named(api, name)) == 1


async def test_of_two_networks_of_the_name_the_empty_one_goes_when_a_session_starts(
    make_driver, spec, quiet, api, name
):
    made = [network for network in (make(api, name), make(api, name)) if network]
    driver = make_driver(network_name=name)
    problems = [p for p in await driver.check() if "2 networks with the name" in p.message]
    assert [p.fatal for p in problems] == [False] * (len(made) - 1)
    assert sorted(named(api, name)) == sorted(made), "a check changes nothing"
    assert (await driver.start(spec, quiet)).ready
    assert len(named(api, name)) == 1
    assert not [p for p in await driver.check() if "networks with the name" in p.message]


async def test_a_second_network_of_the_name_that_comes_later_does_not_keep_sessions_from_starting(
    make_driver, make_spec, quiet, api, name
):
    driver = make_driver(network_name=name)
    await driver.start(make_spec("-first"), quiet)
    [used] = named(api, name)
    make(api, name)
    assert (await driver.start(make_spec("-second"), quiet)).ready
    assert named(api, name) == [used]


async def test_two_networks_of_the_name_that_are_both_in_use_are_told(make_driver, make_spec, quiet, api, name):
    driver, spec = make_driver(network_name=name), make_spec("-first")
    await driver.start(spec, quiet)
    second = make(api, name)
    if not second:
        assert (await make_driver(network_name=name).start(make_spec("-second"), quiet)).ready
        return
    api.connect_container_to_network(f"streamspace-{spec.session_id}", second)
    with pytest.raises(CommandFailed, match=r"network_failed: .* 2 networks with the name .*docker network rm"):
        await make_driver(network_name=name).start(make_spec("-second"), quiet)


async def test_a_host_whose_firewall_does_not_see_sessions_is_told_everywhere(make_driver, odd, spec, quiet, caplog):
    odd.change("GET /info", lambda body: body | {"BridgeNfIptables": False})
    driver = make_driver(odd=odd)
    await driver.start(spec, quiet)
    words = "can reach each other: net.bridge.bridge-nf-call-iptables is 0"
    assert words in caplog.text
    [problem] = [p for p in await driver.check() if words in p.message]
    assert "modprobe br_netfilter" in problem.fix
    assert (await driver.describe())["sessionsIsolated"] == "no"
    assert (await make_driver().describe())["sessionsIsolated"] == "yes"


async def test_no_advice_costs_a_sleeping_session(make_driver, odd, spec, monkeypatch):
    monkeypatch.setattr("streamspace_runtime_docker.check.LOW_DISK", 2**62)
    odd.change("GET /info", lambda body: body | {"DockerRootDir": "/"})  # an engine's folder may be out of sight
    odd.answer("GET /networks\\?", [{"Name": f"n{i}", "Id": f"{i}"} for i in range(40)])
    problems = await make_driver(odd=odd, network_name="never-made").check()
    texts = [p.fix for p in problems if "free in the engine's folder" in p.message or "address pools" in p.message]
    assert len(texts) == 2
    for text in texts:
        for advice in ("docker system prune", "docker network prune", "docker container prune", "docker volume prune"):
            before, found, _ = text.partition(f"`{advice}`")
            assert (
                advice not in text
                or (found and before.rpartition("(")[2].split()[0] in {"never", "not"})
                or "never" in before
            )
