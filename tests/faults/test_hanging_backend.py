"""An election backend that hangs in a call, as a client library without time-outs does: the agent ends all the same."""

import time

import pytest

from lab.until import until

BACKEND = """
import threading
import streamspace_agent
from streamspace_agent.election import Timing
from streamspace_agent.election.standalone import StandaloneBackend


class Backend(StandaloneBackend):
    name = "hanging"

    @property
    def timing(self):
        return Timing(lease=None, renew_every=0.3, call_timeout=0.5, margin=0.0)

    async def {call}(self, *_):
        print("it hangs now", flush=True)
        threading.Event().wait()


@streamspace_agent.hookimpl
def create_election_backend(settings, environ):
    return Backend()
"""


@pytest.fixture
def hanging(tmp_path, make_agent):
    async def start(call):
        site = tmp_path / "site"
        info = site / "hanging-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hanging\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[streamspace_agent.election]\nhanging = hanging\n")
        (site / "hanging.py").write_text(BACKEND.format(call=call))
        agent = await make_agent(PYTHONPATH=str(site), ENABLE_HA="true", LEADER_ELECTION_BACKEND="hanging")
        return await agent.start()

    return start


@pytest.mark.parametrize("call", ["renew", "release", "aclose"])
async def test_a_leader_whose_backend_hangs_ends_in_time_when_told_to(hanging, plane, agent_id, call):
    agent = await hanging(call)
    await plane.wait_agent(agent_id)
    if call == "renew":  # the others are called at the end only
        await until(lambda: "it hangs now" in agent.log)
    told = time.monotonic()
    assert await agent.terminate(30) == 0
    assert time.monotonic() - told < 15
    assert "election backend hanging hangs in a call: ending without it" in agent.log


@pytest.mark.parametrize("call", ["preflight", "observe"])
async def test_a_standby_whose_backend_hangs_ends_in_time_when_told_to(hanging, call):
    agent = await hanging(call)
    await until(lambda: "it hangs now" in agent.log)
    told = time.monotonic()
    assert await agent.terminate(30) == 0
    assert time.monotonic() - told < 15
    assert "election backend hanging hangs in a call: ending without it" in agent.log
