"""Death certificates, from a real engine."""

import asyncio
import itertools
import json
import os
import time
import uuid
from contextlib import asynccontextmanager

import pytest

from streamspace_agent.election import Record
from streamspace_agent.election.certificate import GIVEN_UP, PAUSE, TIMEOUT, Certificates


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


def patient(host, **options):
    """They wait for the engine's own word, however late a busy one says it."""
    return Certificates(host, timeout=30, **options)


async def until_dead(certificates, held) -> float:
    """Seconds until the holder is certified dead."""
    began = time.monotonic()
    async with asyncio.timeout(30):
        while await certificates.holder_is_dead(held) is not True:
            await asyncio.sleep(0.02)
    return time.monotonic() - began


async def test_a_killed_container_is_proof_and_comes_within_moments(docker_host, run):
    container, certificates = run(), patient(docker_host)
    assert await certificates.holder_is_dead(record(container.id)) is None
    container.kill()
    assert await until_dead(certificates, record(container.id)) < 5


async def test_a_running_container_proves_nothing_for_its_process_may_have_been_restarted(docker_host, run):
    container, certificates = run(), patient(docker_host)
    for _ in range(3):
        assert await certificates.holder_is_dead(record(container.id)) is None


async def test_a_paused_container_is_not_dead(docker_host, run):
    container, certificates = run(), patient(docker_host)
    container.pause()
    try:
        assert await certificates.holder_is_dead(record(container.id)) is None
    finally:
        container.unpause()


async def test_a_restarted_container_proves_the_death_of_whom_was_seen_in_it_before_and_of_nobody_else(
    docker_host, run
):
    container, certificates = run(), patient(docker_host)
    before, after = record(container.id, "n1"), record(container.id, "n2")
    assert await certificates.holder_is_dead(before) is None
    container.restart(timeout=0)
    assert await certificates.holder_is_dead(before) is True
    assert await certificates.holder_is_dead(after) is None
    assert await patient(docker_host).holder_is_dead(before) is None, "who came later has not seen it"


async def test_a_process_killed_under_a_restart_policy_is_certified_though_the_container_runs_again(docker_host, run):
    container = run(restart_policy={"Name": "always"})
    certificates = patient(docker_host)
    assert await certificates.holder_is_dead(record(container.id)) is None
    container.reload()
    os.kill(container.attrs["State"]["Pid"], 9)  # the restart policy ignores what docker kill killed
    await until_dead(certificates, record(container.id))
    async with asyncio.timeout(30):
        while container.attrs["RestartCount"] == 0 or container.status != "running":
            await asyncio.sleep(0.05)
            container.reload()
    assert await certificates.holder_is_dead(record(container.id)) is True


async def test_an_unknown_container_is_no_proof_and_keeps_no_other_from_being_asked_for(docker_host, run):
    certificates = patient(docker_host, clock=lambda: 1000.0)
    assert await certificates.holder_is_dead(record("0" * 64)) is None
    known = run()
    assert await certificates.holder_is_dead(record(known.id, "n2")) is None
    known.kill()
    await until_dead(certificates, record(known.id, "n2"))


@pytest.mark.parametrize("host", ["tcp://127.0.0.1:1", "ssh://host", "unix:///nowhere/docker.sock", ""])
async def test_without_an_engine_nothing_is_proved(host):
    assert await Certificates(host).holder_is_dead(record("c" * 64)) is None


@asynccontextmanager
async def engine(tmp_path, answer):
    """Answers each question, numbered from 1 on, with the state that ``answer`` gives; None is an unknown container."""
    path, asked = str(tmp_path / "docker.sock"), itertools.count(1)

    async def serve(reader, writer):
        try:
            await reader.readuntil(b"\r\n\r\n")
            state = await answer(next(asked))
            body = json.dumps({"State": state} if state else {"message": "No such container"}).encode()
            status = b"200 OK" if state else b"404 Not Found"
            writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
        finally:
            writer.close()

    async with await asyncio.start_unix_server(serve, path):
        yield f"unix://{path}"


@pytest.mark.parametrize("container", ["", "c" * 12, "../" + "c" * 61])
async def test_only_a_full_container_id_is_asked_for(tmp_path, container):
    questions = []

    async def ended(number):
        questions.append(number)
        return {"Status": "exited"}

    async with engine(tmp_path, ended) as host:
        assert await patient(host).holder_is_dead(record(container)) is None
        assert questions == []
        assert await patient(host).holder_is_dead(record("c" * 64)) is True


async def test_a_container_that_the_engine_does_not_know_is_asked_for_once_in_a_while_only(tmp_path):
    now, questions = [1000.0], []

    async def unknown(number):
        questions.append(number)

    async with engine(tmp_path, unknown) as host:
        certificates = patient(host, clock=lambda: now[0])
        for _ in range(3):
            assert await certificates.holder_is_dead(record("c" * 64)) is None
        assert questions == [1]
        now[0] += PAUSE + 0.1
        assert await certificates.holder_is_dead(record("c" * 64)) is None
        assert questions == [1, 2]


async def test_a_busy_engine_is_asked_once_and_its_late_answer_counts(tmp_path):
    questions, let = [], asyncio.Event()

    async def late(number):
        questions.append(number)
        await let.wait()
        return {"Status": "exited"}

    async with engine(tmp_path, late) as host:
        certificates = Certificates(host)
        assert await certificates.holder_is_dead(record("c" * 64)) is None
        let.set()
        await until_dead(certificates, record("c" * 64))
        assert questions == [1]


async def test_a_late_answer_says_nothing_of_who_began_after_the_question(tmp_path):
    answered = asyncio.Event()

    async def ended_then_restarted(number):
        if number == 1:
            await answered.wait()
            return {"Status": "exited", "StartedAt": "first"}
        return {"Status": "running", "StartedAt": "second"}

    async with engine(tmp_path, ended_then_restarted) as host:
        certificates = Certificates(host)
        before, after = record("c" * 64, "n1"), record("c" * 64, "n2")
        assert await certificates.holder_is_dead(before) is None
        answered.set()
        for _ in range(3):
            assert await certificates.holder_is_dead(after) is None


async def test_an_engine_that_does_not_answer_costs_short_waits_and_is_then_left_alone_for_a_moment(tmp_path):
    now, asked, let = [1000.0], [], asyncio.Event()

    async def silent(number):
        asked.append(number)
        await let.wait()
        return {"Status": "exited"}

    async with engine(tmp_path, silent) as host:
        certificates = Certificates(host, clock=lambda: now[0])
        took = TIMEOUT
        async with asyncio.timeout(GIVEN_UP + 10):
            while took > TIMEOUT / 10:  # until it has given up, and waits no more
                began = time.monotonic()
                assert await certificates.holder_is_dead(record("c" * 64)) is None
                took = time.monotonic() - began
                assert took < TIMEOUT + 2
        assert await certificates.holder_is_dead(record("c" * 64)) is None
        assert asked == [1]
        now[0] += 1.1  # a second, not more: it may only have been busy
        let.set()
        await until_dead(certificates, record("c" * 64))
        assert asked == [1, 2]


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
