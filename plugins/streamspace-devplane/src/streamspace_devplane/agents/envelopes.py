"""The one envelope of the wire, read as strictly as the real control plane reads it."""

import json
import math
import re
import time
from typing import Any, NamedTuple

import pybase64

AGENT_TYPES = frozenset(
    {"heartbeat", "ack", "complete", "failed", "status", "vnc_ready", "vnc_data", "vnc_error", "pong"}
)
SESSION_STATES = frozenset({"pending", "running", "hibernated", "terminated", "failed"})
ENDED = ("failed", "terminated")
"""The states of sessions that are over."""
NOT_JSON = "the body is no JSON of finite numbers, with integers of 64 bits"
FIELDS: dict[str, type] = {
    "commandId": str,
    "sessionId": str,
    "state": str,
    "podName": str,
    "error": str,
    "vncPort": int,
    "vncReady": bool,
    "activeSessions": int,
    "capacity": dict,
    "platformMetadata": dict,
    "result": dict,
}
"""What a payload's fields have to be, or null: a typed reader throws a message away that is otherwise."""
SURROGATE = re.compile("[\ud800-\udfff]")
DEEPEST = 200
RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")

VNC_DATA, DATA, END = b'{"type":"vnc_data",', b'"data":"', b'"}}'
HEAD_LIMIT = 1024


class Envelope(NamedTuple):
    type: str
    timestamp: str
    payload: dict[str, Any]


class Unreadable(Exception):
    """A message the control plane throws away whole; `str()` is the diagnostics counter it goes under."""


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _whole(digits: str) -> int:
    if not -(2**63) <= (number := int(digits)) < 2**63:
        raise Unreadable("badPayload")
    return number


def _finite(digits: str) -> float:
    if math.isinf(number := float(digits)):
        raise Unreadable("badPayload")
    return number


STRICT = json.JSONDecoder(parse_constant=_no_number, parse_int=_whole, parse_float=_finite)


def strict_json(text: str | bytes) -> Any:
    """What may be kept and shown again: JSON as Go reads it. Raises `Unreadable`.

    Numbers that no Go type holds are refused; half of a surrogate pair becomes U+FFFD. Go's limit for the depth is 10,000,
    Python's own depends on who calls: this one is far below it.
    """
    try:
        text = text if isinstance(text, str) else text.decode()
        value = STRICT.decode(text)
        if "\\ud" in text or "\\uD" in text:
            value = STRICT.decode(SURROGATE.sub("\ufffd", json.dumps(value, ensure_ascii=False)))
    except (ValueError, RecursionError):
        raise Unreadable("notJson") from None
    if text.count("{") + text.count("[") > DEEPEST and deeper(value, DEEPEST):
        raise Unreadable("notJson")
    return value


def deeper(value: Any, limit: int) -> bool:
    """Are there more than so many levels of objects and arrays?"""
    level = [value]
    for _ in range(limit + 1):
        inner = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)]
        if not inner:
            return False
        level = [item for items in inner for item in items]
    return True


def timestamp(now_ns: int | None = None) -> str:
    """RFC 3339 with nanoseconds and trailing zeros cut, as Go prints it."""
    seconds, nanos = divmod(time.time_ns() if now_ns is None else now_ns, 1_000_000_000)
    fraction = f".{nanos:09d}".rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + fraction + "Z"


def encode(kind: str, payload: dict[str, Any]) -> str:
    return json.dumps({"type": kind, "timestamp": timestamp(), "payload": payload}, separators=(",", ":"))


def decode(text: str | bytes) -> Envelope:
    """Exactly one envelope; anything else raises `Unreadable`. Unlike the other way, several in one frame are refused.

    The `data` of a `vnc_data` is bytes where it was plain base64, else what JSON makes of it.
    """
    fast = _vnc_data(text) if isinstance(text, bytes) and text.startswith(VNC_DATA) else None
    return fast or _parsed(text)


def _parsed(text: str | bytes) -> Envelope:
    message = strict_json(text)
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
    for name, value in payload.items():
        if value is not None and type(value) is not FIELDS.get(name, type(value)):
            raise Unreadable("badPayload")
    return Envelope(kind, stamp, payload)


def _vnc_data(text: bytes) -> Envelope | None:
    """The same as `decode`, but JSON sees only what is round the data: strict base64 holds nothing that ends a string."""
    start = text.find(DATA, 0, HEAD_LIMIT) + len(DATA)
    if start < len(DATA) or not text.endswith(END):
        return None
    try:
        data = pybase64.b64decode(memoryview(text)[start : -len(END)], validate=True)
    except ValueError:
        return None
    envelope = _parsed(text[:start] + END)
    if envelope.payload.get("data") != "":  # it was some other data
        return None
    envelope.payload["data"] = data
    return envelope


def shown(kind: str, payload: dict[str, Any]) -> dict[str, Any]:
    """The payload as the event log keeps it: VNC bytes cut to their first 32 characters, with their length."""
    data = payload.get("data")
    if kind == "vnc_data" and isinstance(data, bytes):
        return {**payload, "data": pybase64.b64encode_as_string(data[:24]), "dataLength": coded_length(data)}
    if kind != "vnc_data" or not isinstance(data, str):
        return payload
    return {**payload, "data": data[:32], "dataLength": len(data)}


def coded_length(data: bytes) -> int:
    """Characters of its base64."""
    return -(-len(data) // 3) * 4
