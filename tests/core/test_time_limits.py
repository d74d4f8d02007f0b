"""A session's time is over by what has really passed, whatever the wall clock said before or says now."""

from streamspace_agent.protocol import STOP
from streamspace_agent.runtime import Session, SessionState
from streamspace_agent.sessions.table import SessionTable
from streamspace_agent.sessions.time_limits import TimeLimits

HOUR = 3600.0
TODAY = 1_795_000_000.0
"""Unix time."""


class Clocks:
    """One that nobody sets, and a wall clock."""

    def __init__(self, wall=TODAY):
        self.passed, self.wall = 1000.0, wall

    def now(self):
        return self.passed

    def wall_ms(self):
        return round(self.wall * 1000)

    def go_on(self, seconds):
        self.passed += seconds
        self.wall += seconds


class Watched:
    """The time limits of one session that may last an hour."""

    def __init__(self, clocks, created_at, command_id="c"):
        self.sessions, self.given, self.clocks = SessionTable(), [], clocks
        self.start(created_at, command_id)
        self.time_limits = TimeLimits(self.sessions, lambda _id: 0.0, self._run, clocks)
        self.time_limits.look()

    def _run(self, action, payload, wanted):
        self.given.append(action)

    def start(self, created_at, command_id):
        self.sessions["s"] = Session(
            "s", SessionState.RUNNING, "", command_id=command_id, created_at=created_at, max_duration=HOUR
        )

    def after(self, seconds):
        self.clocks.go_on(seconds)
        self.time_limits.look()
        return self.given


def test_a_session_ends_when_its_time_is_over():
    watched = Watched(Clocks(), TODAY - HOUR / 2)
    assert watched.after(HOUR / 2 - 1) == []
    assert watched.after(2) == [STOP]


def test_a_clock_that_is_set_ends_no_session():
    clocks = Clocks(wall=TODAY - 10 * 365 * 86400)
    watched = Watched(clocks, clocks.wall)
    assert watched.after(60) == []
    clocks.wall = TODAY
    assert watched.after(60) == []
    assert watched.after(HOUR) == [STOP], "and none lives for ever"


def test_a_clock_that_is_set_back_costs_a_session_no_time():
    clocks = Clocks(wall=TODAY + 10 * 365 * 86400)
    watched = Watched(clocks, clocks.wall - 60)
    clocks.wall = TODAY
    assert watched.after(60) == []
    assert watched.after(HOUR) == [STOP], "and it does not last until that day comes"


def test_what_was_made_before_there_were_agents_was_made_by_a_clock_that_was_not_set():
    """By an earlier agent, perhaps in an earlier run of the host: its age is not known, and counts from now."""
    watched = Watched(Clocks(), 86400.0)
    assert watched.after(HOUR - 1) == []
    assert watched.after(2) == [STOP]


def test_a_new_start_of_a_session_has_its_whole_time():
    clocks = Clocks()
    watched = Watched(clocks, TODAY - HOUR + 10)
    clocks.go_on(5)
    watched.start(clocks.wall, "next")
    assert watched.after(60) == []
    assert watched.after(HOUR - 61) == []
    assert watched.after(2) == [STOP]
