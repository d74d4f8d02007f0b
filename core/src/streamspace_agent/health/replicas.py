"""The replicas of an agent on one host: each serves its status on a Unix socket, where commands find it.

``STATE_DIR/AGENT_ID/replicas/INSTANCE.sock`` answers every connection with one JSON document and closes it.
"""

import hashlib
import json
import logging
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from streamspace_agent.election.role import Role
from streamspace_agent.health import Source, to_json

log = logging.getLogger(__name__)

TIMEOUT = 2.0
"""Seconds that a replica may take to answer. A slower one is frozen, because a separate thread answers."""
PAUSE = 0.5
"""Seconds to wait after a connection could not be accepted."""
FOLDER = "replicas"


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica's answer: its ``document`` (see :func:`streamspace_agent.health.document`), or an ``error``."""

    name: str
    document: dict[str, Any] | None
    error: str = ""

    def called(self, instance: str) -> bool:
        """Whether this is the replica of that instance name. Of a frozen one, only the socket's name is known."""
        return self.document["instance"] == instance if self.document else self.name == _file_name(instance)

    @property
    def leads(self) -> bool:
        """Whether it is a leader that is connected to the control plane."""
        document = self.document or {}
        return document.get("role") == Role.LEADER and bool(document.get("link", {}).get("connected"))


class StatusSocket:
    """A context manager that serves a replica's status from its own thread, even while the main loop is blocked.

    Removes the sockets of dead replicas.
    """

    def __init__(self, agent_dir: Path, instance: str, source: Source) -> None:
        self.path = agent_dir / FOLDER / f"{_file_name(instance)}.sock"
        self._source = source
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="status-socket", daemon=True)

    def __enter__(self) -> Self:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for _ in replicas(self.path.parent.parent, remove_dead=True):
            pass
        # On Linux the file gets the socket's mode from before bind, so others can never connect.
        os.fchmod(self._socket.fileno(), 0o600)
        with _short(self.path.parent) as folder:
            # It gets its final name only once it listens: before that, another replica would take it for dead.
            unfinished = Path(folder, f"{self.path.stem}.new")
            unfinished.unlink(missing_ok=True)
            self._socket.bind(str(unfinished))
            self._socket.listen(16)
            unfinished.rename(Path(folder, self.path.name))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with suppress(OSError):
            self.path.unlink()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(TIMEOUT)
        self._socket.close()

    def _serve(self) -> None:
        complained = False
        while not self._ended.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError as error:
                if self._ended.wait(PAUSE):
                    return
                if not complained:  # for example too many open files
                    log.warning("the status socket cannot accept a connection: %s", error)
                complained = True
                continue
            complained = False
            with connection, suppress(OSError):
                connection.settimeout(TIMEOUT)
                try:
                    answer = to_json(self._source())
                except Exception:
                    log.exception("cannot report the status")
                    continue
                connection.sendall(answer)


def replicas(agent_dir: Path, *, remove_dead: bool = False) -> Iterator[Replica]:
    """Ask every replica on this host for its status. Skips the sockets of dead ones, or removes them."""
    try:
        names = sorted(path.name for path in (agent_dir / FOLDER).glob("*.sock"))
    except OSError:
        names = []
    for file_name in names:
        name = file_name.removesuffix(".sock")
        try:
            yield Replica(name, _ask(agent_dir / FOLDER, file_name))
        except (ConnectionRefusedError, FileNotFoundError):
            if remove_dead:
                with suppress(OSError):
                    (agent_dir / FOLDER / file_name).unlink()
        except TimeoutError:
            frozen = f"does not answer within {TIMEOUT:g} s: it is frozen (stopped, paused or starved)"
            yield Replica(name, None, frozen)
        except (OSError, ValueError) as error:
            yield Replica(name, None, f"cannot be asked: {error}")


def _ask(folder: Path, file_name: str) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as client, _short(folder) as short:
        client.settimeout(TIMEOUT)
        client.connect(f"{short}/{file_name}")
        with client.makefile("rb") as answer:
            document = json.loads(answer.read())
    if not isinstance(document, dict):
        raise ValueError("its answer is not a JSON object")  # noqa: TRY004 - bad data, not a bad call
    return document


@contextmanager
def _short(folder: Path) -> Iterator[str]:
    """A short path of a folder: a Unix socket's path has at most 107 bytes (unix(7)), and agent ids may be long."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _file_name(instance: str) -> str:
    """The instance's name, or its digest if it is too long or unusual for a file name."""
    if re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", instance):
        return instance
    return hashlib.sha256(instance.encode()).hexdigest()[:24]
