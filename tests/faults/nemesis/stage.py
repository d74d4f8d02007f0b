"""Three replicas, their control plane, a steady stream of commands, and the records of who acted when."""

import asyncio
import contextlib
import itertools
import os
import signal
import sys
import time
import uuid
from pathlib import Path

from streamspace_devplane import DevPlane
from streamspace_devplane.settings import Settings
from tests.agent_process import AgentProcess
from tests.faults.nemesis import checker, plugin

ROOT = Path(__file__).resolve().parents[3]
CANDIDATES = (sys.executable, "-m", "tests.faults.nemesis.candidates")
SETTLE = 90
EVERY = 0.25
"""Seconds between two commands."""


class Replica:
    """One replica, wherever it runs. `place` is the part of its instance id that this process alone has."""

    def __init__(self, stage, name):
        self.stage, self.name = stage, name
        self.trace = stage.records / f"{name}.jsonl"
        self.stopped = False

    place = ""
    pid = 0

    @property
    def alive(self):
        raise NotImplementedError

    async def revive(self):
        """Make it run again, whatever was done to it."""
        if self.stopped:
            self.signal(signal.SIGCONT)

    def signal(self, number):
        os.kill(self.pid, number)
        if number == signal.SIGKILL:
            self.died()
        self.stopped = number == signal.SIGSTOP

    def died(self):
        """Note that it has done nothing since now."""
        if instance := self.instance:
            self.stage.deaths.setdefault(instance, boottime())

    @property
    def instance(self):
        """The instance id of the process that runs now, as soon as it stands for election."""
        return self._last("instance")

    @property
    def takes_part(self):
        """Whether it leads or stands by. One that has handed over and is about to exit does neither."""
        return self._last("event") in {"standing", "in", "renewed"}

    def _last(self, what):
        place = self.place
        mine = [
            record[what] for record in checker.read(self.trace) if place and f"-{place}-" in f"-{record['instance']}"
        ]
        return mine[-1] if mine else ""


class Process(Replica):
    """A process of this machine."""

    def __init__(self, stage, name, variables):
        super().__init__(stage, name)
        self.agent = AgentProcess(stage.folder / name, **variables)

    @property
    def place(self):
        return str(self.agent.pid) if self.agent.process else ""

    @property
    def pid(self):
        return self.agent.pid

    @property
    def alive(self):
        return self.agent.process is not None and self.agent.process.returncode is None

    async def revive(self):
        await super().revive()
        if not self.alive:
            await self.agent.start()
            self.stage.spawn(self._watch(self.agent.process))

    async def _watch(self, process):
        instance = ""
        waiting = asyncio.ensure_future(process.wait())
        while not waiting.done():
            await asyncio.wait([waiting], timeout=0.5)
            instance = instance or self.instance
        if instance:
            self.stage.deaths.setdefault(instance, boottime())

    async def close(self):
        await self.agent.kill()

    @property
    def log(self):
        return self.agent.log


