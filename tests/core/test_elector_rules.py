"""The elector's parts one by one: the lease's arithmetic, the watch, the watchdog, the identity."""

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamspace_agent.election import Grant, Record, Timing
from streamspace_agent.election.identity import Identity, container_id
from streamspace_agent.election.lease import Ending, Lease
from streamspace_agent.election.takeover import GainReason, RecordWatch
from streamspace_agent.election.watchdog import DEAD_AFTER, TICK, Watchdog
from streamspace_agent.errors import EXIT_LEADERSHIP, LeaseLost

TIMED = Timing(lease=5.0, renew_every=1.0, call_timeout=0.4, margin=0.5)
UNTIMED = Timing(lease=None, renew_every=1.0, call_timeout=1.0, margin=0.0)
ID = "0123456789abcdef" * 4


class HandClock:
    def __init__(self):
        self.time = 100.0

    def now(self):
        return self.time

    def wall_ms(self):
        return 1


def record(**changes):
    values = {"agent_id": "a", "holder": "h", "nonce": "n.1", "epoch": 9, "sequence": 1, "lease_ms": 5000}
    return Record(**(values | changes))


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
def lease(clock):
    return Lease(Grant(record()), TIMED, clock.now(), clock)


def test_a_lease_is_valid_for_99_percent_less_the_margin_counted_from_before_sending(clock):
    asked_at = clock.time
    clock.time += 0.3  # the answer's way
    lease = Lease(Grant(record()), TIMED, asked_at, clock)
    assert lease.deadline == pytest.approx(asked_at + 0.99 * 5.0 - 0.5)
    clock.time = lease.deadline - 0.001
    assert lease.valid()
    clock.time = lease.deadline
    assert not lease.valid()


def test_a_lease_is_fresh_for_half_its_length(clock, lease):
    clock.time += 2.49
    assert lease.fresh()
    clock.time += 0.02
    assert lease.valid()
    assert not lease.fresh()


def test_require_raises_once_the_lease_is_over(clock, lease):
    lease.require()
    clock.time += 10
    with pytest.raises(LeaseLost, match="epoch 9"):
        lease.require()


def test_a_renewal_counts_from_before_it_was_sent(clock, lease):
    clock.time += 1
    asked_at = clock.time
    clock.time += 0.4
    assert lease.extend(Grant(record(sequence=2)), asked_at)
    assert lease.deadline == pytest.approx(asked_at + 4.45)
    assert lease.record.sequence == 2


def test_a_renewal_that_is_confirmed_after_the_deadline_revives_nothing(clock, lease):
    asked_at = clock.time + 4.4
    clock.time += 4.46
    assert not lease.extend(Grant(record(sequence=2)), asked_at)
    assert not lease.valid()


def test_an_ended_lease_stays_ended_with_its_first_reason(clock, lease):
    assert lease.end(Ending.TAKEN, "first")
    assert not lease.end(Ending.RAN_OUT, "second")
    assert not lease.extend(Grant(record()), clock.time)
    assert (lease.valid(), lease.reason, lease.ending) == (False, "first", Ending.TAKEN)


def test_a_lease_without_a_clock_never_runs_out(clock):
    lease = Lease(Grant(record(lease_ms=0)), UNTIMED, clock.now(), clock)
    clock.time += 10**6
    assert lease.valid()
    assert lease.fresh()
    assert not lease.lapse()


async def test_the_end_is_told_to_every_waiter_and_cancelling_one_ends_nothing(lease):
    waiters = [asyncio.create_task(lease.ended()) for _ in range(3)]
    await asyncio.sleep(0.01)
    waiters[0].cancel()
    await asyncio.wait([waiters[0]])
    assert lease.valid()
    await asyncio.to_thread(lease.end, Ending.TAKEN, "by another")
    assert await asyncio.gather(*waiters[1:]) == ["by another"] * 2


async def test_the_end_is_told_at_the_deadline_even_if_the_elector_is_stuck(clock, lease):
    waiter = asyncio.create_task(lease.ended())
    await asyncio.sleep(0.01)
    clock.time += 4.5
    assert "no renewal was confirmed for" in await asyncio.wait_for(waiter, 5)
    assert lease.ending is Ending.RAN_OUT


def test_a_record_is_watched_from_the_moment_that_its_last_change_was_seen():
    watch = RecordWatch("me.", 5.0)
    watch.see(record(sequence=1), 100.0)
    watch.see(record(sequence=2), 104.0)
    watch.see(record(sequence=2), 106.0)
    assert watch.free_because(109.04) is None
    assert watch.free_because(109.06) is GainReason.RAN_OUT


@pytest.mark.parametrize(
    "change", [{"sequence": 2}, {"sequence": 0}, {"epoch": 10}, {"nonce": "o.1"}, {"revision": "2"}, {"lease_ms": 5001}]
)
def test_any_change_of_the_record_starts_the_watch_anew(change):
    watch = RecordWatch("me.", 5.0)
    watch.see(record(), 100.0)
    assert watch.see(record(**change), 104.9)
    assert watch.free_because(105.2) is None


@given(st.lists(st.tuples(st.floats(0.01, 4.0), st.booleans()), min_size=1, max_size=30))
def test_a_record_is_never_free_before_a_whole_lease_after_its_last_change(steps):
    watch, now, sequence, changed_at = RecordWatch("me.", 5.0), 0.0, 1, 0.0
    watch.see(record(sequence=sequence), now)
    for pause, renewed in steps:
        now += pause
        if renewed:
            sequence, changed_at = sequence + 1, now
        watch.see(record(sequence=sequence), now)
        assert (watch.free_because(now) is GainReason.RAN_OUT) == (now - changed_at >= 5.05)


