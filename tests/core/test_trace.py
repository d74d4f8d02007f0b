"""What a replica records of when it might act."""

import json
import math
import time

from streamspace_agent.election import Timing
from streamspace_agent.election.elector import Elector
from streamspace_agent.election.identity import Identity
from streamspace_agent.election.standalone import StandaloneBackend
from streamspace_agent.election.trace import VARIABLE, Trace
from streamspace_agent.testing.memory import MemoryBackend, Store

TIMING = Timing(lease=3.0, renew_every=0.2, call_timeout=0.5, margin=0.3)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


async def lead_once(backend, trace, while_leading):
    me = Identity.discover("agent-1")
    elector = Elector(backend, me, exit=lambda code: None, stop_grace=60, trace=trace)
    await elector.start()
    elector.alive()
    try:
        lease = await elector.lead()
        while_leading(lease)
        await elector.resign(lease, "done")
    finally:
        await elector.aclose()
    return lease


async def test_a_tenure_is_recorded_from_its_grant_over_its_renewals_to_its_end(tmp_path):
    path, me = tmp_path / "trace", Identity.discover("agent-1")

    def wait_for_a_renewal(lease):
        until = time.monotonic() + 20
        while not any(line["event"] == "renewed" for line in lines(path)):
            assert time.monotonic() < until
            time.sleep(0.02)

    lease = await lead_once(
        MemoryBackend(Store(), TIMING), Trace({VARIABLE: str(path)}, me.instance), wait_for_a_renewal
    )
    found = lines(path)
    assert [line["event"] for line in found if line["event"] != "renewed"] == ["standing", "in", "out", "over"]
    begin = next(line for line in found if line["event"] == "in")
    renewed = [line for line in found if line["event"] == "renewed"]
    assert begin["epoch"] == lease.epoch
    assert begin["instance"] == me.instance
    assert begin["boottime"] < begin["deadline"] < renewed[-1]["deadline"] == lease.deadline
    assert renewed[-1]["boottime"] <= found[-1]["boottime"] <= time.clock_gettime(time.CLOCK_BOOTTIME)


async def test_a_lease_without_a_deadline_is_recorded_without_one(tmp_path):
    path = tmp_path / "trace"
    lease = await lead_once(StandaloneBackend(), Trace({VARIABLE: str(path)}, "me"), lambda lease: None)
    assert lease.deadline == math.inf
    assert {line["deadline"] for line in lines(path)} == {None}


async def test_nothing_is_recorded_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    await lead_once(StandaloneBackend(), Trace({}, "me"), lambda lease: None)
    assert not list(tmp_path.iterdir())
