"""The file backend in one process: what it writes, what it refuses, what a full or read-only disk does."""

import asyncio
import contextlib
import fcntl
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamspace_agent.config import Settings
from streamspace_agent.election import Candidate, Grant, Held, Record
from streamspace_agent.errors import BackendUnavailable, LeaseLost, PreflightError
from streamspace_agent.plugins import Plugins
from streamspace_elect_file import backend as module
from streamspace_elect_file.backend import FileBackend
from streamspace_elect_file.file_format import FileRecord, read, write
from streamspace_elect_file.preflight import Mount, in_container, mount_of, mount_problems


@pytest.fixture(autouse=True)
def settle(monkeypatch):
    monkeypatch.setattr(module, "SETTLE", 0.0)  # its own test runs with real processes


@pytest.fixture
def path(tmp_path):
    return tmp_path / "agent.lock"


@pytest.fixture
def make(path):
    def make(agent_id="agent-1", where=path, **options):
        return FileBackend(where, agent_id, **options)

    before = descriptors()
    yield make
    for descriptor in descriptors() - before:  # a backend keeps its lock for as long as its process lives
        os.close(descriptor)


def descriptors():
    """The open files of this process that are locks, or were before they were deleted."""
    opened = set()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if "agent.lock" in os.readlink(link):
                opened.add(int(link.name))
    return opened


def me(name="me", floor=0, agent_id="agent-1"):
    return Candidate(agent_id, name, f"{name}.1", "host", "c" * 64, None, floor)


async def granted(backend, candidate=None):
    grant = await backend.acquire(candidate or me(), None)
    assert isinstance(grant, Grant)
    return grant


async def test_cat_tells_an_operator_who_leads_since_when_with_which_epoch_for_which_agent(make, path):
    grant = await granted(make(), me("docker-7-ab12", floor=41))
    first, since, epoch, agent, state = path.read_text().splitlines()[:5]
    assert (first, epoch, agent, state) == ("docker-7-ab12", "epoch: 42", "agent: agent-1", "state: leading")
    assert since == f"since: {grant.record.since}"


async def test_every_field_of_the_record_comes_back_from_the_file(make):
    holder, reader = make(), make()
    assert await reader.observe() is None
    grant = await granted(holder)
    assert await reader.observe() == grant.record
    renewed = await holder.renew(grant)
    assert await reader.observe() == renewed.record == replace(grant.record, sequence=2)


async def test_only_one_of_two_gets_the_lock_and_the_other_learns_who_has_it(make):
    grant = await granted(make())
    assert await make().acquire(me("other"), None) == Held(grant.record)


async def test_the_same_nonce_gets_its_grant_again(make):
    holder = make()
    grant = await granted(holder)
    assert await granted(holder) == grant


async def test_a_release_keeps_the_epoch_and_frees_the_lock(make):
    holder, other = make(), make()
    first = await granted(holder, me(floor=100))
    await holder.release(first)
    seen = await other.observe()
    assert (seen.released, seen.epoch) == (True, 101)
    assert (await granted(other, me("other"))).record.epoch == 102
    with pytest.raises(LeaseLost):
        await holder.renew(first)
    await holder.release(first)  # of what is lost already: nothing
    assert not (await other.observe()).released


async def test_the_epoch_exceeds_both_the_files_and_the_candidates(make, path):
    first = make()
    await first.release(await granted(first, me(floor=1000)))
    assert (await granted(make(), me(floor=5))).record.epoch == 1002


async def test_a_waiter_is_told_soon_after_the_release(make):
    holder, waiter = make(), make()
    grant = await granted(holder)
    waiting = asyncio.create_task(waiter.wait_change(grant.record, 30))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await holder.release(grant)
    await asyncio.wait_for(waiting, 5)
    assert isinstance(await waiter.acquire(me("other"), None), Grant)


async def test_waiting_without_a_change_ends_at_its_timeout(make):
    grant = await granted(make())
    began = asyncio.get_running_loop().time()
    await asyncio.wait_for(make().wait_change(grant.record, 0.2), 5)
    assert asyncio.get_running_loop().time() - began >= 0.2


@pytest.mark.parametrize("damage", ["unlink", "replace", "release"])
async def test_a_renewal_notices_that_the_file_or_the_lock_is_gone(make, path, damage):
    holder = make()
    grant = await granted(holder)
    if damage == "unlink":
        path.unlink()
    elif damage == "replace":
        path.with_name("x").write_bytes(path.read_bytes())
        path.with_name("x").rename(path)
    else:
        await holder.release(grant)
    with pytest.raises(LeaseLost):
        await holder.renew(grant)


