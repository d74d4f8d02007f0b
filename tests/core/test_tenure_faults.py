"""What one tenure survives: a journal that cannot be written, answers too large, queues, and comparisons that come too
late."""

import asyncio
import gc
import threading
from collections import deque
from dataclasses import replace

import pytest

from lab.until import until
from streamspace_agent import leadership, protocol
from streamspace_agent.commands import Command, dispatcher, executor
from streamspace_agent.controlplane.outbox import Outbox, encode
from streamspace_agent.errors import CommandFailed, JournalError
from streamspace_agent.journal import Journal
from streamspace_agent.protocol import Message
from streamspace_agent.runtime import Leftover, Progress, Session, SessionState
from streamspace_agent.sessions import reconciler
from tests.core.memory_driver import AGENT


async def statuses(plane, session_id):
    told = [e["payload"] for e in await plane.events(type="status")]
    return [payload["state"] for payload in told if payload["sessionId"] == session_id]


async def test_a_journal_that_cannot_be_written_refuses_new_commands_and_keeps_what_runs(plane, lead, driver, caplog):
    driver.hold["a"] = asyncio.Event()
    async with lead() as running:
        await plane.wait_agent(AGENT)
        command = await plane.start_session(session_id="a")
        await plane.wait_command(command, "ack")
        await until(lambda: running.tenure.outbox.waiting == 0)
        with running.journal_file.refuses():
            row = await plane.wait_command(await plane.start_session(session_id="b"), "failed")
            assert row["error"].startswith("journal_unavailable: STATE_DIR: cannot write the journal")
            await plane.send_frame(AGENT, '{"type": 1, "payload": {"commandId": "m"}}')
            driver.hold["a"].set()
            await until(lambda: f"the outcome of command {command} waits" in caplog.text)
            assert (await plane.command(command))["state"] == "ack"
        await plane.wait_command(command)
        await plane.wait_session("a", state="running")
        assert (await plane.command(command))["completes"] == 1
        assert running.link.status.connections == 1


async def test_a_death_that_could_not_be_journalled_is_reported_with_the_next_comparison(plane, lead, driver, caplog):
    async with lead() as running:
        await plane.wait_agent(AGENT)
        await plane.wait_command(await plane.start_session(session_id="a"))
        await until(lambda: running.tenure.outbox.waiting == 0)
        with running.journal_file.refuses():
            driver.die("a", "exit code 3")
            await until(lambda: "states wait to be reported" in caplog.text)
        await running.tenure.reconciler.reconcile()
        await plane.wait_session("a", state="failed")


async def test_a_state_that_could_not_be_queued_is_told_with_the_next_comparison(plane, lead, driver):
    """Also where the control plane was last told a step: it would show `pending` for ever."""
    async with lead(USAGE_INTERVAL="0") as running:
        await plane.wait_agent(AGENT)
        await plane.wait_command(await plane.start_session(session_id="a"))
        await plane.wait_session("a", state="running")
        await running.tenure.board.send("a", Progress("waiting"))
        await plane.wait_session("a", state="pending")
        with running.journal_file.refuses(), pytest.raises(JournalError):
            await running.tenure.reconciler.reconcile()
        await running.tenure.reconciler.reconcile()
        await plane.wait_session("a", state="running")


async def test_what_a_command_reported_counts_as_told_only_once_it_is_written(plane, lead, driver, caplog):
    """A hand-over that comes first leaves it untold; and a state that a second try took back was none."""
    driver.hold["a"] = asyncio.Event()
    async with lead() as running:
        await plane.wait_agent(AGENT)
        command = await plane.start_session(session_id="a")
        await until(lambda: running.tenure.sessions.pending == {"a"})
        with running.journal_file.refuses():
            driver.hold["a"].set()
            await until(lambda: f"the outcome of command {command} waits" in caplog.text)
            assert running.tenure.reconciler.sessions == {}
            assert running.tenure.sessions.pending == {"a"}
        await plane.wait_session("a", state="running")
        await until(lambda: running.tenure.sessions.pending == set())
        assert set(running.tenure.reconciler.sessions) == {"a"}


