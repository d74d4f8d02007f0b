"""Death certificates, from a real engine."""

import asyncio
import os
import time
import uuid

import pytest

from streamspace_agent.certificate import TIMEOUT, Certificates
from streamspace_agent.election import Record


def record(container: str, nonce: str = "n1") -> Record:
    return Record("agent", "holder", nonce, 1, 1, 5000, container_id=container)


@pytest.fixture
def run(docker_client, run_label, tiny_image):
    """Start containers; all are removed."""
    made = []

    def start(**options):
        name = f"{run_label}-{uuid.uuid4().hex[:6]}"
        made.append(docker_client.containers.run(tiny_image, detach=True, name=name, **options))
        return made[-1]

    yield start
    for container in made:
        container.remove(force=True)


async def until_dead(certificates, held) -> float:
    """Seconds until the holder is certified dead."""
    began = time.monotonic()
    async with asyncio.timeout(30):
        while await certificates.holder_is_dead(held) is not True:
            await asyncio.sleep(0.02)
    return time.monotonic() - began


async def test_a_killed_container_is_proof_and_comes_within_moments(docker_host, run):
    container, certificates = run(), Certificates(docker_host)
    assert await certificates.holder_is_dead(record(container.id)) is None
    container.kill()
    assert await until_dead(certificates, record(container.id)) < 5


async def test_a_running_container_proves_nothing_for_its_process_may_have_been_restarted(docker_host, run):
    container, certificates = run(), Certificates(docker_host)
    for _ in range(3):
        assert await certificates.holder_is_dead(record(container.id)) is None


async def test_a_paused_container_is_not_dead(docker_host, run):
    container, certificates = run(), Certificates(docker_host)
    container.pause()
    try:
        assert await certificates.holder_is_dead(record(container.id)) is None
    finally:
        container.unpause()


async def test_a_restarted_container_proves_the_death_of_whom_was_seen_in_it_before_and_of_nobody_else(
    docker_host, run
):
    container, certificates = run(), Certificates(docker_host)
    before, after = record(container.id, "n1"), record(container.id, "n2")
    assert await certificates.holder_is_dead(before) is None
    container.restart(timeout=0)
    assert await certificates.holder_is_dead(before) is True
    assert await certificates.holder_is_dead(after) is None
    assert await Certificates(docker_host).holder_is_dead(before) is None, "who came later has not seen it"


async def test_a_process_killed_under_a_restart_policy_is_certified_though_the_container_runs_again(docker_host, run):
    container = run(restart_policy={"Name": "always"})
    certificates = Certificates(docker_host)
    assert await certificates.holder_is_dead(record(container.id)) is None
    container.reload()
    os.kill(container.attrs["State"]["Pid"], 9)  # the restart policy ignores what docker kill killed
    await until_dead(certificates, record(container.id))
    async with asyncio.timeout(30):
        while container.attrs["RestartCount"] == 0 or container.status != "running":
            await asyncio.sleep(0.05)
            container.reload()
    assert await certificates.holder_is_dead(record(container.id)) is True


async def test_a_container_that_the_engine_does_not_know_is_asked_for_once_in_a_while_only(docker_host, run):
    now = [1000.0]
    certificates = Certificates(docker_host, clock=lambda: now[0])
    assert await certificates.holder_is_dead(record("0" * 64)) is None
    known = run()
    assert await certificates.holder_is_dead(record(known.id)) is None
    known.kill()
    assert await certificates.holder_is_dead(record(known.id)) is True


@pytest.mark.parametrize("host", ["tcp://127.0.0.1:1", "ssh://host", "unix:///nowhere/docker.sock", ""])
async def test_without_an_engine_nothing_is_proved(host):
    assert await Certificates(host).holder_is_dead(record("c" * 64)) is None


@pytest.mark.parametrize("container", ["", "c" * 12, "../" + "c" * 61])
async def test_only_a_full_container_id_is_asked_for(docker_host, container):
    assert await Certificates(docker_host).holder_is_dead(record(container)) is None


async def test_an_engine_that_does_not_answer_costs_one_short_wait_and_is_then_left_alone(tmp_path):
    path, now = str(tmp_path / "docker.sock"), [1000.0]
    asked = ended = 0

    async def silent(reader, writer):
        nonlocal asked, ended
        asked += 1
        await reader.read()
        writer.close()
        await writer.wait_closed()
        ended += 1

    async with await asyncio.start_unix_server(silent, path):
        certificates = Certificates(f"unix://{path}", clock=lambda: now[0])
        began = time.monotonic()
        assert await certificates.holder_is_dead(record("c" * 64)) is None
        assert time.monotonic() - began < TIMEOUT + 2
        assert await certificates.holder_is_dead(record("c" * 64)) is None
        assert asked == 1
        now[0] += 1.1  # a second, not more: it may only have been busy
        assert await certificates.holder_is_dead(record("c" * 64)) is None
        assert asked == 2
        async with asyncio.timeout(10):
            while ended < asked:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n[]", b"HTTP/1.1 200 OK\r\n\r\n{"]
)
async def test_an_answer_that_makes_no_sense_proves_nothing(tmp_path, answer):
    path = str(tmp_path / "docker.sock")

    async def odd(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_unix_server(odd, path):
        assert await Certificates(f"unix://{path}").holder_is_dead(record("c" * 64)) is None
