"""Agents' way in: registration, keys, approval, and the WebSocket's door."""

import re
import time
from collections import deque
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket

from streamspace_devplane.bodies import NO_JSON
from streamspace_devplane.envelopes import Unreadable, strict_json
from streamspace_devplane.hub import Hub
from streamspace_devplane.link import Link
from streamspace_devplane.store import Row
from streamspace_devplane.wire import SCOPE_KEY, Wire

KEY_HEADER = "x-agent-api-key"
KEY_SHAPE = re.compile(r"[0-9a-fA-F]{64}")


class Capacity(BaseModel):
    """Wrong types fail, as they do in Go; other keys are ignored."""

    model_config = ConfigDict(extra="ignore")
    maxSessions: StrictInt | None = None  # noqa: N815 - names of the wire
    cpu: StrictStr | None = None
    memory: StrictStr | None = None
    storage: StrictStr | None = None


class Registration(BaseModel):
    agentId: StrictStr = Field(min_length=3, max_length=100)  # noqa: N815 - names of the wire
    platform: Literal["kubernetes", "docker", "vm", "cloud"]
    region: StrictStr | None = Field(None, min_length=2, max_length=50)
    capacity: Capacity | None = None
    metadata: dict[str, Any] | None = None


class Refused(Exception):
    def __init__(self, status: int, error: str, **more: Any) -> None:
        super().__init__(error)
        self.status = status
        self.body = {"error": error, **more}

    def answer(self, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse(self.body, self.status, headers)


class RateLimit:
    """So many requests in any 60 seconds from one address."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._times: dict[str, deque[float]] = {}

    def wait(self, client: str) -> float:
        """0 when the request may pass, else the seconds to the next that may."""
        now = time.monotonic()
        times = self._times.setdefault(client, deque())
        while times and times[0] <= now - 60:
            times.popleft()
        if len(times) >= self.per_minute:
            return times[0] + 60 - now
        times.append(now)
        return 0.0


def identity(hub: Hub, connection: HTTPConnection) -> tuple[Literal["certificate", "key", "bootstrap"], str | None]:
    """Who is calling: by the certificate's CN, an agent's own key, or the shared bootstrap key."""
    wire: Wire = connection.scope[SCOPE_KEY]
    if wire.common_name is not None:
        return "certificate", wire.common_name
    key = connection.headers.get(KEY_HEADER, "")
    if not key:
        raise Refused(401, "X-Agent-API-Key header is missing")
    if not KEY_SHAPE.fullmatch(key):
        raise Refused(401, "X-Agent-API-Key is not 64 hex characters")
    known, agent_id = hub.store.key_owner(key)
    if not known:
        raise Refused(401, "unknown API key")
    return ("bootstrap", None) if agent_id is None else ("key", agent_id)


class Door:
    """The two agent endpoints. `nest_agent` answers registrations with the agent under `agent`."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.nest_agent = False
        self.limit = RateLimit(hub.settings.registrations_per_minute)

    async def register(self, request: Request) -> JSONResponse:
        wait = self.limit.wait(request.client.host if request.client else "")
        if wait:
            return Refused(429, "too many requests").answer({"Retry-After": str(int(wait) + 1)})
        try:
            status, body = self._registered(request, await request.body())
        except Refused as refused:
            self.hub.store.log(None, "plane", "register_refused", {"status": refused.status, **refused.body})
            return refused.answer()
        return JSONResponse(body, status)

    def _registered(self, request: Request, body: bytes) -> tuple[int, Row]:
        hub, store = self.hub, self.hub.store
        kind, owner = identity(hub, request)
        try:
            strict_json(body)
            registration = Registration.model_validate_json(body)
        except Unreadable:
            raise Refused(400, "invalid request", details=[NO_JSON]) from None
        except ValidationError as error:
            raise Refused(
                400, "invalid request", details=[f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            ) from None
        agent_id = registration.agentId
        if owner is not None and owner != agent_id:
            raise Refused(403, f"this {kind} belongs to another agent")
        known = store.agent(agent_id)
        approval = known["approval"] if known else "pending" if kind == "bootstrap" else "approved"
        if approval == "rejected":
            raise Refused(403, "agent was rejected", approvalStatus="rejected", agentId=agent_id)
        store.save_agent(registration.model_dump(exclude_none=True), approval)
        store.log(agent_id, "plane", "register", {"by": kind, "approval": approval, "body": registration.model_dump()})
        if approval == "pending":
            return 202, {
                "agentId": agent_id,
                "approvalStatus": "pending",
                "message": "waiting for an administrator's approval",
            }
        first = (
            store.change("UPDATE agents SET registrations = 1 WHERE agent_id = ? AND registrations = 0", agent_id) > 0
        )
        if not first:
            store.change("UPDATE agents SET registrations = registrations + 1 WHERE agent_id = ?", agent_id)
        agent = dict(store.agent(agent_id) or {})
        agent["approvalStatus"] = agent.pop("approval")
        extra = {"apiKey": store.issue_key(agent_id)} if kind == "bootstrap" else {}
        return 201 if first else 200, {"agent": agent, **extra} if self.nest_agent else {**agent, **extra}

    async def connect(self, socket: WebSocket) -> None:
        agent_id = socket.query_params.get("agent_id", "")
        try:
            self._admit(socket, agent_id)
        except Refused as refused:
            self.hub.store.log(agent_id, "plane", "connect_refused", {"status": refused.status, **refused.body})
            await socket.send_denial_response(refused.answer())
            return
        await socket.accept()
        await self.hub.serve(Link(self.hub, agent_id, socket, socket.scope[SCOPE_KEY]))

    def _admit(self, socket: WebSocket, agent_id: str) -> None:
        kind, owner = identity(self.hub, socket)
        if kind == "bootstrap":
            raise Refused(403, "the bootstrap key only registers; connect with the agent's own key")
        if owner != agent_id:
            raise Refused(403, f"this {kind} belongs to another agent")
        agent = self.hub.store.agent(agent_id)
        if agent is None:
            raise Refused(404, "agent is not registered")
        if agent["approval"] != "approved":
            raise Refused(403, f"agent is {agent['approval']}", approvalStatus=agent["approval"])


async def tear(wire: Wire, receive: Any) -> None:
    """End a request by ending its connection; returns once uvicorn knows, so that it expects no answer."""
    wire.abort()
    while not (await receive())["type"].endswith(".disconnect"):
        pass


class Misbehaviour:
    """ASGI middleware for the switches that act before an agent's request is looked at."""

    def __init__(self, app: Any, hub: Hub) -> None:
        self.app = app
        self.hub = hub

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        faults = self.hub.faults
        faults.expire()
        path = scope.get("path", "").removeprefix("/api/v1/agents/")
        if scope["type"] == "lifespan" or path not in ("register", "connect"):
            await self.app(scope, receive, send)
            return
        wire: Wire = scope[SCOPE_KEY]
        if faults.blackhole:
            self.hub.apply_faults()
            await self.hub.listening.wait()
            if self.hub.stopping.is_set():
                await tear(wire, receive)
                return
        refuse = faults.refuse
        if not refuse or path not in refuse.paths:
            await self.app(scope, receive, send)
            return
        self.hub.store.log(None, "plane", "refused_by_switch", {"path": path, "status": refuse.status})
        if refuse.status == "connection":
            await tear(wire, receive)
            return
        headers = {} if refuse.retry_after is None else {"Retry-After": str(refuse.retry_after)}
        answer = JSONResponse({"error": "refused by a fault switch"}, refuse.status, headers)
        if scope["type"] == "websocket":
            await WebSocket(scope, receive, send).send_denial_response(answer)
        else:
            await answer(scope, receive, send)
