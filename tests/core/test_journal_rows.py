"""Rows of the journal that cannot be read: each costs its own command, never a leadership."""

import sqlite3
from contextlib import closing

import pytest

from streamspace_agent.journal import Journal, sessions_with_open_commands
from streamspace_agent.protocol import Message
from tests.core.journal_file import JournalFile
from tests.core.memory_driver import AGENT

DEEP = '{"sessionId": "s1", "ignored": ' + "[" * 5000 + "]" * 5000 + "}"


@pytest.mark.parametrize("payload", [DEEP, "{", "[]", "nonsense", ""])
async def test_an_open_command_that_cannot_be_read_is_failed_by_the_next_leader(plane, lead, tmp_path, payload):
    async with lead() as running:
        await plane.wait_agent(AGENT)
        path = running.journal_file.path
    with closing(sqlite3.connect(path)) as db:
        insert = "INSERT INTO commands (id, action, payload, received) VALUES (?, 'start_session', ?, 0)"
        db.execute(insert, ("bad", payload))
        db.execute("INSERT INTO orders (id, action, payload) VALUES ('agent-1', 'hibernate_session', ?)", (payload,))
        db.commit()
    seq = (await plane.events())[-1]["seq"]
    async with lead():
        await plane.wait_agent(AGENT)
        fine = await plane.send_command(AGENT, "stop_session", {"sessionId": "s2"})
        await plane.wait_command(fine, "completed")
        (failed,) = await plane.events(seq, type="failed")
    assert failed["payload"]["commandId"] == "bad"
    assert failed["payload"]["error"].startswith("journal_unreadable: ")
    journal = Journal(path, 2**60)
    assert journal.open_commands() == []
    journal.close()


def test_a_message_that_cannot_be_read_holds_up_no_other(tmp_path):
    journal = Journal(tmp_path / "journal.db", 1)
    journal.put(Message("failed", {"commandId": "a", "error": "x"}))
    JournalFile(tmp_path / "journal.db").rows("INSERT INTO outbox (type, payload) VALUES ('status', ?)", DEEP)
    journal.put(Message("failed", {"commandId": "b", "error": "x"}))
    assert [message.payload.get("commandId") for _, message in journal.pending(0)] == ["a", None, "b"]
    journal.close()


def test_a_kept_answer_that_cannot_be_read_is_a_failure(tmp_path):
    journal = Journal(tmp_path / "journal.db", 1)
    journal.receive("a", "stop_session", {"sessionId": "s"})
    journal.finish("a", Message("complete", {"commandId": "a", "result": {}}))
    JournalFile(tmp_path / "journal.db").rows("UPDATE commands SET answer = ?", DEEP)
    known = journal.receive("a", "stop_session", {"sessionId": "s"})
    assert known.answer.type == "failed"
    assert known.answer.payload["error"].startswith("journal_unreadable: ")
    journal.close()


def test_the_clean_up_reads_past_what_cannot_be_read(tmp_path):
    journal = Journal(tmp_path / "journal.db", 1)
    journal.receive("a", "stop_session", {"sessionId": "s"})
    JournalFile(tmp_path / "journal.db").rows(
        "INSERT INTO commands (id, action, payload, received) VALUES ('bad', 'start_session', ?, 0)", DEEP
    )
    journal.close()
    assert "s" in sessions_with_open_commands(tmp_path / "journal.db")


async def test_a_command_nested_too_deep_is_refused_and_kills_no_leader(plane, lead):
    body = '{"a":' * 970 + "1" + "}" * 970
    frame = (
        '{"type":"command","timestamp":"2026-01-01T00:00:00Z","payload":{"commandId":"deep","action":"start_session",'
        f'"payload":{{"sessionId":"s1","ignored":{body}}}}}}}'
    )
    for _ in range(2):
        async with lead() as running:
            await plane.wait_agent(AGENT)
            await plane.send_frame(AGENT, frame)
            await plane.wait_command(await plane.send_command(AGENT, "stop_session", {"sessionId": "s2"}), "completed")
            assert not running.task.done()
    failed = await plane.events(type="failed")
    assert {event["payload"]["commandId"] for event in failed} == {"deep"}
    assert "nested deeper than 64 levels" in failed[0]["payload"]["error"]
