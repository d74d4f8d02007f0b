"""One request on its way to a session's own web server, and the answer on its way back."""

import asyncio
import logging
import zlib
from http import HTTPStatus

import h11

from streamspace_agent.errors import AgentError, CommandFailed, SessionNotFound
from streamspace_agent.runtime import Session
from streamspace_gateway import headers, use, websocket
from streamspace_gateway.counters import Outcome
from streamspace_gateway.names import Refusal
from streamspace_gateway.peer import Peer
from streamspace_gateway.sessions import Upstream
from streamspace_gateway.shape import Decoder, Undecodable
from streamspace_gateway.shared import Shared

log = logging.getLogger(__name__)

STALLED = 60.0
"""Seconds that the body of a request may stand still."""
LONG = 64 * 1024
"""Bytes of a body from which it goes from connection to connection, past the parsers that would copy it."""
ENDED = "ended as if it were whole, because a broken answer would end the control plane"
_SAFE = frozenset({b"GET", b"HEAD", b"OPTIONS"})
"""Methods that may be sent again where a connection that had waited turns out to be closed (RFC 9110, section 9.2.2)."""


class _Broken(Exception):
    """The session's server broke off; ``began`` says whether a part of its answer has been passed on."""

    def __init__(self, cause: Exception, *, began: bool) -> None:
        super().__init__(str(cause) or type(cause).__name__)
        self.began = began


