"""The requests of one client's connection, one after another. Clients are the control plane's proxy, or nginx."""

import asyncio
import logging
from contextlib import suppress
from http import HTTPStatus

import h11

from streamspace_agent.runtime import Session
from streamspace_gateway import headers, routing
from streamspace_gateway.connection import MAX_HEAD, Connection
from streamspace_gateway.counters import Outcome
from streamspace_gateway.forwarding import ENDED, Forwarding
from streamspace_gateway.routing import Refusal
from streamspace_gateway.shared import Shared

log = logging.getLogger(__name__)

HEAD_TIMEOUT = 10.0
"""Seconds for a request's head: from the connection's beginning, and from the head's first byte."""
REFUSED_TIMEOUT = 1.0
"""The same for a connection that is refused: it is told why if it asks at once, and holds its place no longer."""
IDLE_TIMEOUT = 120.0
"""Seconds that a connection may wait for its next request. Go's proxy closes it after 90, and so loses no request."""
ADOPT_TIMEOUT = 10.0
"""Seconds that a request waits until a new leader knows its sessions."""
LINGER = 2.0
"""Seconds for which the rest of a refused body is read, so that the answer to it is not lost."""


class ClientRequests:
    def __init__(self, client: Connection, source: str, shared: Shared, refusal: str = "") -> None:
        """``source`` is the client's address; ``refusal`` says why none of its requests is forwarded, if so."""
        self.client = client
        self._refusal = refusal
        self._source = source
        self._shared = shared
        self._asked = False
        self._came = 0.0
        """The loop's time at which the present request was there."""
        self.session: Session | None = None
        """The session whose server is being asked now."""

    async def run(self) -> None:
        """Serve until the connection is over, and close it."""
        try:
            while await self._one():
                pass
        except h11.RemoteProtocolError as error:
            await self._invalid(HTTPStatus(error.error_status_hint), f"this is no request: {error}")
        except TimeoutError:
            if self.client.http.trailing_data[0]:
                await self._invalid(HTTPStatus.REQUEST_TIMEOUT, "the request did not come in time")
        except OSError as error:
            log.debug("web gateway: a connection from %s broke: %s", self._source, error)
        except (Exception, asyncio.CancelledError):
            self.break_off()
            raise
        finally:
            self.client.close()

    def break_off(self) -> None:
        """End the connection now, whatever is under way."""
        if not self._shared.rules.ends_broken:
            self.client.abort()
        elif self.client.end_answer():
            log.error("web gateway: an answer was under way when its connection had to end: %s", ENDED)

    async def _one(self) -> bool:
        """Serve one request. Returns whether the connection can carry another."""
        request = await self._request()
        if request is None:
            return False
        if refused := self._shared.access.refusal(self._source):
            self._shared.counters.count(Outcome.FORBIDDEN)
            await self._answer(Refusal(HTTPStatus.FORBIDDEN, refused), request)
        elif self._refusal:
            self._shared.counters.count(Outcome.UNAVAILABLE)
            await self._answer(Refusal(HTTPStatus.SERVICE_UNAVAILABLE, self._refusal), request)
            return False
        else:
            await self._serve(request)
        if self.client.http.their_state is h11.SEND_BODY:
            await self._linger()
        return self.client.next_exchange()

    async def _request(self) -> h11.Request | None:
        """The next request's head; None if the connection ends first."""
        client, patience = self.client, REFUSED_TIMEOUT if self._refusal else HEAD_TIMEOUT
        if not client.http.trailing_data[0]:
            async with asyncio.timeout(IDLE_TIMEOUT if self._asked else patience):
                client.http.receive_data(await client.read())
        async with asyncio.timeout(patience):
            request = await client.event()
        if not isinstance(request, h11.Request):
            return None
        if headers.size(request) > MAX_HEAD:  # h11 does not refuse a head that comes in one piece
            raise h11.RemoteProtocolError(f"its head has more than {MAX_HEAD} bytes", error_status_hint=431)
        self._asked, self._came = True, asyncio.get_running_loop().time()
        if not headers.has_body(request):
            await client.event()  # its end, which is there already
        return request

    async def _serve(self, request: h11.Request) -> None:
        found = self._find(request)
        if isinstance(found, Refusal) and not self._shared.context.adopted():
            await self._adopted()  # so that nobody has to reload a page twice after a takeover
            found = self._find(request)
        if isinstance(found, Refusal):
            outcomes = {404: Outcome.NOT_FOUND, 503: Outcome.UNAVAILABLE}
            self._shared.counters.count(outcomes.get(found.status, Outcome.INVALID))
            await self._answer(found, request)
            return
        self.session = found
        forwarding = Forwarding(self.client, request, found, self._shared, self._came)
        try:
            refusal = await forwarding.run()
        finally:
            self.session = None
            self._shared.counters.count(forwarding.outcome)
        if refusal is not None:
            await self._answer(refusal, request)

    def _find(self, request: h11.Request) -> Session | Refusal:
        if not request.target.startswith(b"/") and request.target != b"*":
            return Refusal(HTTPStatus.BAD_REQUEST, "the request's target must be a path")
        if request.method == b"CONNECT":
            return Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "the gateway is no proxy: CONNECT leads nowhere")
        host = headers.value(request.headers, b"host").decode("latin-1")
        return routing.find(host, self._shared.context)

    async def _adopted(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(ADOPT_TIMEOUT):
                while not self._shared.context.adopted():
                    await asyncio.sleep(0.05)

    async def _invalid(self, status: HTTPStatus, why: str) -> None:
        self._shared.counters.count(Outcome.INVALID)
        try:
            await self._answer(Refusal(status, why), None)
            await self._linger()
        except (OSError, TimeoutError, h11.ProtocolError):
            self.client.abort()

    async def _answer(self, refusal: Refusal, request: h11.Request | None) -> None:
        """Send an answer of the gateway's own; if another has begun, end the connection."""
        client = self.client
        if client.http.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            self.break_off()
            return
        text = f"{refusal.text}\n".encode()
        head = [
            (b"Content-Type", b"text/plain; charset=utf-8"),
            *self._shared.rules.length_headers(len(text)),
            (b"Cache-Control", b"no-store"),
        ]
        if refusal.status in {HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN, HTTPStatus.METHOD_NOT_ALLOWED}:
            head.append((b"Connection", b"close"))
        if refusal.status == HTTPStatus.SERVICE_UNAVAILABLE:
            head.append((b"Retry-After", b"2"))
        await client.send(h11.Response(status_code=refusal.status, reason=refusal.status.phrase, headers=head))
        if request is None or request.method != b"HEAD":
            await client.send(h11.Data(data=text))
        await client.send(h11.EndOfMessage())

    async def _linger(self) -> None:
        """Read the rest for a moment: closing with unread bytes resets the connection, and the answer is lost."""
        try:
            self.client.transport.write_eof()
            async with asyncio.timeout(LINGER):
                while await self.client.read():
                    pass
        except (OSError, TimeoutError):
            pass