async def test_what_was_delivered_but_not_forgotten_is_not_sent_again_after_a_reconnect(plane, lead, driver):
    async with lead() as running:
        await plane.wait_agent(AGENT)
        command = await plane.start_session(session_id="a")
        with running.journal_file.refuses("DELETE ON outbox"):
            await plane.wait_command(command)
            await until(lambda: running.tenure.outbox.waiting == 0)
            await plane.set_faults(cut={})
            await until(lambda: running.link.status.connections == 2)
        await plane.wait_command(await plane.stop_session("a"))
        row = await plane.command(command)
        assert (row["acks"], row["completes"]) == (1, 1)


async def test_nothing_larger_than_the_control_plane_takes_is_sent_whatever_a_driver_says(plane, lead, driver):
    original = driver.start

    async def talkative(spec, report):
        return replace(await original(spec, report), details={"story": "x" * 600_000}, reason="y" * 600_000)

    driver.start = talkative
    async with lead() as running:
        await plane.wait_agent(AGENT)
        row = await plane.wait_command(await plane.start_session(session_id="a"), "failed")
        assert row["error"].startswith("result_too_large: a complete message of ")
        assert (await plane.wait_session("a", state="running"))["vncReady"]
        assert running.link.status.connections == 1


@pytest.mark.parametrize(
    "payload",
    [
        {"commandId": "c", "result": {"x": "ü" * 600_000}},
        {"commandId": "c" * 600_000, "error": "e"},
        {"sessionId": "s" * 600_000},
        {"sessionId": "s", "platformMetadata": {"x": "x" * 600_000}},
        {"sessionId": "s", "load": float("nan")},
    ],
)
def test_every_message_becomes_a_frame_that_fits_or_none(payload):
    assert len(encode(Message("status", payload)).encode()) <= protocol.MAX_FRAME


async def test_a_result_that_is_no_json_is_sent_as_text(plane, lead, driver):
    original = driver.start

    async def odd(spec, report):
        return replace(await original(spec, report), details={"since": SessionState})

    driver.start = odd
    async with lead():
        await plane.wait_agent(AGENT)
        row = await plane.wait_command(await plane.start_session(session_id="a"))
        assert row["result"]["since"] == str(SessionState)
        assert (await plane.session("a"))["platformMetadata"]["since"] == str(SessionState)


async def test_a_stop_ends_every_start_that_came_before_it(plane, lead, driver):
    driver.hold["a"] = asyncio.Event()
    async with lead():
        await plane.wait_agent(AGENT)
        first = await plane.start_session(session_id="a")
        await plane.wait_command(first, "ack")
        payload = (await plane.command(first))["payload"]
        second = await plane.send_command(AGENT, "start_session", payload)
        await plane.wait_command(second, "ack")
        await plane.wait_command(await plane.stop_session("a"))
        for command in (first, second):
            assert (await plane.command(command))["error"].startswith("cancelled: stop_session")
        assert driver.starts == 0


async def test_a_stop_waits_for_no_slot_that_slow_starts_hold(plane, lead, driver):
    async with lead(COMMAND_CONCURRENCY="1"):
        await plane.wait_agent(AGENT)
        await plane.wait_command(await plane.start_session(session_id="a"))
        driver.hold["b"] = asyncio.Event()
        await plane.wait_command(await plane.start_session(session_id="b"), "ack")
        await plane.wait_command(await plane.stop_session("a"))


async def test_a_listing_older_than_a_commands_report_is_not_believed(plane, lead, driver):
    async with lead() as running:
        await plane.wait_agent(AGENT)
        await plane.wait_command(await plane.start_session(session_id="old"))
        original, listed, go = driver.sessions, asyncio.Event(), asyncio.Event()

        async def slow():
            seen = await original()
            listed.set()
            await go.wait()
            return seen

        driver.sessions = slow
        comparing = asyncio.create_task(running.tenure.reconciler.reconcile())
        await listed.wait()
        driver.sessions = original
        await plane.wait_command(await plane.stop_session("old"))
        await plane.wait_command(await plane.start_session(session_id="new"))
        go.set()
        assert await comparing == 0
        assert (await statuses(plane, "old"))[-1] == "terminated"
        assert (await statuses(plane, "new"))[-1] == "running"


