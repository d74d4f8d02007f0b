"""Election backends with one fault each, and the standard test that must name it."""

import asyncio
import contextlib
import time
from dataclasses import replace

from streamspace_agent.election import Grant, Held, Record
from streamspace_agent.errors import BackendUnavailable, LeaseLost
from streamspace_agent.testing.memory import MemoryBackend


class RenewsWhatItLost(MemoryBackend):
    async def renew(self, grant):
        with contextlib.suppress(LeaseLost):
            return await super().renew(grant)
        return grant


class WritesOverTheNextHolder(MemoryBackend):
    async def renew(self, grant):
        await self.send()
        self.store.put(record := replace(grant.record, sequence=grant.record.sequence + 1), "renew")
        return Grant(record)


class OverwritesAHolder(MemoryBackend):
    async def acquire(self, me, seen):
        return await super().acquire(me, self.store.record)


class HasTwoWinners(MemoryBackend):
    async def acquire(self, me, seen):
        await self.send()
        if self.store.record != seen:
            return Held(self.store.record)
        await asyncio.sleep(0.01)  # it looks, and then it writes
        epoch = max(seen.epoch if seen else 0, me.epoch_floor) + 1
        record = Record(me.agent_id, me.instance, me.nonce, epoch, 1, round(me.lease * 1000))
        self.store.put(record, "acquire")
        return Grant(record)


class NeverExpires(MemoryBackend):
    async def acquire(self, me, seen):
        if seen and not seen.released and seen.nonce != me.nonce:
            return Held(seen)
        return await super().acquire(me, seen)


class ForgetsTheEpoch(MemoryBackend):
    """Counts from the candidate's floor alone."""

    async def acquire(self, me, seen):
        self.store.record = there = self.store.record and replace(self.store.record, epoch=0)
        return await super().acquire(me, seen and there and replace(seen, epoch=0))


class ReusesEpochsOfALostStore(MemoryBackend):
    """Counts from what is stored alone."""

    async def acquire(self, me, seen):
        return await super().acquire(replace(me, epoch_floor=0), seen)


class ForgetsItsOwnNonce(MemoryBackend):
    async def acquire(self, me, seen):
        there = self.store.record
        return (
            Held(there) if there and there.nonce == me.nonce and not there.released else await super().acquire(me, seen)
        )


class ReleasesAnothersLease(MemoryBackend):
    async def release(self, grant):
        await self.send()
        self.store.put(replace(self.store.record, released=True), "release")


class DropsTheRecordAtARelease(MemoryBackend):
    async def release(self, grant):
        await self.send()
        if self.ours(grant):
            self.store.put(None, "release")


class ReleasesWhenClosed(MemoryBackend):
    async def aclose(self):
        if self.store.record:
            self.store.put(replace(self.store.record, released=True), "release")


class SaysNoForCannotTell(MemoryBackend):
    async def renew(self, grant):
        try:
            return await super().renew(grant)
        except BackendUnavailable as error:
            raise LeaseLost(str(error)) from error


class SaysYesForCannotTell(MemoryBackend):
    async def renew(self, grant):
        try:
            return await super().renew(grant)
        except BackendUnavailable:
            return grant


class ShowsAnEmptyStoreInAnOutage(MemoryBackend):
    async def observe(self):
        with contextlib.suppress(BackendUnavailable):
            return await super().observe()


class RefusesInAnOutage(MemoryBackend):
    async def acquire(self, me, seen):
        try:
            return await super().acquire(me, seen)
        except BackendUnavailable:
            return Held(None)


class ConfirmsAReleaseThatWasNotMade(MemoryBackend):
    async def release(self, grant):
        with contextlib.suppress(BackendUnavailable):
            await super().release(grant)


class ShowsAnOldRecord(MemoryBackend):
    async def observe(self):
        self.cached = getattr(self, "cached", None) or await super().observe()
        return self.cached


class ChangesTheRecordByLooking(MemoryBackend):
    async def preflight(self):
        if self.store.record:
            self.store.put(replace(self.store.record, revision="touched"), "touch")
        return []


class CertifiesTheSilentDead(MemoryBackend):
    async def holder_is_dead(self, record):
        before, self.before = getattr(self, "before", None), record
        return record == before or None


class CertifiesTheUnknownDead(MemoryBackend):
    async def holder_is_dead(self, record):
        return record.holder == "elsewhere" or None


class WaitsForEver(MemoryBackend):
    async def wait_change(self, record, timeout):
        await asyncio.Event().wait()


class ReturnsFromWaitingAtOnce(MemoryBackend):
    async def wait_change(self, record, timeout):
        await self.send()


