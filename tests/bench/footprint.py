"""Resident memory of a leader and a standby with 10 idle sessions, and the time from process start to an accepted
connection."""

import asyncio
import os
import statistics
import time
from pathlib import Path

from tests.bench.harness import MANIFEST, finish, say, stage

STARTS = int(os.environ.get("ROUNDS", "9"))
SETTLE = 15.0


def resident_mb(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no VmRSS")


async def cold_start(scene, number):
    """Seconds until the control plane has accepted the connection of a process started now."""
    agent = await scene.agent(f"cold{number}")
    began = time.perf_counter()
    await agent.start()
    await scene.plane.wait_agent(scene.agent_id)
    took = time.perf_counter() - began
    await agent.terminate()
    await scene.plane.wait_agent(scene.agent_id, status="offline,stale,draining")
    return took


async def main():
    async with stage() as scene:
        starts = []
        for number in range(STARTS):
            starts.append(await cold_start(scene, number))
            say(f"start {number + 1}/{STARTS}: {starts[-1]:.2f} s")
        pair = {"ENABLE_HA": "true", "LEADER_ELECTION_BACKEND": "file", "LOCK_FILE_PATH": str(scene.folder / "lock")}
        leader = await (await scene.agent("leader", **pair)).start()
        await scene.plane.wait_agent(scene.agent_id)
        standby = await (await scene.agent("standby", **pair)).start()
        for number in range(10):
            command = await scene.plane.start_session("bench", session_id=f"idle{number}", manifest=MANIFEST)
            await scene.plane.wait_command(command, timeout=60)
        say(f"10 sessions run; letting both processes settle for {SETTLE:.0f} s")
        await asyncio.sleep(SETTLE)
        figures = {"leader_mb": resident_mb(leader.pid), "standby_mb": resident_mb(standby.pid)}
    finish(
        bench="footprint",
        **{name: round(value, 1) for name, value in figures.items()},
        cold_start_s=round(statistics.median(starts), 3),
    )


if __name__ == "__main__":
    asyncio.run(main())
