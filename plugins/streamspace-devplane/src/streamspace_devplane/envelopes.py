"""The one envelope of the wire, read as strictly as the real control plane reads it."""

import json
import re
import time
from typing import Any, NamedTuple

AGENT_TYPES = frozenset(
    {"heartbeat", "ack", "complete", "failed", "status", "vnc_ready", "vnc_data", "vnc_error", "pong"}
)
SESSION_STATES = frozenset({"pending", "running", "hibernated", "terminated", "failed"})
RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


class Envelope(NamedTuple):
    type: str
    timestamp: str
    payload: dict[str, Any]


class Unreadable(Exception):
    """A message the control plane throws away whole; `str()` is the diagnostics counter it goes under."""


def timestamp(now_ns: int | None = None) -> str:
    """RFC 3339 with nanoseconds and trailing zeros cut, as Go prints it."""
    seconds, nanos = divmod(time.time_ns() if now_ns is None else now_ns, 1_000_000_000)
    fraction = f".{nanos:09d}".rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + fraction + "Z"


def encode(kind: str, payload: dict[str, Any]) -> str:
    return json.dumps({"type": kind, "timestamp": timestamp(), "payload": payload}, separators=(",", ":"))


def decode(text: str | bytes) -> Envelope:
    """Exactly one envelope; anything else raises `Unreadable`. Unlike the other way, several in one frame are refused."""
    try:
        message = json.loads(text)
    except ValueError:
        raise Unreadable("notJson") from None
    if not isinstance(message, dict):
        raise Unreadable("notAnObject")
    stamp = message.get("timestamp", "")
    if not isinstance(stamp, str):
        raise Unreadable("numericTimestamp")
    if stamp and not RFC3339.fullmatch(stamp):
        raise Unreadable("badTimestamp")
    payload = message.get("payload")
    kind = message.get("type")
    if not isinstance(payload, dict) or not isinstance(kind, str):
        raise Unreadable("badEnvelope")
    if kind not in AGENT_TYPES:
        raise Unreadable("unknownType")
    return Envelope(kind, stamp, payload)


def shown(kind: str, payload: dict[str, Any]) -> dict[str, Any]:
    """The payload as the event log keeps it: VNC bytes cut to their first 32 characters, with their length."""
    data = payload.get("data")
    if kind != "vnc_data" or not isinstance(data, str):
        return payload
    return {**payload, "data": data[:32], "dataLength": len(data)}
