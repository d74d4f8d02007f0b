"""An agent that does nothing by itself: what a page shows of agents can be brought about at will, and at once."""

import asyncio
import contextlib
import json
from datetime import UTC, datetime

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed


class Puppet:
    """`obeys`: commands are acknowledged, done, and reported as any agent would."""

    DONE = {
        "start_session": {"state": "running", "vncReady": True},
        "wake_session": {"state": "running", "vncReady": True},
        "hibernate_session": {"state": "hibernated"},
        "stop_session": {"state": "terminated"},
    }

    def __init__(self, plane, agent_id, *, obeys=True, capacity=None, **metadata):
        self.plane = plane
        self.agent_id = agent_id
        self.obeys = obeys
        self.capacity = capacity or {}
        self.metadata = {"hostname": "a-host", **metadata}
        self.heard = []

    async def register(self, key=None):
        """With the agent's own key, or another; what the plane answered."""
        self.key = {"X-Agent-API-Key": key or await self.plane.issue_key(self.agent_id)}
        async with httpx.AsyncClient(base_url=self.plane.url, trust_env=False) as http:
            body = {
                "agentId": self.agent_id,
                "platform": "docker",
                "capacity": self.capacity,
                "metadata": self.metadata,
            }
            return await http.post("/api/v1/agents/register", json=body, headers=self.key)

    async def connect(self):
        link = f"{self.plane.ws_url}/api/v1/agents/connect?agent_id={self.agent_id}"
        self._socket = await connect(link, additional_headers=self.key)
        self._hearing = asyncio.create_task(self._hear())
        await self.plane.wait_agent(self.agent_id)
        return self

    async def leave(self):
        await self._socket.close()
        await self._hearing

    async def __aenter__(self):
        assert (await self.register()).status_code in (200, 201)
        return await self.connect()

    async def __aexit__(self, *_):
        await self.leave()

    async def runs(self, session_id, **wish):
        """A session of this agent's, running."""
        start = await self.plane.start_session("desktop", session_id=session_id, agent_id=self.agent_id, **wish)
        if self.obeys:
            await self.plane.wait_command(start)
        else:
            await self.status(session_id, state="running", vncReady=True)
        await self.plane.wait_session(session_id, state="running", vnc_ready=True)

    async def status(self, session_id, **more):
        await self.say("status", sessionId=session_id, **more)

    async def answers(self, kind, **more):
        """Say `kind` of the command that was heard last."""
        commands = [message["payload"]["commandId"] for message in self.heard if message["type"] == "command"]
        await self.say(kind, commandId=commands[-1], **more)

    async def say(self, kind, **payload):
        stamp = datetime.now(UTC).isoformat()
        await self._socket.send(json.dumps({"type": kind, "timestamp": stamp, "payload": payload}))

    async def _hear(self):
        with contextlib.suppress(ConnectionClosed):
            async for frame in self._socket:
                for line in frame.split("\n"):
                    message = json.loads(line)
                    self.heard.append(message)
                    await self.answer(message["type"], message["payload"])

    async def answer(self, kind, payload):
        if kind == "command" and self.obeys:
            await self.say("ack", commandId=payload["commandId"])
            await self.status(payload["payload"]["sessionId"], **self.DONE[payload["action"]])
            await self.say("complete", commandId=payload["commandId"])
