"""The labels of every container, volume and network; they describe a session without further calls."""

import math
import secrets
from collections.abc import Mapping

from streamspace_agent.runtime import ReadyCheck, SessionSpec

APP = "app"
STREAMSPACE = "streamspace"
AGENT = "streamspace.agent"
SESSION = "streamspace.session"
USER = "streamspace.user"
TEMPLATE = "streamspace.template"
EPOCH = "streamspace.epoch"
COMMAND = "streamspace.command"
VOLUME = "streamspace.volume"
CPU = "streamspace.cpu"
MEMORY = "streamspace.memory"
PORT = "streamspace.port"
READY = "streamspace.ready"
PATH = "streamspace.path"
IDLE_TIMEOUT = "streamspace.idle-timeout"
MAX_DURATION = "streamspace.max-duration"
BOOT, UPTIME = "streamspace.boot", "streamspace.uptime"
"""When the container was created, by its host's boot clock (see :mod:`.creation_time`)."""
SEAL = "streamspace.seal"
"""A random key that authenticates the stop marker in the container (see :mod:`.stop_marker`)."""

MAX_NUMBER = 32
"""Characters of a label that is read as a number, at most."""


def common(agent_id: str) -> dict[str, str]:
    return {APP: STREAMSPACE, AGENT: agent_id}


def of_session(agent_id: str, spec: SessionSpec) -> dict[str, str]:
    """The labels of everything that is created for a session; older tools filter by ``session-id``."""
    return common(agent_id) | {
        "session-id": spec.session_id,
        SESSION: spec.session_id,
        USER: spec.user,
        TEMPLATE: spec.template,
        EPOCH: str(spec.epoch),
        COMMAND: spec.command_id,
    }


def of_container(agent_id: str, spec: SessionSpec) -> dict[str, str]:
    """A session's labels, and what :class:`~streamspace_agent.runtime.Session` reports from its spec.

    Not the environment, which may hold secrets. Empty labels are written, too: an image's label of that name would show
    otherwise.
    """
    optional = {CPU: spec.cpu, MEMORY: spec.memory, IDLE_TIMEOUT: spec.idle_timeout, MAX_DURATION: spec.max_duration}
    return (
        of_session(agent_id, spec)
        | {PORT: str(spec.port), READY: str(spec.ready), PATH: spec.path, VOLUME: "", SEAL: secrets.token_hex(16)}
        | {name: "" if value is None else f"{value!r}" for name, value in optional.items()}
    )


def number(labels: Mapping[str, str], name: str) -> float | None:
    """A label as a finite number of 0 or more; None if it is missing or anything else."""
    try:
        text = labels[name]
        value = float(text) if len(text) <= MAX_NUMBER else math.inf
    except (KeyError, ValueError, TypeError):
        return None
    return value if math.isfinite(value) and value >= 0 else None


def whole(labels: Mapping[str, str], name: str) -> int | None:
    value = number(labels, name)
    return None if value is None else int(value)


def port(labels: Mapping[str, str]) -> int:
    """The port of the readiness check; 0 for none."""
    number = whole(labels, PORT) or 0
    return number if number < 65536 else 0


def ready_check(labels: Mapping[str, str]) -> ReadyCheck:
    """The check that was expected when the container was created; labels cannot be changed to what was found later."""
    try:
        return ReadyCheck(labels.get(READY, ""))
    except ValueError:
        return ReadyCheck.NONE