class Passing:
    """Made for one request; :attr:`outcome` tells at any time what has become of it."""

    def __init__(self, client: Peer, request: h11.Request, session: Session, shared: Shared, came: float) -> None:
        """The request came at ``came`` of the loop's time."""
        self._client = client
        self._request = request
        self._session = session
        self._shared = shared
        self._shape = shared.shape
        limit = self._shape.limit
        self._limit = asyncio.timeout_at(None if limit is None else came + limit)
        self.outcome = Outcome.LEFT

    async def run(self) -> Refusal | None:
        """Pass it on, and the answer back. Returns what to answer where the session's server says nothing."""
        try:
            self._note_use()
            async with self._limit:
                await self._pass_on()
        except _Broken as error:
            self.outcome = Outcome.BROKEN
            self._broke_off(f"its server broke off in an answer: {error}")
        except Undecodable as error:
            log.warning("web gateway: session %s: its server answers in the encoding %s, unasked", self._id, error)
            text = f"the session's own web server answers in the encoding {error}, which it was asked not to"
            return self._refused(Outcome.BAD_GATEWAY, text)
        except SessionNotFound:
            return self._refused(Outcome.NOT_FOUND, "the session is gone")
        except CommandFailed as error:
            return self._refused(Outcome.UNAVAILABLE, f"the session cannot be used now: {error}")
        except (OSError, AgentError) as error:
            return self._out_of_time() if self._limit.expired() else self._unreached(error)
        return None

    def _broke_off(self, why: str) -> None:
        """Let the one who asked see it, where that harms nobody else."""
        if self._shape.ends_broken:
            log.error("web gateway: session %s: %s: %s", self._id, why, ENDED)
            self._client.end_answer()  # without a wait: whoever does not read would hold what it was not sent
        else:
            log.warning("web gateway: session %s: %s", self._id, why)
            self._client.reset()

    def _out_of_time(self) -> Refusal | None:
        self.outcome = Outcome.TIME_LIMIT
        if self._client.http.our_state is h11.SEND_BODY:
            self._broke_off(f"an answer took more than {self._shape.limit:g} s")
            return None
        log.error("web gateway: session %s: its server gave no answer within %g s", self._id, self._shape.limit)
        text = f"the session's own web server gave no answer within {self._shape.limit:g} s, and the control plane waits for 30"
        return Refusal(HTTPStatus.GATEWAY_TIMEOUT, text)

    @property
    def _id(self) -> str:
        return self._session.session_id

    def _refused(self, outcome: Outcome, text: str) -> Refusal:
        self.outcome = outcome
        status = {Outcome.NOT_FOUND: HTTPStatus.NOT_FOUND, Outcome.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE}
        return Refusal(status.get(outcome, HTTPStatus.BAD_GATEWAY), text)

    def _unreached(self, error: Exception) -> Refusal:
        if self._client.transport.is_closing():
            raise error
        log.info("web gateway: session %s: its server cannot be asked: %s", self._id, error)
        if not self._session.ready:
            text = "the session is starting, and its web server does not answer yet: try again in a moment"
            return self._refused(Outcome.UNAVAILABLE, text)
        why = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
        text = f"the session's own web server, on port {self._session.port}, gave no answer: {why}"
        return self._refused(Outcome.BAD_GATEWAY, text)

    def _note_use(self) -> None:
        context = self._shared.context
        if use.by_request(self._request, self._shared.rhythm(self._id), context.clock.now()):
            context.saw_input(self._id)

    async def _pass_on(self) -> None:
        """Raises _Broken once a part of the answer has been passed on, before that OSError."""
        request = self._request
        again = request.method in _SAFE and not headers.has_body(request) and not headers.wants_websocket(request)
        while True:
            upstream = await self._shared.servers.open(self._session, fresh=not again)
            stale = upstream.used
            try:
                await self._exchange(upstream)
                return
            except _Broken as error:
                if error.began:
                    raise
                if not stale:  # one that had waited may have been closed meanwhile, which says nothing
                    raise OSError(str(error)) from error
            finally:
                self._shared.servers.give_back(upstream)

    async def _exchange(self, upstream: Upstream) -> None:
        server = upstream.peer
        sending: asyncio.Task[None] | None = None
        try:
            try:
                await server.send(self._shape.to_session(self._request))
                if headers.has_body(self._request):
                    sending = asyncio.create_task(self._send_body(server), name="request body")
                else:
                    await server.send(h11.EndOfMessage())
                answer = await self._head_of_answer(server)
            except (OSError, h11.RemoteProtocolError) as error:
                raise _Broken(error, began=False) from error
            if isinstance(answer, h11.InformationalResponse):
                await self._carry_websocket(answer, server)
            else:
                decoder = self._shape.decoder(answer)
                await self._client.send(shaped := self._shape.to_client(answer))
                if decoder is None and (size := self._poured(answer)):
                    await self._pour_body(server, answer, size, tells_length=bool(headers.length(shaped)))
                else:
                    await self._pass_body(server, decoder)
                self.outcome = Outcome.PASSED
        finally:
            if sending is not None:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    async def _head_of_answer(self, server: Peer) -> h11.Response | h11.InformationalResponse:
        """101 is an answer; what else comes before one is passed on."""
        while True:
            event = await server.event()
            if isinstance(event, h11.Response):
                return event
            if not isinstance(event, h11.InformationalResponse):
                raise h11.RemoteProtocolError("it closed the connection without an answer")
            if event.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
                return event
            await self._client.send(headers.interim(event))

    def _poured(self, answer: h11.Response) -> int:
        """The length of a body that is worth to pass by the parsers; 0 for any other."""
        if self._request.method == b"HEAD" or answer.status_code in {204, 304} or headers.is_chunked(answer):
            return 0
        size = headers.length(answer)
        return size if size >= LONG and self._client.http.their_state is h11.DONE else 0

    async def _pour_body(self, server: Peer, answer: h11.Response, size: int, *, tells_length: bool) -> None:
        """Where the client is told no length, its parser still begins and ends the answer, and only the bytes go past it."""
        in_chunks = not tells_length and self._request.http_version >= b"1.1"
        try:
            await server.pour(self._client, size, in_chunks=in_chunks)
        except OSError as error:
            raise _Broken(error, began=True) from error
        await self._client.room()
        if not tells_length:
            await self._client.send(h11.EndOfMessage())
        elif headers.goes_on(self._request):
            self._client.begin_anew()
        if not headers.goes_on(answer):
            server.close()

    async def _pass_body(self, server: Peer, decoder: Decoder | None) -> None:
        while True:
            try:
                event = await server.event()
            except (OSError, h11.RemoteProtocolError) as error:
                raise _Broken(error, began=True) from error
            if not isinstance(event, h11.Data):
                break
            if decoder is None:
                await self._client.send(event)
            else:
                await self._decode(bytes(event.data), decoder)
        if decoder is not None and not decoder.whole:
            raise _Broken(EOFError("its encoding was cut off"), began=True)
        await self._client.send(h11.EndOfMessage())

    async def _decode(self, data: bytes, decoder: Decoder) -> None:
        try:
            for piece in decoder.feed(data):
                await self._client.send(h11.Data(data=piece))
        except zlib.error as error:
            raise _Broken(error, began=True) from error

    async def _send_body(self, server: Peer) -> None:
        """What the client sends, to the session. A server that takes no more may have answered: that is read elsewhere."""
        try:
            while True:
                async with asyncio.timeout(STALLED):
                    event = await self._client.event()
                if not isinstance(event, h11.Data):
                    break
                await server.send(event)
            await server.send(h11.EndOfMessage())
        except (h11.RemoteProtocolError, TimeoutError) as error:
            log.debug("web gateway: session %s: the body of a request was broken off: %s", self._id, error)
            self._client.abort()
        except (OSError, h11.LocalProtocolError):
            pass

    async def _carry_websocket(self, answer: h11.InformationalResponse, server: Peer) -> None:
        context = self._shared.context
        self.outcome = Outcome.WEBSOCKET
        self._limit.reschedule(None)
        await self._client.send(headers.interim(answer))
        watch = use.FromBrowser(self._shared.rhythm(self._id), context.clock.now, lambda: context.saw_input(self._id))
        await websocket.carry(self._client, server, watch.feed)