async def test_a_copy_of_a_record_proves_nothing_but_its_epoch_still_counts(make, path):
    await granted(make(), me(floor=5000))
    path.with_name("x").write_bytes(path.read_bytes())
    path.with_name("x").rename(path)
    other = make()
    assert await other.observe() is None
    assert (await granted(other, me("other"))).record.epoch == 5002


async def test_another_agents_record_is_refused_with_both_names_and_the_fix(make, path):
    await granted(make("agent-1"))
    for call in (make("agent-2").observe, lambda: make("agent-2").acquire(me(agent_id="agent-2"), None)):
        with pytest.raises(PreflightError, match=r"agent-1.*agent-2.*LOCK_FILE_PATH=/var/run/streamspace/\{agent_id\}"):
            await call()
    [problem] = await make("agent-2").preflight()
    assert problem.fatal


async def test_the_descriptor_is_not_inherited_by_a_program_that_is_executed(make, path):
    grant = await granted(make())
    assert not os.get_inheritable(grant.token)


async def test_a_missing_folder_is_made(make, tmp_path):
    await granted(make(where=tmp_path / "a" / "agent.lock"))


async def test_a_misspelt_path_is_refused_and_not_made_into_another_lock(make, tmp_path):
    backend = make(where=tmp_path / "misspelt" / "streamspace" / "agent.lock")
    [problem] = await backend.preflight()
    assert problem.fatal
    assert f"there is no folder {tmp_path}/misspelt" in problem.message
    with pytest.raises(BackendUnavailable, match="LOCK_FILE_PATH"):
        await backend.acquire(me(), None)
    assert list(tmp_path.iterdir()) == []


async def test_a_preflight_changes_nothing(make, tmp_path):
    assert await make(where=tmp_path / "new" / "agent.lock").preflight() == []
    assert list(tmp_path.iterdir()) == []


async def test_a_folder_in_place_of_the_file_is_refused(make, tmp_path):
    [problem] = await make(where=tmp_path).preflight()
    assert problem.fatal
    assert "not a regular file" in problem.message


@pytest.fixture
def small_disk(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=32", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


def fill(disk):
    with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as ballast:
        while True:
            ballast.write(b"x" * 4096)


async def test_on_a_full_disk_nobody_leads_without_a_stored_epoch_and_the_lock_is_not_kept(small_disk, make):
    path = small_disk / "agent.lock"
    path.touch()
    fill(small_disk)
    one = make(where=path)
    with pytest.raises(BackendUnavailable, match="LOCK_FILE_PATH"):
        await one.acquire(me(), None)
    (small_disk / "ballast").unlink()
    await granted(make(where=path))


async def test_a_disk_that_fills_up_takes_no_leadership_away(small_disk, make):
    holder = make(where=small_disk / "agent.lock")
    grant = await granted(holder)
    fill(small_disk)
    grant = await holder.renew(await holder.renew(grant))
    await holder.release(grant)
    assert isinstance(await make(where=small_disk / "agent.lock").acquire(me("other"), None), Grant)


async def test_a_record_that_cannot_be_written_is_said_once_and_borne(make, monkeypatch, caplog):
    holder = make()
    grant = await granted(holder)

    def full(descriptor, entry):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write", full)
    for _ in range(3):
        grant = await holder.renew(grant)
    assert caplog.text.count("No space left on device") == 1
    await holder.release(grant)
    monkeypatch.undo()
    monkeypatch.setattr(module, "SETTLE", 0.0)
    await granted(make(), me("other"))


@pytest.fixture
def read_only_disk(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    return small_disk


async def test_a_read_only_disk_is_named_by_preflight_and_by_the_attempt(read_only_disk, make):
    one = make(where=read_only_disk / "agent.lock")
    [problem] = await one.preflight()
    assert problem.fatal
    assert "read-only" in problem.message
    with pytest.raises(BackendUnavailable, match="Read-only"):
        await one.acquire(me(), None)


ENTRY = FileRecord(
    Record("agent-1", "host-1-ab", "n.1", 7, 3, 0, host="h", container_id="", since="now"), 11, 22, "then"
)


def test_a_torn_record_is_seen_as_none():
    longer = replace(ENTRY, record=replace(ENTRY.record, holder="another-much-longer-name", epoch=8)).encode()
    shorter = ENTRY.encode()
    assert FileRecord.decode(shorter) == ENTRY
    for cut in range(1, len(longer)):
        torn = longer[:cut] + shorter[cut:]
        assert FileRecord.decode(torn) in {None, ENTRY} or torn.startswith(longer[:cut])
        if cut < len(shorter) - 1:
            assert FileRecord.decode(torn) is None


def test_what_a_longer_record_left_behind_the_checksum_is_ignored():
    assert FileRecord.decode(ENTRY.encode() + b"leftover\ncheck: 00000000\n") == ENTRY


@given(st.binary(max_size=600))
def test_whatever_stands_in_the_file_reading_it_never_fails(data):
    FileRecord.decode(data)
    FileRecord.decode(ENTRY.encode()[:-20] + data)


def test_a_shorter_record_leaves_nothing_of_a_longer_one(path):
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        write(descriptor, replace(ENTRY, renewed="x" * 200))
        write(descriptor, ENTRY)
        assert path.read_bytes() == ENTRY.encode()
        assert read(descriptor) == ENTRY
    finally:
        os.close(descriptor)


LOCAL = Mount("/", "/", "ext4", "/dev/sda1")


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "9p", "virtiofs", "fuse.sshfs", "fuse", "fakeowner"])
@pytest.mark.parametrize("contained", [True, False])
def test_file_systems_on_which_two_can_hold_the_lock_are_refused_by_name(kind, contained):
    [problem] = mount_problems(Path("/locks/a.lock"), Mount("/", "/locks", kind, "server:/x"), contained=contained)
    assert problem.fatal
    assert kind in problem.message
    assert "LOCK_FILE_PATH" in problem.fix


