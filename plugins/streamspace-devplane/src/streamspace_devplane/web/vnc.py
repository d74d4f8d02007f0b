"""The endpoint for viewers' WebSockets: decides who is let in, and hands them to the relay."""

from starlette.responses import JSONResponse
from starlette.websockets import WebSocket

from streamspace_devplane.agents.hub import Hub
from streamspace_devplane.agents.viewers.repaired import LINK_GONE
from streamspace_devplane.store import Row
from streamspace_devplane.templates import WEB


async def vnc(hub: Hub, socket: WebSocket) -> None:
    session_id = socket.path_params["session"]
    row = hub.store.session(session_id)

    async def deny(status: int, error: str) -> None:
        await socket.send_denial_response(JSONResponse({"error": error}, status))

    if row is None:
        await deny(404, f"no session {session_id!r}")
    elif row["state"] != "running":
        await deny(409, f"Session is not running (state: {row['state']})")
    elif row["agentId"] not in hub.links:
        await deny(503, f"agent {row['agentId']!r} is not connected")
    elif row["streamingProtocol"] in WEB:
        await socket.send_denial_response(_session_url(row))
    elif refusal := hub.relay.refusal(row):
        await deny(409, refusal)
    else:
        hub.viewers[session_id] = socket.query_params.get("viewer", "")
        hub.store.note_change()
        await socket.accept(subprotocol="binary" if "binary" in socket.scope["subprotocols"] else None)
        # If the link has ended meanwhile, it has closed the viewers that it knew, but not this one.
        link = hub.links.get(row["agentId"])
        if link is None:
            await socket.close(1011, LINK_GONE)
        else:
            await hub.relay.serve(socket, link, session_id)


def _session_url(row: Row) -> JSONResponse:
    session = {"session_id": row["sessionId"], "protocol": row["streamingProtocol"]}
    if not row["url"]:
        return JSONResponse({"error": "Session URL not yet available", **session, "retry_after": 5}, 202)
    return JSONResponse({"type": "http_session", **session, "url": row["url"], "port": row["streamingPort"]}, 200)
