"""The operator's JSON API: agents, sessions, commands, events, fault switches."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from streamspace_devplane.agents.envelopes import ENDED, SESSION_STATES
from streamspace_devplane.agents.faults import Faults
from streamspace_devplane.agents.registration import AgentEndpoints
from streamspace_devplane.store import Row
from streamspace_devplane.templates import read_manifest, screen, streaming
from streamspace_devplane.web import bodies
from streamspace_devplane.web.bodies import body_of, number

LONGEST_WAIT = 60.0  # seconds
STATES = SESSION_STATES | {"starting", "hibernating", "waking", "terminating"}
VERBS = {
    "stop": ("terminating", STATES - {"terminated"}),
    "hibernate": ("hibernating", {"running"}),
    "wake": ("waking", {"hibernated"}),
}
"""What people ask of a session: its state from then on, and the states in which it gets that."""


class Api:
    def __init__(self, endpoints: AgentEndpoints) -> None:
        self.endpoints = endpoints
        self.hub = endpoints.hub
        self.store = endpoints.hub.store

    def routes(self) -> list[BaseRoute]:
        def route(path: str, endpoint: Any, *methods: str) -> Route:
            return Route("/api/v1" + path, endpoint, methods=list(methods) or ["GET"])

        return [
            route("/agents", self.agents),
            route("/agents/{agent}", self.agent),
            route("/agents/{agent:path}", self.forget_agent, "DELETE"),
            route("/agents/{agent}/approve", partial(self._judge, "approved"), "POST"),
            route("/agents/{agent}/reject", partial(self._judge, "rejected"), "POST"),
            route("/agents/{agent}/key", self.issue_key, "POST"),
            route("/agents/{agent}/commands", self.raw_command, "POST"),
            route("/agents/{agent}/frames", self.raw_frame, "POST"),
            route("/agents/{agent}/messages", self.message, "POST"),
            route("/bootstrap-key", self.bootstrap_key, "POST"),
            route("/templates", self.templates),
            route("/sessions", self.sessions),
            route("/sessions", self.start, "POST"),
            route("/sessions/{session}", self.session),
            route("/sessions/{session:path}", self.forget, "DELETE"),
            *(route(f"/sessions/{{session}}/{verb}", partial(self._command_of, verb), "POST") for verb in VERBS),
            route("/commands", self.commands),
            route("/commands/{command}", self.command),
            route("/events", self.events),
            route("/faults", self.faults),
            route("/faults", self.set_faults, "POST"),
            route("/faults", self.clear_faults, "DELETE"),
            route("/flags", self.set_flags, "POST"),
            route("/diagnostics", self.diagnostics),
        ]

    # Agents

    async def agents(self, _: Request) -> Response:
        rows = self.store.rows("SELECT * FROM agents ORDER BY agent_id")
        return JSONResponse([self._with_link(row) for row in rows])

    async def agent(self, request: Request) -> Response:
        agent_id = request.path_params["agent"]

        def look() -> Row | None:
            row = self.store.agent(agent_id)
            return row and self._with_link(row)

        return JSONResponse(await self._awaited(request, look, "status", "connected", "toldStatus"))

    def _with_link(self, row: Row) -> Row:
        return {**row, "connected": row["agentId"] in self.hub.links}

    async def _judge(self, approval: str, request: Request) -> Response:
        agent_id = request.path_params["agent"]
        if not self.store.change("UPDATE agents SET approval = ? WHERE agent_id = ?", approval, agent_id):
            raise HTTPException(404, f"no agent {agent_id!r} has registered")
        self.store.log(agent_id, "plane", approval, {})
        link = self.hub.links.get(agent_id)
        if link and approval == "rejected":
            link.close("rejected")
        # As in the deployed one, the administrator gets the agent's key, and has to hand it on.
        key = {"apiKey": self.store.issue_key(agent_id)} if approval == "approved" else {}
        return JSONResponse({**(self.store.agent(agent_id) or {}), **key})

    async def forget_agent(self, request: Request) -> Response:
        """Drop an agent that is not connected, with its sessions, keys and waiting commands. It may register again."""
        agent_id = request.path_params["agent"]
        if self.store.agent(agent_id) is None:
            raise HTTPException(404, f"no agent {agent_id!r} has registered")
        if agent_id in self.hub.links:
            raise HTTPException(409, f"agent {agent_id!r} is connected: end it first")
        for where in ("agents WHERE", "sessions WHERE", "api_keys WHERE", "commands WHERE state = 'pending' AND"):
            self.store.change(f"DELETE FROM {where} agent_id = ?", agent_id)  # noqa: S608 - own constants
        self.store.log(agent_id, "plane", "forgotten", {})
        return JSONResponse({})

    async def issue_key(self, request: Request) -> Response:
        return JSONResponse({"apiKey": self.store.issue_key(request.path_params["agent"])}, 201)

    async def bootstrap_key(self, _: Request) -> Response:
        return JSONResponse({"apiKey": self.store.issue_key(None)}, 201)

    async def raw_command(self, request: Request) -> Response:
        raw = await body_of(bodies.RawCommand, request)
        command_id = self._command(request.path_params["agent"], raw.action, raw.payload, raw.command_id)
        return JSONResponse({"commandId": command_id}, 201)

    def _command(self, agent_id: str, action: str, payload: Row, command_id: str | None = None) -> str:
        """Send a command. One whose id was used before is sent again, so that tests see what the agent does."""
        if command_id and self.store.command(command_id):
            self._link(agent_id).send("command", {"commandId": command_id, "action": action, "payload": payload})
            return command_id
        return self.hub.command(agent_id, action, payload, command_id=command_id)

    def _link(self, agent_id: str) -> Any:
        link = self.hub.links.get(agent_id)
        if link is None:
            raise HTTPException(409, f"agent {agent_id!r} is not connected")
        return link

    async def raw_frame(self, request: Request) -> Response:
        frame = await body_of(bodies.RawFrame, request)
        link = self._link(request.path_params["agent"])
        self.store.log(link.agent_id, "to_agent", "raw", {"text": frame.text[:200]})
        link.send_raw(frame.text)
        return JSONResponse({}, 202)

    async def message(self, request: Request) -> Response:
        """Send an envelope of any type: `{"type": "shutdown", "payload": {...}}`."""
        message = await body_of(bodies.RawMessage, request)
        self._link(request.path_params["agent"]).send(message.type, message.payload)
        return JSONResponse({}, 202)

    # Sessions

    async def templates(self, _: Request) -> Response:
        return JSONResponse(list(self.hub.templates.values()))

    async def sessions(self, _: Request) -> Response:
        """All sessions, the oldest first; `startError` is why the last start was refused."""
        sql = (
            "SELECT *, (SELECT error FROM commands WHERE session_id = sessions.session_id"
            " AND action = 'start_session' ORDER BY seq DESC LIMIT 1) AS start_error FROM sessions ORDER BY created_at"
        )
        return JSONResponse(self.store.rows(sql))

    async def session(self, request: Request) -> Response:
        look = partial(self.store.session, request.path_params["session"])
        return JSONResponse(await self._awaited(request, look, "state", "vncReady"))

    async def start(self, request: Request) -> Response:
        wish = await body_of(bodies.StartSession, request)
        session_id = wish.session_id or f"{wish.user}-{wish.template}-{uuid.uuid4().hex[:8]}"
        payload = wish.payload(session_id, self.hub.templates)
        agent_id = self._holder(session_id, wish.agent_id)
        if agent_id is None:
            agent_id, now = wish.agent_id or self._choose_agent(), time.time()
            manifest = read_manifest(payload["templateManifest"])
            kind = streaming(manifest)
            # An earlier start that still waits for its agent must not be sent any more.
            self.store.change(
                "DELETE FROM commands WHERE session_id = ? AND action = 'start_session' AND state = 'pending'",
                session_id,
            )
            self.store.change(
                "INSERT OR REPLACE INTO sessions (session_id, agent_id, user, template, state, created_at, status_at,"
                " screen, streaming_protocol, streaming_port) VALUES (?, ?, ?, ?, 'pending', ?, ?, ?, ?, ?)",
                session_id, agent_id, wish.user, wish.template, now, now,
                screen(manifest), kind.protocol, kind.port,
            )  # fmt: skip
        command_id = self._command(agent_id, "start_session", payload, wish.command_id)
        return JSONResponse({"sessionId": session_id, "commandId": command_id, "agentId": agent_id}, 201)

    def _holder(self, session_id: str, wanted: str | None) -> str | None:
        """The agent of a session that is not over: another start goes there too, or the session might run twice."""
        row = self.store.session(session_id)
        if row is None or row["state"] in ENDED or self._untouched(row, "failed"):
            return None
        if wanted not in (None, row["agentId"]):
            raise HTTPException(
                409, f"session {session_id!r} is on agent {row['agentId']!r}: stop it first, or do not name {wanted!r}"
            )
        return str(row["agentId"])

    def _untouched(self, session: Row, *states: str) -> bool:
        """Whether no agent has reported on it, and all its starts are in `states`: `failed` (refused), `pending`."""
        starts = self.store.rows(
            "SELECT state FROM commands WHERE session_id = ? AND action = 'start_session' AND created_at >= ?",
            session["sessionId"], session["createdAt"],
        )  # fmt: skip
        return not session["statuses"] and bool(starts) and all(start["state"] in states for start in starts)

    def _choose_agent(self) -> str:
        """The connected agent with the fewest sessions, else any approved one."""
        known = self.store.rows("SELECT * FROM agents ORDER BY active_sessions, agent_id")
        rows = [row for row in known if row["approval"] == "approved"]
        if not rows:
            waiting = [row["agentId"] for row in known if row["approval"] == "pending"]
            why = "no agent has registered yet; start one, or name an agentId"
            if waiting:
                why = (
                    f"no agent is approved yet; waiting for it: {', '.join(waiting)};"
                    f" approve one on the page, or with `streamspace-devplane approve {waiting[0]}`"
                )
            raise HTTPException(409, why)
        connected = [row for row in rows if row["agentId"] in self.hub.links]
        return str((connected or rows)[0]["agentId"])

    async def forget(self, request: Request) -> Response:
        """Drop a session that no agent ever held, because its start was refused or still waits.

        All others are ended by `stop`.
        """
        row = self._named_session(request)
        session_id = row["sessionId"]
        if not self._untouched(row, "failed", "pending"):
            raise HTTPException(409, f"an agent may hold session {session_id!r}: stop it")
        for where in ("sessions WHERE", "commands WHERE state = 'pending' AND"):
            self.store.change(f"DELETE FROM {where} session_id = ?", session_id)  # noqa: S608 - own constants
        return JSONResponse({})

    def _named_session(self, request: Request) -> Row:
        session_id = request.path_params["session"]
        if (row := self.store.session(session_id)) is None:
            raise HTTPException(404, f"no session {session_id!r}")
        return row

    async def _command_of(self, verb: str, request: Request) -> Response:
        """Set the session's state, where `VERBS` allows it, and send a command in any case.

        (The deployed one sends nothing in any other state.)
        """
        row = self._named_session(request)
        agent_id, session_id = row["agentId"], row["sessionId"]
        extra = (await body_of(bodies.Extra, request)).root
        state, before = VERBS[verb]
        self.store.ask_state(session_id, state, *before)
        payload = {"sessionId": session_id, "namespace": "streamspace", **extra}
        command_id = self._command(agent_id, f"{verb}_session", payload)
        return JSONResponse({"sessionId": session_id, "commandId": command_id, "agentId": agent_id}, 201)

    # Commands and events

    async def commands(self, request: Request) -> Response:
        """The newest commands, in the order in which they were sent."""
        limit = int(number(request, "limit", 1000))
        return JSONResponse(self.store.rows("SELECT * FROM commands ORDER BY seq DESC LIMIT ?", limit)[::-1])

    async def command(self, request: Request) -> Response:
        look = partial(self.store.command, request.path_params["command"])
        return JSONResponse(await self._awaited(request, look, "state"))

    async def _awaited(self, request: Request, look: Callable[[], Row | None], *columns: str) -> Row:
        """The row once its columns have the wanted values (`?state=running&timeout=5`), or as it is at the timeout."""
        wanted = {name: request.query_params[name].split(",") for name in columns if name in request.query_params}
        deadline = time.monotonic() + min(LONGEST_WAIT, number(request, "timeout", 0))
        while True:
            changed = self.store.changed
            row = look()
            if row and all(str(row[name]) in values for name, values in wanted.items()):
                return row
            left = deadline - time.monotonic()
            if left <= 0 or self.hub.stopping.is_set():
                if row is None:
                    [(kind, name)] = request.path_params.items()
                    raise HTTPException(404, f"no {kind} {name!r}")
                return row
            try:
                await asyncio.wait_for(changed.wait(), min(left, 1.0))
            except TimeoutError:
                continue

    async def events(self, request: Request) -> Response:
        query = request.query_params
        after = int(number(request, "after", 0))
        chosen = {"agent_id": query.get("agentId"), "direction": query.get("direction"), "type": query.get("type")}
        if "text/event-stream" in request.headers.get("accept", ""):
            return StreamingResponse(self._live(after, chosen), media_type="text/event-stream")
        return JSONResponse(self.store.events(after, int(number(request, "limit", 1000)), **chosen))

    async def _live(self, after: int, chosen: dict[str, str | None]) -> AsyncIterator[str]:
        while not self.hub.stopping.is_set():
            changed = self.store.changed
            rows = self.store.events(after, 200, **chosen)
            for row in rows:
                after = row["seq"]
                yield f"id: {after}\ndata: {json.dumps(row)}\n\n"
            if not rows:
                try:
                    await asyncio.wait_for(changed.wait(), 1.0)
                except TimeoutError:
                    yield ": still here\n\n"

    # Switches

    async def faults(self, _: Request) -> Response:
        self.hub.faults.expire()
        return JSONResponse(self.hub.faults.model_dump(by_alias=True))

    async def set_faults(self, request: Request) -> Response:
        """Change the named switches only; `null` switches one off."""
        wish = await body_of(Faults, request)
        for name in wish.model_fields_set:
            setattr(self.hub.faults, name, getattr(wish, name))
        self.hub.apply_faults()
        return await self.faults(request)

    async def clear_faults(self, request: Request) -> Response:
        self.hub.faults.clear()
        self.hub.apply_faults()
        return await self.faults(request)

    async def set_flags(self, request: Request) -> Response:
        self.endpoints.nest_agent = (await body_of(bodies.PlaneFlags, request)).nest_agent
        return JSONResponse({"nestAgent": self.endpoints.nest_agent})

    async def diagnostics(self, _: Request) -> Response:
        queues = {agent_id: self.hub.relay.waiting(link) for agent_id, link in self.hub.links.items()}
        return JSONResponse({"counters": dict(self.hub.counters), "viewerQueues": queues})
