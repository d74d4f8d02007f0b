"""How agents get in: registration, keys, approval, and the WebSocket's handshake."""

import json
import re
import time
from collections import deque
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket

from streamspace_devplane.agents.envelopes import NOT_JSON, strict_json
from streamspace_devplane.agents.hub import Hub
from streamspace_devplane.agents.link import Link
from streamspace_devplane.agents.wire import SCOPE_KEY, Wire
from streamspace_devplane.errors import Refused, Unreadable
from streamspace_devplane.input_filter import suspicion
from streamspace_devplane.store import Row

KEY_HEADER = "x-agent-api-key"
ANSWERS = {
    "approved": (200, "Agent approved. Use your configured API key for subsequent requests."),
    "pending": (202, "Waiting for administrator approval. Please retry registration periodically."),
    "rejected": (403, "Agent registration has been rejected by administrator."),
}
KEY_SHAPE = re.compile(r"[0-9a-fA-F]{64}")


class Capacity(BaseModel):
    """A wrong type fails the request, as in Go; unknown keys are ignored."""

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


class RateLimit:
    """Limits the requests from one address in any 60 seconds."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._times: dict[str, deque[float]] = {}

    def wait(self, client: str) -> float:
        """0 if the request may pass, else the seconds until one may."""
        now = time.monotonic()
        times = self._times.setdefault(client, deque())
        while times and times[0] <= now - 60:
            times.popleft()
        if len(times) >= self.per_minute:
            return times[0] + 60 - now
        times.append(now)
        return 0.0


Kind = Literal["certificate", "key", "bootstrap"]


def identity(hub: Hub, connection: HTTPConnection, agent_id: str) -> Kind:
    """What proves the caller's identity: the certificate's CN, the agent's own key, or the shared bootstrap key.

    Raises `Refused`.
    """
    wire: Wire = connection.scope[SCOPE_KEY]
    if wire.common_name is not None:
        if wire.common_name != agent_id:
            raise Refused(403, "Certificate of another agent", f"its Common Name is {wire.common_name!r}")
        return "certificate"
    key = connection.headers.get(KEY_HEADER, "")
    if not key:
        details = "Either client certificate (mTLS) or X-Agent-API-Key header is required"
        raise Refused(401, "Missing authentication", details)
    if not KEY_SHAPE.fullmatch(key):
        raise Refused(401, "Invalid API key format", "an API key is 64 hexadecimal characters")
    if not agent_id:
        raise Refused(400, "Missing agent_id", "agent_id must be provided")
    known, owner = hub.store.key_owner(key)
    if known and owner in (None, agent_id):
        return "bootstrap" if owner is None else "key"
    if hub.store.agent(agent_id) is None and not hub.store.has_key(agent_id):
        details = "Agent must be pre-registered or use a valid bootstrap key"
        raise Refused(404, "Agent not found", details, agentId=agent_id)
    raise Refused(403, "Invalid API key", "The provided API key does not match the agent's registered key")


class AgentEndpoints:
    """The two endpoints for agents. With `nest_agent`, registrations are answered with the agent under `agent`."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.nest_agent = False
        self.limit = RateLimit(hub.settings.registrations_per_minute)

    async def register(self, request: Request) -> JSONResponse:
        try:
            self._limit(request)
            status, body = self._registered(request, await request.body())
        except Refused as refused:
            self.hub.store.log(None, "plane", "register_refused", {"status": refused.status, **refused.body})
            return JSONResponse(refused.body, refused.status)
        return JSONResponse(body, status)

    def _limit(self, connection: HTTPConnection) -> None:
        if self.limit.wait(connection.client.host if connection.client else ""):
            raise Refused(429, "Rate limit exceeded", "Too many requests. Please try again later.", retryAfter=60)

    def _registered(self, request: Request, body: bytes) -> tuple[int, Row]:
        hub, store = self.hub, self.hub.store
        kind = identity(hub, request, _named(body))
        try:
            strict_json(body)
            registration = Registration.model_validate_json(body)
        except Unreadable:
            raise Refused(400, "Invalid request format", [NOT_JSON]) from None
        except ValidationError as error:
            raise Refused(
                400, "Validation failed", [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            ) from None
        agent_id = registration.agentId
        if problem := suspicion(agent_id):
            raise Refused(400, "Invalid agentId", problem)
        known = store.agent(agent_id)
        approval = known["approval"] if known else "pending" if kind == "bootstrap" else "approved"
        store.save_agent(registration.model_dump(exclude_none=True), approval)
        store.log(agent_id, "plane", "register", {"by": kind, "approval": approval, "body": registration.model_dump()})
        agent = dict(store.agent(agent_id) or {})
        agent["approvalStatus"] = agent.pop("approval")
        if approval != "approved":
            return ANSWERS[approval][0], {"agent": agent, "approvalStatus": approval, "message": ANSWERS[approval][1]}
        store.change("UPDATE agents SET registrations = registrations + 1 WHERE agent_id = ?", agent_id)
        status = 201 if known is None else 200
        if kind != "bootstrap":
            return status, {"agent": agent} if self.nest_agent else agent
        if hub.settings.hand_out_keys:
            key = {"apiKey": store.issue_key(agent_id)}
            return status, {"agent": agent, **key} if self.nest_agent else {**agent, **key}
        return status, {"agent": agent, "approvalStatus": approval, "message": ANSWERS[approval][1]}

    async def connect(self, socket: WebSocket) -> None:
        agent_id = socket.query_params.get("agent_id", "")
        try:
            self._limit(socket)
            self._admit(socket, agent_id)
        except Refused as refused:
            self.hub.store.log(agent_id, "plane", "connect_refused", {"status": refused.status, **refused.body})
            await socket.send_denial_response(JSONResponse(refused.body, refused.status))
            return
        await socket.accept()
        await self.hub.serve(Link(self.hub, agent_id, socket, socket.scope[SCOPE_KEY]))

    def _admit(self, socket: WebSocket, agent_id: str) -> None:
        if problem := suspicion(agent_id):
            raise Refused(400, "Invalid query parameter", f"Parameter 'agent_id': {problem}")
        kind = identity(self.hub, socket, agent_id)
        agent = self.hub.store.agent(agent_id)
        if agent is None:
            raise Refused(
                404, "Agent not found", "Agent must register before connecting via WebSocket", agentId=agent_id
            )
        if agent["approval"] != "approved":
            details = f"Agent is {agent['approval']}"
            raise Refused(403, "Agent is not approved", details, approvalStatus=agent["approval"])
        if kind == "bootstrap" and self.hub.settings.hand_out_keys:
            raise Refused(403, "Bootstrap key", "the bootstrap key only registers; connect with the agent's own key")


def _named(body: bytes) -> str:
    """The agent id in a body that may be anything."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    name = value.get("agentId") if isinstance(value, dict) else None
    return name if isinstance(name, str) else ""
