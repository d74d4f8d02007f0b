"""The control plane's wire format: envelopes of JSON in text frames, in both directions.

Several envelopes may share a frame, separated by newlines. Every envelope is
``{"type": str, "timestamp": RFC 3339 string, "payload": {...}}``.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pybase64

from streamspace_agent.errors import TooDeep, TooLarge
from streamspace_agent.runtime import Progress, ReadyCheck, Session, SessionState

START, STOP, HIBERNATE, WAKE = "start_session", "stop_session", "hibernate_session", "wake_session"
"""The actions of commands about sessions."""
MAX_FRAME = 524_288
"""Bytes; the control plane closes the connection on anything larger."""
MAX_TEXT = 4_000
"""Characters of an error or reason that is sent to the control plane."""
MAX_ID = 256
"""Characters of a command id. A longer one is no real one, and its answer could exceed a frame."""
MAX_SHOWN = 1_000
"""Characters that are kept of an invalid message."""
MAX_DEPTH = 64
"""Objects and arrays inside one another. Deeper ones could not be read back from the journal."""


@dataclass(frozen=True, slots=True)
class Message:
    """An envelope without its timestamp, received or to be sent."""

    type: str
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Malformed:
    """A piece of a frame that is no envelope; ``text`` is its beginning, at most :data:`MAX_SHOWN` characters.

    ``command_id`` is set if one could still be read, ``session_id`` if the piece was a viewer's data for that session.
    """

    reason: str
    text: str
    command_id: str = ""
    session_id: str = ""


def parse(text: str, max_depth: int = MAX_DEPTH) -> Any:
    """The value of a JSON text. Raises ValueError if it is invalid or nested deeper than ``max_depth``."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise TooDeep(f"nested deeper than {max_depth} levels") from None
    level: list[Any] = [value]
    for _ in range(max_depth + 1):
        level = [inner for outer in level if isinstance(outer, dict | list) for inner in _members(outer)]
        if not level:
            return value
    raise TooDeep(f"nested deeper than {max_depth} levels")


def _members(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def envelope(piece: str) -> Message | Malformed:
    """The envelope in a piece of a frame; :class:`Malformed` if it is none. Never raises."""
    shown = piece[:MAX_SHOWN]
    try:
        value = parse(piece)
    except TooDeep as error:
        return Malformed(str(error), shown)
    except ValueError as error:
        return Malformed(f"not JSON: {error}", shown)
    if not isinstance(value, dict):
        return Malformed("not a JSON object", shown)
    payload = value.get("payload")
    command_id = _command_id(payload) or _command_id(value)
    if not isinstance(value.get("type"), str):
        return Malformed("no message type", shown, command_id)
    if payload is None:
        payload = {}
    if not isinstance(payload, dict):
        return Malformed("its payload is not an object", shown, command_id)
    return Message(value["type"], payload)


def _command_id(value: object) -> str:
    return usable_id(value.get("commandId")) if isinstance(value, dict) else ""


def usable_id(value: object) -> str:
    """A command's or session's id as text; "" for a value that cannot be one."""
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return text if len(text) <= MAX_ID and text.isprintable() else ""


def encode(kind: str, payload: Mapping[str, Any]) -> str:
    """One envelope as a text frame. Raises :exc:`TooLarge`."""
    text = json.dumps(
        {"type": kind, "timestamp": timestamp(), "payload": payload},
        separators=(",", ":"),
        allow_nan=False,
        default=str,
    )
    # json.dumps escapes all that is not ASCII, so characters are bytes.
    if len(text) > MAX_FRAME:
        raise TooLarge(f"a {kind} message of {len(text)} bytes exceeds {MAX_FRAME}")
    return text


def timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def cut(text: str, limit: int = MAX_TEXT) -> str:
    """The text; if it is too long, its beginning and how much is missing."""
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text) - limit} characters more)"


# Payloads that we send


def failed(command_id: str, error: str) -> dict[str, Any]:
    return {"commandId": command_id, "error": cut(error)}


def status(session: Session) -> dict[str, Any]:
    """The ``status`` payload: writes the session's state and place at the control plane."""
    metadata: dict[str, Any] = {
        "podName": session.place,
        "podIP": session.address,
        "epoch": session.epoch,
        **_spoken(session),
        **session.details,
    }
    limits = {"cpuLimitCores": session.cpu, "memoryLimitBytes": session.memory}
    metadata |= {name: limit for name, limit in limits.items() if limit}
    if session.reason:
        metadata["reason"] = cut(session.reason)
    return {
        "sessionId": session.session_id,
        "state": str(session.state),
        "vncReady": _usable(session),
        "vncPort": session.port,
        "platformMetadata": metadata,
    }


def announced(payload: Mapping[str, Any]) -> str:
    """What a ``status`` payload writes, to compare it with a later one: state, readiness, port and place."""
    place = payload.get("platformMetadata", {}).get("podName") or ""
    state = f"{payload.get('state')} {'ready' if payload.get('vncReady') else 'unready'}"
    return f"{state} {payload.get('vncPort') or 0} {place}"


def pending(session_id: str, step: Progress, epoch: int) -> dict[str, Any]:
    """The ``status`` payload of a start or wake in progress, with its step."""
    progress: dict[str, Any] = {"phase": step.phase}
    if step.total:
        progress |= {"currentBytes": step.current, "totalBytes": step.total, "percent": step.percent}
    if step.detail:
        progress["detail"] = cut(step.detail, 200)
    return {
        "sessionId": session_id,
        "state": str(SessionState.PENDING),
        "vncReady": False,
        "vncPort": 0,
        "platformMetadata": {"epoch": epoch, "progress": progress},
    }


def started(session: Session) -> dict[str, Any]:
    """The ``result`` of a start or wake, with the keys of the sibling agent and this platform's own."""
    return {
        "sessionId": session.session_id,
        "state": str(session.state),
        "podName": session.place,
        "podIP": session.address,
        "vncPort": session.port,
        **_spoken(session),
        **session.details,
    }


def _spoken(session: Session) -> dict[str, str]:
    """The protocol that was found on ``vncPort``, ``vnc`` or ``http``; known once the session was seen usable."""
    known = _usable(session) and session.ready_check in {ReadyCheck.VNC, ReadyCheck.HTTP}
    return {"protocol": str(session.ready_check)} if known else {}


def _usable(session: Session) -> bool:
    return session.ready and session.state is SessionState.RUNNING


def vnc_data(session_id: str, data: bytes | memoryview) -> bytes:
    """The frame of one ``vnc_data`` message, in UTF-8. Not made by ``json``, which would search base64 for escapes."""
    head = f'{{"type":"vnc_data","timestamp":"{timestamp()}","payload":{{"sessionId":{json.dumps(session_id)},"data":"'
    frame = b"".join((head.encode(), pybase64.b64encode(data), b'"}}'))
    if len(frame) > MAX_FRAME:
        raise TooLarge(f"a vnc_data message of {len(frame)} bytes exceeds {MAX_FRAME}")
    return frame
