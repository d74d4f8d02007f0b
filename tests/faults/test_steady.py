"""LEASE_PROFILE=steady: no change of leaders under what costs a leader of the default profile its lease."""

import tempfile
from pathlib import Path

import pytest

from tests.faults.nemesis import on_redis, on_swarm
from tests.faults.nemesis.faults import NO_CHANGE, Fault, play

pytestmark = pytest.mark.timeout(300)

SLOW = Fault("store slowed by 0.8 s", NO_CHANGE, *on_redis.store(delay=0.8), lasts=20)
MANAGER_LOST = Fault(
    "the Swarm's leading manager killed",
    NO_CHANGE,
    on_swarm.kill_swarm_leader,
    on_swarm.start_engine,
    lasts=30,
    prepare=on_swarm.lead_beside_swarm_leader,
)


async def withstood(make, docker_host, fault, **variables):
    with tempfile.TemporaryDirectory(prefix="sss-") as folder:
        async with make(Path(folder) / "n", docker_host, **variables) as stage:
            outcome = await play(stage, fault)
            verdict = await stage.settle()
            assert not any(stage.violations().values())
            assert not verdict.lost
            assert not verdict.twice
            if outcome.took is not None:
                print(f"led anew after {outcome.took:.1f} s", stage.state(), sep="\n")
            return outcome.took is None


async def test_a_leader_rides_out_a_slow_redis_that_costs_one_with_short_leases_its_lease(docker_host, tiny_image):
    del tiny_image
    assert await withstood(on_redis.RedisStage, docker_host, SLOW, LEASE_PROFILE="steady")
    assert not await withstood(on_redis.RedisStage, docker_host, SLOW)


@pytest.mark.hosts
async def test_a_leader_rides_out_the_loss_of_the_manager_that_leads_the_swarm(docker_host, tiny_image):
    del tiny_image
    assert await withstood(on_swarm.SwarmStage, docker_host, MANAGER_LOST, LEASE_PROFILE="steady")
