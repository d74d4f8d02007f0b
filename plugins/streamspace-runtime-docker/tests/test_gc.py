"""What counts as left over, what never does, and removing it."""

import pytest

from streamspace_agent.errors import Injected


async def half_made(make_driver, spec, quiet):
    with pytest.raises(Injected):
        await make_driver(environ={"STREAMSPACE_FAULTS": "docker.after_create=raise"}).start(spec, quiet)


async def test_a_start_that_never_ran_is_left_over_with_its_volume(make_driver, driver, spec, quiet):
    await half_made(make_driver, spec, quiet)
    found = await driver.leftovers(frozenset())
    assert {(item.kind, item.name) for item in found} == {
        ("container", f"streamspace-{spec.session_id}"),
        ("volume", f"streamspace-{spec.session_id}-home"),
    }
    for item in found:
        await driver.remove(item)
        await driver.remove(item)
    assert await driver.leftovers(frozenset()) == []
    assert await driver.inspect(spec.session_id) is None


async def test_what_a_known_session_needs_is_not_left_over(make_driver, driver, spec, quiet):
    await half_made(make_driver, spec, quiet)
    assert await driver.leftovers(frozenset({spec.session_id})) == []


async def test_what_is_young_is_not_left_over(make_driver, spec, quiet):
    await half_made(make_driver, spec, quiet)
    assert await make_driver(environ={"LEFTOVER_GRACE": "1h"}).leftovers(frozenset()) == []


async def test_sessions_and_their_data_are_never_left_over(driver, make_spec, quiet):
    running, asleep, gone = make_spec("-running"), make_spec("-asleep"), make_spec("-gone")
    for spec in (running, asleep, gone):
        await driver.start(spec, quiet)
    await driver.hibernate(asleep.session_id)
    await driver.stop(gone.session_id)
    assert await driver.leftovers(frozenset()) == []


async def test_a_container_that_ran_since_it_was_found_stays(make_driver, driver, spec, quiet):
    await half_made(make_driver, spec, quiet)
    found = await driver.leftovers(frozenset())
    await driver.start(spec, quiet)
    for item in found:
        await driver.remove(item)
    assert (await driver.start(spec, quiet)).ready


async def test_an_empty_network_of_an_earlier_name_is_left_over(make_driver, make_spec, quiet, run_label, api):
    earlier = make_driver(network_name=f"{run_label}-earlier")
    spec = make_spec(mounts=())
    await earlier.start(spec, quiet)
    driver = make_driver()
    assert await driver.leftovers(frozenset()) == [], "a session is on it"
    await earlier.stop(spec.session_id)
    [item] = await driver.leftovers(frozenset())
    assert (item.kind, item.name) == ("network", f"{run_label}-earlier")
    await driver.remove(item)
    assert api.networks(names=[f"{run_label}-earlier"]) == []
