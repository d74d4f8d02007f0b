"""For how long nobody has used a session: by its viewers, a gateway, or its network."""

import weakref
from dataclasses import replace

import pytest

from streamspace_agent.gateway import GatewayStatus
from streamspace_agent.runtime import ReadyCheck, Session, SessionState
from streamspace_agent.sessions.idle import LOOK_EVERY, QUIET, Idle

WEB = Session("web", SessionState.RUNNING, "w", ready=True, ready_check=ReadyCheck.HTTP, port=3000, idle_timeout=600)
VNC = replace(WEB, session_id="vnc", ready_check=ReadyCheck.VNC)


class FakeGateway:
    def __init__(self, **addresses):
        self.addresses = addresses

    def status(self):
        return GatewayStatus(self.addresses)


class Clock:
    def __init__(self, case):
        self.case = case

    def now(self):
        return self.case.now

    def wall_ms(self):
        return 0


class Case:
    def __init__(self, gateway=None):
        self.now = 0.0
        self.clock = Clock(self)
        self.viewers = {"web": 10_000.0, "vnc": 10_000.0}
        self.sessions = {"web": WEB, "vnc": VNC}
        self.received = {"web": 0, "vnc": 0}
        self.idle = Idle(self.sessions, self.viewers.__getitem__, self._count, self.clock, gateway)

    async def _count(self, session_id):
        value = self.received[session_id]
        if isinstance(value, Exception):
            raise value
        return value

    async def looks(self, times, bytes_between=0):
        for _ in range(times):
            await self.idle.look()
            self.now += LOOK_EVERY
            if self.received["web"] is not None and not isinstance(self.received["web"], Exception):
                self.received["web"] += bytes_between


async def test_a_vnc_session_is_judged_by_its_viewers_alone():
    case = Case()
    await case.looks(3, 10**6)
    assert case.idle.idle_for("vnc") == 10_000
    case.viewers["vnc"] = 3.0
    assert case.idle.idle_for("vnc") == 3.0


async def test_a_web_session_begins_as_just_used_and_is_idle_from_then_on_where_nothing_comes_in():
    case = Case()
    assert case.idle.idle_for("web") == 0
    await case.looks(21, QUIET)
    assert case.idle.idle_for("web") == pytest.approx(20 * LOOK_EVERY)


async def test_the_time_since_the_last_look_at_the_network_does_not_count():
    case = Case()
    await case.looks(3)
    case.now += 5000
    assert case.idle.idle_for("web") == 2 * LOOK_EVERY


async def test_a_web_session_is_used_as_long_as_something_comes_in_that_no_gateway_sees():
    case = Case()
    await case.looks(20, QUIET + 1)
    assert case.idle.idle_for("web") <= LOOK_EVERY
    await case.looks(20, 0)
    assert case.idle.idle_for("web") == 19 * LOOK_EVERY


@pytest.mark.parametrize("count", [None, OSError("the engine is away")])
async def test_a_web_session_of_which_nothing_can_be_told_is_never_idle(count):
    case = Case()
    case.received["web"] = count
    assert case.idle.idle_for("web") == 0  # counted from here
    await case.looks(100)
    assert case.idle.idle_for("web") <= LOOK_EVERY


async def test_a_counter_that_began_anew_is_no_sign_of_rest():
    case = Case()
    case.received["web"] = 10**9
    await case.looks(2)
    case.received["web"] = 0
    await case.looks(1)
    assert case.idle.idle_for("web") <= LOOK_EVERY


async def test_with_a_gateway_only_what_it_sees_a_person_do_counts():
    case = Case(FakeGateway(a=""))
    await case.looks(20, 10**9)
    assert case.idle.idle_for("web") == 0  # first asked now
    case.now += 500
    assert case.idle.idle_for("web") == 500
    case.idle.saw_input("web")
    case.now += 5
    assert case.idle.idle_for("web") == 5


async def test_a_viewer_through_the_control_planes_link_counts_beside_the_gateway():
    case = Case(FakeGateway(a=""))
    case.idle.idle_for("web")
    case.now += 500
    case.viewers["web"] = 2.0
    assert case.idle.idle_for("web") == 2.0


@pytest.mark.parametrize("addresses", [{"a": "", "b": "address already in use"}, {}], ids=["at one address", "at all"])
async def test_nobody_is_idle_while_the_gateway_cannot_listen(addresses):
    case = Case(FakeGateway(**addresses))
    assert case.idle.idle_for("web") == 0  # counted from here
    await case.looks(50)
    assert case.idle.idle_for("web") <= LOOK_EVERY


async def test_a_session_that_slept_begins_again_as_just_used():
    case = Case(FakeGateway(a=""))
    case.idle.saw_input("web")
    case.sessions["web"] = replace(WEB, state=SessionState.HIBERNATED)
    case.now += 5000
    await case.idle.look()
    case.sessions["web"] = WEB
    assert case.idle.idle_for("web") == 0


class Id(str):
    """A session's id that shows whether anything still refers to it."""

    __slots__ = ("__weakref__",)


@pytest.mark.parametrize("idle_timeout", [0.0, 600.0], ids=["never asked for", "counted"])
async def test_what_was_noted_of_sessions_is_forgotten_with_them(idle_timeout):
    case, session_id = Case(), Id("s1")
    kept = weakref.ref(session_id)
    case.received[session_id] = 0
    case.sessions[session_id] = replace(WEB, session_id=session_id, idle_timeout=idle_timeout)
    await case.looks(2)
    del case.sessions[session_id], case.received[session_id], session_id
    assert kept() == "s1"
    await case.idle.look()
    assert kept() is None
