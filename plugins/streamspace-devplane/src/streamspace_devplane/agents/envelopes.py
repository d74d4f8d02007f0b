"""The wire's envelope, read as strictly as the deployed control plane reads it."""

import json
import math
import re
import time
from typing import Any, NamedTuple

import pybase64

from streamspace_devplane.errors import Unreadable

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
"""The types of a payload's fields, which may also be null: Go rejects a message with any other."""
SURROGATE = re.compile("[\ud800-\udfff]")
MAX_DEPTH = 200
RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")

VNC_DATA, DATA, END = b'{"type":"vnc_data",', b'"data":"', b'"}}'
HEAD_LIMIT = 1024


class Envelope(NamedTuple):
    type: str
    timestamp: str
    payload: dict[str, Any]


def _reject(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _int64(digits: str) -> int:
    if not -(2**63) <= (number := int(digits)) < 2**63:
        raise Unreadable("badPayload")
    return number


def _finite(digits: str) -> float:
    if math.isinf(number := float(digits)):
        raise Unreadable("badPayload")
    return number


STRICT = json.JSONDecoder(parse_constant=_reject, parse_int=_int64, parse_float=_finite)


def strict_json(text: str | bytes) -> Any:
    """Parse JSON as Go does, so that it can be stored and shown again. Raises `Unreadable`.

    Numbers that no Go type holds are refused; half of a surrogate pair becomes U+FFFD. Go limits the depth to 10,000;
    Python's own limit depends on the caller's stack, so this one is far below it.
    """
    try:
        text = text if isinstance(text, str) else text.decode()
        value = STRICT.decode(text)
        if "\\ud" in text or "\\uD" in text:
            value = STRICT.decode(SURROGATE.sub("\ufffd", json.dumps(value, ensure_ascii=False)))
    except (ValueError, RecursionError):
        raise Unreadable("notJson") from None
    if text.count("{") + text.count("[") > MAX_DEPTH and is_deeper(value, MAX_DEPTH):
        raise Unreadable("notJson")
    return value


def is_deeper(value: Any, limit: int) -> bool:
    """Whether it has more than `limit` levels of objects and arrays."""
    level = [value]
    for _ in range(limit + 1):
        inner = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)]
        if not inner:
            return False
        level = [item for items in inner for item in items]
    return True


def timestamp(now_ns: int | None = None) -> str:
    """RFC 3339 with nanoseconds, without trailing zeros, as Go prints it."""
    seconds, nanos = divmod(time.time_ns() if now_ns is None else now_ns, 1_000_000_000)
    fraction = f".{nanos:09d}".rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + fraction + "Z"


def encode(kind: str, payload: dict[str, Any]) -> str:
    return json.dumps({"type": kind, "timestamp": timestamp(), "payload": payload}, separators=(",", ":"))


def decode(text: str | bytes) -> Envelope:
    """Parse exactly one envelope; raises `Unreadable`. (Agents may not pack several into a frame.)

    The `data` of a `vnc_data` becomes bytes if it is plain base64, and else stays as JSON has it.
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
    """As `decode`, but only what surrounds the data is parsed as JSON: no character of base64 can end a string."""
    start = text.find(DATA, 0, HEAD_LIMIT) + len(DATA)
    if start < len(DATA) or not text.endswith(END):
        return None
    try:
        data = pybase64.b64decode(memoryview(text)[start : -len(END)], validate=True)
    except ValueError:
        return None
    envelope = _parsed(text[:start] + END)
    if envelope.payload.get("data") != "":  # "data" stood somewhere else
        return None
    envelope.payload["data"] = data
    return envelope


def shown(kind: str, payload: dict[str, Any]) -> dict[str, Any]:
    """The payload as the event log keeps it: of VNC data the first 32 characters, and the length."""
    data = payload.get("data")
    if kind == "vnc_data" and isinstance(data, bytes):
        return {**payload, "data": pybase64.b64encode_as_string(data[:24]), "dataLength": base64_length(data)}
    if kind != "vnc_data" or not isinstance(data, str):
        return payload
    return {**payload, "data": data[:32], "dataLength": len(data)}


def base64_length(data: bytes) -> int:
    """The length of its base64."""
    return -(-len(data) // 3) * 4
