"""Files that somebody else has put in the agent's way are refused with a word, and never written."""

import fcntl
import os

import pytest

from streamspace_agent.election import Candidate
from streamspace_agent.errors import BackendUnavailable, JournalError, PreflightError
from streamspace_agent.instance_lock import instance_lock
from streamspace_agent.journal import Journal
from streamspace_elect_file import backend
from streamspace_elect_file.backend import FileBackend

NOBODY = 65534


def link(path, victim):
    path.symlink_to(victim)


def others(path, victim):
    path.write_text("")
    os.chown(path, NOBODY, NOBODY)


def writable(path, victim):
    path.write_text("")
    path.chmod(0o664)


def pipe(path, victim):
    os.mkfifo(path)


PLANTS = [
    (link, "symbolic link"),
    (others, "belongs to user 65534"),
    (writable, "others may write"),
    (pipe, "not a regular file"),
]
plants = pytest.mark.parametrize(("plant", "words"), PLANTS, ids=[plant.__name__ for plant, _ in PLANTS])


@pytest.fixture
def victim(tmp_path):
    """A file of somebody's; it stays as it is."""
    path = tmp_path / "victim"
    path.write_text("precious")
    path.chmod(0o644)
    os.chown(path, NOBODY, NOBODY)
    yield path
    found = path.stat()
    assert (path.read_text(), found.st_mode & 0o777, found.st_uid) == ("precious", 0o644, NOBODY)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "agent"
    made.mkdir(mode=0o700)
    return made


@plants
@pytest.mark.parametrize("name", ["journal.db", "journal.db-wal", "journal.db-shm"])
def test_a_journal_that_somebody_planted_is_refused(folder, victim, plant, words, name):
    plant(folder / name, victim)
    with pytest.raises(JournalError, match=f"STATE_DIR: .*{name}.*{words}"):
        Journal(folder / "journal.db", 1)


@plants
def test_a_lock_that_somebody_planted_keeps_an_agent_from_starting(folder, victim, plant, words):
    plant(folder / "agent.lock", victim)
    with (
        pytest.raises(PreflightError, match=f"STATE_DIR: .*agent.lock: .*{words}"),
        instance_lock(folder, "a", shared=False),
    ):
        pass


@pytest.mark.parametrize(
    ("planted", "words"), [("link", "symbolic link"), ("others", "belongs to user"), ("open", "others may")]
)
def test_a_folder_that_somebody_planted_is_refused(tmp_path, planted, words):
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "agent"
    elsewhere.mkdir()
    if planted == "link":
        folder.symlink_to(elsewhere)
    else:
        folder.mkdir()
        folder.chmod(0o700 if planted == "others" else 0o777)
        os.chown(folder, NOBODY if planted == "others" else 0, 0)
    with pytest.raises(PreflightError, match=words), instance_lock(folder, "a", shared=False):
        pass
    with pytest.raises(JournalError, match=words):
        Journal(folder / "journal.db", 1)
    assert list(elsewhere.iterdir()) == []


def test_a_file_that_others_could_read_is_closed_to_them(folder):
    for name in ("journal.db", "agent.lock"):
        (folder / name).touch(mode=0o644)
    Journal(folder / "journal.db", 1).close()
    with instance_lock(folder, "a", shared=False):
        pass
    assert {path.name: path.stat().st_mode & 0o077 for path in folder.iterdir()} == {"journal.db": 0, "agent.lock": 0}


def candidate():
    return Candidate(agent_id="a", instance="i", nonce="n", host="h", container_id="", epoch_floor=0, lease=1.0)


@plants
async def test_an_election_lock_that_somebody_planted_is_refused_and_not_written(folder, victim, plant, words):
    path = folder / "agent.lock"
    plant(path, victim)
    election = FileBackend(path, "a")
    assert any(words in problem.message for problem in await election.preflight())
    with pytest.raises(BackendUnavailable, match=f"LOCK_FILE_PATH: .*{words}"):
        await election.acquire(candidate(), None)


async def test_a_lock_that_no_agent_holds_is_told(folder, caplog, monkeypatch):
    monkeypatch.setattr(backend, "REPORT_FOREIGN_LOCK", 0.0)
    path = folder / "agent.lock"
    path.touch(mode=0o600)
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        election = FileBackend(path, "a")
        for _ in range(3):
            await election.acquire(candidate(), None)
    assert caplog.text.count("by no agent") == 1
    assert f"fuser {path}" in caplog.text


@pytest.mark.parametrize(
    ("container", "told"),
    [("c" * 64, "container cccccccccccc: "), ("", f"process {os.getpid()}: ")],
    ids=["in a container", "on the host"],
)
def test_a_second_agent_is_told_where_the_first_runs_as_an_operator_would_find_it(
    tmp_path, monkeypatch, container, told
):
    """In a container the agent is process 1, which from outside is something else."""
    monkeypatch.setattr("streamspace_agent.instance_lock.container_id", lambda: container)
    again = instance_lock(tmp_path / "a", "a", shared=False)
    with (
        instance_lock(tmp_path / "a", "a", shared=False),
        pytest.raises(PreflightError, match=f"runs on this host already, {told}stop it"),
        again,
    ):
        pass
