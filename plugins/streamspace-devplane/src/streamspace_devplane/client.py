"""The operator's API as Python, for tests and the command line."""

import asyncio
import binascii
import time
from typing import Any, Self
from urllib.parse import quote

import httpx
import pybase64
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from streamspace_devplane.errors import PlaneError
from streamspace_devplane.settings import LABEL
from streamspace_devplane.store import Row

WHERE = "--url or STREAMSPACE_DEVPLANE_URL names one, such as http://127.0.0.1:8000"


def is_json(answer: httpx.Response) -> bool:
    return bool(answer.headers.get("content-type") == "application/json")


class ViewerConnection(ClientConnection):
    """A viewer's WebSocket as a stream of RFB bytes, for both kinds of relay.

    The deployed relay sends base64 in text frames, a repaired one bytes in binary frames. RFB servers speak first, so
    the first frame says which relay it is; anything sent before goes out as bytes.
    """

    as_text = False

    async def recv(self, decode: bool | None = None) -> bytes:  # type: ignore[override]  # noqa: ARG002 - always bytes
        """The next bytes; empty messages are skipped."""
        while True:
            message = await super().recv()
            if isinstance(message, str):
                self.as_text = True
                try:
                    message = pybase64.b64decode(message, validate=True)
                except binascii.Error:
                    continue  # no viewer could read what the agent sent
            if message:
                return message

    async def send(self, message: Any, **options: Any) -> None:
        if self.as_text and isinstance(message, bytes | bytearray | memoryview):
            message = pybase64.b64encode_as_string(message)
        await super().send(message, **options)


