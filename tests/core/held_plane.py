"""The tunnels' control plane, held in the test's hand: what they say is kept, what crosses it is forced."""

import asyncio
import collections
import json
from contextlib import asynccontextmanager, suppress

import pybase64

from lab.loopback import served
from lab.until import until
from streamspace_agent.clock import BoottimeClock
from streamspace_agent.runtime import ReadyCheck, Session, SessionState
from streamspace_agent.tunnel.multiplexer import Multiplexer
from streamspace_agent.tunnel.repaired.tunnels import RepairedTunnels
from tests.core.vnc import GREETING

HELLO = GREETING + b"\x01\x01"


class ControlPlane:
    """What the tunnels have said, in order; pongs come when `pong` is called."""

    def __init__(self):
        self.said = []
        self.of = collections.defaultdict(list)
        """The same by session."""
        self.pings = []
        self.prompt = False
        """Pongs come by themselves."""
        self.room = asyncio.Event()
        """Set while sends return at once; a socket that is full has taken the frame all the same."""
        self.room.set()
        self.serving = None
        """The tunnels' task; done when they want a new connection."""
        self.words_wait = False
        """Words about tunnels wait for room too, not only data."""

    async def send(self, kind, payload):
        self._hear(kind, payload["sessionId"], payload)
        if self.words_wait:
            await self.room.wait()

    async def send_text(self, frame):
        message = json.loads(frame)
        self._hear(message["type"], message["payload"]["sessionId"], pybase64.b64decode(message["payload"]["data"]))
        await self.room.wait()

    def _hear(self, kind, session_id, what):
        self.said.append((kind, what))
        self.of[session_id].append((kind, what))

    async def ping(self):
        self.pings.append(asyncio.get_running_loop().create_future())
        if self.prompt:
            asyncio.get_running_loop().call_later(0.001, self.pong)
        return self.pings[-1]

    def pong(self):
        for ping in self.pings:
            if not ping.done():
                ping.set_result(0.001)

    @property
    def greetings(self):
        return self.said.count(("vnc_data", GREETING))

    def stream(self, session_id="s1"):
        """What a viewer of it has been sent."""
        return b"".join(what for kind, what in self.of[session_id] if kind == "vnc_data")

    @property
    def kinds(self):
        return [kind for kind, _ in self.said]


@asynccontextmanager
async def linked(tunnels):
    """One connection to the control plane."""
    there = ControlPlane()
    there.serving = serving = asyncio.create_task(tunnels.serve(there))
    try:
        yield there
    finally:
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving


class Way:
    """How the tunnels reach a session's server; a test may put another `connect` in its place."""

    def __init__(self, connect):
        self.connect = connect
        self.made = []
        """The streams of each connection."""

    async def __call__(self, session_id, port):
        self.made.append(await self.connect(session_id, port))
        return self.made[-1]


class ShiftedClock(BoottimeClock):
    """Goes `ahead` of the real one as a test says."""

    ahead = 0.0

    def now(self):
        return super().now() + self.ahead


@asynccontextmanager
async def tunnelling(connect, kind=RepairedTunnels):
    """Tunnels to whatever `connect` gives; while `flushed` is clear, what was reported of a session has not arrived."""
    flushed = asyncio.Event()
    flushed.set()
    clock, way = ShiftedClock(), Way(connect)
    multiplexer = Multiplexer(lambda: None, flushed.wait, clock)
    tunnels = kind(way, multiplexer, clock)
    tunnels.flushed, tunnels.way, tunnels.multiplexer, tunnels.clock = flushed, way, multiplexer, clock
    yield tunnels
    await tunnels.aclose()


REQUESTED = b"GET / HTTP/1.1\r\n\r\n"


@asynccontextmanager
async def greeted(tunnels, *, prompt=False):
    """A session that was started, whose greeting has been told."""
    tunnels.note(session(), fresh=True)
    async with linked(tunnels) as there:
        there.prompt = prompt
        await until(lambda: there.greetings == 1)
        yield there


@asynccontextmanager
async def over_http(tunnels, talk, *, fresh=True, prompt=True, reached=None):
    """A session whose server, `talk`, waits for its client; it can be connected to once `reached` is set."""
    async with served(talk) as port:

        async def connect(session_id, _port):
            if reached:
                await reached.wait()
            return await asyncio.open_connection("127.0.0.1", port)

        tunnels.way.connect = connect
        tunnels.note(session(ready_check=ReadyCheck.HTTP), fresh=fresh)
        async with linked(tunnels) as there:
            there.prompt = prompt
            yield there


def session(state=SessionState.RUNNING, session_id="s1", ready_check=ReadyCheck.VNC):
    return Session(session_id, state, "here", port=5900, ready=True, ready_check=ready_check)


def says(data, session_id="s1"):
    return {"sessionId": session_id, "data": pybase64.b64encode_as_string(data)}


LEFT = {"sessionId": "s1", "reason": "it left"}


async def settle():
    await asyncio.sleep(0.25)
