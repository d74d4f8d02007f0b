"""The operator's side of the API as Python: what tests and the command line call."""

import asyncio
import binascii
import time
from typing import Any, Self
from urllib.parse import quote

import httpx
import pybase64
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from streamspace_devplane.settings import LABEL
from streamspace_devplane.store import Row

WHERE = "--url or STREAMSPACE_DEVPLANE_URL names one, such as http://127.0.0.1:8000"


class PlaneError(Exception):
    """The control plane refused a request, cannot be reached, or did not get into the state waited for."""


def is_json(answer: httpx.Response) -> bool:
    return bool(answer.headers.get("content-type") == "application/json")


class ViewerConnection(ClientConnection):
    """`recv`, `send` and iteration are of bytes.

    The deployed relay carries base64 in text frames, a repaired one bytes in binary frames. Servers of RFB speak first,
    so the first frame that comes says which of them it is; what is sent before goes out as bytes.
    """

    as_text = False

    async def recv(self, decode: bool | None = None) -> bytes:  # type: ignore[override]  # noqa: ARG002 - always bytes
        """The next bytes that came; never none, for a relay may pass on empty messages too."""
        while True:
            message = await super().recv()
            if isinstance(message, str):
                self.as_text = True
                try:
                    message = pybase64.b64decode(message, validate=True)
                except binascii.Error:
                    continue  # an agent sent it so, and no viewer could read it
            if message:
                return message

    async def send(self, message: Any, **options: Any) -> None:
        if self.as_text and isinstance(message, bytes | bytearray | memoryview):
            message = pybase64.b64encode_as_string(message)
        await super().send(message, **options)


