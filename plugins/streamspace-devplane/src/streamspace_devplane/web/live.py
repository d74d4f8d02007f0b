"""Pushes what the page shows over a WebSocket: the state whenever it changes, and the event log as it grows.

It does not use server-sent events because a browser opens only six HTTP connections to a host: six open pages would
block it.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from streamspace_devplane.agents.envelopes import ENDED
from streamspace_devplane.agents.hub import Hub
from streamspace_devplane.store import Row
from streamspace_devplane.tasks import first_done

INTERVAL = 0.2  # seconds between two messages: faster changes are merged
LINES = 400  # of the log in one message, the newest: a page shows no more
ROUTINE_LINES = 100  # of routine messages, besides
MAX_SEQ = 2**63 - 1  # the database's largest number
ENDED_SHOWN = 20  # sessions of each ended state
SESSION_LINES = 200


class Live:
    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.store = hub.store

    def routes(self) -> list[BaseRoute]:
        return [WebSocketRoute("/api/v1/live", self.live), Route("/api/v1/sessions/{session}/log", self.log)]

    async def live(self, socket: WebSocket) -> None:
        """Send `{"state": ...}` (see `state`) and `{"log": rows, "last": seq}` (events, the oldest first).

        `?after=SEQ` continues the log of an earlier connection. `?session=ID` sends that session only, and no log.
        """
        after, session_id = socket.query_params.get("after", ""), socket.query_params.get("session")
        await socket.accept()
        feed = self._feed(min(int(after), MAX_SEQ) if after.isdecimal() else 0, session_id)
        try:
            for job in await first_done(self._send(socket, feed), self._left(socket)):
                with contextlib.suppress(WebSocketDisconnect):
                    job.result()
        finally:
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # it may be gone already
                await socket.close(1012)

    async def _send(self, socket: WebSocket, feed: AsyncIterator[str]) -> None:
        async for message in feed:
            await socket.send_text(message)

    async def _left(self, socket: WebSocket) -> None:
        while (await socket.receive())["type"] != "websocket.disconnect":
            pass

    async def _feed(self, after: int, session_id: str | None) -> AsyncIterator[str]:
        seen = ""
        while not self.hub.stopping.is_set():
            changed = self.store.changed
            state = json.dumps({"state": self.state(session_id)})
            if state != seen:
                seen = state
                yield state
            if session_id is None:
                rows, after = self.store.log_since(after, LINES, ROUTINE_LINES)
                if rows:
                    yield json.dumps({"log": rows, "last": after})
            await asyncio.sleep(INTERVAL)  # building a message costs the process that relays VNC data
            await changed.wait()

    def state(self, session_id: str | None = None) -> dict[str, Any]:
        """Everything that the page shows, or with an id that session only.

        * `agents`, each with the number of its connections (`links`) and the end of the last one (`leftAt`)
        * `sessions`, each with `lastCommand`, `lastStart` and the mark of its latest viewer (`?viewer=`); of ended ones
          only the latest
        * `unseen`: how many more there are of each ended state
        * `crashes`: what would have crashed the deployed control plane
        * `keeps`: whether commands wait for agents that are not connected
        """
        agents = self.store.rows("SELECT * FROM agents ORDER BY agent_id")
        sessions = self._latest() if session_id is None else list(filter(None, [self.store.session(session_id)]))
        last = self.store.last_command
        return {
            "agents": [
                {
                    **row,
                    "connected": row["agentId"] in self.hub.links,
                    "links": self.hub.connections[row["agentId"]],
                    "leftAt": self.hub.left.get(row["agentId"]),
                }
                for row in agents
            ],
            "sessions": [
                {
                    **row,
                    "lastCommand": last(row["sessionId"]),
                    "lastStart": last(row["sessionId"], "start_session"),
                    "viewer": self.hub.viewers.get(row["sessionId"]),
                }
                for row in sessions
            ],
            "crashes": {"count": self.hub.counters["controlPlaneCrashes"], "last": self.hub.crashes.last},
            "keeps": self.hub.settings.keep_commands,
            "unseen": {state: max(0, self._count(state) - ENDED_SHOWN) for state in ENDED},
        }

    def _latest(self) -> list[Row]:
        live = self.store.rows(
            "SELECT * FROM sessions WHERE state NOT IN ('failed', 'terminated') ORDER BY created_at DESC"
        )
        sql = "SELECT * FROM sessions WHERE state = ? ORDER BY created_at DESC LIMIT ?"
        failed, terminated = (self.store.rows(sql, state, ENDED_SHOWN) for state in ENDED)
        return sorted(live + failed, key=lambda row: row["createdAt"], reverse=True) + terminated

    def _count(self, state: str) -> int:
        return int(self.store.db.execute("SELECT COUNT(*) FROM sessions WHERE state = ?", (state,)).fetchone()[0])

    async def log(self, request: Request) -> Response:
        """The last commands, events and usage `readings` of one session, the newest last."""
        session_id = request.path_params["session"]
        if (session := self.store.session(session_id)) is None:
            return JSONResponse({"error": f"no session {session_id!r}"}, 404)
        commands = self.store.rows(
            "SELECT * FROM commands WHERE session_id = ? ORDER BY seq DESC LIMIT ?", session_id, SESSION_LINES
        )[::-1]
        events = self.store.session_log(session_id, SESSION_LINES)
        readings = self.store.readings(session["agentId"], session_id, SESSION_LINES)
        return JSONResponse({"commands": commands, "events": events, "readings": readings})