async def test_a_session_that_could_not_be_used_when_it_was_adopted_is_asked_again_until_it_can(
    plane, lead, driver, monkeypatch
):
    monkeypatch.setattr(reconciler, "SOON", 0.2)
    async with lead() as first:
        await plane.wait_agent(AGENT)
        await plane.wait_command(await plane.start_session(session_id="a"))
        await first.kill()
    driver.held["a"] = replace(driver.held["a"], ready=False)
    proves, original = [], driver.prove

    async def slow_at_first(session_id):
        proves.append(session_id)
        if len(proves) < 3:
            raise CommandFailed("not_ready", "no VNC greeting yet")
        return await original(session_id)

    driver.prove = slow_at_first
    driver.queue = asyncio.Queue()
    before = len(await statuses(plane, "a"))
    async with lead(USAGE_INTERVAL="0"):
        await plane.wait_session("a", vnc_ready=False)
        await plane.wait_session("a", vnc_ready=True)
        told = (await statuses(plane, "a"))[before:]
    assert told == ["running", "running"], "what did not change is not told again"


async def test_what_is_queued_now_has_been_delivered_whatever_comes_behind_it(tmp_path):
    """A session is announced once its own state has arrived, not once all others are silent."""
    outbox = Outbox(Journal(tmp_path / "journal.db", 1), lambda: None)

    async def send(_frame):
        pass

    async def ping():
        outbox.put(Message("pong", {}))  # there is always one more
        return asyncio.sleep(0)

    outbox.put(Message("pong", {}))
    delivering = asyncio.create_task(outbox.deliver(send, ping))
    async with asyncio.timeout(5):
        await outbox.flushed()
    delivering.cancel()


async def test_a_session_gone_while_nobody_led_is_reported_terminated(plane, lead, driver):
    async with lead():
        await plane.wait_agent(AGENT)
        await plane.wait_command(await plane.start_session(session_id="a"))
    driver.held.clear()
    driver.queue = asyncio.Queue()
    async with lead():
        session = await plane.wait_session("a", state="terminated")
        assert "removed from the engine" in session["platformMetadata"]["reason"]


async def test_a_session_that_ends_while_it_is_adopted_is_reported_dead_and_not_woken(plane, lead, driver):
    async with lead():
        await plane.wait_agent(AGENT)
        await plane.wait_command(await plane.start_session(session_id="a"))
        before = await statuses(plane, "a")
    original = driver.sessions

    async def listed_just_before_its_end():
        seen = [replace(session, ready=False) for session in await original()]
        driver.die("a", "exit code 3")
        return seen

    driver.sessions = listed_just_before_its_end
    async with lead():
        session = await plane.wait_session("a", state="failed")
        assert session["platformMetadata"]["reason"] == "exit code 3"
        assert set((await statuses(plane, "a"))[len(before) :]) == {"failed"}
        assert ("wake", "a") not in driver.effects


async def test_a_session_removed_while_it_is_adopted_is_reported_terminated(plane, lead, driver):
    async with lead():
        await plane.wait_agent(AGENT)
        await plane.wait_command(await plane.start_session(session_id="a"))
    original = driver.sessions

    async def listed_just_before_its_removal():
        seen = [replace(session, ready=False) for session in await original()]
        driver.held.clear()
        return seen

    driver.sessions = listed_just_before_its_removal
    async with lead():
        session = await plane.wait_session("a", state="terminated")
        assert "removed from the engine" in session["platformMetadata"]["reason"]


async def test_a_container_that_never_ran_is_left_over_once_no_command_is_about_it(plane, lead, driver, monkeypatch):
    monkeypatch.setattr(reconciler, "SOON", 0.05)
    monkeypatch.setattr(reconciler, "EVERY", 0.05)
    driver.held["half"] = Session("half", SessionState.PENDING, "streamspace-half")

    async def leftovers(known):
        return [Leftover("container", "streamspace-half", "never ran", 100.0)] if "half" not in known else []

    removed = asyncio.Event()

    async def remove(leftover):
        removed.set()

    driver.leftovers, driver.remove = leftovers, remove
    async with lead() as running:
        await plane.wait_agent(AGENT)
        await until(lambda: "half" in running.tenure.reconciler.sessions)
        removed.clear()
        await until(removed.is_set)


