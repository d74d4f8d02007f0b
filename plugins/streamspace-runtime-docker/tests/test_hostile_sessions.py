"""What images and people inside sessions put in the driver's way: labels, names, and files where its mark belongs."""

import asyncio
import io
import resource
from contextlib import contextmanager

import pytest

from lab.until import until
from streamspace_agent.errors import CommandFailed
from streamspace_agent.runtime import EventKind, Mount, SessionState
from streamspace_runtime_docker.containers import config


def run(api, name, command):
    made = api.exec_create(name, ["sh", "-c", command], user="root")
    output = api.exec_start(made["Id"])
    assert api.exec_inspect(made["Id"])["ExitCode"] == 0, output


@pytest.fixture
def labelled(api, tiny_image, run_label):
    """Makes images with labels."""
    made = []

    def make(**labels):
        lines = [f"FROM {tiny_image}", *(f'LABEL streamspace.{n.replace("_", "-")}="{v}"' for n, v in labels.items())]
        tag = f"{run_label}-labelled:{len(made)}"
        for line in api.build(fileobj=io.BytesIO("\n".join(lines).encode()), tag=tag, rm=True, decode=True):
            assert "error" not in line, line
        made.append(tag)
        return tag

    yield make
    for tag in made:
        api.remove_image(tag, force=True)


@contextmanager
def stranger(api, image, name):
    """A container that no agent made."""
    made = api.create_container(image, name=name)["Id"]
    try:
        api.start(made)
        yield made
    finally:
        api.remove_container(made, force=True)


async def test_an_images_labels_tell_nothing_of_its_sessions(driver, make_spec, quiet, labelled):
    image = labelled(
        memory="inf", cpu="nan", idle_timeout="1", max_duration="1", port="inf", ready="http", agent="x", seal="known"
    )
    spec = make_spec(image=image, memory=None, cpu=None)
    await driver.start(spec, quiet)
    for session in (await driver.inspect(spec.session_id), *await driver.sessions()):
        assert (session.memory, session.cpu, session.idle_timeout, session.max_duration) == (None, None, None, None)
        assert (session.port, session.ready) == (5900, True)


@pytest.mark.parametrize("number", ["inf", "nan", "-1", "9" * 400])
async def test_a_strange_containers_labels_spoil_no_list(driver, make_spec, quiet, api, labelled, run_label, number):
    spec = make_spec()
    await driver.start(spec, quiet)
    image = labelled(
        agent=driver.agent_id, session="x", memory=number, cpu=number, port=number, epoch=number, max_duration=number
    )
    with stranger(api, image, f"{run_label}-stranger"), stranger(api, image, "streamspace-x"):
        sessions = {session.session_id: session for session in await driver.sessions()}
        assert sessions[spec.session_id].memory == spec.memory
        strange = sessions["x"]
        assert (strange.memory, strange.cpu, strange.port, strange.epoch) == (None, None, 0, 0)
        assert len(sessions) == 2
        assert (await driver.start(make_spec("-next"), quiet)).ready


async def test_a_strange_containers_end_is_no_event_and_it_is_no_leftover(
    driver, spec, quiet, api, labelled, run_label, events
):
    image = labelled(agent=driver.agent_id, session="x")
    await driver.start(spec, quiet)
    with stranger(api, image, f"{run_label}-stranger") as container:
        api.kill(container)
    never_ran = api.create_container(image, name=f"{run_label}-unstarted")["Id"]
    try:
        assert await driver.leftovers(frozenset()) == []
    finally:
        api.remove_container(never_ran, force=True)
    api.kill(f"streamspace-{spec.session_id}")
    event = await asyncio.wait_for(events.get(), 20)
    assert (event.kind, event.session.session_id) == (EventKind.ENDED, spec.session_id)


@pytest.mark.parametrize(
    "plant",
    [
        "mkdir /.streamspace-state && truncate -s 2G /.streamspace-state/big",
        "truncate -s 2G /.streamspace-state",
        "ln -s /proc/kcore /.streamspace-state",
        "mkfifo /.streamspace-state",
    ],
)
async def test_what_lies_where_the_mark_belongs_is_not_read_further_than_a_mark(driver, spec, quiet, api, plant):
    await driver.start(spec, quiet)
    name = f"streamspace-{spec.session_id}"
    run(api, name, plant)
    api.kill(name, "SIGKILL")
    await driver.sessions()  # what the SDK and its buffers take comes once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        [session] = await asyncio.wait_for(driver.sessions(), 10)
    assert session.state is SessionState.HIBERNATED
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024
    assert (await driver.wake(spec.session_id, quiet)).ready


async def test_a_session_cannot_forge_a_mark(driver, make_spec, quiet, api):
    """Not even with the moment of its start, which it might guess, and an earlier mark before its eyes."""
    spec = make_spec(environment={"MODE": "crash", "AFTER": "3"})
    await driver.start(spec, quiet)
    await driver.hibernate(spec.session_id)
    await driver.wake(spec.session_id, quiet)
    name = f"streamspace-{spec.session_id}"
    started = api.inspect_container(name)["State"]["StartedAt"]
    run(api, name, f"sed -i 's/^hibernated [^ ]*/hibernated {started}/; s/$//' /.streamspace-state")
    run(api, name, f"grep -q {started} /.streamspace-state && echo 'hibernated {started}' > /tmp/x")

    async def seen():
        found = await driver.inspect(spec.session_id)
        return found if found.state is not SessionState.RUNNING else None

    assert (await until(seen)).state is SessionState.FAILED


@pytest.mark.parametrize(
    "path",
    [
        config.STATE_FILE,
        f"/{config.STATE_FILE}",
        f"{config.STATE_FILE}/deep",
        f"/.{config.STATE_FILE}/",
        f"/x/..{config.STATE_FILE}",
    ],
)
async def test_no_volume_hides_the_mark(driver, make_spec, quiet, path):
    with pytest.raises(CommandFailed, match="invalid_template: .*streamspace-state"):
        await driver.start(make_spec(mounts=(Mount("data", path),)), quiet)


async def test_a_kept_volume_is_used_by_its_own_agent_only(make_driver, spec, quiet, run_label):
    first, second = make_driver(), make_driver(agent_id=f"{run_label}-second")
    await first.start(spec, quiet)
    await first.stop(spec.session_id)
    with pytest.raises(CommandFailed, match=f"volume_taken: .* belongs to the agent {first.agent_id}"):
        await second.start(spec, quiet)
    assert (await first.start(spec, quiet)).ready


@pytest.mark.parametrize("kept", ["volume", "asleep", "running"])
async def test_another_users_session_is_not_given_out(driver, make_spec, quiet, kept):
    spec = make_spec(user="ann")
    await driver.start(spec, quiet)
    if kept == "volume":
        await driver.stop(spec.session_id)
    elif kept == "asleep":
        await driver.hibernate(spec.session_id)
    code = "volume_taken" if kept == "volume" else "session_taken"
    with pytest.raises(CommandFailed, match=f"{code}: .* belongs to the user 'ann'"):
        await driver.start(make_spec(user="bob", command_id="bobs"), quiet)
    assert (await driver.start(make_spec(user="ann", command_id="anns"), quiet)).ready
