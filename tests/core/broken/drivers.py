"""Runtime drivers with one fault each, and the standard test that must name it."""

import asyncio
import time
from dataclasses import replace

from streamspace_agent.errors import CommandFailed, LeaseLost, SessionNotFound
from streamspace_agent.runtime import Capabilities, EventKind, ReadyCheck, RuntimeEvent, SessionState
from streamspace_agent.testing.engine import MemoryDriver, MemoryEngine


class NeverAsksForLeave(MemoryDriver):
    leave = staticmethod(MemoryDriver.guard)

    @property
    def guard(self):
        return lambda: None

    @guard.setter
    def guard(self, leave):
        self.leave = leave


class AsksOnceAStart(NeverAsksForLeave):
    async def start(self, spec, report):
        await self.inspect(spec.session_id)
        self.leave()
        return await super().start(spec, report)


class StartsWithoutLooking(MemoryDriver):
    async def start(self, spec, report):
        made = await super().start(spec, report)
        self.engine.sessions[spec.session_id] = replace(made, created_at=made.created_at + len(self.effects))
        return self.engine.sessions[spec.session_id]


class KeepsSessionsToItself(MemoryDriver):
    def __init__(self, engine, **options):
        super().__init__(MemoryEngine(down=engine.down), **options)


class CannotCompleteWhatWasBegun(MemoryDriver):
    async def start(self, spec, report):
        found = await self.inspect(spec.session_id)
        if found and found.state is SessionState.PENDING:
            raise CommandFailed("exists", "the session exists already")
        return await super().start(spec, report)


class LeavesWhatAFailedStartMade(MemoryDriver):
    async def start(self, spec, report):
        try:
            return await super().start(spec, report)
        except CommandFailed:
            self.engine.volumes.add((spec.session_id, "home"))
            raise


class DeletesDataAtEveryStop(MemoryDriver):
    async def stop(self, session_id, *, delete_volumes=False):
        await super().stop(session_id, delete_volumes=True)


class TakesAbsenceForAnError(MemoryDriver):
    async def stop(self, session_id, *, delete_volumes=False):
        if await self.inspect(session_id) is None and not delete_volumes:
            raise SessionNotFound(session_id)
        await super().stop(session_id, delete_volumes=delete_volumes)


class DeclaresAModeThatItHasNot(MemoryDriver):
    """It stops where it was told to pause."""

    def __init__(self, engine, *, hibernate_mode="stop"):
        super().__init__(engine, hibernate_mode="stop")


class PullsInSilence(MemoryDriver):
    async def start(self, spec, report):
        self.engine.pulled.add(spec.image)
        return await super().start(spec, report)


class TellsItsOwnStops(MemoryDriver):
    async def stop(self, session_id, *, delete_volumes=False):
        self.engine.die(session_id, "stopped") if session_id in self.engine.sessions else None
        await super().stop(session_id, delete_volumes=delete_volumes)


class GivesNoReason(MemoryDriver):
    async def events(self):
        async for event in super().events():
            yield event if event.session is None else RuntimeEvent(event.kind, replace(event.session, reason=""))


class IsDownWithoutAWord(MemoryDriver):
    async def events(self):
        async for event in super().events():
            yield replace(event, reason="")


class BeginsWithoutAResync(MemoryDriver):
    async def events(self):
        async for event in super().events():
            yield RuntimeEvent(EventKind.ENGINE_DOWN) if event.kind is EventKind.RESYNC else event


class MixesStreamsUp(MemoryDriver):
    """All streams of a session are one."""

    streams = None

    async def connect(self, session_id, port):
        self.streams = self.streams or {}
        if session_id not in self.streams:
            self.streams[session_id] = await super().connect(session_id, port)
        await asyncio.sleep(0)
        return self.streams[session_id]


class FindsLeftoversInUse(MemoryDriver):
    async def leftovers(self, known):
        return await super().leftovers(frozenset())


class ForgetsTheLimits(MemoryDriver):
    async def sessions(self):
        return [replace(session, cpu=None, memory=None) for session in await super().sessions()]


class TakesAnAbsentEngineForAnEmptyOne(MemoryDriver):
    async def sessions(self):
        return [] if self.engine.down else await super().sessions()


class EndsSessionsWhenClosed(MemoryDriver):
    async def aclose(self):
        await super().aclose()
        self.engine.sessions.clear()


class WakesWhatItProves(MemoryDriver):
    """A session that has just ended would be woken where its end was to be told."""

    async def prove(self, session_id):
        return await self.wake(session_id, lambda step: None)


class ProvesWithoutTrying(MemoryDriver):
    async def prove(self, session_id):
        return replace(await self.inspect(session_id), ready=False)


class TellsWhatWasExpected(MemoryDriver):
    async def start(self, spec, report):
        made = replace(await super().start(spec, report), ready_check=spec.ready)
        self.engine.sessions[spec.session_id] = made
        return made


class TakesSilenceForVnc(MemoryDriver):
    """A driver that adopts guesses what it has not seen."""

    async def prove(self, session_id):
        return replace(await super().prove(session_id), ready=True, ready_check=ReadyCheck.VNC)


class FindsOutOnlyOnce(MemoryDriver):
    async def wake(self, session_id, report):
        before = await self.inspect(session_id)
        await super().wake(session_id, report)
        self.engine.sessions[session_id] = replace(self.engine.sessions[session_id], ready_check=before.ready_check)
        return self.engine.sessions[session_id]