class Stage:
    """Use as an async context manager. Subclasses say where replicas run and what can be broken."""

    backend = ""
    one_journal = True
    """Whether all replicas share a STATE_DIR, so that the next leader resumes what the last one left."""

    def __init__(self, folder, docker_host, *, stream=True, **variables):
        """`variables` are given to all replicas, beside those that the stage sets itself."""
        self.folder, self.docker_host, self._more = folder, docker_host, variables
        self.agent_id = f"nemesis-{uuid.uuid4().hex[:8]}"
        self.records = folder / "records"
        self.work = self.records / "work.jsonl"
        self.replicas, self.deaths, self.sent = [], {}, []
        self.leader = None
        self._stream = stream
        self._numbers = itertools.count()
        self._tasks, self._crowd = set(), []
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self):
        self.records.mkdir(parents=True)
        (self.records / "done").mkdir()
        plugin.install(self.folder / "plugins")
        settings = Settings(registrations_per_minute=10_000, events_kept=None, keep_commands=True)
        try:
            self.plane = await self._stack.enter_async_context(DevPlane(db=self.folder / "plane.db", settings=settings))
            key = self.folder / "key"
            key.touch(mode=0o600)
            key.write_text(await self.plane.issue_key(self.agent_id))
            await self.begin(self._stack)
            self._stack.push_async_callback(self._end_tasks)
            if self._stream:
                self.spawn(self._send_commands())
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_):
        await self._stack.aclose()

    async def begin(self, stack):
        raise NotImplementedError

    def variables(self, name):
        return {
            "AGENT_ID": self.agent_id,
            "CONTROL_PLANE_URL": self.plane.ws_url,
            "AGENT_API_KEY_FILE": str(self.folder / "key"),
            "DOCKER_HOST": self.docker_host,
            "STATE_DIR": str(self.folder / "state"),
            "NETWORK_NAME": f"{self.agent_id}-net",
            "ENABLE_HA": "true",
            "LEADER_ELECTION_BACKEND": self.backend,
            "PYTHONPATH": str(self.folder / "plugins"),
            "STREAMSPACE_TRACE": str(self.records / f"{name}.jsonl"),
            plugin.RECORD: str(self.work),
        } | self._more

    def spawn(self, work):
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end_tasks(self):
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for process in self._crowd:
            if process.returncode is None:
                process.kill()
            await process.wait()

    # Candidates

    async def crowd(self, processes, each):
        """Start more candidates (see :mod:`.candidates`), until `disperse`."""
        for number in range(processes):
            own = {"PATH": os.environ["PATH"], "STREAMSPACE_TRACE": str(self.records / f"crowd-{number}.jsonl")}
            process = await asyncio.create_subprocess_exec(
                *CANDIDATES, str(each), env=self.replicas[-1].agent.variables | own, cwd=ROOT
            )
            self._crowd.append(process)
        await self.crowded(processes * each)

    async def crowded(self, count):
        """Wait until all of them stand for election. On a busy machine they take minutes to start."""
        async with asyncio.timeout(3 * SETTLE):
            while len(self._standing()) < count:
                assert all(process.returncode is None for process in self._crowd), "a candidate ended by itself"
                await asyncio.sleep(0.1)

    def _crowds_traces(self):
        return [record for path in self.records.glob("crowd-*.jsonl") for record in checker.read(path)]

    def _standing(self):
        return {record["instance"] for record in self._crowds_traces() if record["event"] == "standing"}

    def crowds_tenures(self):
        return checker.tenures(self._crowds_traces())

    async def disperse(self):
        """Stop the crowd in good order. Its traces stay."""
        for process in self._crowd:
            process.terminate()
        for process in self._crowd:
            assert await asyncio.wait_for(process.wait(), SETTLE) == 0
        self._crowd.clear()
        self.dispersed()

    def dispersed(self):
        for path in self.records.glob("crowd-*.jsonl"):
            path.rename(self.records / f"was-{uuid.uuid4().hex}.jsonl")

    # Commands

    def command(self, action="nemesis_work", **payload):
        """Send a command as the control plane does: at once, or to the next agent that connects."""
        name = f"{action}-{next(self._numbers)}"
        self.sent.append(name)
        return self.plane.hub.command(self.agent_id, action, payload, command_id=name)

    async def _send_commands(self):
        while self._stream:
            self.command(seconds=0.05)
            await asyncio.sleep(EVERY)

    # Who leads

    def traces(self):
        return [record for path in self.records.glob("*.jsonl") if path != self.work for record in checker.read(path)]

    def tenures(self):
        return checker.tenures(self.traces(), self.deaths)

    def connected_epoch(self):
        """The epoch of the agent that is connected now and has sent a heartbeat; 0 for none."""
        if self.agent_id not in self.plane.hub.links:
            return 0
        store = self.plane.hub.store
        store.flush()
        said = store.row(
            (
                "SELECT type, payload FROM events WHERE agent_id = ? AND type IN ('connected', 'heartbeat') ORDER "
                "BY seq DESC LIMIT 1"
            ),
            self.agent_id,
        )
        return said["payload"]["epoch"] if said and said["type"] == "heartbeat" else 0

    async def steady(self):
        """Wait until one replica leads and is connected, and the others stand by. Sets `leader`; returns its epoch."""
        deadline = time.monotonic() + SETTLE
        while True:
            for replica in self.replicas:
                await replica.revive()
            last = max(self.tenures(), key=lambda t: t.epoch, default=None)
            if (
                last
                and self.connected_epoch() == last.epoch
                and last.end > boottime()
                and all(replica.alive and replica.takes_part for replica in self.replicas)
            ):
                self.leader = next(r for r in self.replicas if r.instance == last.instance)
                return last.epoch
            if time.monotonic() > deadline:
                raise AssertionError(f"no steady leader within {SETTLE} s: {self.state()}")
            await asyncio.sleep(0.1)

    def state(self):
        now = boottime()
        shown = [f"{r.name}: {'alive' if r.alive else 'dead'} {r.instance}" for r in self.replicas]
        logs = "\n".join(f"--- {r.name}\n{r.log[-4000:]}" for r in self.replicas)
        return (
            f"connected epoch {self.connected_epoch()}; {shown}; "
            f"{[(t.instance, t.epoch, t.end - now) for t in self.tenures()[-3:]]}\n{logs}"
        )

    @property
    def standbys(self):
        return [replica for replica in self.replicas if replica is not self.leader]

    async def accepted(self, above, after, timeout=SETTLE):
        """Wall-clock time at which the control plane accepted a leader whose epoch is `above` that one."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            connected = None
            for event in self.plane.hub.store.events(after, limit=100_000):
                if event["type"] == "connected":
                    connected = event["time"]
                elif event["type"] == "heartbeat" and connected and event["payload"]["epoch"] > above:
                    return connected
            await asyncio.sleep(0.02)
        raise AssertionError(f"no leader after epoch {above} within {timeout:g} s: {self.state()}")

    def now(self):
        """The number of the last event."""
        rows = self.plane.hub.store.rows("SELECT max(seq) AS last FROM events")
        self.plane.hub.store.flush()
        return rows[0]["last"] or 0

    # The verdict

    def violations(self):
        all_tenures, work = self.tenures(), checker.read(self.work)
        events = self.plane.hub.store.events(limit=1_000_000, type="heartbeat")
        return {
            "overlaps": checker.overlaps(all_tenures) + checker.late_work(all_tenures, work),
            "epochs_out_of_order": checker.epochs_out_of_order(all_tenures) + checker.older_accepted(events),
        }

    async def settle(self):
        """Wait until all run and what was accepted has had time to be answered; return the commands' verdict."""
        self._stream = False
        await self.steady()
        deadline = time.monotonic() + SETTLE
        undelivered = None
        while True:
            verdict = self.verdict()
            if time.monotonic() > deadline or (not verdict.lost and verdict.undelivered in ([], undelivered)):
                return verdict
            undelivered = (
                verdict.undelivered
            )  # what waited for this leader is on its way; what stays was lost in a socket
            if verdict.lost and not self.one_journal:
                self.leader.signal(signal.SIGTERM)  # what its host has not answered waits for its turn to lead
                await asyncio.sleep(1)
            await asyncio.sleep(2)
            await self.steady()

    def verdict(self):
        events = self.plane.hub.store.events(limit=1_000_000, direction="from_agent")
        return checker.commands(self.sent, events, checker.read(self.work))


def boottime():
    return time.clock_gettime(time.CLOCK_BOOTTIME)
