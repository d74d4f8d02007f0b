"""How long a fail-over takes, for each backend: ROUNDS times SIGKILL to the leader, and as often SIGTERM.

Counted from the signal until the control plane has accepted the next leader's connection, and until a command waiting
there has begun to run. Three replicas: on file and redis as processes, on redis_same_engine as containers of one
engine, on swarm as tasks on three hosts. A hand-over's figure runs from the signal too: what was running was idle.
"""

import asyncio
import os
import signal
import tempfile
import time
from pathlib import Path

from tests.bench.harness import finish, say
from tests.faults.nemesis import checker, on_engine, on_file, on_redis, on_swarm
from tests.faults.nemesis.figures import quantile
from tests.faults.nemesis.stage import boottime

ROUNDS = int(os.environ.get("ROUNDS", "30"))
STAGES = {
    "file": on_file.FileStage,
    "redis": on_redis.RedisStage,
    "redis_same_engine": on_engine.EngineStage,
    "swarm": on_swarm.SwarmStage,
}
REST = 1.5
"""Seconds between two rounds: a standby has to have seen who leads, as it would have in life."""


async def failover(stage, number):
    """Seconds until the next leader's connection, and until its first command."""
    epoch = await stage.steady()
    await asyncio.sleep(REST)
    after, old = stage.now(), stage.plane.hub.links[stage.agent_id]
    wall, began = time.time(), boottime()
    stage.leader.signal(number)
    while stage.plane.hub.links.get(stage.agent_id) is old:
        await asyncio.sleep(0.002)
    name = stage.command()
    accepted = await stage.accepted(epoch, after)
    await stage.plane.wait_command(name, timeout=60)
    first = next(item["boottime"] for item in checker.read(stage.work) if item["command"] == name)
    return accepted - wall, first - began


async def measure(backend):
    took = {"kill": [], "handover": [], "first_command": []}
    with tempfile.TemporaryDirectory(prefix="ssb-") as folder:
        async with STAGES[backend](Path(folder) / "n", os.environ["DOCKER_HOST"], stream=False) as stage:
            for number in range(ROUNDS):
                for kind, sent in (("kill", signal.SIGKILL), ("handover", signal.SIGTERM)):
                    accepted, first = await failover(stage, sent)
                    took[kind].append(accepted)
                    took["first_command"].append(first)
                say(
                    f"{backend} {number + 1}/{ROUNDS}: SIGKILL {took['kill'][-1]:.3f} s, "
                    f"SIGTERM {took['handover'][-1]:.3f} s"
                )
            broken = [text for texts in stage.violations().values() for text in texts]
            assert not broken, broken
    return {
        f"{kind}_p{share}_s": round(quantile(took[kind], share / 100), 3)
        for kind, shares in (("kill", (50, 99)), ("handover", (50, 99)), ("first_command", (99,)))
        for share in shares
    }


async def main():
    wanted = os.environ.get("BACKENDS", ",".join(STAGES)).split(",")
    finish(bench="failover", rounds=ROUNDS, **{backend: await measure(backend) for backend in wanted})


if __name__ == "__main__":
    asyncio.run(main())
