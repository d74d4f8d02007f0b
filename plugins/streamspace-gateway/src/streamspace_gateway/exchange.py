"""One connection of whoever asks (the control plane's proxy, nginx before the gateway): request after request."""

import asyncio
import logging
from contextlib import suppress
from http import HTTPStatus

import h11

from streamspace_agent.runtime import Session
from streamspace_gateway import headers, names
from streamspace_gateway.counters import Outcome
from streamspace_gateway.names import Refusal
from streamspace_gateway.passing import ENDED, Passing
from streamspace_gateway.peer import MAX_HEAD, Peer
from streamspace_gateway.shared import Shared

log = logging.getLogger(__name__)

HEAD_TIMEOUT = 10.0
"""Seconds from the connection, and from a request's first byte, until its head must be there."""
UNWANTED_TIMEOUT = 1.0
"""The same for a connection that will be refused: it gets the sentence that says why if it asks at once, and holds its place no longer."""
IDLE_TIMEOUT = 120.0
"""Seconds that a connection may wait for its next request. Go's proxy closes its own after 90: who closes first loses no request."""
ADOPT_PATIENCE = 10.0
"""Seconds that a request waits for a new leader to know its sessions."""
LINGER = 2.0
"""Seconds for which a body that nobody wants is read, so that the answer is not lost with it."""


class Exchanges:
    """The requests of one connection, one after another."""

    def __init__(self, client: Peer, peer: str, shared: Shared, unwanted: str = "") -> None:
        """``unwanted`` says why nothing is passed on for it."""
        self.client = client
        self._unwanted = unwanted
        self._peer = peer
        self._shared = shared
        self._asked = False
        self._came = 0.0
        """When the request that is served now was there (the loop's time)."""
        self.session: Session | None = None
        """Whose server is being asked now."""

    async def run(self) -> None:
        """Until the connection is over; it is closed then."""
        try:
            while await self._one():
                pass
        except h11.RemoteProtocolError as error:
            await self._invalid(HTTPStatus(error.error_status_hint), f"this is no request: {error}")
        except TimeoutError:
            if self.client.http.trailing_data[0]:
                await self._invalid(HTTPStatus.REQUEST_TIMEOUT, "the request did not come in time")
        except OSError as error:
            log.debug("web gateway: a connection from %s broke: %s", self._peer, error)
        except (Exception, asyncio.CancelledError):
            self.break_off()
            raise
        finally:
            self.client.close()

    def break_off(self) -> None:
        """End the connection now, whatever is under way."""
        if not self._shared.shape.ends_broken:
            self.client.abort()
        elif self.client.end_answer():
            log.error("web gateway: an answer was under way when its connection had to end: %s", ENDED)

    async def _one(self) -> bool:
        """One request; False when the connection can carry no other."""
        request = await self._request()
        if request is None:
            return False
        if refused := self._shared.access.refusal(self._peer):
            self._shared.counters.count(Outcome.FORBIDDEN)
            await self._answer(Refusal(HTTPStatus.FORBIDDEN, refused), request)
        elif self._unwanted:
            self._shared.counters.count(Outcome.UNAVAILABLE)
            await self._answer(Refusal(HTTPStatus.SERVICE_UNAVAILABLE, self._unwanted), request)
            return False
        else:
            await self._serve(request)
        if self.client.http.their_state is h11.SEND_BODY:
            await self._linger()
        return self.client.next_exchange()

    async def _request(self) -> h11.Request | None:
        """The next request's head; None where the connection ends before it."""
        client, patience = self.client, UNWANTED_TIMEOUT if self._unwanted else HEAD_TIMEOUT
        if not client.http.trailing_data[0]:
            async with asyncio.timeout(IDLE_TIMEOUT if self._asked else patience):
                client.http.receive_data(await client.read())
        async with asyncio.timeout(patience):
            request = await client.event()
        if not isinstance(request, h11.Request):
            return None
        if headers.size(request) > MAX_HEAD:  # one that comes at once is whole before h11 could find it too long
            raise h11.RemoteProtocolError(f"its head has more than {MAX_HEAD} bytes", error_status_hint=431)
        self._asked, self._came = True, asyncio.get_running_loop().time()
        if not headers.has_body(request):
            await client.event()  # its end: there is nothing to wait for
        return request

    async def _serve(self, request: h11.Request) -> None:
        found = self._find(request)
        if isinstance(found, Refusal) and not self._shared.context.adopted():
            await self._adopted()  # a person who loads the page again after a takeover does so once
            found = self._find(request)
        if isinstance(found, Refusal):
            outcomes = {404: Outcome.NOT_FOUND, 503: Outcome.UNAVAILABLE}
            self._shared.counters.count(outcomes.get(found.status, Outcome.INVALID))
            await self._answer(found, request)
            return
        self.session = found
        passing = Passing(self.client, request, found, self._shared, self._came)
        try:
            refusal = await passing.run()
        finally:
            self.session = None
            self._shared.counters.count(passing.outcome)
        if refusal is not None:
            await self._answer(refusal, request)

    def _find(self, request: h11.Request) -> Session | Refusal:
        if not request.target.startswith(b"/") and request.target != b"*":
            return Refusal(HTTPStatus.BAD_REQUEST, "the request's target must be a path")
        if request.method == b"CONNECT":
            return Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "the gateway is no proxy: CONNECT leads nowhere")
        host = headers.value(request.headers, b"host").decode("latin-1")
        return names.find(host, self._shared.context)

    async def _adopted(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(ADOPT_PATIENCE):
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
        """An answer of the gateway's own; broken off where another has begun."""
        client = self.client
        if client.http.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            self.break_off()
            return
        text = f"{refusal.text}\n".encode()
        head = [
            (b"Content-Type", b"text/plain; charset=utf-8"),
            *self._shared.shape.own(len(text)),
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
        """Read for a moment what nobody wants: a connection closed with unread bytes is reset, and its answer lost."""
        try:
            self.client.transport.write_eof()
            async with asyncio.timeout(LINGER):
                while await self.client.read():
                    pass
        except (OSError, TimeoutError):
            pass
