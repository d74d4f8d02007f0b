"""Election backends on files, whose steps block: one that is sound, and others with one fault each."""

import asyncio
import contextlib
import json
import os
import re
import uuid
from dataclasses import asdict, replace
from pathlib import Path

from streamspace_agent.election import ElectionBackend, Grant, Guarantee, Held, Record, Timing
from streamspace_agent.errors import LeaseLost

TUTORIAL = Path(__file__).resolve().parents[3] / "docs/plugins/election.md"
TRANSACTION = re.compile(r'^ *db\.execute\("(?:BEGIN IMMEDIATE|COMMIT)"\).*\n', re.MULTILINE)


def tutorial(*, without):
    """The tutorial's backend without the two lines that match."""
    text = TUTORIAL.read_text()
    code = re.search(
        r"^```python\n(# src/streamspace_elect_sqlite/backend\.py\n.*?)^```$", text, re.DOTALL | re.MULTILINE
    )[1]
    code, removed = without.subn("", code)
    assert removed == 2
    module = {"__name__": "sqlite_backend"}
    exec(compile(code, TUTORIAL, "exec"), module)
    return module["SqliteBackend"]


class LooksAndWritesWithoutATransaction(tutorial(without=TRANSACTION)):
    def __init__(self, folder, agent_id):
        super().__init__(folder / "election.db", agent_id)


class LinkBackend(ElectionBackend):
    """Every state of the record is a new file with the next number: a link to a name that is taken fails."""

    name = "link"
    guarantees = frozenset({Guarantee.ONE_HOST})
    timing = Timing(lease=5.0, renew_every=1.0, call_timeout=0.5, margin=0.5)

    def __init__(self, folder, agent_id):
        self._folder = folder / agent_id
        self._folder.mkdir(exist_ok=True)

    @staticmethod
    def put(new, path):
        os.link(new, path)

    async def preflight(self):
        return []

    async def observe(self):
        newest = max((name for name in os.listdir(self._folder) if name.endswith(".json")), default=None)
        return newest and Record(**json.loads((self._folder / newest).read_text()))

    async def _step(self, there, made):
        """False where another was quicker."""
        number = int(there.revision) + 1 if there else 1
        made = replace(made, revision=str(number))
        new = self._folder / uuid.uuid4().hex
        new.write_text(json.dumps(asdict(made)))
        try:
            self.put(new, self._folder / f"{number:09}.json")
            return Grant(made)
        except FileExistsError:
            return None
        finally:
            new.unlink(missing_ok=True)

    async def acquire(self, me, seen):
        there = await self.observe()
        if there and there.nonce == me.nonce and not there.released:
            return Grant(there)
        epoch = max(there.epoch if there else 0, me.epoch_floor) + 1
        record = Record(me.agent_id, me.instance, me.nonce, epoch, 1, round(me.lease * 1000), host=me.host)
        return (there == seen and await self._step(there, record)) or Held(await self.observe())

    async def renew(self, grant):
        while there := await self._ours(grant):
            if renewed := await self._step(there, replace(there, sequence=there.sequence + 1)):
                return renewed
        raise LeaseLost("another's")

    async def release(self, grant):
        while (there := await self._ours(grant)) and not await self._step(there, replace(there, released=True)):
            pass

    async def _ours(self, grant):
        there = await self.observe()
        return there if there and not there.released and there.same_tenure(grant.record) else None

    async def wait_change(self, record, timeout):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while await self.observe() == record:
                    await asyncio.sleep(0.05)

    async def aclose(self):
        pass


class ReplacesWhereItShouldLink(LinkBackend):
    @staticmethod
    def put(new, path):
        os.replace(new, path)


class ForgetsTheAgentId(LinkBackend):
    def __init__(self, folder, agent_id):
        super().__init__(folder, "agent")


class MakesItsFolderByLooking(LinkBackend):
    def __init__(self, folder, agent_id):
        self._folder = folder / agent_id

    async def observe(self):
        self._folder.mkdir(exist_ok=True)
        return await super().observe()


class TriesThePreflightOutForGood(LinkBackend):
    async def preflight(self):
        (self._folder / "can-be-written").touch()
        return []


FAULTS = {
    LooksAndWritesWithoutATransaction: "test_of_many_at_once_exactly_one_gets_it",
    ReplacesWhereItShouldLink: "test_of_many_at_once_exactly_one_gets_it",
    ForgetsTheAgentId: "test_two_agents_have_a_lease_each",
    MakesItsFolderByLooking: "test_looking_at_an_empty_store_creates_nothing",
    TriesThePreflightOutForGood: "test_looking_at_an_empty_store_creates_nothing",
}
