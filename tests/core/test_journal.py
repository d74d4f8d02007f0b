"""The journal keeps what must outlive the process, nothing longer than needed, and makes nobody wait for the disk."""

import asyncio
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest

from streamspace_agent import leadership
from streamspace_agent.journal import Journal
from streamspace_agent.protocol import Message
from tests.core.journal_file import JournalFile
from tests.core.memory_driver import AGENT

SECRET = "hunter2-of-ann"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "agent" / "journal.db"


def on_disk(path):
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


async def test_a_commands_payload_is_forgotten_with_its_end_and_its_answer_is_not(path):
    journal = Journal(path, 1)
    journal.receive("c", "start_session", {"sessionId": "s", "environment": {"VNC_PW": SECRET}})
    assert SECRET.encode() in on_disk(path)
    journal.finish("c", Message("complete", {"commandId": "c", "result": {}}))
    (row,) = JournalFile(path).rows("SELECT payload, answer_type FROM commands")
    assert row == ("{}", "complete")
    await journal.checkpoint(all_of_it=True)
    assert SECRET.encode() not in on_disk(path)
    assert journal.receive("c", "start_session", {}).answer.type == "complete"
    journal.close()
    assert SECRET.encode() not in on_disk(path)


async def test_what_an_earlier_version_kept_is_forgotten_too(path):
    journal = Journal(path, 1)
    journal.receive("old", "start_session", {})
    journal.finish("old", Message("complete", {}))
    JournalFile(path).rows("UPDATE commands SET payload = ?", f'{{"password": "{SECRET}"}}')
    await journal.prune()
    await journal.checkpoint(all_of_it=True)
    assert SECRET.encode() not in on_disk(path)
    journal.close()


async def test_a_leadership_forgets_payloads_on_the_disk_while_it_lasts(plane, lead, tmp_path, monkeypatch):
    monkeypatch.setattr(leadership, "FIRST_PRUNE", 0.3)
    monkeypatch.setattr(leadership, "PRUNE_EVERY", 0.3)  # on a busy machine the command may come after the first
    folder = tmp_path / "state" / AGENT
    async with lead():
        await plane.wait_agent(AGENT)
        command = await plane.start_session(session_id="a", environment={"VNC_PW": SECRET})
        await plane.wait_command(command)
        async with asyncio.timeout(10):
            while SECRET.encode() in on_disk(folder / "journal.db"):
                await asyncio.sleep(0.05)


async def longest_gap(work):
    """Seconds for which the loop did nothing else, at most, while ``work`` went on; and how long that took."""
    gap, last = 0.0, time.monotonic()
    begun, task = last, asyncio.ensure_future(work)
    while not task.done():
        await asyncio.sleep(0.001)
        now = time.monotonic()
        gap, last = max(gap, now - last), now
    await task
    return gap, last - begun


@pytest.mark.slow
async def test_a_large_journal_is_looked_through_beside_the_loop(path):
    Journal(path, 1).close()
    with sqlite3.connect(path) as database:
        rows = ((f"c{i}", "x" * 2000) for i in range(60_000))
        database.executemany(
            "INSERT INTO commands (id, action, payload, received, answer_type, answer) VALUES (?, '', ?, 0, 'x', '{}')",
            rows,
        )
    database.close()
    gap, whole = await longest_gap(asyncio.to_thread(Journal, path, 2))
    assert whole > 2 * gap
    assert gap < 0.1


@pytest.mark.slow
def test_no_commit_waits_for_the_disk(tmp_path):
    """The loop's thread may not sync at all, and the log is emptied all the same, also beside writers."""
    ran = subprocess.run([sys.executable, "-m", "tests.core.unsynced", tmp_path], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


async def test_a_log_that_cannot_be_emptied_while_somebody_reads_is_emptied_the_next_time(path):
    journal, log = Journal(path, 1), path.with_name("journal.db-wal")
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM outbox").fetchone()
        journal.put(Message("status", {"sessionId": "s", "text": SECRET}))
        await journal.checkpoint(all_of_it=True)
        assert SECRET.encode() in log.read_bytes()
    await journal.checkpoint(all_of_it=True)
    assert log.stat().st_size == 0
    journal.put(Message("status", {"sessionId": "later"}))
    assert len(journal.pending(0)) == 2
    journal.close()


async def test_what_is_in_the_log_outlives_a_kill_also_after_it_was_emptied(path, tmp_path):
    journal = Journal(path, 1)
    journal.put(Message("status", {"sessionId": "before"}))
    await journal.checkpoint(all_of_it=True)
    journal.put(Message("status", {"sessionId": "after"}))
    as_killed = tmp_path / "killed"
    shutil.copytree(path.parent, as_killed)
    journal.close()
    left = Journal(as_killed / "journal.db", 2)
    assert [message.payload["sessionId"] for _, message in left.pending(0)] == ["before", "after"]
    left.close()


@pytest.mark.slow
async def test_what_an_earlier_version_kept_is_forgotten_beside_other_work(path):
    Journal(path, 1).close()
    with sqlite3.connect(path) as database:
        rows = ((f"c{i}", json.dumps({"text": "x" * 4000})) for i in range(20_000))
        insert = (
            "INSERT INTO commands (id, action, payload, received, answer_type, answer) VALUES (?, '', ?, 0, 'x', '{}')"
        )
        database.executemany(insert, rows)
        database.execute("UPDATE commands SET received = ? WHERE seq % 2", (time.time(),))
    database.close()
    journal = Journal(path, 2)
    longest, last, task = 0.0, time.thread_time(), asyncio.ensure_future(journal.prune())
    while not task.done():
        await asyncio.sleep(0)
        longest, last = max(longest, time.thread_time() - last), time.thread_time()
    assert JournalFile(path).rows("SELECT count(*), max(payload) FROM commands") == [(10_000, "{}")]
    assert longest < 0.1  # seconds of the processor in one go
    journal.close()
