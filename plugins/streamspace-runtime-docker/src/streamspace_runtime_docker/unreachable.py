"""Why no engine answers, in the words of an operator: the cause, and what to change."""

import errno
import os
import ssl
import stat
from pathlib import Path

import requests

from streamspace_runtime_docker.errors import Unreachable

START = "start Docker (systemctl start docker), or set DOCKER_HOST"
MOUNT = f"{START}; in a container, mount the socket"
TLS = "check DOCKER_TLS_VERIFY, the port in DOCKER_HOST, and ca.pem, cert.pem and key.pem in DOCKER_CERT_PATH"
_PLAIN = "sent an HTTP request to an HTTPS server"


def explain(error: BaseException, docker_host: str) -> Unreachable:
    """What ``error`` means, of the SDK's, of requests' or of the operating system's."""
    found = _root(error)
    path = Path(docker_host.removeprefix("unix://")) if docker_host.startswith("unix://") else None
    cause, fix = " ".join(str(error).split())[:300], START
    if isinstance(found, ssl.SSLError):
        cause, fix = _tls_words(found), TLS
    elif found is not None:
        cause = str(found.strerror).lower()
    elif isinstance(error, requests.Timeout) or "timed out" in cause:
        cause = "no answer in time"
    elif _PLAIN in cause:
        cause, fix = "it speaks TLS, the agent was not told to", TLS
    elif "TLS" in cause:  # the SDK does not find its certificates
        fix = TLS
    if path is not None and found is not None:
        if found.errno in {errno.EACCES, errno.EPERM}:
            fix = _permission(path)
        elif path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
            cause, fix = "it is no socket", MOUNT  # a bind mount of a missing socket makes a folder of that name
        elif found.errno == errno.ENOENT:
            fix = MOUNT
    return Unreachable(f"DOCKER_HOST={docker_host}: {cause}", fix)


def _root(error: BaseException) -> OSError | None:
    """The operating system's own error, which the SDK wraps three times."""
    queue: list[object] = [error]
    for item in queue:
        if isinstance(item, OSError) and item.strerror and not isinstance(item, requests.RequestException):
            return item
        if isinstance(item, BaseException):
            queue += [*item.args, item.__cause__, getattr(item, "reason", None)]
        if len(queue) > 50:
            break
    return None


def _tls_words(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    return f"no TLS: {str(error.reason or error.strerror).replace('_', ' ').lower()}"


def _permission(path: Path) -> str:
    """The socket's group, by name and number: what a Compose file asks for is the number."""
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
            f"the agent has the socket's group {group}, so it is SELinux that forbids it, or an access list: "
            'security_opt: ["label=disable"] in Compose, a policy module elsewhere (ausearch -m avc | audit2allow -M NAME)'
        )
    return (
        f"run the agent with the socket's group: usermod -aG {group} USER, SupplementaryGroups={group} in systemd, or "
        f'group_add: ["{number}"] in Compose (in the files of deployments/: unset AGENT_USER, or AGENT_USER=10001:{number})'
    )
