"""A mark inside a container that says why it stopped: the engine keeps it, so every later agent reads the same truth.

An engine's exit code cannot tell a session that was put to sleep from one that died. The mark is a small file that
names the run it is about (the container's ``StartedAt``): it goes stale by itself with the next start.
"""

import io
import logging
import tarfile
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING

from streamspace_agent.runtime import SessionState
from streamspace_runtime_docker.engine import Engine
from streamspace_runtime_docker.errors import EngineError, NotFound
from streamspace_runtime_docker.found import Found

if TYPE_CHECKING:
    import docker

log = logging.getLogger(__name__)

PATH = "/.streamspace-state"
_LIMIT = 4096
"""Bytes of mark that are read: a session whose user is root might have put anything there."""


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
        data = _pack(f"{mark} {found.started_at}\n")
        try:
            await self._engine.change(lambda client: client.put_archive(found.id, "/", data))
        except NotFound:
            raise
        except EngineError as error:
            log.warning("cannot mark %s as %s: %s", found.name, mark, error)

    async def clear(self, found: Found) -> None:
        """Take the mark of the present run back."""
        with suppress(EngineError):
            await self._engine.change(lambda client: client.put_archive(found.id, "/", _pack("\n")))

    async def read(self, found: Found) -> Mark | None:
        """The mark, if it is about the container's latest run."""
        try:
            text = await self._engine.read(lambda client: _fetch(client, found.id))
        except EngineError:
            return None  # no such file, which is usual, or no such container any more
        word, _, started_at = text.strip().partition(" ")
        return Mark(word) if word in set(Mark) and started_at and started_at == found.started_at else None


def _pack(text: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo(PATH.lstrip("/"))
        info.size, info.mode = len(text), 0o600
        tar.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


def _fetch(client: "docker.APIClient", container: str) -> str:
    chunks, stat = client.get_archive(container, PATH)
    if int(stat.get("size", 0)) > _LIMIT:
        return ""
    try:
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
            file = tar.extractfile(tar.next() or tarfile.TarInfo())
            return file.read(_LIMIT).decode("utf-8", "replace") if file else ""
    except (tarfile.TarError, KeyError):
        return ""


# 0: ended when asked to; 137, 143: killed or terminated, as an engine does to all when it stops; 255: containerd lost the
# container with the host. None of them is the session's own failure.
_STOPPED = {0, 137, 143, 255}


def judge(found: Found, mark: Mark | None) -> tuple[SessionState, str]:
    """State and reason of a container that has exited."""
    if mark is Mark.HIBERNATED:
        return SessionState.HIBERNATED, ""
    if mark is None and found.exit_code in _STOPPED and not found.oom:
        return SessionState.HIBERNATED, "stopped while the engine or the agent was away; wake brings it back"
    return SessionState.FAILED, ended(found)


def ended(found: Found) -> str:
    """Why a container is not running, in words."""
    words = f"the session ended with exit code {found.exit_code}"
    if found.oom:
        words = f"the session ran out of memory and was killed (exit code {found.exit_code})"
    elif found.exit_code in {137, 143}:
        words += ", stopped or killed by something else than this agent"
    return f"{words}: {found.error}" if found.error else words
