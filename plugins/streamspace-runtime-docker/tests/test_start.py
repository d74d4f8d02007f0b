"""Starting sessions on a real engine: what comes out, what a second start does, what a failed one leaves."""

import asyncio
import os
import subprocess
import sys
import textwrap

import pytest

from lab.odd_engine import OddEngine
from streamspace_agent.errors import CommandFailed, EngineUnavailable, Injected, LeaseLost
from streamspace_agent.runtime import Mount, ReadyCheck, SessionState


def containers(api, spec):
    return api.containers(all=True, filters={"label": f"streamspace.session={spec.session_id}"})


def volumes(api, spec):
    return [
        v["Name"] for v in api.volumes(filters={"label": f"streamspace.session={spec.session_id}"})["Volumes"] or []
    ]


async def test_a_started_session_runs_answers_and_shows_its_spec(driver, spec, quiet):
    session = await driver.start(spec, quiet)
    assert (session.state, session.ready, session.place) == (
        SessionState.RUNNING,
        True,
        f"streamspace-{spec.session_id}",
    )
    assert (session.user, session.template, session.command_id, session.epoch) == ("ann", "tiny", spec.command_id, 7)
    assert (session.cpu, session.memory, session.port) == (0.5, 64 * 1024**2, 5900)
    assert await driver.inspect(spec.session_id) == session
    reader, writer = await driver.connect(spec.session_id, 5900)
    assert await reader.readexactly(12) == b"RFB 003.008\n"
    writer.close()


async def test_a_list_tells_the_same_as_an_inspection(driver, make_spec, quiet):
    spec = make_spec(idle_timeout=1800.0, max_duration=28800.5, cpu=None, memory=None)
    await driver.start(spec, quiet)
    inspected = await driver.inspect(spec.session_id)
    [listed] = await driver.sessions()
    assert (listed.idle_timeout, listed.max_duration, listed.cpu, listed.memory) == (1800.0, 28800.5, None, None)
    assert (listed.address, listed.ready_check, listed.details) == (
        inspected.address,
        inspected.ready_check,
        inspected.details,
    )


async def test_progress_names_each_phase_in_order(driver, spec):
    steps = []
    await driver.start(spec, steps.append)
    assert [step.phase for step in steps] == ["creating", "starting", "waiting"]


async def test_starting_what_runs_returns_it_as_it_is(driver, spec, quiet, api):
    await driver.start(spec, quiet)
    [before] = containers(api, spec)
    assert (await driver.start(spec, quiet)).ready
    [after] = containers(api, spec)
    assert before["Id"] == after["Id"]


@pytest.mark.parametrize("drivers", [1, 2])
async def test_two_starts_at_once_make_one_container(make_driver, spec, quiet, api, drivers):
    made = [make_driver() for _ in range(drivers)]
    sessions = await asyncio.gather(*(made[i % drivers].start(spec, quiet) for i in range(2)))
    assert all(session.ready for session in sessions)
    assert len(containers(api, spec)) == 1


async def test_a_volume_that_another_start_makes_at_the_same_moment_is_used(make_driver, odd, spec, quiet, api):
    """As Podman answers to the second of two that create one name."""
    driver = make_driver(odd=odd)
    await driver.start(spec, quiet)
    await driver.stop(spec.session_id)
    odd.refuse("^POST /volumes/create", 500, "inserting volume: in use", times=1)
    assert (await driver.start(spec, quiet)).ready
    assert odd.rules[0].times == 0
    assert volumes(api, spec)


async def test_sixteen_sessions_start_at_once(driver, make_spec, quiet):
    specs = [make_spec(f"-{i}", mounts=()) for i in range(16)]
    sessions = await asyncio.gather(*(driver.start(spec, quiet) for spec in specs))
    assert all(session.ready for session in sessions)
    assert len({session.address for session in sessions}) == 16
    await asyncio.gather(*(driver.stop(spec.session_id) for spec in specs))
    assert await driver.sessions() == []


