"""The stop marker: a small file in a container that says why it stopped. The engine keeps it for every later agent.

An exit code does not tell a hibernated session from one that ended by itself. The marker names the run that it is
about (the container's ``StartedAt``), so the next start makes it void. Root inside a session can write the file, too:
so it is authenticated with a key from the container's labels, which nobody inside can see.
"""

import hashlib
import hmac
import logging
from contextlib import suppress
from enum import StrEnum

from streamspace_agent.runtime import SessionState
from streamspace_engine import Engine
from streamspace_engine.errors import EngineError, NotFound
from streamspace_runtime_docker.containers import labels
from streamspace_runtime_docker.containers.config import STATE_FILE
from streamspace_runtime_docker.containers.files import read_file, write_file
from streamspace_runtime_docker.containers.info import ContainerInfo
from streamspace_runtime_docker.containers.out_of_memory import KILLED

log = logging.getLogger(__name__)

_LIMIT = 512
"""Bytes; no marker is longer."""


class StopMarker(StrEnum):
    HIBERNATED = "hibernated"
    """We stopped it to wake it later."""
    ENDED = "ended"
    """We saw it end by itself."""


class StopMarkers:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def write(self, found: ContainerInfo, marker: StopMarker) -> None:
        """Mark the container's latest run. If the engine refuses, the exit code decides later."""
        try:
            await write_file(self._engine, found.id, STATE_FILE, _text(found, marker).encode(), 0o600)
        except NotFound:
            raise
        except EngineError as error:
            log.warning("cannot mark %s as %s: %s", found.name, marker, error)

    async def clear(self, found: ContainerInfo) -> None:
        """Remove the marker of the present run."""
        with suppress(EngineError):
            await write_file(self._engine, found.id, STATE_FILE, b"\n", 0o600)

    async def read(self, found: ContainerInfo) -> StopMarker | None:
        """The marker, if it is valid and about the latest run. Raises EngineError when the engine cannot tell."""
        try:
            text = await read_file(self._engine, found.id, STATE_FILE, limit=_LIMIT)
        except NotFound:
            return None  # no such file, which is usual, or no such container any more
        return next(
            (marker for marker in StopMarker if text and hmac.compare_digest(text, _text(found, marker).encode())), None
        )


def _text(found: ContainerInfo, marker: StopMarker) -> str:
    words = f"{marker} {found.started_at}"
    seal = hmac.new(found.labels.get(labels.SEAL, "").encode(), words.encode(), hashlib.sha256).hexdigest()
    return f"{words} {seal}\n"


# 0: ended on request; 137, 143: killed or terminated, as by an engine that stops; 255: containerd lost the container
# with the host. None of them is the session's own failure.
_STOPPED = {0, 137, 143, 255}


# Together with an error of the engine: the exit code of a failed start, which has overwritten that of the run before.
_NOT_STARTED = {126, 127, 128}


def judge(found: ContainerInfo, marker: StopMarker | None) -> tuple[SessionState, str]:
    """State and reason of an exited container. When in doubt it is hibernated, since failed sessions are removed."""
    if marker is StopMarker.HIBERNATED:
        return SessionState.HIBERNATED, ""
    if marker is None and found.error and found.exit_code in _NOT_STARTED | _STOPPED:
        return SessionState.HIBERNATED, f"the engine could not start it again: {found.error}; wake tries once more"
    if marker is None and found.exit_code in _STOPPED and not found.oom_ended:
        memory = ", or it ran out of memory" if found.oom and found.oom_ended is None else ""
        return SessionState.HIBERNATED, f"stopped while the engine or the agent was away{memory}; wake brings it back"
    return SessionState.FAILED, end_reason(found)


def end_reason(found: ContainerInfo) -> str:
    """Why a container does not run."""
    words = f"the session ended with exit code {found.exit_code}"
    if ran_out_of_memory(found):
        words = f"the session ran out of memory and was killed (exit code {found.exit_code})"
    elif found.exit_code in {137, 143}:
        words += ", stopped or killed by something else than this agent"
    return f"{words}: {found.error}" if found.error else words


def ran_out_of_memory(found: ContainerInfo) -> bool:
    """If nothing better is known: it was killed, and some process had been killed for lack of memory."""
    return found.oom_ended or (found.oom_ended is None and found.oom and found.exit_code == KILLED)