class FailsWithoutSayingWhatItTried(MemoryDriver):
    async def start(self, spec, report):
        try:
            return await super().start(spec, report)
        except CommandFailed as error:
            raise CommandFailed(error.code, "the session does not answer") from error


class DeclaresNothing(MemoryDriver):
    capabilities = Capabilities(frozenset(), pull_progress=False, many_hosts=False)


class DeletesDataWithoutLeave(MemoryDriver):
    async def stop(self, session_id, *, delete_volumes=False):
        await super().stop(session_id)
        if delete_volumes:
            gone = {volume for volume in self.engine.volumes if volume[0] == session_id}
            self.engine.volumes -= gone
            self.engine.used -= gone


class CleansUpWithoutLeave(MemoryDriver):
    async def start(self, spec, report):
        try:
            return await super().start(spec, report)
        except LeaseLost as error:
            if not isinstance(error.__context__, CommandFailed):
                raise
            self.engine.sessions.pop(spec.session_id)
            self.engine.volumes -= {volume for volume in self.engine.volumes if volume[0] == spec.session_id}
            raise error.__context__ from None


class BlocksTheLoop(MemoryDriver):
    async def start(self, spec, report):
        time.sleep(1)  # noqa: ASYNC251 - the fault
        return await super().start(spec, report)


class FindsNothingWrongWithAnAbsentEngine(MemoryDriver):
    async def check(self):
        return []


class SpinsWhileItWaits(MemoryDriver):
    async def events(self):
        async for event in super().events():
            yield event
            while event.kind is EventKind.RESYNC and not self.engine.watchers[-1].qsize():
                await asyncio.sleep(0)


class TriesWithoutAPause(MemoryDriver):
    async def events(self):
        if self.engine.down:
            yield RuntimeEvent(EventKind.ENGINE_DOWN, reason="away")
        while self.engine.down:
            await asyncio.sleep(0)
        async for event in super().events():
            yield event


FAULTS = {
    NeverAsksForLeave: "test_a_start_is_refused_before_its_first_effect_and_at_every_later_one",
    AsksOnceAStart: "test_a_lease_lost_while_a_start_goes_on_lets_no_later_effect_through",
    StartsWithoutLooking: "test_two_starts_at_once_make_one_session",
    KeepsSessionsToItself: "test_a_list_an_inspection_and_another_driver_tell_the_same",
    CannotCompleteWhatWasBegun: "test_a_start_is_refused_before_its_first_effect_and_at_every_later_one",
    LeavesWhatAFailedStartMade: "test_a_failed_start_says_why_and_leaves_nothing",
    DeletesDataAtEveryStop: "test_a_stop_keeps_the_data_unless_asked_and_absent_is_success",
    TakesAbsenceForAnError: "test_a_stop_keeps_the_data_unless_asked_and_absent_is_success",
    DeclaresAModeThatItHasNot: "test_in_every_declared_mode_a_session_sleeps_wakes_and_can_be_stopped_asleep",
    PullsInSilence: "test_a_pull_shows_its_bytes_where_that_is_declared",
    TellsItsOwnStops: "test_an_unexpected_end_is_told_with_a_reason_and_our_own_doings_are_not",
    GivesNoReason: "test_an_unexpected_end_is_told_with_a_reason_and_our_own_doings_are_not",
    IsDownWithoutAWord: "test_with_the_engine_away_every_verb_says_so",
    BeginsWithoutAResync: "test_events_begin_with_a_resync",
    MixesStreamsUp: "test_streams_carry_every_byte_both_ways_and_side_by_side",
    FindsLeftoversInUse: "test_leftovers_are_what_a_start_that_never_ran_made_and_no_session_of_anybody",
    ForgetsTheLimits: "test_a_list_an_inspection_and_another_driver_tell_the_same",
    TakesAnAbsentEngineForAnEmptyOne: "test_with_the_engine_away_every_verb_says_so",
    EndsSessionsWhenClosed: "test_closing_a_driver_ends_no_session",
    WakesWhatItProves: "test_a_proof_of_what_does_not_run_shows_it_as_it_is_and_starts_nothing",
    ProvesWithoutTrying: "test_a_running_session_is_proved_usable_to_a_driver_that_never_saw_it",
    TellsWhatWasExpected: "test_what_a_session_speaks_is_found_out_whatever_was_expected",
    TakesSilenceForVnc: "test_a_driver_that_never_saw_a_session_finds_out_what_it_speaks",
    FindsOutOnlyOnce: "test_after_a_wake_it_is_told_what_the_session_speaks_now",
    FailsWithoutSayingWhatItTried: "test_a_session_that_speaks_neither_fails_and_says_what_was_tried_where",
    DeclaresNothing: "test_it_declares_its_name_and_what_it_can",
    DeletesDataWithoutLeave: "test_data_is_deleted_with_leave_only",
    CleansUpWithoutLeave: "test_the_clean_up_of_a_failed_start_needs_leave_too",
    BlocksTheLoop: "test_no_verb_blocks_the_loop",
    FindsNothingWrongWithAnAbsentEngine: "test_with_the_engine_away_every_verb_says_so",
    SpinsWhileItWaits: "test_waiting_for_events_is_no_busy_loop",
    TriesWithoutAPause: "test_waiting_for_events_is_no_busy_loop",
}