async def test_a_container_is_limited_and_stripped_of_privileges(driver, spec, quiet, api):
    await driver.start(spec, quiet)
    body = api.inspect_container(f"streamspace-{spec.session_id}")
    host = body["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (64 * 1024**2, 64 * 1024**2, 500_000_000)
    assert (host["PidsLimit"], host["ShmSize"]) == (2048, 1024**3)
    assert host["CgroupnsMode"] == "private"
    assert host["Ulimits"] == [{"Name": "core", "Soft": 0, "Hard": 0}]
    assert host["CapDrop"] == ["ALL"]
    assert "NET_RAW" not in host["CapAdd"]
    assert "SETUID" in host["CapAdd"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert (host["Privileged"], host["RestartPolicy"]["Name"]) == (False, "no")
    assert not host["PublishAllPorts"]
    assert not any(body["NetworkSettings"]["Ports"].values()), "nothing is published by default"
    labels = body["Config"]["Labels"]
    assert (labels["app"], labels["session-id"]) == ("streamspace", spec.session_id)
    assert labels["streamspace.agent"] == driver.agent_id


async def test_no_secret_of_the_environment_reaches_a_label(driver, make_spec, quiet, api):
    spec = make_spec(environment={"VNC_PW": "hunter2-secret"})
    await driver.start(spec, quiet)
    body = api.inspect_container(f"streamspace-{spec.session_id}")
    assert "VNC_PW=hunter2-secret" in body["Config"]["Env"]
    assert "hunter2-secret" not in str(body["Config"]["Labels"])


async def test_ports_are_published_on_the_publish_address_only_when_asked(make_driver, spec, quiet, api):
    driver = make_driver(environ={"PUBLISH_PORTS": "always"})
    await driver.start(spec, quiet)
    ports = api.inspect_container(f"streamspace-{spec.session_id}")["NetworkSettings"]["Ports"]
    assert {binding["HostIp"] for bindings in ports.values() for binding in bindings or []} == {"127.0.0.1"}


async def test_a_session_answers_over_http(driver, make_spec, quiet):
    spec = make_spec(environment={"MODE": "http", "PORT": "8080"}, ready=ReadyCheck.HTTP, port=8080)
    assert (await driver.start(spec, quiet)).ready


async def test_a_desktop_that_refuses_its_host_for_too_many_connections_without_a_login_is_known_as_vnc(
    make_driver, make_spec, desktop_image, quiet
):
    """TigerVNC, which then greets with RFB 3.3 and its reason."""
    spec = make_spec(image=desktop_image, memory=512 * 1024**2, cpu=1.0, mounts=(), ready=ReadyCheck.ANY)
    driver = make_driver()
    await driver.start(spec, quiet)
    answer = b""
    for _ in range(20):
        reader, writer = await driver.connect(spec.session_id, 5900)
        async with asyncio.timeout(10):
            answer = await reader.readexactly(12)
            if answer == b"RFB 003.003\n":
                answer += await reader.read()
        writer.close()
        if len(answer) > 12:
            break
    assert answer.endswith(b"Too many security failures")
    proved = await make_driver().prove(spec.session_id)
    assert (proved.ready, proved.ready_check) == (True, ReadyCheck.VNC)


async def test_however_often_agents_look_a_desktop_shuts_no_viewer_out(make_driver, make_spec, desktop_image, quiet):
    """TigerVNC bans an address after five connections without a login."""
    spec = make_spec(image=desktop_image, memory=512 * 1024**2, cpu=1.0, mounts=(), ready=ReadyCheck.ANY)
    driver = make_driver()
    await driver.start(spec, quiet)
    for _ in range(8):
        await make_driver().prove(
            spec.session_id
        )  # as each new leader does, which then holds a connection for the next viewer
        _, held = await driver.connect(spec.session_id, 5900)
        held.close()
    reader, writer = await driver.connect(spec.session_id, 5900)
    async with asyncio.timeout(10):
        assert await reader.readexactly(12) == b"RFB 003.008\n"
    writer.close()


async def test_a_session_without_a_port_is_ready_once_it_runs(driver, make_spec, quiet):
    spec = make_spec(environment={"MODE": "hang"}, ready=ReadyCheck.NONE, port=0)
    assert (await driver.start(spec, quiet)).ready


async def test_more_cores_than_the_host_has_are_no_error(driver, make_spec, quiet):
    assert (await driver.start(make_spec(cpu=512.0), quiet)).ready


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"environment": {"MODE": "crash", "DELAY": "0", "AFTER": "0", "PORT": "5901"}}, "session_ended", "giving up"),
        ({"image": "streamspace-lab/no such"}, "invalid_image", "no image reference"),
        ({"memory": 1000}, "invalid_template", "6Mi"),
        ({"mounts": (Mount("home", "relative"),)}, "invalid_template", "absolute"),
        ({"session_id": "no/such name"}, "invalid_session", "letters"),
    ],
)
async def test_a_failed_start_says_why_and_leaves_nothing(driver, make_spec, quiet, api, fields, code, words):
    spec = make_spec(**fields)
    with pytest.raises(CommandFailed) as failure:
        await driver.start(spec, quiet)
    assert failure.value.code == code
    assert words in failure.value.message
    assert containers(api, spec) == []
    assert volumes(api, spec) == []


