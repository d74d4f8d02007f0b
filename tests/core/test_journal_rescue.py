"""A damaged journal: what can be read of it is taken over, and nothing is dropped without a word."""

import errno
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from streamspace_agent.errors import JournalError, LeaseLost
from streamspace_agent.journal import Journal
from streamspace_agent.protocol import Message
from tests.core.journal_file import JournalFile

COMMANDS = 200
PAGE = 4096


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.db"


def fill(journal):
    """Every third command is open; each answered one has left its answer in the outbox."""
    for number in range(COMMANDS):
        journal.receive(f"c{number}", "start_session", {"sessionId": f"s{number}", "filler": "x" * 500})
        if number % 3:
            journal.finish(f"c{number}", Message("complete", {"commandId": f"c{number}"}))
    journal.put(Message("status", {"sessionId": "s1", "state": "running"}))


def opened(journal):
    return {entry.id for entry in journal.open_commands()}


def page_of(path, name, leaf=0):
    """The number of the root page of a table or index, or of its n-th leaf."""
    with closing(sqlite3.connect(path)) as db:
        if not leaf:
            return db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()[0]
        rows = db.execute("SELECT seq FROM commands WHERE answer_type IS NULL ORDER BY seq").fetchall()
    marker = f's{rows[len(rows) // 2][0] - 1}"'.encode()
    pages = path.read_bytes()
    return pages.index(b'"sessionId": "' + marker) // PAGE + 1


def damage(path, page):
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(os.urandom(PAGE))


OPEN = {f"c{number}" for number in range(0, COMMANDS, 3)}


def test_a_damaged_index_costs_nothing(path, caplog):
    journal = Journal(path, 1)
    fill(journal)
    pending = journal.pending(0, 10_000)
    journal.close()
    damage(path, page_of(path, "open_commands"))
    rescued = Journal(path, 2)
    assert opened(rescued) == OPEN
    assert rescued.pending(0, 10_000) == pending
    assert rescued.announced().keys() == {"s1"}
    assert rescued.receive("c1", "start_session", {}).answer == Message("complete", {"commandId": "c1"})
    rescued.close()
    [kept] = path.parent.glob("journal.db.broken-*[0-9]")
    [line] = [record.getMessage() for record in caplog.records if "the journal is broken" in record.getMessage()]
    assert line.startswith("STATE_DIR: ")
    assert "\n" not in line
    assert f"all of it went into a new one, {len(OPEN)} open commands and {len(pending)} undelivered messages" in line
    assert line.endswith(str(kept))
    assert kept.stat().st_size > 0
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_damaged_page_costs_its_own_rows_and_the_line_says_so(path, caplog):
    journal = Journal(path, 1)
    fill(journal)
    journal.close()
    damage(path, page_of(path, "commands", leaf=1))
    rescued = Journal(path, 2)
    assert len(OPEN - opened(rescued)) <= 7, "some six open commands lie on a page"
    assert opened(rescued) < OPEN
    rescued.close()
    assert "what could be read of it went into a new one" in caplog.text
    assert "has to be given again" in caplog.text


def leave_a_damaged_journal_with_a_log(path, tmp_path):
    """As a killed process leaves it: the last command stands in the write-ahead log only."""
    journal = Journal(tmp_path / "other" / "journal.db", 1)
    fill(journal)
    JournalFile(tmp_path / "other" / "journal.db").rows("PRAGMA wal_checkpoint(TRUNCATE)")
    journal.receive("last", "stop_session", {"sessionId": "s1"})
    for suffix in ("", "-wal"):
        shutil.copy(tmp_path / f"other/journal.db{suffix}", f"{path}{suffix}")
    journal.close()
    damage(path, page_of_a_copy(path, tmp_path))


def test_what_only_the_log_of_a_killed_process_holds_is_taken_over(path, tmp_path):
    leave_a_damaged_journal_with_a_log(path, tmp_path)
    rescued = Journal(path, 2)
    assert "last" in opened(rescued)
    rescued.close()
    assert list(tmp_path.glob("journal.db.broken-*-wal"))


def page_of_a_copy(path, tmp_path):
    """Without opening the file itself, which would move the log into it."""
    shutil.copy(path, tmp_path / "copy.db")
    return page_of(tmp_path / "copy.db", "commands", leaf=1)


def test_a_file_that_is_no_journal_at_all_is_kept_and_a_new_one_begins(path, caplog):
    path.write_bytes(os.urandom(5 * PAGE))
    journal = Journal(path, 1)
    journal.receive("c1", "stop_session", {})
    journal.close()
    [kept] = path.parent.glob("journal.db.broken-*[0-9]")
    assert kept.stat().st_size == 5 * PAGE
    assert "0 open commands" in caplog.text
    assert "has to be given again" in caplog.text


def test_the_fence_of_a_later_leader_survives_the_damage(path):
    journal = Journal(path, 9)
    fill(journal)
    journal.close()
    damage(path, page_of(path, "open_commands"))
    with pytest.raises(LeaseLost, match="epoch 9"):
        Journal(path, 8)
    journal = Journal(path, 9)
    assert opened(journal) == OPEN
    journal.close()


@pytest.mark.parametrize("step", range(4))
def test_a_rescue_that_breaks_off_at_any_step_is_completed_by_the_next(path, tmp_path, monkeypatch, step):
    leave_a_damaged_journal_with_a_log(path, tmp_path)
    steps = iter(range(100))
    real = Path.rename

    def rename(self, target):
        if next(steps) == step:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename)
        with pytest.raises(JournalError, match="STATE_DIR: cannot use the journal"):
            Journal(path, 2)
    rescued = Journal(path, 3)
    assert "last" in opened(rescued)
    assert len(OPEN - opened(rescued)) <= 7
    rescued.close()
    assert sorted(p.name for p in tmp_path.glob("journal.db*") if "broken" not in p.name) == ["journal.db"]
