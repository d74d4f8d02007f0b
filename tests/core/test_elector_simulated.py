"""The elector's decisions in virtual time: many replicas, one store, every fault that a store and a link can have."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from streamspace_agent.election import Grant, Guarantee, Timing, acquisition, candidate
from streamspace_agent.election.bounded_backend import BoundedBackend
from streamspace_agent.election.lease import Ending, Lease
from streamspace_agent.election.status import Role
from streamspace_agent.election.takeover import RecordWatch
from streamspace_agent.errors import EXIT_LEADERSHIP
from tests.core.simulator import Overlap, World
from tests.core.virtual_time import run

REDIS = Timing(lease=5.0, renew_every=1.0, call_timeout=0.4, margin=0.5)
SWARM = Timing(lease=10.0, renew_every=2.5, call_timeout=2.0, margin=1.0)
STEADY = Timing(lease=30.0, renew_every=5.0, call_timeout=3.0, margin=1.0)
KERNEL = Timing(lease=None, renew_every=1.0, call_timeout=1.0, margin=0.0)
WORK = 0.45  # just under Redis's margin


def simulate(scenario, **options):
    """Run a scenario and hold it to the promise; whatever it returns is passed on."""

    async def main():
        world = World(**{"work": WORK, **options})
        result = await scenario(world)
        world.check()
        await world.close()
        return result

    return run(main())


async def settled(world, timing=REDIS, names="abc"):
    """Replicas of which one leads."""
    replicas = [world.add(name, timing) for name in names]
    while not world.leaders:
        await asyncio.sleep(0.1)
    leader = next(r for r in replicas if r.name == world.leaders[0])
    await asyncio.sleep(2 * timing.renew_every)
    return leader, [r for r in replicas if r is not leader]


async def next_leader(world, other_than, within=120.0):
    """How long until somebody else leads."""
    began = world.now
    while not [name for name in world.leaders if name != other_than]:
        await asyncio.sleep(0.005)
        assert world.now - began < within, "nobody took over"
    return world.now - began


def test_an_empty_store_is_watched_for_one_lease_before_anybody_leads():
    async def scenario(world):
        world.add("a", REDIS)
        await asyncio.sleep(5.0)
        early = list(world.leaders)
        await asyncio.sleep(0.2)
        return early, list(world.leaders)

    assert simulate(scenario) == ([], ["a"])


def test_a_store_that_ends_leases_by_itself_is_led_at_once():
    async def scenario(world):
        world.add("a", KERNEL)
        await asyncio.sleep(0.05)
        return world.leaders

    assert simulate(scenario, guarantees=frozenset({Guarantee.ENDS_BY_ITSELF})) == ["a"]


def test_fifty_candidates_give_one_leader():
    async def scenario(world):
        for number in range(50):
            world.add(f"r{number}", REDIS)
        await asyncio.sleep(8)
        return len(world.leaders), len([w for w in world.store.writes if w.startswith("acquire")])

    assert simulate(scenario) == (1, 1)


@pytest.mark.slow
def test_a_leader_that_renews_leads_for_ever():
    async def scenario(world):
        leader, _ = await settled(world)
        renewed_in_time = True
        for _ in range(1200):
            await asyncio.sleep(1)
            renewed_in_time &= leader.lease.fresh()
        return world.leaders == [leader.name], renewed_in_time

    assert simulate(scenario) == (True, True)


def test_a_released_lease_is_taken_at_once_with_a_higher_epoch():
    async def scenario(world):
        leader, _ = await settled(world)
        epoch = leader.lease.epoch
        leader.hold_off = 30.0
        leader.ask_to_resign()
        took = await next_leader(world, leader.name)
        return took, world.store.record.epoch > epoch

    took, rose = simulate(scenario)
    assert took < 0.1
    assert rose


def test_one_who_resigns_with_a_hold_off_lets_the_others_first():
    async def scenario(world):
        leader, others = await settled(world, names="ab")
        others[0].link.cut = True
        leader.hold_off = 20.0
        leader.ask_to_resign()
        await asyncio.sleep(19)
        before = list(world.leaders)
        await asyncio.sleep(2)
        return before, world.leaders == [leader.name]

    assert simulate(scenario) == ([], True)


def test_a_hold_off_ends_when_another_one_has_led():
    async def scenario(world):
        leader, others = await settled(world, names="ab")
        leader.hold_off = 600.0
        leader.ask_to_resign()
        await next_leader(world, leader.name)
        await asyncio.sleep(3)
        others[0].kill()
        return await next_leader(world, others[0].name)

    assert simulate(scenario) < 5.6


def test_a_hold_off_until_it_expires_lasts_whoever_has_led_meanwhile():
    """Replicas that fail alike at once after they were elected do not chase each other."""

    async def scenario(world):
        leader, others = await settled(world, names="ab")
        leader.hold_off, leader.until_expired = 60.0, True
        leader.ask_to_resign()
        await next_leader(world, leader.name)
        await asyncio.sleep(3)
        others[0].kill()
        return await next_leader(world, others[0].name)

    assert 50 < simulate(scenario) < 60


@pytest.mark.parametrize(("timing", "limit"), [(REDIS, 5.5), (SWARM, 10.9)], ids=["redis", "swarm"])
def test_a_killed_leader_is_followed_after_its_lease_and_no_more_than_a_look(timing, limit):
    async def scenario(world):
        leader, _ = await settled(world, timing)
        leader.kill()
        return await next_leader(world, leader.name)

    took = simulate(scenario)
    assert timing.lease - timing.renew_every <= took <= limit


def test_a_certified_death_needs_no_waiting():
    async def scenario(world):
        leader, _ = await settled(world)
        leader.kill()
        world.store.dead.add(leader.name)
        return await next_leader(world, leader.name)

    assert simulate(scenario, guarantees=frozenset({Guarantee.CERTIFIES_DEATH})) < 0.3


def test_a_backend_that_does_not_declare_certificates_is_not_asked_for_one():
    async def scenario(world):
        leader, _ = await settled(world)
        leader.kill()
        world.store.dead.add(leader.name)
        return await next_leader(world, leader.name)

    assert simulate(scenario) > 3


def test_a_leader_cut_off_from_the_store_stops_before_the_next_one_starts():
    async def scenario(world):
        leader, _ = await settled(world)
        leader.link.cut = True
        await next_leader(world, leader.name)
        return leader.reasons, leader.candidate.status().lost[Ending.RAN_OUT], leader.exits

    reasons, ran_out, exits = simulate(scenario)
    assert len(reasons) == ran_out == 1
    assert "no renewal was confirmed" in reasons[0]
    assert exits == []


@pytest.mark.parametrize(("rate", "other"), [(0.99, 1.01), (1.01, 0.99)])
def test_clocks_that_run_apart_by_two_percent_keep_the_promise(rate, other):
    async def scenario(world):
        leader = world.add("a", SWARM, rate=rate)
        while not world.leaders:
            await asyncio.sleep(0.1)
        world.add("b", SWARM, rate=other)
        await asyncio.sleep(7)
        leader.link.cut = True
        await next_leader(world, "a")

    simulate(scenario, work=0.95)


def test_wall_clocks_an_hour_apart_move_no_deadline_and_keep_epochs_rising():
    async def scenario(world):
        ahead = world.add("ahead", REDIS, wall=3600)
        await asyncio.sleep(6)
        world.add("behind", REDIS, wall=-3600)
        await asyncio.sleep(2)
        ahead.kill()
        return await next_leader(world, "ahead")

    assert 4 <= simulate(scenario) <= 5.5


def test_a_candidate_waits_out_the_holders_lease_not_its_own():
    async def scenario(world):
        leader = world.add("long", STEADY)
        await asyncio.sleep(32)
        assert world.leaders == ["long"]
        world.add("short", REDIS)
        await asyncio.sleep(10)
        leader.link.cut = True
        return await next_leader(world, "long")

    assert simulate(scenario) > 24


def test_an_empty_store_is_watched_for_the_longest_lease_ever_seen_in_it():
    async def scenario(world):
        leader = world.add("long", STEADY)
        await asyncio.sleep(32)
        world.add("short", REDIS)
        await asyncio.sleep(4)
        leader.link.cut = True
        world.store.wipe()
        return await next_leader(world, "long")

    assert simulate(scenario) > 30


def test_a_store_down_for_less_than_a_lease_changes_nothing():
    async def scenario(world):
        leader, others = await settled(world)
        for replica in [leader, *others]:
            replica.link.refuse = True
        await asyncio.sleep(3.0)
        for replica in [leader, *others]:
            replica.link.refuse = False
        await asyncio.sleep(10)
        return world.leaders == [leader.name], len(world.acts)

    assert simulate(scenario) == (True, 1)


def test_a_store_down_for_longer_ends_the_lease_and_one_leads_again_when_it_is_back():
    async def scenario(world):
        leader, others = await settled(world)
        for replica in [leader, *others]:
            replica.link.refuse = True
        await asyncio.sleep(60)
        led, error = list(world.leaders), leader.candidate.status().store_error
        for replica in [leader, *others]:
            replica.link.refuse = False
        await asyncio.sleep(7)
        return led, error, len(world.leaders), leader.candidate.status().store_error

    assert simulate(scenario) == ([], "connection refused", 1, "")


def test_a_slow_store_costs_nobody_the_lease():
    async def scenario(world):
        leader, others = await settled(world)
        for replica in [leader, *others]:
            replica.link.request = replica.link.reply = 0.15
        await asyncio.sleep(60)
        return world.leaders == [leader.name], len(world.acts)

    assert simulate(scenario) == (True, 1)


def test_renewals_that_arrive_without_an_answer_do_not_prolong_the_lease_here():
    async def scenario(world):
        leader, _ = await settled(world)
        cut_at, leader.link.lose_replies = world.now, True
        while leader.lease and leader.lease.valid():
            await asyncio.sleep(0.01)
        return world.now - cut_at

    assert simulate(scenario) <= 4.5


def test_a_lost_answer_to_an_acquisition_is_cleared_up_by_the_same_replica():
    async def scenario(world):
        one = world.add("a", REDIS)
        real = one.backend.acquire

        async def lost(me, seen):
            one.backend.acquire = real
            await real(me, seen)
            await asyncio.Event().wait()

        one.backend.acquire = lost
        await asyncio.sleep(6)
        return world.leaders, [w.split()[0] for w in world.store.writes[:3]]

    # A renewal before it acts: the others count from the first write.
    assert simulate(scenario) == (["a"], ["acquire", "acquire", "renew"])


@pytest.mark.parametrize("loss", ["wipe", "stale"])
def test_a_store_that_forgets_the_leader_never_makes_two(loss):
    async def scenario(world):
        leader, _ = await settled(world)
        old = world.store.record
        await asyncio.sleep(3)
        epoch = leader.lease.epoch
        if loss == "wipe":
            world.store.wipe()
        else:
            world.store.run += 1
            world.store.put(replace(old, epoch=old.epoch - 5, revision="2"), "failover")
        await asyncio.sleep(13)
        return len(world.leaders), world.store.record.epoch > epoch

    assert simulate(scenario) == (1, True)


def test_a_standby_that_loses_the_store_changes_nothing():
    async def scenario(world):
        leader, others = await settled(world)
        others[0].link.cut = True
        await asyncio.sleep(60)
        others[0].link.cut = False
        await asyncio.sleep(10)
        return world.leaders == [leader.name], len(world.acts)

    assert simulate(scenario) == (True, 1)


def test_a_main_loop_blocked_for_three_seconds_keeps_a_lease_of_five():
    async def scenario(world):
        leader, _ = await settled(world)
        leader.blocked = True
        await asyncio.sleep(3)
        leader.blocked = False
        await asyncio.sleep(10)
        return world.leaders == [leader.name], leader.exits

    assert simulate(scenario) == (True, [])


@pytest.mark.parametrize("timing", [REDIS, SWARM, STEADY, KERNEL], ids=["redis", "swarm", "steady", "kernel"])
def test_a_main_loop_blocked_for_thirty_seconds_loses_and_the_process_exits(timing):
    async def scenario(world):
        leader, _ = await settled(world, timing, names="a")
        leader.blocked = True
        await asyncio.sleep(30)
        return leader.exits

    assert simulate(scenario) == [EXIT_LEADERSHIP]


def test_work_that_does_not_stop_within_the_grace_ends_the_process():
    async def scenario(world):
        leader, _ = await settled(world)
        world.work = 30.0
        leader.link.cut = True
        began = world.now
        while not leader.exits:
            await asyncio.sleep(0.05)
        world.work = 0.0
        return world.now - began, leader.exits

    took, exits = simulate(scenario)
    assert exits == [EXIT_LEADERSHIP]
    assert took < REDIS.lease  # gone before another one may start


def test_a_replica_whose_release_was_lost_may_lead_again_without_waiting():
    async def scenario(world):
        leader, _ = await settled(world, names="a")
        first = leader.lease.epoch
        leader.link.refuse = True
        leader.ask_to_resign()
        await asyncio.sleep(1.5)
        leader.link.refuse = False
        await asyncio.sleep(1.5)
        return world.leaders, leader.lease.epoch > first, leader.candidate.status().gained["own"]

    assert simulate(scenario) == (["a"], True, 1)


def test_standbys_ask_the_store_a_few_times_a_second_at_most():
    async def scenario(world):
        _, others = await settled(world)
        before = others[0].link.calls
        await asyncio.sleep(60)
        return (others[0].link.calls - before) / 60

    assert simulate(scenario) < 10


def test_a_store_that_refuses_every_call_is_not_hammered():
    async def scenario(world):
        one = world.add("a", REDIS)
        one.link.refuse = True
        await asyncio.sleep(60)
        return one.link.calls

    assert simulate(scenario) < 100


def test_the_status_tells_who_leads_and_why():
    async def scenario(world):
        leader, others = await settled(world, names="ab")
        return leader.name, leader.candidate.status(), others[0].candidate.status(), leader.lease.epoch

    name, mine, theirs, epoch = simulate(scenario)
    assert (mine.role, mine.leader, mine.epoch) == (Role.LEADER, name, epoch)
    assert (theirs.role, theirs.leader, theirs.epoch) == (Role.STANDBY, name, epoch)
    assert mine.gained["no_record"] == 1
    assert mine.seconds_as_leader > 1
    assert theirs.leader_silence <= 1.1


NEMESIS = st.lists(
    st.tuples(
        st.floats(0.05, 9.0),
        st.integers(0, 2),
        st.sampled_from(["cut", "lose", "slow", "crawl", "refuse", "block", "kill", "resign", "wipe", "heal"]),
    ),
    max_size=14,
)


async def harass(world, attacks, timing=REDIS):
    rates = [0.99, 1.0, 1.01]
    # After the loss of the store and of everybody who remembers it, epochs rise only as well as the wall clocks agree.
    error = 0 if any(what == "wipe" for _, _, what in attacks) else 3600
    replicas = [world.add(str(i), timing, rate=rates[i], wall=(i - 1) * error) for i in range(3)]
    await asyncio.sleep(5.4)
    for pause, who, what in attacks:
        replica = replicas[who]
        if not replica.alive:
            replicas[who] = replica = world.add(str(who), timing, rate=rates[who], wall=(who - 1) * error)
        if what == "cut":
            replica.link.cut = True
        elif what == "lose":
            replica.link.lose_replies = True
        elif what in {"slow", "crawl"}:
            replica.link.request, replica.link.reply = (0.15, 0.1) if what == "slow" else (1.4, 1.6)
        elif what == "refuse":
            replica.link.refuse = True
        elif what == "block":
            replica.blocked = True
        elif what == "kill":
            replica.kill()
        elif what == "resign":
            replica.ask_to_resign()
        elif what == "wipe" and world.store.run == 1:
            # Once: of a store emptied twice within one lease, nobody can tell that there was a leader in between.
            world.store.wipe()
        elif what == "heal":
            heal(replica)
        await asyncio.sleep(pause)
    for who, replica in enumerate(replicas):
        heal(replica)
        if not replica.alive:
            world.add(str(who), timing)
    await asyncio.sleep(25)
    assert len(world.leaders) == 1, "no single leader after everything was healed"


def heal(replica):
    if replica.alive:
        replica.link.cut = replica.link.lose_replies = replica.link.refuse = replica.blocked = False
        replica.link.request = replica.link.reply = 0.0005


@settings(max_examples=100, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(NEMESIS)
@pytest.mark.slow
def test_no_sequence_of_faults_makes_two_leaders_or_leaves_none_behind(attacks):
    simulate(lambda world: harass(world, attacks))


class Mutants:
    """Faults put into the core on purpose: the simulator has to see each."""

    @staticmethod
    def margin_dropped(patch):
        class Marginless(Lease):
            deadline = property(lambda lease: lease.renewed_at + REDIS.lease, lambda lease, meant: None)

        patch.setattr(acquisition, "Lease", Marginless)

    @staticmethod
    def counted_from_the_answer(patch):
        class Late(Lease):
            def __init__(self, grant, timing, asked_at, clock, **options):
                self.clock = clock
                super().__init__(grant, timing, clock.now(), clock, **options)

            def extend(self, grant, asked_at):
                return super().extend(grant, self.clock.now())

        patch.setattr(acquisition, "Lease", Late)

    @staticmethod
    def waiting_skipped(patch):
        patch.setattr(RecordWatch, "remaining", lambda watch, now: 0.0)

    @staticmethod
    def watch_counted_from_the_first_sight_of_the_holder(patch):
        class Impatient(RecordWatch):
            first_seen = 0.0

            def see(self, record, now):
                same = record is not None and record.same_tenure(self.record)
                changed = super().see(record, now)
                if changed and not same:
                    self.first_seen = now
                return changed

            def silence(self, now):
                return now - self.first_seen

        patch.setattr(acquisition, "RecordWatch", Impatient)

    @staticmethod
    def epoch_not_raised(patch):
        class Seventh(BoundedBackend):
            async def acquire(self, me, seen):
                answer = await super().acquire(me, seen)
                if isinstance(answer, Grant):
                    object.__setattr__(answer.record, "epoch", 7)
                return answer

        class Forgetful(acquisition.Acquisition):
            highest = property(lambda acquisition: 0, lambda acquisition, seen: None)

        patch.setattr(candidate, "BoundedBackend", Seventh)
        patch.setattr(candidate, "Acquisition", Forgetful)


async def tight(world):
    """A leader with a slow clock and slow answers is cut off right after a renewal; a candidate has a fast clock."""
    leader = world.add("a", REDIS, rate=0.99)
    while not world.leaders:
        await asyncio.sleep(0.1)
    lease = leader.lease
    leader.link.reply = 0.35
    other = world.add("b", REDIS, rate=1.01)
    await asyncio.sleep(9)
    renewed_at = lease.renewed_at
    while lease.valid() and lease.renewed_at == renewed_at:
        await asyncio.sleep(0.001)
    leader.link.cut = True
    await asyncio.sleep(12)
    other.kill()
    leader.link.cut = False
    await asyncio.sleep(8)
    return len(world.acts)


@pytest.mark.parametrize("mutant", [name for name in vars(Mutants) if not name.startswith("_")])
def test_the_simulator_sees_a_core_with_this_fault(mutant, monkeypatch):
    getattr(Mutants, mutant)(monkeypatch)
    with pytest.raises(Overlap):
        simulate(tight)


def test_what_betrays_the_mutants_is_harmless_to_the_core_as_it_is():
    assert simulate(tight) >= 3