async def test_a_session_that_never_answers_fails_after_the_ready_timeout(make_driver, make_spec, quiet, api):
    driver = make_driver(ready_timeout=1.0)
    spec = make_spec(environment={"MODE": "hang"})
    with pytest.raises(CommandFailed, match=r"not_ready: no VNC greeting and .* on port 5900 within 1\.0 s") as failure:
        await driver.start(spec, quiet)
    assert "nothing listened there; last log lines:\nsession: hang on port 5900" in failure.value.message
    assert containers(api, spec) == []


async def test_a_session_that_runs_out_of_memory_while_starting_is_named(driver, make_spec, quiet, api):
    spec = make_spec(environment={"MODE": "oom", "AFTER": "0", "PORT": "5901"})
    with pytest.raises(CommandFailed) as failure:
        await driver.start(spec, quiet)
    assert failure.value.code == "out_of_memory"
    assert containers(api, spec) == []


async def test_a_failed_start_keeps_volumes_that_were_there_before(driver, make_spec, quiet, api):
    good = make_spec()
    await driver.start(good, quiet)
    await driver.stop(good.session_id)
    bad = make_spec(command_id="another", environment={"MODE": "crash", "AFTER": "0", "PORT": "5901"})
    with pytest.raises(CommandFailed):
        await driver.start(bad, quiet)
    assert volumes(api, good) == [f"streamspace-{good.session_id}-home"]


async def test_a_volume_of_another_session_is_never_used(driver, make_spec, quiet, api):
    """The session `a-b` with a volume `home` and the session `a` with one `b-home` mean the same name."""
    longer = make_spec("-b")
    await driver.start(longer, quiet)
    shorter = make_spec(mounts=(Mount("b-home", "/data"),))
    with pytest.raises(CommandFailed, match=f"volume_taken: .* belongs to the session {longer.session_id}"):
        await driver.start(shorter, quiet)
    assert containers(api, shorter) == []
    assert volumes(api, longer) == [f"streamspace-{longer.session_id}-home"]


async def test_a_container_of_another_agent_is_never_touched(make_driver, spec, quiet, api, run_label):
    first, second = make_driver(), make_driver(agent_id=f"{run_label}-other")
    await first.start(spec, quiet)
    for attempt in (
        second.start(spec, quiet),
        second.stop(spec.session_id, delete_volumes=True),
        second.hibernate(spec.session_id),
        second.wake(spec.session_id, quiet),
    ):
        with pytest.raises(CommandFailed, match=f"session_taken: .* belongs to the agent {first.agent_id}"):
            await attempt
    assert await second.inspect(spec.session_id) is None
    assert (await first.inspect(spec.session_id)).state is SessionState.RUNNING


