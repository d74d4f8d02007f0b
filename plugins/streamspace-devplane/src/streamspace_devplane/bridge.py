"""A viewer's WebSocket (raw RFB bytes, as noVNC speaks it) bridged to one session's `vnc_data`."""

import asyncio
import contextlib

import pybase64
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from streamspace_devplane.hub import Hub
from streamspace_devplane.link import LINK_GONE, Link
from streamspace_devplane.viewers import Viewer

REASON_LIMIT = 120  # a WebSocket close frame holds 125 bytes, two of them the code


class Bridge:
    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    async def vnc(self, socket: WebSocket) -> None:
        session_id = socket.path_params["session"]
        row = self.hub.store.row("SELECT * FROM sessions WHERE session_id = ?", session_id)
        link = self.hub.links.get(row["agentId"]) if row else None
        if row is None:
            await socket.send_denial_response(JSONResponse({"error": f"no session {session_id!r}"}, 404))
        elif link is None:
            await socket.send_denial_response(
                JSONResponse({"error": f"agent {row['agentId']!r} is not connected"}, 503)
            )
        elif not row["vncReady"]:
            await socket.send_denial_response(JSONResponse({"error": "the session's VNC is not ready"}, 409))
        else:
            await socket.accept(subprotocol="binary" if "binary" in socket.scope["subprotocols"] else None)
            # A link that ended meanwhile would never close it, for it has closed the viewers it knew.
            link = self.hub.links.get(row["agentId"])
            if link is None:
                await socket.close(1011, LINK_GONE)
            else:
                await self._bridge(socket, link, session_id)

    async def _bridge(self, socket: WebSocket, link: Link, session_id: str) -> None:
        older = link.viewers.viewers.get(session_id)
        if older:  # a VNC connection serves one viewer: the newer takes the place of the older
            self._leave(link, older, "another viewer connected")
        viewer = link.viewers.join(session_id)
        jobs = [
            asyncio.create_task(job)
            for job in (
                self._to_viewer(socket, link, viewer),
                self._from_viewer(socket, link, viewer),
                viewer.gone.wait(),  # also while its socket takes nothing
            )
        ]
        try:
            await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
        finally:
            code, reason = (1000, "viewer disconnected") if viewer.closed is None else (1011, viewer.closed)
            self._leave(link, viewer, reason)
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # it may be gone already
                await socket.close(code, reason[:REASON_LIMIT])

    def _leave(self, link: Link, viewer: Viewer, reason: str) -> None:
        if link.viewers.leave(viewer, reason):
            link.send("vnc_close", {"sessionId": viewer.session_id, "reason": reason})

    async def _to_viewer(self, socket: WebSocket, link: Link, viewer: Viewer) -> None:
        async for data in link.viewers.stream(viewer):
            await socket.send_bytes(data)

    async def _from_viewer(self, socket: WebSocket, link: Link, viewer: Viewer) -> None:
        async for data in socket.iter_bytes():
            if viewer.closed is not None:  # the agent was told that it left: it would take this for the next one's
                return
            link.send("vnc_data", {"sessionId": viewer.session_id, "data": pybase64.b64encode_as_string(data)})
            await link.room()
