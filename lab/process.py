"""Daemons by pid: started in a session of their own, logging to a file, stopped only when proven ours."""

from __future__ import annotations

import errno
import os
import random
import select
import signal
import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lab.say import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def spawn(argv: list[str], log: Path, environ: Mapping[str, str] | None = None) -> int:
    """Start argv (an absolute path first) detached from this terminal; returns its pid."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawnp(argv[0], argv, environ or os.environ, file_actions=actions, setsid=True)


def alive(pid: int) -> bool:
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # reaps it if it was our child
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def ours(pid: int, marker: str) -> bool:
    """True when the process's command line holds `marker` (a path of ours): pids are reused, pidfiles go stale."""
    try:
        return marker.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def stop(pid: int, marker: str, *, sig: int = signal.SIGTERM, grace: float = 30.0) -> None:
    """Signal the process if it is ours, wait `grace` seconds, then kill it; returns when it is gone."""
    if not ours(pid, marker):
        alive(pid)
        return
    try:
        handle = os.pidfd_open(pid)
    except OSError as error:
        if error.errno == errno.ESRCH:
            return
        raise
    try:
        if not ours(pid, marker):  # now the handle pins the pid
            return
        for attempt, wait in ((sig, grace), (signal.SIGKILL, 10.0)):
            signal.pidfd_send_signal(handle, attempt)
            if select.select([handle], [], [], wait)[0]:
                break
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)
    alive(pid)


def wait_until(ready: Callable[[], bool], what: str, *, pid: int, log: Path, timeout: float = 60.0) -> None:
    """Poll until ready; raise LabError with the log's tail when the process dies or the time is up."""
    deadline = time.monotonic() + timeout
    while not ready():
        dead = not alive(pid)
        if dead or time.monotonic() > deadline:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
            raise LabError(
                f"{what} {'died while starting' if dead else f'not ready in {timeout:.0f} s'}; {log}:\n{tail}"
            )
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def free_ports(count: int) -> int:
    """The first of so many free ports in a row, below those that the kernel lends to outgoing connections."""
    lent = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(50):
        first = random.randrange(lent // 2, lent - count)
        with ExitStack() as held, suppress(OSError):
            for port in range(first, first + count):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
    raise LabError(f"no {count} free ports in a row below {lent}")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
