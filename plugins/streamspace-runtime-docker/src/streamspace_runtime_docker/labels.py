"""What is written on every container, volume and network, and read back to tell a session without asking further."""

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
"""When the container was made, by the clock of its agent's host that nobody can set (see :mod:`.births`)."""
SEAL = "streamspace.seal"
"""A random number by which the agent knows its mark in the container again (see :mod:`.marks`)."""

MAX_NUMBER = 32
"""Characters of a label that is read as a number."""


def common(agent_id: str) -> dict[str, str]:
    return {APP: STREAMSPACE, AGENT: agent_id}


def of_session(agent_id: str, spec: SessionSpec) -> dict[str, str]:
    """The labels of everything made for a session; ``session-id`` is the name older tools filter by."""
    return common(agent_id) | {
        "session-id": spec.session_id,
        SESSION: spec.session_id,
        USER: spec.user,
        TEMPLATE: spec.template,
        EPOCH: str(spec.epoch),
        COMMAND: spec.command_id,
    }


def of_container(agent_id: str, spec: SessionSpec) -> dict[str, str]:
    """With what :class:`~streamspace_agent.runtime.Session` tells of its spec. No environment: it may hold secrets.

    All of our labels, also those that say nothing: an image has labels of its own, which show where we write none.
    """
    optional = {CPU: spec.cpu, MEMORY: spec.memory, IDLE_TIMEOUT: spec.idle_timeout, MAX_DURATION: spec.max_duration}
    return (
        of_session(agent_id, spec)
        | {PORT: str(spec.port), READY: str(spec.ready), PATH: spec.path, VOLUME: "", SEAL: secrets.token_hex(16)}
        | {name: "" if value is None else f"{value!r}" for name, value in optional.items()}
    )


def number(labels: Mapping[str, str], name: str) -> float | None:
    """The number of a label, finite and not below 0; None where there is none or somebody wrote something else."""
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
    """The port that readiness is asked on; 0 for none."""
    number = whole(labels, PORT) or 0
    return number if number < 65536 else 0


def ready_check(labels: Mapping[str, str]) -> ReadyCheck:
    """What was expected when the container was made: labels cannot change, so what is found is not among them."""
    try:
        return ReadyCheck(labels.get(READY, ""))
    except ValueError:
        return ReadyCheck.NONE
