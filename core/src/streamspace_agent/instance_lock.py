"""The instance lock: on one host, a second agent of the same id is refused, unless both are replicas (``ENABLE_HA``).

Two such agents would take the control-plane connection and the journal from each other for ever. The lock is on a file
in ``STATE_DIR``: the replicas of an agent share it, an agent that runs alone holds it exclusively. The kernel releases
it when the process ends, however it ends. Agents on other hosts are not seen; the link warns of those.
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


class InstanceLock:
    """A context manager that holds the lock for the life of the process. Raises PreflightError on entry."""

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
                f"AGENT_ID: an agent {self._agent_id} runs on this host already, {holder}: "
                "stop it, or set ENABLE_HA=true for every replica"
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
            except OSError:  # closing writes what is left, which a full disk refuses
                log.debug("%s is not written", self._path)


def _self() -> str:
    """How an operator finds this process: by its container if it runs in one, else by its process id."""
    container = container_id()
    return f"container {container[:12]}" if container else f"process {os.getpid()}"


def _why(error: OSError) -> str:
    return (error.strerror or os.strerror(error.errno or errno.EIO)).lower()