async def test_stop_keeps_the_volumes_unless_asked_and_absent_is_success(driver, spec, quiet, api):
    await driver.start(spec, quiet)
    await driver.stop(spec.session_id)
    assert await driver.inspect(spec.session_id) is None
    assert volumes(api, spec) == [f"streamspace-{spec.session_id}-home"]
    await driver.stop(spec.session_id, delete_volumes=True)
    assert volumes(api, spec) == []
    await driver.stop(spec.session_id, delete_volumes=True)


async def test_the_home_outlives_the_session(driver, make_spec, quiet, api):
    spec = make_spec()
    await driver.start(spec, quiet)
    name = f"streamspace-{spec.session_id}"
    made = api.exec_create(name, ["sh", "-c", "echo kept > /home/user/file"])
    api.exec_start(made["Id"])
    await driver.stop(spec.session_id)
    await driver.start(make_spec(command_id="later"), quiet)
    read = api.exec_create(name, ["cat", "/home/user/file"])
    assert api.exec_start(read["Id"]) == b"kept\n"


async def test_an_image_that_vanished_behind_the_drivers_back_is_looked_for_again(driver, make_spec, quiet, api):
    name = f"{make_spec().session_id}:1"
    api.tag(make_spec().image, *name.split(":"))
    try:
        await driver.start(make_spec(image=name), quiet)
        await driver.stop(make_spec().session_id)
    finally:
        api.remove_image(name)
    with pytest.raises(CommandFailed) as failure:
        await driver.start(make_spec(image=name), quiet)
    assert failure.value.code in {"image_not_found", "registry_unreachable", "pull_denied"}


async def test_a_network_that_vanished_is_made_again(make_driver, make_spec, quiet, api, run_label):
    driver = make_driver(network_name=f"{run_label}-gone")
    await driver.start(make_spec(), quiet)
    await driver.stop(make_spec().session_id)
    api.remove_network(f"{run_label}-gone")
    assert (await driver.start(make_spec(), quiet)).ready


async def test_a_start_that_was_not_allowed_changes_nothing(driver, spec, quiet, api):
    def forbid():
        raise LeaseLost("another one leads")

    driver.guard = forbid
    with pytest.raises(LeaseLost):
        await driver.start(spec, quiet)
    assert containers(api, spec) == []
    assert volumes(api, spec) == []


@pytest.mark.parametrize("point", ["docker.after_create", "docker.after_start", "docker.after_ready"])
async def test_an_interrupted_start_is_completed_by_the_same_start(make_driver, spec, quiet, api, point):
    broken = make_driver(environ={"STREAMSPACE_FAULTS": f"{point}=raise"})
    with pytest.raises(Injected):
        await broken.start(spec, quiet)
    [half] = containers(api, spec)
    session = await make_driver().start(spec, quiet)
    assert session.ready
    assert [c["Id"] for c in containers(api, spec)] == [half["Id"]]


@pytest.mark.parametrize("point", ["docker.after_create", "docker.after_start"])
async def test_a_start_resumed_after_a_killed_process_works(make_driver, spec, quiet, api, docker_host, network, point):
    driver = make_driver()
    program = textwrap.dedent(
        """
        import asyncio, os, sys
        import streamspace_runtime_docker as plugin
        from streamspace_agent.config import Settings
        from streamspace_agent.runtime import Mount, SessionSpec
        agent, host, network, session, image, command = sys.argv[1:]
        settings = Settings(agent_id=agent, control_plane_url="ws://x", docker_host=host, network_name=network)
        spec = SessionSpec(session, "ann", "tiny", image, command, 7, mounts=(Mount("home", "/home/user"),))
        asyncio.run(plugin.create_runtime_driver(settings, os.environ).start(spec, lambda step: None))
        """
    )
    arguments = [driver.agent_id, docker_host, network, spec.session_id, spec.image]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        *arguments,
        spec.command_id,
        env={"PATH": os.environ["PATH"], "STREAMSPACE_FAULTS": f"{point}=kill"},
        stderr=subprocess.DEVNULL,
    )
    assert await process.wait() == -9
    [half] = containers(api, spec)
    assert (await driver.start(spec, quiet)).ready
    assert [c["Id"] for c in containers(api, spec)] == [half["Id"]]