class BurnsTheProcessorInWaiting(MemoryBackend):
    async def wait_change(self, record, timeout):
        end = asyncio.get_running_loop().time() + timeout
        while self.store.record == record and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0)


class MissesAChangeBeforeTheWait(MemoryBackend):
    async def wait_change(self, record, timeout):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.store.changed.wait(), timeout)


class KeepsItsLockWhenCancelled(MemoryBackend):
    async def observe(self):
        while getattr(self, "locked", False):
            await asyncio.sleep(0.01)
        self.locked = True
        record = await super().observe()
        self.locked = False
        return record


class HasEpochsOf32Bits(MemoryBackend):
    """A column of the type INTEGER."""

    async def acquire(self, me, seen):
        if me.epoch_floor >= 2**31:
            raise BackendUnavailable("integer out of range")
        return await super().acquire(me, seen)


class CutsNamesTo12(MemoryBackend):
    length = 12

    async def acquire(self, me, seen):
        short = replace(me, instance=me.instance[: self.length], nonce=me.nonce[: self.length])
        return await super().acquire(short, seen)


class CutsNamesTo20(CutsNamesTo12):
    length = 20


class TakesUnderscoresForDashes(MemoryBackend):
    """A store whose names know no underscore."""

    @staticmethod
    def key(agent_id):
        return agent_id.replace("_", "-")


class IgnoresTheCaseOfAgents(MemoryBackend):
    key = staticmethod(str.lower)


class CutsAgentsTo64(MemoryBackend):
    @staticmethod
    def key(agent_id):
        return agent_id[:64]


class AnswersTooLate(MemoryBackend):
    async def send(self):
        await asyncio.sleep(1.5 * self.timing.call_timeout)
        await super().send()


class BlocksItsLoopTooLong(MemoryBackend):
    async def renew(self, grant):
        time.sleep(1.5 * self.timing.call_timeout)  # noqa: ASYNC251 - the fault
        return await super().renew(grant)


class BlocksItsLoopInAnOutage(MemoryBackend):
    async def observe(self):
        try:
            return await super().observe()
        except BackendUnavailable:
            time.sleep(1.5 * self.timing.call_timeout)  # noqa: ASYNC251 - the fault
            raise


class EndsLongAfterItsCancellation(MemoryBackend):
    """A client library that says goodbye to a silent server."""

    async def send(self):
        try:
            await super().send()
        except asyncio.CancelledError:
            await asyncio.sleep(10)
            raise


class RetriesBeyondItsCancellation(MemoryBackend):
    async def renew(self, grant):
        for _ in range(8):
            with contextlib.suppress(BackendUnavailable, TimeoutError, asyncio.CancelledError):
                return await asyncio.wait_for(super().renew(grant), 0.3)
        raise BackendUnavailable("tried in vain")


class TakesItsCancellationForAnOutage(MemoryBackend):
    async def renew(self, grant):
        try:
            return await super().renew(grant)
        except asyncio.CancelledError:
            raise BackendUnavailable("cancelled") from None


class SwallowsTheCancellationOfAWait(MemoryBackend):
    async def wait_change(self, record, timeout):
        with contextlib.suppress(asyncio.CancelledError):
            await super().wait_change(record, timeout)


