"""Election by ``flock`` on one file. The kernel's lock decides; the text in the file only informs."""

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
from streamspace_elect_file import preflight
from streamspace_elect_file.fencing import Fence
from streamspace_elect_file.file_format import FileRecord, open_to_read, read, read_path, write

log = logging.getLogger(__name__)

# Seconds between two checks of a holder that its file is still the one at the path.
CHECK_EVERY = 1.0

# Seconds before a file without a record of its own (missing, empty or a copy) is trusted: a leader may still hold the
# lock of a deleted one. It notices within CHECK_EVERY, and its work stops within the elector's grace of 1 s; the rest
# is for a slow machine.
SETTLE = CHECK_EVERY + 1.0 + 0.5

# Seconds between two tries of a waiter: a takeover then takes 34 ms at the median and 54 ms at most (20 measured), and
# a whole standby uses 0.5 % of a core. A blocking flock would return in 1.3 ms, but could not be cancelled.
POLL = 0.05

# Whoever can open a file can lock it, even for reading only. The group, which is Docker's under systemd, may read.
MODE = 0o640

# Seconds after which a lock without a live agent's record is reported: an agent writes as soon as it has the lock.
REPORT_FOREIGN_LOCK = 5.0


class FileBackend(ElectionBackend):
    name: ClassVar[str] = "file"
    guarantees: ClassVar[frozenset[Guarantee]] = frozenset({Guarantee.ONE_HOST, Guarantee.ENDS_BY_ITSELF})

    def __init__(self, path: Path, agent_id: str, *, fence: Fence | None = None) -> None:
        """``fence`` ends a frozen leader; None leaves that to the operator."""
        self._path = path
        self._agent_id = agent_id
        self._fence = fence
        self._descriptor: int | None = None
        """The locked file."""
        self._held: Record | None = None
        """The record that was written under the lock; None while it is too early for one."""
        self._no_record_since: float | None = None
        self._foreign_lock_since: float | None = None
        self._write_failed = False
        # A child that was forked without exec would inherit the lock and keep it after this process has ended.
        os.register_at_fork(after_in_child=_closer(weakref.ref(self)))

    @property
    def timing(self) -> Timing:
        return Timing(lease=None, renew_every=CHECK_EVERY, call_timeout=1.0, margin=0.0)

    async def preflight(self) -> list[Problem]:
        try:
            problems = preflight.problems(self._path)
            if not any(problem.fatal for problem in problems):
                with contextlib.suppress(FileNotFoundError):
                    problems += self._other_agent(read_path(self._path)[0])
        except OSError as error:
            raise self._unavailable(error) from error
        return problems

    async def observe(self) -> Record | None:
        try:
            found, file = read_path(self._path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unavailable(error) from error
        self._refuse_other_agent(found)
        return found.record if found is not None and found.inode == file.st_ino else None

    async def acquire(self, me: Candidate, seen: Record | None) -> Grant | Held:
        del seen  # the kernel decides
        if self._held is not None:
            if self._held.nonce == me.nonce:
                return Grant(self._held, self._descriptor)
            self._close()
        try:
            return self._take(me) or Held(await self.observe())
        except OSError as error:
            self._close()
            raise self._unavailable(error) from error
        except PreflightError:
            self._close()
            raise

    def _take(self, me: Candidate) -> Grant | None:
        """Lock, read, write, in this order; None if another holds the lock, or it is too early. Raises OSError."""
        descriptor = self._lock()
        if descriptor is None:
            return None
        found, inode = read(descriptor), os.fstat(descriptor).st_ino
        self._refuse_other_agent(found)
        # Wait with the lock held: the leader of a file that was deleted before this one was created then has the time
        # to notice. Waiting first and locking afterwards would miss a leader that came and lost its file in between.
        if (found is None or found.inode != inode) and not self._settled():
            return None
        record = Record(
            agent_id=me.agent_id,
            holder=me.instance,
            nonce=me.nonce,
            epoch=max(found.record.epoch if found else 0, me.epoch_floor) + 1,
            sequence=1,
            lease_ms=0,
            host=me.host,
            container_id=me.container_id,
            since=_now(),
        )
        write(descriptor, FileRecord(record, inode, os.getpid(), _now()))
        self._held, self._write_failed = record, False
        return Grant(record, descriptor)

    def _lock(self) -> int | None:
        """Return the file at the path, locked by this replica before or now; None if another holds the lock."""
        if self._descriptor is not None:
            if self._is_at_path(self._descriptor):
                return self._descriptor
            self._close()
        # The last folder only: a misspelt path must fail, or it would be another lock and make a second leader.
        self._path.parent.mkdir(exist_ok=True)
        descriptor = open_private(self._path, os.O_RDWR | os.O_CREAT, MODE)
        try:
            if not _try_lock(descriptor):
                self._report_foreign_lock(read(descriptor))
            elif self._is_at_path(descriptor):
                self._descriptor, self._no_record_since, self._foreign_lock_since = descriptor, None, None
        finally:
            if self._descriptor != descriptor:
                os.close(descriptor)
        return self._descriptor

    def _report_foreign_lock(self, found: FileRecord | None) -> None:
        """Log once that no agent holds the lock, as far as the file says: it would be waited for in silence."""
        if found is not None and not found.record.released and Path(f"/proc/{found.pid}").exists():
            self._foreign_lock_since = None
            return
        now = asyncio.get_running_loop().time()
        self._foreign_lock_since = self._foreign_lock_since or now
        if REPORT_FOREIGN_LOCK <= now - self._foreign_lock_since < math.inf:
            self._foreign_lock_since = math.inf
            log.warning(
                "LOCK_FILE_PATH: %s is locked by a process that writes nothing to it, so by no agent: "
                "`fuser %s` shows which",
                self._path,
                self._path,
            )

    async def renew(self, grant: Grant) -> Grant:
        descriptor = self._descriptor_of(grant)
        if descriptor is None:
            raise LeaseLost(f"the lock on {self._path} was released")
        try:
            if not self._is_at_path(descriptor):
                raise LeaseLost(f"{self._path} was deleted or replaced, which lets a second leader in: leave it alone")
            if not _try_lock(descriptor):
                raise LeaseLost(f"another process holds the lock on {self._path}")
        except OSError as error:
            raise self._unavailable(error) from error
        record = replace(grant.record, sequence=grant.record.sequence + 1)
        self._write(descriptor, record)
        self._held = record
        return Grant(record, descriptor)

    async def release(self, grant: Grant) -> None:
        descriptor = self._descriptor_of(grant)
        if descriptor is not None:
            self._write(descriptor, replace(grant.record, sequence=grant.record.sequence + 1, released=True))
            self._close()

    async def wait_change(self, record: Record | None, timeout: float) -> None:
        del record
        if self._descriptor is not None and self._held is None:
            await asyncio.sleep(min(POLL, timeout))  # this replica holds the lock: it only has to wait until SETTLE
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        try:
            descriptor = open_to_read(self._path)
        except OSError:
            await asyncio.sleep(min(POLL, timeout))
            return
        try:
            while (left := deadline - loop.time()) > 0:
                await asyncio.sleep(min(POLL, left))
                if not self._is_at_path(descriptor) or _try_lock(descriptor):
                    return
        except OSError as error:
            raise self._unavailable(error) from error
        finally:
            os.close(descriptor)  # and the lock with it, which only showed that it is free

    async def fence(self, record: Record) -> str:
        if self._fence is None:
            return ""

        def silent() -> bool:
            found, file = read_path(self._path)
            return found is not None and found.inode == file.st_ino and found.record == record

        return await asyncio.to_thread(self._fence.end, self._path, record, silent)

    async def aclose(self) -> None:
        """Does nothing: the lock ends with the process, since work may still be running under it."""

    def _descriptor_of(self, grant: Grant) -> int | None:
        held = self._held
        return self._descriptor if held is not None and grant.record.same_tenure(held) else None

    def _settled(self) -> bool:
        now = asyncio.get_running_loop().time()
        if self._no_record_since is None:
            self._no_record_since = now
            log.info(
                "%s holds no record of its own: waiting %.1f s, in case a leader's file was deleted", self._path, SETTLE
            )
        return now - self._no_record_since >= SETTLE

    def _is_at_path(self, descriptor: int) -> bool:
        """Whether the open file is still the one at the path."""
        mine = os.fstat(descriptor)
        try:
            there = self._path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return mine.st_nlink > 0 and (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)

    def _write(self, descriptor: int, record: Record) -> None:
        """Write the record for the others. The lock outlives a full disk, so a failure is only logged, and once."""
        try:
            write(descriptor, FileRecord(record, os.fstat(descriptor).st_ino, os.getpid(), _now()))
        except OSError as error:
            if not self._write_failed:
                log.warning(
                    "cannot write to %s: %s; this replica goes on leading, the others see no sign of it",
                    self._path,
                    error.strerror,
                )
            self._write_failed = True
        else:
            self._write_failed = False

    def _close(self) -> None:
        """Release the lock by closing the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = self._held = None

    def _other_agent(self, found: FileRecord | None) -> list[Problem]:
        if found is None or found.record.agent_id == self._agent_id:
            return []
        return [
            Problem(
                f"LOCK_FILE_PATH: {self._path} belongs to agent {found.record.agent_id}, this is agent "
                f"{self._agent_id}: two agents cannot share a lock file",
                "set LOCK_FILE_PATH=/var/run/streamspace/{agent_id}.lock for both, "
                "or delete the file if that agent is gone",
            )
        ]

    def _refuse_other_agent(self, found: FileRecord | None) -> None:
        for problem in self._other_agent(found):
            raise PreflightError(f"{problem.message}; {problem.fix}")

    def _unavailable(self, error: OSError) -> BackendUnavailable:
        return BackendUnavailable(f"LOCK_FILE_PATH: {self._path}: {error.strerror or error}")


def _try_lock(descriptor: int) -> bool:
    """Take the lock. True if it was free, or held by this descriptor already."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _closer(backend: "weakref.ref[FileBackend]") -> Callable[[], None]:
    def close() -> None:
        if instance := backend():
            instance._close()  # noqa: SLF001 - closes the child's copy only, the parent's lock stays

    return close


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
