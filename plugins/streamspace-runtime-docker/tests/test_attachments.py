"""A session and its networks: what sleeps keeps its network, and a wake mends what was changed meanwhile."""

from contextlib import contextmanager

import pytest

from streamspace_agent.errors import Injected
from streamspace_agent.runtime import SessionState


@pytest.fixture
def earlier(api, run_label):
    """A network name of a test's own; what bears it goes with the test."""
    name = f"{run_label}-earlier"
    yield name
    for network in api.networks(names=[name]):
        for container in api.inspect_network(network["Id"])["Containers"] or {}:
            api.disconnect_container_from_network(container, network["Id"], force=True)
        api.remove_network(network["Id"])


@contextmanager
def network_of(api, name):
    made = api.create_network(name, driver="bridge")["Id"]
    try:
        yield made
    finally:
        api.remove_network(made)


async def greeting(driver, spec):
    reader, writer = await driver.connect(spec.session_id, 5900)
    try:
        return await reader.readexactly(4)
    finally:
        writer.close()


def attached(api, spec):
    body = api.inspect_container(f"streamspace-{spec.session_id}")
    return set(body["NetworkSettings"]["Networks"])


async def test_a_network_that_a_sleeping_session_is_on_is_not_left_over(make_driver, spec, quiet, earlier):
    before = make_driver(network_name=earlier)
    await before.start(spec, quiet)
    await before.hibernate(spec.session_id)
    assert await make_driver().leftovers(frozenset({spec.session_id})) == []


async def test_a_network_that_another_agents_sleeping_session_is_on_is_not_left_over(
    make_driver, make_spec, quiet, earlier, run_label
):
    ours, theirs = make_spec("-ours"), make_spec("-theirs")
    before, other = (
        make_driver(network_name=earlier),
        make_driver(network_name=earlier, agent_id=f"{run_label}-another"),
    )
    await before.start(ours, quiet)
    await other.start(theirs, quiet)
    await other.hibernate(theirs.session_id)
    await before.stop(ours.session_id)
    assert await make_driver().leftovers(frozenset()) == []
    await other.stop(theirs.session_id)
    assert [item.kind for item in await make_driver().leftovers(frozenset())] == ["network"]


async def test_a_session_that_slept_through_a_change_of_network_name_wakes_on_the_new_network(
    make_driver, spec, quiet, earlier, api, network
):
    before = make_driver(network_name=earlier)
    await before.start(spec, quiet)
    await before.hibernate(spec.session_id)
    driver = make_driver()
    assert (await driver.wake(spec.session_id, quiet)).ready
    assert attached(api, spec) == {network}
    assert await greeting(driver, spec) == b"RFB "
    assert [item.name for item in await driver.leftovers(frozenset())] == [earlier]


async def test_a_session_whose_network_is_gone_wakes_on_the_one_of_now(make_driver, spec, quiet, earlier, api, network):
    before = make_driver(network_name=earlier)
    await before.start(spec, quiet)
    await before.hibernate(spec.session_id)
    api.remove_network(earlier)
    assert (await make_driver().wake(spec.session_id, quiet)).ready
    assert attached(api, spec) == {network}


async def test_an_engine_that_asks_for_the_network_a_session_was_made_for_is_given_one_of_that_name(
    make_driver, spec, quiet, earlier, api, network, odd
):
    """Engines from 28 do, whatever the container is attached to now."""
    before = make_driver(network_name=earlier)
    await before.start(spec, quiet)
    await before.hibernate(spec.session_id)
    api.remove_network(earlier)
    words = f"could not find a network matching network mode {earlier}: network {earlier} not found"
    odd.refuse(r"^POST /containers/\w+/start", 404, f"failed to set up container networking: {words}", times=1)
    driver = make_driver(odd=odd)
    assert (await driver.wake(spec.session_id, quiet)).ready
    assert attached(api, spec) == {network}
    assert [item.name for item in await driver.leftovers(frozenset({spec.session_id}))] == [earlier]


async def test_a_session_wakes_on_a_network_that_was_made_anew_under_its_name(make_driver, spec, quiet, earlier, api):
    """The container still names the old one's id; the driver still believes that it is there."""
    driver = make_driver(network_name=earlier)
    await driver.start(spec, quiet)
    await driver.hibernate(spec.session_id)
    api.remove_network(earlier)
    with network_of(api, earlier):
        assert (await driver.wake(spec.session_id, quiet)).ready
        assert await greeting(driver, spec) == b"RFB "
        await driver.stop(spec.session_id)


async def test_a_session_wakes_without_a_second_network_that_is_gone(make_driver, spec, quiet, api, network, run_label):
    driver = make_driver()
    await driver.start(spec, quiet)
    with network_of(api, f"{run_label}-a-second") as second:
        api.connect_container_to_network(f"streamspace-{spec.session_id}", second)
        await driver.hibernate(spec.session_id)
    assert (await driver.wake(spec.session_id, quiet)).ready
    assert attached(api, spec) == {network}


async def test_an_interrupted_start_is_completed_on_the_network_of_now(make_driver, spec, quiet, earlier, api, network):
    before = make_driver(network_name=earlier, environ={"STREAMSPACE_FAULTS": "docker.after_create=raise"})
    with pytest.raises(Injected):
        await before.start(spec, quiet)
    api.remove_network(earlier)
    assert (await make_driver().start(spec, quiet)).ready
    assert attached(api, spec) == {network}


async def test_a_sessions_address_is_the_one_on_the_sessions_network(make_driver, spec, quiet, api, network, run_label):
    """Networks are listed by name: this one comes first."""
    driver = make_driver()
    await driver.start(spec, quiet)
    name = f"streamspace-{spec.session_id}"
    with network_of(api, f"a-{run_label}") as second:
        api.connect_container_to_network(name, second)
        try:
            own = api.inspect_container(name)["NetworkSettings"]["Networks"][network]["IPAddress"]
            assert (await driver.inspect(spec.session_id)).address == own
            assert [session.address for session in await driver.sessions()] == [own]
            assert await greeting(driver, spec) == b"RFB "
        finally:
            api.disconnect_container_from_network(name, second)


async def test_a_session_that_runs_on_an_earlier_network_is_reached_there(make_driver, spec, quiet, earlier, api):
    before = make_driver(network_name=earlier)
    await before.start(spec, quiet)
    driver = make_driver()
    found = await driver.inspect(spec.session_id)
    assert (found.state, found.address != "") == (SessionState.RUNNING, True)
    assert await greeting(driver, spec) == b"RFB "