class PlaneClient:
    """A client of the control plane at `url`. A wait that times out raises `PlaneError` with what was last seen."""

    def __init__(self, url: str = "") -> None:
        self.url = url
        # Idle connections are closed before the server closes them (uvicorn does after 5 s), as a request then fails.
        limits = httpx.Limits(keepalive_expiry=2.0)
        self._http = httpx.AsyncClient(timeout=90, trust_env=False, verify=False, limits=limits)  # noqa: S501 - loopback, own certificates

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        await self._http.aclose()

    async def start(self) -> None:
        """Start the control plane, in subclasses that run one."""

    async def stop(self, *, abruptly: bool = False) -> None:
        """Stop it, in subclasses that run one; `abruptly` as if it were killed."""

    async def restart(self, down_for: float = 0.0, *, abruptly: bool = False) -> None:
        """Stop and start it, with the same state, keys and port."""
        await self.stop(abruptly=abruptly)
        await asyncio.sleep(down_for)
        await self.start()

    @property
    def ws_url(self) -> str:
        """The agent's CONTROL_PLANE_URL."""
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
        # The middleware that labels answers does not see those of uncaught exceptions.
        if LABEL not in answer.headers and answer.status_code != 500:
            raise PlaneError(f"what answers at {self.url} is no dev plane; {WHERE}")
        if answer.is_error:
            raise PlaneError(
                f"{method} {path}: {answer.status_code}: {answer.json()['error'] if is_json(answer) else answer.text}"
            )
        return answer.json()

    async def row(self, method: str, path: str, body: Any = None, **query: Any) -> Row:
        found: Row = await self.call(method, path, body, **query)
        return found

    async def rows(self, path: str, **query: Any) -> list[Row]:
        found: list[Row] = await self.call("GET", path, **query)
        return found

    # Agents

    async def issue_key(self, agent_id: str) -> str:
        """A key with which the agent may register and connect."""
        return str((await self.call("POST", f"/agents/{agent_id}/key"))["apiKey"])

    async def bootstrap_key(self) -> str:
        return str((await self.call("POST", "/bootstrap-key"))["apiKey"])

    async def approve(self, agent_id: str) -> str:
        """Approve an agent; returns its own key, which only its operator can give it."""
        return str((await self.call("POST", f"/agents/{agent_id}/approve"))["apiKey"])

    async def reject(self, agent_id: str) -> None:
        await self.call("POST", f"/agents/{agent_id}/reject")

    async def forget_agent(self, agent_id: str) -> None:
        """Drop an agent that is not connected, with its sessions and keys."""
        await self.call("DELETE", f"/agents/{quote(agent_id)}")

    async def agents(self) -> list[Row]:
        return await self.rows("/agents")

    async def wait_agent(
        self, agent_id: str, *, status: str = "online", told: str | None = None, timeout: float = 20
    ) -> Row:
        """The agent once it has this status; `online` includes a connection, which a registration alone has not.

        `told` is the status in its last heartbeat, such as `draining`.
        """
        wanted = {"status": status, "connected": "True" if status == "online" else None, "toldStatus": told}
        return await self._wait(f"/agents/{agent_id}", wanted, timeout)

    # Sessions

    async def start_session(self, template: str = "desktop", **wish: Any) -> str:
        """Returns the command's id. The keywords are those of `web.bodies.StartSession` (`session_id`, `user`, ...)."""
        return str((await self.launch(template, **wish))["commandId"])

    async def launch(self, template: str = "desktop", **wish: Any) -> Row:
        """As `start_session`; returns the whole answer: `sessionId`, `commandId`, `agentId`."""
        return await self.row("POST", "/sessions", {"template": template, **wish})

    async def stop_session(self, session_id: str, **extra: Any) -> str:
        return await self._session_command(session_id, "stop", extra)

    async def hibernate_session(self, session_id: str) -> str:
        return await self._session_command(session_id, "hibernate", {})

    async def wake_session(self, session_id: str) -> str:
        return await self._session_command(session_id, "wake", {})

    async def forget_session(self, session_id: str) -> None:
        """Drop a session whose start was refused or still waits; no agent is notified."""
        await self.call("DELETE", f"/sessions/{quote(session_id)}")

    async def _session_command(self, session_id: str, verb: str, extra: Row) -> str:
        return str((await self.call("POST", f"/sessions/{session_id}/{verb}", extra))["commandId"])

    async def sessions(self) -> list[Row]:
        return await self.rows("/sessions")

    async def session(self, session_id: str) -> Row:
        return await self.row("GET", f"/sessions/{session_id}")

    async def wait_session(
        self, session_id: str, *, state: str | None = None, vnc_ready: bool | None = None, timeout: float = 20
    ) -> Row:
        """The session once it has this state; `state` may be several, separated by commas."""
        wanted = {"state": state, "vncReady": None if vnc_ready is None else str(vnc_ready)}
        return await self._wait(f"/sessions/{session_id}", wanted, timeout)

    async def open_viewer(self, session_id: str) -> ViewerConnection:
        """Open a viewer's WebSocket, which carries RFB both ways. The caller closes it."""
        viewer = await connect(
            f"{self.ws_url}/api/v1/sessions/{session_id}/vnc",
            subprotocols=[Subprotocol("binary")],
            compression=None,
            max_size=None,
            ping_interval=None,  # browsers send no pings, and the deployed relay may crash after one
            create_connection=ViewerConnection,
        )
        assert isinstance(viewer, ViewerConnection)
        return viewer

    # Commands, frames, events, switches

    async def send_command(self, agent_id: str, action: str, payload: Row, command_id: str | None = None) -> str:
        """Send any command, valid or not. A command id that was used before is sent again."""
        body = {"action": action, "payload": payload, "commandId": command_id}
        return str((await self.call("POST", f"/agents/{agent_id}/commands", body))["commandId"])

    async def send_message(self, agent_id: str, kind: str, payload: Row) -> None:
        """Send any envelope, such as `shutdown` or `ping`."""
        await self.call("POST", f"/agents/{agent_id}/messages", {"type": kind, "payload": payload})

    async def send_frame(self, agent_id: str, text: str) -> None:
        """Send any text frame, valid or not."""
        await self.call("POST", f"/agents/{agent_id}/frames", {"text": text})

    async def commands(self) -> list[Row]:
        return await self.rows("/commands", limit=100_000)

    async def command(self, command_id: str) -> Row:
        return await self.row("GET", f"/commands/{command_id}")

    async def wait_command(self, command_id: str, state: str = "completed", timeout: float = 20) -> Row:
        """The command once it has this state; `state` may be several, separated by commas."""
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
        return await self.rows("/events", after=after, type=type, direction=direction, agentId=agent_id, limit=limit)

    async def set_faults(self, **switches: Any) -> Row:
        """Change the named switches: `set_faults(drop={"types": ["ack"], "count": 1}, delay=None)`."""
        return await self.row("POST", "/faults", switches)

    async def clear_faults(self) -> None:
        await self.call("DELETE", "/faults")

    async def nest_agent(self, nested: bool) -> None:
        """Choose whether registrations are answered with the agent nested under `agent`."""
        await self.call("POST", "/flags", {"nestAgent": nested})

    async def diagnostics(self) -> Row:
        return await self.row("GET", "/diagnostics")

    async def _wait(self, path: str, wanted: dict[str, str | None], timeout: float) -> Row:
        deadline = time.monotonic() + timeout
        seen: Row | str | None = None
        while (left := deadline - time.monotonic()) > 0:
            try:
                row = seen = await self.row("GET", path, timeout=min(left, 30), **wanted)
            except PlaneError as error:  # it does not exist yet, or the plane restarts
                seen = str(error)
                await asyncio.sleep(0.05)
                continue
            if all(value is None or str(row[name]) in value.split(",") for name, value in wanted.items()):
                return row
        goal = ", ".join(f"{name}={value}" for name, value in wanted.items() if value is not None)
        raise PlaneError(f"{path} did not reach {goal} within {timeout} s; last seen: {seen}")
