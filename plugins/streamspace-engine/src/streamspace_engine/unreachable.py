"""Explains why no engine answers: the cause, and what an operator changes."""

import errno
import os
import ssl
import stat
from pathlib import Path

import httpcore

from streamspace_engine.errors import Unreachable

START = "start Docker (systemctl start docker), or set DOCKER_HOST"
MOUNT = f"{START}; in a container, mount the socket"
TLS = "check DOCKER_TLS_VERIFY, the port in DOCKER_HOST, and ca.pem, cert.pem and key.pem in DOCKER_CERT_PATH"


def explain(error: BaseException, docker_host: str) -> Unreachable:
    """The error for what httpcore or the operating system raised."""
    # A timeout has no cause; behind it may be what the event loop met while it waited.
    found = None if isinstance(error, httpcore.TimeoutException) else _root(error)
    path = Path(docker_host.removeprefix("unix://")) if docker_host.startswith("unix://") else None
    cause, fix = " ".join(str(error).split())[:300].rstrip("."), START
    if isinstance(found, ssl.SSLError):
        cause, fix = _tls_words(found), TLS
    elif found is not None:
        # asyncio writes a text of its own, with the address, where it has one.
        cause = (
            os.strerror(found.errno) if found.errno and found.errno in errno.errorcode else str(found.strerror)
        ).lower()
    elif isinstance(error, httpcore.TimeoutException):
        cause = "no answer in time"
    if path is not None and found is not None:
        if found.errno in {errno.EACCES, errno.EPERM}:
            fix = _permission(path)
        elif path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
            cause, fix = "it is no socket", MOUNT  # Docker makes a folder when the source of a bind mount is missing
        elif found.errno == errno.ENOENT:
            fix = MOUNT
    return Unreachable(f"DOCKER_HOST={docker_host}: {cause}", fix, lasting=fix != START)


def spoke_plainly_to_tls(docker_host: str) -> Unreachable:
    return Unreachable(f"DOCKER_HOST={docker_host}: it speaks TLS, the agent was not told to", TLS, lasting=True)


def _root(error: BaseException) -> OSError | None:
    """The operating system's error that caused ``error``; several may have, one for each address that was tried."""
    queue: list[BaseException | None] = [error]
    for item in queue:
        if isinstance(item, OSError) and item.strerror:
            return item
        if item is not None:
            queue += [item.__cause__, item.__context__, *getattr(item, "exceptions", ())]
    return None


def _tls_words(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    return f"no TLS: {str(error.reason or error.strerror).replace('_', ' ').lower()}"


def _permission(path: Path) -> str:
    """What to change so that the agent may use the socket. Names its group and number: Compose needs the number."""
    try:
        status = path.stat()
    except OSError:
        return f"let the agent's user (id {os.geteuid()}) into the folder of {path}"
    number = status.st_gid
    try:
        group = path.group()
    except (KeyError, OSError):
        group = str(number)
    if number in {os.getegid(), *os.getgroups()} and status.st_mode & stat.S_IWGRP and status.st_uid != os.geteuid():
        return (
            f"the agent has the socket's group {group}, so SELinux or an access list forbids it: "
            'security_opt: ["label=disable"] in Compose, '
            "a policy module elsewhere (ausearch -m avc | audit2allow -M NAME)"
        )
    return (
        f"run the agent with the socket's group: usermod -aG {group} USER, SupplementaryGroups={group} in systemd, or "
        f'group_add: ["{number}"] in Compose '
        f"(in the files of deployments/: unset AGENT_USER, or AGENT_USER=10001:{number})"
    )