class PlaneClient:
    """Talks to a running control plane at `url`. Waits are bounded: on time-out they raise `PlaneError` with what was last seen."""

    def __init__(self, url: str = "") -> None:
        self.url = url
        # Connections are given up before the server does that (uvicorn after 5 s): a request sent at that moment fails.
        limits = httpx.Limits(keepalive_expiry=2.0)
        self._http = httpx.AsyncClient(timeout=90, trust_env=False, verify=False, limits=limits)  # noqa: S501 - loopback, own certificates

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    @property
    def ws_url(self) -> str:
        """What an agent takes as CONTROL_PLANE_URL."""
        return "ws" + self.url.removeprefix("http")

    async def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        query = {name: value for name, value in query.items() if value is not None}
        try:
            answer = await self._http.request(method, f"{self.url}/api/v1{path}", json=body, params=query)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise PlaneError(f"{self.url!r} is no address ({error}); {WHERE}") from error
        except httpx.TransportError as error:
            raise PlaneError(
                f"no control plane answers at {self.url} ({error!r}); is `streamspace-devplane serve` running there?"
            ) from error
        # A failure of the plane's own goes round what marks its answers.
        if LABEL not in answer.headers and answer.status_code != 500:
            raise PlaneError(f"what answers at {self.url} is no dev plane; {WHERE}")
        if answer.is_error:
            raise PlaneError(
                f"{method} {path}: {answer.status_code}: {answer.json()['error'] if is_json(answer) else answer.text}"
            )
        return answer.json()

    # Agents

    async def issue_key(self, agent_id: str) -> str:
        """A key with which this agent may register and connect."""
        return str((await self.call("POST", f"/agents/{agent_id}/key"))["apiKey"])

    async def bootstrap_key(self) -> str:
        return str((await self.call("POST", "/bootstrap-key"))["apiKey"])

    async def approve(self, agent_id: str) -> str:
        """The agent's own key, which it gets from its operator alone."""
        return str((await self.call("POST", f"/agents/{agent_id}/approve"))["apiKey"])

    async def reject(self, agent_id: str) -> None:
        await self.call("POST", f"/agents/{agent_id}/reject")

    async def forget_agent(self, agent_id: str) -> None:
        """Drop an agent that is not connected, with its sessions and keys."""
        await self.call("DELETE", f"/agents/{quote(agent_id)}")

    async def agents(self) -> list[Row]:
        rows: list[Row] = await self.call("GET", "/agents")
        return rows

    async def wait_agent(
        self, agent_id: str, *, status: str = "online", told: str | None = None, timeout: float = 20
    ) -> Row:
        """`online` means connected, too: a registration alone makes an agent look online. `told` is what its latest
        heartbeat said of itself, such as `draining`.
        """
        wanted = {"status": status, "connected": "True" if status == "online" else None, "toldStatus": told}
        return await self._wait(f"/agents/{agent_id}", wanted, timeout)

    # Sessions

    async def start_session(self, template: str = "desktop", **wish: Any) -> str:
        """The command's id; keywords are those of `bodies.StartSession` (`session_id`, `user`, `memory`, `manifest`, ...)."""
        return str((await self.launch(template, **wish))["commandId"])

    async def launch(self, template: str = "desktop", **wish: Any) -> Row:
        """As `start_session`, with the whole answer: `sessionId`, `commandId`, `agentId`."""
        answer: Row = await self.call("POST", "/sessions", {"template": template, **wish})
        return answer

    async def stop_session(self, session_id: str, **extra: Any) -> str:
        return await self._session_command(session_id, "stop", extra)

    async def hibernate_session(self, session_id: str) -> str:
        return await self._session_command(session_id, "hibernate", {})

    async def wake_session(self, session_id: str) -> str:
        return await self._session_command(session_id, "wake", {})

    async def forget_session(self, session_id: str) -> None:
        """Drop a session whose start was refused or waits for its agent; no agent is told."""
        await self.call("DELETE", f"/sessions/{quote(session_id)}")

    async def _session_command(self, session_id: str, verb: str, extra: Row) -> str:
        return str((await self.call("POST", f"/sessions/{session_id}/{verb}", extra))["commandId"])

    async def sessions(self) -> list[Row]:
        rows: list[Row] = await self.call("GET", "/sessions")
        return rows

    async def session(self, session_id: str) -> Row:
        row: Row = await self.call("GET", f"/sessions/{session_id}")
        return row

    async def wait_session(
        self, session_id: str, *, state: str | None = None, vnc_ready: bool | None = None, timeout: float = 20
    ) -> Row:
        """`state` may name several, separated by commas."""
        wanted = {"state": state, "vncReady": None if vnc_ready is None else str(vnc_ready)}
        return await self._wait(f"/sessions/{session_id}", wanted, timeout)

    async def open_viewer(self, session_id: str) -> ViewerConnection:
        """A viewer's WebSocket: RFB bytes both ways; the caller closes it."""
        viewer = await connect(
            f"{self.ws_url}/api/v1/sessions/{session_id}/vnc",
            subprotocols=[Subprotocol("binary")],
            compression=None,
            max_size=None,
            ping_interval=None,  # browsers send no pings, and the deployed relay takes them ill
            create_connection=ViewerConnection,
        )
        assert isinstance(viewer, ViewerConnection)
        return viewer

    # Commands, frames, events, switches

    async def send_command(self, agent_id: str, action: str, payload: Row, command_id: str | None = None) -> str:
        """Any command, well-formed or not; an id used before is sent again."""
        body = {"action": action, "payload": payload, "commandId": command_id}
        return str((await self.call("POST", f"/agents/{agent_id}/commands", body))["commandId"])

    async def send_message(self, agent_id: str, kind: str, payload: Row) -> None:
        """Any envelope, such as `shutdown` or `ping`."""
        await self.call("POST", f"/agents/{agent_id}/messages", {"type": kind, "payload": payload})

    async def send_frame(self, agent_id: str, text: str) -> None:
        """A raw text frame, malformed or not."""
        await self.call("POST", f"/agents/{agent_id}/frames", {"text": text})

    async def commands(self) -> list[Row]:
        rows: list[Row] = await self.call("GET", "/commands", limit=100_000)
        return rows

    async def command(self, command_id: str) -> Row:
        row: Row = await self.call("GET", f"/commands/{command_id}")
        return row

    async def wait_command(self, command_id: str, state: str = "completed", timeout: float = 20) -> Row:
        """The command once it is in `state` (several may be named, separated by commas)."""
        return await self._wait(f"/commands/{command_id}", {"state": state}, timeout)

    async def events(
        self,
        after: int = 0,
        *,
        type: str | None = None,  # noqa: A002 - the column's name
        direction: str | None = None,
        agent_id: str | None = None,
        limit: int = 100_000,
    ) -> list[Row]:
        """The event log: `seq, time, agentId, direction (to_agent, from_agent, plane), type, payload`."""
        rows: list[Row] = await self.call(
            "GET", "/events", after=after, type=type, direction=direction, agentId=agent_id, limit=limit
        )
        return rows

    async def set_faults(self, **switches: Any) -> Row:
        """`set_faults(drop={"types": ["ack"], "count": 1}, delay=None)`: only the named ones change."""
        row: Row = await self.call("POST", "/faults", switches)
        return row

    async def clear_faults(self) -> None:
        await self.call("DELETE", "/faults")

    async def nest_agent(self, nested: bool) -> None:
        """Whether registration answers carry the agent object under `agent`."""
        await self.call("POST", "/flags", {"nestAgent": nested})

    async def diagnostics(self) -> Row:
        row: Row = await self.call("GET", "/diagnostics")
        return row

    async def _wait(self, path: str, wanted: dict[str, str | None], timeout: float) -> Row:
        deadline = time.monotonic() + timeout
        seen: Any = None
        while (left := deadline - time.monotonic()) > 0:
            try:
                seen = await self.call("GET", path, timeout=min(left, 30), **wanted)
            except PlaneError as error:  # not there yet, or the plane is being restarted
                seen = str(error)
                await asyncio.sleep(0.05)
                continue
            if all(value is None or str(seen[name]) in value.split(",") for name, value in wanted.items()):
                row: Row = seen
                return row
        goal = ", ".join(f"{name}={value}" for name, value in wanted.items() if value is not None)
        raise PlaneError(f"{path} did not reach {goal} within {timeout} s; last seen: {seen}")