async def test_a_start_that_the_engine_stays_away_from_fails_and_its_progress_ends(plane, lead, driver, monkeypatch):
    monkeypatch.setattr(executor, "ENGINE_PATIENCE", 0.3)
    async with lead() as running:
        await plane.wait_agent(AGENT)
        driver.down = True
        row = await plane.wait_command(await plane.start_session(session_id="a"), "failed")
        assert row["error"].startswith("engine_unavailable: ")
        await plane.wait_session("a", state="failed")
        running.tenure.board.show("ghost", protocol.Progress("pulling"))
        await until(lambda: "ghost" not in running.tenure.board.steps)


async def test_an_interrupted_command_that_is_given_up_is_cleaned_up(plane, lead, driver):
    driver.hold["a"] = asyncio.Event()
    async with lead() as running:
        await plane.wait_agent(AGENT)
        command = await plane.start_session(session_id="a")
        await plane.wait_command(command, "ack")
        await until(lambda: running.tenure.dispatcher.running == 1)
        running.journal_file.rows("UPDATE commands SET attempts = 3")
        await running.kill()
    driver.queue = asyncio.Queue()
    async with lead():
        assert (await plane.wait_command(command, "failed"))["error"].startswith("interrupted: the agent ended 3 times")
        assert ("stop", "a") in driver.calls
        await plane.wait_session("a", state="terminated")


@pytest.mark.parametrize("played", [{"keep_commands": True}], ids=["commands are kept"])
async def test_a_journal_that_is_damaged_while_it_is_used_ends_the_tenure_and_is_mended_by_the_next(
    plane, lead, driver, caplog
):
    async with lead() as running:
        await plane.wait_agent(AGENT)
        await plane.wait_command(await plane.start_session(session_id="a"))
        await until(lambda: running.tenure.outbox.waiting == 0)
        file = running.journal_file
        file.rows("UPDATE tenure SET epoch = epoch")  # after another's change its own connection reads the file anew
        file.rows("PRAGMA wal_checkpoint(TRUNCATE)")
        ((page,),) = file.rows("SELECT rootpage FROM sqlite_master WHERE name = 'open_commands'")
        with file.path.open("r+b") as file:
            file.seek((page - 1) * 4096)
            file.write(b"\xff" * 4096)
        command = await plane.stop_session("a")
        with pytest.raises(JournalError, match="it is broken .*the next leader takes over"):
            await asyncio.wait_for(asyncio.shield(running.task), 10)
        assert (await plane.command(command))["error"].startswith("journal_unavailable: STATE_DIR: ")
    driver.queue = asyncio.Queue()
    async with lead():
        await until(lambda: "the journal is broken" in caplog.text)
        await plane.wait_command(await plane.stop_session("a"))


@pytest.mark.parametrize("before", ["start_session", "hibernate_session"])
async def test_a_stop_waits_for_no_slot_even_where_what_stands_before_it_does(plane, lead, driver, before):
    driver.hold["busy"] = asyncio.Event()
    async with lead(COMMAND_CONCURRENCY="1"):
        await plane.wait_agent(AGENT)
        if before == "hibernate_session":
            await plane.wait_command(await plane.start_session(session_id="a"))
        slow = await plane.start_session(session_id="busy")
        await plane.wait_session("busy", state="pending")
        if before == "hibernate_session":
            queued = await plane.hibernate_session("a")
        else:
            queued = await plane.start_session(session_id="a")
        await plane.wait_command(queued, "ack")
        stop = await plane.stop_session("a")
        await plane.wait_command(stop, timeout=5)
        await plane.wait_command(queued, "completed" if before == "hibernate_session" else "failed")
        assert (await plane.command(slow))["state"] == "ack"
        driver.hold["busy"].set()
        await plane.wait_command(slow)


class Lane(deque):
    """To other threads it is always emptied between a look whether it holds something and one at what."""

    def __getitem__(self, index):
        if threading.current_thread() is not threading.main_thread():
            raise IndexError
        return super().__getitem__(index)

    def __iter__(self):
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("deque mutated during iteration")
        return super().__iter__()


async def test_threads_of_the_health_endpoint_count_what_runs_and_waits_though_lanes_change_meanwhile(
    plane, lead, driver, monkeypatch
):
    monkeypatch.setattr(dispatcher, "deque", Lane)
    driver.hold["a"] = asyncio.Event()
    async with lead() as running:

        def counts():
            return running.tenure.dispatcher.running, running.tenure.dispatcher.waiting

        await plane.wait_agent(AGENT)
        command = await plane.start_session(session_id="a")
        await plane.wait_command(command, "ack")
        await until(lambda: running.tenure.dispatcher.running == 1)
        assert await asyncio.to_thread(counts) == (1, 1)
        driver.hold["a"].set()
        await plane.wait_command(command)
        await until(lambda: counts() == (0, 0))


