"""The viewer relay of a repaired control plane: each session's data waits for its own viewer."""

import contextlib

import pybase64
from starlette.websockets import WebSocket, WebSocketDisconnect

from streamspace_devplane.agents.link import Link
from streamspace_devplane.agents.state import State
from streamspace_devplane.agents.viewers.repaired_queue import Viewer, ViewerQueue
from streamspace_devplane.store import Row
from streamspace_devplane.tasks import first_done

LINK_GONE = "the agent's connection is gone"
REASON_LIMIT = 120  # a WebSocket close frame holds 125 bytes, two of them the code


class RepairedRelay:
    """Sends `vnc_close` for every viewer that leaves, and binary frames to viewers."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.queues: dict[Link, ViewerQueue] = {}

    def opened(self, link: Link) -> None:
        self.queues[link] = ViewerQueue(self._state.settings.viewer_queue, self._state.counters)

    def closed(self, link: Link) -> None:
        self.queues.pop(link).close(LINK_GONE)

    def waiting(self, link: Link) -> int:
        return self.queues[link].size

    async def stop(self) -> None:
        pass  # viewers end with their WebSockets

    def status(self, link: Link, session_id: str, state: str) -> None:
        if state != "running":
            self.queues[link].forget(session_id)

    def refusal(self, session: Row, /) -> str | None:
        return None if session["vncReady"] else "the session's VNC is not ready"

    def receive(self, link: Link, kind: str, payload: Row) -> None:
        queue, session_id = self.queues[link], payload.get("sessionId")
        match kind:
            case "vnc_data":
                self._data(queue, session_id, payload.get("data"))
            case "vnc_ready":
                queue.reopen(str(session_id))
                self._state.store.change(
                    "UPDATE sessions SET vnc_ready = 1, vnc_port = COALESCE(?, vnc_port),"
                    " pod_name = COALESCE(?, pod_name) WHERE session_id = ?",
                    payload.get("vncPort"), payload.get("podName"), session_id,
                )  # fmt: skip
            case "vnc_error":
                viewer = queue.viewers.get(str(session_id))
                if viewer:
                    queue.leave(viewer, f"the agent reports: {payload.get('error')}")

    def _data(self, queue: ViewerQueue, session_id: object, data: object) -> None:
        if not isinstance(session_id, str) or not isinstance(data, str | bytes):
            self._state.counters["badEnvelope"] += 1
            return
        try:
            raw = pybase64.b64decode(data, validate=True) if isinstance(data, str) else data
        except ValueError:
            self._state.counters["vncNotBase64"] += 1
        else:
            queue.offer(session_id, raw)

    async def serve(self, socket: WebSocket, link: Link, session_id: str) -> None:
        queue = self.queues[link]
        older = queue.viewers.get(session_id)
        if older:  # a VNC connection serves one viewer: the newer one replaces the older
            self._leave(queue, link, older, "another viewer connected")
        viewer = queue.join(session_id)
        to_viewer, from_viewer = self._to_viewer(socket, queue, viewer), self._from_viewer(socket, link, viewer)
        try:
            await first_done(to_viewer, from_viewer, viewer.gone.wait())  # gone, even while its socket takes nothing
        finally:
            code, reason = (1000, "viewer disconnected") if viewer.closed is None else (1011, viewer.closed)
            self._leave(queue, link, viewer, reason)
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # it may be gone already
                await socket.close(code, reason[:REASON_LIMIT])

    def _leave(self, queue: ViewerQueue, link: Link, viewer: Viewer, reason: str) -> None:
        if queue.leave(viewer, reason):
            link.send("vnc_close", {"sessionId": viewer.session_id, "reason": reason})

    async def _to_viewer(self, socket: WebSocket, queue: ViewerQueue, viewer: Viewer) -> None:
        async for data in queue.stream(viewer):
            await socket.send_bytes(data)

    async def _from_viewer(self, socket: WebSocket, link: Link, viewer: Viewer) -> None:
        async for data in socket.iter_bytes():
            if viewer.closed is not None:  # the agent has got vnc_close, and would take this for the next viewer's
                return
            link.send("vnc_data", {"sessionId": viewer.session_id, "data": pybase64.b64encode_as_string(data)})
            await link.room()
