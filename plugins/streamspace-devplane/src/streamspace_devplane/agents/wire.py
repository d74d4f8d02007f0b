"""Extends uvicorn: the application sees the client's certificate, the transport, and pings in order with messages."""

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from streamspace_devplane.agents import envelopes

SCOPE_KEY = "streamspace.wire"
AGENTS = "/api/v1/agents/"
PONG = "streamspace.pong"
"""The type of a queued message that stands for a pong to be sent."""


class Wire:
    """One TCP connection, as the application sees it under `scope["streamspace.wire"]`."""

    def __init__(self, protocol: "HttpProtocol | WebSocketProtocol", transport: asyncio.Transport) -> None:
        self._protocol = protocol
        self._transport = transport
        self.last_sign = asyncio.get_running_loop().time()
        """When the peer last sent a ping or a pong."""
        self.on_ping: Callable[[], object] | None = None
        """Called for each ping of the peer."""

    @property
    def common_name(self) -> str | None:
        """CN of the client's verified certificate; `None` without TLS or without a certificate."""
        certificate: dict[str, Any] = self._transport.get_extra_info("peercert") or {}
        names = chain.from_iterable(certificate.get("subject", ()))
        return next((str(value) for name, value in names if name == "commonName"), None)

    @property
    def is_closing(self) -> bool:
        """Whether nothing can be written any more."""
        return self._transport.is_closing()

    def ping(self) -> None:
        if isinstance(self._protocol, WebSocketProtocol) and not self._transport.is_closing():
            self._protocol.conn.send_ping(b"devplane")
            self._transport.write(b"".join(self._protocol.conn.data_to_send()))

    def write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def abort(self) -> None:
        """End the connection without any close handshake."""
        self._transport.abort()

    def stop_reading(self) -> None:
        self._transport.pause_reading()

    def read_again(self) -> None:
        if not getattr(self._protocol, "read_paused", False) and not self._transport.is_closing():
            self._transport.resume_reading()


def with_wire(app: Any, wire: Wire) -> Any:
    async def called(scope: dict[str, Any], receive: Any, send: Any) -> None:
        async def receive_after_pongs() -> Any:
            while (message := await receive())["type"] == PONG:
                wire.write(message["bytes"])
            return message

        scope[SCOPE_KEY] = wire
        await app(scope, receive_after_pongs, send)

    return called


class HttpProtocol(H11Protocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app = with_wire(self.app, Wire(self, transport))


class WebSocketProtocol(WebSocketsSansIOProtocol):
    wire: Wire

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.wire = Wire(self, self.transport)
        self.app = with_wire(self.app, self.wire)

    def handle_connect(self, event: Any) -> None:
        """Only agents' messages have a size limit, not those of viewers and web sessions."""
        if not event.path.startswith(AGENTS):
            self.conn.max_message_size = None
        super().handle_connect(event)

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            self.handshake_complete = True  # else uvicorn logs an error: it does not take a refusal for an answer

    def handle_ping(self) -> None:
        """Answer a ping once the application has taken all messages before it.

        The deployed control plane reads frames one by one, so its pong proves that it has handled what came before.
        uvicorn would answer at once, with messages still in its queue.
        """
        self.wire.last_sign = self.loop.time()
        if self.wire.on_ping:
            self.wire.on_ping()
        self.queue.put_nowait({"type": PONG, "bytes": b"".join(self.conn.data_to_send())})  # type: ignore[typeddict-item]

    def handle_text(self, event: Frame) -> None:
        """VNC data is passed on as bytes: nobody needs it as text, and `envelopes` checks it."""
        if event.fin and event.data[: len(envelopes.VNC_DATA)] == envelopes.VNC_DATA:
            self.handle_bytes(event)
        else:
            super().handle_text(event)

    def handle_pong(self, event: Any) -> None:
        self.wire.last_sign = self.loop.time()
        super().handle_pong(event)


class Server(uvicorn.Server):
    """A uvicorn server that leaves signals to the owner of the event loop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def abort_all(self) -> None:
        """End the connections that are left, without any close handshake."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def server(app: Any, *, max_message: int, tls: ssl.SSLContext | None) -> Server:
    config = uvicorn.Config(
        app,
        http=HttpProtocol,
        ws=WebSocketProtocol,
        ws_max_size=max_message,
        ws_per_message_deflate=False,
        ws_ping_interval=None,  # the link sends pings itself, because the agent's pings count as signs of life too
        ssl_context_factory=(lambda _config, _default: tls) if tls else None,
        log_config=None,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=10,
    )
    return Server(config)
