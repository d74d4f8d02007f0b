"""The journal keeps what must outlive the process, nothing longer than needed, and makes nobody wait for the disk."""

import asyncio
import sqlite3
import time

import pytest

from streamspace_agent import leadership
from streamspace_agent.journal import Journal, Message
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
    (row,) = journal._read("SELECT payload, answer_type FROM commands")
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
    with journal._write() as database:
        database.execute("UPDATE commands SET payload = ?", (f'{{"password": "{SECRET}"}}',))
    journal.prune()
    await journal.checkpoint(all_of_it=True)
    assert SECRET.encode() not in on_disk(path)
    journal.close()


async def test_a_leadership_forgets_payloads_on_the_disk_while_it_lasts(plane, lead, tmp_path, monkeypatch):
    monkeypatch.setattr(leadership, "FIRST_PRUNE", 0.3)
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


async def test_a_large_journal_is_looked_through_beside_the_loop(path):
    Journal(path, 1).close()
    with sqlite3.connect(path) as database:
        rows = ((f"c{i}", "x" * 2000) for i in range(60_000))
        database.executemany(
            "INSERT INTO commands (id, action, payload, received, answer_type, answer) VALUES (?, '', ?, 0, 'x', '{}')",
            rows,
        )
    database.close()
    gap, whole = await longest_gap(Journal.opened(path, 2))
    assert whole > 2 * gap
    assert gap < 0.1


async def test_a_checkpoint_is_made_beside_the_loop_and_writes_go_on_meanwhile(path):
    journal = Journal(path, 1)
    for number in range(300):
        journal.put(Message("status", {"sessionId": f"s{number}", "text": "x" * 20_000}))
    size = path.stat().st_size
    await asyncio.gather(journal.checkpoint(), *(asyncio.to_thread(lambda: None) for _ in range(3)))
    assert path.stat().st_size > size
    journal.put(Message("status", {"sessionId": "later"}))
    await journal.aclose()
    assert not path.with_name("journal.db-wal").exists()
