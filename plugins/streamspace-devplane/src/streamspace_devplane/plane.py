"""A control plane inside the caller's event loop."""

import asyncio
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streamspace_devplane.agents.faults import Faults
from streamspace_devplane.agents.hub import Hub
from streamspace_devplane.agents.registration import AgentEndpoints
from streamspace_devplane.agents.wire import Server, server
from streamspace_devplane.client import PlaneClient
from streamspace_devplane.settings import Settings
from streamspace_devplane.store import Store
from streamspace_devplane.templates import TEMPLATES, Manifest
from streamspace_devplane.web.app import build
from streamspace_devplane.web.novnc import find as find_novnc

STOP_TIMEOUT = 0.5  # seconds for close handshakes: a peer that does not read would hold up a stop for ever
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class DevPlane(PlaneClient):
    """`async with DevPlane(db=path) as plane:`. It keeps its database, port and fault switches over `stop` and `start`.

    `templates` are those that can be started by name. `novnc` is the folder of noVNC; by default the one that a package
    installed.
    """

    def __init__(
        self,
        db: Path | str,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        settings: Settings | None = None,
        tls: ssl.SSLContext | None = None,
        templates: Mapping[str, Manifest] = TEMPLATES,
        novnc: Path | None = None,
    ) -> None:
        super().__init__()
        if host not in LOOPBACK:
            raise ValueError(
                f"a development control plane binds to loopback only, not to {host!r}; use one of {', '.join(LOOPBACK)}"
            )
        self.db = db
        self.host = host
        self.port = port
        self.settings = settings or Settings()
        self.tls = tls
        self.templates = templates
        self.novnc = novnc or find_novnc()
        self.faults = Faults()
        self.hub: Hub
        self._server: Server | None = None
        self._serving: asyncio.Task[Any] | None = None

    async def start(self) -> None:
        store = Store(self.db, self.settings.events_kept)
        try:
            listener = _listen(self.host, self.port)
        except OSError:
            store.close()
            raise
        self.hub = Hub(store, self.settings, self.faults, self.templates)
        self.port = listener.getsockname()[1]
        shown = f"[{self.host}]" if ":" in self.host else self.host
        self.url = f"{'https' if self.tls else 'http'}://{shown}:{self.port}"
        app = build(self.hub, AgentEndpoints(self.hub), self.novnc)
        self._server = server(app, max_message=self.settings.max_message, tls=self.tls)
        self._serving = asyncio.create_task(self._server.serve([listener]))
        while not self._server.started:
            if self._serving.done():
                await self._serving
                raise RuntimeError("the server ended while starting")
            await asyncio.sleep(0.005)

    async def stop(self, *, abruptly: bool = False) -> None:
        """Close all links (code 1012), or cut them as a killed process would, and free the port."""
        if self._server is None or self._serving is None:
            return
        self.hub.stopping.set()
        self.hub.listening.set()
        self.hub.store.note_change()  # wakes those who wait for a change, so that they see that it stops
        if abruptly:
            for link in list(self.hub.links.values()):
                link.cut()
        self._server.should_exit = True
        await asyncio.wait({self._serving}, timeout=STOP_TIMEOUT)
        self._server.abort_all()
        await self._serving
        self._server = self._serving = None
        self.hub.store.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With Nagle's algorithm a pong waits for up to 40 ms. Go switches it off, and so does asyncio, but only for sockets
    # that were made with an explicit protocol.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener
