"""The instance lock: on one host, a second agent of the same id is refused, unless both are replicas (``ENABLE_HA``).

Two such agents would take the control-plane connection and the journal from each other for ever. The lock is on a file
in ``STATE_DIR``: the replicas of an agent share it, an agent that runs alone holds it exclusively. The kernel releases
it when the process ends, however it ends. Agents on other hosts are not seen; the link warns of those.
"""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streamspace_agent.election.identity import container_id
from streamspace_agent.errors import PreflightError, why
from streamspace_agent.private import open_private, private_folder

log = logging.getLogger(__name__)

FILE = "agent.lock"


@contextmanager
def instance_lock(agent_dir: Path, agent_id: str, *, shared: bool) -> Iterator[None]:
    """Hold the lock for the life of the process. Raises PreflightError on entry."""
    path = agent_dir / FILE
    try:
        private_folder(agent_dir)
        descriptor = open_private(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    except OSError as error:
        raise PreflightError(f"STATE_DIR: cannot write {error.filename or path}: {why(error)}") from None
    try:
        _take(descriptor, path, agent_id, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, path: Path, agent_id: str, kind: int) -> None:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "process unknown"
        raise PreflightError(
            f"AGENT_ID: an agent {agent_id} runs on this host already, {holder}: "
            "stop it, or set ENABLE_HA=true for every replica"
        ) from None
    except OSError as error:  # a file system without locks
        log.warning("STATE_DIR: cannot lock %s (%s): a second agent would not be noticed", path, why(error))
        return
    container = container_id()  # inside, the agent is process 1, which no operator would find
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, (f"container {container[:12]}\n" if container else f"process {os.getpid()}\n").encode())
    except OSError as error:
        log.warning("STATE_DIR: cannot write %s: %s", path, why(error))
