"""The lock: ``flock`` on one file. The kernel's lock is the truth, the text in the file tells about it."""

import asyncio
import contextlib
import fcntl
import logging
import math
import os
import weakref
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from streamspace_agent.election import Candidate, ElectionBackend, Grant, Guarantee, Held, Problem, Record, Timing
from streamspace_agent.errors import BackendUnavailable, LeaseLost, PreflightError
from streamspace_agent.private import open_private
from streamspace_elect_file import place
from streamspace_elect_file.entry import Entry, read, write
from streamspace_elect_file.fence import Fence

log = logging.getLogger(__name__)

# A holder looks this often whether its file is still the one at the path.
CHECK_EVERY = 1.0

# A file that is missing, empty or a copy may mean that a leader still holds the lock of one that was deleted. It notices
# within CHECK_EVERY, and its work has stopped 1 s later (the elector's grace); the rest is for a slow machine.
SETTLE = CHECK_EVERY + 1.0 + 0.5

# A waiter tries the lock this often: a takeover then takes 34 ms at the median and 54 ms at most (20 measured), and
# a whole standby uses 0.5 % of a core. A blocked flock would wake in 1.3 ms, but could not be cancelled.
POLL = 0.05

# Not for everybody: whoever can open a file can also lock it, even for reading only. The group, Docker's under systemd, may look.
MODE = 0o640

# A lock that nobody writes about for this long is somebody's who is no agent: an agent writes as soon as it has it.
STRANGE_AFTER = 5.0