def test_before_the_first_look_nothing_is_free():
    assert RecordWatch("me.", 5.0).free_because(math.inf) is None
    assert RecordWatch("me.", None).free_because(math.inf) is None


def test_only_a_proof_of_death_counts_not_a_proof_of_life_or_none():
    watch = RecordWatch("me.", 5.0)
    watch.see(record(), 100.0)
    assert [watch.free_because(100.0, dead=dead) for dead in (None, False, True)] == [
        None,
        None,
        GainReason.CERTIFIED_DEATH,
    ]


def test_a_released_record_and_ones_own_are_free_at_once():
    watch = RecordWatch("me.", 5.0)
    watch.see(record(released=True), 100.0)
    assert watch.free_because(100.0) is GainReason.RELEASED
    watch.see(record(nonce="me.3"), 100.0)
    assert watch.free_because(100.0) is GainReason.OWN
    watch.see(record(nonce="mean.3"), 100.0)
    assert watch.free_because(100.0) is None


def test_a_record_that_names_no_lease_is_watched_for_our_own():
    watch = RecordWatch("me.", 5.0)
    watch.see(record(lease_ms=0), 100.0)
    assert watch.free_because(105.0) is None
    assert watch.free_because(105.1) is GainReason.RAN_OUT


@pytest.fixture
def exits():
    return []


def watched(clock, exits, lease, grace=0.5, length=5.0):
    watchdog = Watchdog(clock, length, grace, exits.append)
    watchdog.watch(lease)
    return watchdog


def test_the_guard_ends_the_process_only_after_the_grace_and_only_once(clock, exits, lease):
    watchdog = watched(clock, exits, lease)
    lease.end(Ending.TAKEN, "gone")
    assert watchdog.check() == pytest.approx(TICK)
    clock.time += 0.49
    watchdog.check()
    assert exits == []
    clock.time += 0.02
    watchdog.check()
    watchdog.check()
    assert exits == [EXIT_LEADERSHIP]


def test_the_guard_lets_a_process_live_whose_work_has_stopped(clock, exits, lease):
    watchdog = watched(clock, exits, lease)
    lease.end(Ending.TAKEN, "gone")
    watchdog.dismiss(lease)
    clock.time += 10
    assert watchdog.check() is None
    assert exits == []


def test_after_a_suspend_the_lease_is_invalid_at_once_and_the_grace_begins_then(clock, exits, lease):
    watchdog = watched(clock, exits, lease)
    clock.time += 3600
    assert not lease.valid()
    watchdog.check()
    assert exits == []
    clock.time += 0.51
    watchdog.check()
    assert exits == [EXIT_LEADERSHIP]


def test_a_silent_main_loop_stops_renewals_after_half_a_lease_and_a_beat_resumes_them(clock, exits, lease):
    watchdog = watched(clock, exits, lease)
    for _ in range(9):
        clock.time += TICK
        watchdog.check()
    assert not watchdog.silent
    clock.time += TICK
    watchdog.check()
    assert watchdog.silent
    watchdog.beat()
    watchdog.check()
    assert not watchdog.silent


def test_time_in_which_the_whole_process_stood_still_is_not_held_against_the_main_loop(clock, exits):
    lease = Lease(Grant(record()), UNTIMED, clock.now(), clock)
    watchdog = watched(clock, exits, lease, length=None)
    clock.time += 3600  # SIGSTOP: nobody else can have got a kernel lock meanwhile
    watchdog.check()
    assert lease.valid()
    assert watchdog.silence <= 2 * TICK


def test_a_dead_main_loop_ends_even_a_lease_without_a_clock(clock, exits):
    lease = Lease(Grant(record()), UNTIMED, clock.now(), clock)
    watchdog = watched(clock, exits, lease, length=None)
    for _ in range(int(DEAD_AFTER / TICK)):
        assert exits == []
        clock.time += TICK
        watchdog.check()
    assert lease.ending is Ending.MAIN_LOOP_DEAD
    clock.time += 0.5
    watchdog.check()
    assert exits == [EXIT_LEADERSHIP]


def test_replicas_with_one_hostname_have_different_names():
    assert len({Identity.discover("a").instance for _ in range(20)}) == 20


def test_the_nonce_is_new_for_every_start():
    assert Identity.discover("a").nonce != Identity.discover("a").nonce


MOUNTS = "22 1 0:21 / /proc rw - proc proc rw\n"


@pytest.mark.parametrize(
    ("mountinfo", "cgroup", "expected"),
    [
        (f"{MOUNTS}9 1 8:1 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw - ext4 /dev/a rw\n", "0::/\n", ID),
        (f"9 1 0:5 /containers/overlay-containers/{ID}/userdata/hosts /etc/hosts rw - tmpfs t rw\n", "0::/\n", ID),
        (MOUNTS, f"12:pids:/docker/{ID}\n", ID),
        (MOUNTS, f"0::/system.slice/docker-{ID}.scope\n", ID),
        (f"9 1 0:5 / /var/lib/docker/containers/{ID}/mounts/shm rw - tmpfs shm rw\n", "0::/init.scope\n", ""),
        ("", "", ""),
    ],
    ids=["docker", "podman", "cgroup v1", "cgroup v2 on the host's namespace", "the host itself", "no table"],
)
def test_a_container_is_known_by_the_kernels_tables_and_a_host_is_not_mistaken_for_one(
    tmp_path, mountinfo, cgroup, expected
):
    (tmp_path / "mountinfo").write_text(mountinfo)
    (tmp_path / "cgroup").write_text(cgroup)
    assert container_id(tmp_path) == expected


def test_a_host_without_proc_has_no_container(tmp_path):
    assert container_id(tmp_path / "none") == ""
