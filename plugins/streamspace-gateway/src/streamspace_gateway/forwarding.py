"""Forwards one request to a session's own web server, and the answer back."""

import asyncio
import logging
import zlib
from http import HTTPStatus

import h11

from streamspace_agent.errors import AgentError, CommandFailed, SessionNotFound
from streamspace_agent.runtime import Session
from streamspace_gateway import activity, headers
from streamspace_gateway.connection import Connection
from streamspace_gateway.counters import Outcome
from streamspace_gateway.errors import BrokenOff, Undecodable
from streamspace_gateway.proxy_rules import Decoder
from streamspace_gateway.routing import Refusal
from streamspace_gateway.shared import Shared
from streamspace_gateway.upstreams import Upstream

log = logging.getLogger(__name__)

STALLED = 60.0
"""Seconds for which the body of a request may stand still."""
LONG = 64 * 1024
"""A body of at least so many bytes is piped from connection to connection, past the parsers that would copy it."""
ENDED = "ended as if it were whole, because a broken answer would end the control plane"
_SAFE = frozenset({b"GET", b"HEAD", b"OPTIONS"})
"""Methods that may be sent again when an idle connection turns out to be closed (RFC 9110, section 9.2.2)."""


class Forwarding:
    """Serves one request; :attr:`outcome` says at any time what became of it."""

    def __init__(self, client: Connection, request: h11.Request, session: Session, shared: Shared, came: float) -> None:
        """``came`` is the loop's time at which the request was there."""
        self._client = client
        self._request = request
        self._session = session
        self._shared = shared
        self._rules = shared.rules
        limit = self._rules.limit
        self._limit = asyncio.timeout_at(None if limit is None else came + limit)
        self.outcome = Outcome.LEFT

    async def run(self) -> Refusal | None:
        """Returns what the gateway itself answers, if it has to because the session's server does not."""
        try:
            self._note_activity()
            async with self._limit:
                await self._forward()
        except BrokenOff as error:
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
        """Let the client see that its answer is broken, unless that would harm others."""
        if self._rules.ends_broken:
            log.error("web gateway: session %s: %s: %s", self._id, why, ENDED)
            self._client.end_answer()  # at once: a client that does not read would hold it up
        else:
            log.warning("web gateway: session %s: %s", self._id, why)
            self._client.reset()

    def _out_of_time(self) -> Refusal | None:
        self.outcome = Outcome.TIME_LIMIT
        if self._client.http.our_state is h11.SEND_BODY:
            self._broke_off(f"an answer took more than {self._rules.limit:g} s")
            return None
        log.error("web gateway: session %s: its server gave no answer within %g s", self._id, self._rules.limit)
        limit = f"{self._rules.limit:g} s, and the control plane waits for 30"
        text = f"the session's own web server gave no answer within {limit}"
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

    def _note_activity(self) -> None:
        context = self._shared.context
        if activity.is_by_person(self._request, self._shared.heartbeats(self._id), context.clock.now()):
            context.saw_input(self._id)

    async def _forward(self) -> None:
        """Raises BrokenOff if a part of the answer has been passed on, OSError if not."""
        request = self._request
        repeatable = request.method in _SAFE and not headers.has_body(request) and not headers.wants_websocket(request)
        while True:
            upstream = await self._shared.upstreams.open(self._session, fresh=not repeatable)
            maybe_closed = upstream.used
            try:
                await self._exchange(upstream)
                return
            except BrokenOff as error:
                if error.began:
                    raise
                if not maybe_closed:
                    raise OSError(str(error)) from error
            finally:
                self._shared.upstreams.give_back(upstream)

    async def _exchange(self, upstream: Upstream) -> None:
        server = upstream.connection
        sending: asyncio.Task[None] | None = None
        try:
            try:
                await server.send(self._rules.to_session(self._request))
                if headers.has_body(self._request):
                    sending = asyncio.create_task(self._send_body(server), name="request body")
                else:
                    await server.send(h11.EndOfMessage())
                answer = await self._answer_head(server)
            except (OSError, h11.RemoteProtocolError) as error:
                raise BrokenOff(error, began=False) from error
            if isinstance(answer, h11.InformationalResponse):
                await self._carry_websocket(answer, server)
            else:
                decoder = self._rules.decoder(answer)
                await self._client.send(shaped := self._rules.to_client(answer))
                if decoder is None and (size := self._piped_size(answer)):
                    await self._pipe_body(server, answer, size, has_length=bool(headers.length(shaped)))
                else:
                    await self._copy_body(server, decoder)
                self.outcome = Outcome.PASSED
        finally:
            if sending is not None:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    async def _answer_head(self, server: Connection) -> h11.Response | h11.InformationalResponse:
        """The answer, or 101; other interim answers are passed on."""
        while True:
            event = await server.event()
            if isinstance(event, h11.Response):
                return event
            if not isinstance(event, h11.InformationalResponse):
                raise h11.RemoteProtocolError("it closed the connection without an answer")
            if event.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
                return event
            await self._client.send(headers.interim(event))

    def _piped_size(self, answer: h11.Response) -> int:
        """The length of a body that is worth piping past the parsers; 0 for any other."""
        if self._request.method == b"HEAD" or answer.status_code in {204, 304} or headers.is_chunked(answer):
            return 0
        size = headers.length(answer)
        return size if size >= LONG and self._client.http.their_state is h11.DONE else 0

    async def _pipe_body(self, server: Connection, answer: h11.Response, size: int, *, has_length: bool) -> None:
        """``has_length`` says whether the client was told it. If not, its parser still begins and ends the answer."""
        chunked = not has_length and self._request.http_version >= b"1.1"
        try:
            await server.pipe_body(self._client, size, chunked=chunked)
        except OSError as error:
            raise BrokenOff(error, began=True) from error
        await self._client.drain()
        if not has_length:
            await self._client.send(h11.EndOfMessage())
        elif headers.keeps_alive(self._request):
            self._client.restart_parser()
        if not headers.keeps_alive(answer):
            server.close()

    async def _copy_body(self, server: Connection, decoder: Decoder | None) -> None:
        while True:
            try:
                event = await server.event()
            except (OSError, h11.RemoteProtocolError) as error:
                raise BrokenOff(error, began=True) from error
            if not isinstance(event, h11.Data):
                break
            if decoder is None:
                await self._client.send(event)
            else:
                await self._decode(bytes(event.data), decoder)
        if decoder is not None and not decoder.whole:
            raise BrokenOff(EOFError("its encoding was cut off"), began=True)
        await self._client.send(h11.EndOfMessage())

    async def _decode(self, data: bytes, decoder: Decoder) -> None:
        try:
            for piece in decoder.feed(data):
                await self._client.send(h11.Data(data=piece))
        except zlib.error as error:
            raise BrokenOff(error, began=True) from error

    async def _send_body(self, server: Connection) -> None:
        """Send the request's body. A server that takes no more of it may have answered: that is read elsewhere."""
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

    async def _carry_websocket(self, answer: h11.InformationalResponse, server: Connection) -> None:
        context = self._shared.context
        self.outcome = Outcome.WEBSOCKET
        self._limit.reschedule(None)
        await self._client.send(headers.interim(answer))
        heartbeats = self._shared.heartbeats(self._id)
        watch = activity.FromBrowser(heartbeats, context.clock.now, lambda: context.saw_input(self._id))
        try:  # both ways until one side ends; the other then gets what was on its way, and the end
            pipes = {self._client.pipe(server, watch.feed), server.pipe(self._client)}
            await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._client.close()
            server.close()
