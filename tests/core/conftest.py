import asyncio
import random
from contextlib import asynccontextmanager

import pytest

from streamspace_agent import config
from streamspace_agent.commands import repeats
from streamspace_agent.commands.counters import Counters
from streamspace_agent.controlplane.link import Link
from streamspace_agent.controlplane.registration import Keys, Registrar
from streamspace_agent.controlplane.tls import Trust
from streamspace_agent.election.elector import Elector
from streamspace_agent.election.identity import Identity
from streamspace_agent.election.standalone import StandaloneBackend
from streamspace_agent.faults import Faults
from streamspace_agent.journal import FILE, Journal
from streamspace_agent.leadership import Leadership
from streamspace_agent.plugins import COMMANDS, Plugins, installed
from streamspace_devplane import DevPlane
from streamspace_devplane import Settings as PlaneSettings
from tests.core.journal_file import JournalFile
from tests.core.memory_driver import AGENT, MemoryDriver


@pytest.fixture(autouse=True)
def _answers_come_once(monkeypatch):
    """Tests count answers; `test_repeats` is about those that come again."""
    monkeypatch.setattr(repeats, "AFTER", 600.0)


@pytest.fixture
def played():
    """Settings of the control plane, for a test to name by parametrization."""
    return {}


@pytest.fixture
async def plane(tmp_path, played):
    settings = PlaneSettings(**{"relay": "repaired", "late_sent": 0.0, **played})  # answers do not come again here
    async with DevPlane(db=tmp_path / "plane.db", settings=settings) as plane:
        yield plane


@pytest.fixture
def driver():
    return MemoryDriver()


@pytest.fixture
def make_settings(tmp_path, plane):
    async def make(**more):
        values = {
            "AGENT_ID": AGENT,
            "CONTROL_PLANE_URL": plane.ws_url,
            "AGENT_API_KEY": await plane.issue_key(AGENT),
            "STATE_DIR": str(tmp_path / "state"),
            "DRAIN_TIMEOUT": "2s",
            "VIEWER_RELAY": plane.settings.relay,
        }
        return config.load(values | more)

    return make


class Running:
    """One tenure with everything real but the engine."""

    def __init__(self, tenure, link, journal, journal_file, elector, lease, task):
        self.tenure, self.link, self.elector, self.lease, self.task = tenure, link, elector, lease, task
        self.journal, self.journal_file = journal, journal_file

    async def kill(self):
        """End without any of the good manners: as SIGKILL would, the journal keeps what it has."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.elector.resign(self.lease, "killed")


@pytest.fixture
def lead(make_settings, driver):
    @asynccontextmanager
    async def leading(**variables):
        settings = await make_settings(**variables)
        elector = Elector(StandaloneBackend(), Identity.discover(AGENT))
        await elector.start()
        tick = asyncio.create_task(_tick(elector))
        lease = await elector.lead()
        rng = random.Random(7)
        keys = Keys(settings, lambda _secret: None)
        trust = Trust(settings)
        link = Link(settings, keys, trust, rng, Registrar(settings, keys, trust, rng))
        registry = Plugins().commands([found for found in installed(COMMANDS) if found.name == "sessions"])
        file = JournalFile(settings.agent_dir / FILE)
        journal = Journal(file.path, lease.epoch)
        tenure = Leadership(settings, lease, journal, driver, registry, link, None, Faults({}), Counters(), 60.0)
        running = Running(tenure, link, journal, file, elector, lease, asyncio.create_task(tenure.run()))
        try:
            yield running
        finally:
            running.task.cancel()
            await asyncio.gather(running.task, return_exceptions=True)
            await elector.resign(lease, "test ends")
            await elector.aclose()
            tick.cancel()

    return leading


async def _tick(elector):
    while True:
        elector.alive()
        await asyncio.sleep(0.1)
