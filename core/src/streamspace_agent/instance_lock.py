"""One agent of an id on a host: a second one without ``ENABLE_HA`` is a mistake, and is told so.

Two of them would take the control-plane connection and the journal from each other without end. A lock on a file in
``STATE_DIR`` finds that out at the start: replicas of an HA agent share it, an agent alone wants it for itself. The kernel frees it
with the process, however that ends. Agents of one id on several hosts cannot see each other so; the link says what it suspects.
"""

import errno
import fcntl
import logging
import os
from pathlib import Path
from typing import IO, Self

from streamspace_agent.election.identity import container_id
from streamspace_agent.errors import PreflightError
from streamspace_agent.private import open_private, private_folder

log = logging.getLogger(__name__)

FILE = "agent.lock"


class Occupancy:
    """Held from start to end of the process. Use as a context manager; raises PreflightError on entry."""

    def __init__(self, agent_dir: Path, agent_id: str, *, shared: bool) -> None:
        self._path = agent_dir / FILE
        self._agent_id = agent_id
        self._shared = shared
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        try:
            private_folder(self._path.parent)
            self._file = os.fdopen(
                open_private(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND), "a+", encoding="ascii"
            )
        except OSError as error:
            raise PreflightError(f"STATE_DIR: cannot write {error.filename or self._path}: {_why(error)}") from None
        try:
            fcntl.flock(self._file, (fcntl.LOCK_SH if self._shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read(200).strip() or "process unknown"
            self._file.close()
            raise PreflightError(
                f"AGENT_ID: an agent {self._agent_id} runs on this host already, {holder}: stop it, or set ENABLE_HA=true for every replica"
            ) from None
        except OSError as error:  # a file system without locks
            log.warning("STATE_DIR: cannot lock %s (%s): a second agent would not be noticed", self._path, _why(error))
            return self
        try:
            self._file.truncate(0)
            self._file.write(f"{_self()}\n")
            self._file.flush()
        except OSError as error:
            log.warning("STATE_DIR: cannot write %s: %s", self._path, _why(error))
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            try:
                self._file.close()
            except OSError:  # what a full disk did not take
                log.debug("%s is not written", self._path)


def _self() -> str:
    """How an operator finds this process: by its number, or by its container, inside which the number tells nothing."""
    container = container_id()
    return f"container {container[:12]}" if container else f"process {os.getpid()}"


def _why(error: OSError) -> str:
    return (error.strerror or os.strerror(error.errno or errno.EIO)).lower()
