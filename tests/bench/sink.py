"""A control plane of the barest kind, in a process of its own: takes what agents send as fast as it can, and drives
one session.

Prints the MB/s of VNC bytes of each connection that brought enough.
"""

import base64
import contextlib
import json
import socket
import sys
import time

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

from streamspace_devplane.agents.envelopes import encode

HELLO = b"RFB 003.008\n\x01\x01"
REQUEST = b"\x03\x01" + bytes(8)
REQUEST_EVERY = 1 << 20
WARM_UP = 16 << 20


def say(kind, **payload):
    return encode(kind, payload)


def vnc(session_id, data):
    return say("vnc_data", sessionId=session_id, data=base64.b64encode(data).decode())


async def register(request):
    return JSONResponse({"id": "1", "agentId": "sink", "status": "online"}, 201)


async def connect(agent):
    await agent.accept()
    with contextlib.suppress(WebSocketDisconnect):
        await drive(agent)


async def drive(agent):
    """Tells an agent that says hello to start a session, then speaks as its viewer."""
    start = json.loads(agent.app.state.start)
    session_id, taken, asking = start["payload"]["sessionId"], 0, False
    async for text in agent.iter_text():
        if text.startswith('{"type":"vnc_data"'):
            before, taken = taken, taken + len(text) * 3 // 4
            if before < WARM_UP <= taken:
                first, began = taken, time.perf_counter()
            if before < WARM_UP + agent.app.state.measured <= taken:
                print((taken - first) / 1e6 / (time.perf_counter() - began), flush=True)
            for _ in range(taken // REQUEST_EVERY - before // REQUEST_EVERY if asking else 0):
                await agent.send_text(vnc(session_id, REQUEST))
            continue
        message = json.loads(text)
        if message["type"] == "heartbeat":
            await agent.send_text(say("command", commandId="1", action=start["action"], payload=start["payload"]))
        elif message["type"] == "vnc_ready":
            asking = True
            await agent.send_text(vnc(session_id, HELLO))
            for _ in range(4):
                await agent.send_text(vnc(session_id, REQUEST))


def main(port, measured, start):
    app = Starlette(
        routes=[
            Route("/api/v1/agents/register", register, methods=["POST"]),
            WebSocketRoute("/api/v1/agents/connect", connect),
        ]
    )
    app.state.start, app.state.measured = start, measured
    config = uvicorn.Config(
        app,
        ws="websockets-sansio",
        ws_max_size=524_288,
        ws_per_message_deflate=False,
        ws_ping_interval=None,
        log_level="error",
    )
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # so that asyncio sets TCP_NODELAY
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    uvicorn.Server(config).run([listener])


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
