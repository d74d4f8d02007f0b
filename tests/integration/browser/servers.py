"""An agent whose session's VNC server lets nobody in: no such server is in the images."""

import asyncio
import base64
import contextlib
import json
from datetime import UTC, datetime

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

GREETING = b"RFB 003.008\n"


class Server:
    """Says `security` to each viewer that has told its version, and nothing more."""

    def __init__(self, plane, agent_id, session_id, security):
        self.plane = plane
        self.agent_id = agent_id
        self.session_id = session_id
        self.security = security
        self.viewers = 0

    async def __aenter__(self):
        key = {"X-Agent-API-Key": await self.plane.issue_key(self.agent_id)}
        async with httpx.AsyncClient(base_url=self.plane.url, trust_env=False) as http:
            body = {"agentId": self.agent_id, "platform": "docker"}
            assert (await http.post("/api/v1/agents/register", json=body, headers=key)).status_code == 201
        link = f"{self.plane.ws_url}/api/v1/agents/connect?agent_id={self.agent_id}"
        self._socket = await connect(link, additional_headers=key)
        self._serving = asyncio.create_task(self._serve())
        await self.plane.start_session("desktop", session_id=self.session_id, agent_id=self.agent_id)
        await self._say("status", state="running", vncReady=True)
        await self._greet()
        await self.plane.wait_session(self.session_id, state="running", vnc_ready=True)
        return self

    async def __aexit__(self, *_):
        await self._socket.close()
        await self._serving

    async def _serve(self):
        with contextlib.suppress(ConnectionClosed):
            async for frame in self._socket:
                for line in frame.split("\n"):
                    message = json.loads(line)
                    if message["type"] == "vnc_close":
                        await self._greet()
                    elif message["type"] == "vnc_data" and base64.b64decode(message["payload"]["data"]) == GREETING:
                        self.viewers += 1
                        await self._vnc(self.security)

    async def _greet(self):
        await self._say("vnc_ready", vncPort=5900, podName="c")
        await self._vnc(GREETING)

    async def _vnc(self, data):
        await self._say("vnc_data", data=base64.b64encode(data).decode())

    async def _say(self, kind, **payload):
        stamp = datetime.now(UTC).isoformat()
        message = {"type": kind, "timestamp": stamp, "payload": {"sessionId": self.session_id, **payload}}
        await self._socket.send(json.dumps(message))
