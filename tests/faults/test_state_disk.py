"""The disk under STATE_DIR: full, read-only, or with a journal that is damaged. Nobody leads on it, nothing crashes,
it heals."""

import asyncio
import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from lab.until import until
from tests.names import sid


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB, for root only."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(path):
    with path.open("wb", buffering=0) as file:
        while shutil.disk_usage(path.parent).free:
            file.write(bytes(4096))


@pytest.fixture
def read_only_disk(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    return small_disk


async def test_a_read_only_state_folder_ends_the_start_with_one_clear_line(make_agent, read_only_disk):
    agent = await (await make_agent(STATE_DIR=str(read_only_disk))).start()
    assert await agent.wait() == 2
    last = agent.log.splitlines()[-1]
    assert last.startswith("docker-agent: STATE_DIR: cannot write")
    assert last.endswith("read-only file system")
    assert "Traceback" not in agent.log


async def test_a_full_state_folder_refuses_new_commands_loses_no_outcome_and_heals(
    make_agent, plane, agent_id, manifest, small_disk, outcomes, docker_client
):
    agent = await (await make_agent(STATE_DIR=str(small_disk))).start()
    await plane.wait_agent(agent_id)
    await plane.wait_command(
        await plane.start_session(session_id=sid("runs"), manifest=manifest(MODE="crash", AFTER=3))
    )
    under_way = await plane.start_session(session_id=sid("slow"), manifest=manifest(DELAY=2))
    await plane.wait_command(under_way, "ack")
    filler = small_disk / "filler"
    fill(filler)
    refused = await plane.start_session(session_id=sid("new"), manifest=manifest(SOME="x" * 20_000))
    row = await plane.wait_command(refused, "failed")
    assert row["error"].startswith("journal_unavailable: STATE_DIR: cannot write the journal")
    await until(
        lambda: docker_client.api.inspect_container(f"streamspace-{sid('runs')}")["State"]["Status"] == "exited"
    )
    filler.unlink()
    await plane.wait_command(under_way, timeout=60)
    await plane.wait_session(sid("runs"), state="failed", timeout=70)
    assert (await outcomes())[under_way] == ["complete"]
    assert "Traceback" not in agent.log
    assert await agent.terminate() == 0


async def test_a_broken_journal_is_set_aside_with_a_clear_line_and_the_sessions_are_adopted(
    plane, agent, agent_id, manifest, tmp_path
):
    await plane.wait_command(await plane.start_session(session_id=sid("a"), manifest=manifest()))
    assert await agent.terminate() == 0
    journal = tmp_path / "state" / agent_id / "journal.db"
    with journal.open("r+b") as file:
        file.write(os.urandom(4096))
    seq = (await plane.events())[-1]["seq"]
    await agent.start()
    await plane.wait_agent(agent_id)

    async def adopted():
        return await plane.events(seq, type="status")

    await until(adopted)
    await plane.wait_command(await plane.hibernate_session(sid("a")))
    states = [e["payload"]["state"] for e in await plane.events(seq, type="status")]
    assert states == ["running", "hibernated"]
    assert "the journal is broken" in agent.log
    assert list(journal.parent.glob("journal.db.broken-*"))
    assert "Traceback" not in agent.log


async def test_a_command_in_a_broken_journal_is_completed_once_all_the_same(
    plane, agent, agent_id, manifest, tmp_path, outcomes
):
    command = await plane.start_session(session_id=sid("a"), manifest=manifest(DELAY=2))
    await plane.wait_command(command, "ack")
    await agent.kill()
    journal = tmp_path / "state" / agent_id / "journal.db"
    with contextlib.closing(sqlite3.connect(journal)) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'open_commands'").fetchone()
    with journal.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(os.urandom(4096))
    await agent.start()
    await until(lambda: "the journal is broken" in agent.log)
    assert "all of it went into a new one, 1 open commands" in agent.log
    await plane.wait_command(command, timeout=60)
    assert (await outcomes())[command] == ["complete"]
    assert await agent.terminate() == 0


@pytest.fixture
def standbys_of(make_agent, small_disk):
    """Replicas with a common lock file; their state lies on the small disk unless told otherwise."""
    folder = Path(tempfile.mkdtemp(prefix="streamspace-lock-", dir="/dev/shm"))

    async def start(name, **variables):
        lock = {"ENABLE_HA": "true", "LOCK_FILE_PATH": str(folder / "agent.lock")}
        return await (await make_agent(name, **{"STATE_DIR": str(small_disk)} | lock | variables)).start()

    yield start
    shutil.rmtree(folder)


async def mount(*arguments):
    await asyncio.to_thread(subprocess.run, ["mount", *arguments], check=True)


def processor_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def stands_back(agent, cause):
    """It says once that it cannot lead and why, stays alive at rest, and its status has the same words."""
    await until(lambda: "cannot lead: " in agent.log)
    before, begun = processor_seconds(agent.pid), time.monotonic()
    code, [replica, *_] = await agent.ask("status")
    assert code == 1
    assert replica["role"] == "standby"
    assert replica["leader"] == ""
    assert [problem for problem in replica["problems"] if problem.startswith("cannot lead: STATE_DIR: ")]
    assert not replica["ready"]
    assert replica["alive"]
    await until(lambda: time.monotonic() - begun > 4)
    assert agent.process.returncode is None
    assert processor_seconds(agent.pid) - before < 0.5
    [line] = [line for line in agent.log.splitlines() if "cannot lead: " in line]
    assert cause in line
    assert "giving leadership back, trying again in 10.0 s" in line
    assert "Traceback" not in agent.log


async def test_a_new_leader_on_a_full_disk_gives_leadership_back_and_leads_once_there_is_room(
    standbys_of, plane, agent_id, manifest, small_disk, tmp_path, outcomes
):
    leader = await standbys_of("one")
    await plane.wait_agent(agent_id)
    standby = await standbys_of("two")
    await until(lambda: "standing by" in standby.log)
    command = await plane.start_session(session_id=sid("a"), manifest=manifest(DELAY=3))
    await plane.wait_command(command, "ack")
    fill(small_disk / "filler")
    leader.signal(signal.SIGKILL)
    await stands_back(standby, f"the disk of {small_disk / agent_id} is full: free some room on it")
    # Another one, whose disk has room, finds the lease free and keeps it.
    begun = time.monotonic()
    other = await standbys_of("three", STATE_DIR=str(tmp_path / "elsewhere"))
    await plane.wait_agent(agent_id)
    assert time.monotonic() - begun < 8
    (small_disk / "filler").unlink()
    await until(lambda: time.monotonic() - begun > 12, timeout=20)
    assert standby.log.count(f" gained leadership of {agent_id} ") == 1
    assert await other.terminate() == 0
    await plane.wait_agent(agent_id)
    await plane.wait_command(command, timeout=60)
    assert (await outcomes())[command] == ["complete"]
    assert (await standby.ask("status"))[1][0]["problems"] == []
    assert await standby.terminate() == 0


async def test_an_agent_alone_on_a_full_disk_waits_for_room(make_agent, plane, agent_id, small_disk):
    (small_disk / agent_id).mkdir()
    fill(small_disk / "filler")
    agent = await (await make_agent(STATE_DIR=str(small_disk))).start()
    await stands_back(agent, "is full: free some room on it")
    (small_disk / "filler").unlink()
    await plane.wait_agent(agent_id)
    assert await agent.terminate() == 0


async def test_a_new_leader_on_a_disk_gone_read_only_gives_leadership_back_and_leads_once_it_is_writable(
    standbys_of, plane, agent_id, small_disk
):
    leader = await standbys_of("one")
    await plane.wait_agent(agent_id)
    standby = await standbys_of("two")
    await until(lambda: "standing by" in standby.log)
    # Files that are open for writing keep a disk from being remounted, but not from being covered by its read-only
    # self.
    await mount("--bind", small_disk, small_disk)
    try:
        await mount("-o", "remount,ro,bind", small_disk)
        leader.signal(signal.SIGKILL)
        await stands_back(standby, f"the file system of {small_disk / agent_id} is read-only: remount it writable")
    finally:
        await asyncio.to_thread(subprocess.run, ["umount", small_disk], check=True)
    await plane.wait_agent(agent_id)
    assert await standby.terminate() == 0


async def test_a_hindered_replica_stops_at_once_when_told_to(make_agent, agent_id, small_disk):
    (small_disk / agent_id).mkdir()
    fill(small_disk / "filler")
    agent = await (await make_agent(STATE_DIR=str(small_disk))).start()
    await until(lambda: "cannot lead: " in agent.log)
    assert await agent.terminate(5) == 0
