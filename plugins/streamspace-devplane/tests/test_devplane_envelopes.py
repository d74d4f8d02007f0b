import base64
import contextlib
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from streamspace_devplane import DevPlane
from streamspace_devplane.agents import envelopes
from streamspace_devplane.agents.envelopes import decode
from streamspace_devplane.errors import Unreadable

from .conftest import Agent

STAMP = "2026-01-02T03:04:05.6Z"


def frame(data: str, stamp: str = STAMP, **more: Any) -> str:
    """As the agent writes it."""
    payload = {"sessionId": 'a "name"', **more, "data": data}
    return json.dumps({"type": "vnc_data", "timestamp": stamp, "payload": payload}, separators=(",", ":"))


def outcome(text: str | bytes) -> Any:
    try:
        kind, stamp, payload = decode(text)
    except Unreadable as reason:
        return str(reason)
    if isinstance(data := payload.get("data"), bytes):
        payload["data"] = base64.b64encode(data).decode()
    return kind, stamp, payload


def test_base64_in_a_frame_of_bytes_comes_out_decoded() -> None:
    blob = bytes(range(256)) * 500
    assert decode(frame(base64.b64encode(blob).decode()).encode()).payload["data"] == blob
    assert decode(frame("").encode()).payload["data"] == b""
    assert decode(frame("A").encode()).payload["data"] == "A"


@pytest.mark.parametrize(
    "text",
    [
        frame("QUJD"),
        frame("QUJD", more='"data":"'),
        frame("QUJD", data2={"data": "x"}),
        frame("QUJD", stamp="yesterday"),
        frame("QUJD").replace(f'"{STAMP}"', "5"),
        frame("QUJD") + "\n" + frame("QUJD"),
        frame("QUJD") + "\n",
        frame("QU\nJD").replace("\\n", "\n"),
        frame("QUJDé"),
        frame('QU"}}'),
        frame("QUJD").replace('"}}', '","z":1}}'),
        frame("QUJD").replace('"}}', '"}}}'),
        frame("QUJD").replace('"}}', '"}'),
        '{"type":"vnc_data","data":"QUJD"}}',
        '{"type":"vnc_data","x":{"data":"QUJD"}}',
        '{"type":"vnc_data","payload":{"sessionId":"s"},"x":{"data":"QUJD"}}',
        '{"type":"vnc_data","payload":{"sessionId":"s","data":"QUJD"},"payload":{"sessionId":"t","data":"QUJE"}}',
        '{"type":"vnc_data","payload":["data",{"data":"QUJD"}}',
    ],
)
def test_a_frame_means_the_same_however_it_is_read(text: str) -> None:
    assert outcome(text.encode()) == outcome(text)


def test_bytes_that_are_no_utf_8_are_refused() -> None:
    with pytest.raises(Unreadable, match="notJson"):
        decode(frame("QUJD").encode().replace(b"name", b"n\xffme"))


def test_the_log_shows_the_same_of_data_however_it_was_read() -> None:
    data = base64.b64encode(bytes(range(100))).decode()
    shown = [envelopes.shown("vnc_data", decode(text).payload) for text in (frame(data), frame(data).encode())]
    assert shown[0] == shown[1]
    assert shown[0]["dataLength"] == len(data)


async def test_small_messages_do_not_wait_for_acknowledgements(plane: DevPlane, agent: Agent) -> None:
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if os.readlink(link).startswith("socket:"):
                with socket.socket(fileno=os.dup(int(link.name))) as connection:
                    if connection.getpeername() == agent.socket.local_address:
                        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                        return
    pytest.fail("the plane's end of the agent's connection is not found")