class FileBackend(ElectionBackend):
    name: ClassVar[str] = "file"
    guarantees: ClassVar[frozenset[Guarantee]] = frozenset({Guarantee.ONE_HOST, Guarantee.ENDS_BY_ITSELF})

    def __init__(self, path: Path, agent_id: str, *, fence: Fence | None = None) -> None:
        """``fence`` ends a frozen leader; None leaves that to people."""
        self._path = path
        self._agent_id = agent_id
        self._fence = fence
        self._descriptor: int | None = None
        self._held: Record | None = None
        self._bare_since: float | None = None
        self._mute = False
        self._strange_since: float | None = None
        # A child forked without exec would inherit the lock and keep it beyond our death.
        os.register_at_fork(after_in_child=_forgetter(weakref.ref(self)))

    @property
    def timing(self) -> Timing:
        return Timing(lease=None, renew_every=CHECK_EVERY, call_timeout=1.0, margin=0.0)

    async def preflight(self) -> list[Problem]:
        try:
            problems = place.judge(self._path)
            if not any(problem.fatal for problem in problems):
                with contextlib.suppress(FileNotFoundError):
                    problems += self._foreign(self._look()[0])
        except OSError as error:
            raise self._unavailable(error) from error
        return problems

    async def observe(self) -> Record | None:
        try:
            entry, inode = self._look()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unavailable(error) from error
        self._refuse_foreign(entry)
        if entry is None or entry.inode != inode:
            return None
        return entry.record

    async def acquire(self, me: Candidate, seen: Record | None) -> Grant | Held:
        del seen  # the kernel decides
        if self._held is not None:
            if self._held.nonce == me.nonce:
                return Grant(self._held, self._descriptor)
            self._let_go()
        try:
            return self._take(me) or Held(await self.observe())
        except OSError as error:
            self._let_go()
            raise self._unavailable(error) from error
        except PreflightError:
            self._let_go()
            raise

    def _take(self, me: Candidate) -> Grant | None:
        """Lock, look, write, in this order; None if somebody else holds it, or it is too early. Raises OSError."""
        descriptor = self._locked()
        if descriptor is None:
            return None
        entry, inode = read(descriptor), os.fstat(descriptor).st_ino
        self._refuse_foreign(entry)
        # With the lock held: whose file was deleted before this one was made, has then had the time to notice. Who
        # waits first and locks afterwards misses a leader that came and lost its file in between.
        if (entry is None or entry.inode != inode) and not self._settled():
            return None
        record = Record(
            agent_id=me.agent_id,
            holder=me.instance,
            nonce=me.nonce,
            epoch=max(entry.record.epoch if entry else 0, me.epoch_floor) + 1,
            sequence=1,
            lease_ms=0,
            host=me.host,
            container_id=me.container_id,
            since=_wall(),
        )
        write(descriptor, Entry(record, inode, os.getpid(), _wall()))
        self._held, self._mute = record, False
        return Grant(record, descriptor)

    def _locked(self) -> int | None:
        """The file at the path, locked by this replica, before now or now; None if it is somebody else's."""
        if self._descriptor is not None:
            if self._in_place(self._descriptor):
                return self._descriptor
            self._let_go()
        # The last folder only: a misspelt path must fail, not become another lock, and with it a second leader.
        self._path.parent.mkdir(exist_ok=True)
        descriptor = open_private(self._path, os.O_RDWR | os.O_CREAT, MODE)
        try:
            if not _lock(descriptor):
                self._wonder(read(descriptor))
            elif self._in_place(descriptor):
                self._descriptor, self._bare_since, self._strange_since = descriptor, None, None
        finally:
            if self._descriptor != descriptor:
                os.close(descriptor)
        return self._descriptor

    def _wonder(self, entry: Entry | None) -> None:
        """The lock is somebody else's. Say so, once, where that is no agent's, by what the file says: it would be waited for in silence."""
        if entry is not None and not entry.record.released and Path(f"/proc/{entry.pid}").exists():
            self._strange_since = None
            return
        now = asyncio.get_running_loop().time()
        self._strange_since = self._strange_since or now
        if STRANGE_AFTER <= now - self._strange_since < math.inf:
            self._strange_since = math.inf
            log.warning(
                "LOCK_FILE_PATH: %s is locked by a process that writes nothing to it, so by no agent: `fuser %s` shows which",
                self._path,
                self._path,
            )

    async def renew(self, grant: Grant) -> Grant:
        descriptor = self._mine(grant)
        if descriptor is None:
            raise LeaseLost(f"the lock on {self._path} was let go")
        try:
            if not self._in_place(descriptor):
                raise LeaseLost(f"{self._path} was deleted or replaced, which lets a second leader in: leave it alone")
            if not _lock(descriptor):
                raise LeaseLost(f"the lock on {self._path} is somebody else's")
        except OSError as error:
            raise self._unavailable(error) from error
        record = replace(grant.record, sequence=grant.record.sequence + 1)
        self._tell(descriptor, record)
        self._held = record
        return Grant(record, descriptor)

    async def release(self, grant: Grant) -> None:
        descriptor = self._mine(grant)
        if descriptor is not None:
            self._tell(descriptor, replace(grant.record, sequence=grant.record.sequence + 1, released=True))
            self._let_go()

    async def wait_change(self, record: Record | None, timeout: float) -> None:
        del record
        if (
            self._descriptor is not None and self._held is None
        ):  # locked by us, but without a record of its own: it is only too early
            await asyncio.sleep(min(POLL, timeout))
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError:
            await asyncio.sleep(min(POLL, timeout))
            return
        try:
            while (left := deadline - loop.time()) > 0:
                await asyncio.sleep(min(POLL, left))
                if not self._in_place(descriptor) or _lock(descriptor):
                    return
        except OSError as error:
            raise self._unavailable(error) from error
        finally:
            os.close(descriptor)  # and with it the lock, which only told that it can be had

    async def fence(self, record: Record) -> str:
        if self._fence is None:
            return ""

        def silent() -> bool:
            entry, inode = self._look()
            return entry is not None and entry.inode == inode and entry.record == record

        return await asyncio.to_thread(self._fence.end, self._path, record, silent)

    async def aclose(self) -> None:
        """Leaves the lock to the process's end: work may still be running under it."""

    def _mine(self, grant: Grant) -> int | None:
        held = self._held
        return self._descriptor if held is not None and grant.record.same_tenure(held) else None

    def _look(self) -> tuple[Entry | None, int]:
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            return read(descriptor), os.fstat(descriptor).st_ino
        finally:
            os.close(descriptor)

    def _settled(self) -> bool:
        now = asyncio.get_running_loop().time()
        if self._bare_since is None:
            self._bare_since = now
            log.info(
                "%s holds no record of its own: waiting %.1f s, in case a leader's file was deleted", self._path, SETTLE
            )
        return now - self._bare_since >= SETTLE

    def _in_place(self, descriptor: int) -> bool:
        """Is the open file still the one at the path?"""
        mine = os.fstat(descriptor)
        try:
            there = self._path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return mine.st_nlink > 0 and (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)

    def _tell(self, descriptor: int, record: Record) -> None:
        """Write the record for the others. A full disk takes no lock away: it is said once and borne."""
        try:
            write(descriptor, Entry(record, os.fstat(descriptor).st_ino, os.getpid(), _wall()))
        except OSError as error:
            if not self._mute:
                log.warning(
                    "cannot write to %s: %s; this replica goes on leading, the others see no sign of it",
                    self._path,
                    error.strerror,
                )
            self._mute = True
        else:
            self._mute = False

    def _let_go(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = self._held = None

    def _foreign(self, entry: Entry | None) -> list[Problem]:
        if entry is None or entry.record.agent_id == self._agent_id:
            return []
        return [
            Problem(
                f"LOCK_FILE_PATH: {self._path} belongs to agent {entry.record.agent_id}, this is agent {self._agent_id}: two agents cannot share a lock file",
                "set LOCK_FILE_PATH=/var/run/streamspace/{agent_id}.lock for both, or delete the file if that agent is gone",
            )
        ]

    def _refuse_foreign(self, entry: Entry | None) -> None:
        for problem in self._foreign(entry):
            raise PreflightError(f"{problem.message}; {problem.fix}")

    def _unavailable(self, error: OSError) -> BackendUnavailable:
        return BackendUnavailable(f"LOCK_FILE_PATH: {self._path}: {error.strerror or error}")


def _lock(descriptor: int) -> bool:
    """Take the lock if it is free or ours already."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _forgetter(backend: "weakref.ref[FileBackend]") -> Callable[[], None]:
    def forget() -> None:
        if instance := backend():
            instance._let_go()  # noqa: SLF001 - closes the child's copy only, the parent's lock stays

    return forget


def _wall() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
