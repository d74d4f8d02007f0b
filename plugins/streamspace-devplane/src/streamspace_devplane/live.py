"""What the page shows, pushed as server-sent events: the state of everything when it changes, the log as it grows."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from streamspace_devplane.hub import Hub
from streamspace_devplane.store import Row

BREATH = 0.2  # seconds between two messages: what changes faster is merged
SIGN_OF_LIFE = 5.0
FIRST_LINES = 200  # of the log, for a page that has just been opened
ENDED_SHOWN = 20
SESSION_LINES = 200


class Live:
    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.store = hub.store

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/api/v1/live", self.live),
            Route("/api/v1/sessions/{session}/log", self.log),
        ]

    async def live(self, request: Request) -> Response:
        """Events named `state` (see `state`) and `log` (rows of the event log, oldest first)."""
        last = request.headers.get("last-event-id", "")
        after = int(last) if last.isdecimal() else None
        return StreamingResponse(self._feed(after), media_type="text/event-stream")

    async def _feed(self, after: int | None) -> AsyncIterator[str]:
        seen = ""
        if after is None:
            after = self._first()
        yield "retry: 500\n\n"
        while not self.hub.stopping.is_set():
            changed = self.store.changed
            said = False
            state = json.dumps(self.state())
            if state != seen:
                seen, said = state, True
                yield f"event: state\ndata: {state}\n\n"
            rows, after = self.store.log_since(after)
            if rows:
                said = True
                yield f"id: {after}\nevent: log\ndata: {json.dumps(rows)}\n\n"
            if said:
                await asyncio.sleep(BREATH)
                continue
            try:
                await asyncio.wait_for(changed.wait(), SIGN_OF_LIFE)
            except TimeoutError:
                yield ": still here\n\n"

    def _first(self) -> int:
        rows = self.store.rows(
            "SELECT seq FROM events WHERE type != 'vnc_data' ORDER BY seq DESC LIMIT 1 OFFSET ?", FIRST_LINES
        )
        return int(rows[0]["seq"]) if rows else 0

    def state(self) -> dict[str, Any]:
        """Agents, templates' names, and sessions, each with its `lastCommand` and `lastStart`; of the ended ones the latest."""
        agents = self.store.rows("SELECT * FROM agents ORDER BY agent_id")
        return {
            "agents": [{**row, "connected": row["agentId"] in self.hub.links} for row in agents],
            "sessions": [*self._sessions("!=", -1), *self._sessions("=", ENDED_SHOWN)],
        }

    def _sessions(self, compare: str, limit: int) -> list[Row]:
        rows = self.store.rows(
            f"SELECT * FROM sessions WHERE state {compare} 'terminated' ORDER BY created_at DESC LIMIT ?",  # noqa: S608 - own operators
            limit,
        )
        last = self.store.last_command
        return [
            {**row, "lastCommand": last(row["sessionId"]), "lastStart": last(row["sessionId"], "start_session")}
            for row in rows
        ]

    async def log(self, request: Request) -> Response:
        """What is known of one session: its commands, the last messages about it, and the last `readings` of its use,
        which are messages too; the newest last.
        """
        session_id = request.path_params["session"]
        if self.store.row("SELECT 1 FROM sessions WHERE session_id = ?", session_id) is None:
            return JSONResponse({"error": f"no session {session_id!r}"}, 404)
        commands = self.store.rows("SELECT * FROM commands WHERE session_id = ? ORDER BY seq", session_id)
        events, readings = (
            self.store.session_log(session_id, SESSION_LINES, readings=wanted) for wanted in (False, True)
        )
        return JSONResponse({"commands": commands, "events": events, "readings": readings})
