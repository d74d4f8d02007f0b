"""A mark inside a container that says why it stopped: the engine keeps it, so every later agent reads the same truth.

An engine's exit code cannot tell a session that was put to sleep from one that died. The mark is a small file that
names the run it is about (the container's ``StartedAt``): it goes stale by itself with the next start. Whoever is root in a session
can write there as well, so it is sealed with a number that stands in the container's labels, which nobody inside can see; and what
is read there may be anything.
"""

import hashlib
import hmac
import logging
from contextlib import suppress
from enum import StrEnum

from streamspace_agent.runtime import SessionState
from streamspace_engine import Engine
from streamspace_engine.errors import EngineError, NotFound
from streamspace_runtime_docker import labels
from streamspace_runtime_docker.archives import read_file, write_file
from streamspace_runtime_docker.containers import MARK
from streamspace_runtime_docker.ends import KILLED
from streamspace_runtime_docker.found import Found

log = logging.getLogger(__name__)

_LIMIT = 512
"""Bytes; no mark is longer."""


class Mark(StrEnum):
    HIBERNATED = "hibernated"
    """We stopped it to wake it later."""
    ENDED = "ended"
    """We saw it end by itself."""


class Marks:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def write(self, found: Found, mark: Mark) -> None:
        """Put the mark for the container's latest run; where the engine refuses, the exit code has to tell."""
        try:
            await write_file(self._engine, found.id, MARK, _text(found, mark).encode(), 0o600)
        except NotFound:
            raise
        except EngineError as error:
            log.warning("cannot mark %s as %s: %s", found.name, mark, error)

    async def clear(self, found: Found) -> None:
        """Take the mark of the present run back."""
        with suppress(EngineError):
            await write_file(self._engine, found.id, MARK, b"\n", 0o600)

    async def read(self, found: Found) -> Mark | None:
        """The mark, if it is about the container's latest run. Raises EngineError where the engine cannot tell."""
        try:
            text = await read_file(self._engine, found.id, MARK, limit=_LIMIT)
        except NotFound:
            return None  # no such file, which is usual, or no such container any more
        return next((mark for mark in Mark if text and hmac.compare_digest(text, _text(found, mark).encode())), None)


def _text(found: Found, mark: Mark) -> str:
    words = f"{mark} {found.started_at}"
    seal = hmac.new(found.labels.get(labels.SEAL, "").encode(), words.encode(), hashlib.sha256).hexdigest()
    return f"{words} {seal}\n"


# 0: ended when asked to; 137, 143: killed or terminated, as an engine does to all when it stops; 255: containerd lost the
# container with the host. None of them is the session's own failure.
_STOPPED = {0, 137, 143, 255}


# With an error of the engine's beside it, the exit code of a start that failed, written over the one of the run before.
_NOT_STARTED = {126, 127, 128}


def judge(found: Found, mark: Mark | None) -> tuple[SessionState, str]:
    """State and reason of a container that has exited. Where it cannot be known it sleeps: what died is thrown away."""
    if mark is Mark.HIBERNATED:
        return SessionState.HIBERNATED, ""
    if mark is None and found.error and found.exit_code in _NOT_STARTED | _STOPPED:
        return SessionState.HIBERNATED, f"the engine could not start it again: {found.error}; wake tries once more"
    if mark is None and found.exit_code in _STOPPED and not found.oom_ended:
        memory = ", or it ran out of memory" if found.oom and found.oom_ended is None else ""
        return SessionState.HIBERNATED, f"stopped while the engine or the agent was away{memory}; wake brings it back"
    return SessionState.FAILED, ended(found)


def ended(found: Found) -> str:
    """Why a container is not running, in words."""
    words = f"the session ended with exit code {found.exit_code}"
    if out_of_memory(found):
        words = f"the session ran out of memory and was killed (exit code {found.exit_code})"
    elif found.exit_code in {137, 143}:
        words += ", stopped or killed by something else than this agent"
    return f"{words}: {found.error}" if found.error else words


def out_of_memory(found: Found) -> bool:
    """Where nothing better is known, a container that was killed and once had too little memory died of that."""
    return found.oom_ended or (found.oom_ended is None and found.oom and found.exit_code == KILLED)