def test_a_containers_own_layer_is_refused_and_a_hosts_root_is_not():
    overlay = Mount("/", "/", "overlay", "overlay")
    [problem] = mount_problems(Path("/var/run/streamspace/a.lock"), overlay, contained=True)
    assert problem.fatal
    assert "own layer" in problem.message
    assert list(mount_problems(Path("/var/run/a.lock"), LOCAL, contained=False)) == []


def test_a_volume_is_accepted_and_a_containers_own_tmpfs_is_worth_a_warning():
    volume = Mount("/var/lib/docker/volumes/locks/_data", "/var/run/streamspace", "ext4", "/dev/sda1")
    assert list(mount_problems(Path("/var/run/streamspace/a.lock"), volume, contained=True)) == []
    [problem] = mount_problems(Path("/run/a.lock"), Mount("/", "/run", "tmpfs", "tmpfs"), contained=True)
    assert not problem.fatal


@pytest.mark.parametrize(("kind", "expected"), [("overlay", True), ("ext4", False)])
def test_a_disk_made_from_an_image_is_not_mistaken_for_a_container(tmp_path, kind, expected):
    (tmp_path / ".dockerenv").touch()
    assert in_container(f"1 0 8:1 / / rw - {kind} none rw\n", tmp_path) is expected
    assert not in_container(f"1 0 8:1 / / rw - {kind} none rw\n", tmp_path / "bare")


TABLE = r"""1 0 8:1 / / rw - ext4 /dev/a rw
2 1 0:30 / /mnt/my\040locks rw - nfs4 server:/x rw
3 1 0:31 / /mnt rw - tmpfs t rw
4 1 0:32 / /mnt rw - xfs /dev/b rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/mnt/my locks/a", "nfs4"), ("/mnt/a", "xfs"), ("/mnt2/a", "ext4"), ("/a", "ext4")],
)
def test_the_most_specific_and_last_mount_above_a_path_counts(path, kind):
    assert mount_of(Path(path), TABLE).kind == kind


async def test_the_backend_is_chosen_by_its_name_and_takes_its_settings(tmp_path, make):
    settings = Settings(
        agent_id="agent-1",
        control_plane_url="ws://x",
        leader_election_backend="file",
        lock_file_path=f"{tmp_path}/{{agent_id}}.agent.lock",
    )
    backend = Plugins().election_backend(settings, {})
    assert isinstance(backend, FileBackend)
    await granted(backend)
    assert (tmp_path / "agent-1.agent.lock").exists()


async def test_a_lock_taken_by_hand_keeps_everybody_out(make, path):
    holder = make()
    await holder.release(await granted(holder))
    with path.open() as by_hand:
        fcntl.flock(by_hand, fcntl.LOCK_EX)
        assert isinstance(await make().acquire(me("other"), None), Held)


async def test_a_replica_waits_with_the_new_file_locked_and_anew_when_that_is_deleted_too(make, path, monkeypatch):
    monkeypatch.setattr(module, "SETTLE", 1.0)
    waiting, leader = make(), make()
    assert isinstance(await waiting.acquire(me("waiting"), None), Held)
    assert isinstance(await leader.acquire(me("leader"), None), Held), "the wait belongs to whoever holds the lock"
    await asyncio.sleep(1.1)
    path.unlink()  # and whoever had made it may have led
    assert isinstance(await waiting.acquire(me("waiting"), None), Held)
    await asyncio.sleep(1.1)
    await granted(waiting, me("waiting"))
