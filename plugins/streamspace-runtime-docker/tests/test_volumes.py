"""A session's volumes: writable by its user, found by name, its own."""

import asyncio
import io
import os
import time

import pytest

from lab.until import until
from streamspace_agent.errors import CommandFailed
from streamspace_agent.runtime import Mount

LIST = r"GET /volumes\?"
SLOW = 15.0
"""Seconds that an engine with a dead volume plugin takes to list volumes."""


def inside(api, spec, command, **more):
    made = api.exec_create(f"streamspace-{spec.session_id}", ["sh", "-c", command], **more)
    output = api.exec_start(made["Id"]).decode()
    return api.exec_inspect(made["Id"])["ExitCode"], output


def volumes(api, spec):
    found = api.volumes(filters={"label": f"streamspace.session={spec.session_id}"})["Volumes"] or []
    return {volume["Name"].removeprefix(f"streamspace-{spec.session_id}-") for volume in found}


@pytest.fixture
def built(api, tiny_image, run_label):
    """Makes images on the tiny one."""
    made = []

    def make(*lines):
        tag = f"{run_label}-built:{len(made)}"
        recipe = "\n".join([f"FROM {tiny_image}", *lines]).encode()
        for line in api.build(fileobj=io.BytesIO(recipe), tag=tag, rm=True, decode=True):
            assert "error" not in line, line
        made.append(tag)
        return tag

    yield make
    for tag in made:
        api.remove_image(tag, force=True)


ACCOUNTS = (
    "USER 0\nRUN printf 'root:x:0:0::/:/bin/sh\\nabc:x:911:912::/:/bin/sh\\n' > /etc/passwd; "
    "printf 'root:x:0:\\nusers:x:100:abc\\n' > /etc/group"
)


@pytest.mark.parametrize(
    ("user", "owner"),
    [("1234", "1234 0"), ("1234:56", "1234 56"), ("abc", "911 912"), ("911", "911 912"), ("abc:users", "911 100")],
)
async def test_a_home_that_the_image_does_not_have_belongs_to_the_images_user(
    driver, make_spec, quiet, api, built, user, owner
):
    spec = make_spec(image=built(ACCOUNTS, f"USER {user}"), mounts=(Mount("home", "/config"), Mount("data", "/srv/x")))
    await driver.start(spec, quiet)
    for path in ("/config", "/srv/x"):
        assert inside(api, spec, f"touch {path}/file && stat -c '%u %g' {path}") == (0, f"{owner}\n")


async def test_a_home_that_the_image_has_keeps_its_owner(driver, make_spec, quiet, api, built):
    has = built(ACCOUNTS, "RUN mkdir /config && chown 77:78 /config && chmod 750 /config", "USER abc")
    spec = make_spec(image=has, mounts=(Mount("home", "/config"),))
    await driver.start(spec, quiet)
    assert inside(api, spec, "stat -c '%u %g %a' /config") == (0, "77 78 750\n")


async def test_a_home_of_an_earlier_session_stays_as_it_is(driver, make_spec, quiet, api):
    spec = make_spec(mounts=(Mount("home", "/config"),))
    await driver.start(spec, quiet)
    os.chown(api.inspect_volume(f"streamspace-{spec.session_id}-home")["Mountpoint"], 0, 0)
    await driver.stop(spec.session_id)
    await driver.start(make_spec(mounts=spec.mounts, command_id="later"), quiet)
    assert inside(api, spec, "stat -c '%u %g' /config") == (0, "0 0\n")


async def test_an_account_that_the_image_does_not_have_fails_no_start(driver, make_spec, quiet, built, caplog):
    spec = make_spec(image=built("USER 0", "RUN rm -f /etc/passwd", "USER 4321"), mounts=(Mount("home", "/config"),))
    assert (await driver.start(spec, quiet)).ready


async def test_a_volume_that_another_host_made_is_used(make_driver, odd, spec, quiet):
    """One of a driver whose volumes all hosts see: the engine that only found it shows no labels."""
    odd.change("POST /volumes/create", lambda body: body | {"Labels": None, "Scope": "global"})
    assert (await make_driver(odd=odd).start(spec, quiet)).ready


async def test_a_local_volume_without_labels_is_not_used(driver, spec, quiet, api):
    api.create_volume(f"streamspace-{spec.session_id}-home")
    try:
        with pytest.raises(CommandFailed, match="volume_taken: .* belongs to no session"):
            await driver.start(spec, quiet)
    finally:
        api.remove_volume(f"streamspace-{spec.session_id}-home")


async def test_where_the_engine_lists_volumes_slowly_nobody_waits_for_that(make_driver, odd, make_spec, quiet, api):
    odd.delay(LIST, SLOW)
    driver = make_driver(odd=odd)
    good, bad = make_spec("-good"), make_spec("-bad", environment={"MODE": "crash", "AFTER": "0", "PORT": "5901"})
    begun = time.monotonic()
    await driver.start(good, quiet)
    with pytest.raises(CommandFailed):
        await driver.start(bad, quiet)
    await driver.leftovers(frozenset())
    await driver.stop(good.session_id, delete_volumes=True)
    assert time.monotonic() - begun < SLOW
    assert (volumes(api, good), volumes(api, bad)) == (set(), set())


async def test_volumes_of_an_earlier_container_go_too_however_slow_the_engine_lists_them(
    make_driver, odd, make_spec, quiet, api
):
    odd.delay(LIST, 2.0)
    driver = make_driver(odd=odd)
    both = make_spec(mounts=(Mount("home", "/home/user"), Mount("data", "/data")))
    await driver.start(both, quiet)
    await driver.stop(both.session_id)
    one = make_spec(command_id="later", mounts=(Mount("home", "/home/user"),))
    await driver.start(one, quiet)
    await driver.stop(one.session_id, delete_volumes=True)
    assert "home" not in volumes(api, one)

    async def gone():
        return not await asyncio.to_thread(volumes, api, one)

    await until(gone)


async def test_volumes_of_a_session_that_was_stopped_before_are_gone_when_the_stop_is_done(
    make_driver, odd, spec, quiet, api
):
    odd.delay(LIST, 2.0)
    driver = make_driver(odd=odd)
    await driver.start(spec, quiet)
    await driver.stop(spec.session_id)
    await driver.stop(spec.session_id, delete_volumes=True)
    assert volumes(api, spec) == set()


async def test_a_session_that_starts_again_meanwhile_keeps_what_it_makes_and_none_of_what_was_deleted(
    make_driver, odd, make_spec, quiet, api
):
    odd.delay(LIST, 3.0)
    odd.delay("POST /containers/create", 4.0)
    driver, home = make_driver(odd=odd), (Mount("home", "/home/user"),)
    both = make_spec(mounts=(*home, Mount("data", "/data")))
    await driver.start(both, quiet)
    await driver.stop(both.session_id)
    one = make_spec(command_id="second", mounts=home)
    await driver.start(one, quiet)
    await driver.stop(one.session_id, delete_volumes=True)
    again = make_spec(command_id="third", mounts=both.mounts)
    await driver.start(again, quiet)
    assert volumes(api, again) == {"home", "data"}
    found = api.volumes(filters={"label": f"streamspace.session={again.session_id}"})["Volumes"]
    assert {volume["Labels"]["streamspace.command"] for volume in found} == {"third"}