class LooksBehindItsWaits(MemoryBackend):
    """One connection, taken in turns."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.connection = asyncio.Lock()

    async def observe(self):
        async with self.connection:
            return await super().observe()

    async def wait_change(self, record, timeout):
        async with self.connection:
            await super().wait_change(record, timeout)


class WaitsByBlocking(MemoryBackend):
    async def wait_change(self, record, timeout):
        end = time.monotonic() + timeout
        while self.store.record == record and time.monotonic() < end:
            time.sleep(0.02)  # noqa: ASYNC251 - the fault


class PollsThoughItSaysThatItPushes(MemoryBackend):
    async def wait_change(self, record, timeout):
        end = asyncio.get_running_loop().time() + timeout
        while await self.observe() == record and (left := end - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(min(0.5, left))


class ComparesTheEpochAlone(MemoryBackend):
    def ours(self, grant):
        there = self.store.record
        return there if there and not there.released and there.epoch == grant.record.epoch else None


class ComparesTheNonceAlone(MemoryBackend):
    def ours(self, grant):
        there = self.store.record
        return there if there and not there.released and there.nonce == grant.record.nonce else None


SILENT = {EndsLongAfterItsCancellation, RetriesBeyondItsCancellation, TakesItsCancellationForAnOutage}
"""Faults that only a silent store brings out, not one that refuses."""

SLOW = SILENT | {AnswersTooLate, PollsThoughItSaysThatItPushes}
"""Faults that take the suite more than a few seconds to be sure of."""

FAULTS = {
    RenewsWhatItLost: "test_what_another_took_is_neither_renewed_nor_released_by_the_one_before",
    WritesOverTheNextHolder: "test_what_another_took_is_neither_renewed_nor_released_by_the_one_before",
    OverwritesAHolder: "test_a_held_lease_is_not_given_to_one_who_saw_an_older_record",
    HasTwoWinners: "test_of_many_at_once_exactly_one_gets_it",
    NeverExpires: "test_a_lease_that_ran_out_is_given_to_one_who_saw_the_record_as_it_stands",
    ForgetsTheEpoch: "test_a_new_epoch_exceeds_the_stored_one_and_all_that_the_replica_has_ever_seen",
    ReusesEpochsOfALostStore: "test_a_new_epoch_exceeds_the_stored_one_and_all_that_the_replica_has_ever_seen",
    ForgetsItsOwnNonce: "test_the_same_nonce_asking_again_gets_its_own_lease",
    ReleasesAnothersLease: "test_what_another_took_is_neither_renewed_nor_released_by_the_one_before",
    DropsTheRecordAtARelease: "test_a_release_is_shown_as_released_and_frees_the_lease_for_a_higher_epoch",
    ReleasesWhenClosed: "test_closing_does_not_release",
    SaysNoForCannotTell: "test_a_renewal_in_an_outage_is_neither_yes_nor_no",
    SaysYesForCannotTell: "test_a_renewal_in_an_outage_is_neither_yes_nor_no",
    ShowsAnEmptyStoreInAnOutage: "test_a_look_in_an_outage_shows_nothing_old_and_nothing_empty",
    RefusesInAnOutage: "test_a_candidate_in_an_outage_gets_neither_the_lease_nor_a_refusal",
    ConfirmsAReleaseThatWasNotMade: "test_a_release_in_an_outage_is_not_confirmed_unless_it_was_made",
    ShowsAnOldRecord: "test_a_renewal_raises_the_sequence_and_nothing_else_of_the_tenure",
    ChangesTheRecordByLooking: "test_looking_changes_nothing",
    CertifiesTheSilentDead: "test_a_live_holder_is_never_certified_dead",
    CertifiesTheUnknownDead: "test_a_holder_that_nobody_knows_is_not_certified_dead",
    WaitsForEver: "test_a_waiter_returns_soon_after_a_release_and_by_its_timeout_without_one",
    ReturnsFromWaitingAtOnce: "test_waiting_is_no_busy_loop",
    BurnsTheProcessorInWaiting: "test_waiting_is_no_busy_loop",
    MissesAChangeBeforeTheWait: "test_waiting_for_a_change_that_came_before_is_short_where_the_store_pushes",
    KeepsItsLockWhenCancelled: "test_a_cancelled_step_leaves_the_backend_usable_and_is_completed_by_the_next",
    HasEpochsOf32Bits: "test_a_new_epoch_exceeds_the_stored_one_and_all_that_the_replica_has_ever_seen",
    CutsNamesTo12: "test_a_grant_carries_who_took_it_and_every_replica_sees_the_same",
    CutsNamesTo20: "test_a_grant_carries_who_took_it_and_every_replica_sees_the_same",
    TakesUnderscoresForDashes: "test_two_agents_have_a_lease_each",
    IgnoresTheCaseOfAgents: "test_two_agents_have_a_lease_each",
    CutsAgentsTo64: "test_two_agents_have_a_lease_each",
    AnswersTooLate: "test_every_call_is_answered_within_its_time",
    BlocksItsLoopTooLong: "test_every_call_is_answered_within_its_time",
    BlocksItsLoopInAnOutage: "test_a_call_in_an_outage_ends_with_its_time",
    EndsLongAfterItsCancellation: "test_a_call_in_an_outage_ends_with_its_time",
    RetriesBeyondItsCancellation: "test_a_call_in_an_outage_ends_with_its_time",
    TakesItsCancellationForAnOutage: "test_a_cancelled_call_in_an_outage_ends_at_once_and_as_cancelled",
    SwallowsTheCancellationOfAWait: "test_a_cancelled_wait_ends_at_once_and_as_cancelled",
    LooksBehindItsWaits: "test_a_look_does_not_wait_for_a_wait",
    WaitsByBlocking: "test_waiting_leaves_the_loop_free",
    PollsThoughItSaysThatItPushes: "test_a_waiter_is_woken_by_the_change_where_the_store_pushes",
    ComparesTheEpochAlone: "test_a_renewal_or_a_release_of_another_tenure_is_refused",
    ComparesTheNonceAlone: "test_a_renewal_or_a_release_of_another_tenure_is_refused",
}