async def test_a_cancelled_start_is_completed_by_the_same_start(driver, make_spec, quiet, api):
    spec = make_spec(environment={"DELAY": "2"})
    waiting = asyncio.Event()
    start = asyncio.create_task(driver.start(spec, lambda s: waiting.set() if s.phase == "waiting" else None))
    async with asyncio.timeout(20):
        await waiting.wait()
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert (await driver.start(spec, quiet)).ready
    assert len(containers(api, spec)) == 1


async def test_a_hanging_stop_does_not_delay_other_sessions(make_driver, make_spec, quiet):
    driver = make_driver(environ={"STOP_TIMEOUT": "60s", "ENGINE_CONCURRENCY": "2"})
    stubborn = [make_spec(f"-s{i}", environment={"MODE": "stubborn"}, mounts=()) for i in range(3)]
    await asyncio.gather(*(driver.start(spec, quiet) for spec in stubborn))
    stops = [asyncio.create_task(driver.stop(spec.session_id)) for spec in stubborn]
    await asyncio.sleep(0.5)
    assert (await driver.start(make_spec("-new", mounts=()), quiet)).ready
    assert not any(stop.done() for stop in stops), "they still hang, and held nothing up"
    for stop in stops:
        stop.cancel()
    await asyncio.gather(*stops, return_exceptions=True)


async def test_a_session_that_ignores_its_stop_signal_is_killed(make_driver, make_spec, quiet):
    driver = make_driver(environ={"STOP_TIMEOUT": "500ms"})
    spec = make_spec(environment={"MODE": "stubborn"})
    await driver.start(spec, quiet)
    await driver.stop(spec.session_id)
    assert await driver.inspect(spec.session_id) is None


async def test_containers_that_vanish_during_a_list_are_left_out(make_driver, odd, make_spec, quiet, api):
    driver = make_driver(odd=odd)
    stays, goes = make_spec("-stays", mounts=()), make_spec("-goes", mounts=())
    await driver.start(stays, quiet)
    await driver.start(goes, quiet)
    await driver.hibernate(goes.session_id)

    def lose(found):
        api.remove_container(f"streamspace-{goes.session_id}")
        return found

    odd.change("^GET /containers/json", lose)
    assert [session.session_id for session in await driver.sessions()] == [stays.session_id]


async def test_stats_tell_memory_and_cores_of_a_running_session(driver, spec, quiet):
    await driver.start(spec, quiet)
    first = await driver.stats(spec.session_id)
    assert first is not None
    assert first[0] == 0.0
    assert 0 < first[1] < 64 * 1024**2
    cores, _ = await driver.stats(spec.session_id)
    assert 0 <= cores < 1
    await driver.stop(spec.session_id)
    assert await driver.stats(spec.session_id) is None


async def test_without_an_engine_every_verb_says_so(make_driver, spec, quiet, tmp_path):
    driver = make_driver(odd=OddEngine(tmp_path, f"unix://{tmp_path}/none.sock"))
    for attempt in (driver.start(spec, quiet), driver.inspect(spec.session_id), driver.sessions()):
        with pytest.raises(EngineUnavailable, match="no such file"):
            await attempt


async def test_what_a_start_that_was_stopped_left_behind_is_not_taken_for_the_next_ones(
    make_driver, make_spec, quiet, api
):
    """The engine may make the container after the stop has looked for it."""
    driver = make_driver(environ={"STREAMSPACE_FAULTS": "docker.after_create=raise"})
    with pytest.raises(Injected):
        await driver.start(make_spec(command_id="stopped", memory=128 * 1024**2, idle_timeout=28800.0), quiet)
    spec = make_spec(idle_timeout=1800.0)
    session = await driver.start(spec, quiet)
    assert (session.command_id, session.memory, session.idle_timeout) == (spec.command_id, spec.memory, 1800.0)
    [container] = containers(api, spec)
    assert api.inspect_container(container["Id"])["HostConfig"]["Memory"] == spec.memory