async def test_an_odd_answer_of_the_engines_ends_no_leadership(plane, lead, driver, caplog, monkeypatch):
    monkeypatch.setattr(reconciler, "SOON", 0.05)
    monkeypatch.setattr(reconciler, "EVERY", 0.05)

    async def odd(_known):
        raise KeyError("Name")

    driver.leftovers = odd
    async with lead() as running:
        await plane.wait_agent(AGENT)
        await until(lambda: "comparing sessions with the engine failed" in caplog.text)
        await asyncio.sleep(0.5)
        assert caplog.text.count("comparing sessions with the engine failed") == 1
        assert not running.task.done()
        await plane.wait_command(await plane.start_session(session_id="a"))


async def test_old_answers_are_forgotten_in_a_short_leadership_too(plane, lead, monkeypatch):
    monkeypatch.setattr(leadership, "FIRST_PRUNE", 0.1)
    async with lead() as running:
        journal = running.journal
        journal.receive("old", "stop_session", {})
        journal.finish("old", Message("complete", {"commandId": "old"}))
        running.journal_file.rows("UPDATE commands SET received = 0 WHERE id = 'old'")
        await until(lambda: not running.journal_file.rows("SELECT id FROM commands WHERE id = 'old'"))


def refused(plane_row):
    return plane_row["state"] == "failed" and plane_row["error"].startswith("busy: ")


async def test_commands_that_wait_take_no_more_memory_than_there_is(plane, lead, driver, monkeypatch):
    monkeypatch.setattr(dispatcher, "MAX_WAITING_SIZE", 100_000)
    driver.hold["a"] = asyncio.Event()
    async with lead():
        await plane.wait_agent(AGENT)
        first = await plane.start_session(session_id="a")
        await plane.wait_command(first, "ack")
        payload = {"sessionId": "a", "ignored": "x" * 40_000}
        large = [await plane.send_command(AGENT, "hibernate_session", payload) for _ in range(4)]
        small = await plane.send_command(AGENT, "wake_session", {"sessionId": "a"})
        for command in (*large, small):
            await plane.wait_command(command, "ack")
        held = [each for each in gc.get_objects() if type(each) is Command and each.id in large]
        assert sum("ignored" in command.payload for command in held) == 2
        driver.hold["a"].set()
        await plane.wait_command(small)
        assert [refused(await plane.command(command)) for command in large] == [False, False, True, True]


async def test_of_commands_without_end_some_are_refused_in_their_turn_and_the_others_at_once(
    plane, lead, driver, monkeypatch
):
    monkeypatch.setattr(dispatcher, "MAX_WAITING", 2)
    driver.hold["a"] = asyncio.Event()
    async with lead() as running:
        await plane.wait_agent(AGENT)
        first = await plane.start_session(session_id="a")
        await plane.wait_command(first, "ack")
        later = [await plane.send_command(AGENT, "hibernate_session", {"sessionId": "a"}) for _ in range(6)]
        for command in later[3:]:
            assert refused(await plane.wait_command(command, "failed"))
        assert running.tenure.dispatcher.waiting == 4
        assert (await plane.command(later[1]))["state"] == "ack"
        driver.hold["a"].set()
        await plane.wait_command(later[0])
        for command in later[1:3]:
            assert refused(await plane.wait_command(command, "failed"))


async def test_a_state_that_cannot_be_written_costs_no_command_behind_it(plane, lead, driver, monkeypatch, caplog):
    started = type(driver).start

    async def odd(self, spec, report):
        return replace(await started(self, spec, report), details={"ports": {(1, 2): "no key of JSON"}})

    async with lead():
        await plane.wait_agent(AGENT)
        with monkeypatch.context() as patched:
            patched.setattr(type(driver), "start", odd)
            first = await plane.start_session(session_id="a")
            second = await plane.hibernate_session("a")
            await plane.wait_command(second)
        assert (await plane.command(first))["state"] == "ack"
        assert f"command {first} stays open for the next leader" in caplog.text
